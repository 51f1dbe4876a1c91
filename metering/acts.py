"""Acts: the one way in which a case moves from state to state. Every step is a chained record with who, role and reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from adapters.chain import canonical, timestamp
from metering.lifecycle import APART, NONE, next_state
from metering.programme_schema import acts, states
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts. by: a key's or a person's id; role: the one they act in."""

    by: str
    role: str


PLATFORM = Actor(by="platform", role="platform")


def act(
    tx: Connection,
    kind: str,
    subject: str,
    name: str,
    actor: Actor,
    now: datetime,
    *,
    reason: str = "",
    body: Mapping[str, Any] | None = None,
) -> str | Refusal:
    """The case has taken the step, on record, and its new state is returned; a Refusal changes nothing."""
    before, after = _next(tx, kind, subject, name, actor, reason)
    if isinstance(after, Refusal):
        return after
    values = {
        "kind": kind,
        "subject": subject,
        "act": name,
        "before": before,
        "after": after,
        "by": actor.by,
        "role": actor.role,
        "reason": reason,
        "body": canonical(dict(body or {})).decode(),
        "at_ms": to_ms(now),
    }
    seq = journal.append(tx, acts, values)
    if before == NONE:
        tx.execute(insert(states).values(kind=kind, subject=subject, state=after, since_ms=to_ms(now), act_seq=seq))
    else:
        key = (states.c.kind == kind, states.c.subject == subject)
        tx.execute(update(states).where(*key).values(state=after, since_ms=to_ms(now), act_seq=seq))
    return after


def obstacle(tx: Connection, kind: str, subject: str, name: str, actor: Actor, reason: str) -> Refusal | None:
    """What the act would be refused for, None when nothing stands in its way; nothing is written."""
    after = _next(tx, kind, subject, name, actor, reason)[1]
    return after if isinstance(after, Refusal) else None


def _next(tx: Connection, kind: str, subject: str, name: str, actor: Actor, reason: str) -> tuple[str, str | Refusal]:
    before = state_of(tx, kind, subject)
    apart = before != NONE and kind in APART
    done = {step["act"]: step["by"] for step in history(tx, kind, subject)} if apart else {}
    after = next_state(kind, before, name, role=actor.role, by=actor.by, reason=reason, done=done)
    if isinstance(after, Refusal):
        return before, Refusal(code=after.code, facts={**after.facts, "subject": subject})
    return before, after


def must(
    tx: Connection,
    kind: str,
    subject: str,
    name: str,
    now: datetime,
    *,
    reason: str = "",
    body: Mapping[str, Any] | None = None,
) -> None:
    """The platform's own step, which nothing can stand in the way of."""
    got = act(tx, kind, subject, name, PLATFORM, now, reason=reason, body=body)
    assert not isinstance(got, Refusal), f"{kind} {subject}: {got}"


def must_begin(tx: Connection, kind: str, subjects: Sequence[str], name: str, now: datetime) -> None:
    """The platform's first step on many new cases at once."""
    after = next_state(kind, NONE, name, role=PLATFORM.role, by=PLATFORM.by, reason="", done={})
    assert not isinstance(after, Refusal), f"{kind}: {after}"
    common = {"kind": kind, "act": name, "before": NONE, "after": after, "by": PLATFORM.by, "role": PLATFORM.role}
    steps = [{**common, "subject": subject, "reason": "", "body": "{}", "at_ms": to_ms(now)} for subject in subjects]
    if not steps:
        return
    first = journal.append_all(tx, acts, steps) - len(steps) + 1
    rows = [
        {"kind": kind, "subject": subject, "state": after, "since_ms": to_ms(now), "act_seq": first + index}
        for index, subject in enumerate(subjects)
    ]
    tx.execute(insert(states), rows)


def states_of(tx: Connection, kind: str, subjects: Sequence[str]) -> dict[str, str]:
    """Where each of these cases stands; those without an act are left out."""
    query = select(states.c.subject, states.c.state).where(states.c.kind == kind, states.c.subject.in_(subjects))
    return {row.subject: row.state for row in tx.execute(query)} if subjects else {}


def states_of_all(tx: Connection, asked: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """Where each of these cases of several kinds stands, by (kind, subject); "none" for those without an act."""
    names = sorted({subject for subjects in asked.values() for subject in subjects})
    query = select(states.c.kind, states.c.subject, states.c.state)
    query = query.where(states.c.kind.in_(sorted(asked)), states.c.subject.in_(names))
    found = {(kind, subject): NONE for kind, subjects in asked.items() for subject in subjects}
    return {**found, **{(kind, subject): state for kind, subject, state in tx.execute(query)}}


def state_of(tx: Connection, kind: str, subject: str) -> str:
    """Where the case stands; "none" before its first act."""
    found = tx.execute(select(states.c.state).where(states.c.kind == kind, states.c.subject == subject)).scalar()
    return str(found) if found is not None else NONE


def subjects(tx: Connection, kind: str, state: str | None = None) -> list[dict[str, Any]]:
    """Every case of a kind, in the order of their last act: {subject, state, since}."""
    query = select(states).where(states.c.kind == kind)
    if state is not None:
        query = query.where(states.c.state == state)
    return [
        {"subject": row["subject"], "state": row["state"], "since": timestamp(from_ms(row["since_ms"]))}
        for row in tx.execute(query.order_by(states.c.act_seq)).mappings()
    ]


def history(tx: Connection, kind: str, subject: str) -> list[dict[str, Any]]:
    """The case's acts from its first: {seq, act, before, after, by, role, reason, body, at}."""
    query = select(acts).where(acts.c.kind == kind, acts.c.subject == subject).order_by(acts.c.seq)
    return [
        {
            **{k: row[k] for k in ("seq", "act", "before", "after", "by", "role", "reason")},
            "body": json.loads(row["body"]),
            "at": timestamp(from_ms(row["at_ms"])),
        }
        for row in tx.execute(query).mappings()
    ]


def told(tx: Connection, kind: str, subject: str, name: str) -> dict[str, Any] | None:
    """The body of the case's latest act of that name; None if it was never done."""
    found = [step["body"] for step in history(tx, kind, subject) if step["act"] == name]
    return dict(found[-1]) if found else None
