"""Capacity: on how many nodes of each pool a member shape fits now, for all shapes at once. Pure, kept by row stamps.

A change of one node costs one comparison per shape; a shape that is new costs one per node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from scheduler.columns import NOBODY, NodeColumns
from scheduler.node import PoolId
from scheduler.shape import WHOLE, MemberShape

Ints = npt.NDArray[np.int64]


class Capacity:
    """counts[s, p]: nodes of pool p on which one member of shape s fits now."""

    def __init__(self, rows: Mapping[PoolId, Ints], pools: Sequence[PoolId], nodes: int) -> None:
        self.pool = np.zeros(nodes, dtype=np.int64)
        for number, name in enumerate(pools):
            if name in rows:
                self.pool[rows[name]] = number
        self.codes: dict[MemberShape, int] = {}
        self.shapes: list[MemberShape] = []
        self.counts = np.zeros((0, len(pools)), dtype=np.int64)
        self._need = np.zeros((0, 3), dtype=np.int64)  # whole devices (0: judged apart), cpu, memory
        self._fits = np.zeros((0, nodes), dtype=np.bool_)
        self._shared: list[int] = []
        self._stamp = np.zeros(nodes, dtype=np.int64)

    def add(self, shapes: Sequence[MemberShape], columns: NodeColumns) -> None:
        """These shapes are counted from now on."""
        new = [shape for shape in dict.fromkeys(shapes) if shape not in self.codes]
        if not new:
            return
        self.update(columns)
        for shape in new:
            self.codes[shape] = len(self.shapes)
            if shape.share < WHOLE and shape.count:
                self._shared.append(len(self.shapes))
            self.shapes.append(shape)
        need = np.array([[s.count, s.cpu, s.memory] for s in new], dtype=np.int64)
        self._need = np.vstack([self._need, need])
        rows = np.arange(len(self.pool))
        fits = self._fit(len(self.shapes) - len(new), len(self.shapes), columns, rows)
        self._fits = np.vstack([self._fits, fits])
        self.counts = np.vstack([self.counts, self._by_pool(fits, rows)])

    def update(self, columns: NodeColumns) -> None:
        """The counts are those of these columns."""
        rows = (self._stamp != columns.stamp).nonzero()[0]
        if not len(rows):
            return
        self._stamp[rows] = columns.stamp[rows]
        if not self.shapes:
            return
        fits = self._fit(0, len(self.shapes), columns, rows)
        change = fits.astype(np.int64) - self._fits[:, rows]
        self._fits[:, rows] = fits
        self.counts += self._by_pool(change, rows)

    def counts_without(self, rows: Ints) -> Ints:
        """The counts with these rows left out."""
        if not len(rows):
            return self.counts
        return self.counts - self._by_pool(self._fits[:, rows], rows)

    def hosts(self, code: int, rows: Ints) -> int:
        """On how many of these rows the shape of that number fits."""
        return int(self._fits[code, rows].sum())

    def _by_pool(self, values: npt.NDArray[np.generic], rows: Ints) -> Ints:
        found = np.zeros((len(values), self.counts.shape[1]), dtype=np.int64)
        pool = self.pool[rows]
        for number in np.unique(pool):
            found[:, number] = values[:, pool == number].sum(axis=1)
        return found

    def _fit(self, first: int, last: int, columns: NodeColumns, rows: Ints) -> npt.NDArray[np.bool_]:
        need = self._need[first:last]
        fits = columns.usable[rows] & (columns.cpu[rows] >= need[:, 1:2]) & (columns.memory[rows] >= need[:, 2:3])
        fits &= columns.full[rows] >= need[:, 0:1]
        for number in self._shared:
            if not first <= number < last:
                continue
            shape = self.shapes[number]
            free, tenant = columns.free[rows], columns.tenant[rows]
            mine = tenant == NOBODY
            if shape.firm is not None:
                mine |= tenant == columns.firm(shape.firm)
            enough = ((free >= shape.share) & mine).any(axis=1)
            row = columns.usable[rows] & (columns.cpu[rows] >= shape.cpu) & (columns.memory[rows] >= shape.memory)
            fits[number - first] = row & enough
        return fits
