"""Preemption: which running gangs to stop so that one job can start, at the least loss of work. Pure.

Whole leases only: half a stopped gang is a stopped gang. A lease may be stopped for a job of higher priority, or for one
whose queue takes back its own nominal from a lease that stands on it (`scheduler.quota.beyond`); never while it is
protected. The loss of a lease is devices x time since its last checkpoint (`cost`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import numpy as np
import numpy.typing as npt

from scheduler.clock import to_ms
from scheduler.columns import Flags, Ints
from scheduler.snapshot import RunningLease

EXACT = 10  # up to so many candidates, all subsets are tried
CELLS = 1 << 22  # and no more than so many (subset, row) pairs at once
NO_USE = 1e-9  # a share of what a member wants that is nothing but rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What is to start: `nodes` rows with `count` devices, cpu_milli and memory_bytes each.

    rank: of its priority, 0 = highest. reclaims: its queue takes no more than its own nominal. release_devices: borrowed
    devices that must come back to its queue's cohort beside, wherever they are.
    """

    count: int
    nodes: int
    cpu_milli: int = 0
    memory_bytes: int = 0
    rank: int = 0
    reclaims: bool = False
    release_devices: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """What is free on each row of the pool now. cpu_milli, memory_bytes: None = not checked. usable: None = all rows."""

    devices: Ints
    cpu_milli: Ints | None = None
    memory_bytes: Ints | None = None
    usable: Flags | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A running lease that may have to stop: what each of its rows gets back.

    cpu_milli, memory_bytes: per member. rank: of its priority, 0 = highest. borrowed: it stands on another queue's nominal.
    protected: within its guaranteed minimum run time.
    """

    lease: str
    rows: tuple[int, ...]
    devices: tuple[int, ...]
    rank: int
    cost_device_ms: int
    cpu_milli: int = 0
    memory_bytes: int = 0
    borrowed: bool = False
    protected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Leases that may stop, as columns in the order of their ids. cost: device ms lost; returns: borrowed devices it gives back.

    Member k belongs to candidate `who[k]` (ascending) and gives devices, cpu and memory back to row `where[k]`.
    """

    cost: Ints
    returns: Ints
    who: Ints
    where: Ints
    devices: Ints
    cpu: Ints
    memory: Ints


def victims(need: Need, free: Free, leases: Sequence[Victim]) -> tuple[Victim, ...] | None:
    """The leases to stop, by id, so that `need` fits: () when it fits already, None when no set of them suffices.

    Without any one of them the need would not be met. Of up to EXACT candidates the set is the cheapest there is (then the
    fewest leases, then the lowest ids); of more it is found greedily, row by row and lease by lease, and pruned.
    """
    able = sorted((lease for lease in leases if _may_stop(need, lease)), key=lambda one: one.lease)
    found = stops(need, free, _columns(able))
    return None if found is None else tuple(able[i] for i in found)


def stops(need: Need, free: Free, candidates: Candidates) -> list[int] | None:
    """The same by number: which of the candidates stop, ascending. rank and reclaims of the need are not looked at."""
    found = prospect(need, free, candidates)
    return None if found is None else found.stops()


def prospect(need: Need, free: Free, candidates: Candidates) -> Prospect | None:
    """What stopping some of the candidates could do for the need; None when all of them together do not suffice."""
    field = _Field(need, free, candidates)
    if field.holds(field.none()):
        return Prospect(met=True, exact=True, estimate=0.0, field=field)
    if not field.holds(~field.none()):
        return None
    exact = field.size <= EXACT and len(field.lack[0]) << field.size <= CELLS
    return Prospect(met=False, exact=exact, estimate=_estimate(field), field=field)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prospect:
    """met: the need fits as it is. exact: all subsets are tried. estimate: of the loss, device ms, told without a search."""

    met: bool
    exact: bool
    estimate: float
    field: _Field

    def stops(self) -> list[int]:
        """Which of the candidates stop, ascending."""
        if self.met:
            return []
        field = self.field
        if self.exact:
            chosen = _cheapest(field)
        else:
            chosen = min((_prune(field, found) for found in (_by_lease(field), _by_row(field))), key=field.sort_key)
        return [int(i) for i in np.flatnonzero(chosen)]


def _estimate(field: _Field) -> float:
    """The sum of the least prices of rows, a lease counting on each of its rows for its part; 0 where only returns lack."""
    parts = field.costs / np.maximum(1, np.bincount(field.who, minlength=field.size))
    prices = np.bincount(field.where, weights=parts[field.who] * field.needed(), minlength=len(field.lack[0]))
    missing = min(max(0, field.need.nodes - field.elsewhere), len(prices))
    return float(np.sort(prices)[:missing].sum())


