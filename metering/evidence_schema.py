"""Tables of evidence: what was put on record about devices, and the nonces the platform gave out.

`evidence_records` is append-only (triggers) and hash-chained; a level is never stored, it is decided from these each time.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text

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

# What the platform asks by itself (evidence_challenge.py). A row is drawn first, with when it is due, and issued at the node's first
# heartbeat after that; its nonce is known in clear, for what counts is the signature over it.
node_challenges = Table(
    "node_challenges",
    metadata,
    Column("id", String, primary_key=True),
    Column("node", String, nullable=False),
    Column("kind", String, nullable=False),  # statement | kernel
    Column("draws", Text, nullable=False),  # canonical JSON: what was drawn, of how many
    Column("due_at_ms", BigInteger, nullable=False),
    Column("nonce", String(64)),  # of a statement when issued, of a kernel when begun
    Column("issued_at_ms", BigInteger),
    Column("expires_at_ms", BigInteger),
    Column("device", String),  # kernel: on which
    Column("size", Integer),
    Column("depth", Integer),
    Column("begun_at_ms", BigInteger),  # kernel: when its nonce was given, and its time began
    Column("outcome", String),  # ANSWERED, UNANSWERED, UNABLE or adapters.bench.question.Verdict.code
    Column("ended_at_ms", BigInteger),
    Column("facts", Text),
    Index("challenge_waits", "node", "ended_at_ms"),
    Index("challenge_runs_out", "ended_at_ms", "expires_at_ms"),
)

CHAINED = {"evidence_records": evidence_records}
