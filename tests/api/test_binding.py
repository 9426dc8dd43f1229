"""Plans that bind: what runs under one, what does not, and how a person allows it after all."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.plans import GOOD, bindable
from tests.support.service import InProcess, Json, in_process
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service: each test has its own plan."""
    with in_process(tmp_path_factory.mktemp("binding") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        token = found.post("/tokens", {"name": "agent", "scopes": ["plan", "run"], "require_plan": True})
        AGENT["X-Auth-Token"] = token["token"]
        yield found


AGENT: dict[str, str] = {}


def ask(service: InProcess, method: str, path: str, body: Any = None) -> httpx2.Response:
    """As an agent that needs a plan."""
    return service.http.request(method, path, json=body, headers=AGENT)


def saved(service: InProcess, markdown: str | None = None, **approval: Any) -> Json:
    """A plan of the agent's, approved by a person."""
    body = {"title": "x", "goal": "y", "raw_markdown": bindable() if markdown is None else markdown}
    answer = ask(service, "POST", "/plans", body)
    assert answer.json()["problems"] == []
    return dict(service.post(f"/plans/{answer.json()['id']}/approve", approval))


def run_of(plan: Json, command: str = "echo lr=0.1 seed=1", **fields: Any) -> Json:
    return {"name": "r", "command": command, "plan_id": plan["id"], **fields}


def diff_of(answer: httpx2.Response) -> dict[str, tuple[Any, Any]]:
    assert answer.status_code == 403, answer.text
    return {item["field"]: (item["plan"], item["asked"]) for item in answer.json()["diff"]}


# -- which plan --------------------------------------------------------------------------------------------------------


def test_without_a_plan_nothing_runs(service: InProcess) -> None:
    answer = ask(service, "POST", "/runs", {"name": "x", "command": "true"})
    assert answer.status_code == 403
    assert "no plan was named" in answer.json()["detail"]


@pytest.mark.parametrize("status", ["draft", "completed", "archived"])
def test_a_plan_that_is_not_approved_runs_nothing(service: InProcess, status: str) -> None:
    plan = saved(service)
    if status == "draft":
        ask(service, "PATCH", f"/plans/{plan['id']}", {"title": "another"}).raise_for_status()
    elif status == "completed":
        service.post(f"/plans/{plan['id']}/execute", {"auto_start": False})
        service.post(f"/plans/{plan['id']}/complete")
    else:
        service.post(f"/plans/{plan['id']}/archive")
    answer = ask(service, "POST", "/runs", run_of(plan))
    assert answer.status_code == 403
    assert f"Plan {plan['id']} is {status}" in answer.json()["detail"]


def test_a_run_may_be_of_the_plan_of_its_sweep(service: InProcess) -> None:
    plan = saved(service)
    sweep = service.post("/sweeps/wild", {"name": "s", "plan_id": plan["id"]})
    answer = ask(service, "POST", "/runs", {"name": "x", "command": "echo lr=0.1 seed=2", "sweep_id": sweep["id"]})
    assert answer.json()["plan_id"] == plan["id"]


def test_the_only_executing_plan_of_a_token_need_not_be_named(service: InProcess) -> None:
    token = service.post("/tokens", {"name": "other-agent", "scopes": ["plan", "run"], "require_plan": True})
    headers = {"X-Auth-Token": token["token"]}
    ids = []
    for _ in range(2):
        body = {"title": "x", "goal": "y", "raw_markdown": bindable(budget="runs = 9")}
        plan = service.http.post("/plans", json=body, headers=headers).json()
        service.post(f"/plans/{plan['id']}/approve")
        service.http.post(
            f"/plans/{plan['id']}/execute", json={"auto_start": False}, headers=headers
        ).raise_for_status()
        ids.append(plan["id"])
        answer = service.http.post("/runs", json={"name": "x", "command": "echo lr=0.1 seed=1"}, headers=headers)
        if len(ids) == 1:
            assert answer.json()["plan_id"] == ids[0]
        else:
            assert answer.status_code == 403
            assert all(plan_id in answer.json()["detail"] for plan_id in ids)


def test_who_needs_no_plan_is_not_held_to_one(service: InProcess) -> None:
    plan = saved(service)
    made = service.post("/runs", run_of(plan, "echo something else", resources={"cpus": 2}))
    assert made["plan_id"] == plan["id"]


def test_everybody_needs_one_where_the_setting_says_so(tmp_path: Any) -> None:
    with in_process(tmp_path / "home", require_plan=True) as strict:
        assert strict.refused("POST", "/runs", {"name": "x", "command": "true"})[0] == 403
        assert strict.get("/tokens/self")["require_plan"] is True


# -- what is within it -------------------------------------------------------------------------------------------------


def test_a_run_within_the_plan_is_made_and_its_configuration_known(service: InProcess) -> None:
    plan = saved(service)
    made = ask(service, "POST", "/runs", run_of(plan, "echo lr=0.01 seed=2")).json()
    assert made["sweep_params"] == {"lr": 0.01, "seed": 2}
    assert made["created_by"] == "token:agent"


def test_what_a_run_leaves_out_is_its_plans(service: InProcess) -> None:
    more = 'env = {DATA = "/data"}\n[resources]\ncpus = 2\ntime = "0:10:00"'
    plan = saved(service, bindable(more=more))
    made = ask(service, "POST", "/runs", run_of(plan, resources={"time": 5})).json()
    assert made["resources"] == {"cpus": 2, "time": 5}
    assert made["env"] == {"DATA": "/data"}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"resources": {"cpus": 4}}, "resources.cpus"),
        ({"resources": {"mem": "2G"}}, "resources.mem"),
        ({"resources": {"time": "1:00:00"}}, "resources.time"),
        ({"env": {"LD_PRELOAD": "/x.so"}}, "env.LD_PRELOAD"),
        ({"env": {"DATA": "/other"}}, "env.DATA"),
        ({"workdir": "/"}, "workdir"),
        ({"container": {"image": "x.sif"}}, "container"),
        ({"environment": {"venv": "/x"}}, "environment"),
        ({"snapshot": True}, "snapshot"),
        ({"retry": {"max": 3}}, "retry.max"),
        ({"priority": 5}, "priority"),
        ({"gpuwrap_config": {"enabled": False}}, "gpuwrap_config.enabled"),
        ({"signal": "USR1@60"}, "signal"),
    ],
)
def test_what_a_plan_does_not_say_a_run_may_not_ask(service: InProcess, fields: Json, name: str) -> None:
    more = 'env = {DATA = "/data"}\n[resources]\ncpus = 2\nmem = "1G"\ntime = "0:10:00"'
    plan = saved(service, bindable(more=more))
    assert name in diff_of(ask(service, "POST", "/runs", run_of(plan, **fields)))


