"""A tool that submits jobs and waits for them, tested against an emulated Slurm: as your own tests would do it.

pytest docs/examples
"""

import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.testing import EmulatedSlurm, Node, SlurmEmulator

pytest_plugins = ["orchestrator.testing.plugin"]


# -- the tool under test -----------------------------------------------------------------------------------------------


def submit(script: Path, *options: str) -> str:
    """The job's id; an sbatch that loses its answer is looked up by its name, and never sent twice."""
    name = f"tool-{script.stem}"
    command = ["sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null", *options, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    if "Socket timed out" not in done.stderr:
        raise RuntimeError(done.stderr)
    known = subprocess.run(["squeue", "-h", "-n", name, "-o", "%A"], capture_output=True, text=True, check=True)
    return known.stdout.strip()


def wait(job_id: str, seconds: float = 20.0) -> str:
    """The state in which the job ends."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        command = ["squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T"]
        state = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if state not in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}:
            return state
        time.sleep(0.1)
    raise TimeoutError(job_id)


# -- its tests ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A job that really runs, and says which GPUs it has."""
    path = tmp_path / "train.sh"
    path.write_text(f"#!/bin/bash\necho $CUDA_VISIBLE_DEVICES >> {tmp_path}/ran\n")
    return path


def test_a_job_runs_with_its_gpus(emulated_slurm: EmulatedSlurm, script: Path) -> None:
    assert wait(submit(script, "--gres=gpu:2")) == "COMPLETED"
    assert (script.parent / "ran").read_text() == "0,1\n"


def test_an_answer_that_is_lost_does_not_submit_twice(emulated_slurm: EmulatedSlurm, script: Path) -> None:
    emulated_slurm.faults.lose_answers(1)
    assert wait(submit(script)) == "COMPLETED"
    assert emulated_slurm.calls()["sbatch"] == 1
    assert len((script.parent / "ran").read_text().splitlines()) == 1


def test_a_failed_node_is_told(slurm_emulator: SlurmEmulator, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = slurm_emulator([Node("n1")], job_requeue=False)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    script.write_text("#!/bin/bash\n#EMULATE duration=600\n")  # pretends: no process, however long it takes
    job_id = submit(script)
    while slurm.jobs()[0].state != "RUNNING":
        time.sleep(0.05)
    slurm.fail_node("n1")
    assert wait(job_id) == "NODE_FAIL"
