"""Timing: warm up, run a batch long enough for the clock, repeat, and say median and spread. Pure but for the clock it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WARM_UPS = 2
BATCH_S = 0.02  # a batch this long makes a clock's and a synchronisation's microseconds less than a thousandth
REPEATS = (3, 25)  # fewer than the first say nothing of spread; more than the second nothing new
INNER_MAX = 10_000
SHARE = 0.6  # of a budget is for repeats; the rest for data, warm-up and the check

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Seconds of one run, once per repeat (a batch's time over `inner` runs)."""

    inner: int
    seconds: tuple[float, ...]


def repeat(run: Callable[[], None], synchronize: Callable[[], None], *, budget_s: float, clock: Clock) -> Repeats:
    """Between 3 and 25 repeats after warm-up, as many as the budget's share lets.

    A batch counts from an idle device to an idle device, so queued work is inside and nothing else is; it has as many
    runs as fill 20 ms.
    """
    start = clock()
    batch(run, synchronize, WARM_UPS, clock)
    count = inner_for(batch(run, synchronize, 1, clock))
    if count > 1:  # a single short run is mostly its launch: ask again with what it suggests
        count = inner_for(batch(run, synchronize, count, clock) / count)
    found: list[float] = []
    while len(found) < REPEATS[1] and (len(found) < REPEATS[0] or clock() - start < budget_s * SHARE):
        found.append(batch(run, synchronize, count, clock) / count)
    return Repeats(inner=count, seconds=tuple(found))


def rounds(
    run: Callable[[], None], synchronize: Callable[[], None], *, inner: int, repeats: int, clock: Clock
) -> Repeats:
    """Exactly so many repeats of so many runs: ranks of one collective must agree on both, or they wait for ever."""
    found = tuple(batch(run, synchronize, inner, clock) / inner for _ in range(repeats))
    return Repeats(inner=inner, seconds=found)


def inner_for(once_s: float) -> int:
    """How many runs of this length fill a batch of 20 ms; at least one."""
    return min(INNER_MAX, max(1, math.ceil(BATCH_S / max(once_s, 1e-9))))


def batch(run: Callable[[], None], synchronize: Callable[[], None], count: int, clock: Clock) -> float:
    """Seconds that `count` runs take, from an idle device to an idle device."""
    synchronize()
    before = clock()
    for _ in range(count):
        run()
    synchronize()
    return clock() - before


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed, linear between neighbours (Hyndman and Fan 1996, type 7).

    ValueError for no values and for a share outside [0, 1].
    """
    if not values:
        raise ValueError("values: none are given; a quantile needs at least one")
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is not between 0 and 1")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def significant(value: float, digits: int = 6) -> float:
    """Rounded to so many significant digits; a measurement has no more."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))