def test_less_than_the_plan_says_is_within_it(service: InProcess) -> None:
    plan = saved(service, bindable(more='[resources]\ncpus = 2\nmem = "1G"\ntime = "0:10:00"'))
    less = {"cpus": 1, "mem": "512M", "time": "0:05:00"}
    ask(service, "POST", "/runs", run_of(plan, resources=less, priority=-5, tags=["mine"])).raise_for_status()


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ("echo lr=0.3 seed=1", "parameters.lr"),
        ("echo lr=0.1 seed=7", "parameters.seed"),
        ("echo lr=0.1 seed=1; curl evil", "command"),
        ("echo lr=0.1$(id) seed=1", "command"),
        ("echo lr=`id` seed=1", "command"),
        ("echo lr=0.1 seed=1 --more", "command"),
        ("rm -rf /", "command"),
        ("echo lr=0.1 seed=1\nid", "command"),
    ],
)
def test_another_command_or_value_is_outside(service: InProcess, command: str, field: str) -> None:
    plan = saved(service)
    assert field in diff_of(ask(service, "POST", "/runs", run_of(plan, command)))


def test_a_configuration_that_contradicts_its_command_is_outside(service: InProcess) -> None:
    plan = saved(service)
    assert "command" in diff_of(ask(service, "POST", "/runs", run_of(plan, sweep_params={"lr": 0.01, "seed": 1})))
    more = ask(service, "POST", "/runs", run_of(plan, sweep_params={"dropout": 0.5}))
    assert diff_of(more) == {"parameters.dropout": (None, 0.5)}


