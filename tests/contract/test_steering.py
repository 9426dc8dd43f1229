"""Hold, release, requeue and priority, of runs and sweeps; each seen in squeue."""

from pathlib import Path

import pytest

from tests.contract.looking import LATER, executing, in_slurm, job_of, mark, marks, said, show, sweep, until_file
from tests.support.service import RealServer
from tests.support.sites import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
HELD = {"slurm": {"hold": True}, "cpus": 1}


def held(slurm: Slurm, job: str) -> bool:
    return "JobHeld" in show(slurm, job, "%r")


def nice(slurm: Slurm, job: str) -> int:
    return int(show(slurm, job, "%y"))


def test_a_run_that_waits_in_slurm_can_be_held_and_released(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources=LATER)["id"], "PENDING")
    assert orc.post(f"/runs/{run['id']}/hold")["held"]
    wait_until(lambda: held(slurm, job_of(run)), "held in Slurm")
    wait_until(lambda: said(orc, run["id"], "run.hold", "Confirmed"), "the hold is confirmed")
    assert not orc.post(f"/runs/{run['id']}/release")["held"]
    wait_until(lambda: not held(slurm, job_of(run)), "released in Slurm")
    wait_until(lambda: said(orc, run["id"], "run.release", "Confirmed"), "the release is confirmed")


def test_a_run_held_in_slurm_runs_once_released(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = in_slurm(orc, orc.run(mark(files / "marks"), resources=HELD)["id"], "PENDING")
    assert held(slurm, job_of(run))
    orc.post(f"/runs/{run['id']}/release")
    assert orc.over(run["id"])["status"] == "finished"
    assert marks(files / "marks") == [f"{run['id']} 1"]


def test_a_run_that_somebody_releases_by_hand_goes_on(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources=HELD)["id"], "PENDING")
    slurm.run("scontrol", "release", job_of(run))
    assert orc.over(run["id"])["status"] == "finished"


def test_one_task_of_an_array_can_be_held_alone(orc: RealServer, slurm: Slurm) -> None:
    _, run_ids = sweep(orc, "true", 3, resources=LATER)
    jobs = [job_of(in_slurm(orc, run_id, "PENDING")) for run_id in run_ids]
    orc.post(f"/runs/{run_ids[1]}/hold")
    wait_until(lambda: held(slurm, jobs[1]), "held in Slurm")
    assert [held(slurm, job) for job in jobs] == [False, True, False]
    wait_until(lambda: said(orc, run_ids[1], "run.hold", "Confirmed"), "the hold is confirmed")


def test_a_whole_sweep_can_be_held_and_released(orc: RealServer, slurm: Slurm) -> None:
    sweep_id, run_ids = sweep(orc, "true", 3, resources=LATER)
    jobs = [job_of(in_slurm(orc, run_id, "PENDING")) for run_id in run_ids]
    assert orc.post(f"/sweeps/{sweep_id}/hold")["changed"] == 3
    wait_until(lambda: all(held(slurm, job) for job in jobs), "all held in Slurm")
    assert orc.post(f"/sweeps/{sweep_id}/release")["changed"] == 3
    wait_until(lambda: not any(held(slurm, job) for job in jobs), "all released in Slurm")


def test_a_run_held_before_it_went_out_is_not_submitted(orc: RealServer, files: Path) -> None:
    run = orc.post("/runs", {"name": "test", "command": "true"})
    orc.post(f"/runs/{run['id']}/hold")
    orc.post(f"/runs/{run['id']}/start")
    wait_until(lambda: orc.get(f"/runs/{run['id']}")["reason"] == "HELD", "the reason HELD")
    assert orc.over(orc.run("true")["id"])["status"] == "finished"  # later ones pass it
    assert orc.get(f"/runs/{run['id']}")["scheduler"] is None
    orc.post(f"/runs/{run['id']}/release")
    assert orc.over(run["id"])["status"] == "finished"


def test_a_lower_priority_is_niceness_in_slurm(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources=LATER)["id"], "PENDING")
    orc.post(f"/runs/{run['id']}/priority", {"priority": -50})
    wait_until(lambda: nice(slurm, job_of(run)) == 50, "the job's niceness")
    orc.post(f"/runs/{run['id']}/priority", {"priority": 0})
    wait_until(lambda: nice(slurm, job_of(run)) == 0, "the job's niceness, back")


def test_a_run_submitted_with_a_lower_priority_has_its_niceness(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources=LATER, priority=-70)["id"], "PENDING")
    assert nice(slurm, job_of(run)) == 70


def test_a_sweep_gets_another_priority_as_a_whole(orc: RealServer, slurm: Slurm) -> None:
    sweep_id, run_ids = sweep(orc, "true", 3, resources=LATER)
    jobs = [job_of(in_slurm(orc, run_id, "PENDING")) for run_id in run_ids]
    orc.post(f"/sweeps/{sweep_id}/priority", {"priority": -30})
    wait_until(lambda: [nice(slurm, job) for job in jobs] == [30, 30, 30], "niceness of all")


