"""Simulation: a trace replayed on a cluster (`scheduler.playback`), and the figures of it.

A job's duration holds on the first model it names; on another it scales by the throughput table where that knows the
job's workload there, else by peak dense FP16 (catalogue); where a figure is missing it does not scale. Its time limit, which
the planner sees, is its duration on the slowest model it may run on.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adapters.catalog import load_catalog
from scheduler.backends.simulated import EPOCH
from scheduler.cluster import Cluster, chip_of
from scheduler.engine import Outlook, Value
from scheduler.job import Alternative, FirmId, JobId, Money, Request
from scheduler.netcost import Profiles, predicted_ms, profiles_of
from scheduler.node import Pool
from scheduler.playback import DONE, Playback, Run
from scheduler.policy import Policy
from scheduler.snapshot import MixShape, Terms, Throughput, WaitingJob
from scheduler.trace import TraceJob

REFERENCE = "H100"  # duration of a job that may run on any model holds on this one
DECISION_COLUMNS = (
    "job", "lease", "firm", "pool", "model", "rank", "node", "devices", "submit_s", "start_s", "end_s",
    "price_fen_per_device_hour", "share_permille", "ended",
)  # fmt: skip


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

        Times are from the first submission; utilisation is leased device time (a share counts as such) over all device time
        until the last end; a job queues whenever it neither runs nor has ended.
        """
        by_job: dict[str, list[Run]] = {}
        for run in self.runs:
            by_job.setdefault(run.job.id, []).append(run)
        done = {job: runs for job, runs in by_job.items() if any(run.ended == DONE for run in runs)}
        begin = min((run.submit_ms for run in self.runs), default=0)
        end = max((run.end_ms for run in self.runs), default=begin)
        jct = [max(run.end_ms for run in runs) - runs[0].submit_ms for runs in done.values()]
        queued = [t - sum(r.end_ms - r.start_ms for r in runs) for t, runs in zip(jct, done.values(), strict=True)]
        busy = sum(run.device_ms_permille for run in self.runs)
        span = (end - begin) * self.devices * 1000
        return {
            "version": 1,
            "policy": self.policy,
            "jobs": self.jobs,
            "unfinished": self.jobs - len(done),
            "makespan_s": (end - begin) / 1000,
            "jct_mean_s": _seconds(np.mean(jct)) if jct else None,
            "jct_p50_s": _seconds(np.percentile(jct, 50)) if jct else None,
            "jct_p99_s": _seconds(np.percentile(jct, 99)) if jct else None,
            "queue_mean_s": _seconds(np.mean(queued)) if queued else None,
            "utilisation": round(busy / span, 6) if span else None,
            "device_s": busy / 1_000_000,
            "gross_fen": sum(run.gross_fen for run in self.runs),
            "net_fen": self.net_fen,
            "restarts": sum(run.ended != DONE for run in self.runs),
            "decisions": self.planned,
            "decisions_per_s": round(self.planned / self.wall_s) if self.wall_s > 0 else None,
        }

    def write_decisions(self, path: Path) -> None:
        """One CSV row per gang member of every lease and stay on the same devices, in order of start."""
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(DECISION_COLUMNS)
            for run in self.runs:
                for member in run.launch.placement.members:
                    writer.writerow(
                        [
                            run.job.id,
                            run.launch.lease,
                            run.job.firm,
                            run.launch.placement.pool,
                            run.launch.placement.model,
                            member.rank,
                            member.node,
                            "|".join(member.devices),
                            run.submit_ms / 1000,
                            run.start_ms / 1000,
                            run.end_ms / 1000,
                            run.price,
                            run.share_permille,
                            run.ended,
                        ]
                    )


def _seconds(ms: Any) -> float:
    return round(float(ms) / 1000, 6)


Charge = Callable[[Sequence[Run], Mapping[str, Pool]], int]


