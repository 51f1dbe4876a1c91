"""Billable: what stored usage records come to as usage entries of a case, and who served each lease. Pure."""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

from metering.parameters import OriginRegister
from scheduler.clock import from_ms, to_ms
from scheduler.lease import Cause
from scheduler.usage import UsageKind

_RUN, _LOST, _PREEMPTED = UsageKind.RUN.value, UsageKind.LOST.value, Cause.PREEMPTED.value
_DAY_MS, _MINUTE_MS = 86_400_000, 60_000
_EPOCH_DAY = date(1970, 1, 1)
_MINUTES = tuple(f"{hour:02d}:{minute:02d}:" for hour in range(24) for minute in range(60))


def entries(
    records: Sequence[Mapping[str, Any]], register: OriginRegister
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Usage entries of a case from stored records, and each lease's provider.

    RUN records of a lease that touch are one entry, as if no midnight had cut them; a lease the platform lost is priced
    0 throughout, a preempted one from where its LOST records begin; an entry is cut where the origin register changes.
    STARTING and SUSPENDED are recorded, not settled.
    """
    merged: list[tuple[Mapping[str, Any], int, list[int]]] = []
    for record, price in _priced(records):
        if merged:
            before, last, ends = merged[-1]
            if last == price and ends[-1] == record["start_ms"] and all(before[k] == record[k] for k in _SAME):
                ends.append(record["end_ms"])
                continue
        merged.append((record, price, [record["end_ms"]]))
    origins = _Origins(register)
    found = []
    for record, price, ends in merged:
        for start, end, origin in origins.cut(record, ends[-1]):
            found.append(
                {
                    "lease": record["lease"],
                    "model": record["model"],
                    "origin": origin,
                    "devices": record["devices"],
                    "share_permille": record["share_permille"],
                    "site": record["site"],
                    "start": spelt(start),
                    "end": spelt(end),
                    "price_fen_per_device_hour": price,
                }
            )
    return found, {r["lease"]: r["provider"] for r in records}


_SAME = ("lease", "model", "devices", "share_permille")


def _priced(records: Sequence[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], int]]:
    """RUN and LOST records with their price, cut where the platform's loss begins; what only marks that is left out."""
    lost: dict[str, int] = {}
    for record in records:
        if record["kind"] == _LOST:
            since = record["start_ms"] if record["cause"] == _PREEMPTED else 0
            lost[record["lease"]] = min(since, lost.get(record["lease"], since))
    if not lost:
        return [(r, r["price_fen_per_device_hour"]) for r in records if r["kind"] == _RUN]
    return _priced_with_losses(records, lost)


def _priced_with_losses(
    records: Sequence[Mapping[str, Any]], lost: Mapping[str, int]
) -> Iterable[tuple[Mapping[str, Any], int]]:
    kept = [r for r in records if r["kind"] in (_RUN, _LOST)]
    counted = Counter(r["lease"] for r in kept)
    for record in kept:
        start, end, price = record["start_ms"], record["end_ms"], record["price_fen_per_device_hour"]
        since = lost.get(record["lease"], end)
        if record["kind"] == _LOST and start == end and counted[record["lease"]] > 1:
            continue
        if start < since < end:
            yield {**record, "end_ms": since}, price
            yield {**record, "start_ms": since}, 0
        else:
            yield record, 0 if record["lease"] in lost and start >= since else price


class _Origins:
    """The register's verdicts, each asked for once: it says the same between two of its edges."""

    def __init__(self, register: OriginRegister) -> None:
        self.register = register
        self.edges: dict[tuple[str, str], list[int]] = {}
        self.known: dict[tuple[str, str, int], str] = {}

    def cut(self, record: Mapping[str, Any], end: int) -> list[tuple[int, int, str]]:
        """(start, end, origin) of each stretch of the record, up to `end`, on which the origin is one."""
        vendor, model, start = record["vendor"], record["model"], record["start_ms"]
        edges = self.edges.get((vendor, model))
        if edges is None:
            edges = self.edges[vendor, model] = [to_ms(at) for at in self.register.edges(vendor, model)]
        index = bisect_right(edges, start)
        last = bisect_left(edges, end, index)
        if index == last:
            return [(start, end, self._origin(vendor, model, index, start))]
        points = [start, *edges[index:last], end]
        return [
            (low, high, self._origin(vendor, model, index + number, low))
            for number, (low, high) in enumerate(pairwise(points))
        ]

    def _origin(self, vendor: str, model: str, index: int, at: int) -> str:
        """The verdict at an instant before which the register has so many edges."""
        key = (vendor, model, index)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self.register.origin(vendor, model, from_ms(at))[0].value
        return found


def spelt(ms: int) -> str:
    """adapters.chain.timestamp of a stored millisecond count, without a datetime between."""
    day, rest = divmod(ms, _DAY_MS)
    minute, rest = divmod(rest, _MINUTE_MS)
    return f"{_date(day)}T{_MINUTES[minute]}{rest // 1000:02d}.{rest % 1000:03d}Z"


@functools.lru_cache(maxsize=4096)
def _date(day: int) -> str:
    return (_EPOCH_DAY + timedelta(days=day)).isoformat()
