"""Alembic's entry: the connection comes from ``orchestrator.migrate``."""

from alembic import context
from sqlmodel import SQLModel

from orchestrator import models  # noqa: F401  (the tables register themselves)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
