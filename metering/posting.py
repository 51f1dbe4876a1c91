"""Posting: a job's settlement becomes transfers, lines and a record, as the difference to what is posted already.

Interim and final settlement are the same act (design: settle(all so far) minus already posted), so that the sum of the
daily ones equals the settlement of the whole, and repeating one changes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, RowMapping, func, select

from adapters.accelerator import Origin, Source
from adapters.chain import canonical, instant, timestamp
from metering import acts, contracts, refunding, review, rooms, store
from metering.ledger import (
    PROGRAMME,
    AccountId,
    Code,
    Phase,
    Transfer,
    differences,
    draw_pairs,
    firm_payable,
    provider_revenue,
    treasury_committed,
)
from metering.programme_schema import price_corrections, refunds
from metering.reading import Reading
from metering.schema import settlement_lines, settlements
from metering.statement import lines_of
from metering.year import local_year
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.schema import usage_records
from scheduler.usage import UsageKind

if TYPE_CHECKING:
    from metering.budget import VoucherBudget

SAMPLING = "review.sampling"  # ‰ of settlements that are looked at whatever they say
DRAWS, DRAWS_BACK = (Code.DRAW,), (Code.REVERSE_DRAW,)


def charge(budget: VoucherBudget, tx: Connection, jobs: Sequence[str], now: datetime, *, final: bool) -> None:
    """Settle everything each job has used so far and post what is new; final: nothing stays held afterwards.

    Jobs are settled in their order, as if one by one, and written together: the number of statements hardly grows with
    the batch. All of it happens or none.
    """
    reading, position = Reading(tx), read_position(tx, budget, jobs)
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
            if reading.state("year", f"{PROGRAMME}:{year}") == "closed":
                rooms.lapse(tx, year, f"{one.settlement}:lapse", now)


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
    query = select(usage_records).where(usage_records.c.job.in_(jobs)).order_by(usage_records.c.seq)
    for row in tx.execute(query).mappings():
        usage[row["job"]].append(dict(row))
    _correct_prices(tx, [record for records in usage.values() for record in records])
    counted = select(settlements.c.job, func.max(settlements.c.number).label("last")).where(settlements.c.job.in_(jobs))
    returned: dict[str, list[int]] = {}
    for job, fen in tx.execute(
        select(refunds.c.job, refunds.c.amount_fen).where(refunds.c.job.in_(jobs)).order_by(refunds.c.seq)
    ):
        returned.setdefault(job, []).append(int(fen))
    return Position(
        asked=budget.asked_by_jobs(tx, jobs),
        usage=usage,
        holds=store.open_holds_of(tx, jobs),
        movements=store.movements_of_jobs(tx, jobs),
        numbers={row.job: int(row.last) for row in tx.execute(counted.group_by(settlements.c.job))},
        refunds=returned,
    )


def _settled(
    budget: VoucherBudget, reading: Reading, position: Position, job: str, now: datetime, *, final: bool
) -> Settled:
    firm, asked, spec_sha256 = position.asked[job]
    usage, provider_of = entries(position.usage[job], budget)
    open_holds, movements = position.holds.get(job, []), position.movements.get(job, [])
    held: dict[int, int] = {}
    for row in open_holds:
        held[row["year"]] = held.get(row["year"], 0) + row["amount_fen"]
    posted = _drawn(movements, firm)
    under = billed_under(reading, job, firm, provider_of)
    # Holds of years the usage has not reached stay held: their part of a contract's room is not there for this one.
    reached = {y for entry in usage for y in _years(entry, budget)}
    usable = {year: fen for year, fen in held.items() if final or year in reached}
    case = budget.case(
        reading, firm, asked, usage, posted=posted, held=usable, providers=provider_of, billed_under=under
    )
    out = budget.settle_case(case)
    if job in position.refunded:
        frozen = budget.voucher_state(reading, firm, asked.voucher, under or asked.contract) == "frozen"
        out = _within_rooms(
            budget, reading, case, out, firm, asked.contract, movements, position.refunds[job], provider_of, frozen
        )
    number = position.numbers.get(job, 0) + 1
    settlement = settlement_id(job, number)
    target: dict[int, int] = {}
    for line in out["lines"]:
        target[line["year"]] = target.get(line["year"], 0) + line["deduction_fen"]
    over = {year for year in held if final or year < local_year(now, budget.policy.zone)}
    transfers, still = _draw(
        budget, reading.tx, open_holds, job, firm, asked.contract, settlement, target, posted, over
    )
    for year in sorted({*target, *posted, *held}):
        drawn = target.get(year, 0) - posted.get(year, 0)
        reading.gave(firm, asked.contract, year, drawn + still.get(year, 0) - held.get(year, 0))
    transfers += _cash(movements, job, firm, settlement, out["lines"], provider_of)
    record = {
        "id": settlement,
        "job": job,
        "firm": firm,
        "number": number,
        "final": int(final),
        "settled_at_ms": to_ms(now),
        "policy": out["policy"],
        "bundle_sha256": out["bundle_sha256"],
        "spec_sha256": spec_sha256,
        "voucher": budget.voucher_state(reading, firm, asked.voucher, under or asked.contract),
        "case_json": canonical(case).decode(),
        "notices": canonical(out["notices"]).decode(),
        **{name: out["totals"][name] for name in ("fee_fen", "ceiling_fen", "deduction_fen", "payable_fen")},
    }
    return Settled(
        job=job, firm=firm, contract=asked.contract, settlement=settlement, number=number, transfers=transfers,
        record=record, lines=_lines(settlement, out["lines"], provider_of), years=tuple(sorted({*target, *posted})),
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


def _correct_prices(tx: Connection, records: Sequence[dict[str, Any]]) -> None:
    """Leases whose price was corrected carry the latest correction."""
    found: dict[str, int] = {}
    leases = sorted({record["lease"] for record in records})
    query = select(price_corrections).where(price_corrections.c.lease.in_(leases)).order_by(price_corrections.c.seq)
    for row in tx.execute(query).mappings():
        found[row["lease"]] = row["fen_per_device_hour"]
    for record in records:
        if record["lease"] in found and record["kind"] == UsageKind.RUN.value:
            record["price_fen_per_device_hour"] = found[record["lease"]]


def entries(records: Sequence[Mapping[str, Any]], budget: VoucherBudget) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Usage entries of a case from stored records, and each lease's provider.

    RUN records of a lease that touch are one entry, as if no midnight had cut them; a lease the platform lost is priced
    0 throughout; an entry is cut where the origin register changes. STARTING and SUSPENDED are recorded, not settled.
    """
    lost = {r["lease"] for r in records if r["kind"] == UsageKind.LOST.value}
    merged: list[dict[str, Any]] = []
    for record in records:
        if record["kind"] not in (UsageKind.RUN.value, UsageKind.LOST.value):
            continue
        price = 0 if record["lease"] in lost else record["price_fen_per_device_hour"]
        last = merged[-1] if merged else None
        same = last is not None and all(last[k] == record[k] for k in ("lease", "model", "devices", "share_permille"))
        if last is not None and same and last["price"] == price and last["end_ms"] == record["start_ms"]:
            last["end_ms"] = record["end_ms"]
        else:
            merged.append({**record, "price": price})
    found = []
    for record in merged:
        for start, end in _origin_cuts(record, budget):
            origin = budget.origin(record["vendor"], record["model"], start)
            found.append(
                {
                    "lease": record["lease"],
                    "model": record["model"],
                    "origin": origin.value,
                    "devices": record["devices"],
                    "share_permille": record["share_permille"],
                    "site": record["site"],
                    "start": timestamp(start),
                    "end": timestamp(end),
                    "price_fen_per_device_hour": record["price"],
                }
            )
    return found, {r["lease"]: r["provider"] for r in records}


