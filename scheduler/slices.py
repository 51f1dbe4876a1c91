"""Slices: what a free slice of a device is worth to the recent mix of requests. Pure.

Filling devices with shares is the cutting-stock problem. The dual prices of its linear programme (Gilmore and Gomory, 1961;
columns made as they are needed by a knapsack) say what one more member of each share is worth when the devices are scarce;
a slice is worth the best knapsack of shares that fits in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.snapshot import MixShape

Floats = npt.NDArray[np.float64]
WHOLE = 1000
ROUNDS = 200


def slice_worth(mix: Sequence[MixShape]) -> Floats:
    """Worth of a free slice by its thousandths, [1001], in thousandths of a device; 0 everywhere when nothing is shared.

    The demand is the mix, scaled to as much as all devices hold together.
    """
    demand: dict[int, int] = {}
    for shape in mix:
        if shape.count:
            size = min(shape.share_permille, WHOLE)
            demand[size] = demand.get(size, 0) + shape.weight * shape.count
    sizes = np.array(sorted(demand), dtype=np.int64)
    if not len(sizes) or sizes[0] >= WHOLE:
        return np.zeros(WHOLE + 1)
    wanted = np.array([demand[int(s)] for s in sizes], dtype=np.float64)
    wanted *= WHOLE / float((sizes * wanted).sum())  # devices = 1
    patterns = [np.where(np.arange(len(sizes)) == i, WHOLE // s, 0) for i, s in enumerate(sizes)]
    worth = np.zeros(WHOLE + 1)
    for _ in range(ROUNDS):
        prices, device = _prices(np.array(patterns).T, sizes, wanted)
        worth, best = _knapsack(sizes, prices)
        if worth[WHOLE] <= device + 1e-6:
            break
        patterns.append(_pattern(sizes, best))
    return worth


def _prices(patterns: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], wanted: Floats) -> tuple[Floats, float]:
    """Duals: worth of one member of each size, and of one device."""
    from scipy.optimize import linprog

    members, columns = patterns.shape
    served = np.hstack([-patterns, np.eye(members)])
    devices = np.concatenate([np.ones(columns), np.zeros(members)])
    solved = linprog(
        np.concatenate([np.zeros(columns), -sizes.astype(np.float64)]),
        A_ub=np.vstack([served, devices]),
        b_ub=np.concatenate([np.zeros(members), [1.0]]),
        bounds=[(0, None)] * columns + [(0, float(w)) for w in wanted],
        method="highs",
    )
    return -solved.ineqlin.marginals[:members], float(-solved.ineqlin.marginals[members])


def _knapsack(sizes: npt.NDArray[np.int64], prices: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Best total price within each room, and the last item it takes (-1: one thousandth stays empty)."""
    worth = np.zeros(WHOLE + 1)
    best = np.full(WHOLE + 1, -1, dtype=np.int64)
    for room in range(1, WHOLE + 1):
        fitting = int(np.searchsorted(sizes, room, side="right"))
        worth[room] = worth[room - 1]
        if fitting:
            values = worth[room - sizes[:fitting]] + prices[:fitting]
            item = int(values.argmax())
            if values[item] > worth[room] + 1e-9:
                worth[room], best[room] = values[item], item
    return worth, best


def _pattern(sizes: npt.NDArray[np.int64], best: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    found = np.zeros(len(sizes), dtype=np.int64)
    room = WHOLE
    while room > 0:
        if best[room] < 0:
            room -= 1
        else:
            found[best[room]] += 1
            room -= int(sizes[best[room]])
    return found
