"""Table of benchmarks: what was measured of devices, as submitted. Append-only and hash-chained; a later one stands beside it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table, Text

from scheduler.schema import chain_columns, metadata

benchmarks = Table(
    "benchmarks",
    metadata,
    *chain_columns(),
    Column("device", String, nullable=False, index=True),
    Column("node", String, nullable=False),
    Column("model", String, nullable=False),
    Column("at_ms", BigInteger, nullable=False),  # when it was measured, by the node's clock
    Column("document", Text, nullable=False),  # canonical JSON of `yisuan bench`
    Column("document_sha256", String(64), nullable=False),
    Column("log_sha256", String(64), nullable=False),
    Column("within", Integer),  # 1: in its model's band, 0: outside and for review, null: nothing to compare with
    Column("recorded_at_ms", BigInteger, nullable=False),
    Column("recorded_by", String, nullable=False),
)

CHAINED = {"benchmarks": benchmarks}
