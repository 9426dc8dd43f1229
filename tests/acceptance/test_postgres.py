"""The same service over a real PostgreSQL."""

import json
import os
import pwd
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, select

from orchestrator.db import STANDSTILL, Database
from orchestrator.errors import ServerRunning, StorageError
from orchestrator.migrate import migrate
from orchestrator.models import Run, ServerLease
from orchestrator.serverlease import LIFETIME_SECONDS, Holding
from tests.support.service import RealServer, end_runs, real_server
from tests.support.usage import EXPECTED_DAYS, days
from tests.support.waiting import wait_until
from tests.support.webhooks import Hook, listening

pytestmark = pytest.mark.acceptance


@pytest.fixture
def database(shared_folder: Path) -> Iterator[str]:
    """A PostgreSQL of its own on a Unix socket; its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("No PostgreSQL server is installed.")
    uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    data = shared_folder / "data"

    def pg(tool: str, *words: str) -> None:
        command = [str(found[-1].with_name(tool)), *words]
        with (shared_folder / "pg.log").open("a") as log:
            done = subprocess.run(command, user=uid, group=uid, cwd="/", stdout=log, stderr=log, check=False)
        assert done.returncode == 0, (shared_folder / "pg.log").read_text()[-2000:]

    pg("initdb", "-D", str(data), "-U", "orc", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses= -c unix_socket_directories={shared_folder} -c fsync=off"
    pg("pg_ctl", "-D", str(data), "-w", "-o", options, "start")
    yield f"postgresql://orc@/postgres?host={shared_folder}"
    pg("pg_ctl", "-D", str(data), "-m", "immediate", "stop")


def test_the_service_works_over_postgresql(database: str, tmp_path: Path) -> None:
    with real_server(tmp_path / "home", {"ORC_DATABASE_URL": database, "ORC_LOCAL_CPUS": "4"}) as server:
        sweep = server.post(
            "/sweeps",
            {"name": "s", "base_command": "echo", "parameters": {"x": [1, 2, 3, 4]}, "auto_start": True},
        )
        child = server.run("true", depends_on=sweep["run_ids"])
        assert server.over(child["id"])["status"] == "finished"
        found = server.get(f"/sweeps/{sweep['id']}")
        assert (found["status"], found["progress"]["completed"]) == ("completed", 4)
        assert [event["kind"] for event in server.events(child["id"])][-1] == "run.finished"
        key = {"Idempotency-Key": "k"}
        answers = [server.post("/runs", {"name": "once", "command": "true"}, headers=key)["id"] for _ in range(2)]
        assert answers[0] == answers[1]
        server.kill()
        server.start()
        assert server.get(f"/sweeps/{sweep['id']}")["status"] == "completed"
        assert not (server.home / "orc.db").exists()


def test_alerts_are_raised_told_and_answered_on_postgresql_too(database: str, tmp_path: Path) -> None:
    hook = Hook()
    with listening(hook):
        told = {"ORC_NOTIFY_WEBHOOKS": json.dumps([hook.url()]), "ORC_ALERT_LOOK_SECONDS": "0.1"}
        with real_server(tmp_path / "home", {"ORC_DATABASE_URL": database, "ORC_LOCAL_CPUS": "4", **told}) as server:
            body = {"name": "s", "base_command": "exit 4;", "parameters": {"x": list(range(8))}, "auto_start": True}
            sweep = server.post("/sweeps", body)

            def all_told() -> Any:
                found = server.get("/alerts", rule="failed")
                return found if sum(len(alert["run_ids"]) for alert in found) == 8 else None

            found = wait_until(all_told, "all eight told of")
            assert {run_id for alert in found for run_id in alert["run_ids"]} == set(sweep["run_ids"])
            wait_until(lambda: len(hook.taken) == len(found), "the hook has word of each alert")
            outcome = server.post(f"/alerts/{found[0]['id']}/respond", {"choice": "rerun"})["outcome"]
            assert server.over(outcome["run_id"])["status"] == "failed"


def test_one_server_per_postgresql_database(database: str, tmp_path: Path) -> None:
    with real_server(tmp_path / "one", {"ORC_DATABASE_URL": database}) as server:
        assert server.process is not None
        second = RealServer(tmp_path / "two", {"ORC_DATABASE_URL": database})
        with pytest.raises(AssertionError, match=f"process {server.process.pid}"):
            second.start()
        end_runs(tmp_path / "two" / "runs")


class Standing:
    """A write of a server that stops in the middle of it, until it is let go on."""

    def __init__(self, held: Database) -> None:
        self.within, self.go_on = threading.Event(), threading.Event()
        self.result = held.writer.submit(self._write)
        assert self.within.wait(30)

    def _write(self, session: Session) -> None:
        session.add(Run(id="late", name="x", command="true"))
        session.flush()
        self.within.set()
        self.go_on.wait(60)


@contextmanager
def held(url: str) -> Iterator[Database]:
    """A database whose server has not renewed its hold for long."""
    made = Database(url)
    migrate(made)
    holding = Holding(made, os.getpid(), lambda _: None)
    holding._stop.set()
    made.write(_long_ago)
    yield made
    made.close()


def _long_ago(session: Session) -> None:
    lease = session.exec(select(ServerLease)).one()
    lease.renewed_at -= 2 * LIFETIME_SECONDS
    session.add(lease)


def taken_over(url: str, monkeypatch: pytest.MonkeyPatch) -> "Future[Holding]":
    """Another server, of another machine, takes the database."""
    monkeypatch.setattr("orchestrator.serverlease.host_name", lambda: "elsewhere")
    other = Database(url)
    done: Future[Holding] = Future()

    def take() -> None:
        holding = Holding(other, os.getpid(), lambda _: None)
        holding._stop.set()
        done.set_result(holding)
        other.close()

    threading.Thread(target=take, daemon=True).start()
    return done


def waits_for_a_lock(url: str) -> bool:
    import psycopg

    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    return bool(found and found[0])


def test_who_takes_over_waits_for_the_transaction_under_way(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(database) as mine:
        standing = Standing(mine)
        taken = taken_over(database, monkeypatch)
        wait_until(lambda: waits_for_a_lock(database), "the other waits")
        assert not taken.done()
        standing.go_on.set()
        standing.result.result(30)
        taken.result(30)
        with pytest.raises(ServerRunning, match="elsewhere"):
            mine.write(lambda session: session.add(Run(id="later", name="x", command="true")))
        with mine.read() as session:
            assert list(session.exec(select(Run.id))) == ["late"]


def test_who_takes_over_waits_for_no_server_that_stands_still(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert STANDSTILL <= LIFETIME_SECONDS
    monkeypatch.setattr("orchestrator.db.STANDSTILL", 3.0)
    with held(database) as mine:
        standing = Standing(mine)
        taken_over(database, monkeypatch).result(30)
        standing.go_on.set()
        with pytest.raises(StorageError, match="nothing was stored"):
            standing.result.result(30)
        with pytest.raises(ServerRunning, match="elsewhere"):
            mine.write(lambda session: session.add(Run(id="later", name="x", command="true")))
        with mine.read() as session:
            assert list(session.exec(select(Run.id))) == []


def test_the_journal_cannot_be_changed(database: str, tmp_path: Path) -> None:
    import psycopg

    with real_server(tmp_path / "home", {"ORC_DATABASE_URL": database}) as server:
        server.post("/runs", {"name": "x", "command": "true"})
        for statement in ("DELETE FROM events", "UPDATE events SET actor = 'nobody'"):
            with psycopg.connect(database) as connection, pytest.raises(psycopg.Error, match="append-only"):
                connection.execute(statement)


def test_a_run_counts_to_the_utc_day_on_which_it_was_made_on_postgresql_too(database: str) -> None:
    made = Database(database)
    try:
        migrate(made)
        assert days(made) == EXPECTED_DAYS
    finally:
        made.close()
