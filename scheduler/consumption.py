"""Consumption: what a lease used and how it ended, from what its backend saw. Pure.

Billed time runs from all members RUNNING to the last exit. What the platform itself lost is recorded at price 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from typing import Any
from zoneinfo import ZoneInfo

from adapters.accelerator import Source
from scheduler.clock import from_ms
from scheduler.job import Checkpoint, FirmId, JobId
from scheduler.lease import BilledInterval, Cause, LeaseId, MemberPhase, Observation, billed_interval
from scheduler.lifecycle import Event
from scheduler.usage import UsageKind, UsageRecord

KILLED = -9  # SIGKILL: the grace was over before the member ended

_EVENTS: Mapping[Cause, Event] = {
    Cause.CANCELLED: Event.CANCELLED,
    Cause.TIME_LIMIT: Event.TIME_LIMIT,
    Cause.DEADLINE: Event.DEADLINE_PASSED,
    Cause.NODE_FAIL: Event.NODE_FAILED,
    Cause.LAUNCH_FAILED: Event.NODE_FAILED,
    Cause.PREEMPTED: Event.PREEMPTED,
    Cause.BUDGET_EXHAUSTED: Event.BUDGET_EXHAUSTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a lease ended. exit_code: of the first member that did not exit 0, else 0; None when nobody saw it."""

    cause: Cause
    event: Event
    exit_code: int | None


def ending_of(lease: Mapping[Any, Any], seen: Observation) -> Ending:
    """The end of a lease whose members are all EXITED or LOST.

    A lost member is the platform's fault whatever the others did. A member's own record of why it was stopped beats
    the request: a job that ended by itself just before a cancel reached it has ended by itself.
    """
    if any(m.phase is MemberPhase.LOST for m in seen.members):
        return Ending(cause=Cause.NODE_FAIL, event=Event.NODE_FAILED, exit_code=None)
    bad = [m.exit_code for m in seen.members if m.exit_code != 0]
    code = bad[0] if bad else 0
    recorded = {m.cause for m in seen.members if m.cause is not None}
    own = [m.exit_code for m in seen.members if m.cause is None and m.exit_code != 0]
    if Cause.TIME_LIMIT in recorded:
        return Ending(cause=Cause.TIME_LIMIT, event=Event.TIME_LIMIT, exit_code=code)
    unasked = lease["stop_cause"] is None and bool(own)  # the backend itself ends the others where a member fails
    if Cause.CANCELLED in recorded and lease["stop_cause"] != Cause.EXITED.value and not unasked:
        cause = Cause(lease["stop_cause"]) if lease["stop_cause"] else Cause.CANCELLED
        return Ending(cause=cause, event=_EVENTS.get(cause, Event.CANCELLED), exit_code=code)
    if (
        lease["stop_cause"] == Cause.EXITED.value or unasked
    ):  # a member failed by itself; the others were stopped for it
        code = own[0] if own else code
    return Ending(cause=Cause.EXITED, event=Event.EXITED_ZERO if code == 0 else Event.EXITED_NONZERO, exit_code=code)


