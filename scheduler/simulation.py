"""Simulation: the planner's own `step` on a virtual clock and the simulated backend. Not a mode of anything: a backend.

Time jumps from event to event (a job arrives, a lease ends). A job's duration holds on the first model it names and
scales to another by peak dense FP16 (catalogue); where a figure is missing it does not scale. Its time limit, which the
planner sees, is its duration on the slowest model it may run on.
"""

from __future__ import annotations

import csv
import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adapters.catalog import load_catalog
from scheduler.backends.simulated import EPOCH, SimulatedBackend
from scheduler.cluster import Cluster, chip_of
from scheduler.engine import EMPTY, Change, Clock, Remove, Set, State, Value, step
from scheduler.job import Alternative, FirmId, JobId, JobSpec, Money, Request
from scheduler.lease import Lease
from scheduler.node import Pool, PoolId
from scheduler.plan import Launch
from scheduler.policy import Policy
from scheduler.snapshot import RunningLease, Terms, WaitingJob
from scheduler.trace import TraceJob

REFERENCE = "H100"  # duration of a job that may run on any model holds on this one
MS_PER_HOUR = 3_600_000
DECISION_COLUMNS = (
    "job", "lease", "firm", "pool", "model", "rank", "node", "devices", "submit_s", "start_s", "end_s",
    "price_fen_per_device_hour",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One lease that was granted: when it started and ended, and where."""

    job: TraceJob
    launch: Launch
    start_ms: int
    end_ms: int
    price: int

    @property
    def gross_fen(self) -> int:
        """half_up(price × device time), design section 5 rule 1."""
        device_ms = self.launch.placement.device_count * (self.end_ms - self.start_ms)
        return (2 * self.price * device_ms + MS_PER_HOUR) // (2 * MS_PER_HOUR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a simulation came to. planned: launches and waits decided; wall_s: the planner's own time."""

    policy: str
    jobs: int
    devices: int
    runs: tuple[Run, ...]
    planned: int
    wall_s: float
    net_fen: int | None

    def document(self) -> dict[str, Any]:
        """Every figure but decisions_per_s can be recomputed from the decisions file and the trace.

        Times are from the first submission; utilisation is leased device time over all device time until the last end.
        """
        begin = min((run.job.submit_ms for run in self.runs), default=0)
        end = max((run.end_ms for run in self.runs), default=begin)
        jct = [run.end_ms - run.job.submit_ms for run in self.runs]
        queued = [run.start_ms - run.job.submit_ms for run in self.runs]
        busy = sum(run.launch.placement.device_count * (run.end_ms - run.start_ms) for run in self.runs)
        span = (end - begin) * self.devices
        return {
            "version": 1,
            "policy": self.policy,
            "jobs": self.jobs,
            "unfinished": self.jobs - len(self.runs),
            "makespan_s": (end - begin) / 1000,
            "jct_mean_s": _seconds(np.mean(jct)) if jct else None,
            "jct_p50_s": _seconds(np.percentile(jct, 50)) if jct else None,
            "jct_p99_s": _seconds(np.percentile(jct, 99)) if jct else None,
            "queue_mean_s": _seconds(np.mean(queued)) if queued else None,
            "utilisation": round(busy / span, 6) if span else None,
            "device_s": busy / 1000,
            "gross_fen": sum(run.gross_fen for run in self.runs),
            "net_fen": self.net_fen,
            "decisions": self.planned,
            "decisions_per_s": round(self.planned / self.wall_s) if self.wall_s > 0 else None,
        }

    def write_decisions(self, path: Path) -> None:
        """One CSV row per gang member of every lease, in order of start."""
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(DECISION_COLUMNS)
            for run in self.runs:
                for member in run.launch.placement.members:
                    writer.writerow(
                        [
                            run.job.job,
                            run.launch.lease,
                            run.job.firm,
                            run.launch.placement.pool,
                            run.launch.placement.model,
                            member.rank,
                            member.node,
                            "|".join(member.devices),
                            run.job.submit_ms / 1000,
                            run.start_ms / 1000,
                            run.end_ms / 1000,
                            run.price,
                        ]
                    )


def _seconds(ms: Any) -> float:
    return round(float(ms) / 1000, 6)


Charge = Callable[[Sequence[Run], Mapping[str, Pool]], int]


@dataclass(slots=True)
class _World:
    """What the simulation itself keeps: the clock, the jobs that come, what runs."""

    cluster: Cluster
    now: int = 0
    version: int = 0
    durations: dict[str, int] = field(default_factory=dict)
    running: list[tuple[int, str, Run]] = field(default_factory=list)
    done: list[Run] = field(default_factory=list)


def simulate(
    cluster: Cluster,
    trace: Sequence[TraceJob],
    policy: Policy,
    *,
    terms: Sequence[Terms] = (),
    charge: Charge | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Every job of the trace is run or left unfinished (no pool could ever run it). Same input, same result.

    terms: what firms pay where; without them list prices and no voucher. charge: what the firms pay net for these runs.
    """
    pools = {pool.id: pool for pool in cluster.pools}
    world = _World(cluster=cluster)
    backend = SimulatedBackend(clock=lambda: world.now, durations=world.durations)
    arrivals = sorted(trace, key=lambda job: job.submit_ms)
    by_id = {job.job: job for job in trace}
    known: tuple[Value, ...] = (*cluster.pools, *cluster.nodes, *terms)
    changes: list[Change] = [Set(value) for value in known]
    state, planned, wall, index = EMPTY, 0, 0.0, 0
    while index < len(arrivals) or world.running:
        nexts = [arrivals[index].submit_ms] if index < len(arrivals) else []
        world.now = min([*nexts, *([world.running[0][0]] if world.running else [])])
        while world.running and world.running[0][0] <= world.now:
            _, lease, run = heapq.heappop(world.running)
            world.done.append(run)
            changes.append(Remove(RunningLease, lease))
        while index < len(arrivals) and arrivals[index].submit_ms <= world.now:
            changes.append(Set(_waiting(arrivals[index], cluster)))
            index += 1
        world.version += 1
        began = time.perf_counter()
        state, plan = step(state, [Clock(_instant(world.now), world.version), *changes], policy)
        wall += time.perf_counter() - began
        planned += len(plan.launches) + len(plan.waits)
        changes = [change for launch in plan.launches for change in _start(world, backend, state, pools, by_id, launch)]
        if progress:
            progress(len(world.done))
    runs = tuple(sorted(world.done, key=lambda run: (run.start_ms, run.launch.lease)))
    return Result(
        policy=policy.name,
        jobs=len(trace),
        devices=cluster.device_count,
        runs=runs,
        planned=planned,
        wall_s=wall,
        net_fen=charge(runs, {str(k): v for k, v in pools.items()}) if charge else None,
    )


def _instant(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def _waiting(job: TraceJob, cluster: Cluster) -> WaitingJob:
    """The planner's view of a trace row: one alternative per model named, or one for any model."""
    count = job.devices_per_node
    names = [(name, _matching(name, cluster)) for name in job.models]
    alternatives = tuple(Alternative(text=f"{n}:{count}", count=count, models=m) for n, m in names) or (
        Alternative(text=f"any:{count}", count=count),
    )
    possible = {p.model for p in cluster.pools for _, m in names if p.model in m} if names else set(cluster.models)
    longest = max((duration_on(job, model) for model in possible), default=job.duration_ms)
    return WaitingJob(
        id=JobId(job.job),
        name=job.job,
        firm=FirmId(job.firm),
        queue=job.queue,
        priority=job.priority,
        submitted_at=_instant(job.submit_ms),
        nodes=job.nodes,
        time_limit_ms=max(1, longest),
        request=Request(alternatives=alternatives),
        money=Money(),
    )


def _matching(name: str, cluster: Cluster) -> tuple[str, ...]:
    """Models of the cluster that a trace's name means: itself, or another spelling of the same catalogue model."""
    if name in cluster.models:
        return (name,)
    meant = set(load_catalog().resolve(name))  # a family means each of its members
    same = sorted(m for m in cluster.models if m in meant or (meant and (chip := chip_of(m)) and chip.model in meant))
    return tuple(same) or (name,)


def duration_on(job: TraceJob, model: str) -> int:
    """Milliseconds on a model: as given on the job's first (any: REFERENCE), scaled by peak dense FP16, rounded."""
    first = job.models[0] if job.models else REFERENCE
    if model == first:
        return job.duration_ms
    here, there = chip_of(first), chip_of(model)
    if here is None or there is None or not here.fp16_tflops or not there.fp16_tflops:
        return job.duration_ms
    scaled: int = round(job.duration_ms * here.fp16_tflops / there.fp16_tflops)
    return scaled


def _start(
    world: _World,
    backend: SimulatedBackend,
    state: State,
    pools: Mapping[PoolId, Pool],
    by_id: Mapping[str, TraceJob],
    launch: Launch,
) -> list[Change]:
    job, waiting = by_id[launch.job], state.jobs[launch.job]
    pool = pools[launch.placement.pool]
    world.durations[launch.job] = duration_on(job, pool.model)
    spec = JobSpec(name=job.job, request=waiting.request, time_limit_ms=waiting.time_limit_ms, nodes=job.nodes)
    lease = Lease(
        id=launch.lease,
        job=launch.job,
        firm=launch.firm,
        spec=spec,
        placement=launch.placement,
        backend=backend.name,
        price_fen_per_device_hour=pool.price_fen_per_device_hour,
        reserved_at=_instant(world.now),
    )
    backend.launch(lease)
    end = backend.ends_at(launch.lease)
    run = Run(job=job, launch=launch, start_ms=world.now, end_ms=end, price=pool.price_fen_per_device_hour)
    heapq.heappush(world.running, (end, launch.lease, run))
    running = RunningLease(
        id=launch.lease,
        job=launch.job,
        firm=launch.firm,
        queue=job.queue,
        pool=launch.placement.pool,
        members=launch.placement.members,
        ends_by=_instant(world.now + waiting.time_limit_ms),
    )
    return [Remove(WaitingJob, launch.job), Set(running)]
