"""Spending: may this job start, and must this lease stop, under what its owner is willing to pay. Pure.

A limit is on net cost, after the voucher: a job's `max_net_cost` over its whole life, or a firm's budget over an interval.
Before the start everything that runs counts with its whole time limit, so that a yes never has to be taken back; while it
runs only what it has used counts, so that a lease stops when the money is gone and not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId
from scheduler.netcost import cost
from scheduler.refusal import Refusal
from scheduler.snapshot import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Fen that may be spent on usage in [start, end): of one job, or with job None of all the firm's jobs.

    end: None = open. spent_fen: net of what is settled; usage not yet settled is in `Burn`.
    """

    firm: FirmId
    job: JobId | None
    limit_fen: int
    spent_fen: int
    start: datetime
    end: datetime | None = None

    def __post_init__(self) -> None:
        if self.limit_fen < 0:
            raise ValueError(f"limit_fen: must be 0 or more, not {self.limit_fen}; nearest: 0")
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end: {self.end} lies before start {self.start}; nearest: {self.start}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """A lease that costs money. metered_until: what is settled ends there, and this lease's unsettled usage begins.

    terms: price and rate of its firm in its pool; room_fen: what it holds of the voucher, before the start what it would hold.
    Each lease holds its own part, so that two of a firm never count the same room. draws: its job takes the voucher.
    """

    lease: LeaseId
    job: JobId
    firm: FirmId
    terms: Terms
    devices: int
    metered_until: datetime
    ends_by: datetime
    share_permille: int = 1000
    draws: bool = True

    def net_fen(self, start: datetime, end: datetime | None) -> int:
        """What it costs over its unsettled part of [start, end), at most until its time limit."""
        since = max(start, self.metered_until)
        until = self.ends_by if end is None else min(end, self.ends_by)
        duration = max(0, (until - since) // timedelta(milliseconds=1))
        return cost(self.terms, self.devices, duration, share_permille=self.share_permille, draws=self.draws).net_fen


def exhausted(
    limits: Iterable[Limit], burning: Sequence[Burn], now: datetime, grace_ms: int = 0
) -> dict[LeaseId, Refusal]:
    """The leases to stop now, each with why: by `now` + grace its limit would be spent.

    What ends within the limit anyway is left to end.
    grace_ms: how long a stop takes, so that checkpointing is paid for out of the limit and not on top of it. Every lease
    under a firm's spent budget stops, unless it runs at price 0. A limit whose interval has not begun or is over stops nothing.
    """
    found: dict[LeaseId, Refusal] = {}
    until = now + timedelta(milliseconds=grace_ms)
    for limit in sorted(limits, key=lambda one: (one.firm, one.job or "", one.start)):
        if until < limit.start or (limit.end is not None and now >= limit.end):
            continue
        under = [one for one in burning if _covers(limit, one) and one.terms.price_fen_per_device_hour]
        if not under:
            continue
        by_then = until if limit.end is None else min(until, limit.end)
        net = limit.spent_fen + sum(one.net_fen(limit.start, by_then) for one in under)
        if net >= limit.limit_fen and limit.spent_fen + sum(_rest(limit, one) for one in under) > limit.limit_fen:
            facts = {"limit_fen": limit.limit_fen, "net_fen": net, "scope": "job" if limit.job else "firm"}
            for one in under:
                found.setdefault(one.lease, Refusal(code="BUDGET_EXHAUSTED", facts=facts))
    return found


def may_start(limits: Iterable[Limit], burning: Sequence[Burn], asked: Burn) -> Refusal | None:
    """None when no limit would be passed if everything that runs, and the asked one, ran for its whole time limit."""
    for limit in sorted(limits, key=lambda one: (one.firm, one.job or "", one.start)):
        if not _covers(limit, asked):
            continue
        committed = sum(one.net_fen(limit.start, limit.end) for one in burning if _covers(limit, one))
        needed = asked.net_fen(limit.start, limit.end)
        if not needed:
            continue
        if limit.spent_fen + committed + needed > limit.limit_fen:
            return Refusal(
                code="FIRM_BUDGET_TOO_LOW" if limit.job is None else "MAX_NET_COST_TOO_LOW",
                facts={
                    "net_fen": needed,
                    "max_net_fen": limit.limit_fen,
                    "left_fen": max(0, limit.limit_fen - limit.spent_fen - committed),
                },
            )
    return None


def _rest(limit: Limit, one: Burn) -> int:
    return one.net_fen(limit.start, limit.end)


def _covers(limit: Limit, one: Burn) -> bool:
    return limit.firm == one.firm and limit.job in (None, one.job)
