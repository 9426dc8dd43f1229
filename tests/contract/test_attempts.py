"""Runs whose job begins again: requeues, preemption, failed nodes; and that no attempt executes twice."""

import json
from pathlib import Path

import pytest

from tests.contract.looking import (
    ended,
    executing,
    in_slurm,
    job_of,
    mark,
    marks,
    node_failed,
    sbatch,
    show,
    sweep,
    until_file,
)
from tests.support.service import RealServer
from tests.support.sites import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
NO_REQUEUE = {"slurm": {"no-requeue": True}}


def first_only(command: str) -> str:
    """A command of the first attempt alone."""
    return f"[ $ORC_ATTEMPT != 1 ] || {command}"


def test_the_clusters_requeue_exit_code_begins_the_next_attempt(orc: RealServer) -> None:
    run = orc.over(orc.run(f"echo this is $ORC_ATTEMPT; {first_only('exit 99')}")["id"], 60)
    assert (run["status"], run["attempt"], run["exit_code"]) == ("finished", 2, 0)
    assert [(past["attempt"], past["exit_code"]) for past in run["history"]] == [(1, 99), (2, 0)]
    logs = [(Path(run["run_dir"]) / f"attempts/{number}/output.log").read_text() for number in (1, 2)]
    assert logs == ["this is 1\n", "this is 2\n"]
    assert orc.log(run["id"]) == "this is 2\n"


def test_a_requeue_keeps_the_job_and_tells_wandb_to_resume(orc: RealServer) -> None:
    run = orc.over(orc.run(f"echo $SLURM_JOB_ID $WANDB_RESUME; {first_only('exit 99')}")["id"], 60)
    logs = [(Path(run["run_dir"]) / f"attempts/{number}/output.log").read_text() for number in (1, 2)]
    job_id = run["scheduler"]["job_id"]
    assert logs == [f"{job_id}\n", f"{job_id} allow\n"]


def test_a_running_job_that_an_admin_requeues_begins_its_next_attempt(
    orc: RealServer, slurm: Slurm, files: Path
) -> None:
    run = orc.run(f"{mark(files / 'marks')}; {first_only('sleep 600')}")
    run = executing(orc, run["id"], files / "marks")
    slurm.run("scontrol", "requeue", job_of(run))
    over = orc.over(run["id"], 60)
    assert (over["status"], over["attempt"]) == ("finished", 2)
    assert marks(files / "marks") == [f"{run['id']} 1", f"{run['id']} 2"]


def test_a_requeued_task_of_an_array_leaves_the_others_their_attempt(orc: RealServer, files: Path) -> None:
    _, run_ids = sweep(orc, f"{mark(files / 'marks')}; [ $ORC_ATTEMPT$0 != 1--i=1 ] || exit 99", 3)
    over = [orc.over(run_id, 60) for run_id in run_ids]
    assert [(run["status"], run["attempt"]) for run in over] == [("finished", 1), ("finished", 2), ("finished", 1)]
    assert len(marks(files / "marks")) == 4


def test_a_preempted_run_begins_again_after_the_other(orc: RealServer, files: Path) -> None:
    whole = {"nodelist": "n1", "exclusive": True}
    low = orc.run(f"{mark(files / 'marks')}; {first_only('sleep 600')}", resources={**whole, "partition": "low"})
    executing(orc, low["id"], files / "marks")
    high = orc.run(mark(files / "marks"), resources={**whole, "partition": "high"})
    assert orc.over(high["id"], 60)["status"] == "finished"
    over = orc.over(low["id"], 60)
    assert (over["status"], over["attempt"]) == ("finished", 2)
    assert marks(files / "marks") == [f"{low['id']} 1", f"{high['id']} 1", f"{low['id']} 2"]


