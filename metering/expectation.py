"""Expectation: what the firms' jobs will want of the voucher this year, read off the journal; behind every λ of the terms.

A year's jobs are read once a local day and λ is worked out once a minute: it moves by the day. What is kept here is only
kept to be faster; another process works out the same from the same records.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, func, select

from metering.ledger import PROGRAMME
from metering.schema import rights
from metering.shadow_price import PastJob, demands, firm_prices, past_job
from scheduler.clock import from_ms, to_ms
from scheduler.job import FirmId
from scheduler.lifecycle import Event
from scheduler.schema import job_events, jobs, pools
from scheduler.shadow import Demand, ShadowPrice

FRESH = timedelta(minutes=1)  # how old a λ may be
Rates = Mapping[FirmId, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a local day began with. rooms: of every firm with a right then, this year's."""

    day: date
    demands: Mapping[FirmId, Demand]
    rooms: Mapping[FirmId, int]


@dataclass(frozen=True, slots=True)
class _Priced:
    at: datetime
    asked: frozenset[FirmId]
    prices: Mapping[FirmId, ShadowPrice]


class Expectation:
    """λ by firm. One per budget; the answers it keeps are replaced whole, so threads may share it."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._known: _Known | None = None
        self._priced: _Priced | None = None

    def fresh(self, firms: Collection[FirmId], now: datetime) -> Mapping[FirmId, ShadowPrice] | None:
        """The prices worked out less than FRESH ago, if they include these firms."""
        last = self._priced
        if last is None or not last.at <= now < last.at + FRESH or not last.asked >= frozenset(firms):
            return None
        return last.prices

    def missing(self, tx: Connection, firms: Collection[FirmId], now: datetime) -> tuple[FirmId, ...]:
        """The firms whose rates and rooms `prices` needs besides those asked: once a day all that have a right."""
        known = self._of_day(now)
        if known is None:
            return tuple(sorted(set(_claimed(tx)) - set(firms)))
        return ()

    def prices(
        self,
        tx: Connection,
        rates: Rates,
        rooms: Mapping[FirmId, int],
        pool_room_fen: int,
        now: datetime,
    ) -> Mapping[FirmId, ShadowPrice]:
        """λ of every firm of `rooms`, and of those met earlier today, for jobs that start now.

        rates: voucher rate of each firm in each pool; rooms: what is left of the firm's year. A firm without a right, or
        whose jobs draw nothing, has λ 0 unless the pool's is higher.
        """
        known = self._of_day(now) or _Known(now.astimezone(self.zone).date(), {}, {})
        new = [firm for firm in rooms if firm not in known.demands]
        if new:
            found = self._demands(tx, new, rates, now)
            known = _Known(known.day, {**known.demands, **found}, {**known.rooms, **rooms})
            self._known = known
        counted = {firm: demand for firm, demand in known.demands.items() if len(demand.at_ms)}
        prices = firm_prices(counted, {**known.rooms, **rooms}, pool_room_fen, now, self.zone)
        self._priced = _Priced(now, frozenset(rooms), prices)
        return prices

    def _of_day(self, now: datetime) -> _Known | None:
        known = self._known
        return known if known is not None and known.day == now.astimezone(self.zone).date() else None

    def _demands(self, tx: Connection, firms: Collection[FirmId], rates: Rates, now: datetime) -> dict[FirmId, Demand]:
        year = datetime(now.astimezone(self.zone).year, 1, 1, tzinfo=self.zone)
        begun = tx.execute(select(func.min(pools.c.created_at_ms))).scalar()
        opened = from_ms(begun) if begun is not None else now
        claimed = _claimed(tx)
        since = {firm: max(year, opened, claimed[firm]) for firm in firms if firm in claimed}
        past = _past(tx, since, rates, min(since.values(), default=now))
        return {**demands((), dict.fromkeys(firms, now)), **demands(past, since)}


def _claimed(tx: Connection) -> dict[FirmId, datetime]:
    query = select(rights.c.firm, rights.c.claimed_at_ms).where(rights.c.programme == PROGRAMME)
    return {FirmId(row.firm): from_ms(row.claimed_at_ms) for row in tx.execute(query.order_by(rights.c.seq))}


def _past(tx: Connection, firms: Collection[FirmId], rates: Rates, since: datetime) -> Iterable[PastJob]:
    """What was placed since then for these firms, first attempts only; a job that takes no voucher draws nothing."""
    query = (
        select(job_events.c.job, job_events.c.at_ms, job_events.c.facts, jobs.c.firm, jobs.c.spec)
        .join(jobs, jobs.c.id == job_events.c.job)
        .where(job_events.c.event == Event.RESERVED.value, job_events.c.at_ms >= to_ms(since))
        .where(jobs.c.firm.in_(sorted(firms)))
        .order_by(job_events.c.seq)
    )
    seen: set[str] = set()
    for row in tx.execute(query):
        if row.job in seen:
            continue
        seen.add(row.job)
        firm = FirmId(row.firm)
        draws = json.loads(row.spec).get("money", {}).get("voucher", "auto") == "auto"
        yield past_job(firm, from_ms(row.at_ms), json.loads(row.facts), rates.get(firm, {}) if draws else {})
