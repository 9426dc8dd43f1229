"""How runs are ended: by us, by hand in Slurm, wherever they are."""

from pathlib import Path

import pytest

from tests.contract.looking import (
    LATER,
    begun,
    controller_away,
    degraded,
    ended,
    in_slurm,
    job_of,
    mark,
    marks,
    said,
    show,
    sweep,
    until_file,
)
from tests.support.service import Json, RealServer
from tests.support.sites import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
STOPPED = ("stopped", "CANCELLED")


def stopped(orc: RealServer, run_id: str) -> Json:
    run = orc.over(run_id, 60)
    assert (run["status"], run["reason"]) == STOPPED, run
    return run


def pid_in(path: Path) -> int:
    return int(wait_until(lambda: path.read_text().strip() if path.exists() else "", f"a PID in {path}"))


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def test_stopping_a_run_that_waits_in_slurm_takes_its_job_away(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources=LATER)["id"], "PENDING")
    orc.post(f"/runs/{run['id']}/stop")
    over = stopped(orc, run["id"])
    assert over["started_at"] is None
    assert show(slurm, job_of(run)) in {"", "CANCELLED"}


def test_stopping_a_running_run_ends_its_processes(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = orc.run(f"echo $$ > {files}/pid; exec sleep 600")
    found = orc.until(run["id"], "running")
    pid = pid_in(files / "pid")
    orc.post(f"/runs/{run['id']}/stop")
    stopped(orc, run["id"])
    assert not lives(pid)
    assert show(slurm, job_of(found)) == "CANCELLED"


def test_stopping_one_task_of_an_array_leaves_the_others(orc: RealServer, files: Path) -> None:
    _, run_ids = sweep(orc, until_file(files / "go"), 3)
    jobs = {run["scheduler"]["job_id"] for run in begun(orc, run_ids)}
    assert len(jobs) == 1
    orc.post(f"/runs/{run_ids[1]}/stop")
    stopped(orc, run_ids[1])
    assert {orc.status(run_ids[0]), orc.status(run_ids[2])} == {"running"}
    (files / "go").touch()
    assert [orc.over(run_id)["status"] for run_id in run_ids] == ["finished", "stopped", "finished"]


def test_stopping_a_waiting_task_of_an_array_leaves_the_others(orc: RealServer, slurm: Slurm) -> None:
    _, run_ids = sweep(orc, "true", 3, resources=LATER)
    found = [in_slurm(orc, run_id, "PENDING") for run_id in run_ids]
    orc.post(f"/runs/{run_ids[0]}/stop")
    stopped(orc, run_ids[0])
    assert [show(slurm, job_of(run)) for run in found[1:]] == ["PENDING", "PENDING"]


def test_stopping_a_sweep_ends_what_runs_and_what_waits(orc: RealServer, slurm: Slurm, files: Path) -> None:
    sweep_id, run_ids = sweep(orc, f"{mark(files / 'marks')}; sleep 600", 4, parallel=2)
    wait_until(lambda: len(marks(files / "marks")) == 2, "two of them have said that they execute")
    orc.post(f"/sweeps/{sweep_id}/stop")
    over = [stopped(orc, run_id) for run_id in run_ids]
    assert orc.get(f"/sweeps/{sweep_id}")["status"] == "canceled"
    assert len(marks(files / "marks")) == 2
    assert all(ended(slurm, job_of(run)) for run in over if run["scheduler"])


def test_a_command_that_ignores_term_is_killed_after_the_grace(orc: RealServer, files: Path) -> None:
    run = orc.run(f"trap '' TERM; echo $$ > {files}/pid; while :; do sleep 0.1; done")
    pid = pid_in(files / "pid")
    orc.until(run["id"], "running")
    orc.post(f"/runs/{run['id']}/stop")
    stopped(orc, run["id"])
    assert not lives(pid)


def test_what_a_command_left_running_ends_with_it(orc: RealServer, files: Path) -> None:
    run = orc.over(
        orc.run(f"setsid bash -c 'echo $$ > {files}/pid; exec sleep 600' &\n{until_file(files / 'pid')}")["id"]
    )
    assert run["status"] == "finished"
    pid = pid_in(files / "pid")
    wait_until(lambda: not lives(pid), "the child's end")


def test_a_command_that_ends_well_when_told_to_stop_is_stopped_all_the_same(orc: RealServer, files: Path) -> None:
    run = orc.run(f"trap 'exit 0' TERM; touch {files}/there; while :; do sleep 0.1; done")
    wait_until((files / "there").exists, "the command's trap")
    orc.until(run["id"], "running")
    orc.post(f"/runs/{run['id']}/stop")
    stopped(orc, run["id"])


def test_scancel_by_hand_of_a_running_job_is_a_stop(orc: RealServer, slurm: Slurm) -> None:
    run = orc.until(orc.run("sleep 600")["id"], "running")
    slurm.run("scancel", job_of(run))
    over = stopped(orc, run["id"])
    assert "scancel" in over["error"]


def test_scancel_by_hand_of_a_waiting_job_is_a_stop(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources=LATER)["id"], "PENDING")
    slurm.run("scancel", job_of(run))
    stopped(orc, run["id"])


