"""What the scheduler asks of the world: at most six questions a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from adapters.accelerator import Origin
from scheduler.job import FirmId, JobId
from scheduler.lease import Lease, LeaseId, Observation
from scheduler.node import Pool
from scheduler.refusal import Refusal
from scheduler.snapshot import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Money is held for a lease. by_year: fen per local year; short: why less than the ceiling was held."""

    by_year: Mapping[int, int] = field(default_factory=dict)
    short: tuple[str, ...] = ()


class Budget(Protocol):
    """May this lease spend, and what would it cost? Implemented by metering; `tx` is the caller's open transaction."""

    def hold(self, tx: Any, lease: Lease, now: datetime) -> Held | Refusal:
        """Reserve the voucher money a lease may draw, one hold per local year its time limit touches."""

    def charge(
        self, tx: Any, jobs: Sequence[JobId], now: datetime, *, final: bool, over: Sequence[LeaseId] = ()
    ) -> None:
        """Settle what each job's usage records say so far; final: and release what is left of its holds.

        over: leases that ended while their job goes on; what is left of their holds is released.
        """

    def exhausted(self, tx: Any, held: Sequence[Mapping[str, Any]], now: datetime) -> Mapping[LeaseId, Refusal]:
        """Of these lease rows, those to stop now because a limit of their owner is spent, each with why."""

    def terms(self, tx: Any, firms: Sequence[FirmId], pools: Sequence[Pool], now: datetime) -> tuple[Terms, ...]:
        """Price, voucher rate and room of every firm in every pool."""

    def origin(self, vendor: str, model: str, now: datetime) -> Origin:
        """What the dated register says of a model; undetermined where it says nothing."""

    def sweep(self, tx: Any, now: datetime) -> int:
        """Expire holds whose time is over and whose lease is gone; returns how many."""


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
