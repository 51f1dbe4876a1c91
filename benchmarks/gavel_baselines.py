"""Named baselines: Gavel's max-min fairness and makespan policies over its round mechanism, re-implemented.

LAS_perf: max min_i of (effective throughput / that of an equal share x gang), an LP. min_total_duration_perf: the smallest
T, by bisection to 5%, in which all remaining work can finish. Both give target time fractions; each round runs, model by
model, the jobs with the highest target / fraction of time received. Source: Gavel (OSDI'20) sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.gavel_simulation import ROUND_S, Active
from benchmarks.gavel_trace import Floats, Ints

RESET_S = 1920.0  # the least time between two allocations, Gavel's default


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
    x = centre(cost, a, np.append(bound, np.zeros(count)))
    return np.asarray(x[:-1].reshape(count, models).clip(0, 1))


def base_rows(gang: Ints, capacity: Ints, models: int) -> tuple[Floats, Floats]:
    count = len(gang)
    rows = np.zeros((models + count, count * models))
    for m in range(models):
        rows[m, m::models] = gang
    for i in range(count):
        rows[models + i, i * models : (i + 1) * models] = 1.0
    return rows, np.append(capacity.astype(float), np.ones(count))


def min_total_duration_perf(active: Active) -> Floats:
    """Target fractions that finish all remaining work by the smallest T found."""
    count, models = active.rate.shape
    rows, bound = base_rows(active.gang, active.capacity, models)
    low, high = 100.0, 1_000_000.0
    best: Floats | None = None
    need = np.zeros((count, count * models))
    for i in range(count):
        need[i, i * models : (i + 1) * models] = -active.rate[i] / active.remaining[i]
    while best is None or 1.05 * low < high:
        middle = (low + high) / 2
        found = feasible(np.vstack([rows, need]), np.append(bound, np.full(count, -1 / middle)))
        if found is not None:
            best, high = found, middle
        else:
            low = middle
            if 1.05 * low >= high and best is None:
                low, high = high, high * 10
    best = centre(np.zeros(count * models), np.vstack([rows, need]), np.append(bound, np.full(count, -1 / high)))
    return best.reshape(count, models).clip(0, 1)


def feasible(a: Floats, b: Floats) -> Floats | None:
    from scipy.optimize import linprog

    found = linprog(np.zeros(a.shape[1]), A_ub=a, b_ub=b, bounds=(0, None), method="highs-ds")
    return np.asarray(found.x) if found.status == 0 else None


def centre(cost: Floats, a: Floats, b: Floats) -> Floats:
    """min cost x, a x <= b, x >= 0 by a primal-dual interior point (Mehrotra): the centre of the optimal face, as the
    interior-point solver gives that Gavel uses, where a simplex would give a corner."""
    m, n = a.shape
    x, s, y, z = np.ones(n), np.ones(m), np.ones(m), np.ones(n)
    scale = 1 + max(np.abs(b).max(), np.abs(cost).max())
    for _ in range(80):
        primal, dual = b - a @ x - s, -cost - a.T @ y + z
        gap = (x @ z + s @ y) / (n + m)
        if max(np.abs(primal).max(), np.abs(dual).max(), gap) < 1e-8 * scale:
            break
        hessian = (a.T * (y / s)) @ a
        hessian[np.diag_indices(n)] += z / x
        factor = np.linalg.cholesky(hessian + 1e-12 * np.trace(hessian) / n * np.eye(n))
        point = (a, factor, x, s, y, z, primal, dual)
        dx, ds, dy, dz = direction(*point, -x * z, -s * y)
        p, d = min(reach(x, dx), reach(s, ds)), min(reach(y, dy), reach(z, dz))
        ahead = ((x + p * dx) @ (z + d * dz) + (s + p * ds) @ (y + d * dy)) / (n + m)
        aim = (ahead / gap) ** 3 * gap
        dx, ds, dy, dz = direction(*point, aim - x * z - dx * dz, aim - s * y - ds * dy)
        p, d = min(reach(x, dx), reach(s, ds)), min(reach(y, dy), reach(z, dz))
        p, d = min(1.0, 0.99 * p), min(1.0, 0.99 * d)
        x, s, y, z = x + p * dx, s + p * ds, y + d * dy, z + d * dz
    return np.asarray(x)


def direction(
    a: Floats, factor: Floats, x: Floats, s: Floats, y: Floats, z: Floats, primal: Floats, dual: Floats,
    rxz: Floats, rsy: Floats,
) -> tuple[Floats, Floats, Floats, Floats]:  # fmt: skip
    """The Newton step: a dx + ds = primal; -a'dy + dz = -dual; z dx + x dz = rxz; y ds + s dy = rsy."""
    right = dual + rxz / x - a.T @ ((rsy - y * primal) / s)
    dx = np.linalg.solve(factor.T, np.linalg.solve(factor, right))
    ds = primal - a @ dx
    return dx, ds, (rsy - y * ds) / s, (rxz - z * dx) / x


def reach(value: Floats, change: Floats) -> float:
    down = change < 0
    return float((-value[down] / change[down]).min()) if down.any() else 1e3


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
            found = self.target(active)
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
