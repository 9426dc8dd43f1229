"""Advice over HTTP, from what this machine and its runs are."""

import tomllib
import venv
from pathlib import Path

from tests.support.plans import bindable
from tests.support.service import InProcess


def test_a_machine_without_gpus(service: InProcess) -> None:
    found = service.get("/advice", goal="a good rate")
    assert found["cluster"]["type"] == "cpu_only"
    assert found["gpuwrap"]["config"] is None
    assert found["pinning"]["by"] is None
    assert found["parallel"]["at_once"] == 4
    assert found["slurm"] is None


def test_its_sections_fit_a_plan(service: InProcess) -> None:
    found = service.get("/advice")
    setup = bindable().split("### Compute Setup\n")[1].split("\n\n###")[0]
    plan = bindable().replace(setup, found["compute_setup"])
    assert service.post("/plans/check", {"raw_markdown": plan})["problems"] == []


def test_its_block_is_one_that_can_run_here(service: InProcess, tmp_path: Path) -> None:
    workdir = tmp_path / 'a "b"'
    venv.create(workdir / ".venv", with_pip=False)
    service.over(service.run("sleep 0.2", workdir=str(workdir))["id"])
    block = service.get("/advice", workdir=str(workdir))["run_block"]
    read = tomllib.loads(block)
    assert (read["workdir"], read["environment"]) == (str(workdir), {"venv": str(workdir / ".venv")})
    assert read["resources"]["time"] == "00:05:00"
    plan = bindable(more=block)
    assert service.post("/plans/check", {"raw_markdown": plan})["problems"] == []


def test_what_like_runs_used_is_asked_for(service: InProcess, tmp_path: Path) -> None:
    for _ in range(2):
        service.over(service.run("sleep 0.2", workdir=str(tmp_path))["id"])
    found = service.get("/advice", workdir=str(tmp_path))
    assert found["like_runs"]["count"] == 2
    assert found["like_runs"]["elapsed"] >= 0.2
    assert found["resources"]["time"] == "00:05:00"
    assert service.get("/advice")["like_runs"]["count"] == 0


def test_the_environment_of_the_workdir_is_found(service: InProcess, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n")
    found = service.get("/advice", workdir=str(tmp_path))
    assert any("requirements.txt" in str(item) for item in found["environment"]["evidence"])


def test_plans_for_much_the_same_are_named(service: InProcess) -> None:
    body = {"title": "Learning rate of the small model", "goal": "Find the learning rate", "raw_markdown": ""}
    plan = service.post("/plans", body)
    found = service.get("/advice", goal="find a learning rate for the small model")
    assert [item["id"] for item in found["related_plans"]] == [plan["id"]]
    assert service.get("/advice", goal="tokenizer throughput")["related_plans"] == []


def test_a_workdir_that_is_none_is_said_so(service: InProcess) -> None:
    assert service.refused("GET", "/advice?workdir=/nowhere/at/all")[0] == 422


def test_a_plan_that_repeats_another_is_pointed_out(service: InProcess) -> None:
    first = service.post("/plans", {"title": "A", "goal": "x", "raw_markdown": bindable()})
    assert first["overlap"] == {"plans": [], "runs": {"finished": 0, "ids": []}}
    service.post(f"/plans/{first['id']}/approve")
    done = service.post(f"/plans/{first['id']}/execute")
    for run in service.get("/runs", sweep_id=done["sweep_id"]):
        service.over(run["id"])
    service.until_plan(first["id"], "completed")  # the overlap tells how far it is
    values = "| lr | 0.1, 0.5 | |\n| seed | 1, 2, 3 | |"
    again = service.post("/plans", {"title": "B", "goal": "y", "raw_markdown": bindable(values=values, runs=6)})
    assert [item["id"] for item in again["overlap"]["plans"]] == [first["id"]]
    assert "2 of its 6 configuration(s)" in again["overlap"]["plans"][0]["words"]
    assert again["overlap"]["runs"]["finished"] == 2
    assert service.get(f"/plans/{again['id']}/overlap") == again["overlap"]
    other = service.post("/plans/check", {"raw_markdown": bindable("other {lr} {seed}")})
    assert other["overlap"]["plans"] == []
