"""Evidence of origin: what was put on record about devices, and the nonces that nodes answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from api.migrations.append_only import append_only

revision = "0008"
down_revision = "0007"

CHAINED = ("evidence_records",)


def upgrade() -> None:
    op.create_table(
        "evidence_records",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_ms", sa.BigInteger(), nullable=True),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("document_sha256", sa.String(length=64), nullable=True),
        sa.Column("recorded_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("recorded_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index(op.f("ix_evidence_records_device"), "evidence_records", ["device"], unique=False)
    for table in CHAINED:
        append_only(table)
    op.create_table(
        "evidence_challenges",
        sa.Column("nonce_sha256", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("issued_by", sa.String(), nullable=False),
        sa.Column("issued_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("nonce_sha256"),
    )
    op.create_index("challenge_of_node", "evidence_challenges", ["node", "issued_at_ms"], unique=False)


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
