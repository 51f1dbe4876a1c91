"""Challenges that the platform draws by itself, by node: when they were due, what was asked, what came of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
compatible_from = "0009"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "node_challenges",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("draws", sa.Text(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=True),
        sa.Column("issued_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("device", sa.String(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=True),
        sa.Column("begun_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("facts", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("challenge_waits", "node_challenges", ["node", "ended_at_ms"], unique=False)
    op.create_index("challenge_runs_out", "node_challenges", ["ended_at_ms", "expires_at_ms"], unique=False)


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
