"""Clawback (追缴): what was paid out and turned out not to be due, from the notice to its repayment, offset or write-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from metering import acts, docket, store
from metering.acts import Actor
from metering.batches import complete_if_paid, withdrawn_of
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
PENDING = ("opened", "noticed")
RECOVERED = ("confirmed", "offset", "repaid")  # came back, or is owed back: if it falls due again, it is paid again
LET_GO = ("dropped", "written_off")  # stays where it is, by a decision

Key = tuple[str, int]  # (party, year)


@dataclass(frozen=True, slots=True)
class Cases:
    """What is clawed back for a job, by state: {state: {(party, year): fen}}; pending: the ids of undecided cases."""

    fen: Mapping[str, Mapping[Key, int]]
    pending: Mapping[Key, tuple[str, ...]]

    def of(self, states_: Sequence[str], key: Key) -> int:
        return sum(self.fen.get(state, {}).get(key, 0) for state in states_)

    def all_of(self, key: Key) -> int:
        return self.of((*PENDING, *RECOVERED, *LET_GO), key)


def cleared_of(tx: Connection, job: str) -> dict[Key, int]:
    """What batches took up of a job's support and did not give up again: {(provider, year): fen}."""
    query = (
        select(clearing_items)
        .join(states, (states.c.subject == clearing_items.c.batch) & (states.c.kind == "clearing"))
        .where(clearing_items.c.job == job, states.c.state.in_(COUNTED))
    )
    rows = list(tx.execute(query).mappings())
    gone = withdrawn_of(tx, sorted({row["batch"] for row in rows}))
    found: dict[Key, int] = {}
    for row in rows:
        if row["settlement"] not in gone.get(row["batch"], ()):
            key = (row["provider"], row["year"])
            found[key] = found.get(key, 0) + int(row["deduction_fen"])
    return found


def due_of(tx: Connection, job: str) -> dict[Key, int]:
    """What the treasury owes for a job by the books, corrections and refunds included: {(provider, year): fen}."""
    found: dict[Key, int] = {}
    for code, debit, credit, fen in store.movements_of(tx, job):
        if code in (Code.SUBSIDY, Code.REVERSE_SUBSIDY, Code.REFUND_SUBSIDY):
            owed = debit.startswith("treasury:")  # debited: it owes more; credited: it owes less
            treasury, provider = (debit, credit) if owed else (credit, debit)
            key = (provider.split(":")[1], int(treasury.split(":")[2]))
            found[key] = found.get(key, 0) + (fen if owed else -fen)
    return found


def cases_of(tx: Connection, subject_of: str) -> Cases:
    """Every clawback of a job, project or application."""
    fen: dict[str, dict[Key, int]] = {}
    pending: dict[Key, tuple[str, ...]] = {}
    query = select(states.c.subject, states.c.state).where(
        states.c.kind == "clawback", states.c.subject.startswith(f"clawback:{subject_of}:", autoescape=True)
    )
    for row in tx.execute(query):
        body = acts.told(tx, "clawback", row.subject, "open")
        assert body is not None, "a case begins by being opened"
        key = (body["party"], body["year"])
        mine = fen.setdefault(row.state, {})
        mine[key] = mine.get(key, 0) + body["amount_fen"]
        if row.state in PENDING:
            pending[key] = (*pending.get(key, ()), row.subject)
    return Cases(fen, pending)


def clawbacks(tx: Connection, wanted: docket.Wanted = docket.ALL) -> list[dict[str, Any]]:
    """Clawbacks in the order of their last act: {seq, id, state, since, party, year, programme, amount_fen, cause, ...}."""
    found = docket.cases(tx, "clawback", wanted)
    return [
        {"seq": case.seq, "id": case.subject, "state": case.state, "since": case.since, **case.body} for case in found
    ]


def left_of(tx: Connection, job: str) -> dict[Key, int]:
    """What is still to be cleared of a job: due, less what batches took up, plus what of that came back."""
    cleared, cases = cleared_of(tx, job), cases_of(tx, job)
    return {key: due - cleared.get(key, 0) + cases.of(RECOVERED, key) for key, due in due_of(tx, job).items()}


def open_for(tx: Connection, job: str, cause: str, now: datetime) -> list[str]:
    """One undecided case for whatever batches took up beyond what is due for the job now; returns the new cases' ids.

    A case whose amount has changed gives way to another; one whose cause is gone just ends.
    """
    cleared, due, cases = cleared_of(tx, job), due_of(tx, job), cases_of(tx, job)
    found = []
    for key, fen in sorted(cleared.items()):
        excess = max(0, fen - max(due.get(key, 0), 0) - cases.of((*RECOVERED, *LET_GO), key))
        if excess == cases.of(PENDING, key):
            continue
        for subject in cases.pending.get(key, ()):
            acts.must(tx, "clawback", subject, "supersede", now, body={"amount_fen": excess})
        if excess:
            body = {"job": job, "party": key[0], "year": key[1], "programme": PROGRAMME, "amount_fen": excess}
            found.append(open_case(tx, job, {**body, "cause": cause}, now))
    return found


def open_case(tx: Connection, subject_of: str, body: Mapping[str, Any], now: datetime) -> str:
    """A new case of a job, project or application, waiting for its notice; its id."""
    prefix = f"clawback:{subject_of}:"
    query = select(func.count()).select_from(states)
    known = query.where(states.c.kind == "clawback", states.c.subject.startswith(prefix, autoescape=True))
    subject = f"{prefix}{int(tx.execute(known).scalar_one()) + 1}"
    acts.must(tx, "clawback", subject, "open", now, reason=str(body["cause"]), body=body)
    store.open_review(tx, code="CLAWBACK_OPENED", subject=subject, facts=body, now=now)
    return subject


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
    if name == "confirm" and "job" in body:
        open_for(tx, body["job"], body["cause"], now)  # what has changed since gives way to a case of today's amount
    if name in ("repay", "offset") and not reference:
        return Refusal(code="REFERENCE_MISSING", facts={"clawback": subject, "act": name})
    programme, year, party, fen = body["programme"], body["year"], body["party"], body["amount_fen"]
    refusal = _offset(tx, subject, party, fen, reference or "") if name == "offset" else None
    if name == "repay" and store.posted(tx, f"recover:{reference}"):
        refusal = Refusal(code="ALREADY_RECORDED", facts={"record": "slips", "different": ["reference"]})
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
        key = f"recover:{reference}" if name == "repay" else f"{subject}:{name}"  # one bank slip repays one case
        _move(tx, key, code, debit, credit, fen, subject, now)
        if name == "offset":
            room = clearing_room(reference or "")
            _move(tx, f"{subject}:offset:room", Code.RECOVER, room, spent_of(room), fen, subject, now)
            complete_if_paid(tx, reference or "", now, {"by": subject})
    return {"clawback": subject, "state": done, "amount_fen": fen, "party": party, "reference": reference}


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
