"""How fast the planner decides for a large zone: one plan from cold, then a thousand steps of little change.

The zone: nodes of eight devices, six models, 60 % of the devices leased in scattered pieces. The queue: gangs from 1 to 512
devices, at least 2,000 distinct shapes of request. Each tick ends a few leases and brings a few jobs; what the plan
launches is applied by the next tick.

    python -m benchmarks scale --nodes 10000 --jobs 50000 [--ticks 1000] [--seed 1] [--policy NAME] [--decisions FILE] [-o json]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adapters.accelerator import Origin, Source
from benchmarks.run import commit, machine
from scheduler.engine import EMPTY, Change, Clock, Outlook, Remove, Set, State, step
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Plan
from scheduler.registry import load_policy
from scheduler.snapshot import MixShape, RunningLease, WaitingJob

START = datetime(2026, 6, 1, tzinfo=UTC)
TICK = timedelta(seconds=1)
MODELS = (
    ("Ascend910B3", Origin.DOMESTIC, 1500), ("MLU590", Origin.DOMESTIC, 1200), ("DCU-K100", Origin.DOMESTIC, 1000),
    ("H800", Origin.FOREIGN, 3000), ("A800", Origin.FOREIGN, 2000), ("H20-96GB", Origin.FOREIGN, 1800),
)  # fmt: skip
PER_NODE = 8
FULL = 0.6
LARGEST = 512
GIB = 1 << 30


def zone(nodes: int, rng: random.Random) -> tuple[list[Change], list[RunningLease]]:
    """Pools and nodes, and leases of 1 to 8 devices on nodes here and there until 60 % of the devices are taken."""
    changes: list[Change] = []
    leases: list[RunningLease] = []
    for name, origin, price in MODELS:
        changes.append(
            Set(
                Pool(
                    id=PoolId(name),
                    provider="p",
                    site="s",
                    region="r",
                    backend="simulated",
                    vendor="v",
                    model=name,
                    origin=origin,
                    memory_bytes=64 * GIB,
                    price_fen_per_device_hour=price,
                    source=Source.SIMULATED,
                )
            )
        )
    for number in range(nodes):
        pool = PoolId(MODELS[number % len(MODELS)][0])
        name = NodeId(f"n{number:06d}")
        devices = tuple(f"{name}/{i}" for i in range(PER_NODE))
        changes.append(
            Set(
                Node(
                    id=name,
                    pool=pool,
                    devices=devices,
                    cpu_milli=192_000,
                    memory_bytes=2048 * GIB,
                    rack=f"{pool}/{number // 96}",
                )
            )
        )
        first = 0
        while rng.random() < 0.85 and first < PER_NODE:
            count = min(PER_NODE - first, rng.choice((1, 1, 2, 4, 8)))
            if sum(len(lease.members[0].devices) for lease in leases[-200:]) / (200 * PER_NODE) > 1:
                break
            leases.append(lease_on(pool, name, devices[first : first + count], len(leases), rng))
            first += count
    taken = sum(len(lease.members[0].devices) for lease in leases)
    rng.shuffle(leases)
    while leases and taken > FULL * nodes * PER_NODE:
        taken -= len(leases.pop().members[0].devices)
    return changes + [Set(lease) for lease in leases], leases


def lease_on(pool: PoolId, node: NodeId, devices: tuple[str, ...], number: int, rng: random.Random) -> RunningLease:
    """A lease of one node that ends within three days."""
    return RunningLease(
        id=LeaseId(f"old{number:07d}.1"), job=JobId(f"old{number:07d}"), firm=FirmId("f0"), queue="q0", pool=pool,
        members=(Member(rank=0, node=node, devices=devices),), started_at=START,
        ends_by=START + timedelta(seconds=rng.randrange(600, 259_200)), cpu_milli=4000 * len(devices),
        memory_bytes=16 * GIB * len(devices),
    )  # fmt: skip


def job(number: int, at: datetime, rng: random.Random) -> WaitingJob:
    """Mostly small jobs, some gangs up to 512 devices; per-device CPU and memory vary, so that shapes are many."""
    nodes = rng.choice((1, 1, 1, 1, 1, 1, 2, 2, 4, 8, 16, 32, 64)) if rng.random() < 0.4 else 1
    count = PER_NODE if nodes > 1 else rng.choice((1, 1, 1, 2, 2, 4, 8))
    models = tuple(name for name, _, _ in rng.sample(MODELS, rng.choice((1, 1, 2, 6))))
    return WaitingJob(
        id=JobId(f"j{number:07d}"), name="j", firm=FirmId(f"f{rng.randrange(50)}"), queue=f"q{rng.randrange(20)}",
        priority=rng.choice((Priority.NORMAL, Priority.NORMAL, Priority.HIGH, Priority.LOW)), submitted_at=at, nodes=nodes,
        time_limit_ms=rng.randrange(1, 72) * 3_600_000, money=Money(), cpu_milli=count * rng.randrange(1000, 13_000, 500),
        memory_bytes=count * rng.randrange(4, 36) * GIB,
        request=Request(alternatives=tuple(Alternative(text=f"{m}:{count}", count=count, models=(m,)) for m in models)),
    )  # fmt: skip


def applied(state: State, plan: Plan, now: datetime) -> list[Change]:
    """What comes of a plan: the launches run, the preempted wait no more than before."""
    changes: list[Change] = [Remove(RunningLease, one.lease) for one in plan.preempts]
    for launch in plan.launches:
        asked = state.jobs[launch.job]
        lease = RunningLease(
            id=launch.lease, job=launch.job, firm=launch.firm, queue=asked.queue, pool=launch.placement.pool,
            members=launch.placement.members, ends_by=now + timedelta(milliseconds=asked.time_limit_ms),
            cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes, started_at=now,
        )  # fmt: skip
        changes += [Remove(WaitingJob, launch.job), Set(lease)]
    return changes


def measure_scale(nodes: int, jobs: int, *, ticks: int = 1000, seed: int = 1, policy: str = "net_cost",
                  decisions: Path | None = None) -> dict[str, Any]:  # fmt: skip
    """The whole document."""
    rng = random.Random(seed)
    chosen = load_policy(policy)
    base, leases = zone(nodes, rng)
    waiting = [job(i, START - timedelta(seconds=rng.randrange(10**6)), rng) for i in range(jobs)]
    shapes = {(w.request, w.nodes, w.cpu_milli, w.memory_bytes) for w in waiting}
    mix: dict[tuple[int, int], int] = {}
    for one in waiting:
        key = (one.request.alternatives[0].count, one.cpu_milli)
        mix[key] = mix.get(key, 0) + one.nodes
    outlook = Outlook(tuple(MixShape(weight=n, count=c, cpu_milli=cpu) for (c, cpu), n in sorted(mix.items())))
    out = decisions.open("w", newline="", encoding="utf-8") if decisions else None
    writer = csv.writer(out) if out else None
    if writer:
        writer.writerow(["tick", "lease", "pool", "rank", "node", "devices"])

    began = time.perf_counter()
    state, plan = step(EMPTY, [Clock(START, 1), outlook, *base, *(Set(w) for w in waiting)], chosen)
    seconds = time.perf_counter() - began
    _write(writer, 0, plan)
    placed = len(plan.launches)

    changes = applied(state, plan, START)
    running = [lease.id for lease in leases]
    spent, number = [], jobs
    for tick in range(1, ticks + 1):
        now = START + tick * TICK
        for _ in range(min(len(running), max(1, nodes // 2000))):
            place = rng.randrange(len(running))
            running[place], running[-1] = running[-1], running[place]
            changes.append(Remove(RunningLease, running.pop()))
        for _ in range(3):
            changes.append(Set(job(number, now, rng)))
            number += 1
        began = time.perf_counter()
        state, plan = step(state, [Clock(now, tick + 1), *changes], chosen)
        spent.append(time.perf_counter() - began)
        _write(writer, tick, plan)
        changes = applied(state, plan, now)
        running += [launch.lease for launch in plan.launches]
    if out:
        out.close()

    state, _ = step(state, changes, chosen)  # what the last plan launched runs
    gang, state, plan = _gang(state, chosen, nodes)
    explain = []
    for place in range(0, len(plan.waits), max(1, len(plan.waits) // 200)):
        began = time.perf_counter()
        plan.waits[place]
        explain.append(time.perf_counter() - began)
    return {
        "benchmark": "scale",
        "commit": commit(),
        "machine": machine(),
        "policy": policy,
        "seed": seed,
        "nodes": nodes,
        "devices": nodes * PER_NODE,
        "jobs": jobs,
        "shapes": len(shapes),
        "placed": placed,
        "seconds": round(seconds, 3),
        "decisions_per_s": round(jobs / seconds),
        "ticks": ticks,
        "tick_ms": _percentiles(spent) if spent else None,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "unschedulable_gang_ms": round(1000 * statistics.median(gang[0]), 3),
        "unschedulable_gang_slowest_ms": round(1000 * max(gang[0]), 3),
        "unschedulable_gang": gang[1],
        "explain_ms": _percentiles(explain) if explain else None,
    }


def _gang(state: State, policy: Any, nodes: int) -> tuple[tuple[list[float], str], State, Plan]:
    """Seconds until a 512-device gang of more nodes than any pool has is refused with its reason, nine times, and the reason."""
    per_pool = nodes // len(MODELS) + 1
    spent = []
    for number in range(9):
        asked = WaitingJob(
            id=JobId(f"gang-{number}"), name="gang", firm=FirmId("f0"), queue="q0", priority=Priority.HIGH,
            submitted_at=START, nodes=max(LARGEST // PER_NODE, per_pool + 1), time_limit_ms=3_600_000, money=Money(),
            request=Request(alternatives=(Alternative(text="H800:8", count=8, models=("H800",)),)),
        )  # fmt: skip
        began = time.perf_counter()
        after, plan = step(state, [Set(asked)], policy)
        wait = plan.waits.of(asked.id)  # type: ignore[attr-defined]
        spent.append(time.perf_counter() - began)
    return (spent, wait.pending.code), after, plan


def _write(writer: Any, tick: int, plan: Plan) -> None:
    if writer:
        for launch in plan.launches:
            for member in launch.placement.members:
                writer.writerow(
                    [tick, launch.lease, launch.placement.pool, member.rank, member.node, "|".join(member.devices)]
                )


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 3) for q in (50, 99)}


def main(arguments: Sequence[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--ticks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policy", default="net_cost")
    parser.add_argument("--decisions", type=Path)
    parser.add_argument("-o", dest="output", choices=["json", "table"], default="table")
    given = parser.parse_args(arguments)
    if given.nodes < len(MODELS) or given.jobs < 1:
        parser.error(f"--nodes must be at least {len(MODELS)} and --jobs at least 1")
    found = measure_scale(given.nodes, given.jobs, ticks=given.ticks, seed=given.seed, policy=given.policy,
                          decisions=given.decisions)  # fmt: skip
    if given.output == "json":
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:24s}{value}")
    return 0
