"""What cannot be is refused: in words that name the field and the choices, at once, and nothing is stored."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlmodel import Session

from orchestrator.errors import StorageError
from orchestrator.models import Plan
from tests.support.service import InProcess, Json, in_process

MIB = 2**20
HUGE = 10**30
RUN: Json = {"name": "x", "command": "true"}
SWEEP: Json = {"name": "x", "base_command": "true", "parameters": {"lr": [1]}}
PLAN: Json = {"title": "x", "goal": "g", "raw_markdown": ""}
ALERT: Json = {"message": "m", "choices": ["a"]}
NUL, HALF = "a\0b", "a\ud800b"
SEPARATORS = re.compile(r"[\[\]./ ]+")


class World:
    """One service, with one thing of each kind, that no refused request may change."""

    def __init__(self, service: InProcess, ids: dict[str, str]) -> None:
        self.service = service
        self.ids = ids
        self._known = self.everything()

    def send(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        """``body`` as JSON, as Python writes it: NaN and halves of surrogate pairs too. Bytes go out as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self.service.http.request(method, path.format(**self.ids), content=content, headers=headers)

    def everything(self) -> list[Any]:
        """All that a refusal could have left behind."""
        lists = [self.service.get(path, limit=1000) for path in ("/runs", "/sweeps", "/plans")]
        return [self.service.journal(), *lists]

    def refuse(self, method: str, path: str, body: Any = None, field: str = "", status: int = 422) -> str:
        """Sends what must be refused with ``field`` named and nothing changed; what was said."""
        answer = self.send(method, path, body)
        before, self._known = self._known, self.everything()
        assert answer.status_code == status, f"{answer.status_code}: {answer.text[:1000]}"
        assert self._known == before
        detail = answer.json()["detail"]
        assert detail
        if field:
            words = [w for item in detail for w in (*map(str, item["loc"]), *SEPARATORS.split(item["msg"]))]
            assert set(SEPARATORS.split(field)) <= set(words), detail
        return json.dumps(detail, ensure_ascii=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with in_process(tmp_path_factory.mktemp("bad") / "home") as service:
        service.post("/cluster/detect", {"preferred_type": "cpu_only"})
        run = service.post("/runs", RUN)["id"]
        ids = {"run": run, "sweep": service.post("/sweeps/wild", {"name": "w", "goal": "g"})["id"]}
        ids |= {"plan": service.post("/plans", PLAN)["id"]}
        ids |= {"alert": service.post(f"/runs/{run}/alerts", ALERT)["alert_id"]}
        yield World(service, ids)


# -- fields ------------------------------------------------------------------------------------------------------------

BODIES: list[tuple[str, str, Json]] = [
    ("POST", "/runs", RUN),
    ("PUT", "/runs/{run}", {"name": "x"}),
    ("POST", "/runs/{run}/rerun", {}),
    ("POST", "/runs/{run}/status", {"status": "running"}),
    ("POST", "/runs/{run}/metrics", {"rows": []}),
    ("POST", "/runs/{run}/alerts", ALERT),
    ("POST", "/alerts/{alert}/respond", {"choice": "a"}),
    ("POST", "/sweeps", SWEEP),
    ("POST", "/sweeps/wild", {"name": "x", "goal": "g"}),
    ("PUT", "/sweeps/{sweep}", {"name": "x"}),
    ("POST", "/sweeps/{sweep}/runs", RUN),
    ("POST", "/sweeps/{sweep}/rerun-failed", {}),
    ("POST", "/plans", PLAN),
    ("PATCH", "/plans/{plan}", {"title": "x"}),
    ("POST", "/plans/{plan}/approve", {"force": True}),
    ("POST", "/cluster", {"notes": "x"}),
    ("POST", "/cluster/detect", {"preferred_type": None}),
]


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
def test_an_unknown_field_is_named(world: World, method: str, path: str, body: Json) -> None:
    world.refuse(method, path, {**body, "surprise": 1}, "surprise")


@pytest.mark.parametrize("outer", ["gpuwrap_config", "resources"])
def test_an_unknown_inner_field_is_named(world: World, outer: str) -> None:
    world.refuse("POST", "/runs", {**RUN, outer: {"surprise": 1}}, f"{outer}.surprise")


def test_the_seeds_own_fields_are_passed_over(world: World) -> None:
    body = {**RUN, "tmux_pane": "research:1.0", "tmux_window": "x", "dry_run": True}
    answer = world.send("POST", "/runs", body)
    assert answer.status_code == 200, answer.text
    assert "tmux_pane" not in answer.json()


OPTIONAL = ("/rerun", "/rerun-failed", "/approve", "/cluster/detect")
NO_DICTS: tuple[Any, ...] = ([], "text", 7, None)
NOT_OBJECTS: list[Any] = [[], "text", 7, None]
NO_OBJECTS = [
    (method, path, wrong)
    for method, path, _ in BODIES
    for wrong in NO_DICTS
    if wrong is not None or not path.endswith(OPTIONAL)
]


@pytest.mark.parametrize(("method", "path", "wrong"), NO_OBJECTS)
def test_a_body_that_is_no_object_is_refused(world: World, method: str, path: str, wrong: Any) -> None:
    world.refuse(method, path, wrong, "body")


@pytest.mark.parametrize("content", [b"{", b"", b"name=x&command=true", b'{"name": "x", "command": "true",}', b"\xff"])
def test_a_body_that_is_no_json_is_refused(world: World, content: bytes) -> None:
    world.refuse("POST", "/runs", content, "body")


@pytest.mark.parametrize(
    "content",
    [b'{"name": "\xff", "command": "true"}', b"[" * 100_000, b'{"a":' * 100_000, b'{"n": ' + b"9" * 10_000 + b"}"],
    ids=["not UTF-8", "deep list", "deep object", "long number"],
)
def test_a_body_that_cannot_be_read_is_malformed(world: World, content: bytes) -> None:
    world.refuse("POST", "/runs", content)


@pytest.mark.parametrize("missing", ["name", "command"])
def test_a_missing_field_is_named(world: World, missing: str) -> None:
    world.refuse("POST", "/runs", {name: value for name, value in RUN.items() if name != missing}, missing)


# -- text --------------------------------------------------------------------------------------------------------------

RUN_TEXTS = [
    *("name", "command", "workdir", "sweep_id", "parent_run_id", "origin_alert_id", "chat_session_id", "plan_id"),
    *("depends_on.0", "tags.0", "env.A", "resources.mem", "resources.time", "executor"),
]
SWEEP_TEXTS = ["name", "base_command", "workdir", "goal", "chat_session_id", "parameters.lr.0", "ui_config.a.b"]
SWEEP_TEXTS += ["creation_context.a", "plan_id", "status", "env.A", "tags.0"]
TEXTS = [
    *(("POST", "/runs", RUN, field) for field in RUN_TEXTS),
    *(("PUT", "/runs/{run}", {}, field) for field in ("name", "command", "workdir")),
    *(("POST", "/runs/{run}/rerun", {}, field) for field in ("command", "origin_alert_id")),
    *(("POST", "/runs/{run}/status", {"status": "running"}, field) for field in ("error", "wandb_dir")),
    ("POST", "/runs/{run}/metrics", {}, "rows.0.loss"),
    *(("POST", "/runs/{run}/alerts", ALERT, field) for field in ("message", "choices.0")),
    ("POST", "/alerts/{alert}/respond", {}, "choice"),
    *(("POST", "/sweeps", SWEEP, field) for field in SWEEP_TEXTS),
    *(("POST", "/sweeps/wild", {}, field) for field in ("name", "goal", "chat_session_id", "plan_id")),
    *(("PUT", "/sweeps/{sweep}", {}, field) for field in ("name", "base_command", "goal", "ui_config.a")),
    *(("POST", "/sweeps/{sweep}/runs", RUN, field) for field in ("command", "sweep_params.a")),
    *(("POST", "/plans", PLAN, field) for field in ("title", "goal", "session_id", "raw_markdown", "sections.a.0")),
    *(("PATCH", "/plans/{plan}", {}, field) for field in ("title", "raw_markdown", "sections.a")),
    *(("POST", "/cluster", {}, field) for field in ("notes", "head_node", "details.a")),
]


def with_value(body: Json, field: str, value: Any) -> Json:
    """``body`` with a value at a dotted path; a digit is a list's only place."""
    first, _, rest = field.partition(".")
    inner = with_value({}, rest, value) if rest and not rest[0].isdigit() else value
    if rest and rest[0].isdigit():
        after = rest.partition(".")[2]
        inner = [with_value({}, after, value) if after else value]
    return {**body, first: inner}


@pytest.mark.parametrize("text", [NUL, HALF], ids=["NUL", "surrogate"])
@pytest.mark.parametrize(("method", "path", "body", "field"), TEXTS)
def test_text_that_nothing_can_hold_is_refused(
    world: World, method: str, path: str, body: Json, field: str, text: str
) -> None:
    world.refuse(method, path, with_value(body, field, text), field)


@pytest.mark.parametrize("text", [NUL, HALF], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("field", ["env", "ui_config", "parameters", "sections", "creation_context", "surprise"])
def test_keys_that_nothing_can_hold_are_refused(world: World, field: str, text: str) -> None:
    path, body = ("/plans", PLAN) if field == "sections" else ("/sweeps", SWEEP)
    if field == "surprise":
        world.refuse("POST", path, {**body, text: 1})
    else:
        world.refuse("POST", path, {**body, field: {text: ["x"]}}, field)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/runs", RUN, "name"),
        ("/runs", RUN, "command"),
        ("/sweeps", SWEEP, "name"),
        ("/sweeps", SWEEP, "base_command"),
        ("/sweeps/wild", {}, "name"),
        ("/plans", PLAN, "title"),
        ("/runs/{run}/alerts", ALERT, "message"),
        ("/runs/{run}/rerun", {}, "command"),
        ("/sweeps/{sweep}/runs", RUN, "command"),
    ],
)
@pytest.mark.parametrize("empty", ["", " \n\t"])
def test_what_must_say_something_is_not_empty(world: World, path: str, body: Json, field: str, empty: str) -> None:
    world.refuse("POST", path, {**body, field: empty}, field)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/runs", RUN, "command"),
        ("POST", "/runs/{run}/rerun", {}, "command"),
        ("POST", "/sweeps", SWEEP, "base_command"),
        ("POST", "/sweeps/{sweep}/runs", RUN, "command"),
    ],
)
def test_a_command_of_ten_megabytes_is_refused(world: World, method: str, path: str, body: Json, field: str) -> None:
    said = world.refuse(method, path, {**body, field: "x" * 10 * MIB}, field)
    assert "131072" in said
    assert len(said) < 2000


