"""Brings a database to today's tables (Alembic, from the first table on)."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from orchestrator.db import Database
from orchestrator.errors import StorageError

MIGRATIONS = Path(__file__).resolve().parent / "migrations"


def migrate(database: Database) -> None:
    """Applies what is missing. Raises StorageError for a database that a newer version has made."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.writer_engine.connect() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StorageError(
                f"The database {database.url.render_as_string(hide_password=True)} was made by a newer version of orc "
                f"than this one ({error}). Use that version, or another ORC_DATABASE_URL."
            ) from error
        connection.commit()


def revisions(database: Database) -> tuple[str | None, str | None]:
    """The database's revision, and today's."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.reader_engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    return present, ScriptDirectory.from_config(config).get_current_head()
