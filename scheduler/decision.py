"""Decision: order → fit → choose → place, over one state. Pure.

A gang goes whole into one pool (one model, one price, one voucher rate), each member on a node of its own. A job that
waits holds its place in every pool it could ever run in: nothing overtakes it there, so a large gang cannot starve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from adapters.catalog import load_catalog
from scheduler.clock import to_ms
from scheduler.columns import Ints
from scheduler.job import Alternative
from scheduler.lease import Member, Placement, lease_id
from scheduler.node import Pool, PoolId
from scheduler.pending import Reasons
from scheduler.plan import Candidate, Launch, Pending, Plan, Wait
from scheduler.policy import JobColumns, Policy
from scheduler.snapshot import Terms, WaitingJob

if TYPE_CHECKING:
    from scheduler.engine import State

MS_PER_HOUR = 3_600_000


@dataclass(slots=True)
class Workspace:
    """What changes while one plan is made: free devices per row, devices per queue, pools that are spoken for."""

    free: Ints
    ways: dict[object, tuple[tuple[int, Pool], ...]] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    blocked: dict[PoolId, int] = field(default_factory=dict)
    given: dict[int, set[str]] = field(default_factory=dict)
    counts: dict[tuple[PoolId, int], int] = field(default_factory=dict)


def decide(state: State, policy: Policy) -> Plan:
    """A launch or a wait for every waiting job of the state."""
    work = Workspace(free=state.columns.free.copy(), used=_used(state))
    reasons = Reasons(state)
    launches, waits = [], []
    for job in _ordered(state, policy):
        outcome = _decide_one(state, policy, job, work, reasons)
        if isinstance(outcome, Launch):
            launches.append(outcome)
        else:
            waits.append(Wait(job=job.id, pending=outcome))
    return Plan(based_on=state.version, now=state.now, policy=policy.name, launches=tuple(launches), waits=tuple(waits))


def _decide_one(state: State, policy: Policy, job: WaitingJob, work: Workspace, reasons: Reasons) -> Launch | Pending:
    ways = possible(state, job, work)
    if not ways:
        return reasons.never(job)
    quota = state.queues.get(job.queue)
    limit = quota.nominal_devices if quota else None
    counts = [job.request.alternatives[index].count for index, _ in ways]
    if limit is not None and job.nodes * min(counts) > limit:
        return reasons.exceeds_quota(job, limit, job.nodes * min(counts))
    within = [
        (index, pool)
        for index, pool in ways
        if limit is None or work.used.get(job.queue, 0) + job.nodes * job.request.alternatives[index].count <= limit
    ]
    if not within:
        return reasons.quota_exhausted(job, limit or 0, work.used.get(job.queue, 0), job.nodes * min(counts))
    ahead = [work.blocked.get(pool.id, 0) for _, pool in within]
    if all(ahead):  # every pool it could use is spoken for: no need to price what it cannot have yet
        _hold_places(within, work)
        return reasons.behind(job, within, max(ahead), work.blocked)
    affordable = [c for c in (candidate(state, job, index, pool) for index, pool in within) if _affordable(job, c)]
    if not affordable:
        return reasons.too_dear(job, [candidate(state, job, index, pool) for index, pool in within])
    now = [c for c in affordable if PoolId(c.pool) not in work.blocked and _fits(state, job, c, work)]
    if job.request.ordered and now:
        first = min(c.alternative for c in now)
        now = [c for c in now if c.alternative == first]
    if not now:
        first_in_line = [c for c in affordable if PoolId(c.pool) not in work.blocked]
        pending = reasons.busy(job, first_in_line or affordable, work.free, blocked=work.blocked)
        _hold_places([(c.alternative, state.pools[PoolId(c.pool)]) for c in affordable], work)
        return pending
    best, *others = policy.choose(job, now)
    placement = _place(state, job, best, work)
    work.used[job.queue] = work.used.get(job.queue, 0) + placement.device_count
    return Launch(
        job=job.id,
        firm=job.firm,
        lease=lease_id(job.id, job.attempt),
        placement=placement,
        chosen=best,
        rejected=tuple(others),
    )


def _hold_places(ways: Sequence[tuple[int, Pool]], work: Workspace) -> None:
    """The job waits for these pools: whoever comes later there is behind it."""
    for pool_id in {pool.id for _, pool in ways}:
        work.blocked[pool_id] = work.blocked.get(pool_id, 0) + 1


def _ordered(state: State, policy: Policy) -> Iterator[WaitingJob]:
    jobs = [state.jobs[key] for key in sorted(state.jobs)]
    if not jobs:
        return
    columns = JobColumns(
        priority_rank=np.array([job.priority.rank for job in jobs], dtype=np.int64),
        submitted_ms=np.array([to_ms(job.submitted_at) for job in jobs], dtype=np.int64),
        devices=np.array([job.nodes * min(a.count for a in job.request.alternatives) for job in jobs], dtype=np.int64),
        time_limit_ms=np.array([job.time_limit_ms for job in jobs], dtype=np.int64),
        id_rank=np.arange(len(jobs), dtype=np.int64),
    )
    for row in policy.order(columns, to_ms(state.now)):
        yield jobs[int(row)]


def _used(state: State) -> dict[str, int]:
    used: dict[str, int] = {}
    for lease in state.leases.values():
        used[lease.queue] = used.get(lease.queue, 0) + sum(len(m.devices) for m in lease.members)
    return used


# --- fit ------------------------------------------------------------------------------------------------------------


def possible(state: State, job: WaitingJob, work: Workspace) -> tuple[tuple[int, Pool], ...]:
    """(alternative, pool) pairs in which the job could run if everything were free and schedulable."""
    key = (job.request.alternatives, job.stacks, job.nodes)
    if key not in work.ways:
        work.ways[key] = tuple(
            (index, pool)
            for index, alternative in enumerate(job.request.alternatives)
            for pool in (state.pools[p] for p in sorted(state.pools))
            if matches(alternative, pool)
            and runs_on(job.stacks, pool)
            and _large_enough(state, pool, alternative, job.nodes)
        )
    return work.ways[key]


def matches(alternative: Alternative, pool: Pool) -> bool:
    """The pool's model, origin and memory are what is asked for; unknown memory matches no demand for memory."""
    if alternative.models and pool.model not in alternative.models:
        return False
    if alternative.origin is not None and pool.origin is not alternative.origin:
        return False
    least = alternative.memory_bytes_min
    return least is None or (pool.memory_bytes is not None and pool.memory_bytes >= least)


