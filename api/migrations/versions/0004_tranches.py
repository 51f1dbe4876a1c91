"""Tranches of the compute voucher, and firms that share a cap."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from api.migrations.append_only import append_only

revision = "0004"
down_revision = "0003"

CHAINED = ("tranches",)


def upgrade() -> None:
    op.create_table(
        "tranches",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("firm", sa.String(), nullable=False),
        sa.Column("programme", sa.String(), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("size_fen", sa.BigInteger(), nullable=False),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("issued_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("issued_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("firm", "programme", "year", "number", name="tranche_once"),
        sa.UniqueConstraint("id"),
    )
    op.create_index(op.f("ix_tranches_firm"), "tranches", ["firm"], unique=False)
    op.create_table(
        "tranche_uses",
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account"),
    )
    op.create_table(
        "cap_subjects",
        sa.Column("firm", sa.String(), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("firm", "year"),
    )
    for table in CHAINED:
        append_only(table)


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
