"""Correction: a job is settled again under what is known now; the new settlement cites the old, nothing is edited."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from metering import acts, clawback, posting
from metering.acts import Actor
from metering.refunding import IN_CLEARING
from metering.schema import settlements
from metering.statement import TOTALS
from scheduler.refusal import Refusal

if TYPE_CHECKING:
    from metering.budget import VoucherBudget


def correct(
    tx: Connection, budget: VoucherBudget, job: str, actor: Actor, reason: str, now: datetime
) -> dict[str, Any] | Refusal:
    """The job's settlement follows today's facts, origins and prices; the difference is posted as new entries.

    What batches took up beyond what is now due opens a clawback. Refused before the final settlement, while a batch that
    holds it waits for payment, and when nothing would change.
    """
    query = select(settlements).where(settlements.c.job == job).order_by(settlements.c.number.desc())
    before = tx.execute(query).mappings().first()
    if before is None or not before["final"]:
        return Refusal(code="NOT_SETTLED", facts={"job": job})
    state = acts.state_of(tx, "settlement", before["id"])
    if state in IN_CLEARING:
        return Refusal(code="IN_CLEARING", facts={"settlement": before["id"], "state": state})
    if not posting.differs(budget, tx, before):
        return Refusal(code="NOTHING_TO_CORRECT", facts={"settlement": before["id"]})
    number = before["number"] + 1
    ordered = acts.act(
        tx,
        "correction",
        posting.settlement_id(job, number),
        "order",
        actor,
        now,
        reason=reason,
        body={"cites": before["id"]},
    )
    if isinstance(ordered, Refusal):
        return ordered
    posting.charge(budget, tx, [job], now, final=True)
    after = tx.execute(query).mappings().first()
    assert after is not None, "just settled"
    opened = clawback.open_for(tx, job, "CORRECTED", now)
    return {
        "settlement": after["id"],
        "cites": before["id"],
        "before": {name: before[name] for name in TOTALS},
        "after": {name: after[name] for name in TOTALS},
        "clawbacks": opened,
    }