def test_a_running_run_can_be_requeued(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = orc.run(f"{mark(files / 'marks')}; [ $ORC_ATTEMPT = 2 ] || sleep 600")
    executing(orc, run["id"], files / "marks")
    orc.post(f"/runs/{run['id']}/requeue")
    over = orc.over(run["id"], 90)
    assert (over["status"], over["attempt"], len(over["history"])) == ("finished", 2, 2)
    assert marks(files / "marks") == [f"{run['id']} 1", f"{run['id']} 2"]


def test_a_sweep_is_requeued_as_a_whole(orc: RealServer, files: Path) -> None:
    sweep_id, run_ids = sweep(orc, f"{mark(files / 'marks')}; [ $ORC_ATTEMPT = 2 ] || sleep 600", 3)
    for run_id in run_ids:
        executing(orc, run_id, files / "marks")
    orc.post(f"/sweeps/{sweep_id}/requeue")
    over = [orc.over(run_id, 60) for run_id in run_ids]
    assert {(run["status"], run["attempt"]) for run in over} == {("finished", 2)}
    assert sorted(marks(files / "marks")) == sorted(f"{run_id} {attempt}" for run_id in run_ids for attempt in (1, 2))


def test_what_cannot_be_wished_of_a_run_is_refused(orc: RealServer, files: Path) -> None:
    waits = orc.run("true", resources=LATER)["id"]
    runs = orc.until(orc.run(until_file(files / "go"))["id"], "running")["id"]
    assert orc.refused("POST", f"/runs/{waits}/requeue")[0] == 400
    assert {orc.refused("POST", f"/runs/{runs}/{action}")[0] for action in ("hold", "release")} == {400}
    assert orc.refused("POST", f"/runs/{runs}/priority", {"priority": 1})[0] == 400
    (files / "go").touch()
    assert orc.over(runs)["attempt"] == 1


def throttles(slurm: Slurm, job: str) -> str:
    """The %N of the array's waiting tasks, as squeue shows it."""
    waiting = slurm.run("squeue", "-h", "-t", "PENDING", "-j", job, "-o", "%i").stdout.strip()
    return waiting.partition("%")[2].rstrip("]")


def times_throttled(orc: RealServer, sweep_id: str) -> int:
    told = [event for event in orc.get("/events/latest", limit=100) if event["subject"] == f"sweep:{sweep_id}"]
    return [event["kind"] for event in told].count("sweep.throttled")


def test_another_parallel_of_a_sweep_is_its_arrays_throttle(orc: RealServer, slurm: Slurm) -> None:
    sweep_id, run_ids = sweep(orc, "true", 5, parallel=2, resources=LATER)
    job = in_slurm(orc, run_ids[0], "PENDING")["scheduler"]["job_id"]
    assert throttles(slurm, job) == "2"
    orc.http.put(f"/sweeps/{sweep_id}", json={"parallel": 3}).raise_for_status()
    wait_until(lambda: throttles(slurm, job) == "3", "the new throttle")
    orc.http.put(f"/sweeps/{sweep_id}", json={"parallel": None}).raise_for_status()
    wait_until(lambda: throttles(slurm, job) in {"", "0"}, "no throttle")
    wait_until(lambda: times_throttled(orc, sweep_id) == 2, "an event for each change")


def test_another_priority_of_a_held_run_does_not_let_it_go(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = in_slurm(orc, orc.run(mark(files / "marks"), resources=HELD)["id"], "PENDING")
    orc.post(f"/runs/{run['id']}/priority", {"priority": -40})
    orc.over(orc.run("true")["id"])  # the loop has been round, and Slurm's, too
    assert held(slurm, job_of(run))
    assert marks(files / "marks") == []
    orc.post(f"/runs/{run['id']}/release")
    assert orc.over(run["id"])["status"] == "finished"


def test_a_held_run_has_its_niceness_once_released(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources=LATER)["id"], "PENDING")
    orc.post(f"/runs/{run['id']}/hold")
    wait_until(lambda: held(slurm, job_of(run)), "held in Slurm")
    orc.post(f"/runs/{run['id']}/priority", {"priority": -40})
    orc.post(f"/runs/{run['id']}/release")
    wait_until(lambda: nice(slurm, job_of(run)) == 40 and not held(slurm, job_of(run)), "released, with its niceness")
    wait_until(lambda: said(orc, run["id"], "run.priority", "Confirmed"), "the priority is confirmed")


def test_a_run_that_slurm_does_not_requeue_is_submitted_again(orc: RealServer, files: Path) -> None:
    command = f"{mark(files / 'marks')}; [ $ORC_ATTEMPT = 2 ] || sleep 600"
    run = orc.run(command, resources={"slurm": {"no-requeue": True}})
    run = executing(orc, run["id"], files / "marks")
    orc.post(f"/runs/{run['id']}/requeue")
    over = orc.over(run["id"], 60)
    assert (over["status"], over["attempt"]) == ("finished", 2)
    assert over["scheduler"]["job_id"] != run["scheduler"]["job_id"]
    assert marks(files / "marks") == [f"{run['id']} 1", f"{run['id']} 2"]
    assert said(orc, run["id"], "run.requeue", "does not requeue it")