@pytest.mark.parametrize(("path", "field"), [("/runs/{run}", "command"), ("/sweeps/{sweep}", "base_command")])
def test_a_command_too_long_is_refused_as_a_change_too(world: World, path: str, field: str) -> None:
    assert "131072" in world.refuse("PUT", path, {field: "x" * 200_000}, field)


def test_one_value_that_makes_a_command_too_long_is_refused(world: World) -> None:
    world.refuse("POST", "/sweeps", {**SWEEP, "parameters": {"text": ["short", "x" * 131_072]}}, "parameters")


# orjson writes at most 254 levels: what is nested deeper could be stored and never shown.
@pytest.mark.parametrize("depth", [200, 300, 600, 980])
def test_nesting_is_kept_or_refused_never_half_done(service: InProcess, depth: int) -> None:
    body = b'{"title": "t", "goal": "g", "sections": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}"
    check_kept_or_refused(service, "/plans", body, "/plans")


FREE_FORM: list[tuple[str, Json, str, str]] = [
    ("/plans", PLAN, "sections.a", "/plans"),
    ("/sweeps", SWEEP, "ui_config.a", "/sweeps"),
    ("/sweeps", SWEEP, "creation_context.a", "/sweeps"),
    ("/sweeps", SWEEP, "parameters.lr.0", "/sweeps"),
    ("/cluster", {}, "details.a", "/cluster"),
    ("/sweeps/{sweep}/runs", RUN, "sweep_params.a", "/runs"),
]


