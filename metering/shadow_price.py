"""Shadow price: the λ of every firm at an instant, from what the ledger has left and what firms' jobs could have chosen. Pure.

`VoucherBudget.terms` carries it into the snapshot; the derivation is in `scheduler.shadow`. It moves no money: it only
says how much of a voucher's part a choice should count, and it is shown with every quote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from scheduler.clock import to_ms
from scheduler.job import FirmId
from scheduler.shadow import GRID, Demand, ShadowPrice, Way, draws_of, shadow_prices
from scheduler.snapshot import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class PastJob:
    """A job that was placed. ways: every pool it could have had then, the chosen one included."""

    firm: FirmId
    at: datetime
    ways: tuple[Way, ...]


def past_job(firm: FirmId, at: datetime, facts: Mapping[str, Any], rates_bp: Mapping[str, int]) -> PastJob:
    """Read from the facts of the job's `reserved` event: pool, gross_fen, expected_fen and rejected[].

    A way costs what it was expected to, or its whole time limit where nothing was predicted. rates_bp: of the firm in each
    pool; a pool it does not name draws nothing.
    """
    entries = [facts, *facts.get("rejected", ())]
    return PastJob(
        firm=firm, at=at, ways=tuple(Way(_fen(entry), rates_bp.get(str(entry["pool"]), 0)) for entry in entries)
    )


def _fen(entry: Mapping[str, Any]) -> int:
    expected = entry.get("expected_fen")
    return int(entry["gross_fen"] if expected is None else expected)


def demands(past: Iterable[PastJob], since: Mapping[FirmId, datetime]) -> dict[FirmId, Demand]:
    """By firm, the jobs since the instant it could first draw (its right was claimed, or the platform began).

    since: of every firm that has jobs in `past`; earlier jobs are left out. ValueError names a firm without one.
    """
    kept: dict[FirmId, list[PastJob]] = {firm: [] for firm in since}
    for job in past:
        if job.firm not in since:
            raise ValueError(f"since: has no instant for firm {job.firm!r}")
        if job.at >= since[job.firm]:
            kept[job.firm].append(job)
    return {
        firm: Demand(
            since_ms=to_ms(since[firm]),
            at_ms=np.array([to_ms(job.at) for job in jobs], dtype=np.int64),
            draws=np.array([draws_of(job.ways) for job in jobs], dtype=np.int64).reshape(len(jobs), len(GRID)),
        )
        for firm, jobs in kept.items()
    }


def firm_prices(
    known: Mapping[FirmId, Demand],
    rooms: Mapping[FirmId, int],
    pool_room_fen: int,
    now: datetime,
    zone: ZoneInfo,
) -> dict[FirmId, ShadowPrice]:
    """λ of every firm of `rooms` for jobs that start now, until the local year ends. Rooms are what is left, in fen.

    A firm of which no demand is known has λ 0, unless the pool's is higher.
    """
    ends = datetime(now.astimezone(zone).year + 1, 1, 1, tzinfo=zone)
    return shadow_prices(known, rooms, pool_room_fen, now_ms=to_ms(now), until_ms=to_ms(ends))


def with_prices(terms: Sequence[Terms], prices: Mapping[FirmId, ShadowPrice]) -> tuple[Terms, ...]:
    """The terms with each firm's λ; a firm without one keeps what it has."""
    return tuple(
        replace(one, shadow_price_permille=prices[one.firm].permille) if one.firm in prices else one for one in terms
    )
