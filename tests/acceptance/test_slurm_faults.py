"""Many runs on a real Slurm while things go wrong: each ends as the cluster's own records tell, none executes twice.

TESTS_FAULT_RUNS (300) says how many runs; a release is tried with 2,000 and the controller away for a minute
(TESTS_FAULT_SECONDS=60).
"""

import collections
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import RealServer, end_runs
from tests.support.sites import Slurm, cluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]
RUNS = int(os.environ.get("TESTS_FAULT_RUNS", "300"))
AWAY = float(os.environ.get("TESTS_FAULT_SECONDS", "8"))
SHAPES: list[dict[str, Any]] = [{"gpus": 1}, {"cpus": 2}, {"gpus": 2, "cpus": 2}, {}, {"mem": "1G"}]
# Each run says that it executed; some fail (5), some are requeued once (99), some wait to be stopped.
COMMAND = """bash -c 'x=${{0#--i=}}; echo $ORC_ATTEMPT >> {marks}/$ORC_RUN_ID; sleep 0.$((RANDOM % 4))
[ $((x % 10)) != 3 ] || exit 5
[ $((x % 25)) != 7 ] || [ $ORC_ATTEMPT != 1 ] || exit 99
[ $((x % 25)) != 11 ] || sleep 900'"""
LOST = """#!/bin/bash
# Submits, and loses the answer: as a controller that hung just then.
echo x >> {calls}
{sbatch} "$@" >/dev/null || exit
[[ "$*" == *--test-only* ]] && exit
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1
"""


def serve(folder: Path, slurm: Slurm, **more: str) -> RealServer:
    """A server that uses the cluster."""
    polls = {"ORC_SLURM_POLL_FLOOR_SECONDS": "0.5", "ORC_SLURM_HEARTBEAT_SECONDS": "2"}
    return RealServer(folder / "home", {**slurm.environment, **polls, **more})


@pytest.fixture(params=["real-with-accounting", "real-without-accounting"])
def slurm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slurm]:
    """A real cluster of this test's own."""
    with cluster(request.param, tmp_path / "slurm") as made:
        yield made


def expected(number: int) -> str:
    """How the run of this number must end."""
    return "failed" if number % 10 == 3 else "stopped" if number % 25 == 11 else "finished"


def test_every_run_ends_as_the_cluster_tells_while_controller_and_node_fail(slurm: Slurm, tmp_path: Path) -> None:
    if not slurm.accounting:
        pytest.skip("the records to compare with are slurmdbd's")
    marks = tmp_path / "marks"
    marks.mkdir()
    server = serve(tmp_path, slurm).start()
    try:
        sweeps = [make_sweep(server, number, marks) for number in range(10)]
        stop_sleepers(server, sweeps, slurm)
        check(server, sweeps, marks, slurm)
    finally:
        server.stop()
        end_runs(tmp_path / "home" / "runs")