# orjson writes 64-bit integers alone: a longer one could be stored and never shown.
@pytest.mark.parametrize(("path", "body", "field", "listing"), FREE_FORM)
def test_a_long_number_is_kept_or_refused_never_half_done(
    service: InProcess, path: str, body: Json, field: str, listing: str
) -> None:
    sweep = service.post("/sweeps/wild", {"name": "w", "goal": "g"})["id"]
    for number in (2**63, 2**64, HUGE, -HUGE):
        content = json.dumps(with_value(body, field, number)).encode()
        shown = check_kept_or_refused(service, path.format(sweep=sweep), content, listing)
        assert shown is None or str(number) in shown


def check_kept_or_refused(service: InProcess, path: str, content: bytes, listing: str) -> str | None:
    """Either 422 or stored; and the list can be read afterwards. The answer's text where it was stored."""
    answer = service.http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert service.http.get(listing).status_code == 200
    assert answer.status_code in {200, 422}, answer.text[:500]
    return answer.text if answer.status_code == 200 else None


# -- numbers -----------------------------------------------------------------------------------------------------------

WRONG_IN_RUNS: dict[str, list[Any]] = {
    "resources.gpus": [-1, 1.5, "two", 10**6, HUGE],
    "resources.cpus": [0, -1, 1.5, "all", HUGE],
    "resources.mem": ["", "16X", "-1G", "0", "G", 16, "1e9G", "16 GB please", ["16G"]],
    "resources.time": ["", "soon", "1:2:3:4", "-5", -5, 0, "0:00", True, [], "1-2-3", 1e300],
    "resources": [None, [], "gpu", 1],
    "priority": ["high", 1.5, HUGE, None],
    "gpuwrap_config.retries": [-2, 1.5, "forever"],
    "gpuwrap_config.retry_delay_seconds": [0, -1, 600.5, "5 s"],
    "gpuwrap_config": [True, "on", []],
    "env": [None, [], "A=1", {"A": 1}, {"A": None}, {"A": ["x"]}],
    "tags": ["a", [1], {"a": 1}, None, ["t" * 501]],
    "depends_on": ["abc", [1], None],
    "auto_start": ["perhaps", None, 2, []],
    "name": [5, None, ["x"], "n" * 501],
    "command": [5, None, ["echo", "x"]],
    "workdir": [5, []],
    "sweep_id": [5, []],
    "executor": ["pbs", 5, ""],
}
WRONG_IN_SWEEPS: dict[str, list[Any]] = {
    "parameters": [
        *(None, [], {"lr": 0.1}, {"lr": "0.1"}, {"lr": []}, {"lr": {"a": 1}}),
        *({name: [1]} for name in ("", "a b", "-x", "a=b", "x;y", "$x", "ä", "n" * 201)),
    ],
    "max_runs": [0, -1, 1.5, "many"],
    "parallel": [0, -1, "all"],
    "status": ["completed", "RUNNING", 1],
    "ui_config": [[], "x", 1],
    "goal": [1, "g" * 100_001],
}
WRONG = [("/runs", RUN, field, value) for field, values in WRONG_IN_RUNS.items() for value in values]
WRONG += [("/sweeps", SWEEP, field, value) for field, values in WRONG_IN_SWEEPS.items() for value in values]


