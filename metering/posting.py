"""Posting: a job's settlement becomes transfers, lines and a record, as the difference to what is posted already.

Interim and final settlement are the same act (design: settle(all so far) minus already posted), so that the sum of the
daily ones equals the settlement of the whole, and repeating one changes nothing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, Connection, RowMapping, bindparam, func, select

from adapters.accelerator import Origin, Source
from adapters.chain import canonical, instant
from metering import acts, allowance, billable, contracts, draws, linking, refunding, review, rooms, store, tranche
from metering.ledger import (
    AccountId,
    Code,
    Transfer,
    differences,
    firm_payable,
    provider_revenue,
    released,
    treasury_committed,
)
from metering.parameters.policy import REFILL
from metering.programme_schema import price_corrections, refunds
from metering.reading import Reading
from metering.schema import settlement_lines, settlements
from metering.settlement import Line, Settlement, document
from metering.statement import lines_of
from metering.year import local_year
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.schema import usage_records
from scheduler.usage import UsageKind

if TYPE_CHECKING:
    from metering.budget import VoucherBudget

SAMPLING = "review.sampling"  # ‰ of settlements that are looked at whatever they say
USED = (  # what a usage record says that settling asks for
    "job", "lease", "provider", "site", "vendor", "model", "source", "kind", "cause", "devices", "share_permille",
    "start_ms", "end_ms", "price_fen_per_device_hour",
)  # fmt: skip
REISSUE = "reissue"  # the answer under which what came back to a closed year may be drawn again by the job it came from


_JOBS: BindParameter[Any] = bindparam("jobs", expanding=True)
_USAGE = (
    select(*(usage_records.c[name] for name in USED))
    .where(usage_records.c.job.in_(_JOBS))
    .order_by(usage_records.c.seq)
)
_NUMBERS = (
    select(settlements.c.job, func.max(settlements.c.number))
    .where(settlements.c.job.in_(_JOBS))
    .group_by(settlements.c.job)
)
_REFUNDED = select(refunds.c.job, refunds.c.amount_fen).where(refunds.c.job.in_(_JOBS)).order_by(refunds.c.seq)
_CORRECTED = (
    select(price_corrections.c.lease, price_corrections.c.fen_per_device_hour)
    .where(price_corrections.c.lease.in_(bindparam("leases", expanding=True)))
    .order_by(price_corrections.c.seq)
)


def charge(budget: VoucherBudget, tx: Connection, jobs: Sequence[str], now: datetime, *, final: bool) -> None:
    """Settle everything each job has used so far and post what is new; final: nothing stays held afterwards.

    Jobs are settled in their order, as if one by one, and written together: the number of statements hardly grows with
    the batch. All of it happens or none.
    """
    reading, position = Reading(tx), read_position(tx, budget, jobs)
    position.prepare(reading, budget)
    simulated = [r["job"] for rows in position.usage.values() for r in rows if r["source"] == Source.SIMULATED.value]
    if simulated and store.ledger_mark(tx) != "demo":
        raise SimulatedUsage(simulated[0])
    done = [_settled(budget, reading, position, job, now, final=final) for job in jobs]
    store.post_all(tx, [transfer for one in done for transfer in one.transfers], now)
    journal.append_all(tx, settlements, [one.record for one in done])
    journal.append_all(tx, settlement_lines, [line for one in done for line in one.lines])
    for one in done:
        _reviews(tx, one.job, one.lines, now)
    if final:
        _issue(budget, tx, position, done, now)
    for one in done:  # last: what corrections and refunds brought back to a closed year has lapsed with it
        for year in one.years:
            if reading.closed(year):
                rooms.lapse_returned(tx, year, one.job, one.settlement, now)
    for firm in sorted({one.firm for one in done}):
        if reading.shares(firm):
            linking.gather_firm(tx, budget.policy, firm, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What settling some jobs needs of what is stored, read at once: everything by job."""

    asked: Mapping[str, tuple[str, Any, str]]
    usage: Mapping[str, list[dict[str, Any]]]
    holds: Mapping[str, list[RowMapping]]
    movements: Mapping[str, store.Movements]
    numbers: Mapping[str, int]
    refunds: Mapping[str, list[int]]

    @property
    def refunded(self) -> frozenset[str]:
        """The jobs of which something was returned."""
        return frozenset(self.refunds)

    def sources(self, job: str) -> dict[str, str]:
        """Each lease of the job → how its devices became known."""
        return {record["lease"]: record["source"] for record in self.usage[job]}

    def prepare(self, reading: Reading, budget: VoucherBudget) -> None:
        """What is known of the jobs' firms, of where they ran and of who served them is read at once."""
        firm_of = {job: firm for job, (firm, _, _) in self.asked.items()}
        served = {(firm_of[job], r["provider"]) for job, rows in self.usage.items() for r in rows}
        sites = {r["site"] for rows in self.usage.values() for r in rows}
        reading.prepare(set(firm_of.values()), sites, served, budget.policy.years)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """One job's settlement, not written yet."""

    job: str
    firm: str
    contract: str | None
    settlement: str
    number: int
    transfers: list[Transfer]
    record: dict[str, Any]
    lines: list[dict[str, Any]]
    years: tuple[int, ...]


