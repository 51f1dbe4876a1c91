"""Docket: the cases of one kind page by page, in the order of their last act; a party's own are picked by the database.

A case that is acted on while somebody pages moves to the end, so it may be read twice and is never missed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from adapters.chain import canonical, timestamp
from metering.lifecycle import MACHINES
from metering.programme_schema import acts, states
from scheduler.clock import from_ms

OPENING = {"clearing": "build", "clawback": "open", "dispute": "open", "project": "draft", "application": "submit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case as it stands. seq: the position of its last act, by which pages go; body: of its latest opening act."""

    seq: int
    subject: str
    state: str
    since: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which cases: of this party alone (None: of all), in this state (None: in any), from after this position, at most so
    many."""

    party: str | None = None
    state: str | None = None
    after: int = 0
    limit: int | None = None


ALL = Wanted()


def states_of(kind: str) -> list[str]:
    """Every state that a case of the kind can be in."""
    return sorted({step.after for step in MACHINES[kind].values() if step.after})


def cases(tx: Connection, kind: str, wanted: Wanted = ALL, *, party_is: str = "party") -> list[Case]:
    """The wanted cases, the one that was acted on longest ago first. party_is: the member of the opening act's body that
    names whose case it is."""
    opened = (acts.c.kind == kind, acts.c.act == OPENING[kind])
    query = select(states).where(states.c.kind == kind, states.c.act_seq > wanted.after).order_by(states.c.act_seq)
    if wanted.state is not None:
        query = query.where(states.c.state == wanted.state)
    if wanted.party is not None:
        # Bodies are canonical JSON, in which a quote inside a text is escaped: this is the member itself and no text.
        member = canonical({party_is: wanted.party}).decode()[1:-1]
        query = query.where(
            states.c.subject.in_(select(acts.c.subject).where(*opened, acts.c.body.contains(member, autoescape=True)))
        )
    rows = list(tx.execute(query.limit(wanted.limit)).mappings())
    told = select(acts.c.subject, acts.c.body).where(*opened, acts.c.subject.in_([row["subject"] for row in rows]))
    bodies = {row.subject: json.loads(row.body) for row in tx.execute(told.order_by(acts.c.seq))} if rows else {}
    found = [
        Case(
            seq=row["act_seq"],
            subject=row["subject"],
            state=row["state"],
            since=timestamp(from_ms(row["since_ms"])),
            body=bodies.get(row["subject"], {}),
        )
        for row in rows
    ]
    return [each for each in found if wanted.party in (None, each.body.get(party_is))]