def usage_of_end(
    lease: Mapping[Any, Any],
    pool: Mapping[Any, Any],
    seen: Observation,
    ending: Ending,
    now: datetime,
    checkpoint: Checkpoint | None = None,
) -> tuple[UsageRecord, ...]:
    """The records a finished lease still owes: its start-up at price 0, its run (less what interim records took).

    A lease that never ran as a whole, or that the platform lost, is recorded at price 0 with its cause. Of a preempted one
    the run up to its last checkpoint is billed and the rest is LOST; a LOST record of no length marks where that begins
    if interim records went beyond it.
    """
    reserved = from_ms(lease["reserved_at_ms"])
    billed = billed_interval(seen)
    if billed is None or (ending.cause.platform_caused and ending.cause is not Cause.PREEMPTED):
        kind = UsageKind.LOST if ending.cause.platform_caused else UsageKind.STARTING
        metered = from_ms(lease["metered_until_ms"]) if lease["metered_until_ms"] else None
        since = metered or reserved
        rest = _record(lease, pool, kind, ending.cause.value, since, max(since, now))
        if ending.cause is Cause.PREEMPTED and metered is not None:
            return (_record(lease, pool, kind, ending.cause.value, reserved, reserved), rest)
        return (rest,)
    end = billed.start + timedelta(milliseconds=billed.duration_ms)
    since = max(billed.start, from_ms(lease["metered_until_ms"])) if lease["metered_until_ms"] else billed.start
    records = []
    if reserved < billed.start:
        records.append(_record(lease, pool, UsageKind.STARTING, None, reserved, billed.start))
    kept = end
    if ending.cause is Cause.PREEMPTED:
        kept = _checkpointed(billed, end, checkpoint, seen)
        if kept < since:
            records.append(_record(lease, pool, UsageKind.LOST, ending.cause.value, kept, kept))
    if since < kept or since == kept == end:
        records.append(_record(lease, pool, UsageKind.RUN, ending.cause.value, since, kept))
    if max(since, kept) < end:
        records.append(_record(lease, pool, UsageKind.LOST, ending.cause.value, max(since, kept), end))
    return tuple(records)


def _checkpointed(billed: BilledInterval, end: datetime, checkpoint: Checkpoint | None, seen: Observation) -> datetime:
    """When a preempted run last wrote a checkpoint, by what its job declares; its start where it declares none.

    At its end, if it takes a signal for it and no member had to be killed; else at the last full interval.
    """
    if checkpoint is None:
        return billed.start
    if checkpoint.signal is not None and all(member.exit_code != KILLED for member in seen.members):
        return end
    if checkpoint.interval_ms:
        whole = billed.duration_ms // checkpoint.interval_ms * checkpoint.interval_ms
        return billed.start + timedelta(milliseconds=whole)
    return billed.start


def usage_until(
    lease: Mapping[Any, Any], pool: Mapping[Any, Any], seen: Observation, boot_ms: int, zone: ZoneInfo
) -> tuple[UsageRecord, ...]:
    """RUN records up to the last local midnight a running lease has passed; none when it has passed no new one.

    The lease's own calendar counts: its start's wall time plus monotonic time since, so that a host clock set forward
    cannot bill hours that have not happened.
    """
    if not seen.members or any(m.started_ms is None or m.started_at is None for m in seen.members):
        return ()
    if any(m.phase is MemberPhase.LOST for m in seen.members):
        return ()
    last = max(seen.members, key=lambda m: (m.started_ms or 0, m.rank))
    assert last.started_at is not None, "asked above"
    assert last.started_ms is not None, "asked above"
    until = last.started_at + timedelta(milliseconds=max(0, boot_ms - last.started_ms))
    since = from_ms(lease["metered_until_ms"]) if lease["metered_until_ms"] else last.started_at
    edges = [since, *_midnights(since, until, zone)]
    return tuple(_record(lease, pool, UsageKind.RUN, None, low, high) for low, high in itertools.pairwise(edges))


def _midnights(since: datetime, until: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    day = since.astimezone(zone).date() + timedelta(days=1)
    while (edge := datetime.combine(day, clock_time(), tzinfo=zone).astimezone(UTC)) <= until:
        yield edge
        day += timedelta(days=1)


def _record(
    lease: Mapping[Any, Any],
    pool: Mapping[Any, Any],
    kind: UsageKind,
    cause: str | None,
    start: datetime,
    end: datetime,
) -> UsageRecord:
    return UsageRecord(
        lease=LeaseId(lease["id"]),
        job=JobId(lease["job"]),
        firm=FirmId(lease["firm"]),
        provider=pool["provider"],
        site=pool["site"],
        pool=lease["pool"],
        vendor=pool["vendor"],
        model=lease["model"],
        source=Source(lease["source"]),
        kind=kind,
        cause=cause,
        devices=lease["device_count"],
        share_permille=1000,
        start=start,
        end=end,
        price_fen_per_device_hour=lease["price_fen_per_device_hour"] if kind is UsageKind.RUN else 0,
    )
