"""Plan: what to do about a snapshot, each decision with its reason. A value: print, store, diff, replay, refuse it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId, Member, Placement
from scheduler.regions import Saved


class PendingKind(enum.StrEnum):
    """Why a job waits: it can never run as asked; somebody must act; devices must free up; not looked at yet."""

    NEVER = "never"
    POLICY = "policy"
    WAIT = "wait"
    NOT_EVALUATED = "not_evaluated"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCount:
    """`n` of `m` nodes are out for `code`; until: when the first of them may free up, None if unknown."""

    code: str
    n: int
    m: int
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What would help: ACCEPT_MODEL, LOWER_COUNT, RAISE_MAX_NET_COST, WAIT … with the facts the text needs."""

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The pending record of design.md §3. needed/available count devices in `scope`; position: 1 = next in line."""

    code: str
    kind: PendingKind
    scope: str
    needed: int | None = None
    available: int | None = None
    n_of_m: tuple[NodeCount, ...] = ()
    since: datetime | None = None
    next_evaluation: datetime | None = None
    earliest_start: datetime | None = None
    position: int | None = None
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One pool a job could start in now, with what time_limit would cost there.

    gross_fen: price over the whole gang and time limit; hold_fen: what the voucher would draw within its room;
    net_fen: gross less that. effective_fen: what a choice should compare, the voucher's part weighed by 1 - λ.
    predicted_ms: how long the job would take there, expected_fen: the gross of that; None = unknown. shadow_price_permille: λ.
    Where inputs lie elsewhere, transfer_ms of the devices' time (part of predicted_ms) and transfer_fen (part of
    effective_fen, not of net_fen) bring them. energy_fen, carbon_g: of the electricity, None = unknown.
    """

    alternative: int
    pool: str
    model: str
    gross_fen: int
    net_fen: int
    hold_fen: int
    effective_fen: int
    predicted_ms: int | None = None
    expected_fen: int | None = None
    shadow_price_permille: int = 0
    exceeds_limit: bool = False  # the prediction is longer than the job's time limit: it would be cut off
    region: str = ""
    transfer_ms: int = 0
    transfer_fen: int = 0
    energy_fen: int | None = None
    carbon_g: int | None = None
    expected_net_fen: int | None = None  # expected_fen less what the voucher would draw of it

    @property
    def paid_fen(self) -> int:
        """What the firm is expected to pay, of the predicted time else of the time limit, and for moving its data."""
        return (self.net_fen if self.expected_net_fen is None else self.expected_net_fen) + self.transfer_fen


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Start this job there. chosen: the winning candidate; rejected: the others that also fitted, best first."""

    job: JobId
    firm: FirmId
    lease: LeaseId
    placement: Placement
    chosen: Candidate
    rejected: tuple[Candidate, ...] = ()

    @property
    def saved(self) -> Saved | None:
        """What the choice spares against the best that was rejected, in another region if there is one; None = no choice.

        Money is of the predicted time where it is known, data moved included; time is that of the devices, None = unknown.
        """
        elsewhere = [one for one in self.rejected if one.region != self.chosen.region]
        other = next(iter(elsewhere or self.rejected), None)
        if other is None:
            return None
        ms: int | None = other.transfer_ms - self.chosen.transfer_ms
        if other.predicted_ms is not None or self.chosen.predicted_ms is not None:
            ms = _less(other.predicted_ms, self.chosen.predicted_ms)
        return Saved(
            against=other.region,
            pool=other.pool,
            fen=other.paid_fen - self.chosen.paid_fen,
            ms=ms,
            carbon_g=_less(other.carbon_g, self.chosen.carbon_g),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    job: JobId
    pending: Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempt:
    """Stop this lease so that `by` may start; its job waits again. cost_device_ms: work since its last checkpoint, lost.

    code: PRIORITY, RECLAIM (its queue holds what another lent), ROUND (its turn is over).
    """

    lease: LeaseId
    job: JobId
    code: str
    by: JobId | None = None
    cost_device_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """Move one member of a running lease to other devices, so that something larger fits where it was."""

    lease: LeaseId
    rank: int
    to: Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """launches in the order they were decided, waits in queue order; every waiting job is in exactly one of them.

    preempts and migrations come before the launches, which count on them.
    """

    based_on: int
    now: datetime
    policy: str
    launches: tuple[Launch, ...] = ()
    waits: Sequence[Wait] = ()
    preempts: tuple[Preempt, ...] = ()
    migrations: tuple[Migration, ...] = ()


def _less(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other
