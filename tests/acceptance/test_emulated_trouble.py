"""The service on an emulated Slurm that is full, slow, silent or half away: nothing fails, nothing is doubled, nobody
else waits for it, and it is not asked more for that."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing import EmulatedSlurm, Node, Partition
from tests.support.service import RealServer, end_runs
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(150)]
POLLS = {
    "ORC_SLURM_POLL_FLOOR_SECONDS": "0.3",
    "ORC_SLURM_POLL_CEILING_SECONDS": "1",
    "ORC_SLURM_COMMAND_DEADLINE_SECONDS": "5",
    "ORC_SLURM_SUBMIT_DEADLINE_SECONDS": "5",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[EmulatedSlurm]:
    """One node; sbatch waits long for a full queue, as the real one does."""
    partitions = [Partition("normal", default=True, default_time_minutes=60)]
    with EmulatedSlurm(tmp_path / "slurm", [Node("n1", cpus=8)], partitions, retry_wait=30.0) as made:
        yield made


@pytest.fixture
def orc(tmp_path: Path, slurm: EmulatedSlurm) -> Iterator[RealServer]:
    """A server that uses it."""
    server = RealServer(tmp_path / "home", {**slurm.environment, **POLLS}).start()
    yield server
    server.stop()
    end_runs(tmp_path / "home" / "runs")


def status(orc: RealServer) -> str:
    return str(orc.get("/cluster")["cluster"]["status"])


def executions(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_full_queue_holds_runs_back_and_is_no_outage(orc: RealServer, slurm: EmulatedSlurm, tmp_path: Path) -> None:
    slurm.faults.full_queue(True)
    run = orc.run(f"echo $ORC_RUN_ID >> {tmp_path}/marks")
    wait_until(lambda: orc.get(f"/runs/{run['id']}")["reason"] == "SUBMIT_LIMIT", "held back by the full queue")
    assert status(orc) == "healthy"
    assert "temporarily unable" in str(orc.get(f"/runs/{run['id']}/why")["evidence"])
    slurm.faults.full_queue(False)
    assert orc.over(run["id"], 60)["status"] == "finished"
    assert executions(tmp_path / "marks") == [run["id"]]


def test_an_answer_that_is_lost_is_found_though_others_go_well_meanwhile(
    orc: RealServer, slurm: EmulatedSlurm, tmp_path: Path
) -> None:
    slurm.faults.lose_answers(1)
    runs = [orc.run(f"echo $ORC_RUN_ID >> {tmp_path}/marks", resources={"mem": f"{100 + i}M"}) for i in range(3)]
    here = orc.run("true", executor="local")
    assert {orc.over(run["id"], 60)["status"] for run in (*runs, here)} == {"finished"}
    assert sorted(executions(tmp_path / "marks")) == sorted(run["id"] for run in runs)


def test_runs_on_this_machine_go_on_while_slurm_hangs(orc: RealServer, slurm: EmulatedSlurm) -> None:
    slurm.controller.hang()
    try:
        asks = [{"mem": f"{100 + number}M"} for number in range(4)]
        waiting = [orc.run("true", resources=resources) for resources in asks]
        wait_until(lambda: status(orc) == "degraded", "degraded", 60)
        here = orc.run("true", executor="local")
        assert orc.over(here["id"])["status"] == "finished"
        assert {orc.status(run["id"]) for run in waiting} == {"queued"}
    finally:
        slurm.controller.resume()
    assert {orc.over(run["id"], 90)["status"] for run in waiting} == {"finished"}


def test_a_squeue_without_an_answer_is_an_outage_that_costs_no_sinfo(orc: RealServer, slurm: EmulatedSlurm) -> None:
    run = orc.until(orc.run("until [ -e go ]; do sleep 0.1; done", workdir=str(slurm.path))["id"], "running")
    slurm.faults.slow("squeue", 60)
    wait_until(lambda: status(orc) == "degraded", "degraded", 60)
    before, passes = slurm.calls()["sinfo"], passes_of(orc)
    wait_until(lambda: passes_of(orc) > passes + 10, "ten passes of the loop", 60)
    assert slurm.calls()["sinfo"] <= before + 1
    slurm.faults.slow("squeue", 0)
    wait_until(lambda: status(orc) == "healthy", "healthy again", 60)
    (slurm.path / "go").touch()
    assert orc.over(run["id"])["status"] == "finished"


def passes_of(orc: RealServer) -> int:
    lines = orc.http.get("/metrics").text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("orc_passes_total "))))


def test_nothing_that_a_request_asks_waits_for_a_slurm_that_hangs(orc: RealServer, slurm: EmulatedSlurm) -> None:
    slurm.controller.hang()
    try:
        orc.run("true")
        wait_until(lambda: status(orc) == "degraded", "degraded", 60)
        before = slurm.calls()
        assert orc.run("true", dry_run=True)["expected_start"] is None
        accepted = orc.run("true", resources={"partition": "new-since"})  # sbatch will judge: it cannot be asked now
        assert accepted["status"] == "queued"
        assert (slurm.calls()["sbatch"], slurm.calls()["sinfo"]) == (before["sbatch"], before["sinfo"])
        orc.post(f"/runs/{accepted['id']}/stop")
    finally:
        slurm.controller.resume()


def test_a_job_that_was_forgotten_is_stopped_though_the_queue_is_empty(orc: RealServer, slurm: EmulatedSlurm) -> None:
    run = orc.until(orc.run("sleep 300")["id"], "running")
    slurm.controller.kill(lose_seconds=60)
    slurm.controller.start()
    wait_until(lambda: slurm.run("squeue", "-h").stdout == "", "Slurm has forgotten it")
    orc.post(f"/runs/{run['id']}/stop")
    assert orc.over(run["id"], 90)["status"] == "stopped"


def test_accounts_that_lag_behind_only_delay_the_end(orc: RealServer, slurm: EmulatedSlurm) -> None:
    slurm.faults.accounting_lag(5)
    run = orc.run("exit 7")
    over = orc.over(run["id"], 60)
    assert (over["status"], over["reason"], over["exit_code"]) == ("failed", "NONZERO_EXIT", 7)
