"""A POST that is sent twice under one Idempotency-Key creates once."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator import runs
from orchestrator.errors import StorageFull
from tests.support.service import Calls, InProcess, Json, RealServer, in_process

RUN: Json = {"name": "x", "command": "true"}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service: each test uses keys of its own."""
    with in_process(tmp_path_factory.mktemp("once") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


@pytest.fixture
def key() -> str:
    """One that nobody has used."""
    return f"key {next(NUMBERS)}"


def send(service: Calls, path: str, body: Any, key: str, **headers: str) -> httpx2.Response:
    return service.http.post(path, json=body, headers={"Idempotency-Key": key, **headers})


def count(service: Calls, path: str) -> int:
    return len(service.get(path, limit=1000))


CREATES: list[tuple[str, Json, str]] = [
    ("/runs", RUN, "/runs"),
    ("/runs/{run}/rerun", {"auto_start": False}, "/runs"),
    ("/sweeps", {"name": "s", "base_command": "true", "parameters": {"a": [1, 2]}}, "/sweeps"),
    ("/sweeps/wild", {"name": "w", "goal": "g"}, "/sweeps"),
    ("/sweeps/{sweep}/runs", RUN, "/runs"),
    ("/plans", {"title": "t", "goal": "g"}, "/plans"),
    ("/runs/{run}/alerts", {"message": "m", "choices": ["a"]}, "/alerts"),
]


@pytest.mark.parametrize(("path", "body", "listing"), CREATES)
def test_what_creates_creates_once(shared: InProcess, key: str, path: str, body: Json, listing: str) -> None:
    run = shared.post("/runs", RUN)["id"]
    sweep = shared.post("/sweeps/wild", {"name": "w", "goal": "g"})["id"]
    path = path.format(run=run, sweep=sweep)
    before = count(shared, listing)
    first = send(shared, path, body, key)
    assert first.status_code == 200, first.text
    events = shared.journal()
    for _ in range(2):
        again = send(shared, path, body, key)
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert count(shared, listing) == before + 1
    assert shared.journal() == events


def test_rows_of_metrics_count_once(shared: InProcess, key: str) -> None:
    run = shared.post("/runs", RUN)["id"]
    for _ in range(2):
        assert send(shared, f"/runs/{run}/metrics", {"rows": [{"loss": 1}]}, key).json() == {"appended": 1}
    assert shared.get(f"/runs/{run}/metrics")["metricSummary"]["loss"]["count"] == 1


def test_what_failed_is_run_again_once(shared: InProcess, key: str) -> None:
    body = {"name": "s", "base_command": "false", "parameters": {"a": [1, 2]}, "auto_start": True}
    sweep = shared.post("/sweeps", body)
    for run_id in sweep["run_ids"]:
        shared.over(run_id)
    path = f"/sweeps/{sweep['id']}/rerun-failed"
    first = send(shared, path, {"auto_start": False}, key).json()
    assert len(first) == 2
    assert send(shared, path, {"auto_start": False}, key).json() == first
    assert shared.get(f"/sweeps/{sweep['id']}")["progress"]["total"] == 4


def test_the_first_answer_is_given_whatever_became_of_it(shared: InProcess, key: str) -> None:
    first = send(shared, "/runs", {**RUN, "auto_start": True}, key).json()
    assert shared.over(first["id"])["status"] == "finished"
    assert send(shared, "/runs", {**RUN, "auto_start": True}, key).json() == first


def test_the_first_answer_is_given_though_it_could_not_be_made_now(shared: InProcess, key: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    body = {**RUN, "workdir": str(folder)}
    first = send(shared, "/runs", body, key)
    folder.rmdir()
    again = send(shared, "/runs", body, key)
    assert (again.status_code, again.json()) == (200, first.json())


@pytest.mark.parametrize(
    "other", [{**RUN, "name": "y"}, {**RUN, "auto_start": False}, {"command": "true", "name": "x"}]
)
def test_another_body_under_the_same_key_is_a_conflict(shared: InProcess, key: str, other: Json) -> None:
    assert send(shared, "/runs", RUN, key).status_code == 200
    before = count(shared, "/runs")
    answer = send(shared, "/runs", other, key)
    assert answer.status_code == 409
    assert key in answer.json()["detail"]
    assert count(shared, "/runs") == before


def test_keys_of_other_routes_are_other_keys(shared: InProcess, key: str) -> None:
    one, two = (shared.post("/runs", RUN)["id"] for _ in range(2))
    body = {"name": "x", "goal": "g", "command": "true"}
    answers = [
        send(shared, "/runs", RUN, key),
        send(shared, "/sweeps/wild", {"name": body["name"], "goal": "g"}, key),
        send(shared, "/plans", {"title": "t", "goal": "g"}, key),
        send(shared, f"/runs/{one}/rerun", {}, key),
        send(shared, f"/runs/{two}/rerun", {}, key),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.json()["id"] for answer in answers}) == 5


def test_other_keys_create_again(shared: InProcess, key: str) -> None:
    ids = {send(shared, "/runs", RUN, f"{key}{end}").json()["id"] for end in ("", "a", "A", " a b", "é".encode().hex())}
    assert len(ids) == 5
    assert shared.post("/runs", RUN)["id"] != shared.post("/runs", RUN)["id"]


def test_a_key_is_of_no_use_without_its_token(shared: InProcess, key: str) -> None:
    assert send(shared, "/runs", RUN, key).status_code == 200
    assert send(shared, "/runs", RUN, key, **{"X-Auth-Token": "wrong"}).status_code == 401


@pytest.mark.parametrize("bad", ["k" * 256, "", " "])
def test_a_key_that_is_none_is_refused(shared: InProcess, bad: str) -> None:
    before = count(shared, "/runs")
    assert 400 <= send(shared, "/runs", RUN, bad).status_code < 500
    assert count(shared, "/runs") == before


def test_a_refusal_is_not_kept(shared: InProcess, key: str, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    body = {**RUN, "workdir": str(folder)}
    assert send(shared, "/runs", body, key).status_code == 422
    folder.mkdir()
    assert send(shared, "/runs", body, key).status_code == 200


def test_a_failure_of_the_server_is_not_kept(shared: InProcess, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageFull("The disk is full.")

    before = count(shared, "/runs")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "create", full)
        assert send(shared, "/runs", RUN, key).status_code == 507
    assert count(shared, "/runs") == before
    first = send(shared, "/runs", RUN, key)
    assert first.status_code == 200
    assert send(shared, "/runs", RUN, key).json() == first.json()
    assert count(shared, "/runs") == before + 1


def test_a_key_is_kept_for_a_day(shared: InProcess, key: str) -> None:
    def older(seconds: int) -> None:
        shared.system.db.write(
            lambda session: session.connection().exec_driver_sql(
                f"UPDATE idempotent_answers SET created_at = created_at - {seconds}"
            )
        )

    first = send(shared, "/runs", RUN, key).json()
    older(23 * 3600)
    assert send(shared, "/runs", RUN, key).json() == first
    older(2 * 3600)
    assert send(shared, "/runs", RUN, key).json()["id"] != first["id"]


def test_twenty_at_once_create_one_and_a_restart_remembers_it(server: RealServer) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: send(server, "/runs", RUN, "one key"), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    (run_id,) = {answer.json()["id"] for answer in answers}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert [run["id"] for run in server.get("/runs")] == [run_id]
    server.kill()
    server.start()
    assert send(server, "/runs", RUN, "one key").text == answers[0].text
    assert send(server, "/runs", {**RUN, "name": "other"}, "one key").status_code == 409
    assert count(server, "/runs") == 1