@pytest.mark.parametrize(("path", "body", "field", "value"), WRONG)
def test_a_value_of_the_wrong_kind_names_its_field(world: World, path: str, body: Json, field: str, value: Any) -> None:
    world.refuse("POST", path, with_value(body, field, value), field)


@pytest.mark.parametrize(
    "field", ["resources.time", "priority", "resources.gpus", "gpuwrap_config.retry_delay_seconds"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused(world: World, field: str, value: float) -> None:
    world.refuse("POST", "/runs", with_value(RUN, field, value), field)


# JSON has no NaN: it would be shown as null, and PostgreSQL would refuse it.
@pytest.mark.parametrize(("path", "body", "field", "listing"), FREE_FORM)
def test_nan_is_not_stored_as_something_else(world: World, path: str, body: Json, field: str, listing: str) -> None:
    for value in (b"NaN", b"-Infinity", b"1e400"):
        content = json.dumps(with_value(body, field, "HERE")).encode().replace(b'"HERE"', value)
        world.refuse("POST", path, content, field.partition(".")[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("resources.time", "9" * 400 + ":00"), ("resources.time", "9" * 400 + "-00"), ("resources.mem", "9" * 400 + "G")],
)
def test_numbers_beyond_all_measure_are_refused(world: World, field: str, value: str) -> None:
    world.refuse("POST", "/runs", with_value(RUN, field, value), field)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/sweeps", SWEEP, "max_runs"),
        ("POST", "/sweeps", SWEEP, "parallel"),
        ("PUT", "/sweeps/{sweep}", {}, "max_runs"),
        ("PUT", "/sweeps/{sweep}", {}, "parallel"),
        ("POST", "/cluster", {}, "gpu_count"),
        ("POST", "/cluster", {}, "node_count"),
    ],
)
def test_a_number_that_no_column_holds_is_refused(world: World, method: str, path: str, body: Json, field: str) -> None:
    world.refuse(method, path, {**body, field: HUGE}, field)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", f"/{name}?before={HUGE}") for name in ("runs", "sweeps", "plans")],
        ("GET", f"/runs/{{run}}/events?after={HUGE}"),
        ("GET", f"/runs/{{run}}/events?after=-{HUGE}"),
        ("POST", f"/sweeps/{{sweep}}/start?parallel={HUGE}"),
        ("GET", f"/events?after={HUGE}"),
    ],
)
def test_a_number_in_the_address_that_no_column_holds_is_refused(world: World, method: str, path: str) -> None:
    world.refuse(method, path, None, re.split(r"[?=]", path)[1])


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=many", "before=0", "before=x", "status=x"])
def test_a_lists_parameters_are_checked(world: World, query: str) -> None:
    world.refuse("GET", f"/runs?{query}", None, query.partition("=")[0])


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        *[("PUT", "/sweeps/{sweep}", field) for field in ("name", "base_command", "parameters", "status")],
        *[("PATCH", "/plans/{plan}", field) for field in ("title", "raw_markdown")],
        *[("POST", "/cluster", field) for field in ("type", "status", "source", "details")],
    ],
)
def test_null_for_what_must_have_a_value_is_refused(world: World, method: str, path: str, field: str) -> None:
    world.refuse(method, path, {field: None}, field)


