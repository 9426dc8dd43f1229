"""Waiting for runs: one, any, all; without a thread each, and never longer than asked for."""

import threading
import time
from pathlib import Path
from typing import Any

from tests.support.service import InProcess, Json
from tests.support.waiting import wait_until


def held(service: InProcess, path: Path) -> Json:
    """A run that goes on until the file is there."""
    return service.run(f"until [ -e {path} ]; do sleep 0.05; done")


def waiting(service: InProcess, body: Json) -> tuple[threading.Thread, list[Any]]:
    """A request under way, and where its answer will be."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(service.post("/runs/wait", body)))
    thread.start()
    return thread, answers


def test_a_run_that_is_over_is_answered_at_once(service: InProcess) -> None:
    run = service.over(service.run("true")["id"])
    found = service.get(f"/runs/{run['id']}/wait", timeout=3600)
    assert (found["over"], found["waiting"], found["runs"][0]["status"]) == (True, [], "finished")


def test_a_wait_ends_with_its_run(service: InProcess, tmp_path: Path) -> None:
    run = held(service, tmp_path / "go")
    thread, answers = waiting(service, {"ids": [run["id"]], "timeout": 60})
    service.until(run["id"], "running")
    assert answers == []
    (tmp_path / "go").touch()
    thread.join(30)
    assert answers[0]["over"] is True
    assert answers[0]["runs"][0]["exit_code"] == 0


def test_a_wait_that_is_too_short_tells_how_things_are(service: InProcess, tmp_path: Path) -> None:
    run = held(service, tmp_path / "go")
    found = service.get(f"/runs/{run['id']}/wait", timeout=0)
    assert (found["over"], found["waiting"]) == (False, [run["id"]])
    (tmp_path / "go").touch()
    service.over(run["id"])


def test_any_of_them_or_all(service: InProcess, tmp_path: Path) -> None:
    slow, quick = held(service, tmp_path / "go"), service.run("true")
    ids = [slow["id"], quick["id"]]
    found = service.post("/runs/wait", {"ids": ids, "until": "any"})
    assert (found["over"], found["waiting"]) == (True, [slow["id"]])
    assert [run["id"] for run in found["runs"]] == ids
    thread, answers = waiting(service, {"ids": ids, "until": "all"})
    (tmp_path / "go").touch()
    thread.join(30)
    assert (answers[0]["over"], answers[0]["waiting"]) == (True, [])


def test_many_waiters_take_no_threads(service: InProcess, tmp_path: Path) -> None:
    run = held(service, tmp_path / "go")
    waiters = [waiting(service, {"ids": [run["id"]], "timeout": 60}) for _ in range(60)]  # more than the pool has
    begin = time.monotonic()
    assert service.get("/runs")
    assert time.monotonic() - begin < 30
    (tmp_path / "go").touch()
    for thread, _ in waiters:
        thread.join(60)
    assert all(answers[0]["over"] for _, answers in waiters)


def test_an_unknown_run_is_said_so(service: InProcess) -> None:
    assert service.refused("GET", "/runs/nobody/wait")[0] == 404
    assert service.refused("POST", "/runs/wait", {"ids": ["nobody"]})[0] == 404
    assert service.refused("POST", "/runs/wait", {"ids": []})[0] == 422


def test_many_runs_are_made_in_one_go(service: InProcess) -> None:
    made = service.post("/runs/bulk", {"runs": [{"name": f"r{n}", "command": "true"} for n in range(30)]})
    assert [run["name"] for run in made] == [f"r{n}" for n in range(30)]
    wait_until(lambda: len(service.get("/runs")) == 30, "all of them")


def test_one_that_cannot_be_keeps_all_from_being_made(service: InProcess) -> None:
    good = {"name": "x", "command": "true"}
    status, detail = service.refused("POST", "/runs/bulk", {"runs": [good, good | {"sweep_id": "nobody"}]})
    assert (status, "sweep" in str(detail)) == (404, True)
    assert service.refused("POST", "/runs/bulk", {"runs": [good, good | {"workdir": "relative"}]})[0] == 422
    assert service.refused("POST", "/runs/bulk", {"runs": [good | {"dry_run": True}]})[0] == 422
    assert service.get("/runs") == []


def test_a_repeated_bulk_makes_nothing_more(service: InProcess) -> None:
    body = {"runs": [{"name": "x", "command": "true"}] * 3}
    first = service.post("/runs/bulk", body, headers={"Idempotency-Key": "k"})
    assert service.post("/runs/bulk", body, headers={"Idempotency-Key": "k"}) == first
    assert len(service.get("/runs")) == 3
