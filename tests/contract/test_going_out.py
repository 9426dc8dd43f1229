"""When runs go out, how many at once, and in which order."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.slurmqueue import LONGEST_WAIT, QUIET
from tests.contract.looking import (
    LATER,
    begun,
    calls,
    in_slurm,
    job_of,
    mark,
    marks,
    only,
    show,
    statuses,
    sweep,
    until_file,
)
from tests.support.service import RealServer, real_server
from tests.support.sites import Site, Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
HOSTILE = {
    "SBATCH_PARTITION": "low",
    "SBATCH_JOB_NAME": "another",
    "SBATCH_TIMELIMIT": "7",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_ARRAY_INX": "0-3",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_STATES": "PENDING",
    "SQUEUE_PARTITION": "short",
    "SCANCEL_STATE": "PENDING",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_BITSTR_LEN": "4",
}


def test_fifty_quick_posts_cost_a_few_sbatch_calls(orc: RealServer, files: Path) -> None:
    before, runs, posted = calls(orc, "sbatch"), [], []
    for _ in range(50):
        posted.append(time.monotonic())
        runs.append(orc.run(mark(files / "marks"), resources={"cpus": 1, "mem": "100M"}))
    assert {orc.over(run["id"], 60)["status"] for run in runs} == {"finished"}
    # They go out where no other has come for a moment, or where the first has waited for long.
    pauses = sum(later - earlier > QUIET / 2 for earlier, later in pairwise(posted))
    assert calls(orc, "sbatch") - before <= 5 + pauses + (posted[-1] - posted[0]) / LONGEST_WAIT
    assert sorted(marks(files / "marks")) == sorted(f"{run['id']} 1" for run in runs)


def test_a_sweep_with_a_parallel_is_an_array_with_that_throttle(orc: RealServer, slurm: Slurm, files: Path) -> None:
    sweep_id, run_ids = sweep(orc, f"{mark(files / 'marks')}; {until_file(files / 'go')}", 5, parallel=2)
    wait_until(lambda: [orc.status(run_id) for run_id in run_ids].count("running") == 2, "two of them run")
    wait_until(lambda: len(marks(files / "marks")) == 2, "two of them have said that they execute")
    job_id = only([orc.get(f"/runs/{run_id}")["scheduler"]["job_id"] for run_id in run_ids])
    listed = slurm.run("squeue", "-h", "-j", job_id, "-t", "PENDING", "-o", "%i").stdout.strip()
    assert listed == f"{job_id}_[2-4%2]"
    assert len(marks(files / "marks")) == 2
    (files / "go").touch()
    assert {orc.over(run_id, 60)["status"] for run_id in run_ids} == {"finished"}
    assert orc.get(f"/sweeps/{sweep_id}")["status"] == "completed"


def test_never_more_of_a_sweep_run_at_once_than_its_parallel(orc: RealServer, files: Path) -> None:
    _, run_ids = sweep(orc, f"echo + >> {files}/log; sleep 0.4; echo - >> {files}/log", 6, parallel=2)
    assert {orc.over(run_id, 60)["status"] for run_id in run_ids} == {"finished"}
    now, most = 0, 0
    for sign in (files / "log").read_text().split():
        now += 1 if sign == "+" else -1
        most = max(most, now)
    assert most == 2


def test_runs_that_ask_for_different_things_are_different_jobs(orc: RealServer) -> None:
    asked = [{"cpus": 1}, {"cpus": 2}, {"cpus": 1, "mem": "200M"}, {"cpus": 1, "partition": "high"}]
    runs = [orc.run("true", resources=resources) for resources in asked]
    over = [orc.over(run["id"]) for run in runs]
    assert len({run["scheduler"]["job_id"] for run in over}) == 4
    assert over[3]["scheduler"]["partition"] == "high"


def test_a_run_goes_out_once_those_it_depends_on_have_finished(orc: RealServer, files: Path) -> None:
    parents = [orc.run(f"{until_file(files / 'go')}; {mark(files / 'marks')}") for _ in range(2)]
    child = orc.run(mark(files / "marks"), depends_on=[parent["id"] for parent in parents])
    begun(orc, [parent["id"] for parent in parents])
    wait_until(lambda: orc.get(f"/runs/{child['id']}")["reason"] == "DEPENDENCY", "the reason DEPENDENCY")
    seen = orc.get(f"/runs/{child['id']}")
    assert (seen["status"], seen["scheduler"]) == ("queued", None)
    (files / "go").touch()
    assert orc.over(child["id"])["status"] == "finished"
    assert marks(files / "marks")[-1] == f"{child['id']} 1"


def test_a_run_whose_parent_fails_never_goes_out(orc: RealServer, files: Path) -> None:
    parent = orc.run(f"{until_file(files / 'go')}; exit 1")
    child = orc.run(mark(files / "marks"), depends_on=[parent["id"]])
    (files / "go").touch()
    over = orc.over(child["id"])
    assert (over["status"], over["reason"], over["scheduler"]) == ("failed", "PARENT_FAILED", None)
    assert not marks(files / "marks")


def test_runs_go_out_by_priority(orc: RealServer) -> None:
    asked = {"name": "t", "command": "true", "resources": {"cpus": 1, "mem": "123M"}, "auto_start": True}
    bodies = [{**asked, "priority": n} for n in (1, 9, 5)]
    runs = orc.post("/runs/bulk", {"runs": bodies})
    over = {run["priority"]: orc.over(run["id"]) for run in runs}
    assert only([run["scheduler"]["job_id"] for run in over.values()])
    assert [over[n]["scheduler"]["array_index"] for n in (9, 5, 1)] == [0, 1, 2]


def test_a_submit_limit_holds_runs_back_and_fails_none(orc: RealServer, place: Site, files: Path) -> None:
    if place.name != "real-with-accounting":
        pytest.skip("only slurmdbd keeps limits (QOS few: MaxSubmitJobsPerUser=3)")
    runs = [orc.run(f"{mark(files / 'marks')}; {until_file(files / 'go')}", resources={"qos": "few"}) for _ in range(5)]

    def reasons() -> list[str]:
        return [orc.get(f"/runs/{run['id']}")["reason"] for run in runs]

    wait_until(lambda: "SUBMIT_LIMIT" in reasons(), "the limit is met")
    (files / "go").touch()
    assert {orc.over(run["id"], 90)["status"] for run in runs} == {"finished"}
    assert sorted(marks(files / "marks")) == sorted(f"{run['id']} 1" for run in runs)


def known(slurm: Slurm) -> set[str]:
    """The jobs that the cluster knows."""
    return set(slurm.run("squeue", "-h", "-t", "all", "-o", "%A").stdout.split())


def test_a_dry_run_shows_the_script_and_submits_nothing(orc: RealServer, slurm: Slurm) -> None:
    before = known(slurm)
    shown = orc.post("/runs", {"name": "t", "command": "true", "resources": {"cpus": 3}, "dry_run": True})
    assert "#SBATCH --cpus-per-task=3" in str(shown)
    assert shown["id"] is None
    assert known(slurm) <= before  # old ones are forgotten meanwhile


def test_a_run_that_is_not_handed_over_shows_when_it_would_start(orc: RealServer) -> None:
    body = {"name": "t", "command": "true", "resources": {"nodes": 2, **LATER}, "launch": "env"}
    run = orc.post("/runs", {**body, "environment": {"modules": ["none/1"]}})
    before = orc.get(f"/runs/{run['id']}/script")
    assert before["expected_start"] > time.time() + 1800
    assert "to start at" in before["sbatch"]
    assert "exec srun" in before["launcher"]
    assert "__orc_module none/1" in before["activation"]
    orc.post(f"/runs/{run['id']}/start")
    in_slurm(orc, run["id"], "PENDING")
    after = orc.get(f"/runs/{run['id']}/script")
    assert set(after) == {"run_id", "executor", "script", "launcher", "activation"}
    assert (after["launcher"], after["activation"]) == (before["launcher"], before["activation"])


def test_the_servers_own_slurm_variables_change_nothing(place: Site, files: Path) -> None:
    polls = {name: value for name, value in place.orc.environment.items() if name.startswith("ORC_SLURM_")}
    with real_server(files / "home", {**place.slurm.environment, **polls, **HOSTILE}) as other:
        runs = [other.run(f"{until_file(files / 'go')}; env | grep ^SBATCH_ || true") for _ in range(3)]
        for run in runs:
            other.until(run["id"], "running")
            job = job_of(in_slurm(other, run["id"], "RUNNING"))
            assert show(place.slurm, job, "%P") == "normal"
            assert show(place.slurm, job, "%j").startswith("orc-")
        other.post(f"/runs/{runs[0]['id']}/stop")
        assert other.over(runs[0]["id"])["status"] == "stopped"
        (files / "go").touch()
        assert [other.over(run["id"])["status"] for run in runs[1:]] == ["finished", "finished"]
        assert other.log(runs[1]["id"]) == ""


def test_two_servers_of_one_user_leave_each_others_jobs_alone(orc: RealServer, place: Site, files: Path) -> None:
    ours = in_slurm(orc, orc.run("true", resources=LATER)["id"], "PENDING")
    with real_server(files / "home", {**place.slurm.environment, "ORC_SLURM_POLL_FLOOR_SECONDS": "0.3"}) as other:
        theirs = other.run(until_file(files / "go"))
        other.until(theirs["id"], "running")
        assert orc.over(orc.run("true")["id"])["status"] == "finished"
        assert show(place.slurm, job_of(ours)) == "PENDING"
        (files / "go").touch()
        assert other.over(theirs["id"])["status"] == "finished"
        assert "stopped" not in statuses(orc, ours["id"])
