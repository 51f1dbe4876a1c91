"""Events: signed usage events are checked, stored once, and what cannot be believed is kept apart, in the open.

A repetition is told by the database (UNIQUE source, id) in the transaction that stores the event, so a failed
transaction leaves neither the event nor the memory of it. One bad event never holds up another: events are first
stored together, and only where the database refuses, stream by stream and then one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Column, Connection, RowMapping, Table, Text, bindparam, cast, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from adapters.chain import timestamp
from adapters.event import Event, EventInvalid, Signed, parse
from metering import event_streams
from metering.enrolment import keys_of
from metering.event_fault import Fault, claimed, keep_apart
from metering.event_schema import closed_streams, event_batches, usage_events
from metering.event_schema import event_streams as streams
from metering.event_streams import among
from metering.merkle import leaf_hash, root_of
from metering.metered import Metered, Stream, disagreement, metered
from metering.store import open_review
from metering.verification import Verifier, verify_here
from scheduler.clock import from_ms, to_ms
from scheduler.journal import append
from scheduler.refusal import Refusal
from scheduler.schema import devices

SKEW_LIMIT = timedelta(minutes=5)
SILENCE = timedelta(minutes=10)  # no heartbeat for so long: somebody has to look (ten are lost at one a minute)

Status = Literal["accepted", "duplicate", "quarantined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one event of a batch. code: why it is quarantined, None otherwise."""

    id: str | None
    source: str | None
    status: Status
    code: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """An event that is stored or about to be."""

    event: Event
    hash: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Examined:
    """A batch that was read, and whose signatures were verified with the keys enrolled then.

    held: by place, whether the signature is by the key that the event names; no entry where that key was unknown.
    """

    documents: Sequence[object]
    read: Sequence[Signed | Fault]
    held: Mapping[int, bool]


def examine(tx: Connection, batch: Sequence[object], verifier: Verifier = verify_here) -> Examined:
    """All that can be said of a batch without writing, so that `ingest` holds up other writers for as little as possible.

    A key's public half never changes, so what verified here verifies for good; whether it still speaks is asked later.
    """
    read = [_read(document) for document in batch]
    keys = keys_of(tx, {one.event.key_id for one in read if isinstance(one, Signed)})
    return Examined(batch, read, _verified(read, keys, {}, verifier))


def ingest(
    tx: Connection,
    batch: Sequence[object] | Examined,
    now: datetime,
    *,
    sent_at: datetime | None = None,
    skew_limit: timedelta = SKEW_LIMIT,
) -> list[Outcome]:
    """Every event of the batch is stored, known already, or quarantined with a review item; one outcome each, in order.

    sent_at: the agent's clock when it sent, if it said so. An event from further ahead than `skew_limit`, or from an
    agent whose clock is further off, is quarantined; late events are welcome.
    """
    examined = batch if isinstance(batch, Examined) else examine(tx, batch)
    batch = examined.documents
    skew_ms = None if sent_at is None else to_ms(sent_at) - to_ms(now)
    judged = _judge(tx, examined, now, skew_ms, skew_limit)
    good = [one for one in judged if isinstance(one, Signed)]
    known = _neighbours(tx, good)
    fates: list[Fault | Status | None] = [one if isinstance(one, Fault) else None for one in judged]
    fresh: list[tuple[int, Signed]] = []
    for place, signed in enumerate(judged):
        if isinstance(signed, Fault):
            continue
        fate = _compare(signed, known)
        fates[place] = fate
        if fate is None:
            known[signed.event.source, signed.event.id] = _Known(signed.event, signed.hash, signed.body_sha256)
            fresh.append((place, signed))
    refused = _store(tx, [signed for _, signed in fresh], now, skew_ms)
    if len(refused) < len(fresh):
        _seal(tx, now)
    for place, signed in fresh:
        fates[place] = refused.get((signed.event.source, signed.event.id), "accepted")
    keep_apart(tx, [(batch[i], judged[i], fate) for i, fate in enumerate(fates) if isinstance(fate, Fault)], now)
    return [_outcome(document, one, fate) for document, one, fate in zip(batch, judged, fates, strict=True)]


# --- 1. each event by itself ----------------------------------------------------------------------


