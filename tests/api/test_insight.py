"""Why, usage, scripts, code, environments, profiles, holds and requeues, on this machine as on Slurm."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session

from orchestrator import runs
from tests.support.repositories import commit, git, made
from tests.support.service import InProcess
from tests.support.waiting import wait_until


def explained(service: InProcess, run_id: str) -> dict[str, Any]:
    return dict(service.get(f"/runs/{run_id}/why"))


def test_a_failure_is_explained_with_its_log_quoted(service: InProcess) -> None:
    run = service.over(service.run("echo before; echo 'ModuleNotFoundError: torch' >&2; exit 3")["id"])
    said = explained(service, run["id"])
    assert (said["status"], said["category"]) == ("failed", "environment")
    assert {"source": "log", "quote": "ModuleNotFoundError: torch"} in said["evidence"]


def test_a_time_limit_is_explained_with_a_body_that_rerun_takes(service: InProcess) -> None:
    run = service.over(service.run("sleep 60", resources={"time": 0.01})["id"])
    said = explained(service, run["id"])
    assert (said["category"], said["rerun"]["resources"]["time"]) == ("time", 1)
    again = service.post(f"/runs/{run['id']}/rerun", said["rerun"] | {"auto_start": False})
    assert again["resources"]["time"] == 1


def test_a_held_run_waits_and_says_so_until_it_is_released(service: InProcess) -> None:
    run = service.post("/runs", {"name": "held", "command": "true"})
    assert service.post(f"/runs/{run['id']}/hold")["held"]
    service.post(f"/runs/{run['id']}/start")
    wait_until(lambda: service.get(f"/runs/{run['id']}")["reason"] == "HELD", "the reason")
    assert explained(service, run["id"])["category"] == "hold"
    service.post(f"/runs/{run['id']}/release")
    assert service.over(run["id"])["status"] == "finished"
    assert explained(service, run["id"])["category"] == "finished"


def test_a_running_run_is_requeued_as_its_next_attempt(service: InProcess) -> None:
    run = service.run('[ "$ORC_ATTEMPT" != 1 ] || sleep 60; echo $ORC_ATTEMPT')
    service.until(run["id"], "running")
    service.post(f"/runs/{run['id']}/requeue")
    over = service.over(run["id"])
    assert (over["status"], over["attempt"], len(over["history"])) == ("finished", 2, 2)
    assert service.log(run["id"]) == "2\n"


def test_a_running_run_that_hardly_uses_its_cpu_is_called_slow_once_it_has_had_time(service: InProcess) -> None:
    run = service.until(service.run("sleep 60")["id"], "running")
    assert explained(service, run["id"])["category"] == "running"

    def began_long_ago(session: Session) -> None:
        found = runs.get(session, run["id"])
        found.started_at = time.time() - 301.0
        session.add(found)

    service.system.db.write(began_long_ago)
    said = explained(service, run["id"])
    assert said["category"] == "slow"
    assert 0.0 <= said["evidence"][-1]["cpu_seconds"] < 30.1


def test_a_sweep_is_held_prioritised_and_released_as_a_whole(service: InProcess) -> None:
    sweep = service.post("/sweeps", {"name": "s", "base_command": "true", "parameters": {"a": [1, 2]}})
    for action, body in (("hold", None), ("priority", {"priority": 7}), ("release", None)):
        assert service.post(f"/sweeps/{sweep['id']}/{action}", body)["changed"] == 2
    assert {run["priority"] for run in service.get("/runs", sweep_id=sweep["id"])} == {7}
    assert service.post(f"/sweeps/{sweep['id']}/requeue")["changed"] == 0


def test_a_failure_is_tried_again_as_its_policy_says(service: InProcess) -> None:
    run = service.run('[ "$ORC_ATTEMPT" = 3 ] || exit 9', retry={"max": 5, "exit_codes": [9]})
    over = service.over(run["id"])
    assert (over["status"], over["attempt"], over["retries"]) == ("finished", 3, 2)
    assert [line["exit_code"] for line in over["history"]] == [9, 9, 0]


def test_what_runs_have_used_is_summed_up(service: InProcess) -> None:
    sweep = service.post("/sweeps", {"name": "s", "base_command": "sleep 0.2; :", "parameters": {"a": [1, 2]}})
    service.post(f"/sweeps/{sweep['id']}/start")
    over = [service.over(run_id) for run_id in sweep["run_ids"]]
    found = service.get("/usage", by="sweep")
    (row,) = [row for row in found["rows"] if row["key"] == sweep["id"]]
    assert row["runs"] == 2
    assert row["elapsed_hours"] == pytest.approx(sum(run["elapsed_seconds"] for run in over) / 3600)
    assert {"day", "token", "executor", "status", "plan"} <= {
        by for by in ("day", "token", "executor", "status", "plan") if service.get("/usage", by=by)["by"] == by
    }


def test_the_commit_and_the_diff_of_the_workdir_are_kept(service: InProcess, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=work, check=True)
    (work / "train.py").write_text("print(2)\n")
    run = service.run("true", workdir=str(work))
    service.over(run["id"])
    found = service.get(f"/runs/{run['id']}/code")
    assert found["git"]["dirty"] is True
    assert "+print(2)" in found["diff"]


def test_a_snapshot_is_what_runs_whatever_happens_to_the_workdir(service: InProcess, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "say.sh").write_text("echo before\n")
    run = service.post("/runs", {"name": "s", "command": "bash say.sh", "workdir": str(work), "snapshot": True})
    (work / "say.sh").write_text("echo after\n")
    service.post(f"/runs/{run['id']}/start")
    service.over(run["id"])
    assert service.log(run["id"]) == "before\n"


def snapshot_then(service: InProcess, work: Path, *later: str) -> dict[str, Any]:
    """What is told of the code of a run whose workdir becomes another after its snapshot."""
    (work / "train.py").write_text("print('snapshot')\n")
    run = service.post("/runs", {"name": "s", "command": "true", "workdir": str(work), "snapshot": True})
    (work / "train.py").write_text("print('later')\n")
    git(work, *later)
    commit(work)
    service.post(f"/runs/{run['id']}/start")
    service.over(run["id"])
    return dict(service.get(f"/runs/{run['id']}/code"))


def test_git_tells_of_the_code_of_the_snapshot_whatever_happens_to_the_workdir(
    service: InProcess, tmp_path: Path
) -> None:
    work = made(tmp_path / "work")
    first = git(work, "rev-parse", "HEAD")
    found = snapshot_then(service, work, "checkout", "-q", "-b", "other")
    assert (found["git"]["commit"], found["git"]["branch"], found["git"]["dirty"]) == (first, "main", True)
    assert "+print('snapshot')" in found["diff"]


def test_a_snapshot_of_no_repository_has_no_commit_even_if_its_workdir_becomes_one(
    service: InProcess, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    found = snapshot_then(service, work, "init", "-q", "--template=")
    assert (found["git"], found["diff"]) == (None, "")


def test_each_snapshot_has_gits_word_of_its_own_edit(service: InProcess, tmp_path: Path) -> None:
    work = made(tmp_path / "work")
    for text in ("one more", "two more"):
        (work / "train.py").write_text(f"print('{text}')\n")
        run = service.post("/runs", {"name": "s", "command": "true", "workdir": str(work), "snapshot": True})
        assert f"+print('{text}')" in service.get(f"/runs/{run['id']}/code")["diff"]


def test_an_environment_is_shown_and_applied_only_when_asked(service: InProcess, tmp_path: Path) -> None:
    work = tmp_path / "work"
    subprocess.run(["python3", "-m", "venv", "--without-pip", str(work / ".venv")], check=True)
    (work / "requirements.txt").write_text("x\n")
    assert service.post("/environment/detect", {"workdir": str(work)})["environment"]["venv"].endswith(".venv")
    command = "echo ${VIRTUAL_ENV:-none}"
    plain, asked = (service.run(command, workdir=str(work), **more) for more in ({}, {"environment": "auto"}))
    assert [service.over(run["id"])["status"] for run in (plain, asked)] == ["finished", "finished"]
    assert (service.log(plain["id"]), service.log(asked["id"])) == ("none\n", f"{work / '.venv'}\n")
    status, detail = service.refused(
        "POST", "/runs", {"name": "x", "command": "true", "workdir": str(tmp_path), "environment": "auto"}
    )
    assert status == 422
    assert "No environment was found" in str(detail)


def test_an_environment_that_cannot_be_set_up_is_a_bad_environment(service: InProcess, tmp_path: Path) -> None:
    run = service.over(service.run("echo ran", workdir=str(tmp_path), environment={"venv": ".venv"})["id"])
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "BAD_ENVIRONMENT", 78)
    assert f"no virtualenv at {tmp_path}/.venv" in run["error"]
    said = explained(service, run["id"])
    assert (said["category"], said["summary"]) == ("environment", run["error"])


@pytest.mark.parametrize("setup", ["true", "exit 78"])
def test_an_exit_code_that_is_no_refusals_is_the_commands_own(service: InProcess, tmp_path: Path, setup: str) -> None:
    (tmp_path / "setup.sh").write_text(f"{setup}\n")
    run = service.run("exit 78", workdir=str(tmp_path), environment={"setup": "setup.sh"})
    over = service.over(run["id"])
    assert (over["status"], over["reason"], over["exit_code"]) == ("failed", "NONZERO_EXIT", 78)


def test_a_bad_environment_is_tried_again_where_the_policy_says_so(service: InProcess, tmp_path: Path) -> None:
    for policy in ({"on": ["BAD_ENVIRONMENT"]}, {"exit_codes": [78]}):
        run = service.run("true", workdir=str(tmp_path), environment={"setup": "x.sh"}, retry={"max": 1, **policy})
        over = service.over(run["id"])
        assert (over["reason"], over["attempt"]) == ("BAD_ENVIRONMENT", 2)


def test_profiles_are_listed_and_applied(service: InProcess) -> None:
    folder = service.settings.home / "profiles"
    folder.mkdir()
    (folder / "two.toml").write_text('description = "two"\n[resources]\ncpus = 2\n[env]\nX = "1"\n')
    assert [item["name"] for item in service.get("/profiles")] == ["two"]
    run = service.run("echo $X", profile="two")
    assert service.over(run["id"])["resources"] == {"cpus": 2}
    assert service.log(run["id"]) == "1\n"


def test_counters_are_in_prometheus_text(service: InProcess) -> None:
    service.over(service.run("true")["id"])
    text = service.http.get("/metrics").text
    assert 'orc_runs{status="finished"} 1' in text
    assert "# TYPE orc_passes_total counter" in text


def test_the_script_of_a_run_here_is_what_bash_runs(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    assert "command.sh" in service.get(f"/runs/{run['id']}/script")["script"]


def test_what_a_script_sources_is_shown_where_there_is_any(service: InProcess, tmp_path: Path) -> None:
    (tmp_path / "env.sh").write_text("true\n")
    asked = {"environment": {"setup": "env.sh"}, "container": {"image": "x.sif"}, "workdir": str(tmp_path)}
    run = service.post("/runs", {"name": "x", "command": "true", **asked})
    found = service.get(f"/runs/{run['id']}/script")
    assert "exec apptainer exec" in found["launcher"]
    assert f". {tmp_path}/env.sh" in found["activation"]
    would = service.post("/runs", {"name": "x", "command": "true", "dry_run": True, **asked})
    assert [would[name] for name in ("script", "launcher", "activation")] == [
        found[name] for name in ("script", "launcher", "activation")
    ]
    assert would["environment"] == {"setup": "env.sh"}
    plain = service.post("/runs", {"name": "x", "command": "true"})
    assert set(service.get(f"/runs/{plain['id']}/script")) == {"run_id", "executor", "script"}


def test_what_a_script_sourced_is_shown_as_it_was(service: InProcess) -> None:
    asked = {"environment": {"modules": ["none/1"]}, "container": {"image": "x.sif"}}
    run = service.over(service.run("true", **asked)["id"])
    (Path(run["run_dir"]) / "launch.sh").write_text("# of an older template\n")
    (Path(run["run_dir"]) / "environment.sh").unlink()
    found = service.get(f"/runs/{run['id']}/script")
    assert found["launcher"] == "# of an older template\n"
    assert "activation" not in found
