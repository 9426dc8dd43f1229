"""What goes wrong with a cluster: the controller is down, hangs, forgets; answers get lost; accounting lags."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.testing import ControllerDown, EmulatedSlurm, SlurmEmulator
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

pytest_plugins = ["orchestrator.testing.plugin"]
DOWN = "Unable to contact slurm controller (connect failure)"
TIMED_OUT = "Socket timed out on send/recv operation"


@pytest.fixture
def slurm(slurm_emulator: SlurmEmulator) -> EmulatedSlurm:
    return slurm_emulator(answer_wait=0.05, connect_wait=0.05, retry_wait=0.05, save_seconds=0.1)


def wrap(slurm: EmulatedSlurm, command: str = "true", *options: str) -> subprocess.CompletedProcess[str]:
    return slurm.run("sbatch", "--parsable", "-o", "/dev/null", *options, "--wrap", command)


def states(slurm: EmulatedSlurm) -> dict[str, str]:
    return {job.request.name: job.shown_state for job in slurm.jobs()}


# -- the controller ----------------------------------------------------------------------------------------------------


def test_what_commands_say_without_a_controller(slurm: EmulatedSlurm) -> None:
    slurm.controller.stop()
    found = {
        "sbatch": wrap(slurm),
        "squeue": slurm.run("squeue"),
        "sinfo": slurm.run("sinfo"),
        "scancel": slurm.run("scancel", "1"),
        "ping": slurm.run("scontrol", "ping"),
        "show": slurm.run("scontrol", "show", "job", "1"),
    }
    said = {name: (one.returncode, one.stderr.strip()) for name, one in found.items()}
    assert said == {
        "sbatch": (1, f"sbatch: error: Batch job submission failed: {DOWN}"),
        "squeue": (1, f"slurm_load_jobs error: {DOWN}"),
        "sinfo": (1, f"slurm_load_partitions: {DOWN}"),
        "scancel": (8, f"scancel: error: Kill job error on job id 1: {DOWN}"),
        "ping": (1, ""),
        "show": (1, f"slurm_load_jobs error: {DOWN}"),
    }
    assert found["ping"].stdout.endswith("is DOWN\n")
    with pytest.raises(ControllerDown):
        slurm.jobs()


def test_jobs_run_on_without_a_controller_and_are_accounted_for(slurm: EmulatedSlurm, tmp_path: Path) -> None:
    wrap(slurm, f"touch {tmp_path}/begun; while ! test -f {tmp_path}/stop; do sleep 0.02; done; touch {tmp_path}/done")
    wait_until((tmp_path / "begun").exists, "the job")
    slurm.controller.stop()
    (tmp_path / "stop").touch()
    wait_until((tmp_path / "done").exists, "the job's end")
    assert slurm.run("sacct", "-X", "-n", "-P", "-o", "State").stdout == "RUNNING\n"
    slurm.controller.start()
    wait_until(lambda: states(slurm) == {"wrap": "COMPLETED"}, "the job's end to be known")


def test_killed_hard_it_forgets_and_uses_ids_again(slurm: EmulatedSlurm, tmp_path: Path) -> None:
    first = wrap(slurm, f"touch {tmp_path}/begun; sleep 300", "-J", "lost")
    wait_until((tmp_path / "begun").exists, "the job")
    slurm.controller.kill(lose_seconds=60)
    slurm.controller.start()
    assert slurm.jobs() == []
    second = wrap(slurm, "true", "-J", "other")
    assert second.stdout == first.stdout
    wait_until(lambda: states(slurm) == {"other": "COMPLETED"}, "the second job")


def test_killed_hard_it_may_lose_nothing(slurm: EmulatedSlurm) -> None:
    wrap(slurm, "sleep 300")
    wait_until(lambda: states(slurm) == {"wrap": "RUNNING"}, "the job")
    slurm.controller.kill(lose_seconds=0)
    slurm.controller.start()
    assert states(slurm) == {"wrap": "RUNNING"}


def test_what_a_hung_controller_was_asked_it_does_later(slurm: EmulatedSlurm) -> None:
    slurm.controller.hang()
    found = wrap(slurm)
    assert (found.returncode, found.stderr) == (1, f"sbatch: error: Batch job submission failed: {TIMED_OUT}\n")
    assert slurm.run("squeue").stderr == f"slurm_load_jobs error: {TIMED_OUT}\n"
    assert slurm.run("sacct", "-X", "-n").returncode == 0
    assert slurm.jobs() == []
    slurm.controller.resume()
    assert [job.job_id for job in slurm.jobs()] == [1]


def test_a_hung_controller_may_drop_what_it_was_asked(slurm: EmulatedSlurm) -> None:
    slurm.controller.hang(accept_jobs=False)
    assert wrap(slurm).returncode == 1
    slurm.controller.resume()
    assert slurm.jobs() == []


# -- faults ------------------------------------------------------------------------------------------------------------


def test_lost_answers(slurm: EmulatedSlurm) -> None:
    slurm.faults.lose_answers(1)
    lost, heard = wrap(slurm, "true", "-J", "a"), wrap(slurm, "true", "-J", "b")
    assert (lost.returncode, lost.stdout, lost.stderr.strip().rpartition(": ")[2]) == (1, "", TIMED_OUT)
    assert (heard.returncode, heard.stdout) == (0, "2\n")
    assert set(states(slurm)) == {"a", "b"}


def test_a_full_queue(slurm: EmulatedSlurm) -> None:
    slurm.faults.full_queue(True)
    found = wrap(slurm)
    assert found.returncode == 1
    assert found.stderr.startswith("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n")
    slurm.faults.full_queue(False)
    assert wrap(slurm).returncode == 0


def test_accounting_that_lags(slurm: EmulatedSlurm) -> None:
    slurm.faults.accounting_lag(3600)
    wrap(slurm)
    wait_until(lambda: states(slurm) == {"wrap": "COMPLETED"}, "the job")
    assert slurm.run("sacct", "-X", "-n").stdout == ""
    slurm.faults.accounting_lag(0)
    wrap(slurm, "true", "-J", "second")
    wait_until(lambda: "second" in slurm.run("sacct", "-X", "-n", "-o", "JobName").stdout, "the second job's row")


def test_a_database_that_is_down(slurm: EmulatedSlurm) -> None:
    slurm.faults.database_down(True)
    found = slurm.run("sacct", "-X")
    assert found.returncode == 1
    assert "Problem talking to the database" in found.stderr
    assert wrap(slurm).returncode == 0
    slurm.controller.stop()
    assert slurm.run("sacct", "-X").returncode == 1


def test_a_slow_command(slurm: EmulatedSlurm) -> None:
    slurm.faults.slow("squeue", 30)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["squeue"], env={**os.environ, **slurm.environment}, timeout=0.3, check=False)
    assert slurm.run("sinfo").returncode == 0


def test_calls_are_counted_even_when_nobody_answers(slurm: EmulatedSlurm) -> None:
    slurm.run("squeue")
    slurm.controller.stop()
    slurm.run("squeue")
    slurm.run("scontrol", "ping")
    counts = slurm.calls()
    assert (counts["squeue"], counts["scontrol"], counts["sbatch"]) == (2, 1, 0)


# -- the end -----------------------------------------------------------------------------------------------------------

OWNER = """
import os, sys, time
from pathlib import Path
from orchestrator.testing import EmulatedSlurm
slurm = EmulatedSlurm(Path(sys.argv[1])).start()
slurm.run("sbatch", "-o", "/dev/null", "--wrap", f"echo $$ > {sys.argv[1]}/job; sleep 300")
print(slurm.controller.pid, flush=True)
time.sleep(300)
"""


def test_nothing_outlives_the_one_who_started_it(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", OWNER, str(tmp_path / "slurm")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        controller = int(owner.stdout.readline())
        note = tmp_path / "slurm" / "job"
        job = _number(note)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not _alive(controller), "the controller to end")
    wait_until(lambda: not _alive(job), "the job to end")


def _number(note: Path) -> int:
    """What a job wrote down, as soon as it is there."""
    wait_until(lambda: note.exists() and note.read_text().endswith("\n"), f"a number in {note}")
    return int(note.read_text())


def _alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_the_end_of_the_block_ends_every_process(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with EmulatedSlurm(tmp_path / "slurm", contain_processes=False) as slurm:
        wrap(slurm, f"(setsid sh -c 'echo $$ > {note}; exec sleep 300' &); sleep 300")
        pid = _number(note)
    wait_until(lambda: not _alive(pid), "the process that fled")


def test_a_drained_node_takes_no_jobs(slurm: EmulatedSlurm) -> None:
    slurm.drain_node("n1", "disk")
    wrap(slurm, "sleep 300")
    wait_until(lambda: states(slurm) == {"wrap": "RUNNING"}, "the job")
    assert slurm.jobs()[0].nodes == ["n2"]
    assert slurm.run("sinfo", "-h", "-N", "-n", "n1", "-o", "%t|%E").stdout == "drain|disk\n"


def test_a_hung_controller_reads_a_script_from_standard_input(slurm: EmulatedSlurm) -> None:
    slurm.controller.hang()
    subprocess.run(
        [str(slurm.folder.bin / "sbatch"), "-J", "stdin", "-o", "/dev/null"],
        input="#!/bin/sh\n",
        text=True,
        capture_output=True,
        check=False,
    )
    slurm.controller.resume()
    assert set(states(slurm)) == {"stdin"}


def test_faults_outlive_the_controller(slurm: EmulatedSlurm) -> None:
    slurm.faults.database_down(True)
    slurm.controller.stop()
    slurm.controller.start()
    assert slurm.run("sacct", "-X").returncode == 1
    slurm.faults.database_down(False)
    assert slurm.run("sacct", "-X").returncode == 0
