"""Rotation: a plan for training jobs that take turns. Waiting and running jobs are looked at alike, once a round. Pure.

A lease keeps its devices if its job's turn is where it is; else it is stopped (code ROUND) and the job waits or is launched
elsewhere, by the attempt that follows. A lease is left alone until it has run most of a round: what was just started is
not moved again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scheduler.columns import with_leases
from scheduler.job import JobId
from scheduler.lease import lease_id
from scheduler.placing import affordable, place
from scheduler.plan import Launch, Plan, Preempt
from scheduler.policy import Ints, Policy
from scheduler.preemption import lost, protected
from scheduler.snapshot import RunningLease, WaitingJob
from scheduler.waiting import CLASS
from scheduler.waits import Verdict, Waits
from scheduler.workspace import Workspace

if TYPE_CHECKING:
    from scheduler.engine import State

SETTLED = 4, 5  # of a round: how long a lease has run before its turn can be over


class RoundPolicy(Policy, Protocol):
    """A policy that decides turns. `allocate_round` answers {job: (model, devices, pool) or None} for all jobs it is shown."""

    round_ms: int

    def allocate_round(self, state: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Turns:
    """The state as a round policy sees it: running jobs stand among the jobs too, as they would wait if they were stopped."""

    now: datetime
    pools: Any
    nodes: Any
    jobs: Any
    leases: Any
    throughputs: Any


def rotate(state: State, policy: RoundPolicy, order: Ints) -> Plan:
    """Stops first, then launches that count on them; every waiting job is launched or waits for its turn."""
    again = {lease.again.id: lease.again for lease in state.leases.values() if lease.again is not None}
    jobs = {**again, **state.jobs}
    shown = Turns(state.now, state.pools, state.nodes, jobs, state.leases, state.throughputs)
    turns = policy.allocate_round(shown)
    settled = policy.round_ms * SETTLED[0] // SETTLED[1]
    gone: list[RunningLease] = []
    preempts: list[Preempt] = []
    kept: set[JobId] = set()
    for lease in sorted(state.leases.values(), key=lambda one: one.id):
        turn = turns.get(lease.job)
        here = turn is not None and turn[2] == lease.pool and turn[1] == sum(len(m.devices) for m in lease.members)
        if here or lease.again is None or lease.stopping or protected(lease, state.now, settled):
            kept.add(lease.job)
            continue
        gone.append(lease)
        preempts.append(
            Preempt(lease=lease.id, job=lease.job, code="ROUND", cost_device_ms=lost(lease, state.now)),
        )
    work = Workspace(state, policy)
    work.columns = with_leases(state.columns, gone, ())
    work.preempts += preempts
    launches: list[Launch] = []
    launched = np.zeros(len(order), dtype=np.bool_)
    verdicts: dict[int, Verdict] = {}
    for position, row in enumerate(order.tolist()):
        job = state.jobs[state.waiting.ids[row]]
        launch = _launch(state, job, turns.get(job.id), work)
        if launch is not None:
            launches.append(launch)
            launched[position] = True
        else:
            verdicts[position] = Verdict("gate" if job.gate is not None else "turn")
    for lease in gone:
        if lease.again is not None and lease.job not in state.jobs:
            launch = _launch(state, lease.again, turns.get(lease.job), work)
            launches += [launch] if launch is not None else []
    return Plan(
        based_on=state.version,
        now=state.now,
        policy=policy.name,
        launches=tuple(launches),
        waits=Waits(state, work, order[~launched], np.flatnonzero(~launched), verdicts),
        preempts=tuple(work.preempts),
    )


def _launch(state: State, job: WaitingJob, turn: Any, work: Workspace) -> Launch | None:
    """The job where its turn is, if its nodes are free there; None else."""
    if turn is None or job.gate is not None:
        return None
    number = state.registry.class_number(_class_of(state, job))
    ways = [way for way in work.zone.ways_of(number, state.registry) if way.pool.id == turn[2]]
    for way in ways:
        nodes, rest = divmod(turn[1], max(1, way.shape.count))
        headroom = work.quotas.headroom(job.queue)
        if rest or not way.least <= nodes <= job.nodes or (headroom is not None and turn[1] > headroom):
            continue
        asked = replace(job, nodes=nodes, min_nodes=None)
        one = work.candidate(asked, way)
        if not affordable(job, one) or way not in work.fitting([way], asked):
            continue
        placed = place(asked, [(way, one)], work, headroom)
        if placed is not None and len(placed[1].members) == nodes:
            work.quotas.take(job.queue, placed[1].device_count)
            return Launch(
                job=job.id, firm=job.firm, lease=lease_id(job.id, job.attempt), placement=placed[1], chosen=one
            )
    return None


def _class_of(state: State, job: WaitingJob) -> Any:
    from scheduler.shape import class_of

    at = int(np.searchsorted(state.waiting.ids, job.id)) if len(state.waiting.ids) else 0
    if at < len(state.waiting.ids) and state.waiting.ids[at] == job.id:
        return state.registry.known[int(state.waiting.values[at, CLASS])]
    return class_of(job)