def _columns(leases: Sequence[Victim]) -> Candidates:
    lengths = [len(v.rows) for v in leases]
    who = np.repeat(np.arange(len(leases), dtype=np.int64), lengths)
    return Candidates(
        cost=np.array([v.cost_device_ms for v in leases], dtype=np.int64),
        returns=np.array([sum(v.devices) if v.borrowed else 0 for v in leases], dtype=np.int64),
        who=who,
        where=np.fromiter(chain.from_iterable(v.rows for v in leases), dtype=np.int64, count=sum(lengths)),
        devices=np.fromiter(chain.from_iterable(v.devices for v in leases), dtype=np.int64, count=sum(lengths)),
        cpu=np.array([v.cpu_milli for v in leases], dtype=np.int64)[who],
        memory=np.array([v.memory_bytes for v in leases], dtype=np.int64)[who],
    )


def cost(lease: RunningLease, now: datetime, default_interval_ms: int | None = None) -> int:
    """Device milliseconds counted as lost if the lease stopped now; 0 while it starts.

    devices x time since the last checkpoint known, or since the start where there is none. A lease that declares no
    checkpoint interval counts as if it wrote one every `default_interval_ms`, so that saying nothing of its checkpoints
    protects a job no better than that; None = no such assumption. `lost` is what really goes.
    """
    since = _since(lease, now)
    if default_interval_ms is not None and default_interval_ms < 1:
        raise ValueError(f"default_interval_ms: {default_interval_ms} is below 1; nearest: 1")
    if default_interval_ms is not None and lease.checkpoint_interval_ms is None:
        since %= default_interval_ms
    return _size(lease) * since


def lost(lease: RunningLease, now: datetime) -> int:
    """Device milliseconds of work that stopping the lease now throws away, as far as is known; 0 while it starts."""
    return _size(lease) * _since(lease, now)


def protected(lease: RunningLease, now: datetime, minimum_ms: int) -> bool:
    """True until the lease has run for its guaranteed minimum; while it starts it has not begun to."""
    return minimum_ms > 0 and (lease.started_at is None or to_ms(now) - to_ms(lease.started_at) < minimum_ms)


def _since(lease: RunningLease, now: datetime) -> int:
    if lease.started_at is None:
        return 0
    saved = lease.started_at if lease.checkpointed_at is None else max(lease.checkpointed_at, lease.started_at)
    return max(0, to_ms(now) - to_ms(saved))


def _size(lease: RunningLease) -> int:
    return sum(len(member.devices) for member in lease.members)


def _may_stop(need: Need, lease: Victim) -> bool:
    return not lease.protected and (lease.rank > need.rank or (lease.borrowed and need.reclaims))


class _Field:
    """The rows as the need sees them: per resource, what each row lacks, and what each candidate gives back.

    Only rows that open when all candidates stop are looked at. Entry k says that candidate `who[k]` gives `what[r][k]` of
    resource r back to row `where[k]`. The entries of row i are those in [ends[i], ends[i + 1]), the least loss per device
    first.
    """

    def __init__(self, need: Need, free: Free, candidates: Candidates) -> None:
        self.need = need
        self.size = len(candidates.cost)
        usable = np.ones(len(free.devices), dtype=np.bool_) if free.usable is None else free.usable
        who, where = candidates.who, candidates.where
        given_by = (candidates.devices, candidates.cpu, candidates.memory)
        wants = ((need.count, free.devices), (need.cpu_milli, free.cpu_milli), (need.memory_bytes, free.memory_bytes))
        checked = [(r, wanted, had) for r, (wanted, had) in enumerate(wants) if had is not None and (wanted or r == 0)]
        fits = usable.copy()
        for _, wanted, had in checked:
            fits &= had >= wanted
        self.elsewhere = int(fits.sum())  # rows that fit already; `rows` below are those that only a stop can open
        lacks = [wanted - had.astype(np.int64) for _, wanted, had in checked]
        what = [given_by[r] for r, _, _ in checked]
        opens = usable & ~fits
        for lack, given in zip(lacks, what, strict=True):
            best = lack.copy()
            np.subtract.at(best, where, given)
            opens &= best <= 0
        rows = np.flatnonzero(opens)
        keep = opens[where]
        self.costs, self.returns = candidates.cost, candidates.returns
        loss = self.costs[who] / np.maximum(given_by[0], 1)
        order = np.lexsort((who, loss, where))
        order = order[keep[order]]
        self.who, self.where = who[order], np.searchsorted(rows, where[order])
        self.what = [given[order] for given in what]
        self.ends = np.searchsorted(self.where, np.arange(len(rows) + 1))
        self.lack: list[Ints] = [lack[rows] for lack in lacks]
        self.unit = [max(1, wanted) for _, wanted, _ in checked]

    def left(self, chosen: Flags) -> list[Ints]:
        """What each row still lacks of each resource once the chosen stop; 0 or less = nothing."""
        rest, at = [], chosen[self.who]
        for lack, given in zip(self.lack, self.what, strict=True):
            remaining = lack.copy()
            np.subtract.at(remaining, self.where[at], given[at])
            rest.append(remaining)
        return rest

    def open_rows(self, rest: list[Ints]) -> int:
        """Rows that can host a member when `rest` is lacking."""
        return self.elsewhere + int(np.logical_and.reduce([one <= 0 for one in rest]).sum())

    def holds(self, chosen: Flags) -> bool:
        """True when the need is met once the chosen stop."""
        if self.returns[chosen].sum() < self.need.release_devices:
            return False
        return self.open_rows(self.left(chosen)) >= self.need.nodes

    def needed(self) -> Flags:
        """Of each entry: those before it on its row do not open it."""
        found = np.zeros(len(self.who), dtype=np.bool_)
        for lack, given in zip(self.lack, self.what, strict=True):
            total = np.cumsum(given) - given
            start = np.repeat(np.r_[total, 0][self.ends[:-1]], np.diff(self.ends))
            found |= total - start < lack[self.where]
        return found

    def none(self) -> Flags:
        return np.zeros(self.size, dtype=np.bool_)

    def sort_key(self, chosen: Flags) -> tuple[int, int, list[int]]:
        found = np.flatnonzero(chosen).tolist()
        return int(self.costs[chosen].sum()), len(found), found


