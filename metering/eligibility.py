"""Eligibility: what was decided about a firm's standing (clause 4.1), and the dated fact that makes it count."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from metering import acts, standing, store
from metering.acts import Actor
from metering.schema import facts, firms
from scheduler.clock import from_ms
from scheduler.refusal import Refusal


def decide(tx: Connection, firm: str, name: str, actor: Actor, reason: str, now: datetime) -> dict[str, Any] | Refusal:
    """The firm's case has taken the step. suspend and revoke take the time from now on out of what its facts say;
    reinstate ends the suspension now."""
    if store.known(tx, firms, firm) is None:
        return Refusal(code="FIRM_UNKNOWN", facts={"firm": firm})
    done = acts.act(tx, "eligibility", firm, name, actor, now, reason=reason)
    if isinstance(done, Refusal):
        return done
    common = {"subject_kind": "firm", "subject": firm, "fact": standing.SUSPENDED, "evidence": {"reason": reason}}
    if name in ("suspend", "revoke") and not _open(tx, firm):
        store.record_fact(tx, **common, start=now, end=None, by=actor.by, now=now)  # type: ignore[arg-type]
    for row in _open(tx, firm) if name == "reinstate" else ():
        since = from_ms(row["from_ms"])
        store.record_fact(tx, **common, start=since, end=now, by=actor.by, now=now, withdraws=row["seq"])  # type: ignore[arg-type]
    return {"subject": firm, "state": done}


def _open(tx: Connection, firm: str) -> list[Any]:
    """The firm's suspensions that have no end yet."""
    query = select(facts).where(facts.c.subject_kind == "firm", facts.c.subject == firm)
    rows = list(tx.execute(query.order_by(facts.c.seq)).mappings())
    withdrawn = {row["withdraws_seq"] for row in rows}
    return [r for r in rows if r["fact"] == standing.SUSPENDED and r["to_ms"] is None and r["seq"] not in withdrawn]
