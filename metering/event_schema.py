"""Tables of signed usage events: agents' keys, events, what was quarantined, and which device was whose when.

`usage_events`, `event_batches`, `quarantined_events`, `quarantine_acts` and `closed_streams` are append-only
(triggers); `event_batches` is hash-chained besides, and with it every event is in the checkpoints. `event_streams` and
`device_intervals` are derived from the events of their stream alone, and can be made again from them. That the
shares of a device never pass 1000 permille at any instant is enforced by triggers on `device_intervals`
(api/migrations/versions/0002_usage_events.py), whatever the code above believes.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, String, Table, Text, UniqueConstraint

from scheduler.schema import chain_columns, metadata

_NUMBER = BigInteger().with_variant(Integer, "sqlite")

enrolment_codes = Table(  # a one-time code that lets one node's agent enrol a key
    "enrolment_codes",
    metadata,
    Column("code_sha256", String(64), primary_key=True),
    Column("site", String, nullable=False),
    Column("node", String, nullable=False, index=True),
    Column("issued_by", String, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("used_at_ms", BigInteger),
    Column("key_id", String),  # the key it enrolled
)

agent_keys = Table(
    "agent_keys",
    metadata,
    Column("id", String, primary_key=True),  # RFC 7638 thumbprint
    Column("public_key", String, nullable=False),
    Column("site", String, nullable=False),
    Column("node", String, nullable=False, index=True),
    Column("enrolled_at_ms", BigInteger, nullable=False),
    Column("enrolled_by", String, nullable=False),  # code:<sha256> | key:<id of the key it replaces>
    Column("revoked_from_ms", BigInteger),  # events whose time is this or later are refused
    Column("revoked_at_ms", BigInteger),
    Column("revoked_by", String),
    Column("reason", String),
)

usage_events = Table(
    "usage_events",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("source", String, nullable=False),
    Column("event_id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("node", String, nullable=False),
    Column("boot", String, nullable=False),
    Column("allocation", String, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("time_ms", BigInteger, nullable=False),  # the agent's wall clock
    Column("monotonic_ms", BigInteger, nullable=False),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("body_sha256", String(64), nullable=False),
    Column("key_id", String, nullable=False),
    Column("signature", String, nullable=False),
    Column("raw", Text, nullable=False),  # the canonical bytes that were signed, UTF-8
    Column("received_at_ms", BigInteger, nullable=False),
    Column("skew_ms", BigInteger),  # the agent's clock minus ours when it sent; None when it did not say
    UniqueConstraint("event_id", "source", name="event_once"),  # in this order: neighbours are looked up by id
    Index("event_of_allocation", "allocation", "node", "boot", "seq"),
)

event_batches = Table(  # what one transaction stored, so that the order in which events came can be sealed
    "event_batches",
    metadata,
    *chain_columns(),
    Column("last_number", BigInteger, nullable=False),  # of usage_events; the first is above the batch before
    Column("events", BigInteger, nullable=False),
    Column("root", String(64), nullable=False),  # RFC 6962 tree hash over the events' hashes, in order of number
    Column("received_at_ms", BigInteger, nullable=False),
)

quarantined_events = Table(
    "quarantined_events",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("source", String),
    Column("event_id", String),
    Column("code", String, nullable=False),
    Column("facts", Text, nullable=False),
    Column("raw", Text, nullable=False),  # as far as it could be read, signature included
    Column("raw_sha256", String(64), nullable=False),
    Column("received_at_ms", BigInteger, nullable=False),
    UniqueConstraint("raw_sha256", "code", name="quarantined_once"),
)

quarantine_acts = Table(  # a person's answer to one event that was kept apart
    "quarantine_acts",
    metadata,
    Column("quarantined", BigInteger, primary_key=True, autoincrement=False),  # number of quarantined_events
    Column("action", String, nullable=False),  # admitted | rejected
    Column("acted_by", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("acted_at_ms", BigInteger, nullable=False),
    CheckConstraint("action IN ('admitted', 'rejected')", name="quarantine_action"),
)

closed_streams = Table(  # an operator's word where a stop was lost: bill to the last proof of life
    "closed_streams",
    metadata,
    Column("source", String, primary_key=True),
    Column("boot", String, primary_key=True),
    Column("allocation", String, primary_key=True),
    Column("closed_at_ms", BigInteger, nullable=False),
    Column("closed_by", String, nullable=False),
    Column("reason", String, nullable=False),
)

event_streams = Table(
    "event_streams",
    metadata,
    Column("source", String, primary_key=True),
    Column("boot", String, primary_key=True),
    Column("allocation", String, primary_key=True),
    Column("anchor_seq", BigInteger, nullable=False),  # the lowest seq seen: 1 once the start is here
    Column("anchor_ms", BigInteger, nullable=False),  # its time minus its monotonic_ms: where the stream begins
    Column("reached_ms", BigInteger, nullable=False),  # the largest monotonic_ms seen
    Column("last_seq", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("stopped", Integer, nullable=False),
    Column("devices", Text, nullable=False),
    Column("share_permille", Integer, nullable=False),
    Column("moved", Integer, nullable=False),  # 1: it held different devices at different times
    Column("received_at_ms", BigInteger, nullable=False),  # when we last heard of it
    Index("stream_of_allocation", "allocation"),
    Index("stream_heard", "stopped", "received_at_ms"),
)

device_intervals = Table(
    "device_intervals",
    metadata,
    Column("source", String, primary_key=True),
    Column("boot", String, primary_key=True),
    Column("allocation", String, primary_key=True),
    Column("device", String, primary_key=True),
    Column("part", Integer, primary_key=True),  # 0, or the place in a stream that moved
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger, nullable=False),
    Column("share_permille", Integer, nullable=False),
    CheckConstraint("to_ms >= from_ms", name="interval_ends_after_start"),
    CheckConstraint("share_permille BETWEEN 1 AND 1000", name="share_of_a_device"),
    Index("interval_of_device", "device", "to_ms"),
)

APPEND_ONLY = ("usage_events", "event_batches", "quarantined_events", "quarantine_acts", "closed_streams")
CHAINED = {"event_batches": event_batches}