def _origin_cuts(record: Mapping[str, Any], budget: VoucherBudget) -> Iterable[tuple[datetime, datetime]]:
    start, end = from_ms(record["start_ms"]), from_ms(record["end_ms"])
    edges = [e for e in budget.register.edges(record["vendor"], record["model"]) if start < e < end]
    points = [start, *sorted(edges), end]
    return itertools.pairwise(points)


def _drawn(movements: store.Movements, firm: str) -> dict[int, int]:
    moved = store.net_of(movements, DRAWS, DRAWS_BACK)
    prefix = f"room:{firm}:"
    return {int(d.rsplit(":", 1)[1]): fen for (d, _), fen in moved.items() if d.startswith(prefix)}


def _years(entry: Mapping[str, Any], budget: VoucherBudget) -> range:
    first, last = (
        local_year(instant(entry["start"]), budget.policy.zone),
        local_year(instant(entry["end"]), budget.policy.zone),
    )
    return range(first, last + 1)


def _within_rooms(
    budget: VoucherBudget,
    reading: Reading,
    case: dict[str, Any],
    out: dict[str, Any],
    firm: str,
    contract: str | None,
    movements: store.Movements,
    amounts: Sequence[int],
    provider_of: Mapping[str, str],
    frozen: bool,
) -> dict[str, Any]:
    """The settlement of a job with refunds, in the largest rooms in which what it draws net of them is there to be drawn.

    What refunds brought back may be drawn by others since, and a correction that shrinks a refund's share takes from it.
    """
    drawn, back, rooms_left = _drawn(movements, firm), _refunded(movements, firm), reading.rooms(firm)

    def excess(found: Mapping[str, Any], year: int) -> int:
        lines = [{**line, "provider": provider_of[line["lease"]]} for line in found["lines"]]
        parts = refunding.shares_of(refunding.classes_of(lines), amounts)
        net = sum(p.billed.deduction_fen - p.voucher_fen for p in parts if p.billed.year == year)
        left = min(rooms_left["firm"].get(year, 0), rooms_left["pool"].get(year, 0))
        left = min(left, reading.contract(contract)) if contract is not None else left
        left = 0 if frozen else left
        return net - (drawn.get(year, 0) - back.get(year, 0)) - left

    def settled(year: int, room: int) -> dict[str, Any]:
        for kind in ("pool", "firm"):
            case["rooms"][kind][str(year)] = room
        return budget.settle_case(case)

    for year in sorted({line["year"] for line in out["lines"]}):
        fits, above = -1, sum(line["deduction_fen"] for line in out["lines"] if line["year"] == year)
        if excess(out, year) <= 0:
            continue
        while above - fits > 1:  # the more is drawn the more is left net of refunds, so the largest is found by halving
            room = (fits + above) // 2
            fits, above = (room, above) if excess(settled(year, room), year) <= 0 else (fits, room)
        out = settled(year, max(fits, 0))
    return out