def runs_on(stacks: Sequence[str], pool: Pool) -> bool:
    """The job has a command for the pool's software stack; () = one command for all."""
    if not stacks:
        return True
    chip = load_catalog().get(pool.model)
    return chip is not None and chip.stack in stacks


def _large_enough(state: State, pool: Pool, alternative: Alternative, nodes: int) -> bool:
    rows = state.columns.rows.get(pool.id)
    return rows is not None and int((state.columns.size[rows] >= alternative.count).sum()) >= nodes


def _fits(state: State, job: WaitingJob, one: Candidate, work: Workspace) -> bool:
    """Enough usable nodes with enough free devices, now. Counted once per (pool, count) between placements."""
    count = job.request.alternatives[one.alternative].count
    key = (PoolId(one.pool), count)
    if key not in work.counts:
        rows = state.columns.rows[PoolId(one.pool)]
        work.counts[key] = int(((work.free[rows] >= count) & state.columns.usable[rows]).sum())
    return work.counts[key] >= job.nodes


# --- choose -----------------------------------------------------------------------------------------------------------


def candidate(state: State, job: WaitingJob, alternative: int, pool: Pool) -> Candidate:
    """What the whole time limit would cost there: gross half up, the voucher's part down and within the room left."""
    terms = state.terms.get((job.firm, pool.id)) or Terms(
        firm=job.firm, pool=pool.id, price_fen_per_device_hour=pool.price_fen_per_device_hour, rate_bp=0, room_fen=0
    )
    device_ms = job.nodes * job.request.alternatives[alternative].count * job.time_limit_ms
    gross = (2 * terms.price_fen_per_device_hour * device_ms + MS_PER_HOUR) // (2 * MS_PER_HOUR)
    hold = min(gross * terms.rate_bp // 10_000, terms.room_fen) if job.money.voucher == "auto" else 0
    return Candidate(
        alternative=alternative,
        pool=pool.id,
        model=pool.model,
        gross_fen=gross,
        net_fen=gross - hold,
        hold_fen=hold,
        effective_fen=gross - hold * (1000 - terms.shadow_price_permille) // 1000,
    )


def _affordable(job: WaitingJob, one: Candidate) -> bool:
    return job.money.max_net_fen is None or one.net_fen <= job.money.max_net_fen


# --- place ------------------------------------------------------------------------------------------------------------


def _place(state: State, job: WaitingJob, one: Candidate, work: Workspace) -> Placement:
    """The fullest nodes that still fit, ties by id; devices in index order."""
    count = job.request.alternatives[one.alternative].count
    rows = state.columns.rows[PoolId(one.pool)]
    fitting = rows[(work.free[rows] >= count) & state.columns.usable[rows]]
    chosen = fitting[np.lexsort((fitting, work.free[fitting]))][: job.nodes]
    members = []
    for rank, row in enumerate(sorted(int(r) for r in chosen)):
        node = state.nodes[state.columns.ids[row]]
        held = state.taken.get(node.id, frozenset())
        given = work.given.setdefault(row, set())
        devices = [d for d in node.devices if d not in held and d not in given][:count]
        given.update(devices)
        work.free[row] -= count
        members.append(Member(rank=rank, node=node.id, devices=tuple(devices)))
    for key in [key for key in work.counts if key[0] == one.pool]:
        del work.counts[key]
    return Placement(pool=PoolId(one.pool), model=one.model, members=tuple(members))
