"""The simulator's jobs as the planner's facts, and the planner's plan as a choice of models. Every placement is the plan's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from adapters.accelerator import Origin, Source
from benchmarks.gavel_simulation import Active, usable
from benchmarks.gavel_trace import MODELS, Ints, Trace
from scheduler.engine import EMPTY, Change, Clock, Remove, Set, State, step
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Launch, Plan
from scheduler.policies.rounds import Rounds
from scheduler.snapshot import RunningLease, Throughput, WaitingJob

START = datetime(2026, 1, 1, tzinfo=UTC)
FAR = timedelta(days=36_500)
SCALE = 1000  # a step counts as 1000, so that slow jobs keep their rate as an integer


def decide(state: State, changes: Iterable[Change], policy: Rounds) -> tuple[State, Plan]:
    """The one place where the benchmark asks for a decision."""
    return step(state, changes, policy)


class Planned:
    """A decision of the simulator taken by the planner: it tells the planner what happened and does what the plan says.

    A stopped job writes a checkpoint first, as in Gavel: nothing is lost but the restart.
    """

    def __init__(self, trace: Trace, capacity: Ints, policy: Rounds) -> None:
        self.trace, self.policy = trace, policy
        self.state = EMPTY
        self.waiting: dict[int, WaitingJob] = {}
        self.running: dict[int, RunningLease] = {}
        self.version = 0
        self.model = {PoolId(name): number for number, name in enumerate(MODELS)}
        self.changes: list[Change] = [*map(Set, cluster_of(capacity)), *map(Set, self.throughputs())]

    def throughputs(self) -> list[Throughput]:
        rate = usable(self.trace.rate, self.policy.restart_ms / 1000)
        found = {
            (kind, gang, model): Throughput(
                workload=f"{kind} x{gang}", model=model, devices=gang, steps_per_ks=round(pace * 1000 * SCALE)
            )
            for kind, gang, rates in zip(self.trace.workload, self.trace.gang.tolist(), rate.tolist(), strict=True)
            for model, pace in zip(MODELS, rates, strict=True)
        }
        return list(found.values())

    def __call__(self, active: Active) -> Ints:
        now = START + timedelta(seconds=active.now_s)
        self.version += 1
        self.observe(active, now)
        self.state, plan = decide(self.state, [Clock(now, self.version), *self.changes], self.policy)
        self.changes = []
        self.carry_out(plan, now)
        rows = active.rows.tolist()
        held = [self.model[self.running[row].pool] if row in self.running else -1 for row in rows]
        return np.array(held, dtype=np.int64)

    def observe(self, active: Active, now: datetime) -> None:
        """Who came, who finished, and what is left of those that run."""
        left = dict(zip(active.rows.tolist(), active.remaining.tolist(), strict=True))
        for row in [row for row in self.running if row not in left]:
            self.changes.append(Remove(RunningLease, self.running.pop(row).id))
        for row, remaining in left.items():
            steps = max(round(remaining * SCALE), 1)
            lease = self.running.get(row)
            if lease is not None:
                assert lease.again is not None, "every lease of the benchmark may be moved"
                again = replace(lease.again, remaining_steps=steps)
                lease = replace(lease, remaining_steps=steps, checkpointed_at=now, again=again)
                self.running[row] = lease
                self.changes.append(Set(lease))
            elif row not in self.waiting:
                self.waiting[row] = self.job(row, steps)
                self.changes.append(Set(self.waiting[row]))

    def carry_out(self, plan: Plan, now: datetime) -> None:
        for preempt in plan.preempts:
            lease = self.running.pop(row_of(preempt.job))
            assert lease.again is not None, "every lease of the benchmark may be moved"
            self.waiting[row_of(preempt.job)] = lease.again
            self.changes += [Remove(RunningLease, lease.id), Set(lease.again)]
        for launch in plan.launches:
            job = self.waiting.pop(row_of(launch.job))
            lease = lease_of(launch, job, now)
            self.running[row_of(launch.job)] = lease
            self.changes += [Remove(WaitingJob, job.id), Set(lease)]

    def job(self, row: int, steps: int) -> WaitingJob:
        gang = int(self.trace.gang[row])
        return WaitingJob(
            id=JobId(f"j{row:06d}"), name=f"j{row}", firm=FirmId("f"), queue="q", priority=Priority.NORMAL,
            submitted_at=START + timedelta(seconds=float(self.trace.arrival_s[row])), nodes=1, time_limit_ms=10**12,
            request=Request(alternatives=(Alternative(text="", count=gang),)), money=Money(),
            workload=f"{self.trace.workload[row]} x{gang}", remaining_steps=steps,
        )  # fmt: skip


def lease_of(launch: Launch, job: WaitingJob, now: datetime) -> RunningLease:
    return RunningLease(
        id=LeaseId(launch.lease), job=job.id, firm=job.firm, queue=job.queue, pool=launch.placement.pool,
        members=launch.placement.members, ends_by=now + FAR, started_at=now, workload=job.workload,
        remaining_steps=job.remaining_steps, again=replace(job, attempt=job.attempt + 1),
    )  # fmt: skip


def row_of(job: JobId) -> int:
    return int(job[1:])


def cluster_of(capacity: Ints) -> list[Pool | Node]:
    """A pool of one node for each model: Gavel's rates are of gangs that lie together, so where they lie has no meaning."""
    found: list[Pool | Node] = []
    for name, count in zip(MODELS, capacity.tolist(), strict=True):
        found.append(pool_of(name))
        if count:
            devices = tuple(f"{name}-{i}" for i in range(count))
            found.append(Node(id=NodeId(name), pool=PoolId(name), devices=devices))
    return found


def pool_of(name: str) -> Pool:
    return Pool(
        id=PoolId(name), provider="p", site="s", region="r", backend="simulated", vendor="nvidia", model=name,
        origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=0, source=Source.SIMULATED,
    )  # fmt: skip
