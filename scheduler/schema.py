"""Tables of the work side. Instants are UTC milliseconds since 1970 (`*_at_ms`); money is fen; JSON is canonical text."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()


def chain_columns() -> list[Column[object]]:
    """What makes a table a hash chain (scheduler/journal.py): position, the hash before, the own hash."""
    return [
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
        Column("prev_hash", String(64), nullable=False),
        Column("hash", String(64), nullable=False),
    ]


chain_heads = Table(
    "chain_heads",
    metadata,
    Column("stream", String, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

pools = Table(
    "pools",
    metadata,
    Column("id", String, primary_key=True),
    Column("provider", String, nullable=False),
    Column("site", String, nullable=False),
    Column("region", String, nullable=False),
    Column("backend", String, nullable=False),
    Column("vendor", String, nullable=False),
    Column("model", String, nullable=False),
    Column("source", String, nullable=False),
    Column("price_fen_per_device_hour", BigInteger, nullable=False),
    Column("images", String, nullable=False, server_default=text("'none'")),  # none, required or either
    Column("listed", Integer, nullable=False, server_default=text("1")),
    Column("created_at_ms", BigInteger, nullable=False),
    CheckConstraint("price_fen_per_device_hour >= 0", name="pool_price_not_negative"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", String, primary_key=True),
    Column("pool", String, ForeignKey("pools.id"), nullable=False, index=True),
    Column("cpu_milli", BigInteger),
    Column("memory_bytes", BigInteger),
    Column("rack", String),
    Column("schedulable", Integer, nullable=False, server_default=text("1")),
    Column("heartbeat_at_ms", BigInteger),
    Column("created_at_ms", BigInteger, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("uuid", String, primary_key=True),
    Column("node", String, ForeignKey("nodes.id"), nullable=False, index=True),
    Column("idx", Integer, nullable=False),
    Column("vendor", String, nullable=False),
    Column("model", String),
    Column("model_raw", String, nullable=False),
    Column("serial", String),
    Column("pci_bdf", String),
    Column("visible_id", String),
    Column("memory_total_bytes", BigInteger),
    Column("driver_version", String),
    Column("health", String, nullable=False),
    Column("source", String, nullable=False),
    Column("evidence_level", Integer, nullable=False),
    Column("problems", Text, nullable=False, server_default=text("'[]'")),
    Column("health_code", String),
    Column("partition", Text),  # {kind, parent_uuid, profile} of a part, None for a whole device
    Column("leasable", Integer, nullable=False, server_default=text("1")),  # 0: jobs get its parts, or it has gone
)

queues = Table(
    "queues",
    metadata,
    Column("name", String, primary_key=True),
    Column("nominal_devices", Integer),
    Column("cohort", String),  # queues of one cohort lend each other what they do not use
    Column("borrowing_limit", Integer),
    Column("lending_limit", Integer),
    Column("weight", Integer, nullable=False, server_default=text("1")),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("firm", String, nullable=False, index=True),
    Column("queue", String, nullable=False),
    Column("priority", String, nullable=False),
    Column("spec", Text, nullable=False),
    Column("spec_sha256", String(64), nullable=False),
    Column("submitted_at_ms", BigInteger, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("version", Integer, nullable=False, server_default=text("0")),
    Column("pending", Text),
    Column("pending_since_ms", BigInteger),
    Column("cancel_requested_at_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
    Column("exit_code", Integer),
    Column("cause", String),
    Column("held_by", String),  # who holds it back, a role; a job that may start has none
    Column("deadline_at_ms", BigInteger),
    Column("array_id", String, index=True),  # the id its elements share
    Column("array_index", Integer),
    Column("array_parallel", Integer),  # how many of them may hold devices at once
)

job_events = Table(
    "job_events",
    metadata,
    *chain_columns(),
    Column("job", String, nullable=False, index=True),
    Column("lease", String),
    Column("at_ms", BigInteger, nullable=False),
    Column("event", String, nullable=False),
    Column("state_from", String),
    Column("state_to", String, nullable=False),
    Column("facts", Text, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("id", String, primary_key=True),
    Column("job", String, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("firm", String, nullable=False),
    Column("queue", String, nullable=False),
    Column("pool", String, ForeignKey("pools.id"), nullable=False),
    Column("backend", String, nullable=False),
    Column("model", String, nullable=False),
    Column("source", String, nullable=False),
    Column("device_count", Integer, nullable=False),
    Column("price_fen_per_device_hour", BigInteger, nullable=False),
    Column("time_limit_ms", BigInteger, nullable=False),
    Column("based_on", BigInteger, nullable=False),
    Column("reserved_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("metered_until_ms", BigInteger),
    Column("stop_requested_at_ms", BigInteger),
    Column("stop_cause", String),
    Column("released_at_ms", BigInteger),
    Column("cause", String),
    Column("exit_code", Integer),
)
Index("lease_held", leases.c.id, sqlite_where=leases.c.released_at_ms.is_(None))

lease_devices = Table(
    "lease_devices",
    metadata,
    Column("lease", String, ForeignKey("leases.id"), primary_key=True),
    Column("device", String, ForeignKey("devices.uuid"), primary_key=True),
    Column("node", String, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("idx", Integer, nullable=False),
    Column("released", Integer, nullable=False, server_default=text("0")),
)
# The wall against a double lease: one open row per device, whatever the code above it believes.
Index(
    "one_lease_per_device",
    lease_devices.c.device,
    unique=True,
    sqlite_where=lease_devices.c.released == 0,
    postgresql_where=lease_devices.c.released == 0,
)

usage_records = Table(
    "usage_records",
    metadata,
    *chain_columns(),
    Column("lease", String, nullable=False),
    Column("job", String, nullable=False, index=True),
    Column("firm", String, nullable=False, index=True),
    Column("provider", String, nullable=False),
    Column("site", String, nullable=False),
    Column("pool", String, nullable=False),
    Column("vendor", String, nullable=False),
    Column("model", String, nullable=False),
    Column("source", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("cause", String),
    Column("devices", Integer, nullable=False),
    Column("share_permille", Integer, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("price_fen_per_device_hour", BigInteger, nullable=False),
    CheckConstraint("end_ms >= start_ms", name="usage_ends_after_start"),
)
# One start per lease and kind: metering the same stretch twice is refused by the database.
Index("usage_once", usage_records.c.lease, usage_records.c.kind, usage_records.c.start_ms, unique=True)

job_progress = Table(  # what a job last said of itself; learnt_*: up to where its throughput was learnt
    "job_progress",
    metadata,
    Column("job", String, ForeignKey("jobs.id"), primary_key=True),
    Column("lease", String, ForeignKey("leases.id"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),
    Column("total_steps", BigInteger),
    Column("checkpointed_at_ms", BigInteger),
    Column("checkpointed_steps", BigInteger),
    Column("learnt_at_ms", BigInteger, nullable=False),
    Column("learnt_steps", BigInteger, nullable=False),
)

throughputs = Table(
    "throughputs",
    metadata,
    Column("firm", String, primary_key=True),
    Column("workload", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("devices", Integer, primary_key=True),
    Column("steps_per_ks", BigInteger, nullable=False),
    Column("source", String, nullable=False),
    Column("error_permille", Integer),
    Column("updated_at_ms", BigInteger, nullable=False),
)

lease_moves = Table(  # a lease that stops so that its job goes on elsewhere; over: it has, or it could not
    "lease_moves",
    metadata,
    Column("lease", String, ForeignKey("leases.id"), primary_key=True),
    Column("members", Text, nullable=False),
    Column("moved", Integer, nullable=False),
    Column("asked_at_ms", BigInteger, nullable=False),
    Column("over", Integer, nullable=False, server_default=text("0")),
)

samples = Table(
    "samples",
    metadata,
    Column("device", String, primary_key=True),
    Column("at_ms", BigInteger, primary_key=True),
    Column("utilisation_ratio", Float),
    Column("utilisation_semantics", String),
    Column("memory_used_bytes", BigInteger),
    Column("power_watts", Float),
    Column("temperature_celsius", Float),
    Column("more", Text),  # the other readings that are known, as JSON by their names
)

device_events = Table(  # what drivers said of devices: XIDs and their like
    "device_events",
    metadata,
    Column("device", String, primary_key=True),
    Column("at_ms", BigInteger, primary_key=True),
    Column("code", String, primary_key=True),
    Column("severity", String),
    Column("text", Text),
)

CHAINED = {"job_events": job_events, "usage_records": usage_records}
