"""Allowance: what a device's level of evidence allows: to be listed, billed at the domestic rate, counted for the subsidy.

The levels asked for are dated parameters of the policy (`evidence.*`); where it has none at an instant, none is asked for. A
simulated device stays declared, and is let through in the demo ledger alone, the one place where it can be settled at all.
Below the level a domestic chip is of undetermined origin: it has the foreign rate, and a person looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from adapters.accelerator import Origin, Source
from adapters.chain import instant, timestamp
from metering import store
from metering.evidence import courses
from metering.evidence_level import Step, verdict_at
from metering.evidence_pools import levels_of_pools
from metering.parameters import Policy
from metering.parameters.policy import LEVEL_FOR_RATE, LEVEL_FOR_SUBSIDY, LEVEL_TO_LIST
from scheduler import places
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import devices, lease_devices, nodes, pools

DOMESTIC, UNDETERMINED = Origin.DOMESTIC.value, Origin.UNDETERMINED.value
BELOW = "EVIDENCE_BELOW_LEVEL"


def level_asked(policy: Policy, key: str, at: datetime) -> int:
    """The level that the policy asks for at the instant; 0 where it asks for none."""
    parameter = policy.parameters.get(key)
    row = None if parameter is None else parameter.row_at(at)
    return 0 if row is None else int(row.value)


# --- the rate -------------------------------------------------------------------------------------


def shown_usage(
    tx: Connection, policy: Policy, sources: Mapping[str, str], usage: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The usage entries of a case, with what is not shown to be domestic as undetermined, cut where that changes.

    sources: lease → source of its devices. Of a lease whose devices differ, those that are shown keep their origin and the
    others are an entry of their own. Nothing is read where the policy asks for nothing.
    """
    asking = [e for e in usage if e["origin"] == DOMESTIC and sources.get(e["lease"]) != Source.SIMULATED.value]
    asking = [entry for entry in asking if _asks(policy, entry)]
    if not asking:
        return [dict(entry) for entry in usage]
    held = _held(tx, {str(entry["lease"]) for entry in asking})
    known = courses(tx, sorted({device for group in held.values() for device in group}))
    wanted = {id(entry) for entry in asking}
    found: list[dict[str, Any]] = []
    for entry in usage:
        if id(entry) not in wanted:
            found.append(dict(entry))
            continue
        steps = [known[device] for device in held.get(str(entry["lease"]), ()) if device in known]
        found += _cut(policy, entry, steps)
    return found


def _asks(policy: Policy, entry: Mapping[str, Any]) -> bool:
    start, end = instant(entry["start"]), instant(entry["end"])
    return any(level_asked(policy, LEVEL_FOR_RATE, at) for at in (start, *_edges(policy, start, end)))


def _edges(policy: Policy, start: datetime, end: datetime) -> list[datetime]:
    parameter = policy.parameters.get(LEVEL_FOR_RATE)
    return [] if parameter is None else list(parameter.edges_within(start, end))


def _cut(policy: Policy, entry: Mapping[str, Any], steps: Sequence[Sequence[Step]]) -> list[dict[str, Any]]:
    """The entry in stretches over which as many of its devices are shown; stretches that touch and agree are one."""
    start, end = instant(entry["start"]), instant(entry["end"])
    low, high = to_ms(start), to_ms(end)
    points = {low, *(to_ms(at) for at in _edges(policy, start, end))}
    for course in steps:
        points |= {step.start_ms for step in course if step.start_ms is not None and low < step.start_ms < high}
    stretches: list[tuple[int, int]] = []  # (from, devices shown)
    for at in sorted(points):
        level = level_asked(policy, LEVEL_FOR_RATE, from_ms(at))
        count = sum(verdict_at(course, at).level >= level for course in steps)
        shown = int(entry["devices"]) if not level or (steps and count == len(steps)) else count
        if shown != entry["devices"] and len(steps) != entry["devices"]:
            shown = 0  # which of them served when is not known: none counts as shown
        if not stretches or stretches[-1][1] != shown:
            stretches.append((at, shown))
    found = []
    for index, (at, shown) in enumerate(stretches):
        until = stretches[index + 1][0] if index + 1 < len(stretches) else high
        part = {**entry, "start": timestamp(from_ms(at)), "end": timestamp(from_ms(until))}
        if shown:
            found.append({**part, "devices": shown})
        if shown < entry["devices"]:
            found.append({**part, "devices": entry["devices"] - shown, "origin": UNDETERMINED})
    return found


