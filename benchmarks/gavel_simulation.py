"""Gavel's simulator: rounds of 360 s, jobs start and stop only at round boundaries and finish inside a round.

A job runs whole steps: int(rate x 360) a round, and a round is over when the last of its jobs has done its steps, so that
it may be a little shorter than 360 s. Job completion time = finish - arrival. Source: Gavel (OSDI'20), its simulator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.gavel_trace import Floats, Ints, Trace

ROUND_S = 360.0


@dataclass(slots=True)
class Active:
    """What a decision may see at the start of a round. Row i of every array is job `rows[i]` of the trace.

    remaining: steps left as the policy is told them; held: model of the round before, -1 = none. ran_s: seconds
    it has held each model; model_s: the same summed over all jobs, finished ones too. changed: a job came or finished.
    """

    now_s: float
    rows: Ints
    remaining: Floats
    rate: Floats
    gang: Ints
    held: Ints
    arrival_s: Floats
    capacity: Ints
    ran_s: Floats
    model_s: Floats
    changed: bool


Decide = Callable[[Active], Ints]


@dataclass(frozen=True, slots=True)
class Interval:
    row: int
    model: int
    devices: int
    start_s: float
    end_s: float
    steps: int


@dataclass(slots=True)
class Run:
    finish_s: Floats
    arrival_s: Floats
    busy_device_s: float
    available_device_s: float
    decision_s: list[float] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    restarts: int = 0

    @property
    def jct_h(self) -> Floats:
        return (self.finish_s - self.arrival_s) / 3600


def simulate(
    trace: Trace, capacity: Ints, decide: Decide, *, restart_s: float = 0.0, factor: Floats | None = None
) -> Run:
    """Run every job to its end. restart_s: lost at the start of a round by a job that did not hold the same model in the
    one before. factor: what the policy believes of each job's remaining steps, relative to the truth; None = the truth.

    Raises ValueError on a decision that uses devices twice or a model the job cannot run on, and when nothing runs for
    ten thousand rounds although jobs wait.
    """
    count = len(trace)
    left = trace.steps.copy()
    rate = usable(trace.rate, restart_s)
    believed = np.ones(count) if factor is None else factor
    held = np.full(count, -1, dtype=np.int64)
    finish, ran = np.full(count, np.nan), np.zeros((count, len(capacity)))
    run = Run(finish_s=finish, arrival_s=trace.arrival_s, busy_device_s=0.0, available_device_s=0.0)
    now, admitted, changed, idle = float(trace.arrival_s[0]), 0, True, 0
    waiting = np.zeros(0, dtype=np.int64)
    while admitted < count or len(waiting):
        fresh = int(np.searchsorted(trace.arrival_s, now, side="right"))
        if fresh > admitted:
            waiting, admitted, changed = np.append(waiting, np.arange(admitted, fresh)), fresh, True
        if not len(waiting):
            now = float(trace.arrival_s[admitted])
            continue
        rows = waiting
        active = Active(
            now_s=now, rows=rows, remaining=left[rows] * believed[rows], rate=rate[rows], gang=trace.gang[rows],
            held=held[rows], arrival_s=trace.arrival_s[rows], capacity=capacity, ran_s=ran[rows], model_s=ran.sum(axis=0), changed=changed,
        )  # fmt: skip
        before = time.perf_counter()
        choice = decide(active)
        run.decision_s.append(time.perf_counter() - before)
        check(choice, active)
        running = np.flatnonzero(choice >= 0)
        jobs, models = rows[running], choice[running]
        pace = rate[jobs, models]
        lost = np.where(held[jobs] == models, 0.0, restart_s)
        run.restarts += int((held[jobs] != models).sum())
        steps = np.minimum(np.floor(pace * (ROUND_S - lost)).astype(np.int64), left[jobs])
        ends = now + lost + steps / pace
        held[rows], held[jobs] = -1, models
        left[jobs] -= steps
        ran[jobs, models] += ends - now
        run.busy_device_s += float((trace.gang[jobs] * (ends - now)).sum())
        for job, model, end, done in zip(jobs.tolist(), models.tolist(), ends.tolist(), steps.tolist(), strict=True):
            run.intervals.append(Interval(job, model, int(trace.gang[job]), now, end, done))
        over = jobs[left[jobs] <= 0]
        finish[over] = ends[left[jobs] <= 0]
        waiting, changed = rows[left[rows] > 0], len(over) > 0
        idle = 0 if len(jobs) else idle + 1
        if idle > 10_000:
            raise ValueError(f"{len(rows)} jobs wait at {now:.0f} s and none has run for {idle} rounds")
        now = float(ends.max()) if len(jobs) else now + ROUND_S
    run.available_device_s = float(capacity.sum() * (np.nanmax(finish) - trace.arrival_s[0]))
    return run


def usable(rate: Floats, restart_s: float) -> Floats:
    """The rates, 0 where a round is too short for a single step."""
    return np.asarray(np.where(np.floor(rate * (ROUND_S - restart_s)) >= 1, rate, 0.0))


def check(choice: Ints, active: Active) -> None:
    running = np.flatnonzero(choice >= 0)
    used = np.bincount(choice[running], weights=active.gang[running], minlength=len(active.capacity))
    if (used > active.capacity).any():
        raise ValueError(
            f"at {active.now_s:.0f} s the decision uses {used.tolist()} of {active.capacity.tolist()} devices"
        )
    if (active.rate[running, choice[running]] <= 0).any():
        raise ValueError(f"at {active.now_s:.0f} s the decision runs a job on a model it cannot run on")
