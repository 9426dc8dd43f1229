"""One writer, group commit, many readers."""

import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, select

from orchestrator.db import Database, scalar_pragma, storage_error
from orchestrator.errors import Conflict, ServerRunning, StorageError, StorageFull
from orchestrator.migrate import migrate
from orchestrator.models import Alert, ServerLease
from orchestrator.serverlease import Holding


def alert(name: str) -> Any:
    return lambda session: session.add(Alert(id=name, run_id="r", timestamp=0.0, message="m"))


def names(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(session.exec(select(Alert.id)))


def held_up(database: Database) -> tuple[threading.Event, "Future[Any]"]:
    """The writer, busy until the event is set: what is submitted meanwhile goes into one batch."""
    go = threading.Event()
    return go, database.writer.submit(lambda _session: go.wait(10) and None)


def test_writes_that_come_while_a_commit_is_under_way_are_committed_together(database: Database) -> None:
    go, first = held_up(database)
    before = database.writer.commits
    futures = [database.writer.submit(alert(f"a{number}")) for number in range(50)]
    go.set()
    for future in [first, *futures]:
        future.result(10)
    assert database.writer.commits - before <= 2
    assert len(names(database)) == 50


def test_one_write_that_fails_takes_nothing_with_it(database: Database) -> None:
    def bad(session: Session) -> None:
        alert("half")(session)
        session.flush()
        raise Conflict("No.")

    go, _ = held_up(database)
    futures = [database.writer.submit(alert("a")), database.writer.submit(bad), database.writer.submit(alert("b"))]
    go.set()
    futures[0].result(10)
    with pytest.raises(Conflict):
        futures[1].result(10)
    futures[2].result(10)
    assert names(database) == ["a", "b"]


def test_a_broken_transaction_is_tried_again_one_by_one(database: Database) -> None:
    calls = []

    def breaks(session: Session) -> None:
        calls.append(1)
        raise OperationalError("statement", {}, Exception("database or disk is full"))

    go, _ = held_up(database)
    futures = [database.writer.submit(alert("a")), database.writer.submit(breaks), database.writer.submit(alert("b"))]
    go.set()
    futures[0].result(10)
    with pytest.raises(StorageFull, match="nothing was stored"):
        futures[1].result(10)
    futures[2].result(10)
    assert (names(database), len(calls)) == (["a", "b"], 2)


def test_a_reader_cannot_write(database: Database) -> None:
    def write_through_a_reader() -> None:
        with database.read() as session:
            alert("a")(session)
            session.commit()

    with pytest.raises(StorageError):
        write_through_a_reader()


def test_what_is_submitted_before_the_end_is_written(tmp_path: Path) -> None:
    made = Database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(made)
    go, _ = held_up(made)
    futures = [made.writer.submit(alert(f"a{number}")) for number in range(5)]
    threading.Timer(0.01, go.set).start()
    made.close()
    assert all(future.done() for future in futures)
    again = Database(f"sqlite:///{tmp_path / 'a.db'}")
    assert len(names(again)) == 5
    again.close()


def test_durability_is_full_and_wal_is_left_out_on_network_file_systems(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (scalar_pragma(database, "journal_mode"), scalar_pragma(database, "synchronous")) == ("wal", 2)
    monkeypatch.setattr("orchestrator.db.kind_of", lambda _path: "nfs4")
    remote = Database(f"sqlite:///{tmp_path / 'b.db'}")
    migrate(remote)
    assert (scalar_pragma(remote, "journal_mode"), scalar_pragma(remote, "synchronous")) == ("delete", 2)
    remote.write(alert("a"))
    assert names(remote) == ["a"]
    remote.close()


def test_a_server_that_lost_the_database_writes_nothing_more(database: Database, tmp_path: Path) -> None:
    lost: list[str] = []
    holding = Holding(database, os.getpid(), lost.append)
    other = Database(f"sqlite:///{tmp_path / 'a.db'}")

    def steal(session: Session) -> None:
        found = session.exec(select(ServerLease).where(col(ServerLease.id) == 1)).one()
        found.token, found.pid = "another's", 1
        session.add(found)

    other.write(steal)
    with pytest.raises(ServerRunning, match="process 1"):
        database.write(alert("late"))
    assert lost
    assert names(database) == []
    other.close()
    database.writer.fence = None
    holding._stop.set()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("database or disk is full", StorageFull),
        ("could not extend file: No space left on device", StorageFull),
        ("database is locked", StorageError),
        ("disk I/O error", StorageError),
    ],
)
def test_a_drivers_error_is_said_in_words(text: str, kind: type[Exception]) -> None:
    assert type(storage_error(OperationalError("statement", {}, Exception(text)))) is kind


def test_other_errors_stay_what_they_are() -> None:
    error = KeyError("x")
    assert storage_error(error) is error