def read_position(tx: Connection, budget: VoucherBudget, jobs: Sequence[str]) -> Position:
    """The jobs' position now."""
    usage: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
    asked = {"jobs": list(jobs)}
    for row in tx.execute(_USAGE, asked):
        usage[row[0]].append(dict(zip(USED, row, strict=True)))
    _correct_prices(tx, [record for records in usage.values() for record in records])
    returned: dict[str, list[int]] = {}
    for job, fen in tx.execute(_REFUNDED, asked):
        returned.setdefault(job, []).append(int(fen))
    return Position(
        asked=budget.asked_by_jobs(tx, jobs),
        usage=usage,
        holds=store.open_holds_of(tx, jobs),
        movements=store.movements_of_jobs(tx, jobs),
        numbers={job: int(last) for job, last in tx.execute(_NUMBERS, asked)},
        refunds=returned,
    )


def _settled(
    budget: VoucherBudget, reading: Reading, position: Position, job: str, now: datetime, *, final: bool
) -> Settled:
    firm, asked, spec_sha256 = position.asked[job]
    usage, provider_of = entries(position.usage[job], budget)
    usage = allowance.shown_usage(reading.tx, budget.policy, position.sources(job), usage)
    open_holds, movements = position.holds.get(job, []), position.movements.get(job, [])
    held: dict[int, int] = {}
    for row in open_holds:
        held[row["year"]] = held.get(row["year"], 0) + row["amount_fen"]
    posted = draws.drawn(movements)
    zone = budget.policy.zone
    shut = {year for year in {*posted, *draws.returned(movements)} if reading.closed(year)}
    undone = draws.returned(movements) if budget.policy.answer_at(REFILL, now) == REISSUE else {}
    undone = {year: undone.get(year, 0) for year in shut}
    under = billed_under(reading, job, firm, provider_of)
    # Holds of years the usage has not reached stay held: their part of a contract's room is not there for this one.
    reached = {y for entry in usage for y in _years(entry, budget)} if held and not final else set()
    usable = {year: fen for year, fen in held.items() if final or year in reached}
    state = budget.voucher_state(reading, firm, asked.voucher, under or asked.contract)
    frozen = state == "frozen"
    undone = {} if frozen else undone
    again = {year: draws.peak(movements, year) - posted.get(year, 0) if fen else 0 for year, fen in undone.items()}
    case = budget.case(
        reading, firm, asked, usage, posted=posted, held=usable, providers=provider_of, billed_under=under,
        returned=again if job in position.refunded else undone, now=now,
    )  # fmt: skip
    out = budget.settle(case)
    if job in position.refunded:
        issued = {year for year in budget.policy.years if tranche.in_use(budget.policy, year, now)} - shut
        left = _left(reading, firm, asked.contract, undone, frozen)
        out = _within_rooms(budget, case, out, left, movements, position.refunds[job], provider_of, issued)
    number = position.numbers.get(job, 0) + 1
    settlement = settlement_id(job, number)
    target: dict[int, int] = {}
    for line in out.lines:
        target[line.year] = target.get(line.year, 0) + line.deduction_fen
    over = {year for year in held if final or year < local_year(now, zone)}
    missing = {year: target.get(year, 0) - posted.get(year, 0) for year in {*target, *posted}}
    transfers = draws.draw(budget, reading, open_holds, job, firm, asked.contract, settlement, missing, over, shut, now)
    reading.gave(firm, asked.contract, released(transfers, draws.pending(open_holds, transfers)))
    transfers += _cash(movements, job, firm, settlement, out.lines, provider_of)
    record = {
        "id": settlement,
        "job": job,
        "firm": firm,
        "number": number,
        "final": int(final),
        "settled_at_ms": to_ms(now),
        "policy": out.policy,
        "bundle_sha256": out.bundle_sha256,
        "spec_sha256": spec_sha256,
        "voucher": state,
        "case_json": canonical(case).decode(),
        "notices": _texts(out.notices),
        "fee_fen": out.totals.fee_fen,
        "ceiling_fen": out.totals.ceiling_fen,
        "deduction_fen": out.totals.deduction_fen,
        "payable_fen": out.totals.payable_fen,
    }
    return Settled(
        job=job, firm=firm, contract=asked.contract, settlement=settlement, number=number, transfers=transfers,
        record=record, lines=_lines(settlement, out.lines, provider_of), years=tuple(sorted({*target, *posted})),
    )  # fmt: skip


