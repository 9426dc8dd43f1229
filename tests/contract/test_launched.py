"""What reaches a command that srun starts, and what is known of its use; whom a signal of Slurm's reaches."""

import sys
from pathlib import Path

import pytest

from tests.contract.looking import ended, job_of, until_file
from tests.support.service import RealServer
from tests.support.sites import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
TWO_NODES = {"nodes": 2, "tasks_per_node": 1, "cpus": 1, "time": 10}
USES = (
    "import os, time\nheld = b'x' * ((80 + 80 * int(os.environ['RANK'])) << 20)\nwhile time.process_time() < 1: pass\n"
)
CATCHES = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(print('caught', flush=True)))\n"
    "open(sys.argv[1] + '/ready.' + os.environ['RANK'], 'w')\n"
    "while True: signal.pause()\n"
)


def test_the_use_of_a_run_on_two_nodes_is_that_of_its_tasks(orc: RealServer, files: Path) -> None:
    (files / "uses.py").write_text(USES)
    run = orc.over(orc.run(f"{sys.executable} {files}/uses.py", resources=TWO_NODES, launch="env")["id"], 60)
    assert run["status"] == "finished"
    assert 2 <= run["cpu_seconds"] < 6
    assert 160 << 20 <= run["peak_memory_bytes"] < 230 << 20  # of the node that used more


def test_the_use_of_a_run_is_unknown_where_a_task_was_killed(orc: RealServer, files: Path) -> None:
    # The other is there before: Slurm tells no node to end a step's task that it is still starting.
    command = (
        f"[ $RANK = 0 ] && {{ touch {files}/there; sleep 300; }}; {until_file(files / 'there')}; kill -9 $PPID; exit 3"
    )
    run = orc.over(orc.run(command, resources=TWO_NODES, launch="env")["id"], 60)
    assert run["status"] == "failed"
    assert (run["cpu_seconds"], run["peak_memory_bytes"]) == (None, None)


def test_a_task_that_ignores_term_is_killed_once_another_has_failed(orc: RealServer, files: Path) -> None:
    ignores = f"trap '' TERM; touch {files}/there; while :; do sleep 0.1; done"
    command = f"[ $RANK = 0 ] && {{ {ignores}; }}; {until_file(files / 'there')}; exit 3"
    run = orc.over(orc.run(command, resources=TWO_NODES, launch="env")["id"], 60)
    assert (run["status"], run["exit_code"]) == ("failed", 137)  # srun's: the highest of its tasks'


@pytest.mark.parametrize("code", [0, 5])
def test_a_task_ends_as_its_command_does(orc: RealServer, code: int) -> None:
    asked = TWO_NODES | {"nodes": 1}  # of two, the first that fails has srun end the other
    run = orc.over(orc.run(f"echo out; echo err >&2; exit {code}", resources=asked, launch="env")["id"], 60)
    assert run["exit_code"] == code
    assert {"out", "err"} <= set(orc.log(run["id"]).splitlines())


def test_every_task_gets_the_signal_asked_for_and_its_shell_outlives_it(
    orc: RealServer, slurm: Slurm, files: Path
) -> None:
    (files / "catches.py").write_text(CATCHES)
    command = f"{sys.executable} {files}/catches.py {files}; echo the shell lives"
    run = orc.run(command, resources=TWO_NODES, launch="env", signal="USR1@60")
    wait_until(lambda: len(list(files.glob("ready.*"))) == 2, "both tasks", 60)
    slurm.run("scancel", "--batch", "--signal=USR1", job_of(orc.until(run["id"], "running")))
    assert orc.over(run["id"])["status"] == "finished"
    lines = orc.log(run["id"]).splitlines()
    assert (lines.count("caught"), lines.count("the shell lives")) == (2, 2)


def test_a_term_to_the_batch_shell_alone_reaches_the_command(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = orc.run(f"trap 'echo told; exit 4' TERM; touch {files}/ready; {until_file(files / 'go')}")
    wait_until((files / "ready").exists, "the command's trap")
    slurm.run("scancel", "--batch", "--signal=TERM", job_of(orc.until(run["id"], "running")))
    assert orc.over(run["id"])["exit_code"] == 4
    assert orc.log(run["id"]).splitlines().count("told") == 1


def test_a_term_to_the_whole_job_reaches_the_command_once(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run = orc.run(f"trap 'echo told' TERM; touch {files}/ready; {until_file(files / 'go')}")
    wait_until((files / "ready").exists, "the command's trap")
    job = job_of(orc.until(run["id"], "running"))
    slurm.run("scancel", job)  # and KILL after KillWait
    wait_until(lambda: ended(slurm, job), "the job's end", 60)
    orc.over(run["id"])
    assert orc.log(run["id"]).splitlines().count("told") == 1
