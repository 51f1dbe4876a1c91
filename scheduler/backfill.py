"""Backfill: when a gang that waits can start, and which jobs may go first without delaying it. Pure.

A lease holds its devices until its time limit at the latest, so the free devices of every row are known for all time to
come. The first `depth` gangs that do not fit get rows and an interval of their own; any other job may start that leaves
those alone. depth 1 is EASY backfill (Lifka, 1995), None is conservative backfill. A gang keeps its rows: what it waits
for cannot be lost to a job that came later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.columns import Ints

FOREVER = 1 << 62  # later than every instant
_CLOSED = 1 << 40  # more devices than any row has: what a maintenance window takes


@dataclass(frozen=True, slots=True)
class Release:
    """`devices` of the row come free at `end_ms`, at the latest."""

    row: int
    devices: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Window:
    """No job runs on these rows in [start_ms, end_ms). end_ms: None = until further notice."""

    rows: tuple[int, ...]
    start_ms: int
    end_ms: int | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """`count` devices of each of these rows in [start_ms, end_ms)."""

    rows: tuple[int, ...]
    count: int
    start_ms: int
    end_ms: int


class Timeline:
    """The free devices of a pool's rows from `now_ms` on. Instants are milliseconds since 1970 UTC.

    releases: values, or an array [n, 3] of (row, devices, end_ms). free: of each row now; a row that is not schedulable
    has 0 and no release. A lease past its end counts as ending one millisecond from now: it holds its devices still.
    """

    def __init__(
        self,
        free: Ints,
        releases: Iterable[Release] | Ints,
        now_ms: int,
        windows: Iterable[Window] = (),
        depth: int | None = 1,
    ) -> None:
        """Raises ValueError for a negative depth and for a row the pool does not have."""
        if depth is not None and depth < 0:
            raise ValueError(f"depth: {depth} is below 0; nearest: 0")
        self.now_ms, self.depth = now_ms, depth
        self.reservations: list[Reservation] = []
        self._rows = len(free)
        if not isinstance(releases, np.ndarray):
            releases = np.array([(r.row, r.devices, r.end_ms) for r in releases], dtype=np.int64).reshape(-1, 3)
        ends = np.column_stack([releases[:, 0], np.maximum(releases[:, 2], now_ms + 1), releases[:, 1]])
        events: list[tuple[int, int, int]] = []
        for window in windows:
            end = FOREVER if window.end_ms is None else window.end_ms
            if end <= now_ms:
                continue
            for row in window.rows:
                events += [(row, max(window.start_ms, now_ms), -_CLOSED), (row, end, _CLOSED)]
        start = np.empty((self._rows, 3), dtype=np.int64)
        start[:, 0], start[:, 1], start[:, 2] = np.arange(self._rows), now_ms, free
        self._base = np.concatenate([start, _table(ends, self._rows), _table(events, self._rows)])
        self._added: list[tuple[int, int, int]] = []
        self._per_row: list[list[tuple[int, int]]] | None = None
        self._sorted: tuple[Ints, Ints, Ints] | None = None

    def earliest(
        self, count: int, nodes: int, now_ms: int, duration_ms: int, rows: Ints | None = None
    ) -> tuple[int, tuple[int, ...]] | None:
        """The first instant from `now_ms` on at which `nodes` rows have `count` devices each for `duration_ms`, and which.

        rows: only these (those with the right domain, processors and memory); None = all. Of the rows that could serve,
        those that open last are taken, then the lowest: rows that are open now are left to others. None = never.
        """
        for name, value in (("count", count), ("nodes", nodes), ("duration_ms", duration_ms)):
            if value < 1:
                raise ValueError(f"{name}: {value} is below 1; nearest: 1")
        at, row, free = self._profile()
        open_ = free >= count
        if rows is not None:
            allowed = np.zeros(self._rows, dtype=np.bool_)
            allowed[rows] = True
            open_ &= allowed[row]
        same = np.r_[False, row[1:] == row[:-1]]
        begins = np.flatnonzero(open_ & ~(same & np.r_[False, open_[:-1]]))
        last = open_ & ~np.r_[same[1:] & open_[1:], False]
        ends = np.flatnonzero(last) + 1  # the event that closes the run, if it is of the same row
        closes = np.r_[at, FOREVER]
        until = np.where(np.r_[same, False][ends], closes[ends], FOREVER)
        first, latest = np.maximum(at[begins], now_ms), until - duration_ms
        fits = latest >= first
        first, latest, where = first[fits], latest[fits], row[begins][fits]
        if len(first) < nodes:
            return None
        moments = np.concatenate([first, latest + 1])
        steps = np.r_[np.ones(len(first), dtype=np.int64), -np.ones(len(first), dtype=np.int64)]
        order = np.lexsort((steps, moments))
        enough = np.cumsum(steps[order]) >= nodes
        if not enough.any():
            return None
        start = int(moments[order][int(np.argmax(enough))])
        serving = (first <= start) & (start <= latest)
        chosen = np.lexsort((where[serving], -first[serving]))[:nodes]
        return start, tuple(sorted(where[serving][chosen].tolist()))

    def reserve(self, rows: Sequence[int], count: int, start_ms: int, end_ms: int) -> None:
        """Take `count` devices of each row in [start_ms, end_ms), for a gang that waits or for a job that starts now."""
        if end_ms <= start_ms:
            raise ValueError(f"end_ms: {end_ms} is not after start_ms {start_ms}; nearest: {start_ms + 1}")
        added = [e for row in rows for e in ((int(row), start_ms, -count), (int(row), end_ms, count))]
        _table(added, self._rows)
        self._added += added
        self._sorted = None
        if self._per_row is not None:
            for row, moment, delta in added:
                self._per_row[row].append((moment, delta))

    def book(
        self, count: int, nodes: int, duration_ms: int, rows: Ints | None = None
    ) -> tuple[int, tuple[int, ...]] | None:
        """The `earliest` of a gang that waits, reserved if fewer than `depth` gangs have a reservation.

        Beyond the depth the answer is an estimate that binds nobody. None = never.
        """
        found = self.earliest(count, nodes, self.now_ms, duration_ms, rows)
        if found is not None and (self.depth is None or len(self.reservations) < self.depth):
            start, chosen = found
            self.reserve(chosen, count, start, start + duration_ms)
            self.reservations.append(Reservation(chosen, count, start, start + duration_ms))
        return found

    def may_start(self, rows: Sequence[int], count: int, end_ms: int) -> bool:
        """True when each row has `count` devices from now until `end_ms` that nobody holds or has reserved."""
        if self._per_row is None:
            self._per_row = [[] for _ in range(self._rows)]
            for row, moment, delta in self._base.tolist() + self._added:
                self._per_row[row].append((moment, delta))
        wanted: dict[int, int] = {}
        for row in rows:
            wanted[int(row)] = wanted.get(int(row), 0) + count
        return all(self._least(row, end_ms) >= need for row, need in wanted.items())

    def open_until(self, count: int) -> Ints:
        """Of each row, the instant until which it has `count` devices from now on: now_ms = not even now, FOREVER."""
        at, row, free = self._profile()
        short = free < count
        until = np.full(self._rows, FOREVER, dtype=np.int64)
        np.minimum.at(until, row[short], at[short])
        return until

    def _least(self, row: int, end_ms: int) -> int:
        assert self._per_row is not None, "made by the caller"
        events = sorted(self._per_row[row], key=lambda e: e[0])
        free, least = 0, FOREVER
        for i, (moment, delta) in enumerate(events):
            if moment >= end_ms:
                break
            free += delta
            if i + 1 == len(events) or events[i + 1][0] != moment:
                least = min(least, free)
        return least

    def _profile(self) -> tuple[Ints, Ints, Ints]:
        """Instant, row and free devices from that instant on, sorted by row and instant, each instant once per row."""
        if self._sorted is None:
            table = np.concatenate([self._base, _table(self._added, self._rows)])
            table = table[np.lexsort((table[:, 1], table[:, 0]))]
            row, at = table[:, 0], table[:, 1]
            total = np.cumsum(table[:, 2])
            head = np.r_[True, row[1:] != row[:-1]]
            before = np.r_[0, total[:-1]][np.flatnonzero(head)]
            free = total - before[np.cumsum(head) - 1]
            final = np.r_[(row[1:] != row[:-1]) | (at[1:] != at[:-1]), True]
            self._sorted = at[final], row[final], free[final]
        return self._sorted


def _table(events: Sequence[tuple[int, int, int]] | Ints, rows: int) -> Ints:
    table = np.array(events, dtype=np.int64).reshape(-1, 3)
    wrong = (table[:, 0] < 0) | (table[:, 0] >= rows)
    if wrong.any():
        raise ValueError(f"row: {int(table[wrong][0, 0])} is not one of the pool's {rows}; nearest: {max(0, rows - 1)}")
    return table
