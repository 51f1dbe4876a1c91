"""Job: what is asked for, as values. A job file becomes one JobSpec and nothing of it is dropped."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType

from adapters.accelerator import Origin

JobId = NewType("JobId", str)
FirmId = NewType("FirmId", str)


class Priority(enum.StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return {"high": 0, "normal": 1, "low": 2}[self.value]


class Objective(enum.StrEnum):
    """What the choice among alternatives minimises."""

    NET_COST = "net_cost"
    START_TIME = "start_time"
    GROSS_COST = "gross_cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One way to satisfy a node's request: `count` devices of any of `models`.

    models: catalogue keys that match, in the catalogue's order; empty means any model (then origin and memory bind).
    text: the spelling in the job file, shown in reasons.
    """

    text: str
    count: int
    models: tuple[str, ...] = ()
    origin: Origin | None = None
    memory_bytes_min: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What each node of the gang needs. ordered: try alternatives in turn; else the objective chooses."""

    alternatives: tuple[Alternative, ...]
    ordered: bool = False
    share_memory_bytes: int | None = None
    share_cores_permille: int | None = None
    topology_required: str | None = None
    topology_preferred: str | None = None

    @property
    def whole(self) -> bool:
        return self.share_memory_bytes is None and self.share_cores_permille is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What differs per software stack; None where the job's own value stands."""

    run: str | None = None
    image: str | None = None
    envs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """path: where the job writes, relative to its own directory or absolute. signal: sent before a stop."""

    path: str
    interval_ms: int | None = None
    signal: str | None = None
    grace_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    on_events: tuple[str, ...]
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """voucher: `auto` draws the firm's right, `none` does not. max_net_fen: never start above it."""

    voucher: str = "auto"
    objective: Objective = Objective.NET_COST
    max_net_fen: int | None = None
    contract: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    first: int
    last: int
    parallel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    job: str
    when: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job file v1, parsed. time_limit_ms bounds the run, the hold and the reservation.

    gang_min_nodes equals nodes unless the file says less. envs and variants hold plain text; secrets are references only.
    """

    name: str
    request: Request
    time_limit_ms: int
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    nodes: int = 1
    gang_min_nodes: int = 1
    deadline: datetime | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    entrypoint: str | None = None
    setup: str | None = None
    envs: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    workload: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    retry: Retry | None = None
    money: Money = field(default_factory=Money)
    array: Array | None = None
    depends_on: tuple[Dependency, ...] = ()