def simulate(
    cluster: Cluster,
    trace: Sequence[TraceJob],
    policy: Policy,
    *,
    terms: Sequence[Terms] = (),
    throughputs: Sequence[Throughput] = (),
    outlook: Outlook | None = None,
    restart_ms: int = 0,
    charge: Charge | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Every job of the trace is run or left unfinished (no pool could ever run it). Same input, same result.

    terms: what firms pay where; without them list prices and no voucher. charge: what the firms pay net for these runs.
    outlook: the mix to expect and how many members a plan may move; `mix_of` makes one. restart_ms: of every later start.
    """
    profiles = profiles_of(throughputs)
    by_id = {job.job: job for job in trace}
    arrivals = sorted(trace, key=lambda job: job.submit_ms)
    playback = Playback(
        policy=policy,
        lasts=lambda job, model, devices: duration_on(by_id[job.id], model, profiles, devices),
        restart_ms=restart_ms,
        outlook=outlook or Outlook(),
    )
    known: tuple[Value, ...] = (*cluster.pools, *cluster.nodes, *terms, *throughputs)
    playback.play(known, [(job.submit_ms, waiting_of(job, cluster, profiles)) for job in arrivals], progress=progress)
    runs = tuple(sorted(playback.runs, key=lambda run: (run.start_ms, run.launch.lease, run.end_ms)))
    return Result(
        policy=policy.name,
        jobs=len(trace),
        devices=cluster.device_count,
        runs=runs,
        planned=playback.planned,
        wall_s=playback.wall_s,
        net_fen=charge(runs, {str(pool.id): pool for pool in cluster.pools}) if charge else None,
    )


def mix_of(trace: Sequence[TraceJob], cluster: Cluster) -> tuple[MixShape, ...]:
    """The shapes of these jobs' members, each weighed by how many members came."""
    found: Counter[MixShape] = Counter()
    for job in trace:
        shape = MixShape(
            weight=1,
            count=job.devices_per_node,
            share_permille=job.share_permille,
            cpu_milli=job.cpu_milli,
            memory_bytes=job.memory_bytes,
            models=tuple(dict.fromkeys(model for name in job.models for model in _matching(name, cluster))),
        )
        found[shape] += job.nodes
    return tuple(
        MixShape(
            weight=weight,
            count=one.count,
            share_permille=one.share_permille,
            cpu_milli=one.cpu_milli,
            memory_bytes=one.memory_bytes,
            models=one.models,
        )
        for one, weight in sorted(found.items(), key=repr)
    )


def waiting_of(job: TraceJob, cluster: Cluster, profiles: Profiles | None = None) -> WaitingJob:
    """The planner's view of a trace row: one alternative per model named, or one for any model."""
    count = job.devices_per_node
    names = [(name, _matching(name, cluster)) for name in job.models]
    alternatives = tuple(Alternative(text=f"{n}:{count}", count=count, models=m) for n, m in names) or (
        Alternative(text=f"any:{count}", count=count),
    )
    possible = {p.model for p in cluster.pools for _, m in names if p.model in m} if names else set(cluster.models)
    longest = max((duration_on(job, model, profiles or {}) for model in possible), default=job.duration_ms or 0)
    return WaitingJob(
        id=JobId(job.job),
        name=job.job,
        firm=FirmId(job.firm),
        queue=job.queue,
        priority=job.priority,
        submitted_at=EPOCH + timedelta(milliseconds=job.submit_ms),
        nodes=job.nodes,
        time_limit_ms=max(1, longest),
        request=Request(alternatives=alternatives),
        money=Money(),
        cpu_milli=job.cpu_milli,
        memory_bytes=job.memory_bytes,
        share_permille=job.share_permille,
        workload=job.workload,
        remaining_steps=job.steps,
    )


def _matching(name: str, cluster: Cluster) -> tuple[str, ...]:
    """Models of the cluster that a trace's name means: itself, or another spelling of the same catalogue model."""
    if name in cluster.models:
        return (name,)
    meant = set(load_catalog().resolve(name))  # a family means each of its members
    same = sorted(m for m in cluster.models if m in meant or (meant and (chip := chip_of(m)) and chip.model in meant))
    return tuple(same) or (name,)


def duration_on(job: TraceJob, model: str, profiles: Profiles | None = None, devices: int | None = None) -> int:
    """Milliseconds of the whole job on a model, rounded. devices: fewer than it asks for, and then it takes longer.

    By its steps at the throughput there; else as given on the job's first model (any: REFERENCE), scaled by the throughputs
    of its workload on both, else by peak dense FP16. Steps that no throughput and no catalogue figure tell anything about on
    this model take as long as on the slowest one that is known.
    """
    known, asked = profiles or {}, max(1, job.nodes * job.devices_per_node)
    devices = devices or asked
    if job.steps is not None:
        found = _by_table(job, model, devices, job.steps, known)
        if found is not None:
            return found
        models = known.get(job.workload or "", {})
        return max(_by_table(job, one, devices, job.steps, known) or 0 for one in models)
    assert job.duration_ms is not None, "the reader of a trace demands one of the two"
    given = job.duration_ms if devices == asked else -(-job.duration_ms * asked // devices)
    first = job.models[0] if job.models else REFERENCE
    if model == first:
        return given
    here, there = (_measured(job, name, devices, known) for name in (first, model))
    if here and there:
        return (2 * given * there + here) // (2 * here)
    ours, theirs = chip_of(first), chip_of(model)
    if ours is None or theirs is None or not ours.fp16_tflops or not theirs.fp16_tflops:
        return given
    scaled: int = round(given * ours.fp16_tflops / theirs.fp16_tflops)
    return scaled


PROBE = 10**9  # steps by which two speeds are compared


def _measured(job: TraceJob, model: str, devices: int, profiles: Profiles) -> int | None:
    """Milliseconds of PROBE steps there, where the table has the workload on this model."""
    if job.workload is None or model not in profiles.get(job.workload, {}):
        return None
    return _by_table(job, model, devices, PROBE, profiles)


def _by_table(job: TraceJob, model: str, devices: int, steps: int, profiles: Profiles) -> int | None:
    asked = WaitingJob(
        id=JobId(job.job), name=job.job, firm=FirmId(job.firm), queue=job.queue, priority=job.priority,
        submitted_at=EPOCH, nodes=job.nodes, time_limit_ms=1, request=Request(alternatives=()), money=Money(),
        workload=job.workload, remaining_steps=steps,
    )  # fmt: skip
    return predicted_ms(asked, model, devices, profiles)
