"""Snapshot: everything the planner may know, at `now`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.job import FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.regions import RegionFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Why a job may not start yet whatever is free. code: DEPENDENCY, ARRAY_LIMIT, HELD; on: the jobs it waits for."""

    code: str
    on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A job that wants devices. attempt: the number its next lease will carry.

    cpu_milli, memory_bytes: of each member's node. share_permille: of each device; below 1000 the member shares one device,
    and only with the same firm. min_nodes: the smallest gang an elastic job starts with, None = nodes.
    stacks: those it has a command for, () = any; images: those for which it names a container image.
    workload, remaining_steps: what a throughput profile needs, None = unknown. checkpoint_interval_ms: None = it writes none.
    gate: something else must happen first, None = ready. data: bytes of input that lie in each region.
    """

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
    images: tuple[str, ...] = ()
    attempt: int = 1
    pending_since: datetime | None = None
    cpu_milli: int = 0
    memory_bytes: int = 0
    share_permille: int = 1000
    min_nodes: int | None = None
    workload: str | None = None
    remaining_steps: int | None = None
    checkpoint_interval_ms: int | None = None
    deadline: datetime | None = None
    gate: Gate | None = None
    data: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLease:
    """Devices taken. ends_by: the latest instant it may hold them (its time limit).

    cpu_milli, memory_bytes: held on each member's node. share_permille: of each device. started_at: None while it starts.
    checkpointed_at: the last checkpoint known, None = none yet. stopping: it was told to stop; its devices come free soon.
    again: the job as it would wait if it were stopped, None = it may not be moved. The rest is as in WaitingJob.
    """

    id: LeaseId
    job: JobId
    firm: FirmId
    queue: str
    pool: PoolId
    members: tuple[Member, ...]
    ends_by: datetime
    cpu_milli: int = 0
    memory_bytes: int = 0
    share_permille: int = 1000
    priority: Priority = Priority.NORMAL
    started_at: datetime | None = None
    checkpointed_at: datetime | None = None
    checkpoint_interval_ms: int | None = None
    workload: str | None = None
    remaining_steps: int | None = None
    stopping: bool = False
    again: WaitingJob | None = None


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
    """nominal_devices: devices the queue may always have; None = no limit. Queues of one cohort lend each other what
    they do not use: borrowing_limit caps what this one takes above its nominal, lending_limit what it gives; None = all.
    Without a cohort the nominal is the limit. weight: of its fair share.
    """

    name: str
    nominal_devices: int | None
    cohort: str | None = None
    borrowing_limit: int | None = None
    lending_limit: int | None = None
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MixShape:
    """One shape of the recent mix of requests, per member. weight: how often it came. models: () = any."""

    weight: int
    count: int
    share_permille: int = 1000
    cpu_milli: int = 0
    memory_bytes: int = 0
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Steps of a workload in 1,000 seconds on `devices` devices of a model in all. source: measured | learnt | catalogue.

    error_permille: one standard deviation, relative; None = unknown.
    """

    workload: str
    model: str
    devices: int
    steps_per_ks: int
    source: str = "measured"
    error_permille: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """No job runs on these nodes in [start, end): none starts whose time limit would reach into it."""

    id: str
    nodes: tuple[NodeId, ...]
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Moving data between two regions: bandwidth and price. The order of the two has no meaning."""

    a: str
    b: str
    megabit_per_s: int
    price_fen_per_gib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent view. version: the store's counter a plan is `based_on`. Order of the tuples has no meaning.

    mix: the recent demand that packing leaves room for. migrations: how many running members the plan may move.
    regions: what electricity costs and emits in each; without an entry it is unknown.
    """

    version: int
    now: datetime
    pools: tuple[Pool, ...] = ()
    nodes: tuple[Node, ...] = ()
    jobs: tuple[WaitingJob, ...] = ()
    leases: tuple[RunningLease, ...] = ()
    terms: tuple[Terms, ...] = ()
    queues: tuple[QueueQuota, ...] = ()
    mix: tuple[MixShape, ...] = ()
    throughputs: tuple[Throughput, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    links: tuple[Link, ...] = ()
    migrations: int = 0
    regions: tuple[RegionFacts, ...] = ()
