"""Tables of the application itself: keys, sessions, replayed answers."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text

from metering import event_schema as _events  # noqa: F401 - the one metadata must know every table
from metering import schema as _money  # noqa: F401
from scheduler.schema import metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),  # provider | firm | operator | finance | auditor | agent
    Column("tenant", String),  # the firm's or provider's id; None for zone roles
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("key_id", String, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
)

idempotency = Table(  # a repeated POST with the same key and body answers what the first one answered
    "idempotency",
    metadata,
    Column("principal", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("status", Integer),
    Column("media_type", String),
    Column("body", LargeBinary),
    Column("headers", Text),
    Column("created_at_ms", BigInteger, nullable=False),
)
