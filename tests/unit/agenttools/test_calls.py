"""Each tool makes the call of the HTTP API that it should, and shows what came back."""

from typing import Any

import pytest

from orchestrator.agenttools.caller import Answer
from orchestrator.client import RequestFailed
from tests.support.agents import Asked, StubCaller, call, data, words

RUN = {"id": "r1", "name": "first", "status": "finished", "message": "Run is being stopped", "exit_code": 0}
PLAN = {"id": "p1", "status": "draft", "title": "T", "raw_markdown": "## text", "problems": [], "sections": {"a": 1}}
SWEEP = {
    "id": "s1",
    "name": "grid",
    "status": "running",
    "run_ids": ["r1", "r2"],
    "progress": {"total": 2, "failed": 0},
}
WAITED = {"over": True, "waiting": [], "runs": [RUN]}
LOG = {"content": "hello", "offset": 0, "next_offset": 5, "total_size": 5, "has_more_before": 0, "has_more_after": 0}
ASKED = {"name": "x", "command": "true", "resources": {"gpus": 1, "partition": "a"}, "more": {"snapshot": True}}
BODY = {
    "name": "x",
    "command": "true",
    "resources": {"gpus": 1, "partition": "a"},
    "snapshot": True,
    "auto_start": True,
}
GRID = {"name": "g", "base_command": "train", "parameters": {"lr": [0.1]}}

