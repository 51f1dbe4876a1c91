"""Clawback (追缴): what was paid out and turned out not to be due, from the notice to its repayment, offset or write-off."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from metering import acts, store
from metering.acts import Actor
from metering.ledger import (
    PROGRAMME,
    AccountId,
    Code,
    Phase,
    Transfer,
    clearing_room,
    owed_back,
    spent_of,
    treasury_approved,
    treasury_committed,
    treasury_paid,
    written_off,
)
from metering.programme_schema import clearing_items, states
from scheduler.refusal import Refusal

COUNTED = ("submitted", "approved", "part_paid", "paid", "reconciled")  # batches whose items are spoken for
DROPPED = ("dropped",)


def cleared_of(tx: Connection, job: str) -> dict[tuple[str, int], int]:
    """What batches took up of a job's support so far: {(provider, year): fen}."""
    query = (
        select(clearing_items.c.provider, clearing_items.c.year, func.sum(clearing_items.c.deduction_fen).label("fen"))
        .join(states, (states.c.subject == clearing_items.c.batch) & (states.c.kind == "clearing"))
        .where(clearing_items.c.job == job, states.c.state.in_(COUNTED))
        .group_by(clearing_items.c.provider, clearing_items.c.year)
    )
    return {(row.provider, row.year): int(row.fen) for row in tx.execute(query)}


def due_of(tx: Connection, job: str) -> dict[tuple[str, int], int]:
    """What the treasury owes for a job by the books, corrections and refunds included: {(provider, year): fen}."""
    found: dict[tuple[str, int], int] = {}
    moved = store.posted_of_job(tx, job, (Code.SUBSIDY,), (Code.REVERSE_SUBSIDY, Code.REFUND_SUBSIDY))
    for (debit, credit), fen in moved.items():
        key = (credit.split(":")[1], int(debit.split(":")[2]))
        found[key] = found.get(key, 0) + fen
    return found


def open_of(tx: Connection, job: str) -> dict[tuple[str, int], int]:
    """What is being or was clawed back for a job: {(provider, year): fen}."""
    found: dict[tuple[str, int], int] = {}
    query = select(states.c.subject).where(
        states.c.kind == "clawback",
        states.c.subject.startswith(f"clawback:{job}:", autoescape=True),
        states.c.state.not_in(DROPPED),
    )
    for subject in tx.execute(query).scalars():
        body = acts.told(tx, "clawback", subject, "open")
        assert body is not None, "a case begins by being opened"
        key = (body["party"], body["year"])
        found[key] = found.get(key, 0) + body["amount_fen"]
    return found


def open_for(tx: Connection, job: str, cause: str, now: datetime) -> list[str]:
    """A case for whatever batches took up beyond what is due for the job now; returns the new cases' ids."""
    cleared, due, already = cleared_of(tx, job), due_of(tx, job), open_of(tx, job)
    found = []
    for (party, year), fen in sorted(cleared.items()):
        excess = fen - max(due.get((party, year), 0), 0) - already.get((party, year), 0)
        if excess <= 0:
            continue
        number = 1 + len([s for s in acts.subjects(tx, "clawback") if s["subject"].startswith(f"clawback:{job}:")])
        subject = f"clawback:{job}:{number}"
        body = {"job": job, "party": party, "year": year, "programme": PROGRAMME, "amount_fen": excess, "cause": cause}
        acts.must(tx, "clawback", subject, "open", now, reason=cause, body=body)
        store.open_review(tx, code="CLAWBACK_OPENED", subject=subject, facts=body, now=now)
        found.append(subject)
    return found


def proceed(
    tx: Connection, subject: str, name: str, actor: Actor, reason: str, now: datetime, reference: str | None = None
) -> dict[str, Any] | Refusal:
    """The case has taken the step and its money moved.

    confirm: the party is known to hold what is not its own. repay: it paid it back (reference: the bank slip). offset: a
    later batch pays it so much less (reference: the batch). write_off: it is not collected.
    """
    body = acts.told(tx, "clawback", subject, "open")
    if body is None:
        return Refusal(code="CLAWBACK_UNKNOWN", facts={"clawback": subject})
    if name in ("repay", "offset") and not reference:
        return Refusal(code="REFERENCE_MISSING", facts={"clawback": subject, "act": name})
    programme, year, party, fen = body["programme"], body["year"], body["party"], body["amount_fen"]
    refusal = _offset(tx, subject, party, fen, reference or "") if name == "offset" else None
    if refusal is not None:
        return refusal
    done = acts.act(tx, "clawback", subject, name, actor, now, reason=reason, body={"reference": reference})
    if isinstance(done, Refusal):
        return done
    moves = {
        "confirm": (Code.CLAW_BACK, treasury_committed(year, programme), owed_back(party)),
        "repay": (Code.RECOVER, owed_back(party), treasury_paid(year, programme)),
        "write_off": (Code.RECOVER, owed_back(party), written_off(year, programme)),
    }
    if name == "offset":
        batch_year = acts.told(tx, "clearing", reference or "", "build")
        assert batch_year is not None, "the batch was checked before"
        moves["offset"] = (Code.RECOVER, owed_back(party), treasury_approved(batch_year["year"], programme))
    if name in moves:
        code, debit, credit = moves[name]
        _move(tx, f"{subject}:{name}", code, debit, credit, fen, subject, now)
        if name == "offset":
            room = clearing_room(reference or "")
            _move(tx, f"{subject}:offset:room", Code.RECOVER, room, spent_of(room), fen, subject, now)
    return {"clawback": subject, "state": done, "amount_fen": fen, "party": party}


def _offset(tx: Connection, subject: str, party: str, fen: int, batch: str) -> Refusal | None:
    """None when the batch is approved, the party's own, and still owes it that much."""
    built = acts.told(tx, "clearing", batch, "build")
    if built is None or built["provider"] != party:
        return Refusal(code="BATCH_UNKNOWN", facts={"batch": batch, "provider": party})
    state = acts.state_of(tx, "clearing", batch)
    left = store.balance(tx, clearing_room(batch)).available
    if state not in ("approved", "part_paid") or left < fen:
        return Refusal(code="OFFSET_TOO_LARGE", facts={"clawback": subject, "amount_fen": fen, "left_fen": left})
    return None


def _move(
    tx: Connection, key: str, code: Code, debit: AccountId, credit: AccountId, fen: int, cites: str, now: datetime
) -> None:
    transfer = Transfer(
        id=key, phase=Phase.POSTED, code=code, debit=debit, credit=credit, amount_fen=fen, cites=cites
    )  # fmt: skip
    store.post(tx, transfer, now)