def _judge(
    tx: Connection, examined: Examined, now: datetime, skew_ms: int | None, limit: timedelta
) -> list[Signed | Fault]:
    read = examined.read
    found = [one for one in read if isinstance(one, Signed)]
    keys = keys_of(tx, {signed.event.key_id for signed in found})
    held = _verified(read, keys, examined.held, verify_here)
    names = sorted({device for signed in found for device in signed.event.devices})
    home = select(devices.c.uuid, devices.c.node).where(among(tx, devices.c.uuid, names))
    homes = {row.uuid: row.node for row in tx.execute(home)}
    now_ms, limit_ms = to_ms(now), limit // timedelta(milliseconds=1)
    return [
        one if isinstance(one, Fault) else _believe(one, keys, held.get(place), homes, now_ms, skew_ms, limit_ms)
        for place, one in enumerate(read)
    ]


def _verified(
    read: Sequence[Signed | Fault], keys: Mapping[str, RowMapping], known: Mapping[int, bool], verifier: Verifier
) -> Mapping[int, bool]:
    """What is known, and whether the other signatures are by the keys, as far as these are enrolled."""
    places, claims = [], []
    for place, one in enumerate(read):
        if isinstance(one, Signed) and place not in known and one.event.key_id in keys:
            places.append(place)
            claims.append((str(keys[one.event.key_id]["public_key"]), one.raw, one.signature))
    return {**known, **dict(zip(places, verifier(claims), strict=True))} if places else known


def _read(document: object) -> Signed | Fault:
    try:
        return parse(document)
    except EventInvalid as problem:
        facts = {"field": problem.field, "value": ascii(problem.value)[:80], "expected": problem.expected[:400]}
        return Fault("EVENT_INVALID", facts)


def _believe(
    signed: Signed,
    keys: Mapping[str, RowMapping],
    held: bool | None,
    homes: Mapping[str, str],
    now_ms: int,
    skew_ms: int | None,
    limit_ms: int,
) -> Signed | Fault:
    event, key = signed.event, keys.get(signed.event.key_id)
    if key is None:
        return Fault("EVENT_KEY_UNKNOWN", {"key": event.key_id})
    if not held:
        return Fault("EVENT_SIGNATURE_INVALID", {"id": event.id, "key": event.key_id})
    if key["node"] != event.node:
        return Fault("EVENT_KEY_OF_ANOTHER_NODE", {"key": event.key_id, "node": key["node"], "claimed": event.node})
    time_ms = to_ms(event.at)
    if key["revoked_from_ms"] is not None and time_ms >= key["revoked_from_ms"]:
        since = timestamp(from_ms(key["revoked_from_ms"]))
        return Fault("EVENT_KEY_REVOKED", {"key": event.key_id, "revoked_at": since, "event_at": timestamp(event.at)})
    off = max(time_ms - now_ms, abs(skew_ms or 0))
    if off > limit_ms:
        return Fault("EVENT_CLOCK_SKEWED", {"id": event.id, "skew_duration_ms": off, "limit_duration_ms": limit_ms})
    strange = sorted(device for device in event.devices if homes.get(device) != event.node)
    if strange:
        return Fault("EVENT_DEVICE_UNKNOWN", {"node": event.node, "devices": strange[:16]})
    return signed


# --- 2. beside what is known ----------------------------------------------------------------------


def _neighbours(tx: Connection, found: Iterable[Signed]) -> dict[tuple[str, str], _Known]:
    """What is stored under the events' own ids and those of their neighbours."""
    wanted = sorted({_id_at(s.event, s.event.seq + step) for s in found for step in (-1, 0, 1)})
    known = {}
    query = select(usage_events.c.raw, usage_events.c.signature, usage_events.c.hash, usage_events.c.body_sha256)
    for row in tx.execute(query.where(among(tx, usage_events.c.event_id, wanted))):
        event = _event(row.raw, row.signature)
        known[event.source, event.id] = _Known(event, row.hash, row.body_sha256)
    return known


def _compare(signed: Signed, known: Mapping[tuple[str, str], _Known]) -> Fault | Status | None:
    """Whether it repeats, contradicts, or (None) adds to what is known."""
    event = signed.event
    same = known.get((event.source, event.id))
    if same is not None:
        if same.body_sha256 == signed.body_sha256:
            return "duplicate"
        facts = {"id": event.id, "stored_sha256": same.body_sha256, "other_sha256": signed.body_sha256}
        return Fault("EVENT_CONFLICT", facts)
    before = known.get((event.source, _id_at(event, event.seq - 1)))
    after = known.get((event.source, _id_at(event, event.seq + 1)))
    code = None if before is None else disagreement(before.event, before.hash, event)
    if code is None and after is not None:
        code = disagreement(event, signed.hash, after.event)
    return None if code is None else Fault(code, {"id": event.id})


