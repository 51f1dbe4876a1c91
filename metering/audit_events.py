"""Audit of the signed usage events. Each law gives the first broken record, or None.

Events are read once in the order of their streams and once in the order they came, a thousand at a time; of each
stream only where it stands is kept, and for each device only the intervals open at one instant.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, func, select

from adapters.event import Event, EventInvalid, Signed, key_id_of, parse, public_key, verify
from metering.event_schema import (
    agent_keys,
    device_intervals,
    event_batches,
    event_streams,
    quarantine_acts,
    quarantined_events,
    usage_events,
)
from metering.event_streams import Standing, begin, intervals_of
from metering.events import columns_of
from metering.merkle import leaf_hash, root_of
from metering.metered import Stream, disagreement
from scheduler.journal import rows

Broken = tuple[str, str]
WHOLE = 1000  # permille of a device


def laws(tx: Connection) -> list[tuple[str, Callable[[], Broken | None]]]:
    """Every law of usage events by name."""
    return [
        ("usage events verify and follow each other", lambda: _events(tx)),
        ("usage events are those that were sealed", lambda: _batches(tx)),
        ("no device metered beyond 1000 permille", lambda: _shares(tx)),
        ("quarantined events are answered once, in the open", lambda: _answered(tx)),
    ]


# --- each event, and each stream ------------------------------------------------------------------


def _events(tx: Connection) -> Broken | None:
    """Signatures, hashes, columns, order; and that streams and device intervals are what the events make them."""
    keys = _Keys(tx)
    streams = intervals = 0
    run: _Run | None = None
    u = usage_events.c
    for row in _streamed(tx, select(usage_events).order_by(u.allocation, u.node, u.boot, u.source, u.seq)):
        name = f"usage_events:{row['number']}"
        try:
            signed = parse({**json.loads(row["raw"]), "signature": row["signature"]})
        except (EventInvalid, ValueError) as problem:
            return name, f"not an event: {problem}"
        problem_ = _contradicts(row, signed) or keys.problem(row, signed)
        if problem_ is not None:
            return name, problem_
        if run is None or run.stream != signed.event.stream:
            broken = run.broken(tx) if run else None
            if broken is not None:
                return broken
            intervals += run.intervals if run else 0
            streams, run = streams + 1, _Run(signed.event, row["received_at_ms"])
        problem_ = run.take(signed, row["received_at_ms"])
        if problem_ is not None:
            return name, problem_
    broken = run.broken(tx) if run else None
    if broken is not None:
        return broken
    intervals += run.intervals if run else 0
    for table, count in ((event_streams, streams), (device_intervals, intervals)):
        stored = tx.execute(select(func.count()).select_from(table)).scalar_one()
        if stored != count:
            return table.name, f"has {stored} rows, the events make {count}"
    return None


def _contradicts(row: Mapping[str, Any], signed: Signed) -> str | None:
    """Which column says something else than the signed bytes."""
    if row["raw"] != signed.raw.decode():
        return "raw is not the canonical form of what it says"
    told = columns_of(signed)
    return next(
        (f"{name} is {row[name]!r}, signed was {told[name]!r}" for name in told if row[name] != told[name]), None
    )


class _Keys:
    """The enrolled keys, each opened once."""

    def __init__(self, tx: Connection) -> None:
        self._rows = {row["id"]: row for row in tx.execute(select(agent_keys)).mappings()}
        self._open: dict[str, Ed25519PublicKey] = {}

    def problem(self, row: Mapping[str, Any], signed: Signed) -> str | None:
        """Why the event was not the word of a key that spoke for its node then; None if it was."""
        identity = signed.event.key_id
        key = self._rows.get(identity)
        if key is None:
            return f"key {identity} was never enrolled"
        if identity not in self._open:
            self._open[identity] = public_key(key["public_key"])
        opened = self._open[identity]
        if key_id_of(opened) != identity:
            return f"agent_keys:{identity} is not the thumbprint of the key it holds"
        if key["node"] != signed.event.node:
            return f"key {identity} is node {key['node']}'s"
        if not verify(signed, opened):
            return f"the signature is not by key {identity}"
        ended = key["revoked_from_ms"]
        if ended is not None and row["time_ms"] >= ended and row["received_at_ms"] > key["revoked_at_ms"]:
            return f"key {identity} was revoked before it was received"
        return None


class _Run:
    """One stream as its events, in order of seq, make it."""

    def __init__(self, first: Event, received_at_ms: int) -> None:
        self.stream: Stream = first.stream
        self.intervals = 0
        self._standing: Standing = begin(first, received_at_ms)
        self._told: list[Event] = []  # where the devices change, and the last one: all that placements read
        self._last: Signed | None = None

    def take(self, signed: Signed, received_at_ms: int) -> str | None:
        """Why it cannot follow what came before it; None if it can."""
        event, last = signed.event, self._last
        if last is not None and event.seq == last.event.seq:
            return f"{event.id} is stored twice"
        if last is not None and event.seq == last.event.seq + 1:
            code = disagreement(last.event, last.hash, event)
            if code is not None:
                return f"{code} after {last.event.id}"
        self._standing.take(event, received_at_ms)
        told = self._told
        if len(told) > 1 and told[-2].devices == told[-1].devices == event.devices:
            told[-1] = event
        else:
            told.append(event)
        self._last = signed
        return None

    def broken(self, tx: Connection) -> Broken | None:
        """Where the derived tables say something else."""
        named = dict(zip(("source", "boot", "allocation"), self.stream, strict=True))
        name = ":".join(self.stream)
        row = tx.execute(select(event_streams).filter_by(**named)).mappings().first()
        values = {field: int(getattr(self._standing, field)) if field in ("moved", "stopped")
                  else getattr(self._standing, field) for field in Standing.__slots__}  # fmt: skip
        if row is None:
            return f"event_streams:{name}", "the stream is missing"
        for field, value in values.items():
            if row[field] != value:
                return f"event_streams:{name}", f"{field} is {row[field]!r}, its events make {value!r}"
        wanted = {(one["device"], one["part"]): one for one in intervals_of(self.stream, self._standing, self._told)}
        self.intervals = len(wanted)
        for one in tx.execute(select(device_intervals).filter_by(**named)).mappings():
            if wanted.pop((one["device"], one["part"]), None) != dict(one):
                return f"device_intervals:{name}:{one['device']}:{one['part']}", "is not what its events make"
        return next(((f"device_intervals:{name}:{d}:{part}", "the interval is missing") for d, part in wanted), None)


# --- the order they came in -----------------------------------------------------------------------


def _batches(tx: Connection) -> Broken | None:
    """Every event is in exactly one batch, in the order and at the time that the batch's root was made of."""
    events = _streamed(
        tx,
        select(usage_events.c.number, usage_events.c.hash, usage_events.c.received_at_ms).order_by(
            usage_events.c.number
        ),
    )
    waiting = next(events, None)
    for batch in rows(tx, event_batches):
        name, found = f"event_batches:{batch['seq']}", []
        while waiting is not None and waiting["number"] <= batch["last_number"]:
            if waiting["received_at_ms"] != batch["received_at_ms"]:
                return f"usage_events:{waiting['number']}", f"was not received when {name} says"
            found.append(leaf_hash(bytes.fromhex(waiting["hash"])))
            waiting = next(events, None)
        if len(found) != batch["events"]:
            return name, f"{batch['events']} events were stored together, {len(found)} are left"
        if root_of(found).hex() != batch["root"]:
            return name, "its events are not those that were stored, or not in their order"
    return None if waiting is None else (f"usage_events:{waiting['number']}", "is in no batch")