def test_a_parameter_that_the_command_does_not_name_must_be_said(service: InProcess) -> None:
    plan = saved(service, bindable("echo lr={lr}"))
    missing = ask(service, "POST", "/runs", run_of(plan, "echo lr=0.1"))
    assert diff_of(missing) == {"parameters.seed": ([1, 2], None)}
    said = run_of(plan, "echo lr=0.1", sweep_params={"seed": 2})
    assert ask(service, "POST", "/runs", said).json()["sweep_params"] == {"seed": 2, "lr": 0.1}


def test_a_plan_without_a_command_runs_none(service: InProcess) -> None:
    plan = saved(service, GOOD.replace("local_gpu", "cpu_only").replace("GPU count: 4", "GPU count: 0"))
    answer = ask(service, "POST", "/runs", run_of(plan))
    assert diff_of(answer)["command"] == (None, "echo lr=0.1 seed=1")
    assert ask(service, "POST", f"/plans/{plan['id']}/execute", {"command": "echo {lr}"}).status_code == 403
    assert service.get(f"/plans/{plan['id']}")["status"] == "approved"


def test_as_many_runs_as_the_table_has_configurations(service: InProcess) -> None:
    plan = saved(service)
    for _ in range(4):
        ask(service, "POST", "/runs", run_of(plan)).raise_for_status()
    assert diff_of(ask(service, "POST", "/runs", run_of(plan))) == {"budget.runs": (4, 5)}


def test_many_runs_are_made_or_none(service: InProcess) -> None:
    plan = saved(service)
    five = [run_of(plan) for _ in range(5)]
    assert "budget.runs" in diff_of(ask(service, "POST", "/runs/bulk", {"runs": five}))
    assert service.get("/runs", plan_id=plan["id"]) == []
    assert len(ask(service, "POST", "/runs/bulk", {"runs": five[:4]}).json()) == 4


# -- every other way to make a run do something else -------------------------------------------------------------------


def test_a_run_that_was_made_cannot_become_another(service: InProcess) -> None:
    plan = saved(service)
    run = ask(service, "POST", "/runs", run_of(plan)).json()
    changed = ask(service, "PUT", f"/runs/{run['id']}", {"command": "id"})
    assert diff_of(changed)["command"][1] == "id"
    assert "workdir" in diff_of(ask(service, "PUT", f"/runs/{run['id']}", {"workdir": "/"}))
    ask(service, "PUT", f"/runs/{run['id']}", {"command": "echo lr=0.1 seed=2", "name": "n"}).raise_for_status()


def test_a_rerun_is_held_to_the_plan_too(service: InProcess) -> None:
    plan = saved(service)
    run = ask(service, "POST", "/runs", run_of(plan)).json()
    assert "command" in diff_of(ask(service, "POST", f"/runs/{run['id']}/rerun", {"command": "id"}))
    assert "resources.cpus" in diff_of(ask(service, "POST", f"/runs/{run['id']}/rerun", {"resources": {"cpus": 3}}))
    assert ask(service, "POST", f"/runs/{run['id']}/rerun").json()["plan_id"] == plan["id"]


def test_a_run_without_a_plan_cannot_be_started_or_run_again(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "id"})
    for action in ("start", "queue", "rerun"):
        assert ask(service, "POST", f"/runs/{run['id']}/{action}").status_code == 403
    assert ask(service, "PUT", f"/runs/{run['id']}", {"command": "whoami"}).status_code == 403