# Every tool: its arguments, what the service answers, and the calls that are to be made of it.
CALLS: list[tuple[str, dict[str, Any], dict[str, Any], list[Asked]]] = [
    ("cluster", {}, {}, [("GET", "/cluster", None, {}, None)]),
    ("advice", {"goal": "g", "workdir": "/w"}, {}, [("GET", "/advice", None, {"goal": "g", "workdir": "/w"}, None)]),
    (
        "plans",
        {"status": "draft", "limit": 5, "before": 9},
        {"GET /plans": [PLAN]},
        [("GET", "/plans", None, {"status": "draft", "limit": 5, "before": 9}, None)],
    ),
    ("plan", {"plan_id": "p1"}, {"GET /plans/p1": dict(PLAN)}, [("GET", "/plans/p1", None, {}, None)]),
    (
        "report",
        {"plan_id": "p1"},
        {"GET /plans/p1/report": "# Report"},
        [("GET", "/plans/p1/report", None, {"format": "markdown"}, None)],
    ),
    (
        "report",
        {"plan_id": "p1", "form": "json"},
        {"GET /plans/p1/report": {"verdict": "yes"}},
        [("GET", "/plans/p1/report", None, {"format": "json"}, None)],
    ),
    (
        "runs",
        {"status": ["failed", "stopped"], "plan_id": "p1", "tag": "t"},
        {"GET /runs": [RUN]},
        [("GET", "/runs", None, {"status": ["failed", "stopped"], "plan_id": "p1", "tag": "t", "limit": 20}, None)],
    ),
    (
        "runs",
        {"metric": "loss"},
        {"GET /runs": [RUN], "GET /runs/r1/metrics": {"metricSummary": {"loss": {"last": 0.5}}}},
        [("GET", "/runs", None, {"limit": 20}, None), ("GET", "/runs/r1/metrics", None, {}, None)],
    ),
    ("run", {"run_id": "r1"}, {"GET /runs/r1": dict(RUN)}, [("GET", "/runs/r1", None, {}, None)]),
    (
        "sweeps",
        {"plan_id": "p1"},
        {"GET /sweeps": [SWEEP]},
        [("GET", "/sweeps", None, {"plan_id": "p1", "limit": 20}, None)],
    ),
    ("sweep", {"sweep_id": "s1"}, {"GET /sweeps/s1": SWEEP}, [("GET", "/sweeps/s1", None, {}, None)]),
    (
        "wait",
        {"run_ids": ["r1", "r1"], "timeout": 0},
        {"POST /runs/wait": WAITED},
        [("POST", "/runs/wait", {"ids": ["r1"], "until": "all", "timeout": 0.0}, {}, None)],
    ),
    (
        "wait",
        {"sweep_id": "s1", "until": "any", "timeout": 0},
        {"GET /sweeps/s1": SWEEP, "POST /runs/wait": WAITED},
        [
            ("GET", "/sweeps/s1", None, {}, None),
            ("POST", "/runs/wait", {"ids": ["r1", "r2"], "until": "any", "timeout": 0.0}, {}, None),
        ],
    ),
    (
        "wait",
        {"plan_id": "p1", "timeout": 0},
        {"GET /runs": [RUN], "POST /runs/wait": WAITED},
        [
            ("GET", "/runs", None, {"plan_id": "p1", "limit": 10_000}, None),
            ("POST", "/runs/wait", {"ids": ["r1"], "until": "all", "timeout": 0.0}, {}, None),
        ],
    ),
    (
        "logs",
        {"run_id": "r1", "attempt": 2},
        {"GET /runs/r1/logs": LOG},
        [("GET", "/runs/r1/logs", None, {"offset": -4000, "limit": 4000, "attempt": 2}, None)],
    ),
    ("metrics", {"run_id": "r1"}, {"GET /runs/r1": dict(RUN)}, [("GET", "/runs/r1", None, {}, None)]),
    ("why", {"run_id": "r1"}, {}, [("GET", "/runs/r1/why", None, {}, None)]),
    ("usage", {"by": "plan", "since": 1}, {}, [("GET", "/usage", None, {"by": "plan", "since": 1.0}, None)]),
    (
        "alerts",
        {"status": "pending", "run_id": "r1", "before": 7},
        {"GET /alerts": [{"id": "a1", "message": "?", "choices": ["yes"]}]},
        [("GET", "/alerts", None, {"status": "pending", "run_id": "r1", "limit": 20, "before": 7}, None)],
    ),
    ("check_plan", {"raw_markdown": "# x"}, {}, [("POST", "/plans/check", {"raw_markdown": "# x"}, {}, None)]),
    ("preview_run", {"run": ASKED}, {}, [("POST", "/runs", BODY | {"dry_run": True}, {}, None)]),
    (
        "preview_execution",
        {"plan_id": "p1", "execution": {"parallel": 2}},
        {},
        [("POST", "/plans/p1/execute", {"parallel": 2, "dry_run": True}, {}, None)],
    ),
    ("detect", {}, {}, [("POST", "/cluster/detect", {}, {}, None)]),
    (
        "save_plan",
        {"raw_markdown": "# x", "title": "T", "goal": "G", "idempotency_key": "k"},
        {"POST /plans": PLAN},
        [("POST", "/plans", {"title": "T", "goal": "G", "raw_markdown": "# x"}, {}, "k")],
    ),
    (
        "save_plan",
        {"raw_markdown": "# x", "plan_id": "p1"},
        {"PATCH /plans/p1": PLAN},
        [("PATCH", "/plans/p1", {"raw_markdown": "# x"}, {}, None)],
    ),
    (
        "execute_plan",
        {"plan_id": "p1", "idempotency_key": "k"},
        {"POST /plans/p1/execute": PLAN},
        [("POST", "/plans/p1/execute", {}, {}, "k")],
    ),
    (
        "complete_plan",
        {"plan_id": "p1"},
        {"POST /plans/p1/complete": PLAN},
        [("POST", "/plans/p1/complete", None, {}, None)],
    ),
    (
        "create_sweep",
        {"sweep": GRID, "idempotency_key": "k"},
        {"POST /sweeps": SWEEP},
        [("POST", "/sweeps", GRID | {"auto_start": True}, {}, "k")],
    ),
    ("create_run", {"run": ASKED, "idempotency_key": "k"}, {"POST /runs": RUN}, [("POST", "/runs", BODY, {}, "k")]),
    (
        "create_runs",
        {"runs": [ASKED, ASKED | {"auto_start": False}], "idempotency_key": "k"},
        {"POST /runs/bulk": [RUN, RUN]},
        [("POST", "/runs/bulk", {"runs": [BODY, BODY | {"auto_start": False}]}, {}, "k")],
    ),
    ("stop", {"run_id": "r1"}, {"POST /runs/r1/stop": RUN}, [("POST", "/runs/r1/stop", None, {}, None)]),
    ("stop", {"sweep_id": "s1"}, {}, [("POST", "/sweeps/s1/stop", None, {}, None)]),
    (
        "respond",
        {"alert_id": "a1", "choice": "yes"},
        {},
        [("POST", "/alerts/a1/respond", {"choice": "yes"}, {}, None)],
    ),
]


@pytest.mark.parametrize(("tool", "arguments", "answers", "asked"), CALLS, ids=[case[0] for case in CALLS])
def test_a_tool_calls_the_api(tool: str, arguments: Any, answers: Any, asked: list[Asked]) -> None:
    caller = StubCaller(answers)
    data(call(caller, tool, **arguments))
    assert caller.asked == asked


