"""Tables of the programmes: acts on every case, contracts with their papers, clearing, and what proves a listing."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, String, Table, Text, UniqueConstraint

from scheduler.schema import chain_columns, metadata


def _recorded() -> tuple[Column[int], Column[str]]:
    return Column("recorded_at_ms", BigInteger, nullable=False), Column("recorded_by", String, nullable=False)


acts = Table(  # every step of every state machine: who, in which role, why
    "acts",
    metadata,
    *chain_columns(),
    Column("kind", String, nullable=False),  # a machine of metering/lifecycle.py
    Column("subject", String, nullable=False),
    Column("act", String, nullable=False),
    Column("before", String, nullable=False),
    Column("after", String, nullable=False),
    Column("by", String, nullable=False),
    Column("role", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
Index("acts_of", acts.c.kind, acts.c.subject)

states = Table(  # where each case stands: what its last act left; recomputed by audit
    "states",
    metadata,
    Column("kind", String, primary_key=True),
    Column("subject", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("act_seq", BigInteger, nullable=False),
)

contracts = Table(
    "contracts",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),
    Column("number", String, nullable=False),
    Column("programme", String, nullable=False),
    Column("buyer", String, nullable=False, index=True),
    Column("seller", String, nullable=False, index=True),
    Column("project", String, index=True),
    Column("signed_on", String, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger, nullable=False),
    Column("amount_fen", BigInteger, nullable=False),
    Column("tax_basis", String, nullable=False),  # tax_included | tax_excluded
    Column("support_cap_fen", BigInteger, nullable=False),
    Column("items", Text, nullable=False),  # [{description, model, quantity, amount_fen, domestic}]
    Column("evidence", Text, nullable=False),
    *_recorded(),
    UniqueConstraint("seller", "number", name="contract_number_once"),
    CheckConstraint("from_ms < to_ms", name="contract_term"),
)

invoices = Table(  # 发票
    "invoices",
    metadata,
    *chain_columns(),
    Column("number", String, nullable=False, unique=True),
    Column("contract", String, nullable=False, index=True),
    Column("issuer", String, nullable=False),
    Column("buyer", String, nullable=False),
    Column("amount_fen", BigInteger, nullable=False),
    Column("tax_fen", BigInteger, nullable=False),
    Column("issued_on", String, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("corrects", String),  # a supplement or a red one 红字, by the number it corrects
    *_recorded(),
)

invoice_jobs = Table(  # which jobs an invoice bills: each job once
    "invoice_jobs",
    metadata,
    *chain_columns(),
    Column("invoice", String, nullable=False, index=True),
    Column("job", String, nullable=False, index=True),
)

slips = Table(  # bank slip 回单
    "slips",
    metadata,
    *chain_columns(),
    Column("reference", String, nullable=False, unique=True),
    Column("invoice", String, nullable=False, index=True),
    Column("payer", String, nullable=False),
    Column("payee", String, nullable=False),
    Column("amount_fen", BigInteger, nullable=False),
    Column("paid_at_ms", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    *_recorded(),
)

refunds = Table(
    "refunds",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),
    Column("job", String, nullable=False, index=True),
    Column("kind", String, nullable=False),  # refund | rebate
    Column("amount_fen", BigInteger, nullable=False),  # of the fee; whose share goes where is computed
    Column("reason", Text, nullable=False),
    Column("cites", String, nullable=False),  # the settlement it was asked against
    *_recorded(),
)

price_corrections = Table(  # a back-dated price, lease by lease, after two people agreed
    "price_corrections",
    metadata,
    *chain_columns(),
    Column("lease", String, nullable=False, index=True),
    Column("fen_per_device_hour", BigInteger, nullable=False),
    Column("price_seq", BigInteger, nullable=False),
    *_recorded(),
)

clearing_items = Table(
    "clearing_items",
    metadata,
    *chain_columns(),
    Column("batch", String, nullable=False, index=True),
    Column("settlement", String, nullable=False),
    Column("job", String, nullable=False, index=True),
    Column("firm", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("year", Integer, nullable=False),
    Column("fee_fen", BigInteger, nullable=False),
    Column("deduction_fen", BigInteger, nullable=False),  # what this batch pays of it
    Column("payable_fen", BigInteger, nullable=False),
    Column("contract", String, nullable=False),
    Column("invoice", String, nullable=False),
    Column("slip", String, nullable=False),
    UniqueConstraint("batch", "job", name="job_once_per_batch"),
)

payments = Table(  # the treasury pays a batch or a grant, in parts; a returned one cites the payment
    "payments",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),
    Column("batch", String, nullable=False, index=True),
    Column("amount_fen", BigInteger, nullable=False),
    Column("reference", String, nullable=False, unique=True),
    Column("returns", String, unique=True),
    *_recorded(),
)

other_supports = Table(  # support of the same project from elsewhere (clause 4.4)
    "other_supports",
    metadata,
    *chain_columns(),
    Column("id", String, nullable=False, unique=True),
    Column("firm", String, nullable=False, index=True),
    Column("project", String, nullable=False, index=True),  # a contract's id or a project of ours
    Column("instrument", String, nullable=False),
    Column("amount_fen", BigInteger, nullable=False),
    Column("cumulative", Integer, nullable=False),  # 1: its own rules allow both
    Column("evidence", Text, nullable=False),
    *_recorded(),
)

serials = Table(  # a server bought for a project, traceable to a listed device; in one project only
    "serials",
    metadata,
    *chain_columns(),
    Column("serial", String, nullable=False, unique=True),
    Column("project", String, nullable=False, index=True),
    Column("contract", String, nullable=False),
    Column("model", String, nullable=False),
    Column("device", String, nullable=False, unique=True),
    *_recorded(),
)

listing_events = Table(  # when a pool was listed, paused, taken off: subsidy evidence
    "listing_events",
    metadata,
    *chain_columns(),
    Column("pool", String, nullable=False, index=True),
    Column("status", String, nullable=False),  # listed | paused | delisted
    Column("reason", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("recorded_by", String, nullable=False),
    Column("role", String, nullable=False),  # what an operator paused, its provider does not list again
)

availability = Table(  # the platform's own probes, device counts summed per local day
    "availability",
    metadata,
    Column("pool", String, primary_key=True),
    Column("day", String, primary_key=True),
    Column("probes", BigInteger, nullable=False),
    Column("listed", BigInteger, nullable=False),
    Column("free", BigInteger, nullable=False),
    Column("allocated", BigInteger, nullable=False),
    Column("maintenance", BigInteger, nullable=False),
)

CHAINED = {
    table.name: table
    for table in (
        acts,
        contracts,
        invoices,
        invoice_jobs,
        slips,
        refunds,
        price_corrections,
        clearing_items,
        payments,
        other_supports,
        serials,
        listing_events,
    )
}
