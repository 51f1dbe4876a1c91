"""Fault: why an event cannot be believed, and where it is kept all the same, apart and in the open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from adapters.event import Event, EventInvalid, Signed, parse
from metering.event_schema import quarantined_events
from metering.store import open_review
from scheduler.clock import to_ms

RAW_MAX = 16_384  # characters kept of a document that is not one of our events


@dataclass(frozen=True, slots=True)
class Fault:
    """A reason with its facts, in the words of a refusal."""

    code: str
    facts: Mapping[str, Any]


def keep_apart(tx: Connection, faulty: Sequence[tuple[object, Signed | Fault, Fault]], now: datetime) -> None:
    """They are kept as they came, once each, and somebody has to look: one review item per reason and stream."""
    rows: list[dict[str, Any]] = []
    items: dict[tuple[str, str], Mapping[str, Any]] = {}
    for document, judged, fault in faulty:
        raw = _text_of(document)
        event = judged.event if isinstance(judged, Signed) else _stream_of(document)
        source, identity = (event.source, event.id) if event is not None else claimed(document)
        rows.append(
            {
                "source": source,
                "event_id": identity,
                "code": fault.code,
                "facts": json.dumps(dict(fault.facts), sort_keys=True),
                "raw": raw[:RAW_MAX],
                "raw_sha256": hashlib.sha256(raw.encode()).hexdigest(),
                "received_at_ms": to_ms(now),
            }
        )
        subject = ":".join(event.stream) if event is not None else source or "unknown"
        items.setdefault((fault.code, subject), fault.facts)
    if rows:
        once = _insert(tx).on_conflict_do_nothing(index_elements=["raw_sha256", "code"])
        tx.execute(once, rows)
    for (code, subject), facts in items.items():
        open_review(tx, code=code, subject=subject, facts=facts, now=now)


def _text_of(document: object) -> str:
    """The document in ASCII, as JSON where it can be written as such."""
    try:
        return json.dumps(document, sort_keys=True, default=ascii)
    except (RecursionError, ValueError, TypeError) as problem:
        return f"not JSON: {type(problem).__name__}"


def _stream_of(document: object) -> Event | None:
    """The event that a document would be, whoever signed it; None if it is not one."""
    try:
        return parse(document).event
    except EventInvalid:
        return None


def claimed(document: object) -> tuple[str | None, str | None]:
    """The source and id that an unreadable document gives itself, in ASCII; None where it gives none."""
    if not isinstance(document, dict):
        return None, None
    given = (document.get("source"), document.get("id"))
    source, identity = (ascii(one)[1:-1][:400] if isinstance(one, str) else None for one in given)
    return source, identity


def _insert(tx: Connection) -> sqlite.Insert | postgresql.Insert:
    make = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    return make(quarantined_events)
