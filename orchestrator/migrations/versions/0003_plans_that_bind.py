"""tokens, what of a plan was approved, and what a run may use of its plan's budget

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("require_plan", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("rotated_at", sa.Float(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("hash"),
    )
    with op.batch_alter_table("plans", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parsed", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("bounds", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("approved_hash", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("amendments", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("sweep_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("executed_by", sa.String(), nullable=True))
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reserved_gpu_seconds", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("admitted_under", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_column("admitted_under")
        batch_op.drop_column("reserved_gpu_seconds")
    with op.batch_alter_table("plans", schema=None) as batch_op:
        for name in ("executed_by", "sweep_id", "amendments", "approved_hash", "bounds", "parsed"):
            batch_op.drop_column(name)
    op.drop_table("tokens")
