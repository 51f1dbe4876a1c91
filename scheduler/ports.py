"""What the scheduler asks of the world: at most five questions a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from scheduler.job import FirmId
from scheduler.lease import Lease, LeaseId, Observation
from scheduler.node import Pool
from scheduler.refusal import Refusal
from scheduler.snapshot import Terms
from scheduler.usage import UsageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Money is held for a lease. by_year: fen per local year; short: why less than the ceiling was held."""

    by_year: Mapping[int, int] = field(default_factory=dict)
    short: tuple[str, ...] = ()


class Budget(Protocol):
    """May this lease spend? Implemented by metering; `tx` is the open transaction of the caller's store."""

    def hold(self, tx: Any, lease: Lease, now: datetime) -> Held | Refusal: ...

    def charge(self, tx: Any, usage: Sequence[UsageRecord], now: datetime, *, final: bool) -> None:
        """Settle what a lease used so far (final: and release what is left of its hold), in `tx`."""

    def terms(self, tx: Any, firms: Sequence[FirmId], pools: Sequence[Pool], now: datetime) -> tuple[Terms, ...]: ...


class Backend(Protocol):
    """Speaks to a launcher. Every call may be repeated: launch twice = once, stop is idempotent.

    launch returns None, or a Refusal when it can never start there. observe answers for exactly the given leases; a
    lease it has never seen has members ABSENT. forget frees what the backend keeps of an ended lease (logs stay).
    """

    name: str

    def launch(self, lease: Lease) -> Refusal | None: ...

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None: ...

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]: ...

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes: ...

    def forget(self, lease: LeaseId) -> None: ...
