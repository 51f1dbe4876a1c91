"""Packing: how well each node suits one gang member, kept from step to step and worked out again only where a node changed.

A node is the better the less F (fragmentation.py) grows there; of nodes alike the one earlier in the zone's order, so that
nodes fill one after the other and whole ones stay whole. ORDER is what the last node of the zone is worse by than the
first, in thousandths of a device: measured over published traces, a slope beats both no order and rounding
(docs/placement.md). Pure: what is kept is checked against each row's stamp, so any state may ask in any order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.columns import NOBODY, WHOLE, NodeColumns
from scheduler.fragmentation import FragmentationTables, Nodes, gain, tables_of, waste
from scheduler.shape import DEFAULT_MIX, MemberShape
from scheduler.slices import slice_worth
from scheduler.snapshot import MixShape

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ORDER = 1200.0
SHORT = 256  # of so few rows F is worked out again: keeping it costs more
KEPT_BYTES = 64 << 20  # of kept scores, the least recently used go first


@dataclass(slots=True, eq=False)
class Kept:
    """Of one shape: score, best device of a share, and the stamp of the row they are of."""

    score: Floats
    device: Ints
    stamp: Ints


class Packing:
    """Scores of member shapes on the nodes of one zone under one mix. -inf: the member does not fit there now."""

    def __init__(self, mix: Sequence[MixShape], models: Sequence[str], width: int) -> None:
        """models: of each row. width: most devices of a node."""
        shapes = tuple(mix) or DEFAULT_MIX
        names = sorted(set(models))
        self.tables: FragmentationTables = tables_of(shapes, names, width, slice_worth(shapes))
        self.model = np.array([self.tables.models[m] for m in models], dtype=np.int64)
        self.slope = np.arange(len(models)) * (ORDER / max(1, len(models)))
        self._waste = np.zeros(len(models))
        self._waste_of = np.zeros(len(models), dtype=np.int64)
        self._kept: OrderedDict[MemberShape, Kept] = OrderedDict()

    def scores(
        self, shape: MemberShape, columns: NodeColumns, allowed: npt.NDArray[np.bool_] | Ints | None = None
    ) -> Kept:
        """score and device (the best place of a share) of every allowed row; rows not allowed may be out of date.

        allowed: of each row whether it is, or the rows, ascending; None: all.
        """
        kept = self._kept.get(shape)
        if kept is None:
            n = len(columns.ids)
            kept = Kept(np.full(n, -np.inf), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64))
            self._kept[shape] = kept
            if len(self._kept) * n * 24 > KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(shape)
        if allowed is None or allowed.dtype == np.bool_:
            stale = kept.stamp != columns.stamp
            if allowed is not None:
                stale &= allowed
            rows = stale.nonzero()[0]
        else:
            rows = allowed.compress(kept.stamp.take(allowed) != columns.stamp.take(allowed))
        if len(rows):
            full, cpu, memory, stamp = columns.by_row.take(rows, axis=1)
            kept.score[rows] = -np.inf
            kept.stamp[rows] = stamp
            able = columns.usable.take(rows) & (cpu >= shape.cpu) & (memory >= shape.memory)
            if shape.share >= WHOLE:
                able &= full >= shape.count
            rows = rows.compress(able)
            if len(rows):
                self._score(shape, columns, rows, kept)
        return kept

    def _score(self, shape: MemberShape, columns: NodeColumns, rows: Ints, kept: Kept) -> None:
        free = columns.free.take(rows, axis=0).astype(np.int64)
        if free.size and free.min() < 0:
            np.maximum(free, 0, out=free)
        nodes = Nodes(free, columns.cpu.take(rows), self.model.take(rows))
        before = None
        mine = None
        if shape.firm is not None:
            tenant = columns.tenant.take(rows, axis=0)
            mine = (tenant == NOBODY) | (tenant == columns.firm(shape.firm))
        if mine is not None and not mine.all():
            # no share of this firm can go beside another's: to it that device is not there
            nodes = Nodes(free * mine, nodes.cpu, nodes.model)
        elif len(rows) > SHORT:
            before = self._before(columns, rows, nodes)
        better, device = gain(self.tables, nodes, before, shape.count, min(shape.share, WHOLE), shape.cpu)
        kept.score[rows] = better - self.slope.take(rows)
        kept.device[rows] = device

    def _before(self, columns: NodeColumns, rows: Ints, nodes: Nodes) -> Floats:
        """F of these rows, kept by stamp: it is the same for every shape."""
        stale = (self._waste_of.take(rows) != columns.stamp.take(rows)).nonzero()[0]
        if len(stale):
            these = rows[stale]
            self._waste[these] = waste(self.tables, Nodes(nodes.free[stale], nodes.cpu[stale], nodes.model[stale]))
            self._waste_of[these] = columns.stamp[these]
        return self._waste.take(rows)
