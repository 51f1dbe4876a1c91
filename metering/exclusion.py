"""Exclusion: one project, one support (clause 4.4): the firm takes the better of ours and theirs, unless both are allowed.

Pure choice first, its records after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Connection, select

from adapters.chain import canonical
from metering.acts import Actor
from metering.clawback import due_of
from metering.programme_schema import contracts, invoice_jobs, invoices, other_supports
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.refusal import Refusal

CLAUSE = "4.4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What one instrument gives the project. cumulative: its own rules allow it beside others."""

    instrument: str
    amount_fen: int
    cumulative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Both amounts, always shown; taken: the instruments that pay; foregone: those that do not; clause: why."""

    ours_fen: int
    best_other_fen: int
    taken: tuple[str, ...]
    foregone: tuple[str, ...]
    clause: str = CLAUSE


OURS = "ours"


def choose(ours_fen: int, others: Sequence[Support]) -> Choice:
    """The best one of ours and the exclusive others; equal amounts leave ours. Cumulative ones always pay beside it."""
    exclusive = [other for other in others if not other.cumulative]
    beside = tuple(other.instrument for other in others if other.cumulative)
    best = max(exclusive, key=lambda other: other.amount_fen, default=None)
    best_fen = best.amount_fen if best is not None else 0
    if best is None or ours_fen >= best_fen:
        return Choice(
            ours_fen=ours_fen,
            best_other_fen=best_fen,
            taken=(OURS, *beside),
            foregone=tuple(other.instrument for other in exclusive),
        )
    left = tuple(other.instrument for other in exclusive if other is not best)
    return Choice(ours_fen=ours_fen, best_other_fen=best_fen, taken=(best.instrument, *beside), foregone=(OURS, *left))


def record_other(
    tx: Connection,
    *,
    firm: str,
    project: str,
    instrument: str,
    amount_fen: int,
    cumulative: bool,
    evidence: Mapping[str, Any],
    actor: Actor,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """Support of the project from elsewhere is on record: an agreement on entering the zone, a city voucher.

    A firm may report it, and more of it; that it is less, or may stand beside ours, is for an operator to record.
    """
    if actor.role == "firm":
        known = {other["instrument"]: other for other in comparison(tx, firm, project)["others"]}.get(instrument)
        if cumulative or (known is not None and (known["cumulative"] or amount_fen < known["amount_fen"])):
            return Refusal(code="OPERATOR_RECORDS_THIS", facts={"instrument": instrument, "project": project})
    identity = f"other_{uuid_utils.uuid7()}"
    values = {
        "id": identity,
        "firm": firm,
        "project": project,
        "instrument": instrument,
        "amount_fen": amount_fen,
        "cumulative": int(cumulative),
        "evidence": canonical(dict(evidence)).decode(),
        "recorded_at_ms": to_ms(now),
        "recorded_by": actor.by,
    }
    journal.append(tx, other_supports, values)
    return {"id": identity, **comparison(tx, firm, project)}


def comparison(tx: Connection, firm: str, project: str, ours_fen: int | None = None) -> dict[str, Any]:
    """Ours against the others for one project of a firm: {project, firm, ours_fen, best_other_fen, taken, foregone, clause,
    others}. A contract is the project of the jobs its invoices bill; contracts may share a wider project."""
    query = select(other_supports).where(other_supports.c.firm == firm, other_supports.c.project == project)
    rows = list(tx.execute(query.order_by(other_supports.c.seq)).mappings())
    latest = {row["instrument"]: row for row in rows}  # a later record of the same instrument replaces the earlier
    others = [
        Support(instrument=row["instrument"], amount_fen=row["amount_fen"], cumulative=bool(row["cumulative"]))
        for row in latest.values()
    ]
    found = choose(ours_of(tx, firm, project) if ours_fen is None else ours_fen, others)
    return {
        "firm": firm,
        "project": project,
        "ours_fen": found.ours_fen,
        "best_other_fen": found.best_other_fen,
        "taken": list(found.taken),
        "foregone": list(found.foregone),
        "clause": found.clause,
        "others": [
            {"instrument": o.instrument, "amount_fen": o.amount_fen, "cumulative": o.cumulative} for o in others
        ],
    }


def ours_of(tx: Connection, firm: str, project: str) -> int:
    """What the compute voucher gives the project by the books: its contracts' invoiced jobs, corrections included."""
    query = (
        select(invoice_jobs.c.job)
        .join(invoices, invoices.c.number == invoice_jobs.c.invoice)
        .join(contracts, contracts.c.id == invoices.c.contract)
        .where(contracts.c.buyer == firm, (contracts.c.id == project) | (contracts.c.project == project))
        .distinct()  # a job whose invoice was voided stands on the next one too
    )
    return sum(sum(due_of(tx, job).values()) for job in tx.execute(query).scalars())


def better_elsewhere(tx: Connection, firm: str, contract: str, ours_fen: int | None = None) -> Refusal | None:
    """A Refusal when the contract's project takes another support instead of ours; None when ours may be paid.

    ours_fen: what another programme of ours would give; None: what the compute voucher gives by the books.
    """
    row = tx.execute(select(contracts.c.project).where(contracts.c.id == contract)).first()
    for project in {contract, (row.project if row else None) or contract}:
        found = comparison(tx, firm, project, ours_fen)
        if OURS not in found["taken"]:
            facts = {"project": project, **{k: found[k] for k in ("ours_fen", "best_other_fen", "taken", "clause")}}
            return Refusal(code="BETTER_ELSEWHERE", facts=facts)
    return None
