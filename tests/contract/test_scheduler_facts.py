"""What a run tells of its job."""

import json
from pathlib import Path

import pytest

from tests.contract.looking import LATER, degraded, in_slurm, job_of, show, statuses, sweep, until_file
from tests.support.service import Json, RealServer
from tests.support.sites import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def test_a_running_run_tells_of_its_job(orc: RealServer, slurm: Slurm, files: Path) -> None:
    asked = {"cpus": 2, "gpus": 1, "nodelist": "n2", "partition": "high"}
    run = orc.run(until_file(files / "go"), resources=asked)
    orc.until(run["id"], "running")
    told = in_slurm(orc, run["id"], "RUNNING")["scheduler"]
    assert (told["partition"], told["nodes"], told["array_index"]) == ("high", "n2", None)
    assert show(slurm, told["job_id"], "%T|%P|%N") == "RUNNING|high|n2"
    assert ("gres/gpu=1" in told["tres"]) is slurm.accounting  # AccountingStorageTRES is slurmdbd's
    (files / "go").touch()
    assert orc.over(run["id"])["scheduler"]["nodes"] == "n2"


def test_an_array_task_tells_its_index(orc: RealServer) -> None:
    _, run_ids = sweep(orc, "echo $SLURM_ARRAY_TASK_ID", 3)
    over = [orc.over(run_id) for run_id in run_ids]
    assert [orc.log(run["id"]) for run in over] == [f"{run['scheduler']['array_index']}\n" for run in over]


def test_a_run_that_waits_in_slurm_is_queued_and_says_why(orc: RealServer) -> None:
    run = in_slurm(orc, orc.run("true", resources=LATER)["id"], "PENDING")
    assert (run["status"], run["reason"], run["started_at"]) == ("queued", "SLURM_WAIT", None)
    assert run["scheduler"]["reason"] == "BeginTime"
    assert orc.get(f"/runs/{run['id']}/why")["status"] == "queued"


def test_a_run_is_queued_launching_running_finished_in_that_order(orc: RealServer, files: Path) -> None:
    run = orc.until(orc.run(until_file(files / "go"))["id"], "running")
    (files / "go").touch()
    run = orc.over(run["id"])
    assert statuses(orc, run["id"]) == ["ready", "queued", "launching", "running", "finished"]
    assert run["queued_at"] <= run["launched_at"] <= run["started_at"] + 2 <= run["ended_at"] + 2


def executed(run: Json) -> float:
    """Seconds that its commands took, by job.py's records of its attempts."""
    records = [json.loads(path.read_text()) for path in Path(run["run_dir"]).glob("attempts/*/exit.json")]
    return float(sum(record["ended_at"] - record["started_at"] for record in records))


def test_a_runs_history_and_use_are_those_of_its_allocation(orc: RealServer) -> None:
    run = orc.over(orc.run("sleep 1.5", resources={"cpus": 2, "gpus": 2, "gpu_type": "a100"})["id"])
    assert 1.5 <= run["elapsed_seconds"] == pytest.approx(executed(run), abs=1.5)
    assert run["gpu_seconds"] == pytest.approx(2 * run["elapsed_seconds"])
    assert run["cpu_seconds_given"] == pytest.approx(2 * run["elapsed_seconds"])
    (past,) = run["history"]
    assert (past["attempt"], past["exit_code"], past["job_id"]) == (1, 0, run["scheduler"]["job_id"])
    assert past["ended_at"] - past["started_at"] == pytest.approx(run["elapsed_seconds"])


def test_the_use_of_all_attempts_counts(orc: RealServer) -> None:
    run = orc.over(orc.run("sleep 1; [ $ORC_ATTEMPT = 2 ] || exit 99", resources={"cpus": 1, "gpus": 1})["id"], 60)
    assert run["status"] == "finished"
    assert 2 <= run["elapsed_seconds"] == pytest.approx(executed(run), abs=3)
    assert run["gpu_seconds"] == pytest.approx(run["elapsed_seconds"])


def test_a_suspended_job_is_told_and_goes_on(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = orc.until(orc.run(until_file(files / "go"))["id"], "running")
    slurm.run("scontrol", "suspend", job_of(run))
    try:
        wait_until(lambda: orc.get(f"/runs/{run['id']}")["reason"] == "SUSPENDED", "the reason SUSPENDED")
        assert orc.status(run["id"]) == "running"
    finally:
        slurm.run("scontrol", "resume", job_of(run))
    wait_until(lambda: orc.get(f"/runs/{run['id']}")["reason"] is None, "no reason any more")
    (files / "go").touch()
    assert orc.over(run["id"])["status"] == "finished"


def test_a_run_on_two_nodes_has_both(orc: RealServer) -> None:
    asked = {"nodes": 2, "tasks_per_node": 1, "cpus": 1}
    run = orc.over(orc.run("echo $RANK of $WORLD_SIZE", resources=asked, launch="env")["id"])
    assert (run["status"], sorted(orc.log(run["id"]).splitlines())) == ("finished", ["0 of 2", "1 of 2"])
    assert len(run["scheduler"]["nodes"]) >= len("n[1-2]")


def test_advice_says_where_a_run_would_start_soonest_by_slurms_own_word(orc: RealServer, files: Path) -> None:
    wait_until(lambda: not degraded(orc), "Slurm answers", 60)
    found = orc.get("/advice", goal="a rate", workdir=str(files))
    assert found["cluster"]["type"] == "slurm"
    assert (found["gpuwrap"]["config"], found["pinning"]["by"]) == ({"enabled": False}, "--gres")
    best = found["slurm"]["soonest"]
    assert best["expected_start"] is not None
    assert best["partition"] in {asked["partition"] for asked in found["slurm"]["asked"]}
    run = orc.run("true", resources={"partition": best["partition"], "time": best["time"]})
    assert orc.over(run["id"], 60)["status"] == "finished"
