"""Fragmentation: how much of a node's idle devices the recent mix of requests could not use. Pure.

F(node) = sum over the mix's shapes of weight × idle thousandths that a member of that shape cannot have there; placing
where F grows least keeps what is left usable (Weng et al., FGD, USENIX ATC 2023). A shape that cannot run on the node at
all (model, CPU, too few free devices, or one that wants no device) wastes all idle; else it wastes the devices it cannot use.

Summed per shape this costs shapes × devices a node. It is the same sum, taken in another order: with the node's model and
the CPU it has left fixed,

    F = sum over devices g of T[free of g]  +  idle · A  −  1000 · k · R[k],      k = wholly free devices

where T, A and R are sums over the mix alone, made once; a node then costs one table look-up a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scheduler.snapshot import MixShape

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
WHOLE = 1000
SLICE_WEIGHT = (
    0.5  # of the slice prices in the value of what is left; benchmarks/openb: 0.25 to 0.75 are alike, 1 is worse
)
BUCKETS = 64  # distinct CPU demands told apart at most; more are merged
SHORT = 64  # rows: of fewer one reduction is quicker than three additions


@dataclass(frozen=True, slots=True, eq=False)
class FragmentationTables:
    """T: [models, buckets, 1001], A: [models, buckets], R: [models, buckets, devices + 1]; cpus: bucket edges, ascending."""

    models: Mapping[str, int]
    cpus: Ints
    device: Floats
    idle: Floats
    whole: Floats

    def bucket(self, cpu: Ints) -> Ints:
        """The table row for nodes with this much CPU left (milli-cores)."""
        return self.cpus.searchsorted(cpu, side="right")


def tables_of(
    mix: Sequence[MixShape], models: Sequence[str], width: int, slices: Floats | None = None
) -> FragmentationTables:
    """Tables for nodes of these models with up to `width` devices. slices: worth of a free slice by thousandths (slices.py)."""
    total = sum(shape.weight for shape in mix) or 1
    cpus = np.array(sorted({shape.cpu_milli for shape in mix if shape.count}), dtype=np.int64)
    if len(cpus) > BUCKETS:
        cpus = cpus[np.unique(np.linspace(0, len(cpus) - 1, BUCKETS).astype(np.int64))]
    known = list(dict.fromkeys(models))
    free = np.arange(WHOLE + 1)
    device = np.zeros((len(known), len(cpus) + 1, WHOLE + 1))
    idle = np.zeros((len(known), len(cpus) + 1))
    whole = np.zeros((len(known), len(cpus) + 1, width + 1))
    for m, model in enumerate(known):
        for shape in mix:
            weight = shape.weight / total
            fits_from = int(np.searchsorted(cpus, shape.cpu_milli, side="left")) + 1
            if shape.count == 0 or (shape.models and model not in shape.models):
                idle[m] += weight
                continue
            idle[m, :fits_from] += weight
            if shape.share_permille < WHOLE:
                device[m, fits_from:] += weight * free * (free < shape.share_permille)
            else:
                idle[m, fits_from:] += weight
                whole[m, fits_from:, shape.count :] += weight
    if slices is not None:
        device -= SLICE_WEIGHT * slices[None, None, :]
    return FragmentationTables({name: i for i, name in enumerate(known)}, cpus, device, idle, whole)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Rows to be scored: free [n, devices] from 0 to 1000, cpu [n], model [n] (numbers of the tables)."""

    free: Ints
    cpu: Ints
    model: Ints


def _sums(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of each row. Of eight columns by halves, which is the order, so to the bit the sum, of np.add.reduce and a fifth of its time."""
    if table.shape[1] != 8 or len(table) < SHORT:
        return np.asarray(np.add.reduce(table, axis=1))
    four = table[:, 0::2] + table[:, 1::2]
    two = four[:, 0::2] + four[:, 1::2]
    return np.asarray(two[:, 0] + two[:, 1])


def waste(tables: FragmentationTables, nodes: Nodes) -> Floats:
    """F of each node, thousandths of a device (less the worth of its slices)."""
    line = nodes.model * tables.idle.shape[1] + tables.bucket(nodes.cpu)
    k = _sums((nodes.free == WHOLE).astype(np.int64))
    found: Floats = (
        _sums(tables.device.ravel().take((line * (WHOLE + 1))[:, None] + nodes.free))
        + _sums(nodes.free) * tables.idle.ravel().take(line)
        - WHOLE * k * tables.whole.reshape(-1, tables.whole.shape[2])[line, k]
    )
    return found


def gain(
    tables: FragmentationTables, nodes: Nodes, before: Floats | None, count: int, share: int, cpu: int
) -> tuple[Floats, Ints]:
    """F before (as `waste` says; None: it is worked out here) less F after one member is placed on each node (count devices,
    each `share` thousandths, cpu milli-cores), and for a share the device that is best for it (lowest place among equals;
    0 else). −inf where no device fits."""
    base = nodes.model * tables.idle.shape[1]
    line = base + tables.bucket(nodes.cpu - cpu)
    device, first, per = tables.device.ravel(), line * (WHOLE + 1), tables.idle.ravel()
    whole = tables.whole.reshape(-1, tables.whole.shape[2])
    worth = device.take(first[:, None] + nodes.free)
    total, idle = _sums(worth), _sums(nodes.free)
    full = nodes.free == WHOLE
    k = _sums(full.astype(np.int64))
    per_idle = per.take(line)
    if before is None:
        now = base + tables.bucket(nodes.cpu)
        held = _sums(device.take((now * (WHOLE + 1))[:, None] + nodes.free))
        before = held + idle * per[now] - WHOLE * k * whole[now, k]
    if count == 0:
        return before - (total + idle * per_idle - WHOLE * k * whole[line, k]), np.zeros(len(k), dtype=np.int64)
    if share >= WHOLE:
        left = np.maximum(k - count, 0)
        taken = count * (device[first + WHOLE] - device[first])
        after = total - taken + (idle - WHOLE * count) * per_idle - WHOLE * left * whole[line, left]
        return np.where(k >= count, before - after, -np.inf), np.zeros(len(k), dtype=np.int64)
    can = nodes.free >= share
    rest = np.where(can, nodes.free - share, 0)
    left = (line * whole.shape[1] + k)[:, None] - full  # of each device: R of what is wholly free then
    kept = WHOLE * (k[:, None] - full) * whole.ravel().take(left)
    after = (total[:, None] - worth + device.take(first[:, None] + rest)
             + ((idle - share) * per_idle)[:, None] - kept)  # fmt: skip
    each = np.where(can, before[:, None] - after, -np.inf)
    best = each.argmax(axis=1)
    return each[np.arange(len(best)), best], best
