"""A bound on what any placement can allocate of the pods that have arrived: a linear programme over patterns of a device.

Source of the programme: the cutting-stock relaxation of Gilmore and Gomory (1961), columns made by a knapsack. For nodes of
class c (alike in model, devices, CPU and memory) and pods of type t (alike in devices, share, CPU, memory and models):

    maximise   sum of demand(t) x(t, c)
    a  (t)     sum over c of x(t, c)                                      <= pods of t that have arrived
    b  (s, c)  sum over t with share s of x(t, c)                         <= sum over patterns p of a(s, p) y(p, c)
    c  (c)     sum over p of y(p, c) + sum over whole t of devices x(t, c) <= devices of c
    d  (c)     sum of cpu x(t, c) <= CPU of c,  sum of memory x(t, c) <= memory of c

x(t, c) exists only where one empty node of c could hold one pod of t: its model, devices, CPU and memory suffice.

Why nothing can do better. Take any placement, online or offline, that may refuse pods and move them. At an instant let
x(t, c) count its pods of t on nodes of c, and y(p, c) the devices of c whose shares are exactly the multiset p, a pattern:
shares whose sum is at most one device. Then a holds (only arrived pods are placed), b with equality, c (no device is both
whole and shared, or counted twice), d (summed over the nodes of c). So its allocated demand is a value of the programme, and at
most the optimum. What the programme forgets (whole pods, single nodes) only raises the optimum.

What is returned is not the solver's optimum but a dual solution made feasible here, so neither its tolerances nor columns that
were not made can lower it. For any prices pi, kappa, nu >= 0 of b and d: mu(c) = the best knapsack of shares at prices pi(., c)
or more, which is at least the price of every pattern; alpha(t) = the most that demand(t) exceeds, over c, what x(t, c) costs, or 0. Then
every column costs at least what it brings, and by weak duality

    sum of alpha(t) arrived(t) + sum over c of mu(c) devices(c) + kappa(c) cpu(c) + nu(c) memory(c)

is at least the value of every placement.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
WHOLE = 1000
ROUNDS = 40  # of columns made; what is left unmade only makes the bound looser
STEPS = 4  # events of a mark whose bound is worked out; more are tighter
GAP = 1e-6  # of the capacity: columns that would raise the bound by less are not made


@dataclass(frozen=True, slots=True, order=True)
class PodType:
    """Pods alike in all that the bound looks at. milli: of each device, 0 where devices is 0; models: () = any."""

    devices: int
    milli: int
    cpu_milli: int
    memory_mib: int
    models: tuple[str, ...] = ()

    @property
    def demand(self) -> int:
        """Thousandths of a device."""
        return self.devices * self.milli


@dataclass(frozen=True, slots=True, order=True)
class NodeClass:
    """Nodes alike."""

    model: str
    devices: int
    cpu_milli: int
    memory_mib: int

    def holds(self, pod: PodType) -> bool:
        """One empty node of the class could hold one pod of the type."""
        return (
            (not pod.models or self.model in pod.models) and pod.devices <= self.devices
            and pod.cpu_milli <= self.cpu_milli and pod.memory_mib <= self.memory_mib
        )  # fmt: skip


class Bound:
    """The programme of one cluster. Patterns made for one set of pods are kept for the next."""

    def __init__(self, nodes: Mapping[NodeClass, int]) -> None:
        self.classes = sorted(nodes)
        self.count = np.array([nodes[c] for c in self.classes], dtype=np.float64)
        self.devices = self.count * [c.devices for c in self.classes]
        self.cpu = self.count * [c.cpu_milli for c in self.classes]
        self.memory = self.count * [c.memory_mib for c in self.classes]
        self._patterns: dict[tuple[int, ...], set[tuple[int, ...]]] = {}

    def most(self, arrived: Mapping[PodType, int]) -> float:
        """Thousandths of devices: no placement of these pods allocates more."""
        types = sorted(t for t, n in arrived.items() if n and t.devices and any(c.holds(t) for c in self.classes))
        if not types:
            return 0.0
        number = np.array([arrived[t] for t in types], dtype=np.float64)
        sizes = tuple(sorted({t.milli for t in types if t.milli < WHOLE}))
        patterns = self._patterns.setdefault(
            sizes, {tuple(WHOLE // s if i == k else 0 for k in range(len(sizes))) for i, s in enumerate(sizes)}
        )
        programme = _Programme(self, types, number, sizes)
        best = min(float(self.devices.sum()) * WHOLE, float(sum(t.demand * arrived[t] for t in types)))
        for _ in range(ROUNDS):
            value, price, device, kappa, nu = programme.solve(sorted(patterns))
            bound, made = programme.certify(price, device, kappa, nu)
            best = min(best, bound)
            new = made - patterns
            if not new or bound - value <= GAP * WHOLE * self.devices.sum():
                break
            patterns |= new
        return best


class _Programme:
    def __init__(self, bound: Bound, types: Sequence[PodType], number: Floats, sizes: tuple[int, ...]) -> None:
        self.bound, self.number, self.sizes = bound, number, sizes
        pairs = [(i, k) for i, t in enumerate(types) for k, c in enumerate(bound.classes) if c.holds(t)]
        self.t, self.c = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        at = {s: i for i, s in enumerate(sizes)}
        self.size = np.array([at.get(t.milli, -1) for t in types], dtype=np.int64)[self.t]
        self.demand, self.devices, self.cpu, self.memory = (
            np.array([getattr(t, name) for t in types], dtype=np.float64)[self.t]
            for name in ("demand", "devices", "cpu_milli", "memory_mib")
        )

    def solve(self, patterns: Sequence[tuple[int, ...]]) -> tuple[float, Floats, Floats, Floats, Floats]:
        """The optimum with these patterns, and the prices pi [sizes, classes], mu, kappa and nu [classes]."""
        from scipy.optimize import linprog
        from scipy.sparse import coo_array

        b, n, types, classes, sizes = (
            self.bound,
            len(self.t),
            len(self.number),
            len(self.bound.classes),
            len(self.sizes),
        )
        p = len(patterns)
        grid = np.array(patterns, dtype=np.int64).reshape(p, sizes)
        pat, size = grid.nonzero()
        shared = self.size >= 0
        whole = ~shared
        rows_b, rows_c, rows_d, rows_m = (
            types,
            types + sizes * classes,
            types + (sizes + 1) * classes,
            types + (sizes + 2) * classes,
        )
        x = np.arange(n)
        entries: list[tuple[Any, Any, Any]] = [
            (self.t, x, np.ones(n)),
            (rows_b + self.size[shared] * classes + self.c[shared], x[shared], np.ones(int(shared.sum()))),
            (rows_c + self.c[whole], x[whole], self.devices[whole]),
            (rows_d + self.c, x, self.cpu / 1000),
            (rows_m + self.c, x, self.memory / 1024),
        ]
        for k in range(classes):
            y = n + k * p
            entries.append((rows_b + size * classes + k, y + pat, -grid[pat, size].astype(np.float64)))
            entries.append((np.full(p, rows_c + k), y + np.arange(p), np.ones(p)))
        row, column, value = (np.concatenate([e[i] for e in entries]) for i in range(3))
        limits = np.concatenate([self.number, np.zeros(sizes * classes), b.devices, b.cpu / 1000, b.memory / 1024])
        matrix = coo_array((value, (row, column)), shape=(len(limits), n + p * classes)).tocsr()
        gains = np.concatenate([-self.demand / WHOLE, np.zeros(p * classes)])
        solved = linprog(gains, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs")
        if solved.x is None:
            raise RuntimeError(f"bound: the solver found nothing: {solved.message}")
        dual = np.maximum(0.0, -np.asarray(solved.ineqlin.marginals)) * WHOLE
        return (
            -float(solved.fun) * WHOLE, dual[rows_b:rows_c].reshape(sizes, classes), dual[rows_c:rows_d],
            dual[rows_d:rows_m] / 1000, dual[rows_m:] / 1024,
        )  # fmt: skip

    def certify(self, price: Floats, device: Floats, kappa: Floats, nu: Floats) -> tuple[float, set[tuple[int, ...]]]:
        """The bound that these prices prove, and the best pattern at the prices of each class of nodes."""
        b = self.bound
        mu, made = device.copy(), set()
        known: dict[Hashable, tuple[float, tuple[int, ...]]] = {}
        for k in range(len(b.classes)):
            key = price[:, k].tobytes()
            if key not in known:
                known[key] = _knapsack(self.sizes, price[:, k])
            mu[k] = max(mu[k], known[key][0])
            made.add(known[key][1])
        shared = self.size >= 0
        held = np.where(shared, price[self.size, self.c] if len(self.sizes) else 0.0, self.devices * mu[self.c])
        over = self.demand - held - self.cpu * kappa[self.c] - self.memory * nu[self.c]
        alpha = np.zeros(len(self.number))
        np.maximum.at(alpha, self.t, over)
        total = alpha @ self.number + mu @ b.devices + kappa @ b.cpu + nu @ b.memory
        return float(total), made


def _knapsack(sizes: Sequence[int], prices: Floats) -> tuple[float, tuple[int, ...]]:
    """The best price of shares that fit on one device, and how many of each."""
    worth = np.zeros(WHOLE + 1)
    last = np.full(WHOLE + 1, -1, dtype=np.int64)
    size = np.array(sizes, dtype=np.int64)
    for room in range(1, WHOLE + 1):
        worth[room] = worth[room - 1]
        fitting = int(np.searchsorted(size, room, side="right"))
        if fitting:
            values = worth[room - size[:fitting]] + prices[:fitting]
            item = int(values.argmax())
            if values[item] > worth[room]:
                worth[room], last[room] = values[item], item
    taken, room = [0] * len(sizes), WHOLE
    while room > 0:
        if last[room] < 0:
            room -= 1
        else:
            taken[int(last[room])] += 1
            room -= int(size[last[room]])
    return float(worth[WHOLE]), tuple(taken)


def bounds(
    nodes: Sequence[NodeClass], pods: Sequence[PodType], capacity: int, marks: Sequence[int]
) -> dict[str, float | None]:
    """Percent of the capacity at each mark (see openb.Outcome.alloc), rounded up; None where no event rounds to it.

    pods: in order of arrival. At an event no more is allocated than has arrived, and than the bound of what has arrived at
    it or later: the more has come, the higher that is. It is worked out STEPS times a mark.
    """
    programme = Bound(Counter(nodes))
    demand = np.array([pod.demand for pod in pods], dtype=np.int64).cumsum()
    at = np.array([round(100 * int(d) / capacity) for d in demand], dtype=np.int64)
    found: dict[str, float | None] = {}
    for mark in marks:
        events = np.flatnonzero(at == mark)
        if not len(events):
            found[str(mark)] = None
            continue
        total = 0.0
        for part in np.array_split(events, min(STEPS, len(events))):
            most = programme.most(Counter(pods[: int(part[-1]) + 1]))
            total += float(np.minimum(demand[part], most).sum())
        mean = total / len(events)
        found[str(mark)] = min(100.0, math.ceil(1e4 * (100 * mean / capacity) - 1e-6) / 1e4)
    return found
