"""Posting: a job's settlement becomes transfers, lines and a record, as the difference to what is posted already.

Interim and final settlement are the same act (design: settle(all so far) minus already posted), so that the sum of the
daily ones equals the settlement of the whole, and repeating one changes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select

from adapters.accelerator import Origin, Source
from adapters.chain import canonical, instant, timestamp
from metering import acts, refunding, review, rooms, store
from metering.ledger import (
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
from metering.lifecycle import NONE
from metering.programme_schema import price_corrections
from metering.schema import settlement_lines, settlements
from metering.statement import lines_of
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.schema import usage_records
from scheduler.usage import UsageKind

if TYPE_CHECKING:
    from metering.budget import VoucherBudget

SAMPLING = "review.sampling"  # ‰ of settlements that are looked at whatever they say
DRAWS, DRAWS_BACK = (Code.DRAW,), (Code.REVERSE_DRAW,)


def charge(budget: VoucherBudget, tx: Connection, job: str, now: datetime, *, final: bool) -> None:
    """Settle everything the job has used so far and post what is new; final: nothing stays held afterwards."""
    firm, asked, spec_sha256 = budget.asked_by_job(tx, job)
    records = [dict(r) for r in tx.execute(_usage_of(job)).mappings()]
    _correct_prices(tx, records)
    if any(r["source"] == Source.SIMULATED.value for r in records) and store.ledger_mark(tx) != "demo":
        raise SimulatedUsage(job)
    usage, provider_of = entries(records, budget)
    open_holds = store.open_holds(tx, job)
    held: dict[int, int] = {}
    for row in open_holds:
        held[row["year"]] = held.get(row["year"], 0) + row["amount_fen"]
    movements = store.movements_of(tx, job)
    posted = _drawn(movements, firm)
    case = budget.case(tx, firm, asked, usage, posted=posted, held=held, providers=provider_of)
    out = budget.settle_case(case)
    number = int(tx.execute(select(func.count()).where(settlements.c.job == job)).scalar_one()) + 1
    settlement = settlement_id(job, number)
    target: dict[int, int] = {}
    for line in out["lines"]:
        target[line["year"]] = target.get(line["year"], 0) + line["deduction_fen"]
    batch = _draw(budget, tx, open_holds, job, firm, asked.contract, settlement, target, posted, final=final)
    batch += _cash(movements, job, firm, settlement, out["lines"], provider_of)
    store.post_all(tx, batch, now)
    _record(tx, settlement, job, firm, number, final, case, out, provider_of, spec_sha256, now,
            budget.voucher_state(tx, firm, asked.voucher))  # fmt: skip
    _reviews(tx, job, out["lines"], now)
    for year in sorted({*target, *posted}):
        if rooms.year_closed(tx, year):
            rooms.lapse(tx, year, f"{settlement}:lapse", now)
    if final:
        refunding.post(tx, job, firm, asked.contract, settlement, now)
        before = settlement_id(job, number - 1)
        if acts.state_of(tx, "settlement", before) != NONE:
            acts.must(tx, "settlement", before, "correct", now, body={"by": settlement})
        acts.must(tx, "settlement", settlement, "issue", now)
        share = budget.policy.value_at(SAMPLING, now) if SAMPLING in budget.policy.parameters else None
        if review.sampled(settlement, int(share or 0)):
            store.open_review(tx, code="SAMPLED", subject=settlement, facts={"job": job, "firm": firm}, now=now)


def differs(budget: VoucherBudget, tx: Connection, row: Mapping[Any, Any]) -> bool:
    """True when today's facts (eligibility, papers, origin, prices) would settle this settlement's usage otherwise.

    The rooms are those it was settled with: what others drew since is no reason to settle again.
    """
    firm, asked, _ = budget.asked_by_job(tx, row["job"])
    records = [dict(r) for r in tx.execute(_usage_of(row["job"])).mappings()]
    _correct_prices(tx, records)
    usage, provider_of = entries(records, budget)
    case = budget.case(tx, firm, asked, usage, posted={}, held={}, providers=provider_of)
    case["rooms"] = json.loads(row["case_json"])["rooms"]
    fresh = [{**line, "provider": provider_of[line["lease"]]} for line in budget.settle_case(case)["lines"]]
    stored = lines_of(tx, row["id"])
    return fresh != stored


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


def _usage_of(job: str) -> Any:
    return select(usage_records).where(usage_records.c.job == job).order_by(usage_records.c.seq)


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


Movements = Sequence[tuple[Code, AccountId, AccountId, int]]


def _drawn(movements: Movements, firm: str) -> dict[int, int]:
    moved = store.net_of(movements, DRAWS, DRAWS_BACK)
    prefix = f"room:{firm}:"
    return {int(d.rsplit(":", 1)[1]): fen for (d, _), fen in moved.items() if d.startswith(prefix)}


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
    *,
    final: bool,
) -> list[Transfer]:
    """What takes the deduction from the rooms: from the holds first, the rest at once."""
    missing = {year: target.get(year, 0) - posted.get(year, 0) for year in {*target, *posted}}
    batch: list[Transfer] = []
    for hold in open_holds:
        year = hold["year"]
        used = min(max(missing.get(year, 0), 0), hold["amount_fen"])
        rest = hold["amount_fen"] - used
        if used or final:
            phase = Phase.POST if used else Phase.VOID
            batch += budget.resolution(tx, hold, used, phase, settlement)
            if rest and not final:
                batch += budget.renewal(tx, hold, rest)
        missing[year] = missing.get(year, 0) - used
    for year, amount in sorted(missing.items()):
        for kind, room, spent in draw_pairs(firm, year, contract):
            key = f"{settlement}:draw:{year}:{kind}"
            batch += store.signed(key, Code.DRAW, Code.REVERSE_DRAW, (room, spent), amount, job, settlement)
    return batch


def _cash(
    movements: Movements,
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


def _record(
    tx: Connection,
    settlement: str,
    job: str,
    firm: str,
    number: int,
    final: bool,
    case: Mapping[str, Any],
    out: Mapping[str, Any],
    provider_of: Mapping[str, str],
    spec_sha256: str,
    now: datetime,
    voucher: str,
) -> None:
    values = {
        "id": settlement,
        "job": job,
        "firm": firm,
        "number": number,
        "final": int(final),
        "settled_at_ms": to_ms(now),
        "policy": out["policy"],
        "bundle_sha256": out["bundle_sha256"],
        "spec_sha256": spec_sha256,
        "voucher": voucher,
        "case_json": canonical(dict(case)).decode(),
        "notices": canonical(list(out["notices"])).decode(),
        **{name: out["totals"][name] for name in ("fee_fen", "ceiling_fen", "deduction_fen", "payable_fen")},
    }
    journal.append(tx, settlements, values)
    copied = ("lease", "model", "origin", "year", "device_ms", "fee_fen", "rate_bp", "deduction_fen", "payable_fen")
    lines = [
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
        for index, line in enumerate(out["lines"], start=1)
    ]
    journal.append_all(tx, settlement_lines, lines)


def _reviews(tx: Connection, job: str, lines: Sequence[Mapping[str, Any]], now: datetime) -> None:
    for model in sorted({line["model"] for line in lines if line["origin"] == Origin.UNDETERMINED.value}):
        store.open_review(tx, code="ORIGIN_UNDETERMINED", subject=model, facts={"job": job, "model": model}, now=now)


class SimulatedUsage(Exception):
    """Simulated devices reached a ledger that is not marked demo. Nothing is settled."""

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job} used simulated devices; they can only be settled in a ledger marked demo")