def _held(tx: Connection, leases: set[str]) -> dict[str, list[str]]:
    query = select(lease_devices.c.lease, lease_devices.c.device).where(lease_devices.c.lease.in_(sorted(leases)))
    found: dict[str, list[str]] = {}
    for row in tx.execute(query.order_by(lease_devices.c.lease, lease_devices.c.device)):
        found.setdefault(row.lease, []).append(row.device)
    return found


def pools_below(tx: Connection, policy: Policy, now: datetime) -> frozenset[str]:
    """The pools a quote cannot promise the domestic rate for: those with a device to lease that is not shown well enough now."""
    level = level_asked(policy, LEVEL_FOR_RATE, now)
    if not level:
        return frozenset()
    counts = levels_of_pools(tx, now)
    real = tx.execute(select(pools.c.id).where(pools.c.source != Source.SIMULATED.value)).scalars()
    return frozenset(pool for pool in real if any(counts.get(pool, ())[:level]))


# --- the listing and the subsidy ------------------------------------------------------------------


def unlistable(tx: Connection, policy: Policy, pool: str, now: datetime, node: str | None = None) -> Refusal | None:
    """Why the pool (or one node of it) may not be listed: which of its devices are below the level; None when it may."""
    level = level_asked(policy, LEVEL_TO_LIST, now)
    below = [device for _, device in _below(tx, level, now, pool=pool, node=node)] if level else []
    return Refusal(code=BELOW, facts={"pool": pool, "level": level, "devices": below}) if below else None


def uncounted(tx: Connection, policy: Policy, project: str, uuids: Sequence[str], now: datetime) -> Refusal | None:
    """Why the project's devices do not count for the server subsidy: which are below the level; None when all do."""
    level = level_asked(policy, LEVEL_FOR_SUBSIDY, now)
    if not level or not uuids:
        return None
    below = [device for _, device in _below(tx, level, now, uuids=uuids)]
    return Refusal(code=BELOW, facts={"project": project, "level": level, "devices": below}) if below else None


def hold_back(tx: Connection, policy: Policy, pool: str, node: str, now: datetime) -> Refusal | None:
    """A node with a device below the level to be listed takes no jobs, and a person is told; None where all are shown."""
    refusal = unlistable(tx, policy, pool, now, node)
    if refusal is not None:
        places.set_schedulable(tx, node, False, now)
        store.open_review(tx, code=BELOW, subject=node, facts=dict(refusal.facts), now=now)
    return refusal


def _below(
    tx: Connection,
    level: int,
    now: datetime,
    *,
    pool: str | None = None,
    node: str | None = None,
    uuids: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """(pool, device) of devices whose level is lower now. Simulated ones of a demo ledger are let through."""
    query = (
        select(nodes.c.pool, devices.c.uuid, devices.c.source)
        .join(nodes, nodes.c.id == devices.c.node)
        .join(pools, pools.c.id == nodes.c.pool)
    )
    for column, value in ((nodes.c.pool, pool), (nodes.c.id, node)):
        if value is not None:
            query = query.where(column == value)
    if uuids is not None:
        query = query.where(devices.c.uuid.in_(uuids))
    rows = list(tx.execute(query.order_by(nodes.c.pool, devices.c.uuid)))
    if any(row.source == Source.SIMULATED.value for row in rows) and store.ledger_mark(tx) == "demo":
        rows = [row for row in rows if row.source != Source.SIMULATED.value]
    known = courses(tx, [row.uuid for row in rows])
    return [(row.pool, row.uuid) for row in rows if verdict_at(known[row.uuid], to_ms(now)).level < level]