def test_a_list_says_how_to_get_more() -> None:
    caller = StubCaller({"GET /runs": Answer([RUN], before=123)})
    assert data(call(caller, "runs")) == {
        "runs": [{"id": "r1", "status": "finished", "exit_code": 0, "name": "first"}],
        "more": "… older ones: call runs with before=123",
    }


def test_a_metric_stands_beside_its_run() -> None:
    summary = {"metricSummary": {"loss": {"last": 0.25}}}
    caller = StubCaller({"GET /runs": [RUN, {**RUN, "id": "r2"}], "GET /runs/r1/metrics": summary})
    assert [row["loss"] for row in data(call(caller, "runs", metric="loss"))["runs"]] == [0.25, None]


def test_a_plan_that_is_saved_waits_for_a_person() -> None:
    found = data(call(StubCaller({"POST /plans": PLAN}), "save_plan", raw_markdown="x", title="T", goal="G"))
    assert found["next"] == "plan p1 saved as a draft: a person approves it with `orc plan approve p1`"
    wrong = PLAN | {"problems": [{"line": 3, "message": "no"}]}
    found = data(call(StubCaller({"PATCH /plans/p1": wrong}), "save_plan", raw_markdown="x", plan_id="p1"))
    assert found["problems"] == wrong["problems"]
    assert "mend its problems" in found["next"]


def test_a_long_plan_is_read_in_parts() -> None:
    text = "".join(f"line {number} ü\n" for number in range(2000))
    parts, offset = [], 0
    while True:
        caller = StubCaller({"GET /plans/p1": PLAN | {"raw_markdown": text}})
        found = data(call(caller, "plan", plan_id="p1", offset=offset))
        parts.append(found["raw_markdown"])
        if "more" not in found:
            break
        offset = int(found["more"].rpartition("=")[2])
    assert "".join(parts) == text
    assert len(parts) > 3


def test_a_report_is_shown_as_it_is_written() -> None:
    result = call(StubCaller({"GET /plans/p1/report": "# Best: lr=0.1 ✓"}), "report", plan_id="p1")
    assert words(result) == "# Best: lr=0.1 ✓"
    long = call(StubCaller({"GET /plans/p1/report": "x" * 7000}), "report", plan_id="p1")
    assert words(long).endswith("… it goes on: call report with offset=6000")


def test_a_log_says_where_it_is_and_how_to_go_on() -> None:
    page = {"content": "\x1b[1mdone\n", "offset": 9000, "next_offset": 9010, "total_size": 9999}
    answer = {**page, "has_more_before": True, "has_more_after": True}
    result = call(StubCaller({"GET /runs/r1/logs": answer}), "logs", run_id="r1")
    assert words(result) == "[bytes 9000 to 9010 of 9999; earlier: offset=5000; later: offset=9010]\n\x1b[1mdone\n"


def test_metrics_are_thinned_and_unknown_keys_are_told() -> None:
    series = [{"step": step, "value": float(step % 97)} for step in range(400)]
    summary = {key: {"last": 1.0, "min": 0.0, "max": 96.0} for key in ("loss", "acc")}
    run = {**RUN, "metricSummary": summary, "metricSeries": {"loss": series, "acc": series}}
    found = data(call(StubCaller({"GET /runs/r1": run}), "metrics", run_id="r1", keys=["loss", "nope"]))
    points = found["series"]["loss"]
    assert len(points) <= 20
    assert points[0] == [0, 0.0]
    assert points[-1][0] == 399
    assert max(value for _, value in points) == 96.0
    assert (found["unknown"], found["known"]) == (["nope"], ["loss", "acc"])
    assert "acc" not in found["summary"]


def test_a_run_is_shown_without_its_series() -> None:
    run = {
        **RUN,
        "metricSummary": {"loss": {"last": 0.5}},
        "metricSeries": {"loss": [1] * 1000},
        "metricKeys": ["loss"],
    }
    found = data(call(StubCaller({"GET /runs/r1": run}), "run", run_id="r1"))
    assert found["last_metrics"] == {"loss": 0.5}
    assert "metricSeries" not in found


def test_a_wait_shows_what_failed_first() -> None:
    runs = [{**RUN, "id": "a", "status": "running"}, {**RUN, "id": "b"}, {**RUN, "id": "c", "status": "failed"}]
    answer = {"over": False, "waiting": ["a"], "runs": runs}
    found = data(call(StubCaller({"POST /runs/wait": answer}), "wait", run_ids=["a", "b", "c"], timeout=0))
    assert [run["id"] for run in found["runs"]] == ["c", "b", "a"]
    assert (found["over"], found["waiting"], found["counts"]["failed"]) == (False, 1, 1)


