"""Capacity: on how many nodes of each pool a member shape fits now, for all shapes at once. Pure, kept by row stamps.

A change of one node costs one comparison per shape; a shape that is new costs one per node.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from scheduler.columns import NOBODY, Flags, Ints, NodeColumns
from scheduler.job import FirmId
from scheduler.node import PoolId
from scheduler.shape import WHOLE, MemberShape

PART = 1024  # rows taken up at once: bounds what a change of every row costs in memory


class Capacity:
    """counts[s, p]: nodes of pool p on which one member of shape s fits now."""

    def __init__(self, rows: Mapping[PoolId, Ints], pools: Sequence[PoolId], nodes: int) -> None:
        self.pool = np.full(nodes, len(pools), dtype=np.int64)
        for number, name in enumerate(pools):
            if name in rows:
                self.pool[rows[name]] = number
        self.codes: dict[MemberShape, int] = {}
        self.shapes: list[MemberShape] = []
        self.counts = np.zeros((0, len(pools)), dtype=np.int64)
        self._need = np.zeros((0, 3), dtype=np.int64)  # whole devices (0: judged apart), cpu, memory
        self._fits = np.zeros((nodes, 0), dtype=np.bool_)  # with columns to spare
        self._shared: list[int] = []
        self._stamp = np.zeros(nodes, dtype=np.int64)

    def add(self, shapes: Sequence[MemberShape], columns: NodeColumns) -> None:
        """These shapes are counted from now on."""
        new = [shape for shape in dict.fromkeys(shapes) if shape not in self.codes]
        if not new:
            return
        self.update(columns)
        first, last = len(self.shapes), len(self.shapes) + len(new)
        for shape in new:
            self.codes[shape] = len(self.shapes)
            if shape.share < WHOLE and shape.count:
                self._shared.append(len(self.shapes))
            self.shapes.append(shape)
        need = [[0 if s.share < WHOLE else s.count, s.cpu, s.memory] for s in new]
        self._need = np.vstack([self._need, np.array(need, dtype=np.int64)])
        if last > self._fits.shape[1]:
            grown = np.zeros((len(self.pool), last + last // 4 + 64), dtype=np.bool_)
            grown[:, :first] = self._fits[:, :first]
            self._fits = grown
        counts = np.zeros((len(new), self.counts.shape[1]), dtype=np.int64)
        for rows in _parts(np.arange(len(self.pool))):
            fits = self._fit(first, last, columns, rows)
            self._fits[rows, first:last] = fits
            counts += self._by_pool(fits, rows)
        self.counts = np.vstack([self.counts, counts])

    def update(self, columns: NodeColumns) -> None:
        """The counts are those of these columns."""
        changed = (self._stamp != columns.stamp).nonzero()[0]
        if not len(changed):
            return
        self._stamp[changed] = columns.stamp[changed]
        last = len(self.shapes)
        if not last:
            return
        for rows in _parts(changed):
            fits = self._fit(0, last, columns, rows)
            self.counts += self._by_pool(fits, rows) - self._by_pool(self._fits[rows, :last], rows)
            self._fits[rows, :last] = fits

    def counts_without(self, rows: Ints) -> Ints:
        """The counts with these rows left out."""
        if not len(rows):
            return self.counts
        return self.counts - self._by_pool(self._fits[rows, : len(self.shapes)], rows)

    def hosts(self, code: int, rows: Ints) -> int:
        """On how many of these rows the shape of that number fits."""
        return int(np.count_nonzero(self._fits[rows, code]))

    def _by_pool(self, fits: Flags, rows: Ints) -> Ints:
        """[shapes, pools] of how many of these rows fit."""
        found = np.zeros((fits.shape[1], self.counts.shape[1]), dtype=np.int64)
        pool = self.pool[rows]
        for number in np.flatnonzero(np.bincount(pool, minlength=found.shape[1])[: found.shape[1]]):
            found[:, number] = fits[pool == number].sum(axis=0, dtype=np.int32)
        return found

    def _fit(self, first: int, last: int, columns: NodeColumns, rows: Ints) -> Flags:
        """[rows, shapes]"""
        whole, cpu, memory = self._need[first:last].T
        fits: Flags = columns.full[rows, None] >= whole
        fits &= columns.cpu[rows, None] >= cpu
        fits &= columns.memory[rows, None] >= memory
        fits &= columns.usable[rows, None]
        shared = self._shared[bisect_left(self._shared, first) : bisect_left(self._shared, last)]
        if shared:
            shapes = [self.shapes[number] for number in shared]
            firms = {firm: place for place, firm in enumerate(dict.fromkeys(shape.firm for shape in shapes))}
            room = _room(columns, rows, tuple(firms))[:, [firms[shape.firm] for shape in shapes]]
            fits[:, np.array(shared) - first] &= room >= np.array([shape.share for shape in shapes])
        return fits


def _room(columns: NodeColumns, rows: Ints, firms: Sequence[FirmId | None]) -> Ints:
    """[rows, firms]: of each row, the most thousandths that one device has for a share of that firm (None: of nobody)."""
    free, tenant = columns.free[rows].astype(np.int64), columns.tenant[rows]
    empty = np.where(tenant == NOBODY, free, 0).max(axis=1, initial=0)
    room = np.repeat(empty[:, None], len(firms), axis=1)
    for place, firm in enumerate(firms):
        if firm is not None:
            own = np.where(tenant == columns.firm(firm), free, 0).max(axis=1, initial=0)
            np.maximum(room[:, place], own, out=room[:, place])
    return room


def _parts(rows: Ints) -> Iterator[Ints]:
    return (rows[i : i + PART] for i in range(0, len(rows), PART))