def test_a_write_that_the_database_refuses_fails_alone(service: InProcess) -> None:
    """What is wrong may show only when it is flushed; the one writer must answer everybody and live on."""

    def plan(title: Any) -> Callable[[Session], None]:
        return lambda session: session.add(Plan(id=f"id of {title}", title=title, goal="g"))

    writer = service.system.db.writer
    futures = [writer.submit(plan(title)) for title in ("one", None, "two")]
    for future in (futures[0], futures[2]):
        assert future.result(timeout=10) is None
    with pytest.raises(StorageError, match="NOT NULL"):
        futures[1].result(timeout=10)
    assert {found["title"] for found in service.get("/plans")} == {"one", "two"}


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/runs", "/sweeps"])
@pytest.mark.parametrize("kind", ["missing", "relative", "a file", "a parent that is a file"])
def test_a_workdir_that_cannot_be_is_refused(world: World, tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "file").touch()
    where = {
        "missing": str(tmp_path / "missing"),
        "relative": "some/folder",
        "a file": str(tmp_path / "file"),
        "a parent that is a file": str(tmp_path / "file" / "below"),
    }[kind]
    body = RUN if path == "/runs" else SWEEP
    assert where in world.refuse("POST", path, {**body, "workdir": where}, "workdir")
    if path == "/runs":
        world.refuse("PUT", "/runs/{run}", {"workdir": where}, "workdir")


@pytest.mark.parametrize("where", ["~no-such-user-anywhere/x", "/" + "a" * 300, "/" + "a/" * 5000])
def test_a_workdir_that_no_system_knows_is_refused(world: World, where: str) -> None:
    world.refuse("POST", "/runs", {**RUN, "workdir": where}, "workdir")


