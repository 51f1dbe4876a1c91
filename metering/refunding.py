"""Refunding: refunds and rebates on record, and the transfers that bring the firm and the pool their own shares back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Connection, select

from metering import acts, clawback, rooms, store
from metering.acts import Actor
from metering.ledger import (
    AccountId,
    Code,
    Transfer,
    draw_pairs,
    firm_payable,
    provider_revenue,
    treasury_committed,
)
from metering.programme_schema import refunds
from metering.refund import Billed, RefundTooLarge, Returned, split
from metering.schema import settlement_lines, settlements
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.refusal import Refusal
from scheduler.schema import jobs

KINDS = ("refund", "rebate")
IN_CLEARING = ("submitted", "approved")


def refund(
    tx: Connection,
    *,
    job: str,
    amount_fen: int,
    kind: str,
    reason: str,
    actor: Actor,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """The refund is on record and posted: the firm's share to the firm, the voucher's to the rooms of its own years.

    amount_fen: of the fee, at most what is still charged. Refused before the final settlement, and while a batch that
    holds the settlement waits for its payment.
    """
    if not reason.strip():
        return Refusal(code="REASON_MISSING", facts={"kind": kind, "act": "refund"})
    if amount_fen <= 0:
        return Refusal(code="AMOUNT_NOT_POSITIVE", facts={"amount_fen": amount_fen})
    row = (
        tx.execute(select(settlements).where(settlements.c.job == job).order_by(settlements.c.number.desc()))
        .mappings()
        .first()
    )
    if row is None or not row["final"]:
        return Refusal(code="NOT_SETTLED", facts={"job": job})
    sellers = {item.provider for item in billed(tx, row["id"])}
    if actor.role == "provider" and len(sellers) > 1:
        return Refusal(code="JOB_OF_TWO_PROVIDERS", facts={"job": job})
    state = acts.state_of(tx, "settlement", row["id"])
    if state in IN_CLEARING:
        return Refusal(code="IN_CLEARING", facts={"settlement": row["id"], "state": state})
    try:
        split(billed(tx, row["id"]), [*amounts_of(tx, job), amount_fen])
    except RefundTooLarge:
        left = max(0, row["fee_fen"] - sum(amounts_of(tx, job)))
        return Refusal(code="REFUND_TOO_LARGE", facts={"amount_fen": amount_fen, "charged_fen": left})
    identity = f"refund_{uuid_utils.uuid7()}"
    values = {
        "id": identity,
        "job": job,
        "kind": kind,
        "amount_fen": amount_fen,
        "reason": reason,
        "cites": row["id"],
        "recorded_at_ms": to_ms(now),
        "recorded_by": actor.by,
    }
    journal.append(tx, refunds, values)
    spec = json.loads(tx.execute(select(jobs.c.spec).where(jobs.c.id == job)).scalar_one())
    parts = post(tx, job, row["firm"], spec.get("money", {}).get("contract"), row["id"], now)
    for year in sorted({part.billed.year for part in parts}):
        if rooms.year_closed(tx, year):
            rooms.lapse(tx, year, f"refund:{row['id']}:{len(amounts_of(tx, job))}:{year}", now)
    clawback.open_for(tx, job, "REFUNDED", now)
    return {
        "id": identity,
        "job": job,
        "settlement": row["id"],
        "returned_fen": sum(part.fee_fen for part in parts),
        "firm_fen": sum(part.firm_fen for part in parts),
        "voucher_fen": sum(part.voucher_fen for part in parts),
    }


def post(
    tx: Connection, job: str, firm: str, contract: str | None, settlement: str, now: datetime
) -> tuple[Returned, ...]:
    """What the job's refunds come to under this settlement is posted, as the difference to what was posted before."""
    amounts = amounts_of(tx, job)
    if not amounts:
        return ()
    parts = shares(tx, job, settlement)
    target: dict[Code, dict[tuple[AccountId, AccountId], int]] = {
        Code.REFUND_DRAW: {},
        Code.REFUND_FEE: {},
        Code.REFUND_SUBSIDY: {},
    }
    for part in parts:
        revenue = provider_revenue(part.billed.provider)
        _add(target[Code.REFUND_FEE], (revenue, firm_payable(firm)), part.firm_fen)
        _add(target[Code.REFUND_SUBSIDY], (revenue, treasury_committed(part.billed.year)), part.voucher_fen)
        for _, room, spent in draw_pairs(firm, part.billed.year, contract):
            _add(target[Code.REFUND_DRAW], (spent, room), part.voucher_fen)
    number = len(amounts)
    batch: list[Transfer] = []
    movements = store.movements_of(tx, job)
    for code, wanted in target.items():
        moved = store.net_of(movements, (code,), ())
        outward = (
            "spent:" if code is Code.REFUND_DRAW else "provider:"
        )  # a refund leaves these; a correction comes back
        pairs = {pair if pair[0].startswith(outward) else (pair[1], pair[0]) for pair in (*wanted, *moved)}
        for pair in sorted(pairs):
            amount = wanted.get(pair, 0) - moved.get(pair, 0) + moved.get((pair[1], pair[0]), 0)
            key = f"refund:{settlement}:{number}:{code.value}:{pair[0]}:{pair[1]}"
            batch += store.signed(key, code, code, pair, amount, job, settlement)
    store.post_all(tx, batch, now)
    return parts


def shares(tx: Connection, job: str, settlement: str) -> tuple[Returned, ...]:
    """What has gone back of each class of the settlement, by the job's refunds so far."""
    return shares_of(billed(tx, settlement), amounts_of(tx, job))


def shares_of(classes: Sequence[Billed], amounts_fen: Sequence[int]) -> tuple[Returned, ...]:
    """The same of classes not recorded yet. A correction may have lowered the fee below what was refunded: the rest of a
    refund then has nothing to return."""
    charged = sum(item.fee_fen for item in classes)
    kept: list[int] = []
    for amount in amounts_fen:
        kept.append(min(amount, charged - sum(kept)))
    return split(classes, kept)


def billed(tx: Connection, settlement: str) -> list[Billed]:
    """The settlement's classes per provider, in the order of their first line."""
    query = select(settlement_lines).where(settlement_lines.c.settlement == settlement)
    return classes_of(list(tx.execute(query.order_by(settlement_lines.c.number)).mappings()))


def classes_of(lines: Sequence[Mapping[Any, Any]]) -> list[Billed]:
    """Lines summed by provider, origin class (undetermined counts as foreign), rate and year."""
    sums: dict[tuple[str, str, int, int], list[int]] = {}
    for line in lines:
        total = sums.setdefault(class_of(line), [0, 0])
        total[0] += line["fee_fen"]
        total[1] += line["deduction_fen"]
    return [
        Billed(provider=key[0], origin=key[1], rate_bp=key[2], year=key[3], fee_fen=fee, deduction_fen=deduction)
        for key, (fee, deduction) in sums.items()
    ]


def class_of(line: Mapping[Any, Any]) -> tuple[str, str, int, int]:
    """What a line is refunded with: its provider, origin class, rate and year."""
    origin = "domestic" if line["origin"] == "domestic" else "foreign"
    return line["provider"], origin, line["rate_bp"], line["year"]


def amounts_of(tx: Connection, job: str) -> list[int]:
    return [
        int(fen)
        for fen in tx.execute(
            select(refunds.c.amount_fen).where(refunds.c.job == job).order_by(refunds.c.seq)
        ).scalars()
    ]


def _add(into: dict[tuple[AccountId, AccountId], int], pair: tuple[AccountId, AccountId], amount: int) -> None:
    into[pair] = into.get(pair, 0) + amount
