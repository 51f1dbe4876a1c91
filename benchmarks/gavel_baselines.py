"""Named baselines: Gavel's max-min fairness and makespan policies over its round mechanism, re-implemented.

LAS_perf: max min_i of (effective throughput / that of an equal share x gang), an LP. min_total_duration_perf: the smallest
T, by bisection to 5%, in which all remaining work can finish. Both give target time fractions; each round runs, model by
model, the jobs with the highest target / fraction of time received, ties by what they were owed, then by arrival. Source:
Gavel (OSDI'20) sections 4 and 5, and its public simulator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.gavel_simulation import ROUND_S, Active
from benchmarks.gavel_solver import solve
from benchmarks.gavel_trace import Floats, Ints

RESET_S = 1920.0  # the least time between two allocations, Gavel's default
DIGITS = 6  # of a target: what is below is the solver's noise, and equal jobs would take turns by it


def las_perf(active: Active) -> Floats:
    """Target fractions of max-min fairness over effective throughput."""
    equal = np.maximum(active.rate @ (active.capacity / active.capacity.sum()), 1e-12)
    return max_min(active.rate / equal[:, None] * active.gang[:, None], active.gang, active.capacity)


def max_min(gain: Floats, gang: Ints, capacity: Ints) -> Floats:
    """x maximising min_i sum_m gain[i,m] x[i,m], x a time fraction within devices and within one whole job."""
    count, models = gain.shape
    wide = count * models + 1
    rows, bound = base_rows(gang, capacity, models)
    a = np.zeros((len(bound) + count, wide))
    a[: len(bound), :-1] = rows
    for i in range(count):
        a[len(bound) + i, i * models : (i + 1) * models] = -gain[i]
    a[len(bound) :, -1] = 1.0
    cost = np.zeros(wide)
    cost[-1] = -1.0
    x = solve(cost, a, np.append(bound, np.zeros(count)))
    assert x is not None, "x = 0 satisfies the rows"
    return np.asarray(x[:-1].reshape(count, models).clip(0, 1))


def base_rows(gang: Ints, capacity: Ints, models: int) -> tuple[Floats, Floats]:
    """Devices of each model, one whole of each job, and nothing below zero."""
    count = len(gang)
    rows = np.zeros((models + count + count * models, count * models))
    for m in range(models):
        rows[m, m::models] = gang
    for i in range(count):
        rows[models + i, i * models : (i + 1) * models] = 1.0
    rows[models + count :] = -np.eye(count * models)
    return rows, np.concatenate([capacity.astype(float), np.ones(count), np.zeros(count * models)])


def min_total_duration_perf(active: Active) -> Floats:
    """Target fractions that finish all remaining work by the smallest T found, by bisection to 5%."""
    count, models = active.rate.shape
    rows, bound = base_rows(active.gang, active.capacity, models)
    need = np.zeros((count, count * models))
    for i in range(count):
        need[i, i * models : (i + 1) * models] = -active.rate[i]
    a, cost = np.vstack([rows, need]), np.zeros(count * models)
    low, high = 100.0, 1_000_000.0
    best: Floats | None = None
    last = high
    while best is None:
        while 1.05 * low < high:
            middle = (low + high) / 2
            found = solve(cost, a, np.append(bound, -active.remaining / middle))
            if found is None:
                low = middle
            else:
                best, high = found, middle
        low, high, last = last, last * 10, last * 10
    return np.asarray(best.reshape(count, models).clip(0, 1))


def significant(value: Floats) -> Floats:
    """The same to DIGITS significant digits, 0 for what is not above 0."""
    unit = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.where(value > 0, value, 1.0))))
    return np.where(value > 0, np.round(value * unit) / unit, 0.0)


class Mechanism:
    """Gavel's round mechanism around a target: callable as a decision, keeps what each job has received."""

    def __init__(self, target: Callable[[Active], Floats]) -> None:
        self.target = target
        self.fraction: dict[int, Floats] = {}
        self.received: dict[int, Floats] = {}
        self.deficit: dict[int, Floats] = {}
        self.worker: Floats | None = None
        self.seen: Floats = np.zeros(0)
        self.ran: dict[int, Floats] = {}
        self.reset_s = 0.0
        self.stale = True

    def __call__(self, active: Active) -> Ints:
        models = len(active.capacity)
        if self.worker is None:
            self.worker, self.seen = np.zeros(models), np.zeros(models)
        rows = active.rows.tolist()
        present = set(rows)
        for row, ran in zip(rows, active.ran_s, strict=True):
            if row in self.received:
                self.received[row] = self.received[row] + ran - self.ran[row]
            else:
                self.received[row], self.deficit[row] = np.full(models, ROUND_S / 2), np.zeros(models)
            self.ran[row] = ran.copy()
        self.worker = self.worker + active.model_s - self.seen
        self.seen = active.model_s
        for row in [row for row in self.received if row not in present]:
            del self.received[row], self.deficit[row], self.ran[row]
        self.stale = self.stale or active.changed
        elapsed = active.now_s - self.reset_s
        if self.stale and (elapsed >= RESET_S or self.reset_s == 0):
            self.worker = np.zeros(models)
            for row in rows:
                due = self.fraction.get(row, np.zeros(models)) * elapsed
                self.deficit[row] = self.deficit[row] + due - (self.received[row] - ROUND_S / 2)
                self.received[row] = np.full(models, ROUND_S / 2)
                self.worker += self.received[row]
            self.reset_s, self.stale = active.now_s, False
            found = significant(self.target(active))
            self.fraction = dict(zip(rows, found, strict=True))
        return self.fill(active, rows)

    def fill(self, active: Active, rows: list[int]) -> Ints:
        assert self.worker is not None
        choice = np.full(len(rows), -1, dtype=np.int64)
        left = active.capacity.copy()
        for m in range(len(active.capacity)):
            keys = []
            for i, row in enumerate(rows):
                target = float(self.fraction[row][m]) if row in self.fraction else 0.0
                if active.rate[i, m] <= 0:
                    continue
                share = self.received[row][m] / self.worker[m] if self.worker[m] else 0.0
                keys.append((target / share if share else target * 1e9, self.deficit[row][m], target, -i))
            for *_, minus in sorted(keys, reverse=True):
                i = -minus
                if choice[i] < 0 and active.gang[i] <= left[m]:
                    choice[i] = m
                    left[m] -= active.gang[i]
        known = np.array([row in self.fraction for row in rows])
        return np.where(known, choice, -1)  # a job without a target holds its place in the queue and does not run yet


BASELINES: dict[str, Callable[[], Mechanism]] = {
    "las_perf": lambda: Mechanism(las_perf),
    "min_total_duration_perf": lambda: Mechanism(min_total_duration_perf),
}
