"""Ways around a plan that somebody has thought of, each shut; and refusals that would be wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.admission import _countable
from orchestrator.errors import BadInput
from orchestrator.models import Plan
from orchestrator.planning.bounds import Bounds, Budget
from tests.support.plans import bindable
from tests.support.service import InProcess, Json, in_process
from tests.support.waiting import wait_until

LIMITS = '[resources]\ncpus = 1\nmem = "1G"\ntime = "0:10:00"'
SLOW = "sleep 600; echo lr={lr} seed={seed}"


class Agent:
    """Who needs a plan."""

    def __init__(self, service: InProcess, name: str) -> None:
        self._service = service
        token = service.post("/tokens", {"name": name, "scopes": ["plan", "run"], "require_plan": True})
        self._headers = {"X-Auth-Token": token["token"]}

    def __call__(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        return self._service.http.request(method, path, json=body, headers=self._headers)

    def saved(self, markdown: str = "", **approval: Any) -> Json:
        """A plan of its own, approved by a person."""
        body = {"title": "x", "goal": "y", "raw_markdown": markdown or bindable()}
        plan = self("POST", "/plans", body).json()
        assert plan["problems"] == []
        return dict(self._service.post(f"/plans/{plan['id']}/approve", approval))

    def execute(self, plan: Json, **body: Any) -> list[Json]:
        """Its runs."""
        answer = self("POST", f"/plans/{plan['id']}/execute", body)
        assert answer.status_code == 200, answer.text
        return list(self("GET", f"/runs?plan_id={plan['id']}").json())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service: each test has its own plan."""
    with in_process(tmp_path_factory.mktemp("escapes") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


@pytest.fixture(scope="module")
def agent(service: InProcess) -> Agent:
    """An agent for all."""
    return Agent(service, "agent")


def run_of(plan: Json, command: str = "echo lr=0.1 seed=1", **fields: Any) -> Json:
    return {"name": "r", "command": command, "plan_id": plan["id"], **fields}


def diff_of(answer: httpx2.Response) -> dict[str, tuple[Any, Any]]:
    assert answer.status_code == 403, answer.text
    return {item["field"]: (item["plan"], item["asked"]) for item in answer.json()["diff"]}


def stopped(service: InProcess, runs: list[Json]) -> None:
    for run in runs:
        if service.status(run["id"]) in {"queued", "launching", "running"}:
            service.http.post(f"/runs/{run['id']}/stop")
    for run in runs:
        service.over(run["id"])


# -- a plan that ends while its runs go on -----------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["complete", "archive"])
def test_a_plan_cannot_be_ended_while_its_runs_go_on(service: InProcess, agent: Agent, action: str) -> None:
    plan = agent.saved(bindable(SLOW))
    runs = agent.execute(plan)
    answer = agent("POST", f"/plans/{plan['id']}/{action}")
    assert answer.status_code == 409
    assert "is going on" in answer.json()["detail"]
    assert service.http.post(f"/plans/{plan['id']}/{action}").status_code == 409  # a person's wish is no other
    stopped(service, runs)


def test_an_approved_plan_cannot_be_edited_while_a_run_goes_on(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(bindable(SLOW))
    run = agent("POST", "/runs", run_of(plan, SLOW.format(lr=0.1, seed=1), auto_start=True)).json()
    assert agent("PATCH", f"/plans/{plan['id']}", {"title": "z"}).status_code == 409
    stopped(service, [run])
    assert agent("PATCH", f"/plans/{plan['id']}", {"title": "z"}).json()["status"] == "draft"


def test_a_held_run_without_a_plan_cannot_be_released_or_begun_again(service: InProcess, agent: Agent) -> None:
    run = service.post("/runs", {"name": "x", "command": "sleep 600"})
    service.post(f"/runs/{run['id']}/hold")
    service.post(f"/runs/{run['id']}/queue")
    assert agent("POST", f"/runs/{run['id']}/release").status_code == 403
    assert agent("POST", f"/runs/{run['id']}/priority", {"priority": 5}).status_code == 403
    service.post(f"/runs/{run['id']}/release")
    service.until(run["id"], "running")
    assert agent("POST", f"/runs/{run['id']}/requeue").status_code == 403
    stopped(service, [run])


@pytest.mark.parametrize(("more", "allowed"), [("", False), ("retry = {max = 1}", True)])
def test_a_run_is_begun_again_as_often_as_its_plan_has_it_retried(
    service: InProcess, agent: Agent, more: str, allowed: bool
) -> None:
    plan = agent.saved(bindable(SLOW, more=more))
    run = agent("POST", "/runs", run_of(plan, SLOW.format(lr=0.1, seed=1), auto_start=True)).json()
    service.until(run["id"], "running")
    again = agent("POST", f"/runs/{run['id']}/requeue")
    if allowed:
        assert again.status_code == 200
        wait_until(lambda: service.get(f"/runs/{run['id']}")["attempt"] == 2, "the second attempt")
        service.until(run["id"], "running")
        again = agent("POST", f"/runs/{run['id']}/requeue")
    assert "retry.max" in diff_of(again)
    stopped(service, [run])


def test_under_a_completed_plan_its_budget_holds_for_everybody(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(budget={"runs": 1})
    service.over(agent("POST", "/runs", run_of(plan, auto_start=True)).json()["id"])
    answer = service.http.post("/runs", json=run_of(plan))
    assert diff_of(answer) == {"budget.runs": (1, 2)}


def test_a_completed_plan_lets_what_failed_run_again_within_its_budget(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(bindable("exit {lr} {seed}", values="| lr | 3 | |\n| seed | 1 | |", runs=1, budget="runs = 2"))
    agent("POST", f"/plans/{plan['id']}/execute").raise_for_status()
    [run] = service.get("/runs", plan_id=plan["id"])
    wait_until(lambda: service.get(f"/plans/{plan['id']}")["status"] == "completed", "the plan's end")
    another = agent("POST", "/runs", run_of(plan, "exit 3 1"))
    assert (another.status_code, "but for reruns" in another.json()["detail"]) == (403, True)
    other_command = agent("POST", f"/runs/{run['id']}/rerun", {"command": "exit 0 1"})
    assert set(diff_of(other_command)) == {"parameters.lr"}
    again = agent("POST", f"/runs/{run['id']}/rerun").json()  # made; to start it is a call of its own
    agent("POST", f"/runs/{again['id']}/start").raise_for_status()
    assert service.over(again["id"])["parent_run_id"] == run["id"]
    assert diff_of(agent("POST", f"/runs/{run['id']}/rerun")) == {"budget.runs": (2, 3)}
    service.post(f"/plans/{plan['id']}/archive")
    assert agent("POST", f"/runs/{run['id']}/rerun").status_code == 403


def failing(service: InProcess, agent: Agent) -> tuple[Json, Json]:
    """A plan that is executing, and its one run that was started, which has failed."""
    plan = agent.saved(
        bindable("exit {lr} {seed}", values="| lr | 3, 4 | |\n| seed | 1 | |", runs=2, budget="runs = 9")
    )
    agent("POST", f"/plans/{plan['id']}/execute", {"auto_start": False}).raise_for_status()
    run = service.get("/runs", plan_id=plan["id"])[0]
    agent("POST", f"/runs/{run['id']}/start").raise_for_status()
    return plan, service.over(run["id"])


def test_a_plan_that_somebody_has_completed_runs_nothing_again(service: InProcess, agent: Agent) -> None:
    plan, run = failing(service, agent)
    service.post(f"/plans/{plan['id']}/complete")
    assert agent("POST", f"/runs/{run['id']}/rerun").status_code == 403


@pytest.mark.parametrize("parent", ["of another plan", "that has not run", "that finished"])
def test_only_what_failed_of_it_is_a_way_into_a_completed_plan(service: InProcess, agent: Agent, parent: str) -> None:
    values = "| lr | 1, 3 | |\n| seed | 1 | |"
    plan = agent.saved(bindable("test {lr} = {seed}", values=values, runs=2, budget="runs = 9"))
    agent("POST", f"/plans/{plan['id']}/execute").raise_for_status()
    wait_until(lambda: service.get(f"/plans/{plan['id']}")["status"] == "completed", "the plan's end")
    if parent == "of another plan":
        named = failing(service, agent)[1]
    elif parent == "that has not run":
        named = service.post("/runs", run_of(plan, "test 3 = 1"))
    else:
        [named] = service.get("/runs", plan_id=plan["id"], status="finished")
    again = run_of(plan, "test 3 = 1")
    assert agent("POST", "/runs", again | {"parent_run_id": named["id"]}).status_code == 403
    [failed] = service.get("/runs", plan_id=plan["id"], status="failed")
    assert agent("POST", "/runs", again | {"parent_run_id": failed["id"]}).status_code == 200


def test_a_refusal_that_could_not_be_allowed_is_not_kept_and_spoils_no_other(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(bindable("echo lr={lr}", values="| lr | 0.1 | |", runs=1))
    deep: Any = 1
    for _ in range(98):
        deep = [deep]
    told = agent("POST", "/runs", run_of(plan, "echo lr=0.1", sweep_params={"z": deep}))
    assert (told.status_code, told.json()["refusal"]) == (403, None)
    other = agent("POST", "/runs", run_of(plan, "id")).json()
    assert [item["id"] for item in service.get(f"/plans/{plan['id']}/amendments")["refusals"]] == [other["refusal"]]


def test_who_tries_again_and_again_is_refused_under_one_number(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(budget={"wall_time": "0:00:01", "runs": 100_000})
    agent("POST", f"/plans/{plan['id']}/execute", {"auto_start": False}).raise_for_status()
    told: list[Json] = []

    def refused_for_two_amounts() -> bool:
        answer = agent("POST", "/runs", run_of(plan))
        told.extend([answer.json()] if answer.status_code == 403 else [])
        return len({str(item["amendment"]) for item in told}) > 1

    wait_until(refused_for_two_amounts, "a later refusal asks for more")
    assert len({item["refusal"] for item in told}) == 1


def test_a_refusal_is_found_by_its_number_however_many_came_after_it(service: InProcess, agent: Agent) -> None:
    plan = agent.saved()
    first = agent("POST", "/runs", run_of(plan, "true first")).json()["refusal"]
    for number in range(25):
        agent("POST", "/runs", run_of(plan, f"true {number}"))
    path = f"/plans/{plan['id']}/amendments"
    assert len(service.get(path)["refusals"]) == 20
    [found] = service.get(path, refusal=first)["refusals"]
    assert found["amendment"] == {"exact_commands": ["true first"]}


def test_an_amendment_that_was_looked_at_is_made_only_as_it_was_seen(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(budget={"runs": 9})
    path = f"/plans/{plan['id']}/amendments"
    seen = service.post(path, {"budget": {"runs": 12}, "dry_run": True})
    service.post(path, {"budget": {"runs": 50}})
    body = {"budget": {"runs": 12}, "approved_hash": seen["approved_hash"]}
    assert "look again" in service.refused("POST", path, body)[1]


def test_a_dry_run_of_an_execution_tells_what_the_plan_would_refuse(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(budget={"runs": 3})
    path = f"/plans/{plan['id']}"
    assert diff_of(agent("POST", f"{path}/execute", {"dry_run": True})) == {"budget.runs": (3, 4)}
    assert service.get(f"{path}/amendments")["refusals"] == []


# -- what a run asks for -----------------------------------------------------------------------------------------------


def test_null_takes_no_limit_away(agent: Agent) -> None:
    plan = agent.saved(bindable(more=LIMITS))
    made = agent("POST", "/runs", run_of(plan, resources={"time": None, "mem": None})).json()
    assert made["resources"] == {"cpus": 1, "mem": "1G", "time": "0:10:00"}
    assert set(diff_of(agent("POST", f"/runs/{made['id']}/rerun", {"resources": {}}))) == {
        "resources.mem",
        "resources.time",
    }


@pytest.mark.parametrize("command", ["echo lr=0.1 seed=true", "echo lr=0.1 seed=1.0", "echo lr=' 0.1 ' seed=1"])
def test_a_value_is_the_plans_word_for_word(agent: Agent, command: str) -> None:
    plan = agent.saved()
    assert any(
        name.startswith(("parameters.", "command")) for name in diff_of(agent("POST", "/runs", run_of(plan, command)))
    )


def test_a_value_that_is_only_said_is_the_plans_too(agent: Agent) -> None:
    plan = agent.saved(bindable("echo lr={lr}"))
    for value, fits in ((True, False), (1.0, False), ("1", True), (1, True)):
        answer = agent("POST", "/runs", run_of(plan, "echo lr=0.1", sweep_params={"seed": value}))
        assert (answer.status_code == 200) is fits
        if fits:
            assert answer.json()["sweep_params"] == {"seed": 1, "lr": 0.1}


def test_a_command_that_could_be_read_in_many_ways_is_answered_at_once(agent: Agent) -> None:
    values = "\n".join(f"| {name} | 1, 2 | |" for name in "abcd")
    plan = agent.saved(bindable("echo {a}_{b}_{c}_{d}", values=values, runs=16))
    answer = agent("POST", "/runs", run_of(plan, "echo " + "_" * 50_000 + "!"))
    assert diff_of(answer)["command"][0] == "echo {a}_{b}_{c}_{d}"
    nested = agent("POST", "/runs", run_of(plan, f"echo '{'[' * 50_000}'_1_1_1"))
    assert nested.status_code == 403


def test_adjacent_places_are_read_as_the_run_says_they_are_meant(agent: Agent) -> None:
    plan = agent.saved(bindable("echo {a}{b}", values="| a | 1, 11 | |\n| b | 1, 11 | |"))
    runs = agent.execute(plan, auto_start=False)
    assert sorted((run["sweep_params"]["a"], run["sweep_params"]["b"]) for run in runs) == [
        (1, 1),
        (1, 11),
        (11, 1),
        (11, 11),
    ]


def test_the_priority_of_a_run_that_was_made_is_bound_too(agent: Agent) -> None:
    plan = agent.saved()
    run = agent("POST", "/runs", run_of(plan)).json()
    assert diff_of(agent("POST", f"/runs/{run['id']}/priority", {"priority": 1_000_000})) == {
        "priority": (None, 1_000_000)
    }
    agent("POST", f"/runs/{run['id']}/priority", {"priority": -3}).raise_for_status()


def test_how_many_at_once_is_bound(agent: Agent) -> None:
    plan = agent.saved(bindable(more="parallel = 1"))
    assert diff_of(agent("POST", f"/plans/{plan['id']}/execute", {"parallel": 1000})) == {"parallel": (1, 1000)}
    agent.execute(plan, auto_start=False)
    sweep = agent("GET", f"/plans/{plan['id']}").json()["sweep_id"]
    for wish in (None, 5):
        assert diff_of(agent("PUT", f"/sweeps/{sweep}", {"parallel": wish})) == {"parallel": (1, wish)}
    assert diff_of(agent("POST", f"/sweeps/{sweep}/start?parallel=7")) == {"parallel": (1, 7)}


def test_a_run_that_is_put_into_a_sweep_of_the_plan_counts_as_made_under_it(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(budget={"runs": 1})
    sweep = service.post("/sweeps/wild", {"name": "s", "plan_id": plan["id"]})
    others = [service.post("/runs", {"name": "x", "command": "echo lr=0.1 seed=1"}) for _ in range(2)]
    path = f"/add-to-sweep?sweep_id={sweep['id']}"
    assert agent("POST", f"/runs/{others[0]['id']}{path}").json()["plan_id"] == plan["id"]
    assert diff_of(agent("POST", f"/runs/{others[1]['id']}{path}")) == {"budget.runs": (1, 2)}
    another = service.post("/sweeps/wild", {"name": "s"})
    moved = agent("POST", f"/runs/{others[0]['id']}/add-to-sweep?sweep_id={another['id']}")
    assert moved.status_code == 403


def test_an_approved_block_is_executed_whole(service: InProcess, agent: Agent) -> None:
    more = 'tags = ["exp7"]\nexecutor = "local"\ngpuwrap_config = {retries = 3}'
    runs = agent.execute(agent.saved(bindable(more=more)), auto_start=False)
    assert {(run["tags"][0], run["gpuwrap_config"]["retries"], run["executor"]) for run in runs} == {
        ("exp7", 3, "local")
    }


def test_a_changed_command_brings_its_configuration_along(agent: Agent) -> None:
    plan = agent.saved(bindable("echo lr={lr}"))
    run = agent("POST", "/runs", run_of(plan, "echo lr=0.1", sweep_params={"seed": 2})).json()
    same = agent("PUT", f"/runs/{run['id']}", {"command": "echo lr=0.1"}).json()
    assert same["sweep_params"] == {"lr": 0.1, "seed": 2}
    other = agent("PUT", f"/runs/{run['id']}", {"command": "echo lr=0.01"}).json()
    assert other["sweep_params"] == {"lr": 0.01, "seed": 2}


@pytest.mark.parametrize("resources", [{"cpus": 1}, {"nodes": 1}])
def test_what_is_the_default_is_not_more_than_the_plan_says(agent: Agent, resources: Json) -> None:
    answer = agent("POST", "/runs", run_of(agent.saved(), resources=resources))
    assert answer.status_code == 200, answer.text


def test_a_plan_that_tells_no_number_allows_one_run(agent: Agent) -> None:
    begin, end = bindable().split("### Parameters to Sweep")[0], "### Metrics" + bindable().split("### Metrics")[1]
    text = (begin + end).replace("echo lr={lr} seed={seed}", "echo once").replace("- **Runs**: 4", "- **Runs**: a few")
    plan = agent("POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": text}).json()
    agent._service.post(f"/plans/{plan['id']}/approve", {"force": True})
    agent("POST", "/runs", run_of(plan, "echo once")).raise_for_status()
    assert diff_of(agent("POST", "/runs", run_of(plan, "echo once"))) == {"budget.runs": (1, 2)}


def test_what_was_tried_before_the_approval_does_not_count(service: InProcess, agent: Agent) -> None:
    plan = agent("POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": bindable()}).json()
    service.over(service.post("/runs", run_of(plan, "echo smoke", auto_start=True))["id"])
    service.post(f"/plans/{plan['id']}/approve")
    assert len(agent.execute(plan)) == 5


# -- amendments --------------------------------------------------------------------------------------------------------


def test_an_amendment_adds_and_takes_nothing_away(service: InProcess, agent: Agent, tmp_path: Path) -> None:
    plan = agent.saved(bindable(more="[resources]\ncpus = 1", budget="runs = 9"))
    service.post(f"/plans/{plan['id']}/amendments", {"terms": {"workdir": str(tmp_path), "resources.cpus": 2}})
    made = agent("POST", "/runs", run_of(plan)).json()
    assert (made["workdir"], made["resources"]) == (plan["bounds"]["terms"]["workdir"], {"cpus": 1})
    other = agent("POST", "/runs", run_of(plan, workdir=str(tmp_path), resources={"cpus": 2}))
    assert other.status_code == 200


@pytest.mark.parametrize("terms", [{"tags": ["a"]}, {"resources": {"cpus": 2}}, {"workdir": 5}, {"workdir": "x"}])
def test_a_term_that_no_refusal_names_is_no_amendment(service: InProcess, agent: Agent, terms: Json) -> None:
    plan = agent.saved()
    assert service.refused("POST", f"/plans/{plan['id']}/amendments", {"terms": terms})[0] == 422


def test_the_refusal_of_many_says_what_would_allow_them_all(service: InProcess, agent: Agent) -> None:
    plan = agent.saved()
    commands = [f"echo lr={lr} seed=1" for lr in (0.2, 0.3, 0.1, 0.1, 0.1, 0.1)]
    bulk = {"runs": [run_of(plan, command) for command in commands]}
    refused = agent("POST", "/runs/bulk", bulk)
    assert refused.json()["amendment"] == {"parameters": {"lr": [0.2, 0.3]}, "budget": {"runs": 6}}
    service.post(f"/plans/{plan['id']}/amendments", refused.json()["amendment"])
    assert len(agent("POST", "/runs/bulk", bulk).json()) == 6


def test_a_look_is_not_kept_as_something_to_allow(service: InProcess, agent: Agent) -> None:
    plan = agent.saved()
    agent("POST", "/runs", run_of(plan, "echo lr=0.3 seed=1"))
    agent("POST", "/runs", run_of(plan, "curl evil", dry_run=True))
    [kept] = service.get(f"/plans/{plan['id']}/amendments")["refusals"]
    assert kept["amendment"] == {"parameters": {"lr": [0.3]}}


def test_who_needs_plans_changes_no_others_plans(service: InProcess, agent: Agent) -> None:
    other, plan = Agent(service, "other"), agent.saved()
    for method, path, body in (
        ("PATCH", "", {"title": "z"}),
        ("DELETE", "", None),
        ("POST", "/archive", None),
    ):
        assert other(method, f"/plans/{plan['id']}{path}", body).status_code == 403
    assert service.get(f"/plans/{plan['id']}")["status"] == "approved"


# -- what a person sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["\x1b[2J", "\r", "\u202e", "\u200b", "\x9b2J", "\x07"])
def test_what_a_terminal_does_not_show_is_a_problem(service: InProcess, agent: Agent, hidden: str) -> None:
    text = bindable().replace("Compare the runs", f"Compare{hidden}the runs")
    plan = agent("POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": text}).json()
    assert any("nobody sees" in problem["message"] for problem in plan["problems"])
    assert service.http.post(f"/plans/{plan['id']}/approve").status_code == 409


@pytest.mark.parametrize(
    "command", ['echo "$(echo "{text}")"', "cat <<EOF\n{text}\nEOF", "true # it's\necho {text}", "echo `echo {text}`"]
)
def test_a_place_where_the_shell_reads_more_than_plain_words_is_a_problem(agent: Agent, command: str) -> None:
    text = bindable(command, values="| text | `$(id)` | |", runs=1)
    plan = agent("POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": text}).json()
    assert any("quotes of their own" in problem["message"] for problem in plan["problems"])


def test_what_would_be_frozen_can_be_looked_at_first(service: InProcess, agent: Agent) -> None:
    plan = agent("POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": bindable(more=LIMITS)}).json()
    shown = service.post(f"/plans/{plan['id']}/approve", {"dry_run": True})
    assert shown["problems"] == []
    assert service.get(f"/plans/{plan['id']}")["status"] == "draft"
    approved = service.post(f"/plans/{plan['id']}/approve", {"approved_hash": shown["approved_hash"]})
    assert (approved["bounds"], approved["approved_hash"]) == (shown["bounds"], shown["approved_hash"])


# -- what counts -------------------------------------------------------------------------------------------------------


def ready(agent: Agent, plan: Json, **fields: Any) -> str:
    """A run of the plan that waits to be started."""
    answer = agent("POST", "/runs", run_of(plan, **fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def test_a_run_that_is_put_away_and_taken_back_counts_when_it_is_started(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(budget={"runs": 1})
    first = ready(agent, plan)
    agent("POST", f"/runs/{first}/archive").raise_for_status()
    second = ready(agent, plan)  # the first left its place
    agent("POST", f"/runs/{first}/unarchive").raise_for_status()
    assert diff_of(agent("POST", f"/runs/{first}/queue")) == {"budget.runs": (1, 2)}
    agent("POST", f"/runs/{second}/queue").raise_for_status()
    assert service.get(f"/plans/{plan['id']}")["budget"]["used_runs"] == 1


def test_a_sweep_starts_no_run_that_was_put_away(agent: Agent) -> None:
    plan = agent.saved()
    first, *others = agent.execute(plan, auto_start=False)
    agent("POST", f"/runs/{first['id']}/archive").raise_for_status()
    sweep = agent("GET", f"/plans/{plan['id']}").json()["sweep_id"]
    agent("POST", f"/sweeps/{sweep}/start").raise_for_status()
    assert agent("GET", f"/runs/{first['id']}").json()["status"] == "ready"
    assert all(agent("GET", f"/runs/{run['id']}").json()["status"] != "ready" for run in others)


def test_runs_of_an_earlier_approval_count_when_they_are_started_under_the_present_one(
    service: InProcess, agent: Agent
) -> None:
    plan = agent.saved(bindable("sleep 600; echo lr={lr} seed={seed}", more=LIMITS))
    made = [ready(agent, plan, command="sleep 600; echo lr=0.1 seed=1") for _ in range(3)]
    agent("PATCH", f"/plans/{plan['id']}", {"title": "smaller"}).raise_for_status()
    service.post(f"/plans/{plan['id']}/approve", {"budget": {"runs": 1}})
    assert service.get(f"/plans/{plan['id']}")["budget"]["used_runs"] == 0
    started = agent("POST", f"/runs/{made[0]}/queue")
    assert started.status_code == 200
    assert diff_of(agent("POST", f"/runs/{made[1]}/queue")) == {"budget.runs": (1, 2)}
    assert service.get(f"/plans/{plan['id']}")["budget"]["used_runs"] == 1
    stopped(service, [started.json()])


def test_an_older_run_that_is_adopted_counts(service: InProcess, agent: Agent) -> None:
    older = [service.post("/runs", {"name": "x", "command": "echo lr=0.1 seed=1"})["id"] for _ in range(2)]
    plan = agent.saved(budget={"runs": 1})
    sweep = service.post("/sweeps/wild", {"name": "s", "plan_id": plan["id"]})["id"]
    agent("POST", f"/runs/{older[0]}/add-to-sweep?sweep_id={sweep}").raise_for_status()
    assert diff_of(agent("POST", f"/runs/{older[1]}/add-to-sweep?sweep_id={sweep}")) == {"budget.runs": (1, 2)}
    agent("POST", f"/runs/{older[0]}/queue").raise_for_status()  # it is counted already
    assert service.get(f"/plans/{plan['id']}")["budget"]["used_runs"] == 1


@pytest.mark.parametrize(
    ("action", "body"), [("queue", None), ("release", None), ("priority", {"priority": -1}), ("start", None)]
)
def test_a_run_of_no_plan_is_not_an_agents_to_start(
    service: InProcess, agent: Agent, action: str, body: Json | None
) -> None:
    agent.execute(agent.saved())  # one that a run could be taken for
    run = service.post("/runs", {"name": "x", "command": "echo lr=0.1 seed=1"})
    answer = agent("POST", f"/runs/{run['id']}/{action}", body)
    assert answer.status_code == 403
    assert "belongs to no plan" in answer.json()["detail"]
    assert service.status(run["id"]) == "ready"


# -- what is somebody else's -------------------------------------------------------------------------------------------


def test_somebody_elses_sweep_and_run_are_not_an_agents_to_change(service: InProcess, agent: Agent) -> None:
    draft = {"name": "s", "base_command": "echo fine", "parameters": {"a": [1]}, "status": "draft"}
    sweep, run = service.post("/sweeps", draft), service.post("/runs", {"name": "mine", "command": "true"})
    evil = agent("PUT", f"/sweeps/{sweep['id']}", {"base_command": "echo EVIL"})
    renamed = agent("PUT", f"/runs/{run['id']}", {"name": "yours"})
    faster = agent("POST", f"/sweeps/{sweep['id']}/start?parallel=9")
    assert (evil.status_code, renamed.status_code) == (403, 403)
    assert faster.status_code in {400, 403}
    assert service.get(f"/sweeps/{sweep['id']}")["base_command"] == "echo fine"
    assert service.get(f"/runs/{run['id']}")["name"] == "mine"


def test_how_many_at_once_binds_a_sweep_that_names_no_plan(service: InProcess) -> None:
    agent = Agent(service, "alone")  # with one plan executing, which is meant where none is named
    plan = agent.saved(bindable("echo --lr={lr} --seed={seed}", more="parallel = 1"))
    agent.execute(plan, auto_start=False)
    wide = {"name": "w", "base_command": "echo", "parameters": {"lr": [0.1, 0.01], "seed": [1, 2]}}
    assert diff_of(agent("POST", "/sweeps", {**wide, "parallel": 4})) == {"parallel": (1, 4)}
    saved = agent("POST", "/sweeps", {**wide, "status": "draft", "parallel": 4})
    assert saved.status_code == 200, saved.text
    assert diff_of(agent("PUT", f"/sweeps/{saved.json()['id']}", {"status": "running"})) == {"parallel": (1, 4)}


@pytest.mark.parametrize("draft", [False, True])
def test_a_sweep_that_leaves_out_how_many_at_once_has_its_plans(service: InProcess, agent: Agent, draft: bool) -> None:
    plan = agent.saved(bindable("echo --lr={lr} --seed={seed}", more="parallel = 2"))
    grid = {"base_command": "echo", "parameters": {"lr": [0.1, 0.01], "seed": [1, 2]}, "plan_id": plan["id"]}
    made = agent("POST", "/sweeps", {"name": "w", **grid, **({"status": "draft"} if draft else {})})
    assert made.status_code == 200, made.text
    agent("PUT", f"/sweeps/{made.json()['id']}", {"status": "pending"}).raise_for_status()
    shown = service.get(f"/sweeps/{made.json()['id']}")
    assert (shown["parallel"], len(shown["run_ids"])) == (2, 4)


# -- what is somebody else's, and goes on ------------------------------------------------------------------------------


def test_what_is_somebody_elses_goes_on(service: InProcess, agent: Agent) -> None:
    run = service.run("sleep 600")
    sweep = service.post("/sweeps", {"name": "s", "base_command": "sleep 600; :", "parameters": {"a": [1]}})
    service.post(f"/sweeps/{sweep['id']}/start")
    for path in (f"/runs/{run['id']}/stop", f"/sweeps/{sweep['id']}/stop"):
        assert agent("POST", path).status_code == 403
    for action in ("hold", "archive"):
        ready = service.post("/runs", {"name": "x", "command": "true"})
        assert agent("POST", f"/runs/{ready['id']}/{action}").status_code == 403
    assert service.get(f"/runs/{run['id']}")["reason"] != "STOPPING"
    stopped(service, [run, service.get(f"/runs/{sweep['run_ids'][0]}")])


def test_an_agent_stops_what_its_plan_runs_whoever_executed_it(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(bindable("sleep 600; echo lr={lr} seed={seed}"))
    service.post(f"/plans/{plan['id']}/execute")
    runs = agent("GET", f"/runs?plan_id={plan['id']}").json()
    assert {run["created_by"] for run in runs} == {"token:admin"}
    for run in runs:
        agent("POST", f"/runs/{run['id']}/stop").raise_for_status()
    stopped(service, runs)


# -- refusals and what would allow them --------------------------------------------------------------------------------


def test_a_refused_command_is_allowed_as_it_is_and_no_other(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(budget={"runs": 20})
    asked = "cat /tmp/{lr} ${HOME}"
    refused = agent("POST", "/runs", run_of(plan, asked))
    assert refused.json()["amendment"] == {"exact_commands": [asked]}
    service.post(f"/plans/{plan['id']}/amendments", refused.json()["amendment"])
    assert agent("POST", "/runs", run_of(plan, asked)).status_code == 200
    assert agent("POST", "/runs", run_of(plan, "cat /tmp/0.1 ${HOME}")).status_code == 403


def test_no_amendment_lets_a_value_be_read_by_the_shell(service: InProcess, agent: Agent) -> None:
    plan = agent.saved(bindable(values="| lr | 0.1 | |\n| seed | 1 | |", runs=1))
    path = f"/plans/{plan['id']}/amendments"
    service.post(path, {"parameters": {"seed": ["$(touch pwned)"]}})  # as data it is harmless
    assert service.refused("POST", path, {"commands": ['echo "{seed}"']})[0] == 422
    service.post(path, {"commands": ['echo "{lr}"']})
    assert service.refused("POST", path, {"parameters": {"lr": ["$(touch pwned)"]}})[0] == 422


def test_another_template_is_refused_as_one_and_allowed_as_one(service: InProcess, agent: Agent) -> None:
    plan = agent.saved()
    path, wanted = f"/plans/{plan['id']}", {"command": "printf '%s\n' {lr} {seed}"}
    refused = agent("POST", f"{path}/execute", wanted)
    assert diff_of(refused) == {"template": ("echo lr={lr} seed={seed}", wanted["command"])}
    service.post(f"{path}/amendments", refused.json()["amendment"])
    assert len(agent.execute(plan, **wanted, auto_start=False)) == 4


def test_too_much_to_read_is_not_allowed_in_one_step(service: InProcess, agent: Agent) -> None:
    plan = agent.saved()
    bulk = {"runs": [run_of(plan, f"true {number}") for number in range(400)]}
    refused = agent("POST", "/runs/bulk", bulk)
    assert refused.status_code == 403
    told = refused.json()
    assert len(told["diff"]) == 200
    assert "too much to be allowed in one step" in told["detail"]
    assert not told["amendment"]
    assert service.get(f"/plans/{plan['id']}/amendments")["refusals"] == []


@pytest.mark.parametrize("resources", [{"nodelist": "n[1-4]"}, {"constraint": "a100*4"}, {"nodelist": "n1,n2"}])
def test_how_many_nodes_are_reserved_must_be_said(resources: Json) -> None:
    asked: Json = {"resources": {"gpus": 8, "time": "1:00:00", **resources}, "executor": "slurm"}
    budget = Bounds(budget=Budget(gpu_hours=100.0))
    plan = Plan(id="p", title="x", goal="y", raw_markdown="")
    with pytest.raises(BadInput, match=r"resources\.gpus must say"):
        _countable(plan, budget, asked, 8 * 3600.0)
    asked["resources"]["nodes"] = 4
    _countable(plan, budget, asked, 32 * 3600.0)


def test_a_look_leaves_no_copy_of_the_code(service: InProcess, agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("pass\n")
    plan = agent.saved(bindable(more=f'workdir = "{tmp_path}"\nsnapshot = true'))
    shown = agent("POST", "/runs", run_of(plan, dry_run=True))
    assert shown.status_code == 200, shown.text
    assert not list((service.settings.runs_dir / ".code").glob("*"))
    made = agent("POST", "/runs", run_of(plan)).json()
    assert made["snapshot"]["digest"]


def test_no_sweep_keeps_somebody_elses_draft_from_being_deleted(service: InProcess, agent: Agent) -> None:
    draft = service.post("/plans", {"title": "x", "goal": "y", "raw_markdown": bindable()})
    assert agent("POST", "/sweeps/wild", {"name": "s", "plan_id": draft["id"]}).status_code == 403
    assert service.http.delete(f"/plans/{draft['id']}").status_code == 200
