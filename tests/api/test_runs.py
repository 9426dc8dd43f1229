"""Runs over HTTP: made, listed, moved, refused; what a command finds around it."""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.executors.base import Task
from tests.support.service import InProcess, Json, in_process
from tests.support.waiting import wait_until

NONE = type(None)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "name", "command", "workdir", "status", "run_dir", "executor"), (str,)),
    **dict.fromkeys(("sweep_id", "parent_run_id", "origin_alert_id", "chat_session_id", "plan_id"), (str, NONE)),
    **dict.fromkeys(("error", "reason", "wandb_dir"), (str, NONE)),
    **dict.fromkeys(("queued_at", "launched_at", "started_at", "ended_at", "stopped_at"), (float, NONE)),
    **dict.fromkeys(("sweep_params", "gpuwrap_config", "scheduler"), (dict, NONE)),
    "created_at": (float,),
    "is_archived": (bool,),
    "exit_code": (int, NONE),
    "gpus": (list, NONE),
    "attempt": (int,),
    "resources": (dict,),
    "tags": (list,),
}
PYTHON = shlex.quote(sys.executable)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service for the tests that look at their own runs alone."""
    with in_process(tmp_path_factory.mktemp("shared") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


class Gate:
    """Runs that wait until the test lets them go on. Left shut, it opens when the test ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wait = f"while [ ! -e {shlex.quote(str(path))} ]; do sleep 0.02; done"

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def gate(service: InProcess, tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.open()
    wait_until(lambda: not service.get("/runs", status=["launching", "running"]), "the runs behind the gate")


def make(service: InProcess, command: str = "true", **fields: Any) -> Json:
    """A run that does not start by itself."""
    return dict(service.post("/runs", {"name": "test", "command": command, **fields}))


def names(service: InProcess, **params: Any) -> list[str]:
    return [run["name"] for run in service.get("/runs", **params)]


def passes(service: InProcess, count: int = 2) -> None:
    """Until the loop has looked at everything again."""
    reconciler = service.system.reconciler
    goal = reconciler.passes + count

    def done() -> bool:
        reconciler.wake()
        return reconciler.passes >= goal

    wait_until(done, "passes of the reconciler")


def everything(service: InProcess) -> tuple[Any, Any]:
    """All runs, and all that somebody has caused."""
    return service.get("/runs", limit=1000), service.journal()


def living(run_id: str) -> list[str]:
    """Processes of this run that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if f"ORC_RUN_ID={run_id}".encode() in environment.split(b"\0") and state not in "ZX":
            found.append(folder.name)
    return found


# -- made --------------------------------------------------------------------------------------------------------------


def test_a_run_is_ready_until_it_is_asked_to_start(service: InProcess) -> None:
    run = make(service)
    assert (run["status"], run["queued_at"], run["scheduler"]) == ("ready", None, None)
    passes(service)
    assert service.status(run["id"]) == "ready"


def test_auto_start_answers_queued_and_runs(shared: InProcess) -> None:
    run = shared.run("true")
    assert run["status"] == "queued"
    assert run["queued_at"] >= run["created_at"]
    assert shared.over(run["id"])["status"] == "finished"


def test_a_run_shows_every_field_with_its_type(service: InProcess) -> None:
    made = make(service, tags=["a"])
    over = service.over(service.run("true", gpuwrap_config={"enabled": True})["id"])
    listed = service.get("/runs")
    for shown in (made, over, *listed):
        for name, types in TYPES.items():
            assert name in shown, name
            assert isinstance(shown[name], types), (name, shown[name])
        assert re.fullmatch(r"[0-9a-f]{12}", shown["id"])
    assert {run["id"] for run in listed} == {made["id"], over["id"]}
    moments = [over[f"{name}_at"] for name in ("created", "queued", "launched", "started", "ended")]
    assert moments == sorted(moments)
    assert isinstance(over["scheduler"]["job_id"], str)
    assert over["gpuwrap_config"] == {"enabled": True, "retries": -1, "retry_delay_seconds": 5.0}
    assert "metricSeries" not in over


def test_the_seeds_own_body_makes_a_run(shared: InProcess) -> None:
    sweep = shared.post("/sweeps/wild", {"name": "descriptive-sweep-name", "goal": "what this sweep tests"})
    run = shared.post(
        "/runs",
        {
            "name": "trial-name",
            "command": "python train.py --lr 0.001",
            "sweep_id": sweep["id"],
            "auto_start": False,
            "gpuwrap_config": {"enabled": True},
            "chat_session_id": None,
        },
    )
    assert (run["name"], run["sweep_id"], run["status"]) == ("trial-name", sweep["id"], "ready")
    assert shared.get(f"/sweeps/{sweep['id']}")["run_ids"] == [run["id"]]


@pytest.mark.parametrize("field", ["sweep_id", "parent_run_id", "origin_alert_id", "plan_id", "depends_on"])
@pytest.mark.parametrize("unknown", ["nope", "", "a/b", "x' OR '1'='1"])
def test_a_reference_to_nothing_is_not_found(shared: InProcess, field: str, unknown: str) -> None:
    before = everything(shared)
    value = [unknown] if field == "depends_on" else unknown
    status, detail = shared.refused("POST", "/runs", {"name": "x", "command": "true", field: value})
    assert status == 404
    assert unknown in detail or repr(unknown) in detail
    assert everything(shared) == before


def test_references_are_kept(shared: InProcess) -> None:
    parent = make(shared)
    alert = shared.post(f"/runs/{parent['id']}/alerts", {"message": "m", "choices": ["a"]})["alert_id"]
    plan = shared.post("/plans", {"title": "t", "goal": "g", "raw_markdown": ""})
    given = {"parent_run_id": parent["id"], "origin_alert_id": alert, "plan_id": plan["id"], "chat_session_id": "chat"}
    run = make(shared, **given)
    assert {name: run[name] for name in given} == given


def test_a_dry_run_stores_nothing(service: InProcess) -> None:
    before = everything(service)
    shown = make(service, "echo hi", dry_run=True, auto_start=True, resources={"cpus": 2})
    assert (shown["id"], shown["command"], shown["executor"]) == (None, "echo hi", "local")
    assert shown["resources"] == {"cpus": 2}
    assert everything(service) == before
    assert list(service.settings.runs_dir.iterdir()) == []
    status, _ = service.refused(
        "POST", "/runs", {"name": "x", "command": "true", "dry_run": True, "resources": {"cpus": 99}}
    )
    assert status == 422


@pytest.mark.parametrize("field", ["sweep_id", "parent_run_id", "plan_id", "depends_on"])
def test_a_dry_run_is_refused_where_the_run_would_be(shared: InProcess, field: str) -> None:
    body = {"name": "x", "command": "true", "dry_run": True, field: ["nope"] if field == "depends_on" else "nope"}
    assert shared.refused("POST", "/runs", body)[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PUT", ""),
        *[("POST", f"/{name}") for name in ("queue", "start", "stop", "rerun", "archive", "unarchive")],
        ("POST", "/status"),
        ("POST", "/add-to-sweep?sweep_id=x"),
    ],
)
def test_an_unknown_run_is_not_found(shared: InProcess, method: str, path: str) -> None:
    body = {"status": "running"} if path == "/status" else {} if method == "PUT" else None
    status, detail = shared.refused(method, f"/runs/nope{path}", body)
    assert status == 404
    assert "nope" in detail


# -- what may follow what ----------------------------------------------------------------------------------------------


class Stages:
    """One run in each status, held there."""

    def __init__(self, service: InProcess, runs: dict[str, str]) -> None:
        self.service = service
        self.runs = runs

    def seen(self, stage: str) -> tuple[Any, Any]:
        return self.service.get(f"/runs/{self.runs[stage]}"), self.service.events(self.runs[stage])


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Made once: refused requests change nothing."""
    folder = tmp_path_factory.mktemp("stages")
    wait = f"while [ ! -e {folder / 'gate'} ]; do sleep 0.05; done"
    with in_process(folder / "home") as service, pytest.MonkeyPatch.context() as patch:
        service.post("/cluster/detect", {"preferred_type": "cpu_only"})
        ready = make(service)["id"]
        runs = {"ready": ready, "queued": service.run("true", depends_on=[ready])["id"]}
        runs |= {"finished": service.run("true")["id"], "failed": service.run("false")["id"]}
        runs["stopped"] = service.run("true", depends_on=[ready])["id"]
        service.post(f"/runs/{runs['stopped']}/stop")
        runs["running"] = service.run(wait)["id"]
        for stage in ("finished", "failed", "running"):
            service.until(runs[stage], stage)
        local = service.system.reconciler._executors["local"]
        patch.setattr(local, "observe", lambda watched: {})  # nothing is seen: what is launching stays so
        runs["launching"] = service.run(wait)["id"]
        service.until(runs["launching"], "launching")
        wait_until(lambda: service.get(f"/runs/{runs['queued']}")["reason"] == "DEPENDENCY")
        assert {stage: service.status(run) for stage, run in runs.items()} == {stage: stage for stage in runs}
        yield Stages(service, runs)
        patch.undo()
        (folder / "gate").touch()
        for stage in ("launching", "running"):
            service.over(runs[stage])


REFUSED = {
    "queue": ["queued", "launching", "running", "finished", "failed", "stopped"],
    "start": ["launching", "running", "finished", "failed", "stopped"],
    "stop": ["ready", "finished", "failed", "stopped"],
    "archive": ["queued", "launching", "running"],
}


@pytest.mark.parametrize(("action", "stage"), [(action, stage) for action in REFUSED for stage in REFUSED[action]])
def test_what_may_not_follow_is_refused_and_changes_nothing(stages: Stages, action: str, stage: str) -> None:
    before = stages.seen(stage)
    status, detail = stages.service.refused("POST", f"/runs/{stages.runs[stage]}/{action}")
    assert status == 400
    assert stage in detail
    assert stages.runs[stage] in detail
    assert stages.seen(stage) == before


@pytest.mark.parametrize("field", ["command", "workdir"])
@pytest.mark.parametrize("stage", ["launching", "running", "finished", "failed", "stopped"])
def test_what_was_handed_over_keeps_its_command(stages: Stages, stage: str, field: str) -> None:
    before = stages.seen(stage)
    status, detail = stages.service.refused("PUT", f"/runs/{stages.runs[stage]}", {"name": "new", field: "/"})
    assert status == 409
    assert stage in detail
    assert stages.seen(stage) == before


def test_a_run_summary_counts_each_status(stages: Stages) -> None:
    summary = stages.service.get("/cluster")["run_summary"]
    assert summary == {
        **dict.fromkeys(("running", "launching", "queued", "ready", "failed", "finished"), 1),
        "total": 7,
    }


@pytest.mark.parametrize("action", ["queue", "start"])
def test_a_ready_run_starts(shared: InProcess, action: str) -> None:
    run = make(shared)
    answer = shared.post(f"/runs/{run['id']}/{action}")
    assert answer["status"] == "queued"
    assert shared.over(run["id"])["status"] == "finished"


def test_starting_a_queued_run_leaves_it_in_its_place(service: InProcess) -> None:
    waiting = service.run("true", depends_on=[make(service)["id"]])
    assert service.post(f"/runs/{waiting['id']}/start")["status"] == "queued"
    assert service.get(f"/runs/{waiting['id']}")["queued_at"] == waiting["queued_at"]
    assert [event["kind"] for event in service.events(waiting["id"])].count("run.queued") == 1


def test_a_queued_run_stops_at_once_and_never_executes(service: InProcess) -> None:
    parent = make(service)
    waiting = service.run("true", depends_on=[parent["id"]])
    stopped = service.post(f"/runs/{waiting['id']}/stop")
    assert (stopped["status"], stopped["reason"], stopped["attempt"]) == ("stopped", "CANCELLED", 0)
    assert stopped["stopped_at"] == stopped["ended_at"]
    service.post(f"/runs/{parent['id']}/start")
    service.over(parent["id"])
    passes(service)
    assert service.get(f"/runs/{waiting['id']}")["started_at"] is None


def test_a_running_run_stops_with_all_its_processes(service: InProcess, gate: Gate) -> None:
    run = service.run(f"trap '' TERM; ({gate.wait}) & setsid bash -c {shlex.quote(gate.wait)} & echo up; wait")
    wait_until(lambda: "up" in service.log(run["id"]))
    service.until(run["id"], "running")
    answer = service.post(f"/runs/{run['id']}/stop")
    assert (answer["status"], answer["stop_requested"]) == ("running", True)
    service.post(f"/runs/{run['id']}/stop")
    over = service.over(run["id"])
    assert (over["status"], over["reason"]) == ("stopped", "CANCELLED")
    assert over["stopped_at"] == over["ended_at"]
    assert [event["kind"] for event in service.events(run["id"])].count("run.stop_requested") == 1
    wait_until(lambda: not living(run["id"]), "the end of job.py, which has told by now")


def test_a_launching_run_can_be_stopped(service: InProcess, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(service.system.reconciler._executors["local"], "observe", lambda watched: {})
        run = service.run(gate.wait)
        service.until(run["id"], "launching")
        assert service.post(f"/runs/{run['id']}/stop")["stop_requested"] is True
    assert service.over(run["id"])["status"] == "stopped"


def test_a_run_stopped_before_its_job_took_it_is_stopped(service: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(task: Task, *_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/bin/sleep", "60"], env={"ORC_RUN_ID": task.run_id}, start_new_session=True)

    monkeypatch.setattr(service.system.reconciler._executors["local"], "_spawn", too_slow)
    run = service.run("true")
    service.until(run["id"], "launching")
    service.post(f"/runs/{run['id']}/stop")
    over = service.over(run["id"])
    assert (over["status"], over["reason"]) == ("stopped", "CANCELLED")


def test_an_archived_run_is_listed_apart(service: InProcess) -> None:
    kept, hidden = make(service, name="kept"), make(service, name="hidden")
    for _ in range(2):
        assert service.post(f"/runs/{hidden['id']}/archive")["run"]["is_archived"] is True
    assert names(service) == names(service, archived=False) == ["kept"]
    assert names(service, archived=True) == ["hidden"]
    assert service.get(f"/runs/{hidden['id']}")["is_archived"] is True
    assert service.post(f"/runs/{hidden['id']}/unarchive")["run"]["is_archived"] is False
    assert names(service) == ["hidden", "kept"]
    assert service.get(f"/runs/{kept['id']}")["is_archived"] is False
    kinds = [event["kind"] for event in service.events(hidden["id"])]
    assert kinds == ["run.created", "run.archived", "run.unarchived"]


# -- changed and run again ---------------------------------------------------------------------------------------------


def test_a_run_that_waits_takes_a_new_name_command_and_workdir(shared: InProcess, tmp_path: Path) -> None:
    run = shared.run("echo old", depends_on=[(parent := make(shared))["id"]])
    changed = shared.http.put(
        f"/runs/{run['id']}", json={"name": "new", "command": "echo new; pwd", "workdir": str(tmp_path)}
    ).json()
    assert (changed["name"], changed["command"], changed["workdir"]) == ("new", "echo new; pwd", str(tmp_path))
    shared.post(f"/runs/{parent['id']}/start")
    shared.over(run["id"])
    assert shared.log(run["id"]) == f"new\n{tmp_path}\n"


def test_a_running_run_takes_a_new_name(service: InProcess, gate: Gate) -> None:
    run = service.run(gate.wait)
    service.until(run["id"], "running")
    assert service.http.put(f"/runs/{run['id']}", json={"name": "renamed"}).json()["name"] == "renamed"
    (event,) = [event for event in service.events(run["id"]) if event["kind"] == "run.updated"]
    assert (event["before"], event["after"]) == ({"name": "test"}, {"name": "renamed"})


def test_a_rerun_is_a_new_run_like_the_old_one(shared: InProcess) -> None:
    sweep = shared.post("/sweeps/wild", {"name": "w", "goal": "g"})["id"]
    like = {"sweep_id": sweep, "env": {"A": "1"}, "tags": ["t"], "priority": 3, "resources": {"cpus": 2}}
    old = shared.run("echo $A", chat_session_id="chat", gpuwrap_config={"enabled": False}, **like)
    shared.over(old["id"])
    new = shared.post(f"/runs/{old['id']}/rerun")
    assert new["id"] != old["id"]
    assert (new["status"], new["parent_run_id"], new["command"]) == ("ready", old["id"], "echo $A")
    assert {name: new[name] for name in like} == like
    assert (new["workdir"], new["chat_session_id"]) == (old["workdir"], "chat")
    assert new["gpuwrap_config"]["enabled"] is False
    assert shared.get(f"/runs/{old['id']}")["status"] == "finished"


def test_a_rerun_takes_what_its_body_says(shared: InProcess) -> None:
    old = make(shared, "echo old")
    alert = shared.post(f"/runs/{old['id']}/alerts", {"message": "m", "choices": ["a"]})["alert_id"]
    body = {"command": "echo new", "auto_start": True, "origin_alert_id": alert, "gpuwrap_config": {"enabled": True}}
    new = shared.post(f"/runs/{old['id']}/rerun", body)
    assert (new["status"], new["origin_alert_id"]) == ("queued", alert)
    assert new["gpuwrap_config"]["enabled"] is True
    shared.over(new["id"])
    assert shared.log(new["id"]) == "new\n"
    assert shared.refused("POST", f"/runs/{old['id']}/rerun", {"origin_alert_id": "nope"})[0] == 404


def test_a_run_with_a_long_name_can_be_run_again(shared: InProcess) -> None:
    old = make(shared, name="n" * 500)
    new = shared.post(f"/runs/{old['id']}/rerun", {})
    assert new["parent_run_id"] == old["id"]
    assert new["name"].startswith("n" * 400)


# -- lists -------------------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_up_to_the_limit(service: InProcess) -> None:
    for number in range(5):
        make(service, name=str(number))
    assert names(service) == ["4", "3", "2", "1", "0"]
    assert names(service, limit=2) == ["4", "3"]


def test_filters_choose_and_combine(service: InProcess) -> None:
    plan = service.post("/plans", {"title": "t", "goal": "g"})["id"]
    sweep = service.post("/sweeps/wild", {"name": "w", "goal": "g", "plan_id": plan})["id"]
    make(service, name="plain", tags=["a", "größe 50%"])
    make(service, name="swept", sweep_id=sweep, tags=["ab"])
    make(service, name="planned", plan_id=plan, tags=['say "a"', "a_"])
    service.over(service.run("true", name="done", tags=["a"])["id"])
    assert names(service, sweep_id=sweep) == ["swept"]
    assert names(service, plan_id=plan) == ["planned", "swept"]
    assert names(service, status="finished") == ["done"]
    assert names(service, status=["finished", "ready"]) == ["done", "planned", "swept", "plain"]
    assert names(service, tag="a") == ["done", "plain"]
    assert names(service, tag="größe 50%") == ["plain"]
    assert names(service, tag='say "a"') == ["planned"]
    assert names(service, tag="%") == names(service, tag="a%") == []
    assert names(service, tag="a", status="ready") == ["plain"]
    assert names(service, sweep_id="nope") == []


def test_the_cursor_walks_every_page_once_while_runs_are_made(service: InProcess) -> None:
    wanted = [make(service, name=f"old {number}", tags=["x"])["id"] for number in range(7)]
    make(service, name="other")
    seen: list[str] = []
    pages = 0
    url: str | None = "/runs?limit=3&tag=x&status=ready&status=queued"
    while url is not None:
        answer = service.http.get(url)
        assert len(answer.json()) <= 3
        seen += [run["id"] for run in answer.json()]
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("Link", ""))
        url = link[1] if link else None
        pages += 1
        make(service, name=f"new {pages}", tags=["x"])
    assert seen == wanted[::-1]
    assert pages >= 3


# -- order -------------------------------------------------------------------------------------------------------------


def test_a_run_waits_for_the_runs_it_depends_on(service: InProcess, gate: Gate) -> None:
    first, second = service.run("true"), service.run(gate.wait)
    child = service.run("true", depends_on=[first["id"], second["id"], first["id"]])
    assert child["depends_on"] == [first["id"], second["id"]]
    service.over(first["id"])
    wait_until(lambda: service.get(f"/runs/{child['id']}")["reason"] == "DEPENDENCY")
    passes(service)
    assert service.status(child["id"]) == "queued"
    gate.open()
    done = service.over(child["id"])
    assert done["status"] == "finished"
    assert done["started_at"] >= service.get(f"/runs/{second['id']}")["ended_at"]


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_what_depends_on_a_failure_fails(service: InProcess, gate: Gate, end: str) -> None:
    parent = service.run(f"{gate.wait}; exit 3")
    child = service.run("true", depends_on=[parent["id"]])
    grandchild = service.run("true", depends_on=[child["id"]])
    service.until(parent["id"], "running")
    if end == "stopped":
        service.post(f"/runs/{parent['id']}/stop")
    gate.open()
    assert service.over(parent["id"])["status"] == end
    for run, named in ((child, parent), (grandchild, child)):
        failed = service.until(run["id"], "failed")
        assert (failed["reason"], failed["started_at"]) == ("PARENT_FAILED", None)
        assert named["id"] in failed["error"]
    status, detail = service.refused("POST", "/runs", {"name": "x", "command": "true", "depends_on": [parent["id"]]})
    assert status == 409
    assert parent["id"] in detail


def test_one_cpu_serves_by_priority_then_in_order_of_arrival(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with in_process(tmp_path / "home", local_cpus=1) as service:
        service.post("/cluster/detect", {"preferred_type": "cpu_only"})
        blocker = service.run(gate.wait)
        service.until(blocker["id"], "running")
        late = make(service, name="queued last")
        order = [service.run("true", name=name, priority=priority) for name, priority in (("c", 0), ("d", 0), ("b", 5))]
        order.append(service.run("true", name="a", priority=7))
        service.post(f"/runs/{late['id']}/queue")
        gate.open()
        for run in [*order, late]:
            service.over(run["id"])
        runs = [run for run in service.get("/runs") if run["id"] != blocker["id"]]
        by_start = sorted(runs, key=lambda run: float(run["started_at"]))
        assert [run["name"] for run in by_start] == ["a", "b", "c", "d", "queued last"]
        for one, following in itertools.pairwise(by_start):
            assert one["ended_at"] <= following["started_at"]


def test_cpus_are_not_given_twice_and_nobody_overtakes(service: InProcess, gate: Gate) -> None:
    first = service.run(gate.wait, resources={"cpus": 3})
    service.until(first["id"], "running")
    second = service.run("true", resources={"cpus": 2})
    third = service.run("true", resources={"cpus": 1})
    for waiting in (second, third):
        wait_until(lambda run=waiting: service.get(f"/runs/{run['id']}")["reason"] == "CPU_WAIT")  # type: ignore[misc]
    passes(service)
    assert [service.status(run["id"]) for run in (second, third)] == ["queued", "queued"]
    gate.open()
    assert service.over(second["id"])["started_at"] >= service.over(first["id"])["ended_at"]
    assert service.over(third["id"])["status"] == "finished"


def test_a_time_limit_is_enforced(service: InProcess, gate: Gate) -> None:
    over = service.over(service.run(gate.wait, resources={"time": 0.01})["id"])
    assert (over["status"], over["reason"]) == ("failed", "TIMEOUT")
    assert 0.6 <= over["ended_at"] - over["started_at"] < 10
    assert over["error"]
    wait_until(lambda: not living(over["id"]), "the end of job.py, which has told by now")


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("exit 7", {"status": "failed", "reason": "NONZERO_EXIT", "exit_code": 7, "signal": None}),
        ("kill -KILL $$", {"status": "failed", "reason": "SIGNAL", "exit_code": None, "signal": 9}),
        ("set -e; false; exit 0", {"status": "failed", "reason": "NONZERO_EXIT", "exit_code": 1, "signal": None}),
        ("no-such-command-anywhere", {"status": "failed", "reason": "NONZERO_EXIT", "exit_code": 127}),
        ("echo $((", {"status": "failed", "reason": "NONZERO_EXIT"}),
        ("exit 0\nexit 1", {"status": "finished", "reason": None, "exit_code": 0}),
    ],
)
def test_a_run_ends_as_its_command_does(shared: InProcess, command: str, end: Json) -> None:
    over = shared.over(shared.run(command)["id"])
    assert {name: over[name] for name in end} == end
    assert (over["error"] is None) == (end["status"] == "finished")


# -- what a helper reports ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [("finished", 0), ("failed", 1), ("stopped", None)])
def test_a_report_is_evidence_and_never_the_status(
    service: InProcess, gate: Gate, told: tuple[str, int | None]
) -> None:
    run = service.run(gate.wait)
    service.until(run["id"], "running")
    body = {"status": told[0], "exit_code": told[1], "error": "says the helper", "wandb_dir": "/somewhere/wandb"}
    answer = service.post(f"/runs/{run['id']}/status", body)
    assert (answer["status"], answer["wandb_dir"]) == ("running", "/somewhere/wandb")
    passes(service)
    assert service.status(run["id"]) == "running"
    gate.open()
    over = service.over(run["id"])
    assert (over["status"], over["exit_code"], over["error"]) == ("finished", 0, None)
    (event,) = [event for event in service.events(run["id"]) if event["kind"] == "run.reported"]
    assert (event["actor"], event["after"]["reported"]["status"]) == ("token:admin", told[0])


@pytest.mark.parametrize("stage", ["ready", "queued", "finished", "failed", "stopped"])
def test_a_report_moves_no_run_that_has_no_job(stages: Stages, stage: str) -> None:
    run_id = stages.runs[stage]
    other = "failed" if stage == "finished" else "finished"
    stages.service.post(f"/runs/{run_id}/status", {"status": other, "exit_code": 0})
    passes(stages.service)
    assert stages.service.status(run_id) == stage


# -- what a command finds around it ------------------------------------------------------------------------------------

SHOW = f"{PYTHON} -c 'import json, os; print(json.dumps(dict(os.environ)))'"


def environment(service: InProcess, **fields: Any) -> tuple[Json, dict[str, str]]:
    run = service.over(service.run(SHOW, **fields)["id"])
    return run, dict(json.loads(service.log(run["id"])))


def test_a_command_sees_its_own_variables(shared: InProcess) -> None:
    given = {
        "PLAIN": "1",
        "SPACES": " a  b ",
        "QUOTES": 'it\'s "so"',
        "LINES": "one\ntwo",
        "UNICODE": "größe 数",
        "E": "",
    }
    sweep = shared.post("/sweeps/wild", {"name": "w", "goal": "g"})["id"]
    run, seen = environment(shared, env=given, sweep_id=sweep)
    assert {name: seen.get(name) for name in given} == given
    assert (seen["ORC_RUN_ID"], seen["ORC_SWEEP_ID"], seen["ORC_ATTEMPT"]) == (run["id"], sweep, "1")
    assert seen["ORC_RUN_DIR"] == run["run_dir"]
    assert Path(seen["ORC_METRICS_FILE"]).parent == Path(run["run_dir"])
    assert Path(seen["ORC_ARTIFACTS_DIR"]).is_dir()
    assert seen["WANDB_RUN_ID"] == run["id"]
    assert Path(seen["WANDB_DIR"]).is_dir()
    assert "WANDB_RESUME" not in seen


def test_a_command_sees_nothing_of_the_servers_secrets(shared: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {"ORC_TOKEN", "ORC_TOKEN_FILE", "ORC_DATABASE_URL", "ORC_SWEEP_ID", "FOO_SECRET", "AWS_SECRET_ACCESS_KEY"}
    hidden |= {"GITHUB_TOKEN", "SLURM_JOB_ID", "SBATCH_ACCOUNT", "SQUEUE_FORMAT", "CUDA_VISIBLE_DEVICES"}
    hidden |= {"VIRTUAL_ENV", "PYTHONPATH", "BASH_ENV"}
    for name in hidden:
        monkeypatch.setenv(name, "hidden-value")
    monkeypatch.setenv("LC_TIME", "C.UTF-8")
    _, seen = environment(shared)
    assert "hidden-value" not in json.dumps(seen)
    assert not hidden & set(seen)
    assert (shared.settings.home / "token").read_text().strip() not in json.dumps(seen)
    assert seen["LC_TIME"] == "C.UTF-8"


def test_a_users_own_wandb_run_id_wins(shared: InProcess) -> None:
    assert environment(shared, env={"WANDB_RUN_ID": "mine"})[1]["WANDB_RUN_ID"] == "mine"


# The wrapper reads $ORC_RUN_DIR/command.sh, and a run's processes are found by their ORC_RUN_ID.
@pytest.mark.parametrize("name", ["ORC_RUN_ID", "ORC_RUN_DIR", "ORC_METRICS_FILE", "ORC_ATTEMPT"])
def test_a_run_keeps_its_identity_whatever_its_env_says(shared: InProcess, name: str) -> None:
    answer = shared.http.post("/runs", json={"name": "x", "command": SHOW, "env": {name: "/lie"}, "auto_start": True})
    if answer.status_code == 422:
        assert name in answer.text
        return
    run = shared.over(answer.json()["id"])
    assert run["status"] == "finished", run["error"]
    assert json.loads(shared.log(run["id"]))[name] != "/lie"


def test_a_broken_pipe_ends_a_command_quietly(shared: InProcess) -> None:
    run = shared.over(shared.run("set -o pipefail; yes | head -1")["id"])
    assert run["exit_code"] == 128 + 13
    assert shared.log(run["id"]) == "y\n"


def test_a_command_runs_in_a_fresh_bash(shared: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".bashrc", ".bash_profile", ".profile", ".bash_login", "env.sh"):
        (tmp_path / name).write_text(f"echo 'read {name}'\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "env.sh"))
    monkeypatch.setenv("ENV", str(tmp_path / "env.sh"))
    run = shared.over(shared.run('echo "$BASH|$HOME|$-|$#"; shopt -q login_shell || echo no login')["id"])
    first, second = shared.log(run["id"]).splitlines()
    shell, home, flags, arguments = first.split("|")
    assert shell.endswith("bash")
    assert (home, arguments, second) == (str(tmp_path), "0", "no login")
    assert "i" not in flags


def test_a_command_has_nothing_to_read(shared: InProcess) -> None:
    run = shared.over(shared.run('cat; read line; echo "end $?"')["id"])
    assert shared.log(run["id"]) == "end 1\n"


def test_a_command_runs_where_it_was_told_to(shared: InProcess, tmp_path: Path) -> None:
    folder = tmp_path / "größe $HOME 'x'"
    folder.mkdir()
    run = shared.over(shared.run("pwd; echo $PWD > here", workdir=str(folder))["id"])
    assert (run["status"], run["workdir"]) == ("finished", str(folder))
    assert shared.log(run["id"]) == f"{folder}\n"
    assert (folder / "here").exists()
    default = shared.over(shared.run("pwd")["id"])
    assert shared.log(default["id"]) == f"{shared.settings.default_workdir}\n" == f"{default['workdir']}\n"


def test_a_workdir_that_went_away_is_the_reason(shared: InProcess, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    run = make(shared, workdir=str(folder))
    folder.rmdir()
    shared.post(f"/runs/{run['id']}/start")
    over = shared.over(run["id"])
    assert (over["status"], over["reason"]) == ("failed", "BAD_WORKDIR")
    assert str(folder) in over["error"]


def test_a_log_is_the_commands_output_in_its_order(shared: InProcess) -> None:
    run = shared.over(shared.run("echo out; echo err >&2; printf last")["id"])
    assert shared.log(run["id"]) == "out\nerr\nlast"


def test_a_command_of_many_lines_arrives_word_for_word(shared: InProcess) -> None:
    command = "cat <<'EOF'\n$HOME `x` \\ \"quoted\" 'single' größe\n\ttab\nEOF\nfor i in 1 2; do\n  echo $i\ndone"
    run = shared.over(shared.run(command)["id"])
    assert shared.log(run["id"]) == "$HOME `x` \\ \"quoted\" 'single' größe\n\ttab\n1\n2\n"
    assert run["command"] == command


HOOKS = ["/opt/conda", "/opt/miniconda3", "/opt/miniforge3", "/opt/anaconda3", "/etc/profile.d/conda.sh"]
HOOKS += ["/etc/profile.d/lmod.sh", "/etc/profile.d/modules.sh", "/usr/share/lmod", "/usr/share/modules"]


@pytest.mark.skipif(any(os.path.exists(path) for path in HOOKS), reason="this machine has conda or modules")
@pytest.mark.parametrize(("name", "command"), [("conda", "conda activate x"), ("module", "ml load x")])
def test_conda_and_module_say_that_they_are_not_here(
    shared: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("CONDA_EXE", "LMOD_PKG", "MODULESHOME"):
        monkeypatch.delenv(variable, raising=False)
    run = shared.over(shared.run(f'type -t {name}; {command}; echo "$?"')["id"])
    assert shared.log(run["id"]) == f"function\n{name}: not found on this machine\n127\n"


def test_conda_and_module_work_without_rc_files(
    shared: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda = tmp_path / "miniforge3" / "etc" / "profile.d" / "conda.sh"
    module = tmp_path / "modules" / "init" / "bash"
    for path, name in ((conda, "conda"), (module, "module")):
        path.parent.mkdir(parents=True)
        path.write_text(f'echo "hook of {name}"; {name}() {{ echo "{name}: $*"; NAMED=$2; }}\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONDA_EXE", str(tmp_path / "miniforge3" / "bin" / "conda"))
    monkeypatch.setenv("MODULESHOME", str(tmp_path / "modules"))
    run = shared.over(
        shared.run('conda activate one && echo "$NAMED"; conda list; module load "two 2"; echo "$NAMED"')["id"]
    )
    expected = ["hook of conda", "conda: activate one", "one", "conda: list", "hook of module"]
    assert shared.log(run["id"]).splitlines() == [*expected, "module: load two 2", "two 2"]


def test_a_long_queue_does_not_slow_a_stop(service: InProcess, gate: Gate) -> None:
    body = {"name": "s", "base_command": gate.wait + "; :", "parameters": {"x": list(range(300))}, "auto_start": True}
    sweep = service.post("/sweeps", body)
    begin = time.monotonic()
    service.post(f"/sweeps/{sweep['id']}/stop")
    wait_until(lambda: service.get(f"/sweeps/{sweep['id']}")["progress"]["canceled"] == 300)
    assert time.monotonic() - begin < 15
