"""Two days of queues that want more than there is: shares against weighted DRF, the longest waits, work lost to preemption.

    python -m benchmarks fairness --seed S [--jobs N] [-o json] [--decisions FILE]

Every placement is one of `scheduler.engine.step`; the benchmark says when jobs come and how long they run. Four queues of
weights 1, 1, 2 and 4 and of unlike tastes share two classes of chip; the demand of each comes and goes by the hour. A stopped
job loses what it did since its last checkpoint (half of the jobs write none) and runs the rest again.

share error: of each sample and each queue that waits, what its weighted dominant share lacks of the one that progressive
filling of all demands of that instant would give it (Ghodsi and others, NSDI 2011; classes count by price). A sample's error
is the largest of these.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.accelerator import Origin, Source
from benchmarks.run import commit, machine
from scheduler.clock import from_ms, to_ms
from scheduler.engine import EMPTY, Change, Clock, Remove, Set, State, changes_of, step
from scheduler.fairness import class_worth
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Launch, Plan
from scheduler.policies.fair import Fair
from scheduler.policy import Policy
from scheduler.registry import load_policy
from scheduler.snapshot import QueueQuota, RunningLease, Snapshot, WaitingJob

START = datetime(2026, 6, 1, tzinfo=UTC)
MINUTE, HOUR = 60_000, 3_600_000
SPAN_MS = 48 * HOUR
SAMPLE_MS = 10 * MINUTE
PER_NODE = 8
CLASSES = (("H800", 16, 2000), ("Ascend910B3", 32, 1000))  # model, nodes, fen per device hour
QUEUES = (("a", 1, 0.9), ("b", 1, 0.1), ("c", 2, 0.5), ("d", 4, 0.3))  # name, weight, how often it wants an H800
GANGS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (12, 8))  # nodes, devices of each
OFTEN = (30, 15, 15, 15, 10, 8, 5, 2)
BUCKETS = ((1, 1), (2, 8), (9, 32), (33, 96))
LOAD = 1.3  # demand over the two days for each device hour there is
POLICIES = ("fair", "net_cost", "fifo")
COLUMNS = (
    "policy",
    "job",
    "lease",
    "queue",
    "model",
    "devices",
    "submit_s",
    "start_s",
    "end_s",
    "ended",
    "lost_device_ms",
)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Task:
    """A job and how long it takes when nobody stops it. saves_ms: how often it writes a checkpoint, None = never."""

    job: WaitingJob
    model: str
    duration_ms: int
    saves_ms: int | None

    @property
    def devices(self) -> int:
        return self.job.nodes * self.job.request.alternatives[0].count


def zone() -> Snapshot:
    """The pools, their nodes and the queues."""
    pools, nodes = [], []
    for model, count, price in CLASSES:
        pools.append(
            Pool(
                id=PoolId(model), provider="p", site="s", region="r", backend="simulated", vendor="v", model=model,
                origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=price, source=Source.SIMULATED,
            )
        )  # fmt: skip
        for number in range(count):
            name = f"{model}-{number:02}"
            devices = tuple(f"{name}/{i}" for i in range(PER_NODE))
            nodes.append(Node(id=NodeId(name), pool=PoolId(model), devices=devices))
    queues = tuple(QueueQuota(name=name, nominal_devices=None, weight=weight) for name, weight, _ in QUEUES)
    return Snapshot(version=0, now=START, pools=tuple(pools), nodes=tuple(nodes), queues=queues)


def tasks(seed: int, count: int) -> tuple[Task, ...]:
    """The same for the same seed: jobs as many as asked, their lengths scaled to LOAD; each queue by turns busy and idle."""
    rng = random.Random(seed)
    busy = {name: [rng.random() < 0.6 for _ in range(8)] for name, _, _ in QUEUES}  # by spans of six hours
    drawn: list[tuple[int, str, str, tuple[int, int], float, float, float]] = []
    while len(drawn) < count:
        name, _, taste = rng.choice(QUEUES)
        at = rng.randrange(SPAN_MS)
        if not busy[name][at * 8 // SPAN_MS] and rng.random() < 0.9:
            continue
        model = CLASSES[0][0] if rng.random() < taste else CLASSES[1][0]
        drawn.append(
            (at, name, model, rng.choices(GANGS, OFTEN)[0], rng.lognormvariate(0, 1.0), rng.random(), rng.random())
        )
    room = sum(nodes * PER_NODE for _, nodes, _ in CLASSES) * SPAN_MS * LOAD
    scale = room / sum(nodes * each * length for _, _, _, (nodes, each), length, _, _ in drawn)
    found = []
    for number, (at, name, model, (nodes, each), length, urgent, saves) in enumerate(sorted(drawn)):
        duration = max(5 * MINUTE, min(24 * HOUR, int(length * scale)))
        priority = Priority.HIGH if urgent < 0.1 else Priority.LOW if urgent > 0.9 else Priority.NORMAL
        job = WaitingJob(
            id=JobId(f"j{number:05}"), name=f"j{number:05}", firm=FirmId(f"firm-{name}"), queue=name, priority=priority,
            submitted_at=from_ms(to_ms(START) + at), nodes=nodes, time_limit_ms=2 * duration, money=Money(),
            request=Request(alternatives=(Alternative(text=f"{model}:{each}", count=each, models=(model,)),)),
            checkpoint_interval_ms=30 * MINUTE if saves < 0.5 else None,
        )  # fmt: skip
        found.append(Task(job, model, duration, job.checkpoint_interval_ms))
    return tuple(found)


def decide(state: State, changes: Sequence[Change], policy: Policy) -> tuple[State, Plan]:
    """Where every placement comes from: the one planner."""
    return step(state, changes, policy)


@dataclass(slots=True)
class Course:
    """The two days under one policy. rows: every stay on devices."""

    policy: Policy
    tasks: tuple[Task, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    _left: dict[str, int] = field(default_factory=dict)
    _began: dict[str, int] = field(default_factory=dict)

    def play(self) -> None:
        """Until the last job is done, or nothing happens any more."""
        by_id = {str(one.job.id): one for one in self.tasks}
        events = [(to_ms(one.job.submitted_at), 0, str(one.job.id), "") for one in self.tasks]
        heapq.heapify(events)
        state = EMPTY
        changes: list[Change] = list(changes_of(zone()))
        self._left = {name: one.duration_ms for name, one in by_id.items()}
        while events:
            now = events[0][0]
            while events and events[0][0] == now:
                _, kind, name, lease = heapq.heappop(events)
                if kind == 0:
                    changes.append(Set(by_id[name].job))
                elif lease in self._began:
                    self._close(by_id[name], lease, now, "done", 0)
                    changes.append(Remove(RunningLease, lease))
            changes += [Set(one) for one in self._saved(state, changes, now)]
            changes.append(Clock(from_ms(now), self.steps + 1))
            began = time.process_time()
            state, plan = decide(state, changes, self.policy)
            self.seconds += time.process_time() - began
            self.steps += 1
            changes = []
            for stop in plan.preempts:
                lease_ = state.leases[stop.lease]
                task = by_id[str(stop.job)]
                lost = stop.cost_device_ms
                self._close(task, stop.lease, now, "preempted", lost)
                ran = now - to_ms(lease_.started_at or from_ms(now))
                self._left[stop.job] -= max(0, ran - lost // task.devices)
                again = lease_.again
                assert again is not None, "given to every lease here"
                changes += [Remove(RunningLease, stop.lease), Set(again)]
                heapq.heappush(events, (now + 1, 2, "", ""))  # its devices are free from then on
            for launch in plan.launches:
                task = by_id[str(launch.job)]
                lease_ = _lease(task, state.jobs[launch.job], launch, now)
                self._began[launch.lease] = now
                changes += [Remove(WaitingJob, launch.job), Set(lease_)]
                heapq.heappush(events, (now + self._left[str(launch.job)], 1, str(launch.job), str(launch.lease)))

    def _saved(self, state: State, changes: Sequence[Change], now: int) -> list[RunningLease]:
        """Leases that have written a checkpoint since the planner was told."""
        gone = {one.key for one in changes if isinstance(one, Remove)}
        found = []
        for lease in state.leases.values():
            every, began = lease.checkpoint_interval_ms, self._began.get(lease.id)
            if every is None or began is None or lease.id in gone:
                continue
            last = began + (now - began) // every * every
            if last > to_ms(lease.checkpointed_at or lease.started_at or from_ms(now)):
                found.append(replace(lease, checkpointed_at=from_ms(last)))
        return found

    def _close(self, task: Task, lease: str, now: int, ended: str, lost: int) -> None:
        began = self._began.pop(lease)
        self.rows.append(
            {
                "policy": self.policy.name,
                "job": task.job.id,
                "lease": lease,
                "queue": task.job.queue,
                "model": task.model,
                "devices": task.devices,
                "submit_s": (to_ms(task.job.submitted_at) - to_ms(START)) / 1000,
                "start_s": (began - to_ms(START)) / 1000,
                "end_s": (now - to_ms(START)) / 1000,
                "ended": ended,
                "lost_device_ms": lost,
            }
        )


def _lease(task: Task, waiting: WaitingJob, launch: Launch, now: int) -> RunningLease:
    return RunningLease(
        id=launch.lease, job=launch.job, firm=launch.firm, queue=waiting.queue, pool=launch.placement.pool,
        members=launch.placement.members, ends_by=from_ms(now + waiting.time_limit_ms), started_at=from_ms(now),
        priority=waiting.priority, checkpoint_interval_ms=task.saves_ms, again=replace(waiting, attempt=waiting.attempt + 1),
    )  # fmt: skip


# --- figures, from the rows and the tasks alone -----------------------------------------------------------------------


def drf(demand: Floats, capacity: Floats, worth: Floats, weights: Floats) -> Floats:
    """Weighted dominant shares under progressive filling: each queue's demand [queues x classes] grows as a whole until it
    is met or a class that it wants is full."""
    dominant = (demand / capacity * worth).max(axis=1) / weights
    met = np.zeros(len(demand))  # the part of each demand
    active = dominant > 0
    while active.any():
        speed = np.where(active, 1 / np.where(dominant > 0, dominant, 1), 0.0)  # of the part, as the level rises
        left = capacity - met @ demand
        fill = speed @ demand
        steps = np.where(fill > 1e-12, left / np.where(fill > 1e-12, fill, 1), np.inf)
        whole = np.where(active, (1 - met) / np.where(speed > 0, speed, 1), np.inf)
        rise = max(0.0, min(float(steps.min()), float(whole.min())))
        met = met + speed * rise
        full = (capacity - met @ demand) <= 1e-9
        active = active & (met < 1 - 1e-12) & ~((demand > 0) & full).any(axis=1)
    shares: Floats = met * dominant
    return shares


def errors(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of every SAMPLE_MS of the two days in which any queue waits, the largest error of a queue that does."""
    names = [name for name, _, _ in QUEUES]
    models = [model for model, _, _ in CLASSES]
    capacity = np.array([float(nodes * PER_NODE) for _, nodes, _ in CLASSES])
    worth = class_worth(np.array([price for _, _, price in CLASSES], dtype=np.int64))
    weights = np.array([float(weight) for _, weight, _ in QUEUES])
    queue = np.array([names.index(row["queue"]) for row in rows])
    model = np.array([models.index(row["model"]) for row in rows])
    devices = np.array([row["devices"] for row in rows], dtype=np.float64)
    begin = np.array([row["start_s"] for row in rows]) * 1000
    end = np.array([row["end_s"] for row in rows]) * 1000
    first: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: row["start_s"]):
        first.setdefault(row["job"], row["submit_s"])
    last = dict(first)
    order = sorted(range(len(rows)), key=lambda i: rows[i]["start_s"])
    waits = np.zeros(len(rows))
    for i in order:
        waits[i] = last[rows[i]["job"]] * 1000
        last[rows[i]["job"]] = rows[i]["end_s"]
    found = []
    for at in range(0, SPAN_MS, SAMPLE_MS):
        runs, lacks = (begin <= at) & (at < end), (waits <= at) & (at < begin)
        if not lacks.any():
            continue
        used, wanted = np.zeros((len(names), len(models))), np.zeros((len(names), len(models)))
        np.add.at(used, (queue[runs], model[runs]), devices[runs])
        np.add.at(wanted, (queue[lacks], model[lacks]), devices[lacks])
        shares = (used / capacity * worth).max(axis=1) / weights
        short = drf(used + wanted, capacity, worth, weights) - shares
        found.append(float(max(0.0, short[wanted.sum(axis=1) > 0].max())))
    return found


