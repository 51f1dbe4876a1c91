"""Columns: the nodes of a zone as arrays, sorted by id, so that fitting and choosing cost a few vector operations. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scheduler.node import Node, NodeId, PoolId

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NodeColumns:
    """Row i is one node in every array. rows: per pool, its rows in ascending order (= ascending id).

    size: devices; free: devices no lease holds; usable: schedulable.
    """

    ids: tuple[NodeId, ...]
    row_of: Mapping[NodeId, int]
    rows: Mapping[PoolId, Ints]
    size: Ints
    free: Ints
    usable: Flags

    def with_free(self, changed: Mapping[NodeId, int]) -> NodeColumns:
        """The same nodes with these free counts; the arrays of this one are left as they are."""
        free = self.free.copy()
        for node, count in changed.items():
            free[self.row_of[node]] = count
        return replace(self, free=free)


def columns_of(nodes: Iterable[Node], taken: Mapping[NodeId, frozenset[str]]) -> NodeColumns:
    """Columns of these nodes, less the devices taken."""
    found = sorted(nodes, key=lambda node: node.id)
    pools: dict[PoolId, list[int]] = {}
    for row, node in enumerate(found):
        pools.setdefault(node.pool, []).append(row)
    return NodeColumns(
        ids=tuple(node.id for node in found),
        row_of={node.id: row for row, node in enumerate(found)},
        rows={pool: np.array(rows, dtype=np.int64) for pool, rows in pools.items()},
        size=np.array([len(node.devices) for node in found], dtype=np.int64),
        free=np.array([free_count(node, taken) for node in found], dtype=np.int64),
        usable=np.array([node.schedulable for node in found], dtype=np.bool_),
    )


def free_count(node: Node, taken: Mapping[NodeId, frozenset[str]]) -> int:
    """Devices of the node that no lease holds. A lease may hold a device the node no longer reports."""
    held = taken.get(node.id)
    return sum(1 for device in node.devices if device not in held) if held else len(node.devices)
