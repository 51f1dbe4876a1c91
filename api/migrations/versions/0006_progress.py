"""Arrays, jobs held back, deadlines, what jobs report of themselves, and leases that move."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("held_by", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("deadline_at_ms", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("array_id", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("array_index", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("array_parallel", sa.Integer(), nullable=True))
    op.create_index(op.f("ix_jobs_array_id"), "jobs", ["array_id"], unique=False)
    op.create_table(
        "job_progress",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("lease", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("total_steps", sa.BigInteger(), nullable=True),
        sa.Column("checkpointed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("checkpointed_steps", sa.BigInteger(), nullable=True),
        sa.Column("learnt_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("learnt_steps", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"]),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"]),
        sa.PrimaryKeyConstraint("job"),
    )
    op.create_table(
        "throughputs",
        sa.Column("firm", sa.String(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("steps_per_ks", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("error_permille", sa.Integer(), nullable=True),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("firm", "workload", "model", "devices"),
    )
    op.create_table(
        "lease_moves",
        sa.Column("lease", sa.String(), nullable=False),
        sa.Column("members", sa.Text(), nullable=False),
        sa.Column("moved", sa.Integer(), nullable=False),
        sa.Column("asked_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("over", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"]),
        sa.PrimaryKeyConstraint("lease"),
    )


def downgrade() -> None:
    raise RuntimeError("records are not thrown away: restore a backup made before the upgrade instead")