def figures(one: Course) -> dict[str, Any]:
    """Share errors, the longest wait in hours by size of gang, and what preemption wasted."""
    found = errors(one.rows)
    waits: dict[str, float] = {}
    starts: dict[str, float] = {}
    for row in one.rows:
        starts[row["job"]] = min(starts.get(row["job"], row["start_s"]), row["start_s"])
    for task in one.tasks:
        if task.job.id in starts:
            low, high = next(bucket for bucket in BUCKETS if bucket[0] <= task.devices <= bucket[1])
            waited = starts[task.job.id] - (to_ms(task.job.submitted_at) - to_ms(START)) / 1000
            key = f"{low}-{high}"
            waits[key] = max(waits.get(key, 0.0), waited / 3600)
    ran = sum((row["end_s"] - row["start_s"]) * 1000 * row["devices"] for row in one.rows)
    lost = sum(row["lost_device_ms"] for row in one.rows)
    done = {row["job"] for row in one.rows if row["ended"] == "done"}
    return {
        "share_error": {
            "mean": round(float(np.mean(found)), 4) if found else None,
            "p95": round(float(np.percentile(found, 95)), 4) if found else None,
            "max": round(max(found), 4) if found else None,
            "by_12h_mean": [round(float(np.mean(part)), 4) for part in np.array_split(found, 4) if len(part)],
        },
        "max_wait_h": {f"{a}-{b}": round(waits[f"{a}-{b}"], 2) for a, b in BUCKETS if f"{a}-{b}" in waits},
        "never_started": len(one.tasks) - len(starts),
        "done": len(done),
        "preempted": sum(row["ended"] == "preempted" for row in one.rows),
        "preemption_waste": round(lost / ran, 6) if ran else None,
        "lost_device_ms": lost,
        "run_device_ms": round(ran),
        "steps": one.steps,
        "cpu_ms_per_step": round(1000 * one.seconds / max(1, one.steps), 3),
    }


