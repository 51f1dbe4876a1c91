"""A small platform on a temporary SQLite database: two pools, an eligible firm, a loop over scripted backends."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

import api.schema  # noqa: F401 - the one metadata must know every table
from metering import store as money
from metering.budget import VoucherBudget
from metering.parameters import load_origin_register, load_policies
from metering.rule import load_rules
from scheduler import places, store
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.job import JobId
from scheduler.jobfile import parse_job
from scheduler.loop import Loop
from scheduler.registry import load_policy
from scheduler.schema import jobs, metadata, nodes
from tests.fakes import ScriptedBackend, SetClock, simulated_device

FIRM = "91110302MA01A2B3C4"
PROVIDER = "911100006000373415"
POLICY = "etown-2024-10"


@dataclass
class Platform:
    """Everything a test needs to submit, tick and look."""

    database: Database
    clock: SetClock
    backend: ScriptedBackend
    budget: VoucherBudget
    loop: Loop
    names: dict[str, str] = field(default_factory=dict)

    def submit(self, name: str, text: str, firm: str = FIRM) -> str:
        job = f"job_{name}"
        with self.database.write() as tx:
            store.submit(tx, job=JobId(job), firm=firm, spec=parse_job(text), now=self.clock.now())
        return job

    def beat(self) -> None:
        """Every node is heard from now, as the agents would do."""
        with self.database.write() as tx:
            tx.execute(update(nodes).values(heartbeat_at_ms=to_ms(self.clock.now())))

    def state(self, job: str) -> str:
        with self.database.read() as tx:
            return str(tx.execute(select(jobs.c.state).where(jobs.c.id == job)).scalar_one())

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.database.read() as tx:
            return [dict(row) for row in tx.execute(select(table)).mappings()]


def job_text(
    name: str = "train", accelerators: str = "Ascend910B3:8", nodes: int = 1, limit: str = "2h", extra: str = ""
) -> str:
    """A small valid job file."""
    return (
        f"name: {name}\nnodes: {nodes}\ntime_limit: {limit}\n"
        f"resources: {{accelerators: {accelerators}}}\nentrypoint: 'true'\n{extra}"
    )


def make_platform(
    directory: Path, *, mark: str = "demo", policy: str = "net_cost", eligible: bool = True, url: str | None = None
) -> Platform:
    """Two nodes of eight Ascend910B3 at 20.00 and two of eight H800 at 18.00 yuan an hour; a firm with its right claimed.

    url: a migrated, empty database to use instead of a new SQLite one in `directory`.
    """
    database = Database(url or f"sqlite:///{directory / 'yisuan.db'}")
    if url is None:
        metadata.create_all(database.engine)
    clock = SetClock()
    registry = load_policies()
    budget = VoucherBudget(registry, load_rules(), load_origin_register(), POLICY)
    backend = ScriptedBackend(clock)
    since = datetime(2024, 1, 1, tzinfo=UTC)
    with database.write() as tx:
        now = clock.now()
        values = registry.policy(POLICY)
        money.open_ledger(tx, mark=mark, policy=POLICY, pool_fen=values.pool_fen, now=now)
        money.enrol_provider(tx, id=PROVIDER, name="provider", now=now)
        money.enrol_site(tx, id="bj1", provider=PROVIDER, name="site", region="beijing", now=now)
        money.enrol_firm(tx, id=FIRM, name="firm", now=now)
        paper = {
            "subject": "bj1",
            "subject_kind": "site",
            "start": since,
            "end": None,
            "evidence": {},
            "by": "op",
            "now": now,
        }
        money.record_fact(tx, fact="energy_review", **paper)  # type: ignore[arg-type]
        money.record_fact(tx, fact="energy_report", **paper)  # type: ignore[arg-type]
        if eligible:
            money.record_fact(
                tx,
                subject_kind="firm",
                subject=FIRM,
                fact="eligible",
                start=since,
                end=None,
                evidence={},
                by="op",
                now=now,
            )
            money.claim(tx, firm=FIRM, by="firm", policy=POLICY, caps=values.firm_cap_fen, now=now)
        for pool, vendor, model, price in (("ascend", "ascend", "Ascend910B3", 2000), ("h800", "nvidia", "H800", 1800)):
            places.add_pool(
                tx, id=pool, provider=PROVIDER, site="bj1", region="beijing", backend="local", vendor=vendor, model=model,
                source="simulated", price_fen_per_device_hour=price, now=now,
            )  # fmt: skip
            money.set_price(tx, pool=pool, model=model, fen=price, start=now, by="op", now=now)
            for number in (1, 2):
                name = f"{pool}-{number}"
                devices = [simulated_device(name, i, model, vendor) for i in range(8)]
                places.add_node(tx, id=name, pool=pool, devices=devices, now=now)
    loop = Loop(database, budget, load_policy(policy), {"local": backend}, clock)
    return Platform(database=database, clock=clock, backend=backend, budget=budget, loop=loop)
