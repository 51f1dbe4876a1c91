"""Stopping: whether a lease must stop and why, and whether its job waits again when it has ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scheduler.consumption import Ending
from scheduler.job import JobSpec
from scheduler.lease import GRACE_MS, Cause, MemberPhase, Observation
from scheduler.lifecycle import Event
from scheduler.refusal import Refusal


def stop_cause(
    lease: Mapping[Any, Any], job: Mapping[Any, Any], seen: Observation, spent: Refusal | None, now_ms: int
) -> Cause | None:
    """Why the lease must stop; None when it may go on. What was said first stands.

    A gang is whole or over: one member gone, or ended badly, ends the rest. spent: the budget's word, if it has one.
    now_ms: wall time, which is what a deadline is given in.
    """
    if lease["stop_requested_at_ms"] is not None:
        return Cause(lease["stop_cause"])
    if any(member.phase is MemberPhase.LOST for member in seen.members):
        return Cause.NODE_FAIL
    if any(member.phase is MemberPhase.EXITED and member.exit_code != 0 for member in seen.members):
        return Cause.EXITED
    if job["cancel_requested_at_ms"] is not None:
        return Cause.CANCELLED
    if overdue(job, now_ms):
        return Cause.DEADLINE
    return Cause.BUDGET_EXHAUSTED if spent is not None else None


def overdue(job: Mapping[Any, Any], now_ms: int) -> bool:
    """Whether the job's deadline has come. A job without one is never overdue."""
    return job["deadline_at_ms"] is not None and now_ms >= job["deadline_at_ms"]


def grace_of(spec: JobSpec) -> int:
    """Milliseconds between the stop signal and SIGKILL: what the job declares, else GRACE_MS."""
    checkpoint = spec.checkpoint
    return checkpoint.grace_ms if checkpoint and checkpoint.grace_ms is not None else GRACE_MS


def goes_on(
    lease: Mapping[Any, Any],
    job: Mapping[Any, Any],
    spec: JobSpec,
    ending: Ending,
    story: Iterable[Mapping[str, Any]],
) -> bool:
    """Whether the job waits again now that its lease has ended.

    A preempted job always does: the platform took its turn away. One whose node failed does as often as its `retry`
    allows node_fail. A job that somebody cancelled does not. One whose deadline has come waits again only to end there.
    """
    if job["cancel_requested_at_ms"] is not None:
        return False
    if ending.cause is Cause.PREEMPTED:
        return True
    if ending.cause is not Cause.NODE_FAIL:
        return False
    if lease["stop_cause"] == Cause.PREEMPTED.value:
        return True
    if spec.retry is None or Cause.NODE_FAIL.value not in spec.retry.on_events:
        return False
    again = [
        e for e in story if e["event"] == Event.REQUEUED.value and e["facts"].get("cause") == Cause.NODE_FAIL.value
    ]
    return len(again) < spec.retry.limit


def event_of(job: Mapping[Any, Any], ending: Ending) -> Event:
    """The event that ends the job. A preempted one ends only because somebody cancelled it meanwhile."""
    if ending.cause is Cause.PREEMPTED and job["cancel_requested_at_ms"] is not None:
        return Event.CANCELLED
    return ending.event
