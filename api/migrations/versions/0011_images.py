"""Whether a pool's members run container images."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
compatible_from = "0009"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("pools", sa.Column("images", sa.String(), nullable=False, server_default=sa.text("'none'")))


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
