"""rounds: training jobs take turns on unlike models; once a round every job's place is decided anew.

`allocate_round` looks at waiting and running jobs alike. Between rounds, and for what it leaves open, the queue is that of
fifo. A decision is kept while nothing came, nothing that is free could serve somebody better, and it is younger than
REFRESH rounds: moving a job costs it a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import numpy as np

from scheduler.job import JobId
from scheduler.lease import LeaseId
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Candidate
from scheduler.policy import Ints, JobColumns
from scheduler.rounds import RoundProblem, RoundWeights, allocate
from scheduler.snapshot import RunningLease, Throughput, WaitingJob
from scheduler.throughput import rate_per_ks
from scheduler.zone import matches, runs_on

ROUND_MS = 360_000  # Gavel, OSDI'20, section 5: rounds of six minutes
REFRESH = 10  # rounds after which a decision is looked at again although nothing happened


class Turn(NamedTuple):
    """Where a job runs until the next round."""

    model: str
    devices: int
    pool: PoolId


RoundDecision = Mapping[JobId, Turn | None]


class RoundState(Protocol):
    """What `allocate_round` reads of the engine's state."""

    @property
    def now(self) -> datetime: ...
    @property
    def pools(self) -> Mapping[PoolId, Pool]: ...
    @property
    def nodes(self) -> Mapping[NodeId, Node]: ...
    @property
    def jobs(self) -> Mapping[JobId, WaitingJob]: ...
    @property
    def leases(self) -> Mapping[LeaseId, RunningLease]: ...
    @property
    def throughputs(self) -> Mapping[tuple[str, str, int], Throughput]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of one job: devices in a pool and the fraction of its remaining work done there in a second."""

    job: JobId
    pool: PoolId
    devices: int
    pace: float


class Rounds:
    name = "rounds"
    backfill = 0
    preempts = False
    fair = False
    round_ms = ROUND_MS

    def __init__(self, weights: RoundWeights | None = None, restart_ms: int = 0) -> None:
        self.weights = weights or RoundWeights()
        self.restart_ms = restart_ms

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:  # noqa: ARG002
        return np.lexsort((jobs.id_rank, jobs.submitted_ms, jobs.priority_rank)).astype(np.int64)

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:  # noqa: ARG002
        return tuple(sorted(candidates, key=lambda c: (c.alternative, c.pool)))

    def allocate_round(self, state: RoundState) -> RoundDecision:
        """For every waiting and running job its turn in the coming round, None = it waits. Devices of no pool are
        exceeded by more than they are already; a gated job waits; a job of unknown work is taken to need all of its time
        limit. Shares of a device take no turns: the running ones keep their devices, the waiting ones get none here."""
        capacity = devices_of(state)
        choices = [*waiting_choices(state, capacity), *running_choices(state, capacity)]
        held = {lease.job: turn_of(lease, state.pools) for lease in state.leases.values()}
        ids = sorted({*state.jobs, *held})
        decision: dict[JobId, Turn | None] = {}
        decision.update(dict.fromkeys(ids))
        decision.update((lease.job, held[lease.job]) for lease in state.leases.values() if lease.share_permille < 1000)
        if not choices:
            return decision
        if self.keeps(state, choices, held, capacity):
            return {**decision, **held}
        row = {job: index for index, job in enumerate(ids)}
        place = {pool: index for index, pool in enumerate(sorted(capacity))}
        choices.sort(key=lambda choice: (choice.job, choice.pool, choice.devices))
        current = np.full(len(ids), -1, dtype=np.int64)
        for index, choice in enumerate(choices):
            turn = held.get(choice.job)
            if turn is not None and (turn.pool, turn.devices) == (choice.pool, choice.devices):
                current[row[choice.job]] = index
        problem = RoundProblem(
            job=np.array([row[choice.job] for choice in choices], dtype=np.int64),
            model=np.array([place[choice.pool] for choice in choices], dtype=np.int64),
            devices=np.array([choice.devices for choice in choices], dtype=np.int64),
            pace=np.array([choice.pace for choice in choices]),
            age_s=ages(state, ids),
            held=current,
            capacity=np.array([capacity[pool] for pool in sorted(capacity)], dtype=np.int64),
            round_s=self.round_ms / 1000,
            restart_s=self.restart_ms / 1000,
        )
        for option in allocate(problem, self.weights).tolist():
            if option >= 0:
                choice = choices[option]
                decision[choice.job] = Turn(state.pools[choice.pool].model, choice.devices, choice.pool)
        return decision

    def keeps(
        self, state: RoundState, choices: Sequence[Choice], held: Mapping[JobId, Turn], capacity: Mapping[PoolId, int]
    ) -> bool:
        """Nothing that could change the decision has happened since the round before."""
        since = state.now - timedelta(milliseconds=self.round_ms)
        number = int(state.now.timestamp() * 1000) // self.round_ms
        if not held or number % REFRESH == 0 or any(job.submitted_at > since for job in state.jobs.values()):
            return False
        free = dict(capacity)
        for lease in state.leases.values():
            if lease.share_permille == 1000:
                free[lease.pool] = free.get(lease.pool, 0) - held[lease.job].devices
        if any(count < 0 for count in free.values()):
            return False
        pace = {(c.job, c.pool, c.devices): c.pace for c in choices}
        for choice in choices:
            here = held.get(choice.job)
            now = 0.0 if here is None else pace.get((choice.job, here.pool, here.devices), 0.0)
            if choice.pace > now and choice.devices <= free.get(choice.pool, 0):
                return False
        return True


def devices_of(state: RoundState) -> dict[PoolId, int]:
    """Devices of every pool on nodes that take jobs, less those that run shares."""
    found = dict.fromkeys(state.pools, 0)
    for node in state.nodes.values():
        if node.schedulable and node.pool in found:
            found[node.pool] += len(node.devices)
    shared = {
        (lease.pool, member.node, device)
        for lease in state.leases.values()
        if lease.share_permille < 1000
        for member in lease.members
        for device in member.devices
    }
    for pool, node_id, _ in shared:
        at = state.nodes.get(node_id)
        if at is not None and at.schedulable and pool in found:
            found[pool] -= 1
    return found


def turn_of(lease: RunningLease, pools: Mapping[PoolId, Pool]) -> Turn:
    pool = pools.get(lease.pool)
    return Turn("" if pool is None else pool.model, sum(len(member.devices) for member in lease.members), lease.pool)


def waiting_choices(state: RoundState, capacity: Mapping[PoolId, int]) -> list[Choice]:
    found = []
    for job in state.jobs.values():
        if job.gate is not None or job.share_permille < 1000:
            continue
        sizes = range(job.nodes if job.min_nodes is None else job.min_nodes, job.nodes + 1)
        for alternative in job.request.alternatives:
            for pool in state.pools.values():
                if not matches(alternative, pool) or not runs_on(job.stacks, pool):
                    continue
                for nodes in sizes:
                    devices = nodes * alternative.count
                    pace = pace_of(state, job.workload, job.remaining_steps, pool.model, devices, job.time_limit_ms)
                    if pace > 0 and devices <= capacity[pool.id]:
                        found.append(Choice(job.id, pool.id, devices, pace))
    return list(dict.fromkeys(found))


def running_choices(state: RoundState, capacity: Mapping[PoolId, int]) -> list[Choice]:
    """Where a running job could go on: the gang it has, on any model its workload has a throughput for. A job that is
    also listed with what it asked for may have all of that."""
    found = []
    for lease in state.leases.values():
        if lease.job in state.jobs or lease.share_permille < 1000:
            continue
        here = turn_of(lease, state.pools)
        left_ms = max(int((lease.ends_by - state.now).total_seconds() * 1000), 1)
        for pool in state.pools.values():
            known = lease.workload is not None and rate_per_ks(
                state.throughputs, lease.workload, pool.model, here.devices
            )
            if pool.id != lease.pool and not known:
                continue
            steps = lease.remaining_steps
            pace = pace_of(state, lease.workload, steps, pool.model, here.devices, left_ms)
            if pace <= 0 and pool.id == lease.pool:
                pace = 1000 / left_ms
            if pace > 0 and here.devices <= capacity[pool.id]:
                found.append(Choice(lease.job, pool.id, here.devices, pace))
    return found


def pace_of(
    state: RoundState, workload: str | None, steps: int | None, model: str, devices: int, limit_ms: int
) -> float:
    """Fraction of the remaining work done in a second. Unknown work or speed: as if it took all of limit_ms.
    A measured zero stays zero: the job cannot run there."""
    rate = rate_per_ks(state.throughputs, workload, model, devices) if workload is not None else None
    if rate == 0:
        return 0.0
    if rate is None or steps is None:
        return 1000 / max(limit_ms, 1)
    return rate / 1000 / max(steps, 1)


def ages(state: RoundState, ids: Sequence[JobId]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Seconds since each job was submitted; a running one counts from its lease, which is all that is known of it."""
    since = {job.id: job.submitted_at for job in state.jobs.values()}
    for lease in state.leases.values():
        submitted = getattr(lease, "submitted_at", None) or lease.started_at or state.now
        since.setdefault(lease.job, submitted)
    return np.array([max((state.now - since[job]).total_seconds(), 0.0) for job in ids])
