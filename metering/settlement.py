"""Settlement: what usage costs, what the voucher takes off, who pays the rest, and why, line by line. Pure.

    settle(usage, rates, rules, balances) -> Settlement

1. Each usage entry is cut into lines on which price, rate, every exclusion and the local year are constant.
2. Eligible lines of one origin class, rate and local year form a class; its ceiling is ⌊Σ fee × rate⌋.
3. A year's deduction is the least of its ceiling and its bounds (the rooms of pool, firm, contract, tranche).
4. It is split over classes by largest remainder on ceilings, then over lines by largest remainder on fees.

Fees are rounded once per line, half up; ceilings are rounded down; parts sum exactly. Clause 2.1.1 bounds the
deduction ("at most 30% or 40% of the fee"), so no class ever passes its ceiling; a line may pass its own rate
by less than a fen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from operator import attrgetter
from typing import Any, NamedTuple

from adapters.accelerator import Origin
from metering.amount import ceiling_fen, fee_fen, largest_remainder
from metering.entry import Rooms, UsageEntry
from metering.rates import RateCard
from metering.rule import REASONS, Bound, Context, Rule, Rules, Ruling, edges_between, rank
from metering.year import local_year, year_start, years_begun_within

__all__ = [
    "REASONS",
    "Line",
    "Rooms",
    "Rules",
    "Settlement",
    "Totals",
    "UsageEntry",
    "YearResult",
    "document",
    "settle",
]

_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Part of one usage entry over [start, end). year: local year of its start. rate_bp: applied, 0 when
    excluded.

    fee_fen = deduction_fen + payable_fen. reasons: why it draws nothing, or less than its rate. clauses: what
    it rests on.
    """

    lease: str
    model: str
    origin: Origin
    start: datetime
    end: datetime
    year: int
    device_ms: int
    fee_fen: int
    rate_bp: int
    deduction_fen: int
    payable_fen: int
    reasons: tuple[str, ...]
    clauses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all lines; ceiling_fen: over all years, before rooms."""

    fee_fen: int
    ceiling_fen: int
    deduction_fen: int
    payable_fen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YearResult:
    """A local year with an eligible line.

    reasons: the rooms it ran into, empty when it got its whole ceiling.
    """

    year: int
    ceiling_fen: int
    deduction_fen: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Some usage settled under one parameter bundle.

    rooms_after: years given, then those with eligible lines.
    """

    policy: str
    bundle_sha256: str
    notices: tuple[str, ...]
    lines: tuple[Line, ...]
    totals: Totals
    years: tuple[YearResult, ...]
    rooms_after: Rooms


class RoomPassed(Exception):
    """The rules let a year take more than a room holds: a rule that bounds it is missing."""


def settle(usage: Sequence[UsageEntry], rates: RateCard, rules: Rules, balances: Rooms) -> Settlement:
    """Every fen of the usage is deducted or payable afterwards, and says why.

    Lines come in the order of `usage`, then of time; a zero-length entry is one line of 0 ms. The order of
    rules.rules does not matter. Raises NoPrice, UnknownSite, RoomPassed, and ValueError for an entry that
    ends before it starts.
    """
    context = rules.context
    pieces = _cut(usage, rates, rules)
    classes = _classes(pieces)
    years, rooms = _bound(classes, rules.rules, balances, context)
    deductions = _spread(pieces, classes, years)
    short = {result.year: result.reasons for result in years}
    lines = tuple(_line(piece, deductions[index], short) for index, piece in enumerate(pieces))
    fee = sum(line.fee_fen for line in lines)
    deduction = sum(line.deduction_fen for line in lines)
    return Settlement(
        policy=rules.policy.id,
        bundle_sha256=rules.policy.bundle_sha256,
        notices=_notices(lines, context),
        lines=lines,
        totals=Totals(
            fee_fen=fee,
            ceiling_fen=sum(result.ceiling_fen for result in years),
            deduction_fen=deduction,
            payable_fen=fee - deduction,
        ),
        years=years,
        rooms_after=rooms,
    )


# --- 1. lines -------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Part of an entry on which price, ruling and local year are constant."""

    entry: UsageEntry
    start: datetime
    end: datetime
    year: int
    ruling: Ruling
    fee: int
    device_ms: int


