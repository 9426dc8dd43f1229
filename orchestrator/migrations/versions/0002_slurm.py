"""what Slurm, retries and usage need to remember of a run

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("profile", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("environment", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("retry", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("signal_before_end", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("launch", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("container", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("snapshot", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("git", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("ask_key", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("retries", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("not_before", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("wishes", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("history", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("scheduler", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("elapsed_seconds", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("gpu_seconds", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("cpu_seconds_given", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("cpu_seconds", sa.Float(), nullable=True))
    with op.batch_alter_table("submissions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("throttle", sa.Integer(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("submissions", schema=None) as batch_op:
        batch_op.drop_column("throttle")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        for name in (
            *("cpu_seconds", "cpu_seconds_given", "gpu_seconds", "elapsed_seconds", "scheduler", "history", "wishes"),
            *(
                "held",
                "not_before",
                "retries",
                "ask_key",
                "git",
                "snapshot",
                "container",
                "launch",
                "signal_before_end",
            ),
            *("retry", "environment", "profile"),
        ):
            batch_op.drop_column(name)
