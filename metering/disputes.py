"""Disputes: a firm or provider questions a job's settlement. While one is open, nothing of the job is paid out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Connection, select

from metering import acts, docket, review, store
from metering.acts import Actor
from metering.programme_schema import refunds, states
from metering.schema import settlement_lines, settlements
from scheduler.refusal import Refusal

# What is usually in question (research: metering.md §1.3); free text goes with it.
REASONS = (
    "quantity",
    "wrong_card",
    "failed_job_charged",
    "idle_but_allocated",
    "provider_maintenance",
    "missing_stop",
    "price_version",
    "voucher_not_applied",
    "cap_crossed",
    "invoice_mismatch",
    "eligibility_lost",
    "origin_challenged",
    "year_attribution",
)


def open_dispute(
    tx: Connection, *, settlement: str, code: str, text: str, party: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The dispute is on record and stops payment. party: the firm or provider that disputes; the settlement is its own."""
    row = tx.execute(select(settlements).where(settlements.c.id == settlement)).mappings().first()
    sold = select(settlement_lines.c.seq).where(
        settlement_lines.c.settlement == settlement, settlement_lines.c.provider == party
    )
    if row is None or (row["firm"] != party and tx.execute(sold).first() is None):
        return Refusal(code="SETTLEMENT_UNKNOWN", facts={"settlement": settlement})
    subject = f"dispute:{row['job']}:{uuid_utils.uuid7()}"
    body = {"settlement": settlement, "job": row["job"], "party": party, "code": code}
    done = acts.act(tx, "dispute", subject, "open", actor, now, reason=text, body=body)
    if isinstance(done, Refusal):
        return done
    store.open_review(tx, code="DISPUTE_OPENED", subject=subject, facts=body, now=now)
    return dispute(tx, subject) or {}


def resolve(
    tx: Connection, subject: str, name: str, actor: Actor, reason: str, now: datetime
) -> dict[str, Any] | Refusal:
    """The dispute is withdrawn, upheld or dismissed; what follows from an upheld one is a refund or a correction."""
    if dispute(tx, subject) is None:
        return Refusal(code="DISPUTE_UNKNOWN", facts={"dispute": subject})
    done = acts.act(tx, "dispute", subject, name, actor, now, reason=reason)
    if isinstance(done, Refusal):
        return done
    review.follow(tx, f"{review.DISPUTE}:{subject}", done, reason, now)
    return dispute(tx, subject) or {}


def open_on(tx: Connection, job: str) -> list[str]:
    """The job's disputes that stop its payment: unresolved ones, and upheld ones that no refund or correction followed."""
    prefix = f"dispute:{job}:"
    query = select(states).where(
        states.c.kind == "dispute",
        states.c.state.in_(("opened", "upheld")),
        states.c.subject.startswith(prefix, autoescape=True),
    )
    found = []
    for row in tx.execute(query).mappings():
        if row["state"] == "opened" or not _followed(tx, job, row["since_ms"]):
            found.append(row["subject"])
    return sorted(found)


def _followed(tx: Connection, job: str, since_ms: int) -> bool:
    again = select(settlements.c.seq).where(
        settlements.c.job == job, settlements.c.settled_at_ms >= since_ms, settlements.c.number > 1
    )
    back = select(refunds.c.seq).where(refunds.c.job == job, refunds.c.recorded_at_ms >= since_ms)
    return tx.execute(again).first() is not None or tx.execute(back).first() is not None


def of_job(tx: Connection, job: str) -> list[dict[str, Any]]:
    """Every dispute of the job, in the order they were opened."""
    query = select(states.c.subject).where(
        states.c.kind == "dispute", states.c.subject.startswith(f"dispute:{job}:", autoescape=True)
    )
    found = [dispute(tx, subject) for subject in sorted(tx.execute(query).scalars())]
    return [each for each in found if each is not None]


def disputes(tx: Connection, wanted: docket.Wanted = docket.ALL) -> list[dict[str, Any]]:
    """Disputes in the order of their last act, each with its story and `seq`, its place in the list."""
    found = ((case, dispute(tx, case.subject)) for case in docket.cases(tx, "dispute", wanted))
    return [{"seq": case.seq, **shown} for case, shown in found if shown is not None]


def dispute(tx: Connection, subject: str) -> dict[str, Any] | None:
    """The dispute with its story; None if there is none of this id."""
    body = acts.told(tx, "dispute", subject, "open")
    if body is None:
        return None
    story = acts.history(tx, "dispute", subject)
    return {
        "id": subject,
        **body,
        "state": acts.state_of(tx, "dispute", subject),
        "text": story[0]["reason"],
        "opened_at": story[0]["at"],
        "acts": [{key: step[key] for key in ("act", "by", "role", "at", "reason")} for step in story],
    }
