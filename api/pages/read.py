"""Read: what the pages about the zone show, as plain values from read-only SQL. Money comes from settlements only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from adapters.accelerator import Health, Origin, Source
from adapters.catalog import Catalog
from metering import benchmark, standing
from metering.budget import VoucherBudget
from metering.evidence_pools import levels_of_pools
from metering.facts import holds_at
from metering.ledger import pool_room
from metering.offer_evidence import evidence_of
from metering.schema import accounts, providers, reviews, sites
from scheduler.clock import to_ms
from scheduler.lifecycle import State
from scheduler.plan import PendingKind
from scheduler.schema import devices, jobs, lease_devices, nodes, pools

SILENT_AFTER = timedelta(seconds=60)  # as long as the planner still uses a node (scheduler/view.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """Devices of one model: listed = free + allocated + out (failed, drained or on a silent node).

    pflops: nominal dense FP16 of the listed ones, None where the catalogue has no figure.
    """

    origin: Origin
    model: str
    simulated: bool
    listed: int
    free: int
    allocated: int
    pflops: float | None

    @property
    def out(self) -> int:
        return self.listed - self.free - self.allocated


@dataclass(frozen=True, slots=True, kw_only=True)
class YearRoom:
    """A year's voucher pool in fen: appropriated = left + held + drawn."""

    year: int
    appropriated_fen: int
    held_fen: int
    drawn_fen: int
    left_fen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Something a person should look at: a text code with its facts, and the page that shows more."""

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    href: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The zone at one instant. pflops counts the models with a known figure; unknown: models without one."""

    models: tuple[ModelRow, ...]
    pflops: float
    unknown: tuple[str, ...]
    jobs: Mapping[str, int]
    rooms: tuple[YearRoom, ...]
    attention: tuple[Attention, ...]

    @property
    def by_origin(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for row in self.models:
            found[row.origin.value] = found.get(row.origin.value, 0) + row.listed
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRow:
    """One pool as it could be leased now. net_fen: a device-hour after the voucher, None where none is drawn.

    evidence: see metering.offer_evidence.evidence_of; measured: see metering.benchmark, None = never measured.
    """

    pool: str
    model: str
    origin: Origin
    simulated: bool
    memory_bytes: int | None
    free: int
    listed: int
    price_fen: int
    rate_bp: int | None
    net_fen: int | None
    provider: str
    site: str
    region: str
    evidence: Mapping[str, Any]
    measured: Mapping[str, Any] | None


def overview(
    tx: Connection, budget: VoucherBudget, catalog: Catalog, now: datetime, mine: ColumnElement[bool]
) -> Overview:
    """The zone now; `mine` limits jobs to those the visitor may see."""
    models = _models(tx, budget, catalog, now)
    found = tx.execute(select(jobs.c.state, func.count()).where(mine).group_by(jobs.c.state))
    counted: dict[str, int] = {row[0]: row[1] for row in found}
    return Overview(
        models=models,
        pflops=sum(row.pflops or 0.0 for row in models),
        unknown=tuple(sorted({row.model for row in models if row.pflops is None})),
        jobs={state.value: counted[state.value] for state in State if state.value in counted},
        rooms=_rooms(tx, budget, now),
        attention=tuple(_attention(tx, now, mine)),
    )


def _counts(tx: Connection, now: datetime) -> Iterable[Mapping[str, Any]]:
    """Per pool and model: listed, allocated, free devices of listed pools."""
    taken = select(lease_devices.c.device).where(lease_devices.c.released == 0)
    oldest = to_ms(now - SILENT_AFTER)
    query = (
        select(pools.c.id, pools.c.model, pools.c.vendor, pools.c.source, devices.c.uuid, devices.c.health,
               nodes.c.schedulable, nodes.c.heartbeat_at_ms)
        .join(nodes, nodes.c.pool == pools.c.id)
        .join(devices, devices.c.node == nodes.c.id)
        .where(pools.c.listed == 1, devices.c.leasable == 1)
    )  # fmt: skip
    held = set(tx.execute(taken).scalars())
    found: dict[str, dict[str, Any]] = {}
    for row in tx.execute(query.order_by(pools.c.id)).mappings():
        first = {"pool": row["id"], "model": row["model"], "vendor": row["vendor"], "source": row["source"]}
        total = found.setdefault(row["id"], {**first, "listed": 0, "allocated": 0, "free": 0})
        total["listed"] += 1
        alive = row["schedulable"] and (row["heartbeat_at_ms"] or 0) >= oldest
        if row["uuid"] in held:
            total["allocated"] += 1
        elif alive and row["health"] != Health.FAILED.value:
            total["free"] += 1
    return found.values()


def _models(tx: Connection, budget: VoucherBudget, catalog: Catalog, now: datetime) -> tuple[ModelRow, ...]:
    found: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for row in _counts(tx, now):
        key = (row["vendor"], row["model"], row["source"] == Source.SIMULATED.value)
        total = found.setdefault(key, {"listed": 0, "free": 0, "allocated": 0})
        for name in total:
            total[name] += row[name]
    rows = [
        ModelRow(
            origin=budget.origin(vendor, model, now),
            model=model,
            simulated=simulated,
            pflops=_pflops(catalog, model, total["listed"]),
            **total,
        )
        for (vendor, model, simulated), total in found.items()
    ]
    order = list(Origin)
    return tuple(sorted(rows, key=lambda row: (order.index(row.origin), row.model, row.simulated)))


def _pflops(catalog: Catalog, model: str, count: int) -> float | None:
    """A catalogue figure is of a whole package; a device is one of its dies."""
    chip = catalog.get(model)
    if chip is None or chip.fp16_tflops is None:
        return None
    return chip.fp16_tflops / chip.dies * count / 1000


def _rooms(tx: Connection, budget: VoucherBudget, now: datetime) -> tuple[YearRoom, ...]:
    this_year = now.astimezone(budget.policy.zone).year
    found = []
    for year in budget.policy.years:
        row = tx.execute(select(accounts).where(accounts.c.id == pool_room(year))).mappings().first()
        if row is not None and year >= this_year:
            found.append(
                YearRoom(
                    year=year,
                    appropriated_fen=row["credits_posted"],
                    held_fen=row["debits_pending"],
                    drawn_fen=row["debits_posted"],
                    left_fen=row["credits_posted"] - row["debits_posted"] - row["debits_pending"],
                )
            )
    return tuple(found)


def _attention(tx: Connection, now: datetime, mine: ColumnElement[bool]) -> Iterable[Attention]:
    for row in tx.execute(select(jobs).where(mine, jobs.c.pending.is_not(None)).order_by(jobs.c.id)).mappings():
        pending = json.loads(row["pending"])
        if pending.get("kind") in (PendingKind.NEVER.value, PendingKind.POLICY.value):
            yield Attention(code="attention.job", facts={"name": row["name"]}, href=f"/jobs/{row['id']}")
    oldest = to_ms(now - SILENT_AFTER)
    silent = select(nodes.c.id, nodes.c.heartbeat_at_ms).where(func.coalesce(nodes.c.heartbeat_at_ms, 0) < oldest)
    for node in tx.execute(silent.order_by(nodes.c.id)):
        yield Attention(code="attention.node", facts={"node": node.id, "since": node.heartbeat_at_ms})
    failed = select(devices.c.uuid, devices.c.node).where(devices.c.health == Health.FAILED.value)
    for device in tx.execute(failed.order_by(devices.c.uuid)):
        yield Attention(code="attention.device", facts={"device": device.uuid, "node": device.node})
    for row in tx.execute(
        select(reviews).where(reviews.c.closed_at_ms.is_(None)).order_by(reviews.c.opened_at_ms)
    ).mappings():
        yield Attention(code="attention.review", facts={"code": row["code"], "subject": row["subject"]})


def offers(tx: Connection, budget: VoucherBudget, catalog: Catalog, now: datetime) -> tuple[OfferRow, ...]:
    """Every listed pool, domestic first. After the voucher: for a firm that may draw, while its rooms last."""
    counts = {row["pool"]: row for row in _counts(tx, now)}
    levels, measured = levels_of_pools(tx, now), benchmark.measured(benchmark.latest(tx), catalog)
    query = (
        select(pools, providers.c.name.label("provider_name"), sites.c.name.label("site_name"))
        .outerjoin(providers, providers.c.id == pools.c.provider)
        .outerjoin(sites, sites.c.id == pools.c.site)
        .where(pools.c.listed == 1)
    )
    found = []
    for row in tx.execute(query.order_by(pools.c.id)).mappings():
        origin = budget.origin(row["vendor"], row["model"], now)
        chip = catalog.get(row["model"])
        price = row["price_fen_per_device_hour"]
        shown = evidence_of(row, levels.get(row["id"], ()), budget.policy, budget.register, now)
        beside = benchmark.beside(chip, measured.get(row["id"]), whole=row["source"] == Source.SIMULATED.value)
        rate = _rate(tx, budget, row["site"], Origin(shown["billed_as"]), now)
        count = counts.get(row["id"], {"free": 0, "listed": 0})
        found.append(
            OfferRow(
                pool=row["id"],
                model=row["model"],
                origin=origin,
                simulated=row["source"] == Source.SIMULATED.value,
                memory_bytes=chip.memory_bytes if chip else None,
                free=count["free"],
                listed=count["listed"],
                price_fen=price,
                rate_bp=rate,
                net_fen=None if rate is None else price - price * rate // 10_000,
                provider=row["provider_name"] or row["provider"],
                site=row["site_name"] or row["site"],
                region=row["region"],
                evidence=shown,
                measured=beside["measured"],
            )
        )
    order = list(Origin)
    return tuple(sorted(found, key=lambda row: (order.index(row.origin), row.net_fen or row.price_fen, row.pool)))


def _rate(tx: Connection, budget: VoucherBudget, site: str, origin: Origin, now: datetime) -> int | None:
    """The voucher's rate in this pool now; None where the policy is not in force or the site's papers are missing."""
    if not budget.policy.in_force_at(now) or not holds_at(standing.eligible_intervals(tx, "site", site), now):
        return None
    return budget.policy.rate_bp(origin, now)