def _cut(usage: Sequence[UsageEntry], rates: RateCard, rules: Rules) -> list[_Piece]:
    """Every entry's longest intervals on which all is constant, in order of usage, then of time."""
    pieces: list[_Piece] = []
    first = min(map(_START, usage), default=None)
    last = max(map(_END, usage), default=None)
    if first is None or last is None:
        return pieces
    years = _Years(rules.policy.zone)
    for entry in usage:
        start, end = entry.start, entry.end
        if end < start:
            raise ValueError(f"lease {entry.lease} ended {end.isoformat()} before it began {start.isoformat()}")
        course = rules.course(entry, first, last)
        begun = years.begun_within(start, end)
        inner = edges_between(course, start, end)
        dear = rates.edges_within(entry.rate, start, end)
        ruling = rules.ruling(course, entry, start)
        price, year = rates.price_at(entry.rate, start), years.of(start)
        if inner or dear or begun:
            for at in sorted({*inner, *dear, *begun}):
                after, then, later = rules.ruling(course, entry, at), rates.price_at(entry.rate, at), years.of(at)
                if then != price or later != year or not after.same(ruling):
                    pieces.append(_piece(entry, start, at, year, ruling, price))
                    start, ruling, price, year = at, after, then, later
        pieces.append(_piece(entry, start, end, year, ruling, price))
    return pieces


_START, _END = attrgetter("start"), attrgetter("end")


def _piece(entry: UsageEntry, start: datetime, end: datetime, year: int, ruling: Ruling, price: int) -> _Piece:
    device_ms = entry.devices * ((end - start) // _MS)
    return _Piece(entry, start, end, year, ruling, fee_fen(price, device_ms, entry.share_permille), device_ms)


class _Years:
    """Local years, the last one asked for remembered with where it begins and ends."""

    __slots__ = ("end", "start", "year", "zone")

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone
        self.year, self.start, self.end = 0, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)

    def of(self, at: datetime) -> int:
        if not self.start <= at < self.end:
            self.year = local_year(at, self.zone)
            if 1 < self.year < 9999:
                self.start, self.end = year_start(self.year, self.zone), year_start(self.year + 1, self.zone)
            else:  # begins or ends where no datetime reaches
                self.start = self.end = at
        return self.year

    def begun_within(self, start: datetime, end: datetime) -> list[datetime]:
        """Where a local year begins strictly between the two."""
        self.of(start)
        return [] if end <= self.end else years_begun_within(start, end, self.zone)


# --- 2. classes and their ceilings ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Class:
    """Eligible lines of one origin class, rate and local year, by their place among all lines."""

    year: int
    members: tuple[int, ...]
    ceiling: int


def _classes(pieces: Sequence[_Piece]) -> tuple[_Class, ...]:
    """Every class, ranked by its first line."""
    members: dict[tuple[bool, int, int], list[int]] = {}
    for index, piece in enumerate(pieces):
        if not piece.ruling.exclusions:
            key = (piece.entry.origin is Origin.DOMESTIC, piece.ruling.applied_bp, piece.year)
            members.setdefault(key, []).append(index)
    return tuple(
        _Class(year, tuple(mine), ceiling_fen(sum(pieces[index].fee for index in mine), rate_bp))
        for (_, rate_bp, year), mine in members.items()
    )


# --- 3. rooms -------------------------------------------------------------------------------------


def _bound(
    classes: Sequence[_Class], rules: Sequence[Rule], balances: Rooms, context: Context
) -> tuple[tuple[YearResult, ...], Rooms]:
    """Each year's deduction, years in order, and what is left of every room."""
    ceilings: dict[int, int] = {}
    for one in classes:
        ceilings[one.year] = ceilings.get(one.year, 0) + one.ceiling
    rooms = _opened(balances, sorted(ceilings), context)
    results = []
    for year, ceiling in sorted(ceilings.items()):
        bounds = [bound for rule in rules for bound in rule.bounds(year, rooms, context)]
        deduction = min([ceiling, *(bound.available_fen for bound in bounds)])
        reasons = _met(bounds, deduction) if deduction < ceiling else ()
        results.append(YearResult(year=year, ceiling_fen=ceiling, deduction_fen=deduction, reasons=reasons))
        rooms = _taken(rooms, year, deduction)
    return tuple(results), rooms


def _opened(balances: Rooms, years: Sequence[int], context: Context) -> Rooms:
    """The rooms given, and the policy's caps for the years with an eligible line that were not."""
    caps = context.policy
    pool = dict(balances.pool) | {year: caps.pool_fen[year] for year in years if year not in balances.pool}
    firm = dict(balances.firm) | {year: caps.firm_cap_fen[year] for year in years if year not in balances.firm}
    for left in (*pool.values(), *firm.values(), balances.contract or 0, balances.tranche or 0):
        if left < 0:
            raise ValueError(f"a room of {left} fen; rooms are never below 0")
    return Rooms(pool=pool, firm=firm, contract=balances.contract, tranche=balances.tranche)