def _issue(budget: VoucherBudget, tx: Connection, position: Position, done: Sequence[Settled], now: datetime) -> None:
    """Final settlements are issued, those they replace corrected, refunds follow them, and the sample is drawn."""
    for one in done:
        if one.job in position.refunded:
            refunding.post(tx, one.job, one.firm, one.contract, one.settlement, now)
    before = {settlement_id(one.job, one.number - 1): one for one in done if one.number > 1}
    known = acts.states_of(tx, "settlement", list(before))
    for settlement, one in before.items():
        if settlement in known:
            acts.must(tx, "settlement", settlement, "correct", now, body={"by": one.settlement})
    acts.must_begin(tx, "settlement", [one.settlement for one in done], "issue", now)
    share = budget.policy.value_at(SAMPLING, now) if SAMPLING in budget.policy.parameters else None
    for one in done:
        if review.sampled(one.settlement, int(share or 0)):
            told = {"job": one.job, "firm": one.firm}
            store.open_review(tx, code="SAMPLED", subject=one.settlement, facts=told, now=now)


def differs(budget: VoucherBudget, tx: Connection, row: Mapping[Any, Any]) -> bool:
    """True when today's facts (eligibility, papers, origin, prices) would settle this settlement's usage otherwise.

    The rooms are those it was settled with: what others drew since is no reason to settle again.
    """
    position = read_position(tx, budget, [row["job"]])
    firm, asked, _ = position.asked[row["job"]]
    usage, provider_of = entries(position.usage[row["job"]], budget)
    usage = allowance.shown_usage(tx, budget.policy, position.sources(row["job"]), usage)
    reading = Reading(tx)
    under = billed_under(reading, row["job"], firm, provider_of)
    case = budget.case(reading, firm, asked, usage, posted={}, held={}, providers=provider_of, billed_under=under)
    case["rooms"] = json.loads(row["case_json"])["rooms"]
    fresh = [{**line, "provider": provider_of[line["lease"]]} for line in budget.settle_case(case)["lines"]]
    if row["voucher"] == "frozen" and budget.voucher_state(reading, firm, asked.voucher) != "frozen":
        return True  # settled while frozen: its rooms were none then
    stored = lines_of(tx, row["id"])
    return fresh != stored


def billed_under(reading: Reading, job: str, firm: str, provider_of: Mapping[str, str]) -> str | None:
    """The contract of the job's invoice; None before there is one, and where no other support makes it matter."""
    if not reading.supported(firm):
        return None
    for provider in sorted(set(provider_of.values())):
        number = contracts.invoice_of_job(reading.tx, job, provider)
        if number is not None:
            return str((contracts.invoice(reading.tx, number) or {})["contract"])
    return None


def settlement_id(job: str, number: int) -> str:
    """The id of a job's n-th settlement."""
    return f"settlement:{job}:{number}"


def entries(records: Sequence[Mapping[str, Any]], budget: VoucherBudget) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """billable.entries by the budget's origin register."""
    return billable.entries(records, budget.register)


def _correct_prices(tx: Connection, records: Sequence[dict[str, Any]]) -> None:
    """Leases whose price was corrected carry the latest correction."""
    leases = sorted({record["lease"] for record in records})
    found = {lease: fen for lease, fen in tx.execute(_CORRECTED, {"leases": leases})}  # noqa: C416 - the last one stays
    for record in records:
        if record["lease"] in found and record["kind"] == UsageKind.RUN.value:
            record["price_fen_per_device_hour"] = found[record["lease"]]


