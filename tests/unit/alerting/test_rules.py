"""When something is raised, with which choices, and when not."""

from typing import Any

import pytest

from orchestrator.alerting import rules
from orchestrator.alerting.rules import IdleGpus, Raised, Seen
from orchestrator.plaintext import clean
from orchestrator.why import Why

NAN = ("loss", None, 150.0)


def run(**fields: Any) -> Seen:
    return Seen(**{"id": "r1", "name": "train", "started_at": 100.0, **fields})


def why(rerun: dict[str, Any] | None = None) -> Why:
    return Why("memory", "It had too little memory.", "Ask for more memory.", rerun=rerun)


def raised(found: Raised | None) -> Raised:
    assert found is not None
    return found


def test_a_failed_run_offers_what_why_proposes() -> None:
    more = {"auto_start": True, "resources": {"mem": "8G"}}
    found = raised(rules.failed(run(reason="OUT_OF_MEMORY"), why(more)))
    assert (found.rule, found.choices, found.proposal) == ("failed", ("ignore", "rerun"), more)
    assert found.message == "Run r1 (train) has failed: It had too little memory. Ask for more memory."


def test_a_failed_run_offers_a_plain_rerun_where_why_proposes_nothing() -> None:
    assert raised(rules.failed(run(), why())).proposal == {"auto_start": True}


def test_a_run_that_fails_for_its_parent_alone_raises_nothing() -> None:
    assert rules.failed(run(reason="PARENT_FAILED"), why()) is None


def test_a_metric_that_is_not_finite_offers_to_stop() -> None:
    found = raised(rules.nonfinite(run(), [NAN]))
    assert (found.severity, found.choices) == ("critical", ("ignore", "stop"))
    assert "loss" in found.message


def test_a_metric_that_was_not_finite_once_is_less_severe() -> None:
    assert raised(rules.nonfinite(run(), [("loss", 0.5, 150.0)])).severity == "warning"


@pytest.mark.parametrize(
    ("fields", "metric"),
    [
        ({"attempt": 2}, ("loss", 0.5, 150.0)),  # counted in the attempt before
        ({}, ("loss", None, 50.0)),  # nothing came since the start
        ({"reason": "STOPPING"}, NAN),
    ],
)
def test_what_is_not_finite_for_another_attempt_or_an_ending_run_raises_nothing(
    fields: dict[str, Any], metric: tuple[str, float | None, float]
) -> None:
    assert rules.nonfinite(run(**fields), [metric]) is None


def test_another_attempt_is_another_condition() -> None:
    one, two = (raised(rules.nonfinite(run(attempt=number), [NAN])).key for number in (1, 2))
    assert one != two


@pytest.mark.parametrize(
    ("rows_at", "log_at", "since", "fields", "stuck"),
    [
        (200.0, 0.0, 0.0, {}, True),
        (200.0, 150.0, 0.0, {}, True),
        (200.0, 950.0, 0.0, {}, False),  # its log grows
        (950.0, 0.0, 0.0, {}, False),
        (950.0, 0.0, 990.0, {}, False),  # what has grown has, since whenever one has looked
        (None, 0.0, 0.0, {}, None),  # it has never written metrics
        (50.0, 0.0, 0.0, {}, None),  # nor in this attempt
        (200.0, 0.0, 600.0, {}, None),  # nobody has looked for long enough
        (200.0, 0.0, 0.0, {"reason": "SUSPENDED"}, None),
        (200.0, 0.0, 0.0, {"reason": "STOPPING"}, None),
    ],
)
def test_no_progress_is_that_what_grew_grows_no_more(
    rows_at: float | None, log_at: float, since: float, fields: dict[str, Any], stuck: bool | None
) -> None:
    assert rules.no_progress(run(**fields), rows_at, log_at, since, 1000.0, 500.0) is stuck
    assert rules.no_progress(run(**fields), rows_at, log_at, since, 1000.0, 0.0) is None


@pytest.mark.parametrize(
    ("reason", "limit", "long"),
    [
        *[(reason, 500.0, True) for reason in (None, "CPU_WAIT", "GPU_WAIT", "SLURM_WAIT", "SUBMIT_FAILED")],
        *[(reason, 500.0, False) for reason in ("HELD", "DEPENDENCY", "SWEEP_PARALLEL", "RETRYING", "STOPPING")],
        ("GPU_WAIT", 0.0, False),
        ("GPU_WAIT", 1000.0, False),
    ],
)
def test_waiting_is_too_long_unless_somebody_wants_it(reason: str | None, limit: float, long: bool) -> None:
    assert rules.waits_long(run(reason=reason), 100.0, 700.0, limit) is long


def test_a_run_that_waits_offers_a_rerun_where_there_is_something_else_to_ask_for() -> None:
    assert rules.pending(run(), 90_000.0, why()).choices == ("ignore", "stop")
    found = rules.pending(run(), 90_000.0, why({"auto_start": True, "resources": {"nodes": 1}}))
    assert found.choices == ("ignore", "stop", "rerun")
    assert "queued for 25 h. It had too little memory." in found.message


