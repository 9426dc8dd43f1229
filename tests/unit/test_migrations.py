"""The migrations make exactly the tables that the code uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel, select

from orchestrator.db import Database
from orchestrator.errors import StorageError
from orchestrator.journal import SERVICE, record
from orchestrator.migrate import MIGRATIONS, migrate, revisions
from orchestrator.models import Alert, WatchedUntil


def made(path: Path) -> Database:
    database = Database(f"sqlite:///{path}")
    migrate(database)
    return database


@contextmanager
def older(database: Database, version: str) -> Iterator[tuple[Connection, Config]]:
    """The database as an older version left it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.writer_engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        yield connection, config
        connection.commit()


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


def test_alerts_of_an_older_version_are_kept(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    with older(database, "0003") as (connection, config):
        columns = "id, run_id, timestamp, severity, message, choices, status, auto_session"
        row = """'a1', 'r1', 1.0, 'info', 'm', '["a"]', 'pending', 0"""
        connection.exec_driver_sql(f"INSERT INTO alerts ({columns}) VALUES ({row})")
        command.upgrade(config, "head")
        command.downgrade(config, "0003")
    migrate(database)
    with database.read() as session:
        (alert,) = session.exec(select(Alert)).all()
    assert (alert.id, alert.run_id, alert.choices, alert.rule, alert.key) == ("a1", "r1", ["a"], "", None)
    database.close()


def test_what_failed_before_there_were_alerts_is_not_looked_for(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    with older(database, "0003") as (connection, _):
        for number in range(3):
            row = f"1.0, 'service', 'run.failed', 'run:r{number}', ''"
            connection.exec_driver_sql(f"INSERT INTO events (at, actor, kind, subject, message) VALUES ({row})")
    migrate(database)
    with database.read() as session:
        assert session.exec(select(WatchedUntil.event_id)).one() == 3
    database.close()


def test_the_journal_is_append_only_whoever_writes(tmp_path: Path) -> None:
    database = made(tmp_path / "a.db")
    database.write(lambda session: record(session, SERVICE, "test", "run:x") and None)
    for statement in ("UPDATE events SET actor = 'x'", "DELETE FROM events"):
        with database.writer_engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
            connection.exec_driver_sql(statement)
    database.close()
