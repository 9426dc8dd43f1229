"""Sweeps over HTTP: grids, what follows from their runs, keeping some going."""

import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import InProcess, Json, in_process
from tests.support.waiting import wait_until

NONE = type(None)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "name", "base_command", "status"), (str,)),
    **dict.fromkeys(("workdir", "goal", "chat_session_id", "plan_id"), (str, NONE)),
    **dict.fromkeys(("ui_config", "creation_context"), (dict, NONE)),
    **dict.fromkeys(("started_at", "completed_at"), (float, NONE)),
    "parameters": (dict,),
    "run_ids": (list,),
    "created_at": (float,),
    "is_wild": (bool,),
    "max_runs": (int, NONE),
    "progress": (dict,),
}
COUNTS = ("total", "completed", "failed", "running", "launching", "ready", "queued", "canceled")
# A command whose exit code is its option: --code=3
EXIT = "bash -c 'exit ${1#--code=}' x"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service: each test looks at its own sweeps."""
    with in_process(tmp_path_factory.mktemp("sweeps") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[InProcess]:
    """One for a test that looks at all of them."""
    with in_process(tmp_path / "home") as found:
        yield found


@pytest.fixture
def gate(service: InProcess, tmp_path: Path) -> Iterator[Path]:
    """A file that runs wait for; made at the end at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()
    wait_until(lambda: not service.get("/runs", status=["queued", "launching", "running"]), "the runs behind the gate")


def waiting(gate: Path) -> str:
    """A command that waits for the gate and takes no notice of its options."""
    return f"while [ ! -e {shlex.quote(str(gate))} ]; do sleep 0.02; done; true"


def grid(service: InProcess, values: list[Any], command: str = "true", **fields: Any) -> Json:
    body = {"name": "s", "base_command": command, "parameters": {"code": values}, **fields}
    return dict(service.post("/sweeps", body))


def show(service: InProcess, sweep: Json) -> Json:
    return dict(service.get(f"/sweeps/{sweep['id']}"))


def until(service: InProcess, sweep: Json, status: str) -> Json:
    wait_until(lambda: show(service, sweep)["status"] == status, f"the sweep {status}")
    return show(service, sweep)


def counts(**some: int) -> dict[str, int]:
    return {**dict.fromkeys(COUNTS, 0), **some}


def runs_of(service: InProcess, sweep: Json) -> list[Json]:
    """In the order of the grid."""
    return [service.get(f"/runs/{run_id}") for run_id in show(service, sweep)["run_ids"]]


# -- made --------------------------------------------------------------------------------------------------------------


def test_a_wild_sweep_is_an_empty_one(service: InProcess) -> None:
    sweep = service.post("/sweeps/wild", {"name": "descriptive-sweep-name", "goal": "what", "chat_session_id": "c"})
    assert (sweep["is_wild"], sweep["run_ids"], sweep["status"]) == (True, [], "pending")
    assert (sweep["name"], sweep["goal"], sweep["chat_session_id"]) == ("descriptive-sweep-name", "what", "c")
    assert sweep["progress"] == counts()
    assert show(service, sweep) == sweep


def test_a_sweep_shows_every_field_with_its_type(service: InProcess) -> None:
    wild = service.post("/sweeps/wild", {"name": "w", "goal": "g"})
    made = grid(service, [0], max_runs=3, goal="g", ui_config={"a": [1, {"b": None}]}, creation_context={"c": 1})
    over = until(service, grid(service, [0], auto_start=True), "completed")
    for shown in (wild, made, over, *service.get("/sweeps")):
        for name, types in TYPES.items():
            assert isinstance(shown[name], types), (name, shown[name])
        assert set(shown["progress"]) == set(COUNTS)
        assert re.fullmatch(r"[0-9a-f]{12}", shown["id"])
    assert (made["max_runs"], made["ui_config"], made["creation_context"]) == (3, {"a": [1, {"b": None}]}, {"c": 1})
    assert over["created_at"] <= over["started_at"] <= over["completed_at"]


