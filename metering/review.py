"""Review: the queue of what a person has to look at, with the actions that answer each kind of item."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, select, update

from adapters.chain import timestamp
from metering import acts
from metering.acts import Actor
from metering.schema import reviews
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal

# What may answer an item; each closes it. What else has to be done (a correction, a freeze) is its own request.
ACTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ORIGIN_UNDETERMINED": ("origin_determined", "foreign_rate_accepted"),
        "CAP_ALERT_80": ("acknowledged", "programme_frozen"),
        "CAP_ALERT_95": ("acknowledged", "programme_frozen"),
        "CLAWBACK_OPENED": ("notice_sent", "dropped"),
        "DISPUTE_OPENED": ("upheld", "dismissed", "withdrawn"),
        "USAGE_DIFFERS": ("scheduler_right", "agent_right", "correction_ordered", "explained"),
        "SAMPLED": ("passed", "dispute_opened"),
        "DEVICE_SUSPECT": ("removed", "repaired"),  # what was said against it counts until `evidence clear`
        "DEVICE_MOVED": ("accepted", "returned"),
        "FINGERPRINT_OUT_OF_BAND": ("measured_again", "replaced"),
        "CHALLENGE_UNANSWERED": ("explained", "removed"),
        "KERNEL_FAILED": ("measured_again", "replaced"),
        "EVIDENCE_BELOW_LEVEL": ("shown", "delisted"),
    }
)
ANY = ("resolved", "accepted", "rejected")
DISPUTE = "DISPUTE_OPENED"
RESOLVES = {"upheld": "uphold", "dismissed": "dismiss"}


def actions_for(code: str) -> tuple[str, ...]:
    """The actions that answer an item of this code."""
    return ACTIONS.get(code, ANY)


def queue(tx: Connection, *, closed: bool = False) -> list[dict[str, Any]]:
    """Items that wait, oldest first, each with its possible actions; with closed, those that were answered."""
    where = reviews.c.closed_at_ms.is_not(None) if closed else reviews.c.closed_at_ms.is_(None)
    return [
        {
            "id": row["id"],
            "code": row["code"],
            "subject": row["subject"],
            "facts": json.loads(row["facts"]),
            "opened_at": timestamp(from_ms(row["opened_at_ms"])),
            "actions": list(actions_for(row["code"])),
            "closed_at": timestamp(from_ms(row["closed_at_ms"])) if row["closed_at_ms"] is not None else None,
            **{key: row[key] for key in ("action", "reason", "closed_by")},
        }
        for row in tx.execute(select(reviews).where(where).order_by(reviews.c.opened_at_ms, reviews.c.id)).mappings()
    ]


def close(
    tx: Connection, *, review: str, action: str, reason: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The item is answered, with who, how and why on record; the dispute it tells of is resolved by the same answer."""
    row = tx.execute(select(reviews).where(reviews.c.id == review)).mappings().first()
    if row is None:
        return Refusal(code="REVIEW_UNKNOWN", facts={"review": review})
    known = actions_for(row["code"])
    if action not in known:
        near = difflib.get_close_matches(action, known, n=1, cutoff=0.0)[0]
        return Refusal(code="ACTION_UNKNOWN", facts={"action": action, "actions": list(known), "nearest": near})
    if row["code"] == DISPUTE and acts.state_of(tx, "dispute", row["subject"]) == "opened":
        if action not in RESOLVES:
            facts = {"action": action, "actions": sorted(RESOLVES), "nearest": "dismissed"}
            return Refusal(code="ACTION_UNKNOWN", facts=facts)
        resolved = acts.act(tx, "dispute", row["subject"], RESOLVES[action], actor, now, reason=reason)
        if isinstance(resolved, Refusal):
            return resolved
    done = acts.act(tx, "review", review, "close", actor, now, reason=reason, body={"action": action})
    if isinstance(done, Refusal):
        return done
    values = {"closed_at_ms": to_ms(now), "action": action, "reason": reason, "closed_by": actor.by}
    tx.execute(update(reviews).where(reviews.c.id == review).values(**values))
    return {"id": review, "state": done, "action": action}


def sampled(subject: str, permille: int) -> bool:
    """Whether a subject falls into the random sample that is reviewed whatever its score; the same answer for ever.

    Drawn from the subject's SHA-256, so that nobody can choose, and anybody can check, what was looked at.
    """
    return int(hashlib.sha256(subject.encode()).hexdigest()[:15], 16) % 1000 < permille


def waits(tx: Connection, review: str) -> bool:
    """True while an item of this id is open."""
    query = select(reviews.c.id).where(reviews.c.id == review, reviews.c.closed_at_ms.is_(None))
    return tx.execute(query).first() is not None


def follow(tx: Connection, review: str, action: str, reason: str, now: datetime) -> None:
    """What the item told of was settled elsewhere: if it still waits, it is closed with that."""
    if waits(tx, review):
        acts.must(tx, "review", review, "close", now, reason=reason or action, body={"action": action})
        values = {"closed_at_ms": to_ms(now), "action": action, "reason": reason, "closed_by": acts.PLATFORM.by}
        tx.execute(update(reviews).where(reviews.c.id == review).values(**values))