# --- devices --------------------------------------------------------------------------------------


def _shares(tx: Connection) -> Broken | None:
    """At no instant do the intervals of a device add up to more than all of it."""
    i = device_intervals.c
    device, total = "", 0
    ends: list[tuple[int, int]] = []
    for row in _streamed(tx, select(device_intervals).where(i.to_ms > i.from_ms).order_by(i.device, i.from_ms)):
        if row["device"] != device:
            device, total, ends = row["device"], 0, []
        while ends and ends[0][0] <= row["from_ms"]:
            total -= heapq.heappop(ends)[1]
        heapq.heappush(ends, (row["to_ms"], row["share_permille"]))
        total += row["share_permille"]
        if total > WHOLE:
            at = f"device_intervals:{row['source']}:{row['boot']}:{row['allocation']}:{device}:{row['part']}"
            return at, f"device {device} is metered at {total} permille from {row['from_ms']} ms on"
    return None


def _answered(tx: Connection) -> Broken | None:
    """Each answer is about an event that was kept apart, and one that was admitted is among the events."""
    q, a = quarantined_events.c, quarantine_acts.c
    query = select(a.quarantined, a.action, q.number, q.source, q.event_id).select_from(
        quarantine_acts.outerjoin(quarantined_events, q.number == a.quarantined)
    )
    for row in _streamed(tx, query.order_by(a.quarantined)):
        name = f"quarantine_acts:{row['quarantined']}"
        if row["number"] is None:
            return name, "answers for an event that is not there"
        if row["action"] == "admitted":
            kept = select(usage_events.c.number).filter_by(source=row["source"], event_id=row["event_id"])
            if tx.execute(kept).first() is None:
                return name, f"{row['event_id']} was admitted and is not among the events"
    return None


def _streamed(tx: Connection, query: Any) -> Iterator[Mapping[str, Any]]:
    with tx.execute(query, execution_options={"yield_per": 1000}) as result:
        for row in result:
            yield dict(row._mapping)
