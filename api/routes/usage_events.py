"""Usage events: agents enrol a key with a one-time code, send what they swear to, and the zone can look at it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime, Field, model_validator
from sqlalchemy import Connection, Table, select

from adapters.chain import timestamp
from adapters.event import EventInvalid
from api import schemas
from api.auth import Authorised
from api.idempotency import Posted
from api.problems import Problem
from api.routes.binding import speak_for, speak_in
from api.routes.shared import Cursor, Limit, Shared, number_of, page
from metering import enrolment, quarantine
from metering.event_schema import quarantined_events, usage_events
from metering.events import Outcome, close_stream, examine, ingest
from metering.verification import processes
from scheduler.clock import from_ms
from scheduler.refusal import Refusal

routes = APIRouter(tags=["agents"])
EVENTS_MAX = 1_000  # a batch; the body's own limit is api.idempotency.BODY_MAX
Word = Annotated[str, Field(min_length=1, max_length=200)]


class Enrolment(schemas.Body):
    """For which node of which site a key may be enrolled."""

    site: schemas.Id
    node: schemas.Id
    hours: Annotated[int, Field(ge=1, le=24 * 7, description="How long the code is good.")] = 24


class AgentKey(schemas.Body):
    """A node's public key with the one-time code and a signature over both (metering/enrolment.py)."""

    code: Word
    public_key: Word
    proof: Word


class Rotation(schemas.Body):
    """A new key for the node of an old one, signed by both."""

    public_key: Word
    at: Annotated[AwareDatetime, Field(strict=False)]
    proof: Word
    old_proof: Word


class Revocation(schemas.Body):
    """From when on the key is not believed; left out: from now on."""

    since: Annotated[AwareDatetime | None, Field(strict=False)] = None
    reason: schemas.Name


class Events(schemas.Body):
    """Signed CloudEvents, in any order. sent_at: the agent's clock when it sent them."""

    events: Annotated[list[Any], Field(min_length=1, max_length=EVENTS_MAX)]
    sent_at: Annotated[AwareDatetime | None, Field(strict=False)] = None

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        """Each event is judged by itself: one that cannot be stored is kept apart, and holds up no other."""
        return value


class Verdict(schemas.Body):
    """What becomes of an event that was kept apart: admit (only where a clock was off) or reject."""

    action: Literal["admit", "reject"]
    reason: schemas.Name


class Closing(schemas.Body):
    """A stream whose stop is lost."""

    source: Word
    boot: Word
    allocation: Word
    reason: schemas.Name


@routes.post("/v1/agents/enrolments", status_code=201)
def issue(body: Enrolment, once: Posted, services: Shared) -> Response:
    """A one-time code for a node's agent, shown this once."""

    def act(tx: Connection) -> Any:
        got = enrolment.issue_code(
            tx,
            site=body.site,
            node=body.node,
            by=once.principal.key_id,
            now=services.clock.now(),
            provider=once.principal.provider,
            lasts=timedelta(hours=body.hours),
        )
        return got if isinstance(got, Refusal) else {"site": body.site, "node": body.node, "code": got}

    return once.do(act, kept=lambda shown: {**shown, "code": None})


@routes.get("/v1/agents/enrolments")
def enrolled(who: Authorised, services: Shared) -> dict[str, Any]:
    """Every key that speaks or spoke for a node, with when it stopped."""
    with services.database.read() as tx:
        return {"items": enrolment.enrolments(tx, who.provider), "next_cursor": None}


@routes.post("/v1/agents/keys", status_code=201)
def enrol(body: AgentKey, services: Shared) -> Response:
    """The key speaks for the code's node. No API key: the code is the secret, and the same call answers the same."""
    with services.database.write() as tx:
        got = _understood(
            lambda: enrolment.enrol(tx, code=body.code, key=body.public_key, proof=body.proof, now=services.clock.now())
        )
    if isinstance(got, Refusal):
        raise Problem(409, got.code, got.facts)
    return JSONResponse(got, status_code=201)


@routes.post("/v1/agents/keys/{key}/rotate", status_code=201)
def rotate(key: str, body: Rotation, once: Posted, services: Shared) -> Response:
    """A new key speaks for the node; what the old one signed before `at` stays valid."""
    with services.database.read() as tx:
        known = enrolment.keys_of(tx, [key]).get(key)
    if known is not None:
        speak_for(once.principal, known["node"])
    return once.do(
        lambda tx: _understood(
            lambda: enrolment.rotate(
                tx,
                old=key,
                key=body.public_key,
                at=_whole(body.at),
                proof=body.proof,
                old_proof=body.old_proof,
                now=services.clock.now(),
            )
        )
    )


