"""Reconciliation: three independent counts of one lease and one local day are laid side by side.

The scheduler's usage records, the agents' signed events and the device readings come from different programs. A
difference beyond the tolerance becomes a review item with every count in it; no count is corrected from another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from adapters.chain import timestamp
from metering.event_schema import event_streams
from metering.events import metered_of
from metering.metered import device_ms_within
from metering.store import open_review
from scheduler.clock import to_ms
from scheduler.schema import lease_devices, leases, samples, usage_records

ZONE = "Asia/Shanghai"
TOLERANCE = timedelta(seconds=60)  # per device and day; parameter: a loop's tick and a heartbeat fit in twice over
JOIN = timedelta(seconds=120)  # readings further apart say nothing of the time between
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What is said of one lease on one local day, in device milliseconds; None where nothing is said.

    scheduler: its records of kind run. held: its records of every kind, those of a start that failed and of a lost
    node too: agents see processes there, and nobody pays for them. events: from signed events. read: how long its
    devices were read while it held them; busy: the part of it in which they worked. provisional: the events may grow.
    """

    lease: str
    day: date
    devices: int
    scheduler_device_ms: int | None
    held_device_ms: int | None
    events_device_ms: int | None
    read_device_ms: int | None
    busy_device_ms: int | None
    provisional: bool

    def differ(self, tolerance: timedelta) -> bool:
        """Whether a person has to look: events short of what ran or beyond what was held, or devices busy beyond either.

        A device may idle while it is leased, so less busy time than metered time is no contradiction.
        """
        allowed = self.devices * (tolerance // _MS)
        told = self.events_device_ms or 0
        apart = told < (self.scheduler_device_ms or 0) - allowed or told > (self.held_device_ms or 0) + allowed
        counted = [ms for ms in (self.held_device_ms, self.events_device_ms) if ms is not None]
        return apart or (self.busy_device_ms or 0) > min(counted, default=0) + allowed

    def facts(self) -> dict[str, Any]:
        """Every count by name, for a review item."""
        return {
            "lease": self.lease,
            "day": self.day.isoformat(),
            "devices": self.devices,
            "scheduler_device_ms": self.scheduler_device_ms,
            "held_device_ms": self.held_device_ms,
            "events_device_ms": self.events_device_ms,
            "read_device_ms": self.read_device_ms,
            "busy_device_ms": self.busy_device_ms,
            "provisional": self.provisional,
        }


def day_bounds(day: date, zone: str = ZONE) -> tuple[datetime, datetime]:
    """[start, end) of a local day, as instants; the next day begins where this one ends."""
    place = ZoneInfo(zone)
    return datetime.combine(day, time(), place), datetime.combine(day + timedelta(days=1), time(), place)


def reconcile(
    tx: Connection, day: date, now: datetime, *, zone: str = ZONE, tolerance: timedelta = TOLERANCE
) -> list[Counts]:
    """The day's counts of every lease that anybody counted; each that differs has its review item, once.

    Running it again reads again and changes nothing that is not new. ValueError for a day that has not ended.
    """
    start, end = day_bounds(day, zone)
    if now < end:
        raise ValueError(f"day: {day} has not ended at {timestamp(now)}; the nearest is {day - timedelta(days=1)}")
    counts = [_count(tx, lease, day, start, end) for lease in _leases(tx, start, end)]
    for count in counts:
        if count.differ(tolerance):
            subject = f"{count.lease}:{day}"
            open_review(tx, code="USAGE_DIFFERS", subject=subject, facts=count.facts(), now=now)
    return counts


def covered_ms(at_ms: Sequence[int], join_ms: int) -> int:
    """How much time readings at these instants (in order) cover: between neighbours not further apart than join_ms."""
    return sum(step for before, after in pairwise(at_ms) if (step := after - before) <= join_ms)


def _leases(tx: Connection, start: datetime, end: datetime) -> list[str]:
    low, high = to_ms(start), to_ms(end)
    u, s, held = usage_records.c, event_streams.c, leases.c
    recorded = select(u.lease).where(u.start_ms < high, u.end_ms > low)
    told = select(s.allocation).where(s.anchor_ms < high, s.anchor_ms + s.reached_ms > low)
    had = select(held.id).where(held.reserved_at_ms < high, held.released_at_ms.is_(None) | (held.released_at_ms > low))
    return sorted({str(row[0]) for query in (recorded, told, had) for row in tx.execute(query)})


def _count(tx: Connection, lease: str, day: date, start: datetime, end: datetime) -> Counts:
    low, high = to_ms(start), to_ms(end)
    u = usage_records.c
    within = (u.lease == lease, u.start_ms < high, u.end_ms > low)
    records = tx.execute(select(u.kind, u.devices, u.start_ms, u.end_ms).where(*within)).all()
    spent = [(row.kind, row.devices * (min(row.end_ms, high) - max(row.start_ms, low))) for row in records]
    runs = [ms for kind, ms in spent if kind == "run"]
    events = metered_of(tx, lease)
    told = any(interval.start < end and interval.end > start for interval in events.intervals)
    read, busy = _readings(tx, lease, low, high)
    held = [row.device for row in tx.execute(select(lease_devices.c.device).where(lease_devices.c.lease == lease))]
    named = {device for interval in events.intervals for device in interval.devices}
    return Counts(
        lease=lease,
        day=day,
        devices=max(len(held), len(named), *(row.devices for row in records), 1),
        scheduler_device_ms=sum(runs) if runs else None,
        held_device_ms=sum(ms for _, ms in spent) if spent else None,
        events_device_ms=device_ms_within(events.intervals, start, end) if told else None,
        read_device_ms=read,
        busy_device_ms=busy,
        provisional=told and events.provisional,
    )


def _readings(tx: Connection, lease: str, low: int, high: int) -> tuple[int | None, int | None]:
    """(read, busy) device milliseconds of the lease's devices while it held them; None when nothing was read."""
    row = tx.execute(select(leases.c.reserved_at_ms, leases.c.released_at_ms).where(leases.c.id == lease)).first()
    if row is None:
        return None, None
    low, high = max(low, row.reserved_at_ms), min(high, row.released_at_ms or high)
    s, d = samples.c, lease_devices.c
    query = (
        select(s.device, s.at_ms, s.utilisation_ratio)
        .join(lease_devices, d.device == s.device)
        .where(d.lease == lease, s.at_ms >= low, s.at_ms < high)
        .order_by(s.device, s.at_ms)
    )
    series: dict[str, list[tuple[int, float | None]]] = {}
    for one in tx.execute(query):
        series.setdefault(one.device, []).append((one.at_ms, one.utilisation_ratio))
    if not series:
        return None, None
    join = JOIN // _MS
    read = sum(covered_ms([at for at, _ in readings], join) for readings in series.values())
    known = [readings for readings in series.values() if any(ratio is not None for _, ratio in readings)]
    return read, _busy(known, join) if known else None


def _busy(series: Iterable[Sequence[tuple[int, float | None]]], join_ms: int) -> int:
    """Time that ends in a reading above zero, up to join_ms before it."""
    return sum(
        after - before
        for readings in series
        for (before, _), (after, ratio) in pairwise(readings)
        if ratio and after - before <= join_ms
    )
