"""Online packing of a real trace: how much of a cluster's devices is allocated when pods arrive one by one.

Protocol (Weng et al., FGD, ATC 2023): pods arrive in a seeded order, up to 1.3 × what the cluster holds; one that fits
nowhere is dropped, one that fits is placed; none leaves. alloc(x) is the placed demand over the capacity when x % of the
capacity has arrived, in percent. Every pod goes through the planner's own `step`; the published figures of six policies
on the same orders are beside ours.

    python -m benchmarks openb --data DIR --trace NAME --seeds 42,43 [--migrations K[,K2,…]] [--decisions FILE] [-o json]

Which pods move within a budget is the planner's doing (scheduler/migration.py); all moves and the start of one event happen at once.
bound: what no placement, online or offline, can pass (openb_bound.py).
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adapters.accelerator import Origin, Source
from benchmarks.openb_bound import NodeClass, PodType, bounds
from benchmarks.run import commit, machine
from scheduler.engine import EMPTY, Change, Clock, Outlook, Remove, Set, State, step
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Launch, Migration
from scheduler.policy import Policy
from scheduler.registry import load_policy
from scheduler.snapshot import MixShape, RunningLease, WaitingJob

MARKS = (95, 100, 130)
START = datetime(2026, 1, 1, tzinfo=UTC)
BEGAN = START - timedelta(hours=1)
NEVER = datetime(2100, 1, 1, tzinfo=UTC)
FIRM = FirmId("openb")
PUBLISHED = {"Random": "01-Random", "DotProd": "02-DotProd", "GpuClustering": "03-GpuClustering",
             "GpuPacking": "04-GpuPacking", "BestFit": "05-BestFit", "FGD": "06-FGD"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pod:
    """One row of the pod list. milli: of each of its devices; models: () = any."""

    name: str
    cpu_milli: int
    memory_mib: int
    devices: int
    milli: int
    models: tuple[str, ...]

    @property
    def demand(self) -> int:
        return self.devices * self.milli


@dataclass(slots=True)
class Outcome:
    """One seed's run. events: (arrived, placed) demand after each pod."""

    seed: int
    capacity: int
    events: list[tuple[int, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    migrations: int = 0
    order: str = "published"

    def alloc(self) -> dict[str, float | None]:
        """Percent at each mark: the mean over the events whose arrived percentage rounds to it; None if none does."""
        found: dict[str, float | None] = {}
        for mark in MARKS:
            at = [placed for arrived, placed in self.events if round(100 * arrived / self.capacity) == mark]
            found[str(mark)] = round(100 * sum(at) / len(at) / self.capacity, 4) if at else None
        return found


def read_nodes(folder: Path) -> list[dict[str, str]]:
    """Rows of the node list, by serial number."""
    with (folder / "openb_node_list_gpu_node.csv").open(newline="") as rows:
        return sorted(csv.DictReader(rows), key=lambda row: row["sn"])


def read_pods(folder: Path, trace: str) -> list[Pod]:
    """The pod list of a trace, in its order. Columns that a trace lacks are empty."""
    path = folder / f"openb_pod_list_{trace}.csv.gz"
    with gzip.open(path, "rt", newline="") if path.exists() else path.with_suffix("").open(newline="") as rows:
        return [_pod(row) for row in csv.DictReader(rows)]


def _pod(row: dict[str, str]) -> Pod:
    devices = int(row["num_gpu"])
    models = tuple(m for m in (row.get("gpu_spec") or "").split("|") if m)
    milli = min(1000, int(row["gpu_milli"])) if devices else 0
    return Pod(row["name"], int(row["cpu_milli"]), int(row["memory_mib"]), devices, milli, models)


def arrival(
    folder: Path, trace: str, seed: int, pods: Sequence[Pod], nodes: int, capacity: int
) -> tuple[Any, Any, str]:
    """(pod rows in order, rank of each node, which order): the published one where it is there, else one of our own."""
    path = folder / "arrival_orders.npz"
    if path.exists():
        with np.load(path) as orders:
            if f"{trace}_{seed}_pods" in orders.files:
                return orders[f"{trace}_{seed}_pods"], orders[f"{trace}_{seed}_noderank"], "published"
    rng = np.random.default_rng(seed)
    rows = list(rng.permutation(len(pods)))
    total = sum(pod.demand for pod in pods)
    while True:
        extra = int(rng.integers(len(pods)))
        total += pods[extra].demand
        if total > 1.3 * capacity:
            return rows, rng.permutation(nodes), "own"
        rows.append(extra)


def cluster_of(rows: Sequence[dict[str, str]], ranks: Sequence[int]) -> list[Change]:
    """One pool a model; nodes in the order of their rank, so that ties fall as published."""
    changes: list[Change] = [
        Set(
            Pool(
                id=PoolId(model),
                provider="openb",
                site="openb",
                region="openb",
                backend="simulated",
                vendor="nvidia",
                model=model,
                origin=Origin.FOREIGN,
                memory_bytes=None,
                price_fen_per_device_hour=0,
                source=Source.SIMULATED,
            )
        )
        for model in sorted({row["model"] for row in rows})
    ]
    for row, rank in zip(rows, ranks, strict=True):
        name = f"{int(rank):06d}/{row['sn']}"
        devices = tuple(f"{row['sn']}/{i}" for i in range(int(row["gpu"])))
        changes.append(
            Set(
                Node(
                    id=NodeId(name),
                    pool=PoolId(row["model"]),
                    devices=devices,
                    cpu_milli=int(row["cpu_milli"]),
                    memory_bytes=int(row["memory_mib"]) << 20,
                )
            )
        )
    return changes


def mix_of(pods: Sequence[Pod]) -> tuple[MixShape, ...]:
    """How often each shape occurs in the pod list: what the published policy calls its typical pods."""
    counts = Counter((p.devices, p.milli, p.cpu_milli, p.models) for p in pods)
    return tuple(
        MixShape(weight=n, count=devices, share_permille=milli or 1000, cpu_milli=cpu, models=models)
        for (devices, milli, cpu, models), n in sorted(counts.items())
    )


def job_of(pod: Pod, number: int) -> WaitingJob:
    """The pod as a waiting job; its number keeps resampled pods apart."""
    return WaitingJob(
        id=JobId(f"{number:06d}/{pod.name}"), name=pod.name, firm=FIRM, queue="openb", priority=Priority.NORMAL,
        submitted_at=START, nodes=1, time_limit_ms=1, money=Money(),
        request=Request(alternatives=(Alternative(text=f"any:{pod.devices}", count=pod.devices, models=pod.models),)),
        cpu_milli=pod.cpu_milli, memory_bytes=pod.memory_mib << 20, share_permille=pod.milli or 1000,
    )  # fmt: skip


def lease_of(job: WaitingJob, launch: Launch) -> RunningLease:
    """The lease of a launch: it never ends. The protocol knows no time: every pod counts as past its guaranteed minimum, and as one
    that could go on elsewhere, so that a budget of migrations is all that limits moves."""
    return RunningLease(
        id=launch.lease, job=job.id, firm=job.firm, queue=job.queue, pool=launch.placement.pool,
        members=launch.placement.members, ends_by=NEVER, cpu_milli=job.cpu_milli, memory_bytes=job.memory_bytes,
        share_permille=job.share_permille, started_at=BEGAN, checkpoint_interval_ms=1, again=job,
    )  # fmt: skip


def run(
    folder: Path,
    trace: str,
    seed: int,
    policy: Policy,
    *,
    migrations: int = 0,
    write: Any = None,
    limit: int | None = None,
) -> Outcome:
    """All pods of one seed through `step`, one step a pod."""
    rows, pods = read_nodes(folder), read_pods(folder, trace)
    capacity = 1000 * sum(int(row["gpu"]) for row in rows)
    order, ranks, which = arrival(folder, trace, seed, pods, len(rows), capacity)
    outcome = Outcome(seed, capacity, order=which)
    now, arrived, placed = START, 0, 0
    mix = mix_of(pods)
    state, _ = step(EMPTY, [Clock(now, 0), Outlook(mix, migrations), *cluster_of(rows, ranks)], policy)
    changes: list[Change] = []
    gc.collect()
    gc.freeze()  # what is there before the first pod is not looked through again while decisions are timed
    for number, index in enumerate(order[:limit]):
        pod = pods[int(index)]
        job = job_of(pod, number)
        arrived += pod.demand
        changes.append(Set(job))
        began = time.perf_counter()
        state, plan = step(state, changes, policy)
        outcome.seconds.append(time.perf_counter() - began)
        changes = [Remove(WaitingJob, job.id)]
        for move in plan.migrations:
            outcome.migrations += 1
            changes.append(Set(_moved(state, move)))
            if write:
                lease = state.leases[move.lease]
                write.writerow(
                    [number, "move", lease.job, move.to.node, "|".join(move.to.devices), lease.share_permille]
                )
        if plan.migrations:
            changes.append(Outlook(mix, migrations - outcome.migrations))
        for launch in plan.launches:
            changes.append(Set(lease_of(job, launch)))
            placed += pod.demand
            if write:
                for member in launch.placement.members:
                    write.writerow([number, "place", job.id, member.node, "|".join(member.devices), job.share_permille])
        if write and not plan.launches:
            write.writerow([number, "drop", job.id, "", "", job.share_permille])
        outcome.events.append((arrived, placed))
    gc.unfreeze()
    return outcome


def _moved(state: State, move: Migration) -> RunningLease:
    lease = state.leases[LeaseId(move.lease)]
    members = tuple(move.to if m.rank == move.rank else m for m in lease.members)
    return replace(lease, pool=state.nodes[move.to.node].pool, members=members)


def bound_of(folder: Path, trace: str, seed: int) -> dict[str, float | None]:
    """What no placement of this seed's pods can pass, percent at each mark (openb_bound.py)."""
    rows, pods = read_nodes(folder), read_pods(folder, trace)
    capacity = 1000 * sum(int(row["gpu"]) for row in rows)
    order, _, _ = arrival(folder, trace, seed, pods, len(rows), capacity)
    types = [PodType(p.devices, p.milli, p.cpu_milli, p.memory_mib, p.models) for p in pods]
    nodes = [NodeClass(r["model"], int(r["gpu"]), int(r["cpu_milli"]), int(r["memory_mib"])) for r in rows]
    return bounds(nodes, [types[int(i)] for i in order], capacity, MARKS)


def published(folder: Path, trace: str, seeds: Sequence[int]) -> dict[str, dict[str, float | None]]:
    """The authors' figures on these seeds, mean; None where a seed is not among them."""
    found: dict[str, dict[str, list[float]]] = {}
    path = folder / "published_alloc_ratio.csv.gz"
    if path.exists():
        with gzip.open(path, "rt", newline="") as rows:
            for row in csv.DictReader(rows):
                if row["workload"] == f"openb_pod_list_{trace}" and int(row["seed"]) in seeds:
                    for mark in MARKS:
                        found.setdefault(row["sc_policy"], {}).setdefault(str(mark), []).append(float(row[str(mark)]))
    means = {}
    for name, label in PUBLISHED.items():
        marks = found.get(label, {})
        means[name] = {m: round(sum(v) / len(v), 4) if len(v) == len(seeds) else None for m, v in _marks(marks)}
    return means


def _marks(found: dict[str, list[float]]) -> Iterator[tuple[str, list[float]]]:
    return ((str(mark), found.get(str(mark), [])) for mark in MARKS)


def measure_trace(
    folder: Path, trace: str, seeds: Sequence[int], *, policy: str = "net_cost", migrations: int = 0,
    also: Sequence[int] = (), decisions: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The whole document of one trace. Every figure and decision is of the budget `migrations`; also: further budgets, of which only
    alloc and the moves used are reported."""
    out = decisions.open("w", newline="", encoding="utf-8") if decisions else None
    writer = csv.writer(out) if out else None
    if writer:
        writer.writerow(["seed_event", "action", "pod", "node", "devices", "share_permille"])
    outcomes = []
    for seed in seeds:
        if writer:
            writer.writerow([f"seed {seed}", "", "", "", "", ""])
        outcomes.append(run(folder, trace, seed, load_policy(policy), migrations=migrations, write=writer))
    if out:
        out.close()
    each = {str(o.seed): o.alloc() for o in outcomes}
    under = {migrations: outcomes}
    for budget in also:
        if budget not in under:
            under[budget] = [run(folder, trace, seed, load_policy(policy), migrations=budget) for seed in seeds]
    seconds = np.array([s for o in outcomes for s in o.seconds])
    limits = {str(seed): bound_of(folder, trace, seed) for seed in seeds}
    return {
        "benchmark": "openb",
        "commit": commit(),
        "machine": machine(),
        "trace": trace,
        "seeds": list(seeds),
        "orders": {str(o.seed): o.order for o in outcomes},
        "policy": policy,
        "migrations": {
            "budget": migrations,
            "used": {str(o.seed): o.migrations for o in outcomes},
            "alloc": {str(k): _means([o.alloc() for o in found]) for k, found in under.items()},
            "used_by_budget": {str(k): {str(o.seed): o.migrations for o in found} for k, found in under.items()},
        },
        "alloc": _means(list(each.values())),
        "alloc_by_seed": each,
        "published": published(folder, trace, seeds),
        "bound": _means(list(limits.values())),
        "bound_by_seed": limits,
        "placements_per_s": round(len(seconds) / seconds.sum()),
        "decision_ms": {
            "p50": round(1000 * float(np.percentile(seconds, 50)), 3),
            "p99": round(1000 * float(np.percentile(seconds, 99)), 3),
        },
    }


def _means(found: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    return {str(m): _mean([one[str(m)] for one in found]) for m in MARKS}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return round(sum(known) / len(known), 4) if known and len(known) == len(values) else None


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; 0, or 2 where the data is not there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks openb", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trace", required=True)
    parser.add_argument("--seeds", default="42")
    parser.add_argument(
        "--migrations", default="0", help="most moves a seed; K,K2,…: alloc is reported for the others too"
    )
    parser.add_argument("--policy", default="net_cost")
    parser.add_argument("--decisions", type=Path)
    parser.add_argument("-o", dest="output", choices=["json", "table"], default="table")
    given = parser.parse_args(arguments)
    try:
        seeds = [int(seed) for seed in given.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds: {given.seeds!r} must be whole numbers with commas between, such as 42,43")
    try:
        budgets = [int(budget) for budget in given.migrations.split(",")]
    except ValueError:
        budgets = [-1]
    if min(budgets) < 0:
        parser.error(
            f"--migrations: {given.migrations!r} must be whole numbers from 0 with commas between, such as 0,50,200"
        )
    try:
        found = measure_trace(given.data, given.trace, seeds, policy=given.policy, migrations=budgets[0],
                              also=budgets[1:], decisions=given.decisions)  # fmt: skip
    except FileNotFoundError as problem:
        parser.error(f"--data/--trace: {problem.filename} is not there")
    if given.output == "json":
        print(json.dumps(found))
        return 0
    print(f"{found['trace']}: {found['placements_per_s']} placements/s, p50 {found['decision_ms']['p50']} ms, "
          f"p99 {found['decision_ms']['p99']} ms; migrations {found['migrations']['used']}")  # fmt: skip
    others = {f"ours, {k} moves": marks for k, marks in found["migrations"]["alloc"].items() if k != str(budgets[0])}
    rows = {"ours": found["alloc"], **others, **found["published"], "bound": found["bound"]}
    for name, marks in rows.items():
        print(
            f"{name:16s}"
            + "".join(f"{'-' if marks[str(m)] is None else format(marks[str(m)], '.2f'):>9s}" for m in MARKS)
        )
    return 0
