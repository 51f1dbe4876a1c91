"""Facts: dated truths as half-open intervals [start, end), and questions about them. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """[start, end), aware instants; end None = open. An end at or before the start holds nowhere."""

    start: datetime
    end: datetime | None = None


def unite(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same instants as the fewest intervals, sorted: touching and overlapping ones are one."""
    found: list[Interval] = []
    kept = (i for i in intervals if i.end is None or i.start < i.end)
    for interval in sorted(kept, key=lambda i: i.start):
        last = found[-1] if found else None
        if last is None or (last.end is not None and last.end < interval.start):
            found.append(interval)
        elif last.end is not None and (interval.end is None or last.end < interval.end):
            found[-1] = Interval(start=last.start, end=interval.end)
    return tuple(found)


def intersect(left: Iterable[Interval], right: Iterable[Interval]) -> tuple[Interval, ...]:
    """The instants that are in both."""
    found = []
    others = tuple(right)
    for a in left:
        for b in others:
            start = max(a.start, b.start)
            ends = [end for end in (a.end, b.end) if end is not None]
            end = min(ends) if ends else None
            if end is None or start < end:
                found.append(Interval(start=start, end=end))
    return unite(found)


def subtract(left: Iterable[Interval], right: Iterable[Interval]) -> tuple[Interval, ...]:
    """The instants of `left` that are not in `right`."""
    found = unite(left)
    for hole in unite(right):
        kept = []
        for interval in found:
            if interval.start < hole.start:
                before = hole.start if interval.end is None else min(interval.end, hole.start)
                kept.append(Interval(start=interval.start, end=before))
            if hole.end is not None and (interval.end is None or hole.end < interval.end):
                kept.append(Interval(start=max(interval.start, hole.end), end=interval.end))
        found = tuple(kept)
    return unite(found)


def holds_at(intervals: Iterable[Interval], at: datetime) -> bool:
    """True if any interval contains the instant."""
    return any(i.start <= at and (i.end is None or at < i.end) for i in intervals)


@dataclass(frozen=True, slots=True)
class Timeline:
    """United intervals as their sorted edges (start, end, start, …): both questions in logarithmic time."""

    edges: tuple[datetime, ...]

    def holds_at(self, at: datetime) -> bool:
        """True if the instant is inside: an odd number of edges lie at or before it."""
        return bisect_right(self.edges, at) % 2 == 1

    def edges_within(self, start: datetime, end: datetime) -> tuple[datetime, ...]:
        """The edges strictly between start and end, in order."""
        return self.edges[bisect_right(self.edges, start) : bisect_left(self.edges, end)]


def timeline(intervals: Iterable[Interval]) -> Timeline:
    """The intervals, united, as a Timeline."""
    edges: list[datetime] = []
    for interval in unite(intervals):
        edges.append(interval.start)
        if interval.end is not None:
            edges.append(interval.end)
    return Timeline(tuple(edges))