def _id_at(event: Event, seq: int) -> str:
    return f"{event.node}:{event.boot}:{event.allocation}:{seq}"


# --- 3. store -------------------------------------------------------------------------------------


def _store(
    tx: Connection, fresh: Sequence[Signed], now: datetime, skew_ms: int | None
) -> dict[tuple[str, str], Fault | Status]:
    """All are stored with their streams and device intervals, but for those returned with their fate."""
    if not fresh:
        return {}
    try:
        with tx.begin_nested():
            return _insert(tx, fresh, now, skew_ms)
    except IntegrityError as problem:
        if event_streams.EXCEEDED not in str(problem.orig):
            raise
    by_stream: dict[Stream, list[Signed]] = {}
    for signed in fresh:
        by_stream.setdefault(signed.event.stream, []).append(signed)
    fates: dict[tuple[str, str], Fault | Status] = {}
    if len(by_stream) > 1:
        for mine in by_stream.values():
            fates |= _store(tx, mine, now, skew_ms)
    elif len(fresh) > 1:
        for signed in sorted(fresh, key=lambda one: one.event.seq):
            fates |= _store(tx, [signed], now, skew_ms)
    else:
        event = fresh[0].event
        facts = {"allocation": event.allocation, "others": event_streams.rivals(tx, event)}
        fates[event.source, event.id] = Fault("DEVICE_SHARES_EXCEEDED", facts)
    return fates


def _insert(
    tx: Connection, fresh: Sequence[Signed], now: datetime, skew_ms: int | None
) -> dict[tuple[str, str], Fault | Status]:
    received = to_ms(now)
    stored = _add(tx, [_row(signed, received, skew_ms) for signed in fresh])
    # Database.write() lets one writer in at a time; where another one came between all the same, what it stored is a
    # repetition or a contradiction like any other.
    lost = [signed for signed in fresh if (signed.event.source, signed.event.id) not in stored]
    fates: dict[tuple[str, str], Fault | Status] = {}
    if lost:
        known = _neighbours(tx, lost)
        for signed in lost:
            fates[signed.event.source, signed.event.id] = _compare(signed, known) or "duplicate"
    event_streams.advance(tx, [s.event for s in fresh if (s.event.source, s.event.id) in stored], now)
    return fates


def _seal(tx: Connection, now: datetime) -> None:
    """What the transaction stored is one record of a chained table, and so in every checkpoint from now on."""
    b, u = event_batches.c, usage_events.c
    last = tx.execute(select(b.last_number).order_by(b.seq.desc()).limit(1)).scalar() or 0
    found = tx.execute(select(u.number, u.hash).where(u.number > last).order_by(u.number)).all()
    root = root_of(leaf_hash(bytes.fromhex(row.hash)) for row in found)
    record = {"last_number": found[-1].number, "events": len(found), "root": root.hex(), "received_at_ms": to_ms(now)}
    append(tx, event_batches, record)


