"""The simulator's jobs as the planner sees them: pools, nodes, waiting jobs, leases, throughputs; and back as a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from adapters.accelerator import Origin, Source
from benchmarks.gavel_simulation import Active, usable
from benchmarks.gavel_trace import MODELS, Ints, Trace
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member, lease_id
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.policies.rounds import RoundDecision, Rounds
from scheduler.snapshot import RunningLease, Throughput, WaitingJob

START = datetime(2026, 1, 1, tzinfo=UTC)
FAR = START + timedelta(days=36_500)
SCALE = 1000  # a step counts as 1000, so that slow jobs keep their rate as an integer


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The tables of the engine's state that a round policy reads."""

    now: datetime
    pools: Mapping[PoolId, Pool]
    nodes: Mapping[NodeId, Node]
    throughputs: Mapping[tuple[str, str, int], Throughput]
    jobs: Mapping[JobId, WaitingJob] = field(default_factory=dict)
    leases: Mapping[LeaseId, RunningLease] = field(default_factory=dict)


def decide(state: View, policy: Rounds) -> RoundDecision:
    """The one place where the benchmark asks for a decision."""
    return policy.allocate_round(state)


class Planned:
    """A decision of the simulator taken by a round policy of the planner."""

    def __init__(self, trace: Trace, capacity: Ints, policy: Rounds) -> None:
        self.policy = policy
        self.trace = trace
        self.index = {PoolId(name): model for model, name in enumerate(MODELS)}
        self.pools = {PoolId(name): pool_of(name) for name in MODELS}
        self.nodes = {
            NodeId(name): Node(
                id=NodeId(name), pool=PoolId(name), devices=tuple(f"{name}-{i}" for i in range(int(capacity[model])))
            )
            for model, name in enumerate(MODELS)
        }
        rate = usable(trace.rate, policy.restart_ms / 1000)
        self.throughputs = {
            (f"{kind} x{gang}", model, gang): Throughput(
                workload=f"{kind} x{gang}", model=model, devices=gang, steps_per_ks=round(pace * 1000 * SCALE)
            )
            for kind, gang, rates in zip(trace.workload, trace.gang.tolist(), rate.tolist(), strict=True)
            for model, pace in zip(MODELS, rates, strict=True)
        }

    def __call__(self, active: Active) -> Ints:
        jobs = {job.id: job for job in map(self.job, *self.columns(active))}
        leases = {}
        for row, held, gang in zip(active.rows.tolist(), active.held.tolist(), active.gang.tolist(), strict=True):
            if held >= 0:
                lease = self.lease(row, held, gang)
                leases[lease.id] = lease
        state = View(
            now=START + timedelta(seconds=active.now_s), pools=self.pools, nodes=self.nodes,
            throughputs=self.throughputs, jobs=jobs, leases=leases,
        )  # fmt: skip
        decision = decide(state, self.policy)
        choice = np.full(len(active.rows), -1, dtype=np.int64)
        for at, row in enumerate(active.rows.tolist()):
            turn = decision.get(JobId(f"j{row:06d}"))
            if turn is not None:
                choice[at] = self.index[turn.pool]
        return choice

    def columns(self, active: Active) -> tuple[list[int], list[float], list[float]]:
        return active.rows.tolist(), active.remaining.tolist(), active.arrival_s.tolist()

    def job(self, row: int, remaining: float, arrival_s: float) -> WaitingJob:
        gang = int(self.trace.gang[row])
        return WaitingJob(
            id=JobId(f"j{row:06d}"), name=f"j{row}", firm=FirmId("f"), queue="q", priority=Priority.NORMAL,
            submitted_at=START + timedelta(seconds=arrival_s), nodes=1, time_limit_ms=10**12,
            request=Request(alternatives=(Alternative(text="", count=gang),)), money=Money(),
            workload=f"{self.trace.workload[row]} x{gang}", remaining_steps=max(round(remaining * SCALE), 1),
        )  # fmt: skip

    def lease(self, row: int, held: int, gang: int) -> RunningLease:
        job = JobId(f"j{row:06d}")
        member = Member(rank=0, node=NodeId(MODELS[held]), devices=tuple(f"{i}" for i in range(gang)))
        return RunningLease(
            id=lease_id(job, 1), job=job, firm=FirmId("f"), queue="q", pool=PoolId(MODELS[held]), members=(member,),
            ends_by=FAR,
        )  # fmt: skip


def pool_of(name: str) -> Pool:
    return Pool(
        id=PoolId(name), provider="p", site="s", region="r", backend="simulated", vendor="nvidia", model=name,
        origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=0, source=Source.SIMULATED,
    )  # fmt: skip