def _met(bounds: Sequence[Bound], deduction: int) -> tuple[str, ...]:
    met = {bound.reason for bound in bounds if bound.available_fen == deduction}
    return tuple(sorted(met, key=rank))


def _taken(rooms: Rooms, year: int, deduction: int) -> Rooms:
    left = replace(
        rooms,
        pool={**rooms.pool, year: rooms.pool[year] - deduction},
        firm={**rooms.firm, year: rooms.firm[year] - deduction},
        contract=None if rooms.contract is None else rooms.contract - deduction,
        tranche=None if rooms.tranche is None else rooms.tranche - deduction,
    )
    for name, fen in (("pool", left.pool[year]), ("firm", left.firm[year])):
        if fen < 0:
            raise RoomPassed(f"{name} {year} would hold {fen} fen; is the rule 'caps' registered?")
    for name, rest in (("contract", left.contract), ("tranche", left.tranche)):
        if rest is not None and rest < 0:
            raise RoomPassed(f"{name} would hold {rest} fen; is the rule 'caps' registered?")
    return left


# --- 4. parts -------------------------------------------------------------------------------------


def _spread(pieces: Sequence[_Piece], classes: Sequence[_Class], years: Sequence[YearResult]) -> list[int]:
    """Each line's part of its year's deduction; lines of no class get 0."""
    deductions = [0] * len(pieces)
    for result in years:
        mine = [one for one in classes if one.year == result.year]
        shares = largest_remainder(result.deduction_fen, [one.ceiling for one in mine])
        for one, share in zip(mine, shares, strict=True):
            parts = largest_remainder(share, [pieces[index].fee for index in one.members])
            for index, part in zip(one.members, parts, strict=True):
                deductions[index] = part
    return deductions


def _line(piece: _Piece, deduction: int, short: Mapping[int, tuple[str, ...]]) -> Line:
    entry, start, end, year, ruling, fee, device_ms = piece
    return Line(
        lease=entry.lease,
        model=entry.model,
        origin=entry.origin,
        start=start,
        end=end,
        year=year,
        device_ms=device_ms,
        fee_fen=fee,
        rate_bp=ruling.applied_bp,
        deduction_fen=deduction,
        payable_fen=fee - deduction,
        reasons=ruling.reasons if ruling.exclusions else short[year],
        clauses=ruling.clauses,
    )


def _notices(lines: Sequence[Line], context: Context) -> tuple[str, ...]:
    if not lines:
        return ()
    last = max(line.end for line in lines)
    return tuple(sorted({notice.code for notice in context.policy.notices if last > notice.lines_ending_after}))


# --- the published form ---------------------------------------------------------------------------


def document(settlement: Settlement) -> dict[str, Any]:
    """The output of `yisuan settle` (docs/schemas/settle-output.json) as plain values."""
    rooms = settlement.rooms_after
    after: dict[str, Any] = {
        "pool": {f"{year:04d}": fen for year, fen in rooms.pool.items()},
        "firm": {f"{year:04d}": fen for year, fen in rooms.firm.items()},
    }
    after |= {name: fen for name, fen in (("contract", rooms.contract), ("tranche", rooms.tranche)) if fen is not None}
    return {
        "version": 1,
        "policy": settlement.policy,
        "bundle_sha256": settlement.bundle_sha256,
        "notices": list(settlement.notices),
        "lines": [_line_document(line) for line in settlement.lines],
        "totals": {
            "fee_fen": settlement.totals.fee_fen,
            "ceiling_fen": settlement.totals.ceiling_fen,
            "deduction_fen": settlement.totals.deduction_fen,
            "payable_fen": settlement.totals.payable_fen,
        },
        "rooms_after": after,
    }


def _line_document(line: Line) -> dict[str, Any]:
    return {
        "lease": line.lease,
        "model": line.model,
        "origin": line.origin.value,
        "start": _timestamp(line.start),
        "end": _timestamp(line.end),
        "year": line.year,
        "device_ms": line.device_ms,
        "fee_fen": line.fee_fen,
        "rate_bp": line.rate_bp,
        "deduction_fen": line.deduction_fen,
        "payable_fen": line.payable_fen,
        "reasons": list(line.reasons),
        "clauses": list(line.clauses),
    }


def _timestamp(at: datetime) -> str:
    """UTC with milliseconds and Z. isoformat pads years below 1000 to four digits, strftime does not."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
