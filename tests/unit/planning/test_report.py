"""A plan's report: what is best, which criteria are met, what failed and why."""

import math
from typing import Any

import pytest

from orchestrator.planning.reading import reading
from orchestrator.planning.report import Outcome, goal_of, keys_of, report
from orchestrator.planning.reportmarkdown import markdown
from tests.support.plans import GOOD

USED = {"elapsed_hours": 1.0, "gpu_hours": 2.5, "cpu_hours_given": 3.0, "cpu_hours_used": 1.0, "wall_seconds": 90.0}


def plan(text: str = GOOD, **fields: Any) -> dict[str, Any]:
    facts = ("approved_by", "approved_at", "approved_hash", "executed_at", "completed_at")
    made: dict[str, Any] = dict.fromkeys(facts) | {"id": "p1", "title": "Rates", "goal": "g", "status": "completed"}
    return made | {"amendments": [], "raw_markdown": text, "sections": reading(text).text.sections} | fields


def outcome(number: int, status: str = "finished", reason: str | None = None, **metrics: float | None) -> Outcome:
    run = {
        "id": f"r{number}",
        "name": f"run {number}",
        "status": status,
        "reason": reason,
        "error": f"error {number}",
        "sweep_params": {"lr": number},
        "started_at": 10.0,
        "ended_at": 30.0,
        "gpu_seconds": 3600.0,
    }
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    return Outcome(run, {name: {"last": value, "min": value, "max": value} for name, value in names.items()})


def test_the_runs_are_ranked_by_the_primary_metric() -> None:
    outcomes = [outcome(1, val__loss=0.7), outcome(2, val__loss=0.3), outcome(3), outcome(4, val__loss=0.5)]
    found = report(plan(), outcomes, USED)
    assert [row["run_id"] for row in found["results"]] == ["r2", "r4", "r1", "r3"]
    assert (found["best"]["run_id"], found["best"]["parameters"]) == ("r2", {"lr": 2})
    assert found["metric"] == {"name": "val/loss", "better": "less", "why": "by the criterion “val/loss < 0.5”"}


def test_a_run_that_did_not_finish_is_not_the_best() -> None:
    found = report(plan(), [outcome(1, "failed", val__loss=0.1), outcome(2, val__loss=0.4)], USED)
    assert found["best"]["run_id"] == "r2"


@pytest.mark.parametrize(
    ("name", "more"),
    [("val_acc", True), ("loss", False), ("val/loss", False), ("perplexity", False), ("accuracy", True), ("F1", True)],
)
def test_without_a_criterion_the_metrics_name_tells_what_is_better(name: str, more: bool) -> None:
    goal = goal_of({"metrics": {"primary": {"name": name, "why": ""}, "secondary": []}})
    assert goal is not None
    assert goal.more is more


def test_criteria_are_judged_where_a_program_can() -> None:
    text = GOOD.replace("- [ ] val/loss < 0.5", "- [ ] val/loss < 0.5\n- [ ] throughput >= 100\n- [ ] mAP > 0.3")
    found = report(plan(text), [outcome(1, val__loss=0.6, throughput=120.0), outcome(2, val__loss=0.4)], USED)
    judged = {item["text"]: (item["verdict"], item["value"], item["run_id"]) for item in found["criteria"]}
    assert judged == {
        "val/loss < 0.5": ("met", 0.4, "r2"),
        "throughput >= 100": ("met", 120.0, "r1"),
        "mAP > 0.3": ("open", None, None),
        "every run finished": ("open", None, None),
    }


def test_a_criterion_that_no_run_meets_is_missed_with_the_nearest() -> None:
    found = report(plan(), [outcome(1, val__loss=0.9), outcome(2, val__loss=0.6)], USED)
    assert (found["criteria"][0]["verdict"], found["criteria"][0]["run_id"]) == ("missed", "r2")


def test_nan_is_no_value() -> None:
    found = report(plan(), [outcome(1, val__loss=math.nan), outcome(2, val__loss=None)], USED)
    assert found["best"] is None
    assert found["criteria"][0]["verdict"] == "open"


def test_failures_are_grouped_by_reason() -> None:
    outcomes = [outcome(n, "failed", "OUT_OF_MEMORY") for n in range(15)] + [outcome(99, "failed", "TIMEOUT")]
    found = report(plan(), outcomes, USED)["failures"]
    assert [(item["reason"], item["count"]) for item in found] == [("OUT_OF_MEMORY", 15), ("TIMEOUT", 1)]
    assert len(found[0]["run_ids"]) == 10


def test_the_metrics_that_are_needed_are_those_that_the_plan_names() -> None:
    assert keys_of(reading(GOOD).text.sections) == ["val/loss", "throughput"]


def test_a_plan_without_markdown_has_a_report_too() -> None:
    found = report(plan(""), [outcome(1)], USED)
    assert (found["metric"], found["best"], found["criteria"]) == (None, None, [])
    assert "# Report: Rates" in markdown(found)


def test_the_text_shows_all_of_it() -> None:
    budget = {"gpu_hours": 12.0, "runs": 6, "wall_seconds": None}
    amendment = {"at": 0.0, "by": "token:admin", "reason": "a try", "changes": {"parameters": {"lr": [3]}}}
    made = plan(budget=budget, amendments=[amendment], approved_by="token:admin", approved_at=1.0)
    text = markdown(report(made, [outcome(1, val__loss=0.4), outcome(2, "failed", "TIMEOUT")], USED))
    for words in (
        "**`lr` = `1`**: `val/loss` = 0.4 (run r1)",
        "| r1 | 1 | finished | 0.4 | 0.4 | 20 | 1 |",
        "| val/loss &lt; 0.5 | ✅ met | 0.4 | r1 |",
        "| GPU-hours |  | 12 | 2.5 |",
        "| resources | 1 GPU each |  |  |",
        "_The plan as it was approved:_",
        "| TIMEOUT | 1 | r2 | error 2 |",
        "a try",
        GOOD.strip(),
    ):
        assert words in text


def test_what_stands_in_a_cell_stays_in_it() -> None:
    made = outcome(1, "failed", "X")
    hostile = Outcome({**made.run, "error": "a | b\n| c | <script>", "name": "n"}, {})
    line = next(line for line in markdown(report(plan(""), [hostile], USED)).splitlines() if line.startswith("| X"))
    assert line == "| X | 1 | r1 | a \\| b \\| c \\| &lt;script> |"


@pytest.mark.parametrize(
    ("words", "hours"),
    [
        ("12 GPU-hours", 12.0),
        ("1 A100 each, 7.5 GPU hours", 7.5),
        ("about 3 GPU-h", 3.0),
        ("1 GPU each", None),
        ("4 GPUs", None),
        ("10-12 GPU-hours", None),
    ],
)
def test_the_gpu_hours_of_the_estimate_are_read_where_they_are_a_number(words: str, hours: float | None) -> None:
    sections = plan()["sections"]
    made = plan(sections={**sections, "effort": {"runs": 1, "time": "1 h", "resources": words}})
    assert report(made, [], USED)["effort"]["estimated"]["gpu_hours"] == hours


def test_a_draft_is_not_called_approved() -> None:
    assert "_The plan, which is not approved:_" in markdown(report(plan(approved_at=None), [], USED))