def test_a_grid_makes_one_run_per_configuration(service: InProcess) -> None:
    body = {
        "name": "s",
        "base_command": "python train.py",
        "parameters": {"lr": [0.001, 1e-05], "layers": [1, 2, 3]},
        "chat_session_id": "chat",
        "resources": {"cpus": 2},
        "env": {"A": "1"},
        "tags": ["t"],
        "priority": 4,
    }
    sweep = service.post("/sweeps", body)
    runs = runs_of(service, sweep)
    configurations = list(itertools.product([0.001, 1e-05], [1, 2, 3]))
    assert [run["command"] for run in runs] == [
        f"python train.py --lr={lr} --layers={layers}" for lr, layers in configurations
    ]
    assert [run["sweep_params"] for run in runs] == [{"lr": lr, "layers": layers} for lr, layers in configurations]
    for run in runs:
        assert (run["sweep_id"], run["status"], run["chat_session_id"]) == (sweep["id"], "ready", "chat")
        assert (run["resources"], run["env"], run["tags"], run["priority"]) == ({"cpus": 2}, {"A": "1"}, ["t"], 4)
    assert len({run["name"] for run in runs}) == 6
    assert sweep["progress"] == counts(total=6, ready=6)
    assert sweep["status"] == "pending"


def test_values_arrive_exactly_as_they_were_given(service: InProcess, tmp_path: Path) -> None:
    script = tmp_path / "show arguments.py"
    script.write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    texts = [
        "it's",
        'say "hi"',
        " a  b ",
        "$HOME `id` $(id) \\ !x",
        "größe 数 🙂",
        "",
        "-x",
        "*",
        "one\ntwo",
        "a;b&c|d",
    ]
    others: list[tuple[Any, str]] = [
        *((None, "null"), (True, "true"), (7, "7"), (1e-05, "1e-05"), (-0.5, "-0.5")),
        *(([1, "a b"], '[1, "a b"]'), ({"k": "v'w"}, '{"k": "v\'w"}')),
    ]
    expected = [(text, text) for text in texts] + others
    parameters = {f"p{number}": [value] for number, (value, _) in enumerate(expected)}
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} first"
    sweep = service.post(
        "/sweeps", {"name": "s", "base_command": command, "parameters": parameters, "auto_start": True}
    )
    run = service.over(sweep["run_ids"][0])
    assert run["status"] == "finished", service.log(run["id"])
    arguments = json.loads(service.log(run["id"]))
    assert arguments == ["first", *(f"--p{number}={text}" for number, (_, text) in enumerate(expected))]
    assert run["sweep_params"] == {name: value for name, (value,) in parameters.items()}


@pytest.mark.parametrize("max_runs", [None, 25])
def test_a_grid_is_never_cut_in_silence(service: InProcess, max_runs: int | None) -> None:
    fields: Json = {} if max_runs is None else {"max_runs": max_runs}
    assert len(grid(service, list(range(25)), **fields)["run_ids"]) == 25


def test_a_sweep_without_parameters_is_one_run(service: InProcess) -> None:
    sweep = service.post("/sweeps", {"name": "only", "base_command": "true", "parameters": {}})
    (run,) = runs_of(service, sweep)
    assert (run["command"], run["name"], run["sweep_params"]) == ("true", "only", {})


@pytest.mark.parametrize("fields", [{"auto_start": True}, {"status": "running"}])
def test_a_sweep_starts_by_itself_where_asked(service: InProcess, fields: Json) -> None:
    sweep = grid(service, [0, 0], EXIT, **fields)
    assert sweep["status"] == "running"
    assert until(service, sweep, "completed")["progress"] == counts(total=2, completed=2)


def test_a_sweep_of_an_unknown_plan_is_not_found(alone: InProcess) -> None:
    for path, body in (
        ("/sweeps/wild", {"name": "w", "goal": "g", "plan_id": "nope"}),
        ("/sweeps", {"name": "s", "base_command": "true", "parameters": {"a": [1]}, "plan_id": "nope"}),
    ):
        assert alone.refused("POST", path, body)[0] == 404
    assert alone.get("/sweeps") == alone.get("/runs") == []


# -- life --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "status", "progress"),
    [
        ([0, 0], "completed", counts(total=2, completed=2)),
        ([0, 3], "failed", counts(total=2, completed=1, failed=1)),
        ([4], "failed", counts(total=1, failed=1)),
    ],
)
def test_a_sweeps_status_follows_from_its_runs(
    service: InProcess, gate: Path, values: list[int], status: str, progress: dict[str, int]
) -> None:
    command = f"while [ ! -e {shlex.quote(str(gate))} ]; do sleep 0.02; done; {EXIT}"
    sweep = grid(service, values, command)
    assert (sweep["status"], sweep["started_at"], sweep["completed_at"]) == ("pending", None, None)
    answer = service.post(f"/sweeps/{sweep['id']}/start")
    assert answer["sweep_id"] == sweep["id"]
    assert show(service, sweep)["status"] == "running"
    going = wait_until(lambda: (s := show(service, sweep))["progress"]["running"] == len(values) and s)
    assert going["started_at"] is not None
    assert going["completed_at"] is None
    gate.touch()
    over = until(service, sweep, status)
    assert over["progress"] == progress
    assert over["completed_at"] == max(run["ended_at"] for run in runs_of(service, sweep))


