"""which rule made an alert and what its choices do, the runs that joined it, the messages that tell of it, and how far
the journal has been looked through

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("alerts", schema=None) as batch_op:
        batch_op.alter_column("run_id", existing_type=sa.String(), nullable=True)
        batch_op.add_column(sa.Column("rule", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("key", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("topic", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("plan_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("proposal", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("outcome", sa.JSON(), nullable=True))
        batch_op.create_index(batch_op.f("ix_alerts_key"), ["key"], unique=True)
        batch_op.create_index(batch_op.f("ix_alerts_topic"), ["topic"], unique=False)
        batch_op.create_index(batch_op.f("ix_alerts_plan_id"), ["plan_id"], unique=False)

    op.create_table(
        "alert_runs",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("alert_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    with op.batch_alter_table("alert_runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_alert_runs_alert_id"), ["alert_id"], unique=False)

    op.create_table(
        "watched_until",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    # What failed before there were alerts is not told of.
    op.execute("INSERT INTO watched_until (id, event_id) SELECT 1, COALESCE(MAX(id), 0) FROM events")

    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("alert_id", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
    )
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_outbox_id"), ["id"], unique=True)
        batch_op.create_index(batch_op.f("ix_outbox_alert_id"), ["alert_id"], unique=False)
        batch_op.create_index("ix_outbox_due", ["channel", "next_at"], unique=False)


def downgrade() -> None:
    op.drop_table("outbox")
    op.drop_table("watched_until")
    op.drop_table("alert_runs")
    op.execute("DELETE FROM alerts WHERE run_id IS NULL")
    with op.batch_alter_table("alerts", schema=None) as batch_op:
        for name in ("key", "topic", "plan_id"):
            batch_op.drop_index(batch_op.f(f"ix_alerts_{name}"))
        for name in ("outcome", "proposal", "plan_id", "topic", "key", "rule"):
            batch_op.drop_column(name)
        batch_op.alter_column("run_id", existing_type=sa.String(), nullable=False)