def test_scancel_by_hand_of_one_waiting_task_leaves_the_others(orc: RealServer, slurm: Slurm) -> None:
    _, run_ids = sweep(orc, "true", 3, resources=LATER)
    found = [in_slurm(orc, run_id, "PENDING") for run_id in run_ids]
    slurm.run("scancel", job_of(found[2]))
    stopped(orc, run_ids[2])
    assert [orc.status(run_id) for run_id in run_ids[:2]] == ["queued", "queued"]


def test_a_stop_is_told_only_once_squeue_confirms_it(orc: RealServer, slurm: Slurm) -> None:
    run = orc.until(orc.run("sleep 600")["id"], "running")
    with controller_away(slurm):
        wait_until(lambda: degraded(orc), "the controller is missed", 60)
        orc.post(f"/runs/{run['id']}/stop")
        seen = orc.get(f"/runs/{run['id']}")
        assert (seen["status"], seen["stop_requested"]) == ("running", True)
    stopped(orc, run["id"])


def test_a_run_stopped_before_it_was_submitted_never_goes_out(orc: RealServer, files: Path) -> None:
    parent = orc.run(until_file(files / "go"))
    child = orc.run(mark(files / "marks"), depends_on=[parent["id"]])
    orc.post(f"/runs/{child['id']}/stop")
    over = orc.get(f"/runs/{child['id']}")
    assert (over["status"], over["reason"], over["scheduler"]) == (*STOPPED, None)
    (files / "go").touch()
    assert orc.over(parent["id"])["status"] == "finished"
    assert not marks(files / "marks")


def test_a_run_stopped_at_once_is_stopped_wherever_it_was(orc: RealServer) -> None:
    runs = [orc.run("sleep 600", resources={"cpus": 1, "mem": f"{100 + number}M"}) for number in range(4)]
    for run in runs:
        orc.post(f"/runs/{run['id']}/stop")
    assert {orc.over(run["id"])["status"] for run in runs} == {"stopped"}


@pytest.mark.parametrize("action", ["requeue", "requeuehold"])
def test_a_job_of_a_finished_run_that_an_admin_requeues_does_not_execute_again(
    orc: RealServer, slurm: Slurm, files: Path, action: str
) -> None:
    run = orc.over(orc.run(mark(files / "marks"))["id"])
    job = job_of(run)
    wait_until(lambda: show(slurm, job) == "COMPLETED", "squeue's word")
    slurm.run("scontrol", action, job)
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", job).stdout  # by now it may have been ended again
    wait_until(lambda: ended(slurm, job), "the stray job's end")
    assert orc.get(f"/runs/{run['id']}") == run
    assert marks(files / "marks") == [f"{run['id']} 1"]
    if action == "requeuehold":
        wait_until(lambda: said(orc, run["id"], "run.stray_job", "cancelled"), "its event, written after the order")


def test_jobs_of_others_are_left_alone(orc: RealServer, slurm: Slurm) -> None:
    other = slurm.run(
        "sbatch", "--parsable", "-o", "/dev/null", "-J", "orc-of-another", "--wrap", "sleep 600"
    ).stdout.strip()
    try:
        run = orc.until(orc.run("sleep 600")["id"], "running")
        orc.post(f"/runs/{run['id']}/stop")
        stopped(orc, run["id"])
        assert show(slurm, other) == "RUNNING"
    finally:
        slurm.run("scancel", other)