def _add(tx: Connection, rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """(source, id) of those that were not there. UNIQUE(source, event_id) decides, in the statement that writes."""
    once: dict[str, Any] = {"index_elements": ["source", "event_id"]}
    shown = (usage_events.c.source, usage_events.c.event_id)
    if tx.dialect.name != "postgresql":
        many = sqlite.insert(usage_events).on_conflict_do_nothing(**once).returning(*shown)
        return {(row.source, row.event_id) for row in tx.execute(many, rows)}
    # One parameter for all rows: reading a statement with a thousand of them takes the driver longer than the insert.
    columns = [Column(name, usage_events.c[name].type) for name in rows[0]]
    given = cast(bindparam("rows", type_=Text), postgresql.JSON)
    record = func.json_populate_recordset(literal_column("NULL::usage_events"), given).table_valued(*columns)
    whole = postgresql.insert(usage_events).from_select(list(rows[0]), select(*record.c))
    statement = whole.on_conflict_do_nothing(**once).returning(*shown)
    return {(row.source, row.event_id) for row in tx.execute(statement, {"rows": json.dumps(rows)})}


def columns_of(signed: Signed) -> dict[str, Any]:
    """What the columns of a stored event say, from its signed bytes: time_ms and monotonic_ms in milliseconds."""
    event = signed.event
    return {
        "source": event.source,
        "event_id": event.id,
        "kind": event.kind.value,
        "node": event.node,
        "boot": event.boot,
        "allocation": event.allocation,
        "seq": event.seq,
        "time_ms": to_ms(event.at),
        "monotonic_ms": event.monotonic_ms,
        "prev_hash": event.prev_hash,
        "hash": signed.hash,
        "body_sha256": signed.body_sha256,
        "key_id": event.key_id,
    }


def _row(signed: Signed, received_at_ms: int, skew_ms: int | None) -> dict[str, Any]:
    return {
        **columns_of(signed),
        "signature": signed.signature_text,
        "raw": signed.raw.decode(),
        "received_at_ms": received_at_ms,
        "skew_ms": skew_ms,
    }


def _outcome(document: object, judged: Signed | Fault, fate: Fault | Status | None) -> Outcome:
    source, identity = claimed(document) if isinstance(judged, Fault) else (judged.event.source, judged.event.id)
    if isinstance(fate, Fault):
        return Outcome(id=identity, source=source, status="quarantined", code=fate.code, facts=fate.facts)
    assert fate is not None, "every event has a fate"
    return Outcome(id=identity, source=source, status=fate)


# --- reading --------------------------------------------------------------------------------------


def events_of(tx: Connection, allocation: str, *, as_known_at: datetime | None = None) -> list[Event]:
    """The allocation's events, or those that had been received by a moment: every report can be made again."""
    query = select(usage_events.c.raw, usage_events.c.signature).where(usage_events.c.allocation == allocation)
    if as_known_at is not None:
        query = query.where(usage_events.c.received_at_ms <= to_ms(as_known_at))
    ordered = query.order_by(usage_events.c.node, usage_events.c.boot, usage_events.c.seq)
    return [_event(row.raw, row.signature) for row in tx.execute(ordered)]


def metered_of(tx: Connection, allocation: str, *, as_known_at: datetime | None = None) -> Metered:
    """What an allocation used, as far as its stored events prove it."""
    query = select(closed_streams).where(closed_streams.c.allocation == allocation)
    if as_known_at is not None:
        query = query.where(closed_streams.c.closed_at_ms <= to_ms(as_known_at))
    closed = {(row.source, row.boot, row.allocation) for row in tx.execute(query)}
    return metered(allocation, events_of(tx, allocation, as_known_at=as_known_at), closed)


def close_stream(tx: Connection, stream: Stream, *, by: str, reason: str, now: datetime) -> Refusal | None:
    """A lost stop is lost: the stream counts to its last proof of life and is final. Repeating changes nothing.

    An event that arrives later still counts; what was reported before can be made again with `as_known_at`.
    """
    source, boot, allocation = stream
    mine = {"source": source, "boot": boot, "allocation": allocation}
    if tx.execute(select(streams.c.events).filter_by(**mine)).first() is None:
        return Refusal(code="EVENT_STREAM_UNKNOWN", facts=mine)
    once = _insert_of(tx, closed_streams).on_conflict_do_nothing(index_elements=list(mine))
    tx.execute(once, [{**mine, "closed_at_ms": to_ms(now), "closed_by": by, "reason": reason}])
    return None


def watch(tx: Connection, now: datetime, *, silence: timedelta = SILENCE) -> list[Stream]:
    """Open streams that have not been heard of for so long; each has a review item, for none may bill on unseen."""
    quiet = select(streams).where(streams.c.stopped == 0, streams.c.received_at_ms <= to_ms(now - silence))
    found = []
    for row in tx.execute(quiet.order_by(streams.c.source, streams.c.boot, streams.c.allocation)).mappings().all():
        stream = (row["source"], row["boot"], row["allocation"])
        if tx.execute(select(closed_streams.c.reason).filter_by(**_named(stream))).first() is not None:
            continue
        facts = {"allocation": stream[2], "source": stream[0], "heard_at": timestamp(from_ms(row["received_at_ms"]))}
        open_review(tx, code="EVENT_STREAM_SILENT", subject=":".join(stream), facts=facts, now=now)
        found.append(stream)
    return found


def _named(stream: Stream) -> dict[str, str]:
    return dict(zip(("source", "boot", "allocation"), stream, strict=True))


def _event(raw: str, signature: str) -> Event:
    return parse({**json.loads(raw), "signature": signature}).event


def _insert_of(tx: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(table) if tx.dialect.name == "postgresql" else sqlite.insert(table)
