"""Listing evidence: when a pool was listed and why not, what the platform's own probes found, whom its devices served.

What a subsidy auditor asks of "listed and serving outside" (clause 2.1.2; research: metering.md §6.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, func, insert, select, update

from adapters.chain import timestamp
from metering.acts import Actor
from metering.facts import holds_at
from metering.programme_schema import availability, listing_events
from metering.standing import related_intervals
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import devices, lease_devices, leases, nodes, pools, usage_records

SILENT_AFTER = timedelta(seconds=90)  # a node nobody has heard from for so long is unreachable, as for the scheduler
STATUSES = ("listed", "paused", "delisted")


def set_listing(
    tx: Connection, *, pool: str, status: str, reason: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The pool is listed, paused or delisted from now on, on record with the reason; only a listed one takes new jobs."""
    row = tx.execute(select(pools.c.id).where(pools.c.id == pool)).first()
    if row is None:
        return Refusal(code="POOL_UNKNOWN", facts={"pool": pool})
    if status != "listed" and not reason.strip():
        return Refusal(code="REASON_MISSING", facts={"kind": "listing", "act": status})
    story = listing_intervals(tx, pool)
    if story and story[-1]["status"] == "delisted":
        return Refusal(code="DELISTED", facts={"pool": pool})
    if story and story[-1]["status"] == status:
        return {"pool": pool, "status": status, "intervals": story}
    last = select(listing_events.c.role).where(listing_events.c.pool == pool).order_by(listing_events.c.seq.desc())
    if actor.role == "provider" and status == "listed" and tx.execute(last).scalar() not in (None, "provider"):
        return Refusal(code="PAUSED_BY_OPERATOR", facts={"pool": pool})
    values = {"pool": pool, "status": status, "reason": reason, "at_ms": to_ms(now)}
    values |= {"recorded_by": actor.by, "role": actor.role}
    journal.append(tx, listing_events, values)
    tx.execute(update(pools).where(pools.c.id == pool).values(listed=int(status == "listed")))
    return {"pool": pool, "status": status, "intervals": listing_intervals(tx, pool)}


def listing_intervals(tx: Connection, pool: str) -> list[dict[str, Any]]:
    """The pool's listing story: {status, reason, from, to}, to None for the one that holds; from its enrolment on."""
    created = tx.execute(select(pools.c.created_at_ms).where(pools.c.id == pool)).scalar()
    if created is None:
        return []
    query = select(listing_events).where(listing_events.c.pool == pool).order_by(listing_events.c.seq)
    found: list[tuple[str, str, int]] = [("listed", "", int(created))]
    found += [(row["status"], row["reason"], row["at_ms"]) for row in tx.execute(query).mappings()]
    ends: list[int | None] = [at for _, _, at in found[1:]]
    return [
        {
            "pool": pool,
            "status": status,
            "reason": reason,
            "from": timestamp(from_ms(at)),
            "to": None if end is None else timestamp(from_ms(end)),
        }
        for (status, reason, at), end in zip(found, [*ends, None], strict=True)
    ]


def probe(tx: Connection, zone: ZoneInfo, now: datetime) -> int:
    """Every device of a listed pool is counted once in its local day, as free, allocated, in maintenance or unreachable."""
    held = set(tx.execute(select(lease_devices.c.device).where(lease_devices.c.released == 0)).scalars())
    oldest = to_ms(now - SILENT_AFTER)
    query = (
        select(devices.c.uuid, devices.c.health, nodes.c.schedulable, nodes.c.heartbeat_at_ms, nodes.c.pool)
        .join(nodes, nodes.c.id == devices.c.node)
        .join(pools, pools.c.id == nodes.c.pool)
        .where(pools.c.listed == 1, devices.c.leasable == 1)
    )
    counts: dict[str, dict[str, int]] = {}
    for row in tx.execute(query):
        mine = counts.setdefault(row.pool, {"listed": 0, "free": 0, "allocated": 0, "maintenance": 0})
        mine["listed"] += 1
        if row.uuid in held:
            mine["allocated"] += 1
        elif not row.schedulable:
            mine["maintenance"] += 1
        elif (row.heartbeat_at_ms or 0) >= oldest and row.health != "failed":
            mine["free"] += 1
    day = now.astimezone(zone).date().isoformat()
    for pool, mine in sorted(counts.items()):
        key = (availability.c.pool == pool, availability.c.day == day)
        moved = tx.execute(
            update(availability)
            .where(*key)
            .values(probes=availability.c.probes + 1, **{name: availability.c[name] + n for name, n in mine.items()})
        )
        if moved.rowcount == 0:
            tx.execute(insert(availability).values(pool=pool, day=day, probes=1, **mine))
    return len(counts)


def availability_of(tx: Connection, pool_ids: Sequence[str], first: str, last: str) -> dict[str, Any]:
    """Over local days [first, last]: {probes, listed, available, permille}; (free + allocated) ‰ of (listed − maintenance).

    permille is None where nothing was probed: unknown, not unavailable.
    """
    names = ("probes", "listed", "free", "allocated", "maintenance")
    query = select(*(func.coalesce(func.sum(availability.c[name]), 0).label(name) for name in names)).where(
        availability.c.pool.in_(pool_ids), availability.c.day >= first, availability.c.day <= last
    )
    row = tx.execute(query).one()
    expected = int(row.listed) - int(row.maintenance)
    available = int(row.free) + int(row.allocated)
    return {
        "probes": int(row.probes),
        "listed": int(row.listed),
        "available": available,
        "permille": available * 1000 // expected if expected > 0 else None,
    }


def served(tx: Connection, provider: str, device_ids: Sequence[str], start: datetime, end: datetime) -> dict[str, Any]:
    """Device time that these devices ran for customers over [start, end): {device_ms, unrelated_device_ms, customers,
    top_customer_permille, own_use_permille}. Shares are None where nothing was served."""
    query = (
        select(usage_records.c.firm, usage_records.c.start_ms, usage_records.c.end_ms, func.count().label("devices"))
        .join(lease_devices, lease_devices.c.lease == usage_records.c.lease)
        .join(leases, leases.c.id == usage_records.c.lease)
        .where(
            usage_records.c.kind == "run",
            lease_devices.c.device.in_(device_ids),
            usage_records.c.end_ms > to_ms(start),
            usage_records.c.start_ms < to_ms(end),
        )
        .group_by(usage_records.c.seq, usage_records.c.firm, usage_records.c.start_ms, usage_records.c.end_ms)
    )
    by_firm: dict[str, int] = {}
    unrelated = 0
    for row in tx.execute(query):
        low, high = max(row.start_ms, to_ms(start)), min(row.end_ms, to_ms(end))
        ms = row.devices * (high - low)
        by_firm[row.firm] = by_firm.get(row.firm, 0) + ms
        if row.firm != provider and not holds_at(related_intervals(tx, row.firm, provider), from_ms(row.start_ms)):
            unrelated += ms
    total = sum(by_firm.values())
    return {
        "device_ms": total,
        "unrelated_device_ms": unrelated,
        "customers": len([firm for firm in by_firm if firm != provider]),
        "top_customer_permille": max(by_firm.values()) * 1000 // total if total else None,
        "own_use_permille": by_firm.get(provider, 0) * 1000 // total if total else None,
    }
