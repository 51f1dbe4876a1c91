"""Signed usage events and the keys of the agents that sign them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from api.migrations.append_only import append_only

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("usage_events", "event_batches", "quarantined_events", "quarantine_acts", "closed_streams")
EXCEEDED = "device_intervals: the shares of a device pass 1000 permille"
# Where the sum of shares can be largest in [NEW.from_ms, NEW.to_ms): at its start, and where another interval starts.
# A zero-length interval holds nothing. Another row is one with another key; the row itself may grow.
OTHER = (
    "o.device = NEW.device AND NOT (o.source = NEW.source AND o.boot = NEW.boot "
    "AND o.allocation = NEW.allocation AND o.part = NEW.part)"
)
EXCEEDS = f"""
    SELECT 1 FROM (
        SELECT NEW.from_ms AS at
        UNION
        SELECT o.from_ms FROM device_intervals o
        WHERE {OTHER} AND o.to_ms > NEW.from_ms AND o.from_ms > NEW.from_ms AND o.from_ms < NEW.to_ms
    ) p
    WHERE NEW.to_ms > NEW.from_ms AND NEW.share_permille + (
        SELECT COALESCE(SUM(o.share_permille), 0) FROM device_intervals o
        WHERE {OTHER} AND o.to_ms > p.at AND o.from_ms <= p.at
    ) > 1000
"""  # noqa: S608 - the parts are the constants above


def upgrade() -> None:
    op.create_table(
        "agent_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("enrolled_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("enrolled_by", sa.String(), nullable=False),
        sa.Column("revoked_from_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_by", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_agent_keys_node"), "agent_keys", ["node"], unique=False)
    op.create_table(
        "closed_streams",
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("allocation", sa.String(), nullable=False),
        sa.Column("closed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("source", "boot", "allocation"),
    )
    op.create_table(
        "device_intervals",
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("allocation", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_ms", sa.BigInteger(), nullable=False),
        sa.Column("share_permille", sa.Integer(), nullable=False),
        sa.CheckConstraint("share_permille BETWEEN 1 AND 1000", name="share_of_a_device"),
        sa.CheckConstraint("to_ms >= from_ms", name="interval_ends_after_start"),
        sa.PrimaryKeyConstraint("source", "boot", "allocation", "device", "part"),
    )
    op.create_index("interval_of_device", "device_intervals", ["device", "to_ms"], unique=False)
    op.create_table(
        "enrolment_codes",
        sa.Column("code_sha256", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("issued_by", sa.String(), nullable=False),
        sa.Column("issued_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("code_sha256"),
    )
    op.create_index(op.f("ix_enrolment_codes_node"), "enrolment_codes", ["node"], unique=False)
    op.create_table(
        "event_streams",
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("allocation", sa.String(), nullable=False),
        sa.Column("anchor_seq", sa.BigInteger(), nullable=False),
        sa.Column("anchor_ms", sa.BigInteger(), nullable=False),
        sa.Column("reached_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("stopped", sa.Integer(), nullable=False),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("share_permille", sa.Integer(), nullable=False),
        sa.Column("moved", sa.Integer(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source", "boot", "allocation"),
    )
    op.create_index("stream_heard", "event_streams", ["stopped", "received_at_ms"], unique=False)
    op.create_index("stream_of_allocation", "event_streams", ["allocation"], unique=False)
    op.create_table(
        "event_batches",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_table(
        "quarantine_acts",
        sa.Column("quarantined", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("acted_by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("acted_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("action IN ('admitted', 'rejected')", name="quarantine_action"),
        sa.PrimaryKeyConstraint("quarantined"),
    )
    op.create_table(
        "quarantined_events",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("source", sa.String(), nullable=True),
        sa.Column("event_id", sa.String(), nullable=True),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("raw_sha256", sa.String(length=64), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("raw_sha256", "code", name="quarantined_once"),
    )
    op.create_table(
        "usage_events",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("allocation", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("monotonic_ms", sa.BigInteger(), nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("skew_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("event_id", "source", name="event_once"),
    )
    op.create_index("event_of_allocation", "usage_events", ["allocation", "node", "boot", "seq"], unique=False)
    for table in APPEND_ONLY:
        append_only(table)
    _share_devices()


def _share_devices() -> None:
    """From now on no instant of a device is promised more than once: its shares sum to at most 1000 permille."""
    if op.get_bind().dialect.name == "postgresql":
        # The lock makes two transactions that share a device out at once see each other's intervals.
        op.execute(
            "CREATE FUNCTION device_intervals_share() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM pg_advisory_xact_lock(hashtextextended(NEW.device, 2)); "
            f"IF EXISTS ({EXCEEDS}) THEN RAISE EXCEPTION '{EXCEEDED}' USING ERRCODE = 'exclusion_violation'; END IF; "
            "RETURN NEW; END $$"
        )
        op.execute(
            "CREATE TRIGGER device_intervals_share BEFORE INSERT OR UPDATE ON device_intervals "
            "FOR EACH ROW EXECUTE FUNCTION device_intervals_share()"
        )
        return
    for act in ("INSERT", "UPDATE"):
        op.execute(
            f"CREATE TRIGGER device_intervals_share_{act.lower()} BEFORE {act} ON device_intervals "
            f"WHEN EXISTS ({EXCEEDS}) BEGIN SELECT RAISE(ABORT, '{EXCEEDED}'); END"
        )


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
