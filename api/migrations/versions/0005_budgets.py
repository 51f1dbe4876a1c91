"""Firm budgets over time, and queues that lend each other devices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from api.migrations.append_only import append_only

revision = "0005"
down_revision = "0004"

CHAINED = ("firm_budgets",)


def upgrade() -> None:
    op.create_table(
        "firm_budgets",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("firm", sa.String(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_ms", sa.BigInteger(), nullable=True),
        sa.Column("limit_fen", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index(op.f("ix_firm_budgets_firm"), "firm_budgets", ["firm"], unique=False)
    for table in CHAINED:
        append_only(table)
    op.add_column("queues", sa.Column("cohort", sa.String(), nullable=True))
    op.add_column("queues", sa.Column("borrowing_limit", sa.Integer(), nullable=True))
    op.add_column("queues", sa.Column("lending_limit", sa.Integer(), nullable=True))
    weight = sa.Column("weight", sa.Integer(), server_default=sa.text("1"), nullable=False)
    op.add_column("queues", weight)


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