def _years(entry: Mapping[str, Any], budget: VoucherBudget) -> range:
    first, last = (
        local_year(instant(entry["start"]), budget.policy.zone),
        local_year(instant(entry["end"]), budget.policy.zone),
    )
    return range(first, last + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a job may draw beyond what it has drawn and holds, by year. contract: over all years, None without one."""

    firm: Mapping[int, int]
    pool: Mapping[int, int]
    contract: int | None


def _left(reading: Reading, firm: str, contract: str | None, undone: Mapping[int, int], frozen: bool) -> Left:
    if frozen:
        return Left(firm={}, pool={}, contract=None if contract is None else 0)
    found = reading.rooms(firm)
    years = {*found["firm"], *found["pool"], *undone}
    firm_years = {year: found["firm"].get(year, 0) + undone.get(year, 0) for year in years}
    pool_years = {year: found["pool"].get(year, 0) + undone.get(year, 0) for year in years}
    return Left(firm=firm_years, pool=pool_years, contract=None if contract is None else reading.contract(contract))


def _within_rooms(
    budget: VoucherBudget,
    case: dict[str, Any],
    out: Settlement,
    left: Left,
    movements: store.Movements,
    amounts: Sequence[int],
    provider_of: Mapping[str, str],
    issued: Collection[int],
) -> Settlement:
    """The settlement of a job with refunds, in the largest rooms in which what it draws net of them is there to be drawn.

    What refunds brought back may be drawn by others since, and a correction that shrinks a refund's share takes from it.
    issued: years drawn through tranches, where a draw takes from the tranche and a refund's share moves in the pool.
    """
    drawn, back = draws.drawn(movements), draws.refunded(movements)

    def excess(found: Settlement, year: int) -> int:
        lines = [{**line, "provider": provider_of[line["lease"]]} for line in document(found)["lines"]]
        parts = refunding.shares_of(refunding.classes_of(lines), amounts)
        gross = sum(p.billed.deduction_fen for p in parts if p.billed.year == year)
        net = gross - sum(p.voucher_fen for p in parts if p.billed.year == year)
        pool = left.pool.get(year, 0)
        if year in issued:
            pool += max(gross - drawn.get(year, 0), 0)
        most = min(left.firm.get(year, 0), pool)
        most = min(most, left.contract) if left.contract is not None else most
        return net - (drawn.get(year, 0) - back.get(year, 0)) - most

    def settled(year: int, room: int) -> Settlement:
        for kind in ("pool", "firm"):
            case["rooms"][kind][str(year)] = room
        return budget.settle(case)

    for year in sorted({line.year for line in out.lines}):
        fits, above = -1, sum(line.deduction_fen for line in out.lines if line.year == year)
        if excess(out, year) <= 0:
            continue
        while above - fits > 1:  # the more is drawn the more is left net of refunds, so the largest is found by halving
            room = (fits + above) // 2
            fits, above = (room, above) if excess(settled(year, room), year) <= 0 else (fits, room)
        out = settled(year, max(fits, 0))
    return out


def _cash(
    movements: store.Movements,
    job: str,
    firm: str,
    settlement: str,
    lines: Sequence[Line],
    provider_of: Mapping[str, str],
) -> list[Transfer]:
    """What the firm and the treasury owe for the lines, as the difference to what they were charged before."""
    sums: dict[tuple[str, int], list[int]] = {}  # (provider, year): payable and deduction
    for line in lines:
        both = sums.setdefault((provider_of[line.lease], line.year), [0, 0])
        both[0] += line.payable_fen
        both[1] += line.deduction_fen
    fees: dict[tuple[AccountId, AccountId], int] = {}
    subsidies: dict[tuple[AccountId, AccountId], int] = {}
    for (provider, year), (payable, deduction) in sums.items():
        revenue = provider_revenue(provider)
        owed = (firm_payable(firm), revenue)
        fees[owed] = fees.get(owed, 0) + payable
        subsidies[treasury_committed(year), revenue] = deduction
    batch: list[Transfer] = []
    for name, target, code, back in (
        ("fee", fees, Code.FEE, Code.REVERSE_FEE),
        ("subsidy", subsidies, Code.SUBSIDY, Code.REVERSE_SUBSIDY),
    ):
        for pair, amount in differences(target, store.net_of(movements, (code,), (back,))).items():
            key = f"{settlement}:{name}:{pair[0]}:{pair[1]}"
            batch += store.signed(key, code, back, pair, amount, job, settlement)
    return batch


def _lines(settlement: str, lines: Sequence[Line], provider_of: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "settlement": settlement,
            "number": index,
            "lease": line.lease,
            "provider": provider_of[line.lease],
            "model": line.model,
            "origin": line.origin.value,
            "start_ms": to_ms(line.start),
            "end_ms": to_ms(line.end),
            "year": line.year,
            "device_ms": line.device_ms,
            "fee_fen": line.fee_fen,
            "rate_bp": line.rate_bp,
            "deduction_fen": line.deduction_fen,
            "payable_fen": line.payable_fen,
            "reasons": _texts(line.reasons),
            "clauses": _texts(line.clauses),
        }
        for index, line in enumerate(lines, start=1)
    ]


@functools.lru_cache(maxsize=1024)
def _texts(codes: tuple[str, ...]) -> str:
    """A few codes or clauses as they are stored; there are few different ones."""
    return canonical(codes).decode()


def _reviews(tx: Connection, job: str, lines: Sequence[Mapping[str, Any]], now: datetime) -> None:
    for model in sorted({line["model"] for line in lines if line["origin"] == _UNDETERMINED}):
        store.open_review(tx, code="ORIGIN_UNDETERMINED", subject=model, facts={"job": job, "model": model}, now=now)


_UNDETERMINED = Origin.UNDETERMINED.value


class SimulatedUsage(Exception):
    """Simulated devices reached a ledger that is not marked demo. Nothing is settled."""

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job} used simulated devices; they can only be settled in a ledger marked demo")
