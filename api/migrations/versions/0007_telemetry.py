"""What else devices tell: every reading, their parts, what their drivers report, and which of them may be leased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("samples", sa.Column("more", sa.Text(), nullable=True))
    op.add_column("devices", sa.Column("health_code", sa.String(), nullable=True))
    op.add_column("devices", sa.Column("partition", sa.Text(), nullable=True))
    op.add_column("devices", sa.Column("leasable", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.create_table(
        "device_events",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("device", "at_ms", "code"),
    )


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
