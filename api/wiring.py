"""Wiring: the composition root. Settings in, everything a process needs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from filelock import FileLock

from adapters.catalog import Catalog, load_catalog
from api.migrations import upgrade
from api.settings import Settings
from api.telemetry import Telemetry
from metering import checkpoint
from metering.budget import VoucherBudget
from metering.parameters import load_origin_register, load_policies
from metering.rule import load_rules
from metering.store import ledger_mark, open_ledger
from scheduler.backends.confinement import protect_process
from scheduler.backends.local import LocalBackend
from scheduler.clock import Clock, SystemClock
from scheduler.database import Database
from scheduler.loop import Loop
from scheduler.ports import Backend
from scheduler.registry import load_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What routes, pages and the loop share. lock: held while this process may write leases of the data directory."""

    settings: Settings
    database: Database
    clock: Clock
    catalog: Catalog
    budget: VoucherBudget
    backends: Mapping[str, Backend]
    loop: Loop
    telemetry: Telemetry
    lock: FileLock

    def close(self) -> None:
        """A last checkpoint, then everything this process holds is let go."""
        with self.database.write() as tx:
            checkpoint.take(tx, self.settings.data_dir / "checkpoints.jsonl", self.clock.now())
        self.database.close()
        self.lock.release()


def build(settings: Settings, *, clock: Clock | None = None, backends: Mapping[str, Backend] | None = None) -> Services:
    """A platform on its data directory, migrated and with its ledger opened; filelock.Timeout if another one runs on it."""
    clock = clock or SystemClock()
    data_dir = settings.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)
    lock = FileLock(data_dir / "loop.lock", timeout=0)
    lock.acquire()
    protect_process()
    database = Database(settings.database_url)
    upgrade(database)
    registry = load_policies(settings.parameters_dir)
    budget = VoucherBudget(
        registry, load_rules(), load_origin_register(settings.parameters_dir), settings.voucher_policy
    )
    with database.write() as tx:
        mark = settings.ledger or ledger_mark(tx) or "live"
        refusal = open_ledger(
            tx, mark=mark, policy=settings.voucher_policy, pool_fen=budget.policy.pool_fen, now=clock.now()
        )
    if refusal is not None:
        lock.release()
        raise WrongLedger(f"the ledger in {data_dir} is marked {refusal.facts['is']}, not {settings.ledger}")
    if settings.pages_open and mark != "demo":
        lock.release()
        raise WrongLedger(f"pages_open needs a ledger marked demo; the one in {data_dir} is marked {mark}")
    settings = settings.model_copy(update={"ledger": mark})
    if backends is None:
        local = LocalBackend(
            data_dir / "local",
            private=(data_dir,),
            path=settings.job_path,
            confinement=settings.confinement,
            assignments=data_dir / "assignments",
        )
        backends = {"local": local}
    telemetry = Telemetry(database, clock)
    last = [clock.now()]

    def on_tick(seconds: float) -> None:
        telemetry.ticked(seconds)
        now = clock.now()
        if (now - last[0]).total_seconds() >= CHECKPOINT_EVERY_S:
            last[0] = now
            with database.write() as tx:
                checkpoint.take(tx, data_dir / "checkpoints.jsonl", now)

    loop = Loop(
        database, budget, load_policy(settings.policy), backends, clock, zone=str(budget.policy.zone), on_tick=on_tick
    )
    return Services(
        settings=settings,
        database=database,
        clock=clock,
        catalog=load_catalog(),
        budget=budget,
        backends=backends,
        loop=loop,
        telemetry=telemetry,
        lock=lock,
    )


CHECKPOINT_EVERY_S = (
    5.0  # a tail cut off later than this after it was written is found by the file outside the database
)


class WrongLedger(Exception):
    """The data directory holds a ledger of the other kind; demo and live money never share one."""