@routes.post("/v1/agents/keys/{key}/revoke", status_code=200)
def revoke(key: str, body: Revocation, once: Posted, services: Shared) -> Response:
    """Events with a later time under this key are refused; those before stay valid."""

    def act(tx: Connection) -> Any:
        now = services.clock.now()
        return enrolment.revoke(
            tx,
            key=key,
            since=body.since or now,
            by=once.principal.key_id,
            reason=body.reason,
            now=now,
            provider=once.principal.provider,
        )

    return once.do(act, 200)


@routes.post("/v1/usage-events", status_code=200)
def receive(body: Events, once: Posted, services: Shared) -> Response:
    """One answer per event, in order: accepted, duplicate or quarantined, with why."""

    speak_in(once.principal, body.events)
    with services.database.read() as tx:
        examined = examine(tx, body.events, processes())

    def act(tx: Connection) -> dict[str, Any]:
        outcomes = ingest(tx, examined, services.clock.now(), sent_at=body.sent_at)
        return {"items": [_answer(outcome) for outcome in outcomes]}

    return once.do(act, 200)


@routes.post("/v1/usage-events/closed-streams", status_code=200)
def close(body: Closing, once: Posted, services: Shared) -> Response:
    """A lost stop is lost: the stream counts to its last proof of life and is final."""
    stream = (body.source, body.boot, body.allocation)

    def act(tx: Connection) -> Any:
        refusal = close_stream(tx, stream, by=once.principal.key_id, reason=body.reason, now=services.clock.now())
        return refusal or {"source": body.source, "boot": body.boot, "allocation": body.allocation}

    return once.do(act, 200)


@routes.get("/v1/usage-events")
def shown(
    who: Authorised,
    services: Shared,
    allocation: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Events as they were signed, in the order they came."""
    del who
    items = _rows(services, usage_events, {"allocation": allocation}, cursor, limit + 1)
    return page([_event(row) for row in items], limit, lambda item: str(item["number"]))


@routes.get("/v1/usage-events/quarantined")
def quarantined(
    who: Authorised,
    services: Shared,
    source: Annotated[str | None, Query(max_length=400)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """What came and could not be believed, with why."""
    del who
    items = _rows(services, quarantined_events, {"source": source}, cursor, limit + 1)
    return page([_kept_apart(row) for row in items], limit, lambda item: str(item["number"]))


@routes.post("/v1/usage-events/quarantined/{number}/answers", status_code=200)
def answer(number: Annotated[int, Path(ge=1, lt=1 << 63)], body: Verdict, once: Posted, services: Shared) -> Response:
    """The event is stored with the others, or stays apart for good; who and why is on record."""
    actor = once.principal.actor

    def act(tx: Connection) -> Any:
        said = {"action": body.action, "reason": body.reason}
        return quarantine.answer(tx, number=number, actor=actor, now=services.clock.now(), **said)

    return once.do(act, 200)


def _rows(services: Shared, table: Table, wanted: dict[str, str | None], cursor: str | None, limit: int) -> Any:
    query = select(table).where(table.c.number > int(number_of(cursor) or 0)).order_by(table.c.number).limit(limit)
    query = query.filter_by(**{name: value for name, value in wanted.items() if value is not None})
    with services.database.read() as tx:
        return tx.execute(query).mappings().all()


def _event(row: Any) -> dict[str, Any]:
    return {
        "number": row["number"],
        "event": {**json.loads(row["raw"]), "signature": row["signature"]},
        "hash": row["hash"],
        "received_at": timestamp(from_ms(row["received_at_ms"])),
        "skew_ms": row["skew_ms"],
    }


def _kept_apart(row: Any) -> dict[str, Any]:
    found = {name: row[name] for name in ("number", "source", "code", "raw")}
    received = timestamp(from_ms(row["received_at_ms"]))
    return {**found, "id": row["event_id"], "facts": json.loads(row["facts"]), "received_at": received}


def _answer(outcome: Outcome) -> dict[str, Any]:
    return {"id": outcome.id, "status": outcome.status, "code": outcome.code, "facts": dict(outcome.facts)}


def _understood(act: Any) -> Any:
    """The act's answer; what is neither a key nor a signature is a problem with the field's name."""
    try:
        return act()
    except EventInvalid as wrong:
        error = {"pointer": f"/{wrong.field}", "detail": f"not {wrong.expected}", "value": ascii(wrong.value)[1:81]}
        raise Problem(422, "INPUT_INVALID", {}, [error]) from None


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
