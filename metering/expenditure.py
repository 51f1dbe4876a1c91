"""Expenditure: what firms and jobs have paid and are burning, against what they are willing to pay.

The rule is in `scheduler.spending`; here its limits and leases are read: what is settled from the last settlement of each
job, what is not yet from the leases that hold devices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select

from metering.firm_budget import FirmBudget, standing_budgets
from metering.programme_schema import refunds
from metering.reading import Reading
from metering.refunding import class_of, shares
from metering.schema import holds, settlement_lines, settlements
from scheduler.clock import from_ms, to_ms
from scheduler.duration import parse_duration, parse_money
from scheduler.job import FirmId, JobId
from scheduler.lease import GRACE_MS, Lease, LeaseId
from scheduler.node import PoolId
from scheduler.refusal import Refusal
from scheduler.schema import jobs, leases, pools
from scheduler.snapshot import Terms
from scheduler.spending import Burn, Limit, exhausted, may_start

if TYPE_CHECKING:
    from metering.budget import VoucherBudget


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a job file says: its own limit, whether it takes the voucher, and how long it may take to stop."""

    max_net_fen: int | None
    voucher: str
    grace_ms: int


class Expenditure:
    """What is read once is kept: what a job file says never changes, what was settled changes with a settlement."""

    def __init__(self, budget: VoucherBudget) -> None:
        self.budget = budget
        self._wishes: dict[str, _Wish] = {}
        self._spent: dict[tuple[str, datetime, datetime | None], tuple[tuple[int, int], int]] = {}

    def exhausted(self, tx: Connection, held: Sequence[Mapping[str, Any]], now: datetime) -> dict[LeaseId, Refusal]:
        """Of these lease rows, those to stop now, each with why: its job's or its firm's limit is spent."""
        wishes = self._read_wishes(tx, [row["job"] for row in held])
        limits = [
            one
            for one in standing_budgets(tx, {row["firm"] for row in held})
            if one.start <= now + timedelta(milliseconds=_longest(wishes)) and (one.end is None or now < one.end)
        ]
        under = {one.firm for one in limits}
        bound = [row for row in held if row["firm"] in under or wishes[row["job"]].max_net_fen is not None]
        if not bound:
            return {}
        burning = self._burns(tx, bound, wishes, now)
        found: dict[LeaseId, Refusal] = {}
        for limit in self._job_limits(tx, bound, wishes):
            grace = wishes[str(limit.job)].grace_ms
            found |= exhausted([limit], burning, now, grace)
        for firm in sorted(under):
            mine = [self._limit(tx, one) for one in limits if one.firm == firm]
            grace = max(wishes[row["job"]].grace_ms for row in bound if row["firm"] == firm)
            found = exhausted(mine, burning, now, grace) | found
        return found

    def refused(self, tx: Connection, lease: Lease, net_fen: int, drawn_fen: int, now: datetime) -> Refusal | None:
        """Whether a limit forbids the start. net_fen, drawn_fen: of the whole time limit, net and of the voucher."""
        most = lease.spec.money.max_net_fen
        spent = _paid(tx, [lease.job]).get(lease.job, 0)
        if most is not None and spent + net_fen > most:
            return Refusal(
                code="MAX_NET_COST_TOO_LOW",
                facts={"net_fen": net_fen, "max_net_fen": most, "left_fen": max(0, most - spent)},
            )
        limits = standing_budgets(tx, [lease.firm])
        if not limits:
            return None
        held = [
            dict(row)
            for row in tx.execute(
                select(leases).where(
                    leases.c.firm == lease.firm, leases.c.released_at_ms.is_(None), leases.c.id != lease.id
                )
            ).mappings()
        ]
        burning = self._burns(tx, held, self._read_wishes(tx, [row["job"] for row in held]), now)
        gross = net_fen + drawn_fen
        asked = Burn(
            lease=lease.id,
            job=lease.job,
            firm=lease.firm,
            terms=Terms(
                firm=lease.firm,
                pool=lease.placement.pool,
                price_fen_per_device_hour=lease.price_fen_per_device_hour,
                rate_bp=-(-drawn_fen * 10_000 // gross) if gross else 0,
                room_fen=drawn_fen,
            ),
            devices=lease.placement.device_count,
            metered_until=now,
            ends_by=now + timedelta(milliseconds=lease.spec.time_limit_ms),
        )
        return may_start([self._limit(tx, one) for one in limits], burning, asked)

    def spent(self, tx: Connection, firm: str, start: datetime, end: datetime | None) -> int:
        """Net fen of what is settled of the firm's usage in [start, end), less what it got back of it by refunds.

        A line cut by an edge counts in proportion to its time, one of a class partly refunded in proportion to what the
        firm still pays of the class; each rounded up.
        """
        last = tx.execute(select(func.max(settlements.c.seq)).where(settlements.c.firm == firm)).scalar() or 0
        returned = tx.execute(select(func.max(refunds.c.seq))).scalar() or 0
        key = (firm, start, end)
        kept = self._spent.get(key)
        if kept is None or kept[0] != (last, returned):
            found = _settled(tx, firm, to_ms(start), None if end is None else to_ms(end))
            kept = self._spent[key] = ((last, returned), found)
        return kept[1]

    def _limit(self, tx: Connection, one: FirmBudget) -> Limit:
        return Limit(
            firm=one.firm, job=None, limit_fen=one.limit_fen, start=one.start, end=one.end,
            spent_fen=self.spent(tx, one.firm, one.start, one.end),
        )  # fmt: skip

    def _job_limits(
        self, tx: Connection, held: Sequence[Mapping[str, Any]], wishes: Mapping[str, _Wish]
    ) -> list[Limit]:
        limited = [row for row in held if wishes[row["job"]].max_net_fen is not None]
        paid = _paid(tx, [row["job"] for row in limited])
        return [
            Limit(
                firm=FirmId(row["firm"]),
                job=JobId(row["job"]),
                limit_fen=wishes[row["job"]].max_net_fen or 0,
                spent_fen=paid.get(row["job"], 0),
                start=from_ms(0),
            )
            for row in limited
        ]

    def _burns(
        self, tx: Connection, held: Sequence[Mapping[str, Any]], wishes: Mapping[str, _Wish], now: datetime
    ) -> list[Burn]:
        """The leases as they burn money now: at the voucher rate of now, within what each holds itself."""
        reading = Reading(tx)
        wanted = sorted({row["pool"] for row in held})
        found = {row["id"]: row for row in tx.execute(select(pools).where(pools.c.id.in_(wanted))).mappings()}
        rooms = _held(tx, [row["id"] for row in held])
        burns = []
        for row in held:
            begun = row["started_at_ms"]
            start = now if begun is None else from_ms(begun)
            voucher = wishes[row["job"]].voucher
            burns.append(
                Burn(
                    lease=LeaseId(row["id"]),
                    job=JobId(row["job"]),
                    firm=FirmId(row["firm"]),
                    terms=Terms(
                        firm=FirmId(row["firm"]),
                        pool=PoolId(row["pool"]),
                        price_fen_per_device_hour=row["price_fen_per_device_hour"],
                        rate_bp=self.budget.rate_bp(reading, row["firm"], voucher, found[row["pool"]], now),
                        room_fen=rooms.get(row["id"], 0),
                    ),
                    devices=row["device_count"],
                    metered_until=start if row["metered_until_ms"] is None else from_ms(row["metered_until_ms"]),
                    ends_by=start + timedelta(milliseconds=row["time_limit_ms"]),
                    draws=voucher != "none",
                )
            )
        return burns

    def _read_wishes(self, tx: Connection, names: Sequence[str]) -> Mapping[str, _Wish]:
        known = {name: self._wishes[name] for name in names if name in self._wishes}
        missing = sorted(set(names) - set(known))
        if missing:
            query = select(jobs.c.id, jobs.c.spec).where(jobs.c.id.in_(missing))
            known |= {row.id: _wish(json.loads(row.spec)) for row in tx.execute(query)}
        self._wishes = known if len(self._wishes) > 2 * len(known) + 1000 else {**self._wishes, **known}
        return known


def _wish(spec: Mapping[str, Any]) -> _Wish:
    """Of a job file's canonical form."""
    money, grace = spec.get("money", {}), spec.get("checkpoint", {}).get("grace")
    return _Wish(
        max_net_fen=parse_money(money["max_net_cost"]) if "max_net_cost" in money else None,
        voucher=money.get("voucher", "auto"),
        grace_ms=GRACE_MS if grace is None else parse_duration(grace),
    )


def _longest(wishes: Mapping[str, _Wish]) -> int:
    return max((wish.grace_ms for wish in wishes.values()), default=0)


def _paid(tx: Connection, names: Sequence[str]) -> dict[str, int]:
    """Net fen of each job's last settlement; jobs without one are left out."""
    last = _last(settlements.c.job.in_(names))
    query = select(settlements.c.job, settlements.c.payable_fen).join(last, settlements.c.seq == last.c.seq)
    return {row.job: row.payable_fen for row in tx.execute(query)}


def _held(tx: Connection, names: Sequence[str]) -> dict[str, int]:
    query = select(holds.c.lease, func.sum(holds.c.amount_fen).label("fen")).where(
        holds.c.lease.in_(names), holds.c.state == "held"
    )
    return {row.lease: int(row.fen) for row in tx.execute(query.group_by(holds.c.lease))}


def _settled(tx: Connection, firm: str, start_ms: int, end_ms: int | None) -> int:
    last = _last(settlements.c.firm == firm)
    lines = settlement_lines.c
    query = (
        select(settlement_lines)
        .join(settlements, settlements.c.id == lines.settlement)
        .join(last, settlements.c.seq == last.c.seq)
        .where(lines.end_ms > start_ms)
    )
    if end_ms is not None:
        query = query.where(lines.start_ms < end_ms)
    still = _still_paid(tx, last)
    total = 0
    for row in tx.execute(query).mappings():
        length = max(1, row["end_ms"] - row["start_ms"])
        inside = (row["end_ms"] if end_ms is None else min(row["end_ms"], end_ms)) - max(row["start_ms"], start_ms)
        kept, whole = still.get((row["settlement"], *class_of(row)), (1, 1)) if still else (1, 1)
        total += -(-row["payable_fen"] * kept * inside // (whole * length))
    return total


def _still_paid(tx: Connection, last: Any) -> dict[tuple[Any, ...], tuple[int, int]]:
    """(settlement, class) → what the firm pays of it after refunds, and before; of the refunded jobs among the last ones."""
    query = (
        select(settlements.c.id, settlements.c.job)
        .join(last, settlements.c.seq == last.c.seq)
        .where(settlements.c.job.in_(select(refunds.c.job)))
    )
    found: dict[tuple[Any, ...], tuple[int, int]] = {}
    for settlement, job in tx.execute(query).all():
        for part in shares(tx, job, settlement):
            billed = part.billed
            paid = billed.fee_fen - billed.deduction_fen
            if paid:
                key = (settlement, billed.provider, billed.origin, billed.rate_bp, billed.year)
                found[key] = (paid - part.firm_fen, paid)
    return found


def _last(which: Any) -> Any:
    """The position of the last settlement of each job; the last one stands for the whole job."""
    return select(func.max(settlements.c.seq).label("seq")).where(which).group_by(settlements.c.job).subquery()