def _cheapest(field: _Field) -> Flags:
    """All subsets at once: bit i of the subset's number says whether candidate i stops."""
    n, rows = field.size, len(field.lack[0])
    bits = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
    opened = np.ones((1 << n, rows), dtype=np.bool_)
    for lack, what in zip(field.lack, field.what, strict=True):
        given = np.zeros((n, rows), dtype=np.int64)
        np.add.at(given, (field.who, field.where), what)
        opened &= bits @ given >= lack
    enough = field.elsewhere + opened.sum(axis=1) >= field.need.nodes
    enough &= bits @ field.returns >= field.need.release_devices
    able = np.flatnonzero(enough)
    loss = bits[able] @ field.costs
    least = able[loss == loss.min()]
    return min((bits[number].astype(np.bool_) for number in least.tolist()), key=field.sort_key)


class _Search:
    """The field in plain numbers, for searches that stop one lease after another: a step costs what it touches.

    rest: what each row still lacks of each resource. missing: rows that must open still; below 0: so many to spare.
    """

    def __init__(self, field: _Field, chosen: Flags) -> None:
        rest = field.left(chosen)
        self.missing = field.need.nodes - field.open_rows(rest)
        self.rest = [one.tolist() for one in rest]
        self.costs, self.who, self.where = field.costs.tolist(), field.who.tolist(), field.where.tolist()
        self.what: list[list[int]] = [given.tolist() for given in field.what]
        self.ends = field.ends.tolist()
        self._order: list[int] = np.argsort(field.who, kind="stable").tolist()
        self._first: list[int] = [0, *np.cumsum(np.bincount(field.who, minlength=field.size)).tolist()]

    def entries(self, candidate: int) -> list[int]:
        """The entries of what the candidate gives back."""
        return self._order[self._first[candidate] : self._first[candidate + 1]]

    def stop(self, candidate: int, times: int = 1) -> set[int]:
        """The candidate stops (-1: goes on after all); the rows it is on."""
        entries = self.entries(candidate)
        rows = {self.where[k] for k in entries}
        for row in rows:
            self.missing += self.open(row)
        for rest, what in zip(self.rest, self.what, strict=True):
            for k in entries:
                rest[self.where[k]] -= times * what[k]
        for row in rows:
            self.missing -= self.open(row)
        return rows

    def open(self, row: int) -> bool:
        """The row can host a member."""
        for rest in self.rest:  # noqa: SIM110 - asked so often that a generator shows
            if rest[row] > 0:
                return False
        return True


def _by_lease(field: _Field) -> Flags:
    """One lease after another, each time the one whose loss per device that the need can use is the least.

    What a lease is worth to the need only falls, so its price only rises: the one with the lowest known price is looked at
    again, and taken if it still is the cheapest.
    """
    chosen, search = field.none(), _Search(field, field.none())
    worth = _useful(field, field.left(chosen))
    sums = np.bincount(field.who, weights=worth, minlength=field.size)
    part, useful, kinds = worth.tolist(), sums.tolist(), len(search.rest)
    queue: list[tuple[float, int, int]] = []
    if search.missing > 0:
        able = np.flatnonzero(sums > NO_USE)
        prices = field.costs[able] / np.minimum(sums[able], search.missing * kinds)
        queue = list(zip(prices.tolist(), field.costs[able].tolist(), able.tolist(), strict=True))
        heapq.heapify(queue)
    while search.missing > 0:
        known, cost, best = heapq.heappop(queue)  # all candidates together suffice, so one of the rest is of use
        if useful[best] <= NO_USE:
            continue
        if (now := cost / min(useful[best], search.missing * kinds)) > known:
            heapq.heappush(queue, (now, cost, best))
            continue
        chosen[best] = True
        for row in sorted(search.stop(best)):
            lacks = [max(rest[row], 0) for rest in search.rest]
            for k in range(search.ends[row], search.ends[row + 1]):
                use = 0.0
                for lack, what, unit in zip(lacks, search.what, field.unit, strict=True):
                    use += min(what[k], lack) / unit
                useful[search.who[k]] += use - part[k]
                part[k] = use
    return _release(field, chosen)