def test_a_wait_for_a_server_that_is_ending_comes_back() -> None:
    answer = {"over": False, "waiting": ["r1"], "runs": [RUN]}
    caller = StubCaller({"POST /runs/wait": answer})
    assert data(call(caller, "wait", run_ids=["r1"], timeout=300))["over"] is False
    assert len(caller.asked) == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "complaint"),
    [
        ("wait", {}, "name one of run_ids, sweep_id and plan_id"),
        ("wait", {"run_ids": ["r"], "plan_id": "p"}, "name one of"),
        ("wait", {"plan_id": "p"}, "there are no runs to wait for"),
        ("wait", {"run_ids": ["r"], "timeout": 301}, "300"),
        ("stop", {}, "name one of run_id and sweep_id"),
        ("stop", {"run_id": "r", "sweep_id": "s"}, "name one of"),
        ("run", {"run_id": "../tokens"}, "run_id"),
        ("stop", {"run_id": "a/b"}, "run_id"),
        ("runs", {"status": ["done"]}, "finished"),
        ("create_run", {"run": {"name": "x", "command": "true", "gpus": 1}}, "gpus"),
        (
            "create_run",
            {"run": {"name": "x", "command": "true"}, "idempotencyKey": "k"},
            "It takes: run, idempotency_key",
        ),
        ("no_such_tool", {}, "no_such_tool"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_done(tool: str, arguments: Any, complaint: str) -> None:
    caller = StubCaller({"GET /runs": []})
    result = call(caller, tool, **arguments)
    assert result.is_error
    assert complaint in words(result)
    assert [asked for asked in caller.asked if asked[0] != "GET"] == []


def test_a_refusal_says_what_would_allow_it_and_who_may() -> None:
    refusal = {
        "plan_id": "p1",
        "diff": [{"field": "resources.gpus", "plan": 1, "asked": 8}],
        "amendment": {"terms": {"resources.gpus": 8}},
    }
    caller = StubCaller({"POST /runs": RequestFailed(403, "The plan does not allow it.", refusal)})
    result = call(caller, "create_run", run={"name": "x", "command": "true"})
    assert result.is_error
    assert words(result).splitlines() == [
        "The plan does not allow it.",
        "Ask for what the plan allows, or tell a person, who can allow it: `orc plan amend p1`. "
        "There is no tool for that.",
        "- resources.gpus: the plan says 1, asked was 8",
        'What would allow it: {"terms": {"resources.gpus": 8}}',
    ]
    assert result.structured_content is not None
    assert result.structured_content["amendment"] == refusal["amendment"]


@pytest.mark.parametrize(
    ("tool", "arguments", "field"),
    [
        ("runs", {"status": "failed"}, "status: Input should be a valid list"),
        ("create_run", {"run": {"name": "x"}}, "run.command: Field required"),
        ("wait", {"run_ids": ["x y"]}, "run_ids.0: "),
        ("report", {}, "plan_id: Field required"),
    ],
)
def test_a_wrong_argument_is_named_and_what_to_do(tool: str, arguments: dict[str, Any], field: str) -> None:
    result = call(StubCaller({}), tool, **arguments)
    assert result.is_error
    assert field in words(result)
    assert "call again" in words(result)
    assert "pydantic" not in words(result)
    assert field in (result.structured_content or {})["error"]


def test_a_plans_goal_is_not_passed_over() -> None:
    result = call(StubCaller({}), "save_plan", plan_id="p1", raw_markdown="x", goal="another")
    assert result.is_error
    assert "goal stays what it was" in words(result)


def test_an_alert_about_thousands_of_runs_shows_its_choices_and_the_other_alerts() -> None:
    many = {"id": "a0", "message": "?", "choices": ["ignore", "rerun"], "run_ids": [f"r{n:05}" for n in range(5000)]}
    others = [{"id": f"a{n}", "message": "?", "choices": ["ignore"], "run_ids": ["r1"]} for n in range(1, 11)]
    shown = data(call(StubCaller({"GET /alerts": [many, *others]}), "alerts"))["alerts"]
    assert len(shown) == 11
    assert shown[0]["choices"] == ["ignore", "rerun"]
    assert (len(shown[0]["run_ids"]), shown[0]["more_runs"]) == (10, 4990)


def test_saving_what_was_approved_says_that_it_may_run() -> None:
    caller = StubCaller({"PATCH /plans/p1": {**PLAN, "status": "approved"}})
    found = data(call(caller, "save_plan", plan_id="p1", raw_markdown="x"))
    assert "execute_plan" in found["next"]
    assert "draft" not in found["next"]