def make_sweep(server: RealServer, number: int, marks: Path) -> dict[str, Any]:
    """A tenth of the runs, with resources of their own."""
    body = {
        "name": f"s{number}",
        "base_command": COMMAND.format(marks=marks),
        "parameters": {"i": list(range(RUNS // 10))},
        "auto_start": True,
        "resources": {**SHAPES[number % len(SHAPES)], "time": 30},
    }
    return dict(server.post("/sweeps", body))


def progress(server: RealServer, sweeps: list[dict[str, Any]]) -> collections.Counter[str]:
    """All sweeps' progress together."""
    total: collections.Counter[str] = collections.Counter()
    for sweep in sweeps:
        total.update(server.get(f"/sweeps/{sweep['id']}")["progress"])
    return total


def ended(server: RealServer, sweeps: list[dict[str, Any]]) -> int:
    """How many runs are over."""
    found = progress(server, sweeps)
    return found["completed"] + found["failed"] + found["canceled"]


def stop_sleepers(server: RealServer, sweeps: list[dict[str, Any]], slurm: Slurm) -> None:
    """Until all is over: the controller goes away for a while, then a node dies; who sleeps is stopped."""
    sleepers = {run for sweep in sweeps for number, run in enumerate(sweep["run_ids"]) if number % 25 == 11}
    faults = trouble(slurm)
    deadline = time.monotonic() + 800
    while (over := ended(server, sweeps)) < RUNS:
        assert time.monotonic() < deadline, (progress(server, sweeps), waiting(server), state_of(slurm))
        faults.send(over)
        for run in [run for run in sleepers if server.status(run) == "running"]:
            server.post(f"/runs/{run}/stop")
            sleepers.discard(run)
        time.sleep(0.2)  # the loop's own pace


def waiting(server: RealServer) -> list[Any]:
    """Why those wait that do, as far as the service knows."""
    found = server.get("/runs", status="queued", limit=1000)
    told = collections.Counter((run["reason"], run["error"], str(run["scheduler"])) for run in found)
    return [server.get("/cluster")["cluster"]["status"], *told.most_common(20)]


def state_of(slurm: Slurm) -> str:
    """What the cluster says of its nodes and of the jobs that it has."""
    nodes = slurm.run("sinfo", "-h", "-N", "-O", "NodeList:8,StateComplete:30,GresUsed:40,Reason:40").stdout
    return str(nodes + slurm.run("squeue", "-h", "-o", "%i %T %r %l %D %b").stdout)


def trouble(slurm: Slurm) -> Any:
    """A coroutine that is told how many runs are over, and does the damage when it is time."""

    def acts() -> Any:
        while (yield) < RUNS * 0.2:
            pass
        slurm.stop_controller()
        until = time.monotonic() + AWAY
        while time.monotonic() < until:
            yield
        slurm.start_controller()
        while (yield) < RUNS * 0.5:
            pass
        slurm.fail_node("n2")
        until = time.monotonic() + 3
        while time.monotonic() < until:
            yield
        slurm.resume_node("n2")
        while True:
            yield

    made = acts()
    next(made)
    return made


def check(server: RealServer, sweeps: list[dict[str, Any]], marks: Path, slurm: Slurm) -> None:
    """Every run as it must be, executed once per attempt, and as slurmdbd tells."""
    wrong: list[tuple[Any, ...]] = []
    runs = {run: server.get(f"/runs/{run}") for sweep in sweeps for run in sweep["run_ids"]}
    records = states_of_jobs(slurm, {job_name(run) for run in runs.values()})
    for sweep in sweeps:
        for number, run_id in enumerate(sweep["run_ids"]):
            run = runs[run_id]
            path = marks / run_id
            executed = path.read_text().split() if path.exists() else []
            states = records[job_name(run)]
            if run["status"] != expected(number) or len(executed) != len(set(executed)):
                wrong.append((number, run["status"], run["reason"], run["error"], executed))
            elif not (as_recorded(run, states) or superseded(run, states, server.events(run_id))):
                wrong.append((number, run["status"], states, run["history"]))
    assert wrong == []


def as_recorded(run: dict[str, Any], states: list[str]) -> bool:
    """Whether slurmdbd's last word on the run's job is the run's own end."""
    return states[-1:] == [{"finished": "COMPLETED", "failed": "FAILED", "stopped": "CANCELLED"}[run["status"]]]


def superseded(run: dict[str, Any], states: list[str], events: list[dict[str, Any]]) -> bool:
    """Whether the node died with the news that the job had ended well, which it had: Slurm records the attempt as
    NODE_FAIL and requeues the job; that must not execute again, so we cancel it, with an event."""
    stray = any(event["kind"] == "run.stray_job" for event in events)
    return stray and run["status"] == "finished" and states[-2:] == ["NODE_FAIL", "CANCELLED"]


def job_name(run: dict[str, Any]) -> str:
    """The run's job or array task, as sacct names it."""
    scheduler = run["scheduler"]
    index = scheduler["array_index"]
    return str(scheduler["job_id"]) + ("" if index is None else f"_{index}")


def states_of_jobs(slurm: Slurm, jobs: set[str]) -> dict[str, list[str]]:
    """The states in which each job and array task has ended, requeues included, once slurmdbd has all of ``jobs``."""

    def settled() -> dict[str, list[str]] | None:
        lines = slurm.run("sacct", "-X", "-D", "-n", "-P", "-S", "now-2hours", "-o", "JobID,State").stdout.splitlines()
        found: dict[str, list[str]] = {}
        for job, _, state in (line.partition("|") for line in lines):
            found.setdefault(job, []).append(state.split()[0])
        going = any({"RUNNING", "PENDING"} & set(states[-1:]) for states in found.values())
        return None if going or not jobs <= found.keys() else found

    return wait_until(settled, "slurmdbd knows the ends", 60)


def test_fifty_lost_answers_are_fifty_executions(slurm: Slurm, tmp_path: Path) -> None:
    marks, calls, folder = tmp_path / "marks", tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    sbatch = slurm.run("which", "sbatch").stdout.strip()
    (folder / "sbatch").write_text(LOST.format(calls=calls, sbatch=sbatch))
    (folder / "sbatch").chmod(0o755)
    server = serve(tmp_path, slurm, PATH=f"{folder}:{os.environ['PATH']}").start()
    try:
        # Other memory for each: fifty submissions, not one array.
        asked = [{"mem": f"{100 + number}M", "time": 5} for number in range(50)]
        runs = [server.run(f"echo $ORC_RUN_ID >> {marks}", resources=resources) for resources in asked]
        over = [server.over(run["id"], 120) for run in runs]
        assert {run["status"] for run in over} == {"finished"}
        assert len(calls.read_text().split()) >= 50
        wait_until(lambda: not slurm.run("squeue", "-h", "-o", "%i").stdout.split(), "nothing is left in the queue", 60)
        assert collections.Counter(marks.read_text().split()) == dict.fromkeys([run["id"] for run in runs], 1)
    finally:
        server.stop()
        end_runs(tmp_path / "home" / "runs")