def _refunded(movements: store.Movements, firm: str) -> dict[int, int]:
    """What refunds brought back to the firm's rooms: there already, so no room of this job besides."""
    found: dict[int, int] = {}
    prefix = f"room:{firm}:"
    for code, debit, credit, fen in movements:
        if code is Code.REFUND_DRAW and prefix in (debit[: len(prefix)], credit[: len(prefix)]):
            room, sign = (credit, 1) if credit.startswith(prefix) else (debit, -1)
            year = int(room.rsplit(":", 1)[1])
            found[year] = found.get(year, 0) + sign * fen
    return found


def _draw(
    budget: VoucherBudget,
    tx: Connection,
    open_holds: Sequence[Mapping[Any, Any]],
    job: str,
    firm: str,
    contract: str | None,
    settlement: str,
    target: Mapping[int, int],
    posted: Mapping[int, int],
    over: Collection[int],
) -> tuple[list[Transfer], dict[int, int]]:
    """What takes the deduction from the rooms, from the holds first and the rest at once; and what stays held.

    over: years of which nothing more will be used, so that their holds are released.
    """
    missing = {year: target.get(year, 0) - posted.get(year, 0) for year in {*target, *posted}}
    batch: list[Transfer] = []
    still: dict[int, int] = {}
    for hold in open_holds:
        year = hold["year"]
        used = min(max(missing.get(year, 0), 0), hold["amount_fen"])
        rest = hold["amount_fen"] - used
        if used or year in over:
            phase = Phase.POST if used else Phase.VOID
            batch += budget.resolution(tx, hold, used, phase, settlement)
            if rest and year not in over:
                batch += budget.renewal(tx, hold, rest)
                still[year] = still.get(year, 0) + rest
        else:
            still[year] = still.get(year, 0) + hold["amount_fen"]
        missing[year] = missing.get(year, 0) - used
    for year, amount in sorted(missing.items()):
        for kind, room, spent in draw_pairs(firm, year, contract):
            key = f"{settlement}:draw:{year}:{kind}"
            batch += store.signed(key, Code.DRAW, Code.REVERSE_DRAW, (room, spent), amount, job, settlement)
    return batch, still