def measure(seed: int = 1, jobs: int = 1200) -> dict[str, Any]:
    """The document of the command."""
    return _measured(seed, jobs)[0]


def _measured(seed: int, jobs: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    load = os.getloadavg()[0]
    given = tasks(seed, jobs)
    courses = [Course(Fair() if name == "fair" else load_policy(name), given) for name in POLICIES]
    for one in courses:
        one.play()
    document = {
        "seed": seed,
        "jobs": jobs,
        "devices": sum(nodes * PER_NODE for _, nodes, _ in CLASSES),
        "weights": {name: weight for name, weight, _ in QUEUES},
        "policies": {one.policy.name: figures(one) for one in courses},
        "range": {
            "seeds": "any",
            "jobs": "from 1",
            "provenance": "generated from the seed; demand is 1.3 of what there is",
        },
        "load": round(load, 2),
        "commit": commit(),
        "machine": machine(),
    }
    return document, [row for one in courses for row in one.rows]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fairness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1200)
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    parser.add_argument("--decisions", type=Path, help="CSV of every stay on devices, with what was lost of it")
    parser.add_argument("--record", action="store_true", help="append the line to results.jsonl")
    asked = parser.parse_args(arguments)
    if asked.seed < 0 or asked.jobs < 1:
        parser.error("--seed: at least 0; --jobs: at least 1")
    document, rows = _measured(asked.seed, asked.jobs)
    if asked.decisions:
        with asked.decisions.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    if asked.record:
        with (Path(__file__).parent / "results.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps({"benchmark": "fairness", **document}) + "\n")
    if asked.output == "json":
        print(json.dumps(document))
        return 0
    print(f"seed {asked.seed}, {asked.jobs} jobs on {document['devices']} devices, queues {document['weights']}")
    for name, one in document["policies"].items():
        error, waits = one["share_error"], "  ".join(f"{k}: {v} h" for k, v in one["max_wait_h"].items())
        print(
            f"{name:>10}  share error {error['mean']} (p95 {error['p95']})   waste {one['preemption_waste']:.2%}   {waits}"
        )
    return 0
