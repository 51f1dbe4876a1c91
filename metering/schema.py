"""Tables of the money side. Fen are integers; every table named in CHAINED is append-only and hash-chained."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, String, Table, Text, UniqueConstraint, text

from metering import benchmark_schema, event_schema, evidence_schema, programme_schema
from scheduler.schema import chain_columns, metadata

platform = Table(  # facts fixed when the database was made, such as ledger = demo | live
    "platform",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

providers = Table(
    "providers",
    metadata,
    Column("id", String, primary_key=True),  # unified social credit code
    Column("name", String, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

firms = Table(
    "firms",
    metadata,
    Column("id", String, primary_key=True),  # unified social credit code
    Column("name", String, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

sites = Table(
    "sites",
    metadata,
    Column("id", String, primary_key=True),
    Column("provider", String, nullable=False),
    Column("name", String, nullable=False),
    Column("region", String, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

facts = Table(  # dated facts with evidence: a firm's eligibility (4.1), a site's energy papers (4.2)
    "facts",
    metadata,
    *chain_columns(),
    Column("subject_kind", String, nullable=False),  # firm | site
    Column("subject", String, nullable=False, index=True),
    Column("fact", String, nullable=False),  # eligible
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger),
    Column("evidence", Text, nullable=False),
    Column("withdraws_seq", BigInteger),  # a correction cites the fact it ends
    Column("recorded_at_ms", BigInteger, nullable=False),
    Column("recorded_by", String, nullable=False),
)

prices = Table(
    "prices",
    metadata,
    *chain_columns(),
    Column("pool", String, nullable=False, index=True),
    Column("model", String, nullable=False),
    Column("fen_per_device_hour", BigInteger, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("recorded_at_ms", BigInteger, nullable=False),
    Column("recorded_by", String, nullable=False),
)

rights = Table(  # claim 申领: a firm's right to draw in a programme
    "rights",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),
    Column("firm", String, nullable=False, index=True),
    Column("programme", String, nullable=False),
    Column("policy", String, nullable=False),
    Column("claimed_at_ms", BigInteger, nullable=False),
    Column("claimed_by", String, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String, primary_key=True),
    Column("ledger", String, nullable=False),  # entitlement | cash
    Column("bounded", Integer, nullable=False),  # 1: a room, may not go below zero
    Column("debits_posted", BigInteger, nullable=False, server_default=text("0")),
    Column("debits_pending", BigInteger, nullable=False, server_default=text("0")),
    Column("credits_posted", BigInteger, nullable=False, server_default=text("0")),
    Column("credits_pending", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("bounded = 0 OR credits_posted - debits_posted - debits_pending >= 0", name="room_not_below_zero"),
    CheckConstraint("debits_pending >= 0 AND credits_pending >= 0", name="pending_not_negative"),
)

transfers = Table(
    "transfers",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),
    Column("body_sha256", String(64), nullable=False),
    Column("phase", String, nullable=False),  # posted | pending | post | void | expire
    Column("pending_id", String, index=True),
    Column("code", String, nullable=False),
    Column("debit", String, nullable=False),
    Column("credit", String, nullable=False),
    Column("amount_fen", BigInteger, nullable=False),
    Column("job", String, index=True),
    Column("lease", String),
    Column("settlement", String),
    Column("cites", String),
    Column("effective_at_ms", BigInteger, nullable=False),
    Column("recorded_at_ms", BigInteger, nullable=False),
    CheckConstraint("amount_fen >= 0", name="transfer_not_negative"),
)
# Each hold is resolved exactly once: a second post, void or expire of one pending transfer is refused by the database.
Index(
    "resolved_once",
    transfers.c.pending_id,
    unique=True,
    sqlite_where=transfers.c.pending_id.is_not(None),
    postgresql_where=transfers.c.pending_id.is_not(None),
)

holds = Table(
    "holds",
    metadata,
    Column("lease", String, primary_key=True),
    Column("year", Integer, primary_key=True),
    Column("generation", Integer, primary_key=True),  # renewed at each interim settlement
    Column("job", String, nullable=False, index=True),
    Column("firm", String, nullable=False),
    Column("amount_fen", BigInteger, nullable=False),
    Column("state", String, nullable=False),  # held | posted | voided | expired
    Column("expires_at_ms", BigInteger, nullable=False),
)

settlements = Table(
    "settlements",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),
    Column("job", String, nullable=False, index=True),
    Column("firm", String, nullable=False, index=True),
    Column("number", Integer, nullable=False),  # 1, 2, … per job; the last one stands for the whole
    Column("final", Integer, nullable=False),
    Column("settled_at_ms", BigInteger, nullable=False),
    Column("policy", String, nullable=False),
    Column("bundle_sha256", String(64), nullable=False),
    Column("spec_sha256", String(64), nullable=False),
    Column("voucher", String, nullable=False),  # drawn | declined | unclaimed
    Column("case_json", Text, nullable=False),  # the input of `yisuan settle` that gives exactly these lines
    Column("notices", Text, nullable=False),
    Column("fee_fen", BigInteger, nullable=False),
    Column("ceiling_fen", BigInteger, nullable=False),
    Column("deduction_fen", BigInteger, nullable=False),
    Column("payable_fen", BigInteger, nullable=False),
)

settlement_lines = Table(
    "settlement_lines",
    metadata,
    *chain_columns(),
    Column("settlement", String, nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("lease", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("model", String, nullable=False),
    Column("origin", String, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("year", Integer, nullable=False),
    Column("device_ms", BigInteger, nullable=False),
    Column("fee_fen", BigInteger, nullable=False),
    Column("rate_bp", Integer, nullable=False),
    Column("deduction_fen", BigInteger, nullable=False),
    Column("payable_fen", BigInteger, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("clauses", Text, nullable=False),
)

tranches = Table(  # claim mode tranche: what left the pool for a firm, and when
    "tranches",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),  # chosen by whoever claims: the same id is the same tranche
    Column("firm", String, nullable=False, index=True),
    Column("programme", String, nullable=False),
    Column("year", Integer, nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, … per firm and year
    Column("size_fen", BigInteger, nullable=False),  # the parameter then
    Column("amount_fen", BigInteger, nullable=False),
    Column("policy", String, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("issued_by", String, nullable=False),
    UniqueConstraint("firm", "programme", "year", "number", name="tranche_once"),
)

firm_budgets = Table(  # what a firm will pay for usage in [from, to), net; the last record of an interval stands
    "firm_budgets",
    metadata,
    *chain_columns(),
    Column("firm", String, nullable=False, index=True),
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger),  # none: open
    Column("limit_fen", BigInteger),  # none: lifted
    Column("recorded_at_ms", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
)

tranche_uses = Table(  # when a tranche room was last touched, read from its transfers: idle ones go back
    "tranche_uses",
    metadata,
    Column("account", String, primary_key=True),
    Column("used_at_ms", BigInteger, nullable=False),
)

cap_subjects = Table(  # which firms' rooms of a year are shared now, and under which subject: the least of their codes
    "cap_subjects",
    metadata,
    Column("firm", String, primary_key=True),
    Column("year", Integer, primary_key=True),
    Column("subject", String, nullable=False),
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", String, primary_key=True),
    Column("code", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("facts", Text, nullable=False),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("closed_at_ms", BigInteger),
    Column("action", String),
    Column("reason", Text),
    Column("closed_by", String),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("heads", Text, nullable=False),  # {stream: [seq, hash]}; also written to a file outside the database
    Column("sha256", String(64), nullable=False),
)

CHAINED = {
    "facts": facts,
    "prices": prices,
    "rights": rights,
    "transfers": transfers,
    "settlements": settlements,
    "settlement_lines": settlement_lines,
    "tranches": tranches,
    "firm_budgets": firm_budgets,
    **programme_schema.CHAINED,
    **event_schema.CHAINED,
    **evidence_schema.CHAINED,
    **benchmark_schema.CHAINED,
}