def test_a_stopped_sweep_is_canceled(service: InProcess, gate: Path) -> None:
    sweep = grid(service, list(range(6)), waiting(gate), auto_start=True)
    wait_until(lambda: show(service, sweep)["progress"]["running"] == 4)
    assert service.post(f"/sweeps/{sweep['id']}/stop")["stopping"] == 6
    over = until(service, sweep, "canceled")
    assert over["progress"] == counts(total=6, canceled=6)
    assert service.post(f"/sweeps/{sweep['id']}/stop")["stopping"] == 0


def test_a_sweep_with_nothing_going_is_not_running(service: InProcess, gate: Path) -> None:
    sweep = grid(service, [0, 1], waiting(gate))
    first, _ = sweep["run_ids"]
    service.post(f"/runs/{first}/start")
    service.post(f"/sweeps/{sweep['id']}/stop")
    service.over(first)
    shown = show(service, sweep)
    assert shown["progress"] == counts(total=2, canceled=1, ready=1)
    assert shown["status"] == "pending"


def test_starting_keeps_so_many_going_until_all_are_done(service: InProcess) -> None:
    sweep = grid(service, list(range(7)), "sleep 0.1; true")
    service.post(f"/sweeps/{sweep['id']}/start?parallel=2")
    until(service, sweep, "completed")
    runs = runs_of(service, sweep)
    assert {run["status"] for run in runs} == {"finished"}
    moments = [(run["launched_at"], 1) for run in runs] + [(run["ended_at"], -1) for run in runs]
    going = list(itertools.accumulate(step for _, step in sorted(moments)))
    assert max(going) == 2
    assert [run["id"] for run in sorted(runs, key=lambda run: float(run["launched_at"]))] == sweep["run_ids"]


def test_a_full_sweep_holds_nobody_else_up(service: InProcess, gate: Path) -> None:
    sweep = grid(service, [0, 1, 2], waiting(gate), parallel=1, auto_start=True)
    other = service.run("true")
    assert service.over(other["id"])["status"] == "finished"
    reasons = [run["reason"] for run in runs_of(service, sweep)]
    assert reasons[1:] == ["SWEEP_PARALLEL", "SWEEP_PARALLEL"]
    assert show(service, sweep)["parallel"] == 1


def test_starting_again_starts_what_is_ready_and_nothing_else(service: InProcess, gate: Path) -> None:
    sweep = grid(service, [0], waiting(gate))
    assert service.post(f"/sweeps/{sweep['id']}/start")["queued"] == 1
    assert service.post(f"/sweeps/{sweep['id']}/start")["queued"] == 0
    added = service.post(f"/sweeps/{sweep['id']}/runs", {"name": "more", "command": "true"})
    assert added["status"] == "ready"
    assert service.post(f"/sweeps/{sweep['id']}/start")["queued"] == 1
    assert service.over(added["id"])["status"] == "finished"


def test_what_failed_runs_again_once(service: InProcess) -> None:
    sweep = grid(service, [0, 5, 6], EXIT, auto_start=True, env={"A": "1"})
    until(service, sweep, "failed")
    again = service.post(f"/sweeps/{sweep['id']}/rerun-failed")
    assert [run["parent_run_id"] for run in again] == sweep["run_ids"][1:]
    assert [run["sweep_params"] for run in again] == [{"code": 5}, {"code": 6}]
    assert {run["status"] for run in again} == {"queued"}
    assert {run["env"]["A"] for run in again} == {"1"}
    assert service.post(f"/sweeps/{sweep['id']}/rerun-failed") == []
    for run in again:
        service.over(run["id"])
    third = service.post(f"/sweeps/{sweep['id']}/rerun-failed", {"command": "true"})
    assert [run["parent_run_id"] for run in third] == [run["id"] for run in again]
    assert {run["status"] for run in third} == {"ready"}
    assert show(service, sweep)["progress"]["total"] == 7


@pytest.mark.parametrize("action", ["start", "stop", "rerun-failed", "runs"])
def test_an_unknown_sweep_is_not_found(service: InProcess, action: str) -> None:
    body = {"name": "x", "command": "true"} if action == "runs" else None
    status, detail = service.refused("POST", f"/sweeps/nope/{action}", body)
    assert status == 404
    assert "nope" in detail
    assert service.refused("GET", "/sweeps/nope")[0] == 404
    assert service.refused("PUT", "/sweeps/nope", {"name": "x"})[0] == 404