def _cash(
    movements: store.Movements,
    job: str,
    firm: str,
    settlement: str,
    lines: Sequence[Mapping[str, Any]],
    provider_of: Mapping[str, str],
) -> list[Transfer]:
    """What the firm and the treasury owe for the lines, as the difference to what they were charged before."""
    fees: dict[tuple[AccountId, AccountId], int] = {}
    subsidies: dict[tuple[AccountId, AccountId], int] = {}
    for line in lines:
        revenue = provider_revenue(provider_of[line["lease"]])
        owed, paid = (firm_payable(firm), revenue), (treasury_committed(line["year"]), revenue)
        fees[owed] = fees.get(owed, 0) + line["payable_fen"]
        subsidies[paid] = subsidies.get(paid, 0) + line["deduction_fen"]
    batch: list[Transfer] = []
    for name, target, code, back in (
        ("fee", fees, Code.FEE, Code.REVERSE_FEE),
        ("subsidy", subsidies, Code.SUBSIDY, Code.REVERSE_SUBSIDY),
    ):
        for pair, amount in differences(target, store.net_of(movements, (code,), (back,))).items():
            key = f"{settlement}:{name}:{pair[0]}:{pair[1]}"
            batch += store.signed(key, code, back, pair, amount, job, settlement)
    return batch


def _lines(settlement: str, lines: Sequence[Mapping[str, Any]], provider_of: Mapping[str, str]) -> list[dict[str, Any]]:
    copied = ("lease", "model", "origin", "year", "device_ms", "fee_fen", "rate_bp", "deduction_fen", "payable_fen")
    return [
        {
            "settlement": settlement,
            "number": index,
            "provider": provider_of[line["lease"]],
            "start_ms": to_ms(instant(line["start"])),
            "end_ms": to_ms(instant(line["end"])),
            "reasons": canonical(list(line["reasons"])).decode(),
            "clauses": canonical(list(line["clauses"])).decode(),
            **{name: line[name] for name in copied},
        }
        for index, line in enumerate(lines, start=1)
    ]


def _reviews(tx: Connection, job: str, lines: Sequence[Mapping[str, Any]], now: datetime) -> None:
    for model in sorted({line["model"] for line in lines if line["origin"] == Origin.UNDETERMINED.value}):
        store.open_review(tx, code="ORIGIN_UNDETERMINED", subject=model, facts={"job": job, "model": model}, now=now)


class SimulatedUsage(Exception):
    """Simulated devices reached a ledger that is not marked demo. Nothing is settled."""

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job} used simulated devices; they can only be settled in a ledger marked demo")