def test_a_run_whose_node_fails_begins_again(orc: RealServer, slurm: Slurm, files: Path) -> None:
    asked = {"nodelist": "n2"}
    run = orc.run(f"{mark(files / 'marks')}; {first_only('sleep 600')}", resources=asked)
    executing(orc, run["id"], files / "marks")
    with node_failed(slurm, "n2"):
        orc.until(run["id"], "queued", seconds=60)
    over = orc.over(run["id"], 90)
    assert (over["status"], over["attempt"], len(over["history"])) == ("finished", 2, 2)
    assert marks(files / "marks") == [f"{run['id']} 1", f"{run['id']} 2"]


def test_a_run_that_must_not_be_requeued_fails_with_its_node(orc: RealServer, slurm: Slurm) -> None:
    run = orc.until(orc.run("sleep 600", resources={"nodelist": "n3", **NO_REQUEUE})["id"], "running")
    with node_failed(slurm, "n3"):
        over = orc.over(run["id"], 60)
    assert (over["status"], over["reason"], over["attempt"]) == ("failed", "NODE_FAIL", 1)


def test_a_run_that_asks_for_requeues_without_end_can_be_stopped(orc: RealServer) -> None:
    run = orc.run("exit 99", resources=NO_REQUEUE)  # RequeueExit wins over --no-requeue
    wait_until(lambda: orc.get(f"/runs/{run['id']}")["attempt"] >= 2, "its second attempt")
    orc.post(f"/runs/{run['id']}/stop")
    over = orc.over(run["id"])
    assert (over["status"], over["reason"]) == ("stopped", "CANCELLED")


def test_a_run_stopped_between_its_attempts_does_not_begin_again(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = executing(orc, orc.run(f"{mark(files / 'marks')}; sleep 600")["id"], files / "marks")
    slurm.run("scontrol", "requeuehold", job_of(run))
    orc.until(run["id"], "queued")
    orc.post(f"/runs/{run['id']}/stop")
    over = orc.over(run["id"])
    assert (over["status"], over["reason"]) == ("stopped", "CANCELLED")
    wait_until(lambda: ended(slurm, job_of(over)), "the job's end")
    assert marks(files / "marks") == [f"{run['id']} 1"]


def test_a_run_whose_requeued_job_is_held_waits_and_can_be_released(orc: RealServer, slurm: Slurm) -> None:
    run = orc.until(orc.run(first_only("sleep 600"))["id"], "running")
    slurm.run("scontrol", "requeuehold", job_of(run))
    orc.until(run["id"], "queued")
    in_slurm(orc, run["id"], "PENDING", "REQUEUE_HOLD")
    orc.post(f"/runs/{run['id']}/release")
    over = orc.over(run["id"], 60)
    assert (over["status"], over["attempt"]) == ("finished", 2)


def test_the_very_same_script_submitted_by_hand_executes_nothing_twice(
    orc: RealServer, slurm: Slurm, files: Path
) -> None:
    run = orc.until(orc.run(f"{mark(files / 'marks')}; {until_file(files / 'go')}")["id"], "running")
    name = show(slurm, job_of(run), "%j")
    script = orc.home / "runs" / ".submissions" / name / "job.sh"
    during = sbatch(slurm, str(script))
    wait_until(lambda: show(slurm, during) == "COMPLETED", "the double's end")
    assert orc.status(run["id"]) == "running"
    (files / "go").touch()
    over = orc.over(run["id"])
    assert over["status"] == "finished"
    after = sbatch(slurm, str(script))
    wait_until(lambda: ended(slurm, after), "the late double's end")
    assert orc.get(f"/runs/{run['id']}") == over
    assert marks(files / "marks") == [f"{run['id']} 1"]


def test_a_run_tells_of_the_job_that_claimed_it(orc: RealServer) -> None:
    run = orc.over(orc.run("true")["id"])
    attempt = Path(run["run_dir"]) / "attempts/1"
    claim = dict(line.partition("=")[::2] for line in (attempt / "claim").read_text().splitlines())
    assert claim["job_id"] == run["scheduler"]["job_id"]
    assert json.loads((attempt / "started.json").read_text())["attempt"] == 1
