"""Relocations: leases that stop so that their jobs go on elsewhere, as stored: asked, carried out, and then over.

Until one is over the devices it goes to count as taken, so that nobody is sent there meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from adapters.chain import canonical
from scheduler.clock import to_ms
from scheduler.job import JobId
from scheduler.lease import LeaseId, Member, Placement
from scheduler.node import NodeId, PoolId
from scheduler.plan import Migration
from scheduler.schema import jobs, lease_moves, leases
from scheduler.store import touch

BUDGET_OVER = timedelta(hours=1)  # the time in which at most the zone's budget of members is moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocation:
    """The job goes on at `target` once `lease` has ended. ended: it has; then the job waits for its next attempt."""

    lease: LeaseId
    job: JobId
    attempt: int
    target: Placement
    asked_at_ms: int
    time_limit_ms: int
    ended: bool


def target_of(placement: Placement, migrations: Sequence[Migration]) -> Placement | None:
    """The placement with these members elsewhere; None when one of them is no member of it or would change its shape."""
    members = {member.rank: member for member in placement.members}
    for one in migrations:
        old = members.get(one.rank)
        if old is None or one.to.rank != one.rank or len(one.to.devices) != len(old.devices):
            return None
        members[one.rank] = one.to
    whole = [device for member in members.values() for device in member.devices]
    if len(set(whole)) != len(whole):
        return None
    chosen = tuple(member for _, member in sorted(members.items()))
    return Placement(pool=placement.pool, model=placement.model, members=chosen)


def ask(tx: Connection, lease: str, target: Placement, moved: int, now: datetime) -> None:
    """The lease, which is told to stop, goes on at `target`. moved: how many of its members change devices."""
    text = canonical([{"rank": m.rank, "node": m.node, "devices": list(m.devices)} for m in target.members]).decode()
    tx.execute(insert(lease_moves).values(lease=lease, members=text, moved=moved, asked_at_ms=to_ms(now)))
    touch(tx)


def done(tx: Connection, lease: str) -> None:
    """The relocation is over: its devices are its job's by a lease, or anybody's."""
    tx.execute(update(lease_moves).where(lease_moves.c.lease == lease).values(over=1))
    touch(tx)


def relocations(tx: Connection) -> tuple[Relocation, ...]:
    """Every one that is not over, oldest first."""
    query = (
        select(lease_moves.c.lease, lease_moves.c.members, lease_moves.c.asked_at_ms, leases.c.job, leases.c.pool,
               leases.c.model, leases.c.time_limit_ms, leases.c.released_at_ms, jobs.c.attempt)
        .join(leases, leases.c.id == lease_moves.c.lease)
        .join(jobs, jobs.c.id == leases.c.job)
        .where(lease_moves.c.over == 0)
        .order_by(lease_moves.c.asked_at_ms, lease_moves.c.lease)
    )  # fmt: skip
    return tuple(_relocation(row) for row in tx.execute(query).mappings())


def _relocation(row: Mapping[Any, Any]) -> Relocation:
    members = tuple(
        Member(rank=one["rank"], node=NodeId(one["node"]), devices=tuple(one["devices"]))
        for one in json.loads(row["members"])
    )
    return Relocation(
        lease=LeaseId(row["lease"]),
        job=JobId(row["job"]),
        attempt=row["attempt"],
        target=Placement(pool=PoolId(row["pool"]), model=row["model"], members=members),
        asked_at_ms=row["asked_at_ms"],
        time_limit_ms=row["time_limit_ms"],
        ended=row["released_at_ms"] is not None,
    )


def moved_lately(tx: Connection, now: datetime) -> int:
    """Members that were told to move in the last BUDGET_OVER."""
    since = lease_moves.c.asked_at_ms > to_ms(now - BUDGET_OVER)
    return int(tx.execute(select(func.coalesce(func.sum(lease_moves.c.moved), 0)).where(since)).scalar_one())