def test_gpus_are_idle_only_all_together_and_for_as_long_as_they_were_seen_so() -> None:
    gpus, held = IdleGpus(), {("r1", 1): ["a", "b"]}
    assert gpus.look({"a": 0, "b": 90}, held, 5.0, 0.0) == {}
    assert gpus.busy == [("r1", 1)]
    assert gpus.look({"a": 0, "b": 4}, held, 5.0, 30.0) == {("r1", 1): 0.0}
    assert gpus.busy == []
    assert gpus.look({"a": 1, "b": 0}, held, 5.0, 90.0) == {("r1", 1): 60.0}
    assert gpus.look({}, held, 5.0, 120.0) == {("r1", 1): 60.0}  # a look that saw nothing tells nothing
    assert gpus.busy == []
    assert gpus.look({"a": 1, "b": 0}, held, 5.0, 150.0) == {("r1", 1): 120.0}
    assert gpus.look({"a": 5, "b": 0}, held, 5.0, 180.0) == {}
    assert gpus.look({"a": 0, "b": 0}, {("r1", 2): ["a", "b"]}, 5.0, 210.0) == {("r1", 2): 0.0}


@pytest.mark.parametrize("later", [3600.0, -3600.0])
def test_gpus_that_nobody_saw_for_long_were_not_idle_meanwhile(later: float) -> None:
    gpus, held = IdleGpus(), {("r1", 1): ["a"]}
    gpus.look({"a": 0}, held, 5.0, 0.0)
    gpus.look({}, held, 5.0, later - 10)
    assert gpus.look({"a": 0}, held, 5.0, later) == {("r1", 1): 0.0}
    assert gpus.look({"a": 0}, held, 5.0, later + 30) == {("r1", 1): 30.0}


def test_a_gpu_that_does_not_tell_is_not_idle() -> None:
    assert IdleGpus().look({"a": None}, {("r1", 1): ["a"]}, 5.0, 0.0) == {}


@pytest.mark.parametrize(
    ("used", "severity"), [(0.0, None), (7.9, None), (8.0, "warning"), (9.99, "warning"), (10.0, "critical")]
)
def test_a_budget_is_told_of_near_its_end_and_at_it(used: float, severity: str | None) -> None:
    found = rules.budget_alert("p1", "Plan", "gpu_hours", used, 10.0, 0.8)
    assert (found.severity if found else None) == severity


def test_a_budget_is_told_of_again_once_it_is_larger() -> None:
    keys = {
        raised(rules.budget_alert("p1", "Plan", what, limit, limit, 0.8)).key
        for what in ("gpu_hours", "wall_time")
        for limit in (10.0, 20.0)
    }  # type: set[str]
    assert len(keys) == 4
    assert rules.budget_alert("p1", "Plan", "gpu_hours", 10.0, 10.0, 0.0) is None


def test_runs_of_a_sweep_that_ask_for_the_same_and_fail_alike_are_one_topic() -> None:
    def topic(**fields: Any) -> str | None:
        return raised(rules.failed(run(**fields), why())).topic

    assert topic(created_by="ada") == topic(id="r9", created_by="ada") != topic(created_by="bob")
    assert topic(plan_id="p") not in {topic(), topic(plan_id="q")}
    one = topic(sweep_id="s", reason="TIMEOUT", resources={"time": 5})
    assert one == topic(id="r2", sweep_id="s", reason="TIMEOUT", resources={"time": 5})
    assert one not in {
        topic(sweep_id="s", reason="SIGNAL", resources={"time": 5}),
        topic(sweep_id="s", reason="TIMEOUT", resources={"time": 9}),
        topic(sweep_id="t", reason="TIMEOUT", resources={"time": 5}),
    }


def test_the_words_of_several_count_them_and_tell_of_the_first() -> None:
    first = raised(rules.failed(run(sweep_id="s"), why()))
    several = rules.of_several(first, 6)
    assert several.message.startswith("6 runs of one sweep are in the same state. The first: Run r1 (train) has failed")
    assert several.topic is not None
    assert rules.counted(several.topic, several.message, 70).startswith("70 runs")
    assert rules.counted(several.topic, several.message, 70).endswith(first.message)


@pytest.mark.parametrize(
    ("fields", "count", "words"),
    [
        ({"sweep_id": "s"}, 1, "Another run of one sweep is in the same state. The first: "),
        ({"sweep_id": "s", "plan_id": "p"}, 2, "2 runs of one sweep are in"),
        ({"plan_id": "p"}, 30, "30 runs of one plan are in"),
        ({}, 30, "30 runs without a sweep are in"),
    ],
)
def test_it_is_said_whose_runs_they_are(fields: dict[str, Any], count: int, words: str) -> None:
    first = raised(rules.failed(run(**fields), why()))
    assert rules.of_several(first, count).message.startswith(words)


@pytest.mark.parametrize(
    ("before", "count", "again"), [(0, 500, False), (1, 9, False), (9, 10, True), (10, 99, False), (99, 1000, True)]
)
def test_many_more_are_told_of_again(before: int, count: int, again: bool) -> None:
    assert rules.worth_telling(before, count) is again


def test_a_message_has_no_control_characters_and_an_end() -> None:
    found = raised(rules.failed(run(name="a\x1b[2J\r\nBcc: x"), Why("c", "y" * 2**20, "", [])))
    assert found.message.isprintable()
    assert len(found.message) <= 2000
    assert clean("\x00\u202e") == ""
