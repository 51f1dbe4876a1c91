"""Placement (proposed) and Lease (granted): devices × interval × job, the join key of everything after."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NewType

from scheduler.job import FirmId, JobId, JobSpec
from scheduler.node import NodeId, PoolId

LeaseId = NewType("LeaseId", str)
STEPS_MAX = 10**12  # a job reports no more
GRACE_MS = 10_000  # between a stop signal and SIGKILL where the job declares none


def lease_id(job: JobId, attempt: int) -> LeaseId:
    """The lease of a job's n-th attempt; deterministic, so that a repeated commit is the same lease."""
    return LeaseId(f"{job}.{attempt}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One gang member: rank r runs on one node with these devices."""

    rank: int
    node: NodeId
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A proposal: whole gang, one pool, one model. Nothing is held yet."""

    pool: PoolId
    model: str
    members: tuple[Member, ...]

    @property
    def device_count(self) -> int:
        return sum(len(member.devices) for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A granted placement. Devices and money are held; the chip class, hence the voucher rate, is fixed.

    visibility: per rank, the variables that make a process see exactly its devices.
    """

    id: LeaseId
    job: JobId
    firm: FirmId
    spec: JobSpec
    placement: Placement
    backend: str
    price_fen_per_device_hour: int
    reserved_at: datetime
    visibility: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


class Cause(enum.StrEnum):
    """Why a lease ended. Platform-caused ends are recorded at price 0."""

    EXITED = "exited"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time_limit"
    DEADLINE = "deadline"
    NODE_FAIL = "node_fail"
    LAUNCH_FAILED = "launch_failed"
    PREEMPTED = "preempted"
    BUDGET_EXHAUSTED = "budget_exhausted"

    @property
    def platform_caused(self) -> bool:
        return self in (Cause.NODE_FAIL, Cause.LAUNCH_FAILED, Cause.PREEMPTED)


class MemberPhase(enum.StrEnum):
    ABSENT = "absent"
    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """What a backend knows of one member. monotonic_ms belong to boot_id: comparable within one boot only.

    started_at: wall time when the entrypoint began (after setup); ended_ms is monotonic.
    exit_code: 0..255, or -N for signal N; None while it runs or when nobody saw it end (LOST).
    cause: set by the member's shim or backend when it stopped the process itself (TIME_LIMIT, CANCELLED).
    """

    rank: int
    phase: MemberPhase
    pid: int | None = None
    boot_id: str | None = None
    started_at: datetime | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    exit_code: int | None = None
    cause: Cause | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a job says it has done, in all its attempts: steps, of how many, and how many its last checkpoint holds."""

    steps: int
    total_steps: int | None = None
    checkpointed_steps: int | None = None


def report_of(body: Any) -> Report | None:
    """The report that a job's own words are, None where they are none: it may write anything."""
    if not isinstance(body, dict) or not set(body) <= {"steps", "total_steps", "checkpointed_steps"}:
        return None
    steps, total, saved = body.get("steps"), body.get("total_steps"), body.get("checkpointed_steps")
    if steps is None or not all(v is None or (type(v) is int and 0 <= v <= STEPS_MAX) for v in (steps, total, saved)):
        return None
    if total is not None and (total == 0 or steps > total):
        return None
    if saved is not None and saved > steps:
        return None
    return Report(steps=steps, total_steps=total, checkpointed_steps=saved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a backend sees of one lease now: one status per rank, in rank order. report: what the job last wrote of itself.

    now_ms: the clock of the members' milliseconds at this moment; None = this host's CLOCK_BOOTTIME.
    """

    lease: LeaseId
    members: tuple[MemberStatus, ...]
    report: Report | None = None
    now_ms: int | None = field(default=None, compare=False)  # when it was asked, not what was seen

    @property
    def all_running_or_done(self) -> bool:
        return all(m.phase in (MemberPhase.RUNNING, MemberPhase.EXITED) for m in self.members)

    @property
    def all_ended(self) -> bool:
        return all(m.phase in (MemberPhase.EXITED, MemberPhase.LOST) for m in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledInterval:
    """[start, start + duration_ms): calendar from the start's wall time, length from the monotonic clock."""

    start: datetime
    duration_ms: int


def billed_interval(observation: Observation) -> BilledInterval | None:
    """From all members RUNNING to the last member's exit; None if some member never ran.

    Wall time is read once, at the start of the last member to start; the length is monotonic, so a clock that is set
    back or forward during the job changes nothing (design: the lease journal).
    """
    members = observation.members
    if not members or any(m.started_ms is None or m.ended_ms is None for m in members):
        return None
    if len({m.boot_id for m in members}) != 1:
        return None
    last = max(members, key=lambda m: (m.started_ms or 0, m.rank))
    ended = max(m.ended_ms or 0 for m in members)
    if last.started_at is None or last.started_ms is None:
        return None
    return BilledInterval(start=last.started_at, duration_ms=max(0, ended - last.started_ms))
