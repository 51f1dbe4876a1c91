"""Quarantine: what a person says of an event that was kept apart because a clock was off.

Only such an event can be admitted: its signature held and its neighbours agree, and a clock is a thing that people can
look at. Everything else that was kept apart is no word of the node, and stays what it is.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select

from metering import review
from metering.acts import Actor
from metering.event_schema import quarantine_acts, quarantined_events
from metering.events import ingest
from scheduler.clock import to_ms
from scheduler.refusal import Refusal

ADMISSIBLE = "EVENT_CLOCK_SKEWED"
DONE = {"admit": "admitted", "reject": "rejected"}
ANSWER = {"admit": "accepted", "reject": "rejected"}  # of the review item, once none of its events waits


def answer(
    tx: Connection, *, number: int, action: str, reason: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The event is among the events, or stays apart, with who and why on record. The same answer again changes nothing.

    action: admit | reject. The review item of its stream is closed with the last event that waited. Refusals:
    QUARANTINED_UNKNOWN, QUARANTINED_ANSWERED (otherwise before), QUARANTINED_NOT_ADMISSIBLE, or why it cannot be
    stored beside what is there; the transaction of a refusal is rolled back. ValueError for another action.
    """
    if action not in DONE:
        raise ValueError(f"action: {action!r} is not one of {', '.join(DONE)}; the nearest is reject")
    row = tx.execute(select(quarantined_events).where(quarantined_events.c.number == number)).mappings().first()
    if row is None:
        return Refusal(code="QUARANTINED_UNKNOWN", facts={"number": number})
    before = tx.execute(select(quarantine_acts.c.action).where(quarantine_acts.c.quarantined == number)).scalar()
    if before is not None and before != DONE[action]:
        return Refusal(code="QUARANTINED_ANSWERED", facts={"number": number, "action": before})
    if before is None:
        refusal = _admit(tx, row, now) if action == "admit" else None
        if refusal is not None:
            return refusal
        values = {"quarantined": number, "action": DONE[action], "acted_by": actor.by, "reason": reason}
        tx.execute(insert(quarantine_acts).values(**values, acted_at_ms=to_ms(now)))
        closed = _close(tx, row, ANSWER[action], reason, actor, now)
        if isinstance(closed, Refusal):
            return closed
    return {"number": number, "id": row["event_id"], "action": DONE[action]}


def _admit(tx: Connection, row: RowMapping, now: datetime) -> Refusal | None:
    try:
        document = json.loads(row["raw"])
    except ValueError:  # it was too long to be kept whole
        document = None
    if row["code"] != ADMISSIBLE or document is None:
        return Refusal(code="QUARANTINED_NOT_ADMISSIBLE", facts={"number": row["number"], "because": row["code"]})
    (outcome,) = ingest(tx, [document], now, skew_limit=timedelta.max)
    return Refusal(code=outcome.code, facts=outcome.facts) if outcome.code is not None else None


def _close(
    tx: Connection, row: RowMapping, action: str, reason: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal | None:
    """The stream's item is answered when none of its events of this code waits; None while one does, or there is none."""
    if row["event_id"] is None:
        return None
    stream, q = row["event_id"].rsplit(":", 1)[0], quarantined_events.c
    waiting = (
        select(q.number)
        .outerjoin(quarantine_acts, quarantine_acts.c.quarantined == q.number)
        .where(q.code == row["code"], q.source == row["source"], q.event_id.startswith(f"{stream}:", autoescape=True))
        .where(quarantine_acts.c.quarantined.is_(None))
    )
    item = f"{row['code']}:{row['source']}:{stream.partition(':')[2]}"
    if tx.execute(waiting.limit(1)).first() is not None or not review.waits(tx, item):
        return None
    return review.close(tx, review=item, action=action, reason=reason, actor=actor, now=now)
