"""Plans over HTTP: saved as written, approved with their problems known, executed, kept."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import InProcess, Json, in_process

MARKDOWN = """## 📋 Plan: Learning rates for the small model

### Objective
Find the learning rate that trains the small model best within one epoch.

### Compute Setup
- Cluster type: local_gpu
- GPU count: 4
- gpuwrap: enabled
- Environment: venv

### Approach
1. **Baseline** — run `python train.py --lr 0.001`
2. **Sweep** — one run per configuration

```bash
### Not a header: it stands in a fenced block
python train.py
```

### Parameters to Sweep
| Parameter | Values | Rationale |
|-----------|--------|-----------|
| lr | 0.001, 0.01 | the usual range |

### Metrics
- **Primary**: val/loss — what we care about
- **Secondary**: throughput — what it costs

### Success Criteria
- [ ] val/loss < 0.5

### Risks & Mitigations
- **Risk**: divergence → **Mitigation**: warm-up

### Estimated Effort
- **Runs**: 2
- **Time**: 1 h
- **Resources**: 1 GPU each

### 💡 Workflow Improvements
- A script for the sweep
"""
STATUSES = ("draft", "approved", "executing", "completed", "archived")
TO: dict[str, list[str]] = {
    "draft": [],
    "approved": ["approve"],
    "executing": ["approve", "execute"],
    "completed": ["approve", "execute", "complete"],
    "archived": ["archive"],
}
LEADS = {"approve": "approved", "execute": "executing", "complete": "completed", "archive": "archived"}
MAY = {
    ("draft", "approve"),
    ("approved", "execute"),
    ("executing", "complete"),
    *((status, "archive") for status in STATUSES if status != "archived"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service: each test looks at its own plans."""
    with in_process(tmp_path_factory.mktemp("plans") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[InProcess]:
    """One for a test that looks at all of them."""
    with in_process(tmp_path / "home") as found:
        yield found


def make(service: InProcess, status: str = "draft", markdown: str = MARKDOWN, **fields: Any) -> Json:
    """A plan in that status."""
    body = {"title": "Learning rates", "goal": "Find one.", "session_id": None, "raw_markdown": markdown, **fields}
    plan = dict(service.post("/plans", body))
    del plan["overlap"]  # is of this answer alone
    for action in TO[status]:
        plan = dict(service.post(f"/plans/{plan['id']}/{action}"))
    assert plan["status"] == status
    return plan


def everything(service: InProcess) -> tuple[Any, Any]:
    return service.get("/plans"), service.journal()


# -- saved -------------------------------------------------------------------------------------------------------------


def test_the_seeds_plan_is_saved_word_for_word(service: InProcess) -> None:
    plan = make(service)
    assert re.fullmatch(r"[0-9a-f]{8}", plan["id"])
    assert (plan["status"], plan["title"], plan["goal"]) == ("draft", "Learning rates", "Find one.")
    assert plan["raw_markdown"] == MARKDOWN
    assert plan["problems"] == []
    assert isinstance(plan["created_at"], float)
    assert plan["updated_at"] == plan["created_at"]
    assert service.get(f"/plans/{plan['id']}") == plan == service.get("/plans")[0]


def test_optional_parts_are_kept(service: InProcess) -> None:
    sections = {"Objective": "x", "steps": [1, {"a": None}]}
    plan = make(service, session_id="chat 1", sections=sections)
    assert plan["session_id"] == "chat 1"
    assert plan["sections"].items() >= sections.items()


def test_a_plan_without_its_optional_table_has_no_problem(service: InProcess) -> None:
    begin, end = MARKDOWN.index("### Parameters"), MARKDOWN.index("### Metrics")
    assert make(service, markdown=MARKDOWN[:begin] + MARKDOWN[end:])["problems"] == []


def test_line_ends_and_characters_come_back_as_they_were(service: InProcess) -> None:
    markdown = MARKDOWN.replace("\n", "\r\n") + "\ttab é 数 🙂 \x0b\x1b \u2028 end"
    plan = make(service, markdown=markdown)
    assert service.get(f"/plans/{plan['id']}")["raw_markdown"] == markdown


# -- what may follow what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", LEADS)
@pytest.mark.parametrize("status", STATUSES)
def test_each_status_follows_its_own_only(service: InProcess, status: str, action: str) -> None:
    plan = make(service, status)
    before = everything(service)
    if (status, action) in MAY:
        moved = service.post(f"/plans/{plan['id']}/{action}")
        assert moved["status"] == LEADS[action]
        assert moved["updated_at"] >= plan["updated_at"]
        assert service.get(f"/plans/{plan['id']}") == moved
        event = service.journal()[-1]
        assert (event["kind"], event["subject"]) == (f"plan.{LEADS[action]}", f"plan:{plan['id']}")
        assert (event["before"]["status"], event["after"]["status"]) == (status, LEADS[action])
        assert event["actor"] == "token:admin"
    else:
        code, detail = service.refused("POST", f"/plans/{plan['id']}/{action}")
        assert code == 400
        assert status in detail
        assert everything(service) == before


def test_each_step_leaves_its_time(service: InProcess) -> None:
    plan = make(service, "completed")
    assert plan["created_at"] <= plan["approved_at"] <= plan["executed_at"] <= plan["completed_at"]
    assert plan["approved_by"] == "token:admin"


@pytest.mark.parametrize("action", ["", "/approve", "/execute", "/complete", "/archive"])
def test_an_unknown_plan_is_not_found(service: InProcess, action: str) -> None:
    status, detail = service.refused("POST" if action else "GET", f"/plans/nope{action}")
    assert status == 404
    assert "nope" in detail
    if not action:
        assert service.refused("PATCH", "/plans/nope", {"title": "x"})[0] == 404
        assert service.refused("DELETE", "/plans/nope")[0] == 404


# -- problems ----------------------------------------------------------------------------------------------------------


def number_of(line: str, markdown: str) -> int:
    return markdown.splitlines().index(line) + 1


BROKEN = [
    pytest.param("### Metrics\n", "", "Metrics", None, id="missing"),
    pytest.param("### Metrics", "### Measures", "Measures", "### Measures", id="misspelt"),
    pytest.param("### Objective", "### objective", "objective", "### objective", id="another case"),
    pytest.param("## 📋 Plan: ", "## Plan: ", "📋 Plan", "## Plan: Learning rates for the small model", id="title"),
    pytest.param("- A script", "### Surprise\n- A script", "Surprise", "### Surprise", id="unknown"),
]


@pytest.mark.parametrize(("old", "new", "word", "line"), BROKEN)
def test_a_plan_with_problems_is_approved_by_force_alone(
    service: InProcess, old: str, new: str, word: str, line: str | None
) -> None:
    markdown = MARKDOWN.replace(old, new)
    plan = make(service, markdown=markdown)
    before = everything(service)
    answer = service.http.post(f"/plans/{plan['id']}/approve")
    assert answer.status_code == 409
    assert "force" in answer.json()["detail"]
    problems = answer.json()["problems"]
    assert problems == plan["problems"]
    expected = 0 if line is None else number_of(line, markdown)
    assert [problem["line"] for problem in problems if word in problem["message"]][:1] == [expected]
    assert everything(service) == before
    assert service.refused("POST", f"/plans/{plan['id']}/approve", {"force": False})[0] == 409
    assert service.post(f"/plans/{plan['id']}/approve", {"force": True})["status"] == "approved"


def test_a_header_that_stands_twice_is_named_with_its_line(service: InProcess) -> None:
    markdown = MARKDOWN + "\n### Objective\nagain\n"
    (problem,) = make(service, markdown=markdown)["problems"]
    assert problem["line"] == len(markdown.splitlines()) - 1
    assert "Objective" in problem["message"]


def test_several_problems_are_told_in_the_order_of_their_lines(service: InProcess) -> None:
    problems = make(service, markdown="# Some notes\n\n### Steps\n")["problems"]
    assert [problem["line"] for problem in problems] == sorted(problem["line"] for problem in problems)
    assert {1, 3} <= {problem["line"] for problem in problems}
    assert len(problems) == 2 + 8


# -- changed -----------------------------------------------------------------------------------------------------------


def test_a_draft_changes(service: InProcess) -> None:
    plan = make(service)
    change = {"title": "New", "sections": {"a": 1}, "raw_markdown": "## other"}
    changed = service.http.patch(f"/plans/{plan['id']}", json=change).json()
    assert {name: changed[name] for name in change} == change
    assert changed["status"] == "draft"
    assert changed["updated_at"] > plan["updated_at"]
    assert changed["problems"]
    event = service.journal()[-1]
    assert event["kind"] == "plan.updated"
    assert {name: event["before"][name] for name in change} == {
        "title": plan["title"],
        "sections": None,
        "raw_markdown": plan["raw_markdown"],
    }
    assert {name: event["after"][name] for name in change} == change


@pytest.mark.parametrize(
    "body", [{"status": "approved"}, {"status": "draft", "title": "x"}, {"goal": "x"}, {"id": "x"}]
)
def test_only_title_sections_and_markdown_change(service: InProcess, body: Json) -> None:
    plan = make(service)
    status, detail = service.refused("PATCH", f"/plans/{plan['id']}", body)
    assert status == 422
    assert next(iter(body)) in str(detail)
    assert service.get(f"/plans/{plan['id']}") == plan


@pytest.mark.parametrize("change", [{"title": "New"}, {"raw_markdown": "x"}, {"sections": {"a": 1}}])
def test_an_approved_plan_that_changes_is_a_draft_again(service: InProcess, change: Json) -> None:
    plan = make(service, "approved")
    changed = service.http.patch(f"/plans/{plan['id']}", json=change).json()
    assert (changed["status"], changed["approved_at"], changed["approved_by"]) == ("draft", None, None)
    assert service.refused("POST", f"/plans/{plan['id']}/execute")[0] == 400


@pytest.mark.parametrize("change", [{}, {"title": "Learning rates"}])
def test_an_approved_plan_that_stays_as_it_is_stays_approved(service: InProcess, change: Json) -> None:
    plan = make(service, "approved")
    assert service.http.patch(f"/plans/{plan['id']}", json=change).json() == plan


@pytest.mark.parametrize("status", ["executing", "completed", "archived"])
def test_a_plan_under_way_or_over_does_not_change(service: InProcess, status: str) -> None:
    plan = make(service, status)
    before = everything(service)
    code, detail = service.refused("PATCH", f"/plans/{plan['id']}", {"title": "New"})
    assert code == 409
    assert status in detail
    assert everything(service) == before


# -- deleted -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_deleted_and_its_last_state_kept_in_the_journal(alone: InProcess) -> None:
    plan, other = make(alone), make(alone)
    answer = alone.http.delete(f"/plans/{plan['id']}")
    assert answer.status_code < 300
    assert [left["id"] for left in alone.get("/plans")] == [other["id"]]
    assert alone.refused("GET", f"/plans/{plan['id']}")[0] == 404
    assert alone.refused("DELETE", f"/plans/{plan['id']}")[0] == 404
    event = alone.journal()[-1]
    assert (event["kind"], event["subject"]) == ("plan.deleted", f"plan:{plan['id']}")
    assert event["before"]["raw_markdown"] == MARKDOWN


@pytest.mark.parametrize("user", ["run", "sweep"])
def test_a_plan_in_use_is_not_deleted(service: InProcess, user: str) -> None:
    plan = make(service)
    body = {"name": "x", "plan_id": plan["id"]} | ({"command": "true"} if user == "run" else {"goal": "g"})
    used_by = service.post("/runs" if user == "run" else "/sweeps/wild", body)
    before = everything(service)
    status, detail = service.refused("DELETE", f"/plans/{plan['id']}")
    assert status == 409
    assert used_by["id"] in detail
    assert everything(service) == before


# -- lists and what carries a plan -------------------------------------------------------------------------------------


def test_plans_are_listed_newest_first_and_filtered(alone: InProcess) -> None:
    first = make(alone, title="1", session_id="a")["id"]
    second = make(alone, "approved", title="2", session_id="a")["id"]
    third = make(alone, "approved", title="3", session_id="b")["id"]

    def ids(**params: Any) -> list[str]:
        return [plan["id"] for plan in alone.get("/plans", **params)]

    assert ids() == [third, second, first]
    assert ids(limit=2) == [third, second]
    assert ids(status="approved") == [third, second]
    assert ids(session_id="a") == [second, first]
    assert ids(status="approved", session_id="a") == [second]
    assert ids(status="completed") == ids(session_id="c") == []
    first_page = alone.http.get("/plans?limit=1&status=approved")
    link = re.fullmatch(r'<([^>]+)>; rel="next"', first_page.headers["Link"])
    assert link is not None
    assert [plan["id"] for plan in alone.http.get(link[1]).json()] == [second]


def test_a_run_takes_the_plan_of_its_sweep(service: InProcess) -> None:
    plan, other = make(service)["id"], make(service)["id"]
    sweep = service.post("/sweeps/wild", {"name": "w", "goal": "g", "plan_id": plan})
    run = {"name": "x", "command": "true", "sweep_id": sweep["id"]}
    assert sweep["plan_id"] == plan
    assert service.post("/runs", run)["plan_id"] == plan
    assert service.post("/runs", {**run, "plan_id": other})["plan_id"] == other
    assert service.post(f"/sweeps/{sweep['id']}/runs", {"name": "y", "command": "true"})["plan_id"] == plan
    body = {"name": "g", "base_command": "true", "parameters": {"a": [1, 2]}, "plan_id": plan}
    grid = service.post("/sweeps", body)
    runs = service.get("/runs", plan_id=plan)
    assert [item["sweep_id"] for item in runs] == [grid["id"], grid["id"], sweep["id"], sweep["id"]]
    assert [item["id"] for item in service.get("/sweeps", plan_id=plan)] == [grid["id"], sweep["id"]]


HOSTILE = {
    "as long as may be": "x" * 1_000_000,
    "one line of cells": "|a" * 99_999,
    "a table of many cells": "|a" * 50 + "|\n" + "|-" * 50 + "|\n" + ("|1" * 50 + "|\n") * 1900,
    "nested quotes": ">" * 150_000,
    "nested lists": "- " * 75_000,
    "brackets": "[" * 150_000,
    "scripts": MARKDOWN.replace("Find the", "<script>alert(1)</script><img src=x onerror=alert(1)> Find the"),
    "carriage returns": MARKDOWN.replace("\n", "\r\n"),
    "fences": "```\n" * 40_000,
    "a table that contradicts its text": MARKDOWN.replace("- **Runs**: 2", "- **Runs**: 200"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_markdown_is_stored_as_it_is_and_answered(service: InProcess, what: str) -> None:
    plan = make(service, markdown=HOSTILE[what])
    assert plan["raw_markdown"] == HOSTILE[what]
    assert isinstance(plan["problems"], list)
    assert service.http.get(f"/plans/{plan['id']}").headers["content-type"].startswith("application/json")
    sound = what in {"scripts", "carriage returns"}
    status = service.http.post(f"/plans/{plan['id']}/approve").status_code
    assert status == (200 if sound else 409)
    service.http.delete(f"/plans/{plan['id']}").raise_for_status()


def test_a_report_cannot_be_made_to_say_what_is_not_so(service: InProcess) -> None:
    plan = make(service, "executing", markdown=HOSTILE["scripts"])
    answer = service.http.get(f"/plans/{plan['id']}/report", params={"format": "markdown"})
    assert answer.headers["content-type"].startswith("text/markdown")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_title_and_goal_are_the_markdowns_where_they_are_left_out(service: InProcess) -> None:
    plan = service.post("/plans", {"raw_markdown": MARKDOWN})
    assert plan["title"] == "Learning rates for the small model"
    assert plan["goal"] == "Find the learning rate that trains the small model best within one epoch."
    status, [problem] = service.refused("POST", "/plans", {"raw_markdown": "## 📋 Plan: x"})
    assert (status, problem["loc"], "### Objective" in problem["msg"]) == (422, ["body", "goal"], True)
    assert service.refused("POST", "/plans", {"raw_markdown": f"## 📋 Plan: {'x' * 600}", "goal": "y"})[0] == 422