@pytest.mark.parametrize("name", ["A B", "A=B", "", "1A", "A-B", "Ä", "A\n", "A" * 201, "BASH_FUNC_x%%"])
def test_an_environment_variable_has_a_name_that_a_shell_takes(world: World, name: str) -> None:
    world.refuse("POST", "/runs", {**RUN, "env": {name: "x"}}, "env")


@pytest.mark.parametrize("text", ["a/b", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "%ED%A0%80", "x" * 5000])
@pytest.mark.parametrize("path", ["/runs/{}", "/sweeps/{}", "/plans/{}", "/runs/{}/logs", "/runs/{}/artifacts"])
def test_a_strange_id_is_not_found(world: World, path: str, text: str) -> None:
    answer = world.service.http.get(path.format(text))
    assert answer.status_code == 404
    assert answer.json()["detail"]


# -- sizes and machines ------------------------------------------------------------------------------------------------


def test_a_sweep_of_a_million_runs_is_refused_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.grid.expand", None)  # the grid is counted, not made
    values = list(range(1000))
    said = world.refuse("POST", "/sweeps", {**SWEEP, "parameters": {"a": values, "b": values}}, "parameters")
    assert "1000000" in said
    assert "50000" in said


# Python writes no number of more than 4300 digits.
def test_a_sweep_beyond_counting_is_refused(world: World) -> None:
    parameters = {f"p{number}": list(range(10)) for number in range(5000)}
    world.refuse("POST", "/sweeps", {**SWEEP, "parameters": parameters}, "parameters")


def test_a_grid_over_an_explicit_max_runs_is_refused_with_both_numbers(world: World) -> None:
    grid = {"a": [1, 2, 3], "b": [1, 2, 3, 4, 5]}
    said = world.refuse("POST", "/sweeps", {**SWEEP, "parameters": grid, "max_runs": 14}, "max_runs")
    assert "15" in said
    assert "14" in said


def test_gpus_that_are_not_there_are_refused(world: World) -> None:
    said = world.refuse("POST", "/runs", {**RUN, "resources": {"gpus": 1}}, "resources.gpus")
    assert '"choices": [0]' in said


def test_more_gpus_than_a_gpu_machine_has_are_refused(service: InProcess) -> None:
    service.post("/cluster/detect", {"preferred_type": "local_gpu"})
    here = len(service.get("/cluster")["cluster"]["details"]["gpus"])
    status, detail = service.refused("POST", "/runs", {**RUN, "resources": {"gpus": here + 1}})
    assert status == 422
    assert detail[0]["loc"] == ["body", "resources", "gpus"]
    assert str(here) in detail[0]["msg"]
    assert str(here) in detail[0]["choices"][0]
    assert service.get("/runs") == []


def test_more_cpus_than_there_are_are_refused(world: World) -> None:
    assert "1..4" in world.refuse("POST", "/runs", {**RUN, "resources": {"cpus": 5}}, "resources.cpus")


# -- choices -----------------------------------------------------------------------------------------------------------

RUN_WORDS = ["ready", "queued", "launching", "running", "finished", "failed", "stopped"]
PLAN_WORDS = ["draft", "approved", "executing", "completed", "archived"]


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "choices"),
    [
        ("POST", "/runs", {**RUN, "executor": "pbs"}, "executor", ["local", "slurm"]),
        ("POST", "/runs/{run}/status", {"status": "ready"}, "status", RUN_WORDS[2:]),
        ("POST", "/runs/{run}/alerts", {**ALERT, "severity": "bad"}, "severity", ["info", "warning", "critical"]),
        ("POST", "/alerts/{alert}/respond", {"choice": "b"}, "choice", ["a"]),
        ("POST", "/sweeps", {**SWEEP, "status": "done"}, "status", ["draft", "pending", "running"]),
        ("POST", "/cluster", {"type": "pbs"}, "type", ["slurm", "local_gpu", "cpu_only", "unknown"]),
        ("POST", "/cluster", {"status": "ill"}, "status", ["healthy", "degraded", "offline", "unknown"]),
        ("POST", "/cluster/detect", {"preferred_type": "x"}, "preferred_type", ["slurm", "local_gpu", "cpu_only"]),
        ("GET", "/runs?status=done", None, "status", RUN_WORDS),
        ("GET", "/plans?status=done", None, "status", PLAN_WORDS),
        ("GET", "/alerts?status=open", None, "status", ["pending", "resolved"]),
    ],
)
def test_a_word_that_was_not_offered_is_answered_with_those_that_are(
    world: World, method: str, path: str, body: Any, field: str, choices: list[str]
) -> None:
    world.refuse(method, path, body, field)
    (item,) = world.send(method, path, body).json()["detail"]
    assert set(choices) <= set(re.findall(r"\w+", str(item["choices"])))