# -- drafts ------------------------------------------------------------------------------------------------------------


def test_a_draft_has_no_runs_and_does_not_start(alone: InProcess) -> None:
    sweep = grid(alone, [0, 1], status="draft", auto_start=True)
    assert (sweep["status"], sweep["run_ids"]) == ("draft", [])
    assert sweep["parameters"] == {"code": [0, 1]}
    status, detail = alone.refused("POST", f"/sweeps/{sweep['id']}/start")
    assert status == 400
    assert "draft" in detail
    assert alone.get("/runs") == []


def test_a_draft_that_is_pending_can_be_run(service: InProcess) -> None:
    sweep = grid(service, [0], status="draft", env={"A": "1"}, tags=["t"])
    changed = service.http.put(f"/sweeps/{sweep['id']}", json={"parameters": {"code": [0, 0]}, "base_command": EXIT})
    assert changed.status_code == 200
    assert service.http.put(f"/sweeps/{sweep['id']}", json={"status": "pending"}).json()["status"] == "pending"
    service.post(f"/sweeps/{sweep['id']}/start")
    assert show(service, sweep)["progress"]["total"] == 2
    until(service, sweep, "completed")
    for run in runs_of(service, sweep):
        assert (run["env"], run["tags"]) == ({"A": "1"}, ["t"])


# -- changed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"base_command": "false"}, {"parameters": {"code": [9]}}, {"workdir": "/"}, {"max_runs": 5}]
)
def test_a_grid_with_runs_cannot_change(service: InProcess, change: Json) -> None:
    sweep = grid(service, [0])
    events = service.journal()
    status, detail = service.refused("PUT", f"/sweeps/{sweep['id']}", {"name": "other", **change})
    assert status == 409
    assert next(iter(change)) in detail
    assert show(service, sweep) == sweep
    assert service.journal() == events


@pytest.mark.parametrize(
    "change",
    [{"name": "new"}, {"goal": "more"}, {"ui_config": {"x": 1}}, {"parallel": 3}, {"name": "a", "goal": "b"}],
)
def test_the_rest_of_a_sweep_changes_at_any_time(service: InProcess, change: Json) -> None:
    sweep = grid(service, [0])
    changed = service.http.put(f"/sweeps/{sweep['id']}", json=change).json()
    assert {name: changed[name] for name in change} == change
    assert changed == {**sweep, **change} == show(service, sweep)
    (event,) = [
        e
        for e in service.get("/events/latest")
        if (e["kind"], e["subject"]) == ("sweep.updated", f"sweep:{sweep['id']}")
    ]
    assert event["after"] == change
    assert event["before"] == {name: sweep[name] for name in change}


def test_a_drafts_new_grid_is_checked(service: InProcess) -> None:
    sweep = grid(service, [0], status="draft", max_runs=3)
    status, detail = service.refused("PUT", f"/sweeps/{sweep['id']}", {"parameters": {"a": [1, 2], "b": [1, 2]}})
    assert status == 422
    assert "4" in detail[0]["msg"]
    assert "3" in detail[0]["msg"]
    assert service.refused("PUT", f"/sweeps/{sweep['id']}", {"parameters": {"a": []}})[0] == 422
    assert show(service, sweep) == sweep


@pytest.mark.parametrize("word", ["draft", "completed", "failed", "canceled"])
def test_a_status_by_hand_hides_no_run(service: InProcess, gate: Path, word: str) -> None:
    sweep = grid(service, [0, 1], waiting(gate), auto_start=True)
    service.http.put(f"/sweeps/{sweep['id']}", json={"status": word})
    assert show(service, sweep)["status"] == "running"
    gate.touch()
    assert until(service, sweep, "completed")["progress"] == counts(total=2, completed=2)


def test_an_empty_sweep_shows_the_status_that_was_set(service: InProcess) -> None:
    sweep = service.post("/sweeps/wild", {"name": "w", "goal": "g"})
    assert service.http.put(f"/sweeps/{sweep['id']}", json={"status": "completed"}).json()["status"] == "completed"


# -- runs in sweeps ----------------------------------------------------------------------------------------------------