def test_a_run_of_a_plan_that_says_otherwise_cannot_be_started(service: InProcess) -> None:
    plan = saved(service)
    run = service.post("/runs", run_of(plan, "id"))
    assert "command" in diff_of(ask(service, "POST", f"/runs/{run['id']}/start"))
    service.post(f"/runs/{run['id']}/start")


def test_a_sweep_is_held_to_the_plan_run_by_run(service: InProcess) -> None:
    plan = saved(service, bindable("true --lr={lr} --seed={seed}"))
    sweep = {"name": "s", "base_command": "true", "plan_id": plan["id"]}
    outside = ask(service, "POST", "/sweeps", sweep | {"parameters": {"lr": [0.1, 0.2], "seed": [1]}})
    assert diff_of(outside) == {"parameters.lr": ([0.1, 0.01], 0.2)}
    assert service.get("/sweeps", plan_id=plan["id"]) == []
    whole = ask(service, "POST", "/sweeps", sweep | {"parameters": {"lr": [0.1, 0.01], "seed": [1, 2]}})
    assert whole.json()["progress"]["total"] == 4


def test_a_draft_sweep_is_held_to_it_when_it_becomes_one(service: InProcess) -> None:
    plan = saved(service)
    draft = {"name": "s", "base_command": "id", "plan_id": plan["id"], "parameters": {"lr": [0.1]}, "status": "draft"}
    sweep = ask(service, "POST", "/sweeps", draft).json()
    assert "command" in diff_of(ask(service, "PUT", f"/sweeps/{sweep['id']}", {"status": "running"}))


def test_starting_a_sweep_starts_only_what_is_within_the_plan(service: InProcess) -> None:
    plan = saved(service)
    sweep = service.post("/sweeps/wild", {"name": "s", "plan_id": plan["id"]})
    service.post("/runs", {"name": "x", "command": "id", "sweep_id": sweep["id"]})
    assert "command" in diff_of(ask(service, "POST", f"/sweeps/{sweep['id']}/start"))


def test_a_previewed_run_is_refused_as_the_real_one_would_be(service: InProcess) -> None:
    plan = saved(service)
    assert "command" in diff_of(ask(service, "POST", "/runs", run_of(plan, "id", dry_run=True)))
    shown = ask(service, "POST", "/runs", run_of(plan, dry_run=True)).json()
    assert shown["sweep_params"] == {"lr": 0.1, "seed": 1}


# -- approval and amendments -------------------------------------------------------------------------------------------


def test_an_edit_after_approval_takes_the_approval_away(service: InProcess) -> None:
    plan = saved(service)
    assert plan["approved_hash"]
    assert plan["bounds"]["commands"] == ["echo lr={lr} seed={seed}"]
    edited = ask(service, "PATCH", f"/plans/{plan['id']}", {"raw_markdown": bindable("id")}).json()
    assert (edited["status"], edited["approved_hash"], edited["bounds"]) == ("draft", None, None)
    assert ask(service, "POST", "/runs", run_of(plan, "id")).status_code == 403


def test_what_was_looked_at_is_what_is_approved(service: InProcess) -> None:
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": bindable()}).json()
    approve = f"/plans/{plan['id']}/approve"
    seen = service.post(approve, {"dry_run": True})["approved_hash"]
    ask(service, "PATCH", f"/plans/{plan['id']}", {"raw_markdown": bindable("id")}).raise_for_status()
    status, detail = service.refused("POST", approve, {"approved_hash": seen})
    assert status == 409
    assert "has changed since it was looked at" in detail
    now = service.post(approve, {"dry_run": True})["approved_hash"]
    approved = service.post(approve, {"approved_hash": now})
    assert (approved["status"], approved["approved_hash"]) == ("approved", now)