def test_choices_are_a_list_everywhere(world: World) -> None:
    (item,) = world.send("POST", "/runs", {**RUN, "executor": "pbs"}).json()["detail"]
    assert item["choices"] == ["local", "slurm"]


def test_several_faults_are_told_at_once(world: World) -> None:
    said = world.refuse("POST", "/runs", {"command": "", "priority": "x", "surprise": 1, "resources": {"gpus": -1}})
    for field in ("name", "command", "priority", "surprise", "gpus"):
        assert f'"{field}"' in said


def test_a_refusal_repeats_no_secret(world: World) -> None:
    said = world.refuse("POST", "/runs", {**RUN, "env": {"TOKEN": "very-secret", "B": 1}, "surprise": "very-secret"})
    assert "very-secret" not in said


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/runs?stats=failed", "There is no such parameter: did you mean status?"),
        ("/sweeps?x=1", "There is no such parameter; there are limit, before, plan_id."),
        ("/cluster?x=1", "There is no such parameter."),
    ],
)
def test_a_query_parameter_that_there_is_not_is_refused(service: InProcess, path: str, words: str) -> None:
    status, [problem] = service.refused("GET", path)
    assert (status, problem["msg"], problem["loc"][0]) == (422, words, "query")


def test_a_browsers_parameter_against_its_cache_passes(service: InProcess) -> None:
    assert service.get("/runs?_=123&limit=1") is not None


def test_a_body_that_is_not_called_json_is_told_how(service: InProcess) -> None:
    answer = service.http.post("/runs", content=b'{"name": "x"}', headers={"Content-Type": "text/plain"})
    [problem] = answer.json()["detail"]
    assert (answer.status_code, "Content-Type: application/json" in problem["msg"]) == (422, True)


def test_a_field_that_there_is_not_is_answered_with_the_one_that_was_meant(service: InProcess) -> None:
    body = {"name": "x", "command": "true", "resources": {"gpu": 1}}
    _, [problem] = service.refused("POST", "/runs", body)
    assert problem["loc"] == ["body", "resources", "gpu"]
    assert problem["msg"] == "There is no such field: did you mean gpus?"


def test_of_very_many_errors_the_first_are_told(service: InProcess) -> None:
    runs = [{"name": "x", "command": "true", f"field{number}": 1} for number in range(5000)]
    status, problems = service.refused("POST", "/runs/bulk", {"runs": runs})
    assert (status, len(problems), problems[0]["loc"]) == (422, 100, ["body", "runs", 0, "field0"])


def test_where_there_is_nothing_is_said_where_to_look(service: InProcess) -> None:
    assert service.refused("GET", "/run/abc") == (404, "There is nothing at /run/abc: /docs lists all that there is.")


def test_a_body_that_is_no_json_is_told_why(service: InProcess) -> None:
    answer = service.http.post("/runs", content=b"{'name': 1}", headers={"Content-Type": "application/json"})
    assert "property name enclosed in double quotes" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize(("path", "allowed"), [("/runs", "GET, POST"), ("/plans/1", "DELETE, GET, PATCH")])
def test_a_method_that_a_path_does_not_know_is_told_all_that_it_knows(
    service: InProcess, path: str, allowed: str
) -> None:
    answer = service.http.put(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["detail"] == f"{path} knows {allowed}, not PUT."
