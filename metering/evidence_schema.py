"""Tables of evidence: what was put on record about devices, and the nonces the platform gave out.

`evidence_records` is append-only (triggers) and hash-chained; a level is never stored, it is decided from these each time.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, Text

from scheduler.schema import chain_columns, metadata

evidence_records = Table(
    "evidence_records",
    metadata,
    *chain_columns(),
    Column("device", String, nullable=False, index=True),
    Column("node", String, nullable=False),
    Column("kind", String, nullable=False),  # metering.evidence_level.Kind
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger),
    Column("facts", Text, nullable=False),  # canonical JSON, by kind; with the versions of rules and catalogue
    Column(
        "document_sha256", String(64)
    ),  # of what it rests on: the statement, the audit's paper, the benchmark's result
    Column("recorded_at_ms", BigInteger, nullable=False),
    Column("recorded_by", String, nullable=False),
)

evidence_challenges = Table(
    "evidence_challenges",
    metadata,
    Column("nonce_sha256", String(64), primary_key=True),
    Column("node", String, nullable=False),
    Column("issued_by", String, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("used_at_ms", BigInteger),
    Index("challenge_of_node", "node", "issued_at_ms"),
)

CHAINED = {"evidence_records": evidence_records}