def test_what_the_plan_would_allow_is_approved_as_it_was_shown(service: InProcess, tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    for file in ("bin/activate", "pyvenv.cfg"):
        (venv / file).touch()
    markdown = bindable(more=f'workdir = "{tmp_path}"\nenvironment = "auto"')
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": markdown}).json()
    approve = f"/plans/{plan['id']}/approve"
    shown = service.post(approve, {"dry_run": True})
    assert shown["bounds"]["terms"]["environment"]["venv"] == str(venv)
    assert service.post(approve, {"dry_run": True})["approved_hash"] == shown["approved_hash"]
    venv.rename(tmp_path / "venv")
    assert service.refused("POST", approve, {"approved_hash": shown["approved_hash"]})[0] == 409
    assert service.get(f"/plans/{plan['id']}")["status"] == "draft"


def test_of_two_approvals_at_once_one_is_made(service: InProcess) -> None:
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": bindable()}).json()
    answers: list[int] = []

    def approve() -> None:
        answers.append(service.http.post(f"/plans/{plan['id']}/approve").status_code)

    threads = [threading.Thread(target=approve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [400] * 7


@pytest.mark.parametrize(
    ("more", "line", "words"),
    [
        ("[resources]\ncpus = 4000", "cpus = 4000", "resources.cpus: This machine gives"),
        ('executor = "slurm"', 'executor = "slurm"', "executor: There is no Slurm on this machine"),
        ('workdir = "here"', 'workdir = "here"', "workdir: 'here' is not absolute"),
        ('workdir = "/not/there"', 'workdir = "/not/there"', "workdir: /not/there is not a directory"),
        ('environment = "auto"', 'environment = "auto"', "environment: No environment was found"),
        ('profile = "none"', 'profile = "none"', "profile: "),
    ],
)
def test_a_plan_that_cannot_run_here_is_told_at_once_and_never_approved(
    service: InProcess, more: str, line: str, words: str
) -> None:
    markdown = bindable(more=more)
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": markdown}).json()
    checked = service.post("/plans/check", {"raw_markdown": markdown})
    edited = service.http.patch(f"/plans/{plan['id']}", json={"raw_markdown": markdown}).json()
    would = service.post(f"/plans/{plan['id']}/approve", {"dry_run": True})
    for told in (plan, checked, edited, would):
        [problem] = told["problems"]
        assert f"This cannot run here: {words}" in problem["message"]
        assert markdown.splitlines()[problem["line"] - 1] == line
    assert would["bounds"] is None is would["approved_hash"]
    for body in ({}, {"force": True}):
        status, detail = service.refused("POST", f"/plans/{plan['id']}/approve", body)
        assert (status, "cannot run here" in detail) == (409, True)
    assert service.refused("POST", f"/plans/{plan['id']}/execute", {"dry_run": True})[0] == 422


def test_a_virtualenv_that_is_not_there_is_told_and_can_be_approved_all_the_same(
    service: InProcess, tmp_path: Path
) -> None:
    markdown = bindable(more=f'environment = {{venv = "{tmp_path}/env"}}')
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": markdown}).json()
    [problem] = plan["problems"]
    assert f"There is no virtualenv at {tmp_path}/env now" in problem["message"]
    assert markdown.splitlines()[problem["line"] - 1].startswith("environment")
    assert service.refused("POST", f"/plans/{plan['id']}/approve")[0] == 409
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/activate").touch()
    assert service.post(f"/plans/{plan['id']}/approve")["status"] == "approved"


def test_what_cannot_run_here_is_told_at_any_edit(service: InProcess) -> None:
    markdown = bindable(more='workdir = "/not/there"')
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": markdown}).json()
    edited = service.http.patch(f"/plans/{plan['id']}", json={"title": "z"}).json()
    assert edited["problems"] == plan["problems"] != []


def test_a_budget_given_with_the_approval_mends_the_plans_own(service: InProcess) -> None:
    body = {"title": "x", "goal": "y", "raw_markdown": bindable(budget="runs = 3")}
    plan = ask(service, "POST", "/plans", body).json()
    assert "The budget is 3 run(s)" in plan["problems"][0]["message"]
    assert service.refused("POST", f"/plans/{plan['id']}/approve", {"budget": {"runs": 3}})[0] == 409
    assert service.post(f"/plans/{plan['id']}/approve", {"budget": {"runs": 4}})["status"] == "approved"


def test_what_was_refused_is_allowed_in_one_step(service: InProcess) -> None:
    plan = saved(service, bindable(more="[resources]\ncpus = 1"))
    outside = run_of(plan, "echo lr=0.3 seed=1", resources={"cpus": 2})
    refused = ask(service, "POST", "/runs", outside).json()
    assert refused["amendment"] == {"parameters": {"lr": [0.3]}, "terms": {"resources.cpus": 2}}
    assert f"orc plan amend {plan['id']} --refusal {refused['refusal']}." in refused["detail"]
    kept = service.get(f"/plans/{plan['id']}/amendments")
    [wanted] = kept["refusals"]
    assert (kept["amendments"], wanted["amendment"]) == ([], refused["amendment"])
    assert (wanted["by"], wanted["diff"], wanted["id"]) == ("token:agent", refused["diff"], refused["refusal"])
    assert ask(service, "POST", f"/plans/{plan['id']}/amendments", refused["amendment"]).status_code == 403
    amended = service.post(f"/plans/{plan['id']}/amendments", refused["amendment"] | {"reason": "worth a try"})
    assert amended["approved_hash"] != plan["approved_hash"]
    assert amended["amendments"][0]["reason"] == "worth a try"
    assert amended["amendments"][0]["by"] == "token:admin"
    ask(service, "POST", "/runs", outside).raise_for_status()
    assert service.get(f"/plans/{plan['id']}/amendments")["refusals"] == []


def test_what_was_refused_waits_until_it_is_allowed_whatever_else_is(service: InProcess) -> None:
    plan = saved(service, budget={"runs": 1})
    path = f"/plans/{plan['id']}/amendments"
    first = ask(service, "POST", "/runs", run_of(plan, "echo lr=0.3 seed=1")).json()["refusal"]
    ask(service, "POST", "/runs/bulk", {"runs": [run_of(plan), run_of(plan), run_of(plan, "id")]})
    assert ask(service, "POST", "/runs", run_of(plan, "echo lr=0.3 seed=1")).json()["refusal"] == first
    assert [item["amendment"] for item in service.get(path)["refusals"]] == [
        {"exact_commands": ["id"], "budget": {"runs": 3}},
        {"parameters": {"lr": [0.3]}},
    ]
    service.post(path, {"parameters": {"lr": [0.3, 0.5]}, "budget": {"runs": 9}})
    [left] = service.get(path)["refusals"]
    assert left["amendment"] == {"exact_commands": ["id"]}  # to allow it does not lower the budget again
    service.http.patch(f"/plans/{plan['id']}", json={"title": "another"}).raise_for_status()
    assert service.get(path)["refusals"] == []


def test_an_amendment_is_shown_before_it_is_made(service: InProcess) -> None:
    plan = saved(service, bindable(more="[resources]\ncpus = 1", budget="runs = 9"))
    body = {"budget": {"runs": 5}, "terms": {"resources.cpus": 2}, "parameters": {"lr": [0.1, 0.3]}}
    path = f"/plans/{plan['id']}/amendments"
    would = service.post(path, {**body, "dry_run": True})
    assert would["changes"] == [
        {"field": "budget.runs", "plan": 9, "asked": 5},
        {"field": "parameters.lr", "plan": [0.1, 0.01], "asked": 0.3},
        {"field": "resources.cpus", "plan": 1, "asked": 2},
    ]
    assert service.get(f"/plans/{plan['id']}")["bounds"] == plan["bounds"]
    assert service.post(path, body)["bounds"] == would["bounds"]
    assert "nothing would change" in service.refused("POST", path, body)[1]


def test_each_refusal_says_what_would_allow_it(service: InProcess) -> None:
    plan = saved(service, bindable("echo lr={lr}"))
    for asked in (
        run_of(plan, "id"),
        run_of(plan, "echo lr=0.1", sweep_params={"seed": 9}),
        run_of(plan, "echo lr=0.1", sweep_params={"seed": 1, "dropout": 0.5}),
        run_of(plan, "echo lr=0.1", sweep_params={"seed": 1}, env={"A": "b"}, workdir="/", retry={"max": 2}),
    ):
        refused = ask(service, "POST", "/runs", asked)
        assert refused.status_code == 403
        service.post(f"/plans/{plan['id']}/amendments", refused.json()["amendment"])
        answer = ask(service, "POST", "/runs", asked)
        assert answer.status_code == 200, answer.text
    kept = run_of(plan, "echo lr=0.1", sweep_params={"seed": 2}, env={"A": "b"}, workdir="/", retry={"max": 2})
    assert diff_of(ask(service, "POST", "/runs", kept)) == {"budget.runs": (4, 5)}


def test_a_draft_cannot_be_amended(service: InProcess) -> None:
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": bindable()}).json()
    assert service.refused("POST", f"/plans/{plan['id']}/amendments", {"budget": {"runs": 5}})[0] == 409


@pytest.mark.parametrize("terms", [{"nonsense": 1}, {"resources.gpus": "many"}, {"resources.nonsense": 1}])
def test_a_term_that_cannot_be_is_no_amendment(service: InProcess, terms: Json) -> None:
    plan = saved(service)
    assert service.refused("POST", f"/plans/{plan['id']}/amendments", {"terms": terms})[0] == 422


@pytest.mark.parametrize(("name", "right"), [("prioriti", "priority"), ("resources", "resources.NAME")])
def test_a_term_that_there_is_not_is_refused_with_the_one_that_was_meant(
    service: InProcess, name: str, right: str
) -> None:
    plan = saved(service)
    _, [told] = service.refused("POST", f"/plans/{plan['id']}/amendments", {"terms": {name: 1}})
    assert told["msg"] == f"There is no such term of a run: did you mean {right}?"


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_a_persons_budget_goes_before_the_plans(service: InProcess) -> None:
    plan = saved(service, bindable(budget="runs = 9\ngpu_hours = 3"), budget={"runs": 2, "wall_time": "1:00:00"})
    assert plan["bounds"]["budget"] == {"gpu_hours": 3, "runs": 2, "wall_seconds": 3600}


def test_a_budget_of_gpu_hours_needs_time_limits_where_gpus_are_held(service: InProcess) -> None:
    plan = saved(service, bindable(budget="gpu_hours = 1"))
    ask(service, "POST", "/runs", run_of(plan)).raise_for_status()  # it holds none


def test_the_budget_binds_who_needs_no_plan_too(service: InProcess) -> None:
    plan = saved(service, budget={"runs": 1})
    service.post("/runs", run_of(plan))
    assert diff_of(service.http.post("/runs", json=run_of(plan))) == {"budget.runs": (1, 2)}


def test_fifty_at_once_do_not_exceed_it(service: InProcess) -> None:
    plan = saved(service, budget={"runs": 20})
    answers: list[int] = []

    def submit() -> None:
        answers.append(ask(service, "POST", "/runs", run_of(plan)).status_code)

    threads = [threading.Thread(target=submit) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 20 + [403] * 30
    assert service.get(f"/plans/{plan['id']}")["budget"]["used_runs"] == 20


# -- execution ---------------------------------------------------------------------------------------------------------


def test_executing_a_plan_makes_its_sweep(service: InProcess) -> None:
    plan = saved(service, bindable("echo lr={lr} $ORC_PARAM_SEED ${HOME:+x} {other}", more="parallel = 2"))
    done = ask(service, "POST", f"/plans/{plan['id']}/execute").json()
    assert done["status"] == "executing"
    sweep = service.get(f"/sweeps/{done['sweep_id']}")
    assert (sweep["progress"]["total"], sweep["parallel"], sweep["plan_id"]) == (4, 2, plan["id"])
    found = service.get("/runs", sweep_id=sweep["id"])
    commands = {run["command"] for run in found}
    assert commands == {f"echo lr={lr} $ORC_PARAM_SEED ${{HOME:+x}} {{other}}" for lr in (0.1, 0.01)}
    logs = {service.over(run["id"]) and service.log(run["id"]).strip() for run in found}
    assert logs == {f"lr={lr} {seed} x {{other}}" for lr in (0.1, 0.01) for seed in (1, 2)}


def test_values_are_quoted_for_the_shell(service: InProcess) -> None:
    plan = saved(service, bindable("echo {text}", values="| text | `a b`, `$(id)`, `it's` | |", runs=3))
    done = ask(service, "POST", f"/plans/{plan['id']}/execute").json()
    found = service.get("/runs", sweep_id=done["sweep_id"])
    logs = {service.over(run["id"]) and service.log(run["id"]).strip() for run in found}
    assert logs == {"a b", "$(id)", "it's"}


def test_quotes_around_a_value_that_has_its_own_are_a_problem(service: InProcess) -> None:
    markdown = bindable('echo "{text}"', values="| text | `$(id)` | |", runs=1)
    plan = ask(service, "POST", "/plans", {"title": "x", "goal": "y", "raw_markdown": markdown}).json()
    assert "quotes of their own" in plan["problems"][0]["message"]
    service.post(f"/plans/{plan['id']}/approve", {"force": True})
    assert service.refused("POST", f"/plans/{plan['id']}/execute")[0] == 422


def test_a_plan_without_a_command_is_only_marked(service: InProcess) -> None:
    plan = saved(service, GOOD.replace("local_gpu", "cpu_only").replace("GPU count: 4", "GPU count: 0"))
    done = ask(service, "POST", f"/plans/{plan['id']}/execute").json()
    assert (done["status"], done["sweep_id"]) == ("executing", None)


def test_a_person_may_name_the_command(service: InProcess) -> None:
    plan = saved(service, GOOD.replace("local_gpu", "cpu_only").replace("GPU count: 4", "GPU count: 0"))
    body = {"command": "echo {lr} {seed}", "auto_start": False, "resources": {"cpus": 1}}
    shown = service.post(f"/plans/{plan['id']}/execute", body | {"dry_run": True})
    assert (shown["runs"], shown["commands"][0]) == (6, "echo 0.001 1")
    assert service.get(f"/plans/{plan['id']}")["status"] == "approved"
    done = service.post(f"/plans/{plan['id']}/execute", body)
    assert len(service.get("/runs", sweep_id=done["sweep_id"])) == 6


def test_a_repeat_under_the_same_key_executes_once(service: InProcess) -> None:
    plan = saved(service)
    headers = {**AGENT, "Idempotency-Key": plan["id"]}
    first, again = (service.http.post(f"/plans/{plan['id']}/execute", json={}, headers=headers) for _ in range(2))
    assert first.json() == again.json()
    assert len(service.get("/runs", plan_id=plan["id"])) == 4


def test_a_plan_is_completed_when_its_sweep_ends(service: InProcess) -> None:
    plan = saved(service)
    ask(service, "POST", f"/plans/{plan['id']}/execute").raise_for_status()
    wait_until(lambda: service.get(f"/plans/{plan['id']}")["status"] == "completed", "the plan completed")


def test_a_marked_plan_is_completed_when_its_grid_is_done(service: InProcess) -> None:
    plan = saved(service, GOOD.replace("local_gpu", "cpu_only").replace("GPU count: 4", "GPU count: 0"))
    service.post(f"/plans/{plan['id']}/execute")
    for lr in (0.001, 0.01):
        for seed in (1, 2, 3):
            body = {"name": "x", "command": "true", "plan_id": plan["id"], "auto_start": True}
            service.post("/runs", body | {"sweep_params": {"lr": lr, "seed": seed}})
    wait_until(lambda: service.get(f"/plans/{plan['id']}")["status"] == "completed", "the plan completed")