def _useful(field: _Field, rest: list[Ints]) -> npt.NDArray[np.float64]:
    """Of what each entry gives back, how much its row lacks: 1 = all that a member wants, summed over resources."""
    found = np.zeros(len(field.who), dtype=np.float64)
    for one, given, unit in zip(rest, field.what, field.unit, strict=True):
        found += np.minimum(given, np.maximum(one[field.where], 0)) / unit
    return found


def _by_row(field: _Field) -> Flags:
    """One row after another, each time the one that opens at the least loss, what is chosen already counting nothing.

    On a row the candidates stop in the order of their loss per device, until what it lacks is there.
    """
    chosen, search = field.none(), _Search(field, field.none())
    prices = np.zeros(len(field.lack[0]), dtype=np.int64)
    np.add.at(prices, field.where, field.costs[field.who] * field.needed())
    known: list[int | None] = [None if search.open(row) else price for row, price in enumerate(prices.tolist())]
    queue = [(price, row) for row, price in enumerate(known) if price is not None]
    heapq.heapify(queue)
    while search.missing > 0:
        price, row = heapq.heappop(queue)
        if known[row] != price:
            continue  # it is open, or has become cheaper
        here = range(search.ends[row], search.ends[row + 1])
        there: dict[int, list[int]] = {}
        for k in here:
            i = search.who[k]
            if not chosen[i]:
                there[i] = [
                    a + what[k] for a, what in zip(there.get(i, [0] * len(search.what)), search.what, strict=True)
                ]
        added = _opening([rest[row] for rest in search.rest], there, search.costs)
        chosen[added] = True
        touched = set().union(*[search.stop(i) for i in added])
        for other in touched:
            known[other] = None if search.open(other) else _row_price(search, chosen, other)
            if (now := known[other]) is not None:
                heapq.heappush(queue, (now, other))
    return _release(field, chosen)


def _row_price(search: _Search, chosen: Flags, row: int) -> int:
    """What those not chosen lose that stop there until what the row lacks is there."""
    before, total = [0] * len(search.rest), 0
    for k in range(search.ends[row], search.ends[row + 1]):
        if chosen[search.who[k]]:
            continue
        if any(had < rest[row] for had, rest in zip(before, search.rest, strict=True)):
            total += search.costs[search.who[k]]
        before = [had + what[k] for had, what in zip(before, search.what, strict=True)]
    return total


def _opening(lacks: list[int], there: dict[int, list[int]], costs: list[int]) -> list[int]:
    """The candidates on a row whose stop opens it, cheapest per device first and pruned; [] = it is open."""
    found: list[int] = []
    for i in sorted(there, key=lambda i: (costs[i] / max(1, there[i][0]), i)):
        if max(lacks) <= 0:
            break
        found.append(i)
        lacks = [lack - what for lack, what in zip(lacks, there[i], strict=True)]
    for i in sorted(found, key=lambda i: (-costs[i], i)):
        without = [lack + what for lack, what in zip(lacks, there[i], strict=True)]
        if max(without) <= 0:
            found.remove(i)
            lacks = without
    return found


def _release(field: _Field, chosen: Flags) -> Flags:
    """With as many borrowed leases beside, cheapest per device first, as the cohort has to get back."""
    owed = field.need.release_devices - int(field.returns[chosen].sum())
    able = np.flatnonzero((field.returns > 0) & ~chosen).tolist()
    for i in sorted(able, key=lambda i: (field.costs[i] / field.returns[i], i)):
        if owed <= 0:
            break
        chosen[i] = True
        owed -= int(field.returns[i])
    return chosen


def _prune(field: _Field, chosen: Flags) -> Flags:
    """Without those that are not needed, the dearest tried first. Fewer stops never open more: one pass is enough."""
    kept, search = chosen.copy(), _Search(field, chosen)
    spare = int(field.returns[chosen].sum()) - field.need.release_devices
    for i in sorted(np.flatnonzero(chosen).tolist(), key=lambda i: (-search.costs[i], i)):
        search.stop(i, -1)
        if search.missing <= 0 and field.returns[i] <= spare:
            kept[i] = False
            spare -= int(field.returns[i])
        else:
            search.stop(i)
    return kept
