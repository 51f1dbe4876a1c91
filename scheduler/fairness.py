"""Fairness: whose turn it is. Weighted dominant shares over chip classes that count by what they are worth. Pure.

Dominant-resource fairness (Ghodsi and others, NSDI 2011) takes as a queue's share the largest of its shares of any
resource. Chip classes are not alike: half of the cheapest class is no heavy use of a zone. Each class therefore counts by
its price against the dearest one:

    share of q = max over classes c of (used_qc / capacity_c) * (value_c / largest value) / weight_q

With one value for all classes this is weighted DRF. Nobody is hurt by the currency: only ratios of values count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from scheduler.columns import Ints
from scheduler.node import Pool, PoolId
from scheduler.snapshot import QueueQuota

Floats = npt.NDArray[np.float64]


class FairnessError(ValueError):
    """Figures that make no share: which, the value, and what it should be."""


def dominant_shares(used: Ints, capacity: Ints, value: Ints, weights: Ints) -> Floats:
    """The share of each queue by the formula above: 0 for nothing, 1 for all of the dearest class at weight 1.

    used: devices [queues x classes]; capacity: devices [classes], usable or not; value: fen per device hour [classes];
    weights [queues]. Where more is used than there is (devices went away), what is used stands for the capacity. Values all
    0 count alike. Raises FairnessError for shapes that do not agree, a negative figure or a weight below 1.
    """
    queues, classes = _shape(used)
    for name, array, length in (
        ("capacity", capacity, classes),
        ("value", value, classes),
        ("weights", weights, queues),
    ):
        if array.shape != (length,):
            raise FairnessError(f"{name}: shape {array.shape}; nearest: ({length},)")
    for name, array, least in (
        ("used", used, 0),
        ("capacity", capacity, 0),
        ("value", value, 0),
        ("weights", weights, 1),
    ):
        if array.size and array.min() < least:
            raise FairnessError(f"{name}: {int(array.min())} is below {least}; nearest: {least}")
    if not classes or not queues:
        return np.zeros(queues, dtype=np.float64)
    there = np.maximum(np.maximum(capacity, used.sum(axis=0)), 1)
    shares = used / there * class_worth(value)
    highest: Floats = shares.max(axis=1) / weights
    return highest


def class_worth(value: Ints) -> Floats:
    """Of each class, its value against the largest, within 0 to 1; all 1 where no class has a value."""
    largest = int(value.max(initial=0))
    worth: Floats = value / largest if largest else np.ones(len(value), dtype=np.float64)
    return worth


def age_rank(priority: Ints, submitted_ms: Ints, now_ms: int, step_ms: int) -> Ints:
    """The priority rank (0 = first) less one for every whole `step_ms` waited, without a floor.

    So nobody starves: whatever came more than (its rank + 1) x step_ms after a job stands behind it, whoever's share is
    lower. For the order only: what may preempt whom goes by the priority itself. Raises FairnessError for a step below 1.
    """
    if step_ms < 1:
        raise FairnessError(f"step_ms: {step_ms} is below 1; nearest: 1")
    waited = np.maximum(now_ms - submitted_ms, 0)
    rank: Ints = priority - waited // step_ms
    return rank


def turn_shares(
    base: Floats, queue: Ints, increment: Floats, rank: Ints, submitted_ms: Ints, ids: npt.ArrayLike
) -> Floats:
    """For each job, the share its queue will have when those of the queue that stand before it have started.

    base: share of each queue now; queue: of each job, its row in `base`; increment: what the job adds to that share. The
    jobs of a queue stand by rank, submission and id. Sorting all jobs by the result serves queues in turn, as progressive
    filling does, and not one queue whole before the next.
    """
    if not len(queue):
        return np.zeros(0, dtype=np.float64)
    order = np.lexsort((np.asarray(ids), submitted_ms, rank, queue))
    grouped, steps = queue[order], increment[order]
    ahead = np.cumsum(steps) - steps
    first = np.r_[True, grouped[1:] != grouped[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    shares = np.empty(len(order), dtype=np.float64)
    shares[order] = base[grouped] + (ahead - ahead[start])
    return shares


def fair_order(rank: Ints, share: Floats, submitted_ms: Ints, ids: npt.ArrayLike) -> Ints:
    """Indices of the jobs in the order they are served: by rank, share of the queue, submission, id.

    share: `turn_shares`, or the share of the job's queue. Shares are compared at nine decimals, so that the order in which
    floats were added decides nothing. The same jobs in any order of input are served in the same order.
    """
    order: Ints = np.lexsort((np.asarray(ids), submitted_ms, np.round(share, 9), rank)).astype(np.int64)
    return order


class Shares:
    """Dominant shares of queues while one plan is made, by `dominant_shares`; a question costs the classes there are.

    Everything is counted in thousandths of a device. capacity, value: by class; used: by queue and class. A queue without a
    weight has 1; a class that is not there any more has no value and counts for nothing.
    """

    def __init__(
        self,
        used: Mapping[tuple[str, str], int],
        capacity: Mapping[str, int],
        value: Mapping[str, int],
        weights: Mapping[str, int],
    ) -> None:
        self._capacity, self._weights = capacity, weights
        names = sorted(capacity)
        worth = class_worth(np.array([value.get(name, 0) for name in names], dtype=np.int64))
        self._worth = dict(zip(names, worth.tolist(), strict=True))
        self._used: dict[str, dict[str, int]] = {}
        self._total: dict[str, int] = {}
        for (queue, name), amount in used.items():
            self.take(queue, name, amount)

    def of(self, queue: str) -> float:
        """The share now, rounded at nine decimals: 0 for nothing, 1 for all of the dearest class at weight 1."""
        used = self._used.get(queue, {})
        shares = (
            used[c] / max(self._capacity[c], self._total[c], 1) * self._worth[c] for c in used if c in self._worth
        )
        return round(max(shares, default=0.0) / self._weights.get(queue, 1), 9)

    def take(self, queue: str, name: str, amount: int) -> None:
        """The queue uses so much more of the class."""
        mine = self._used.setdefault(queue, {})
        mine[name] = mine.get(name, 0) + amount
        self._total[name] = self._total.get(name, 0) + amount


def shares_of(
    pools: Sequence[Pool],
    devices: Sequence[int],
    used: Mapping[tuple[str, PoolId], int],
    queues: Mapping[str, QueueQuota],
) -> Shares:
    """Of a zone whose pools have so many devices each. used: thousandths of devices by queue and pool.

    A class is a model; it is worth what its devices cost on the list, on average.
    """
    capacity: dict[str, int] = {}
    money: dict[str, int] = {}
    model = {}
    for pool, count in zip(pools, devices, strict=True):
        model[pool.id] = pool.model
        capacity[pool.model] = capacity.get(pool.model, 0) + 1000 * count
        money[pool.model] = money.get(pool.model, 0) + pool.price_fen_per_device_hour * 1000 * count
    by_class: dict[tuple[str, str], int] = {}
    for (queue, name), amount in used.items():
        if name in model:
            by_class[queue, model[name]] = by_class.get((queue, model[name]), 0) + amount
    value = {name: money[name] // size if size else 0 for name, size in capacity.items()}
    return Shares(by_class, capacity, value, {name: max(1, queue.weight) for name, queue in queues.items()})


def share_error(shares: Floats, wanting: npt.NDArray[np.bool_]) -> float:
    """How unequal the shares of the queues that still want devices are: the largest less the smallest; 0 for one or none."""
    held = shares[wanting]
    return float(held.max() - held.min()) if held.size else 0.0


def _shape(used: Ints) -> tuple[int, int]:
    if used.ndim != 2:
        raise FairnessError(f"used: {used.ndim} dimensions; nearest: 2 (queues x classes)")
    return int(used.shape[0]), int(used.shape[1])
