"""The migrations make exactly the tables that the code uses."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from orchestrator.db import Database
from orchestrator.errors import StorageError
from orchestrator.journal import SERVICE, record
from orchestrator.migrate import migrate, revisions


def made(path: Path) -> Database:
    database = Database(f"sqlite:///{path}")
    migrate(database)
    return database


def test_migrated_tables_are_the_models_tables(tmp_path: Path) -> None:
    database = made(tmp_path / "a.db")
    with database.reader_engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
    assert differences == []
    database.close()


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path / "a.db").close()
    database = made(tmp_path / "a.db")
    present, head = revisions(database)
    assert present == head
    database.close()


def test_a_database_of_a_newer_version_is_refused_in_words(tmp_path: Path) -> None:
    database = made(tmp_path / "a.db")
    with database.writer_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match="made by a newer version"):
        migrate(database)
    database.close()


def test_the_journal_is_append_only_whoever_writes(tmp_path: Path) -> None:
    database = made(tmp_path / "a.db")
    database.write(lambda session: record(session, SERVICE, "test", "run:x") and None)
    for statement in ("UPDATE events SET actor = 'x'", "DELETE FROM events"):
        with database.writer_engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
            connection.exec_driver_sql(statement)
    database.close()
