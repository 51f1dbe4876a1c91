"""Snapshot: everything the planner may know, at `now`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from scheduler.job import FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, Pool, PoolId


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A job that wants devices. attempt: the number its next lease will carry."""

    id: JobId
    name: str
    firm: FirmId
    queue: str
    priority: Priority
    submitted_at: datetime
    nodes: int
    time_limit_ms: int
    request: Request
    money: Money
    stacks: tuple[str, ...] = ()
    attempt: int = 1
    pending_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLease:
    """Devices taken. ends_by: the latest instant it may hold them (its time limit)."""

    id: LeaseId
    job: JobId
    firm: FirmId
    queue: str
    pool: PoolId
    members: tuple[Member, ...]
    ends_by: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a firm pays in a pool, computed by metering and opaque here.

    rate_bp: voucher rate of the pool's chip class for this firm now, 0 when it may not draw.
    room_fen: what is left of the tightest room. shadow_price_permille: λ of design.md §7, 0 = plenty of room.
    """

    firm: FirmId
    pool: PoolId
    price_fen_per_device_hour: int
    rate_bp: int
    room_fen: int
    shadow_price_permille: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueQuota:
    """nominal_devices: the most devices the queue's leases may hold together; None = no limit."""

    name: str
    nominal_devices: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent view. version: the store's counter a plan is `based_on`. Order of the tuples has no meaning."""

    version: int
    now: datetime
    pools: tuple[Pool, ...] = ()
    nodes: tuple[Node, ...] = ()
    jobs: tuple[WaitingJob, ...] = ()
    leases: tuple[RunningLease, ...] = ()
    terms: tuple[Terms, ...] = ()
    queues: tuple[QueueQuota, ...] = ()