def test_a_run_is_made_in_a_sweep(service: InProcess) -> None:
    sweep = service.post("/sweeps/wild", {"name": "w", "goal": "g", "chat_session_id": "chat"})
    body = {"name": "one", "command": "true", "sweep_params": {"lr": 0.1}, "auto_start": True}
    run = service.post(f"/sweeps/{sweep['id']}/runs", body)
    assert (run["sweep_id"], run["sweep_params"], run["chat_session_id"]) == (sweep["id"], {"lr": 0.1}, "chat")
    over = until(service, sweep, "completed")
    assert (over["run_ids"], over["progress"]) == ([run["id"]], counts(total=1, completed=1))


def test_a_dry_run_in_a_sweep_stores_nothing(alone: InProcess) -> None:
    sweep = alone.post("/sweeps/wild", {"name": "w", "goal": "g"})
    body = {"name": "one", "command": "true", "dry_run": True}
    answer = alone.http.post(f"/sweeps/{sweep['id']}/runs", json=body)
    assert alone.get("/runs") == []
    assert show(alone, sweep) == sweep
    assert answer.status_code == 422 or answer.json()["id"] is None


def test_a_run_moves_from_sweep_to_sweep(service: InProcess) -> None:
    plan = service.post("/plans", {"title": "t", "goal": "g"})["id"]
    one = service.post("/sweeps/wild", {"name": "one", "goal": "g", "plan_id": plan})
    two = service.post("/sweeps/wild", {"name": "two", "goal": "g"})
    run = service.post("/runs", {"name": "x", "command": "true"})
    moved = service.post(f"/runs/{run['id']}/add-to-sweep?sweep_id={one['id']}")
    assert (moved["sweep_id"], moved["plan_id"]) == (one["id"], plan)
    service.post(f"/runs/{run['id']}/add-to-sweep?sweep_id={two['id']}")
    assert show(service, one)["run_ids"] == []
    assert show(service, two)["run_ids"] == [run["id"]]
    events = [event for event in service.events(run["id"]) if event["kind"] == "run.added_to_sweep"]
    assert [event["after"]["sweep_id"] for event in events] == [one["id"], two["id"]]
    assert [event["before"]["sweep_id"] for event in events] == [None, one["id"]]


@pytest.mark.parametrize(("query", "status"), [("?sweep_id=nope", 404), ("", 422), ("?sweep_id=", 404)])
def test_a_run_is_added_to_nothing_else(service: InProcess, query: str, status: int) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    assert service.refused("POST", f"/runs/{run['id']}/add-to-sweep{query}")[0] == status
    assert service.get(f"/runs/{run['id']}") == run


# -- lists -------------------------------------------------------------------------------------------------------------


def test_sweeps_are_listed_newest_first_page_by_page(alone: InProcess) -> None:
    plan = alone.post("/plans", {"title": "t", "goal": "g"})["id"]
    made = [alone.post("/sweeps/wild", {"name": str(n), "goal": "g", "plan_id": plan})["id"] for n in range(5)]
    alone.post("/sweeps/wild", {"name": "of no plan", "goal": "g"})
    seen: list[str] = []
    url: str | None = f"/sweeps?limit=2&plan_id={plan}"
    while url is not None:
        answer = alone.http.get(url)
        assert len(answer.json()) <= 2
        seen += [sweep["id"] for sweep in answer.json()]
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("Link", ""))
        url = link[1] if link else None
        alone.post("/sweeps/wild", {"name": "new", "goal": "g", "plan_id": plan})
    assert seen == made[::-1]
    assert alone.get("/sweeps", limit=1)[0]["name"] == "new"


# -- places in the command ---------------------------------------------------------------------------------------------


def test_a_place_is_filled_in_and_what_has_none_is_an_option(service: InProcess) -> None:
    body = {"name": "x", "base_command": "echo {lr} ${HOME} {a,b} {other}", "parameters": {"lr": ["a b"], "seed": [1]}}
    sweep = service.post("/sweeps", body)
    [run] = [service.get(f"/runs/{run_id}") for run_id in sweep["run_ids"]]
    assert run["command"] == "echo 'a b' ${HOME} {a,b} {other} --seed=1"
    assert run["sweep_params"] == {"lr": "a b", "seed": 1}


def test_a_place_in_quotes_is_refused_where_a_value_needs_its_own(service: InProcess) -> None:
    body = {"name": "x", "base_command": "echo '{lr}'", "parameters": {"lr": ["a b"]}}
    status, [problem] = service.refused("POST", "/sweeps", body)
    assert (status, problem["loc"]) == (422, ["body", "base_command"])
    assert service.post("/sweeps", body | {"parameters": {"lr": [0.1]}})["progress"]["total"] == 1
