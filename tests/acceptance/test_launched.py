"""What starts by way of srun or in a container, beside job.py: signals reach the command, and its use is known.

srun and apptainer are stand-ins that do with signals what the real ones do: apptainer catches them and hands them to
its first process; srun blocks them, waits for them in a thread, and gives them to every process of its tasks.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import job
from orchestrator.executors.base import Task
from orchestrator.executors.preparing import Preparer
from orchestrator.resources import Container, Resources
from orchestrator.rundir import AttemptDir, RunDir
from orchestrator.slurm.script import Templates
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

SRUN = f"""#!{sys.executable} -IS
import os, signal, sys, threading
sys.path.insert(0, {str(Path(str(job.__file__)).parent)!r})
import job

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
words = sys.argv[sys.argv.index("/bin/bash") :]
tasks = []
for rank in range(2):
    given = {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank), "SLURM_NNODES": "2"}}
    given |= {{"SLURM_NTASKS": "2", "SLURMD_NODENAME": f"n{{rank + 1}}"}}
    tasks.append(os.posix_spawn(words[0], words, os.environ | given, setsigmask=[], setpgroup=0))

def hand_on():
    while True:
        number = signal.sigwait([signal.SIGUSR1])
        job.signal_all([pid for task in tasks for pid in [task, *job.tree(task)]], number)

threading.Thread(target=hand_on, daemon=True).start()
ended = [os.waitpid(task, 0)[1] for task in tasks]
print("tasks:", *(os.waitstatus_to_exitcode(status) for status in ended), flush=True)
sys.stdout.flush()
os._exit(max(abs(os.waitstatus_to_exitcode(status)) for status in ended))
"""
APPTAINER = f"""#!{sys.executable} -IS
import contextlib, os, signal, sys

def hand_on(number, _):
    with contextlib.suppress(ProcessLookupError):  # what srun's own signal has ended is gone by then
        os.kill(inside, number)

words = sys.argv[sys.argv.index("/bin/bash") :]
signal.signal(signal.SIGUSR1, hand_on)
inside = os.posix_spawn(words[0], words, os.environ)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]) & 255)
"""
PROGRAM = (
    "import os, signal, sys, time\n"
    "told = []\n"
    "def caught(*_):\n"
    "    if not told:\n"  # srun and apptainer both tell
    "        told.append(1), os.write(1, b'caught\\n'), sys.exit(0)\n"
    "signal.signal(signal.SIGUSR1, caught)\n"
    "os.write(1, b'ready\\n')\n"
    "while True: time.sleep(0.05)\n"
)


STARTED: list["subprocess.Popen[bytes]"] = []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What a test that failed has left running is ended."""
    yield
    for process in STARTED:
        if process.poll() is None:
            job.signal_all([process.pid, *job.tree(process.pid)], signal.SIGKILL)
    STARTED.clear()


class Launched:
    """A run with a launcher, under job.py as Slurm starts it."""

    def __init__(self, folder: Path, command: str, **fields: Any) -> None:
        self.folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, text in (("srun", SRUN), ("apptainer", APPTAINER), ("scontrol", "#!/bin/sh\necho n1\n")):
            (bin_folder / name).write_text(text)
            (bin_folder / name).chmod(0o755)
        (folder / "program.py").write_text(PROGRAM)
        env = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": "/"}
        task = Task("r1", 1, command, **{"workdir": str(folder), "resources": Resources(), "env": env, **fields})
        preparer = Preparer(folder / "runs", [], Templates())
        self.run_dir = RunDir(folder / "runs", "r1")
        preparer.prepare(task, {"scheduler": "slurm", "subreaper": "1", "grace": "20"})

    @property
    def dir(self) -> AttemptDir:
        return self.run_dir.attempt(1)

    def start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(job.__file__), str(self.run_dir.path), "1"],
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "15", "SLURM_JOB_NODELIST": "n[1-2]"},
        )
        STARTED.append(process)
        return process

    def execute(self) -> dict[str, Any]:
        self.start().communicate(timeout=60)
        return self.record()

    def lines(self) -> list[str]:
        return self.dir.log_tail(100_000).splitlines()

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.dir.path / "exit.json").read_text()))

    def ranks(self) -> list[str]:
        return sorted(path.name for path in (self.dir.path / "ranks").glob("*"))


APPTAINERS, PYXIS = Container(image="x.sif"), Container(image="x.sqsh", engine="pyxis")
WAYS: dict[str, dict[str, Any]] = {
    "apptainer": {"container": APPTAINERS},
    "pyxis": {"container": PYXIS},
    "launch": {"launch": "env"},
    "launch and apptainer": {"launch": "torchrun", "container": APPTAINERS},
    "launch and pyxis": {"launch": "env", "container": PYXIS},
}


# -- signals -----------------------------------------------------------------------------------------------------------


def signalled(run: Launched, way: str) -> int:
    """Sends the signal once each task has said "ready", and waits for the run's end. How many tasks there are."""
    process, tasks = run.start(), 1 if way == "apptainer" else 2
    wait_until(lambda: run.lines().count("ready") == tasks or process.poll() is not None, "the tasks")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    return tasks


@pytest.mark.parametrize("way", WAYS)
def test_a_program_gets_the_signal_asked_for_and_no_shell_above_it_dies_of_it(tmp_path: Path, way: str) -> None:
    command = f"{sys.executable} -IS program.py; echo the shell lives; exit 3"
    run = Launched(tmp_path, command, signal="USR1@60", **WAYS[way])
    tasks = signalled(run, way)
    assert sorted(run.lines()[tasks:]) == sorted(
        ["caught"] * tasks + ["the shell lives"] * tasks + ([] if way == "apptainer" else ["tasks: 3 3"])
    )
    assert (run.record()["code"], run.record()["signal"]) == (3, None)


@pytest.mark.parametrize("way", WAYS)
def test_the_commands_own_shell_gets_the_signal_asked_for(tmp_path: Path, way: str) -> None:
    command = "trap 'trap : USR1; echo caught; exit 5' USR1; echo ready; while :; do :; done"
    run = Launched(tmp_path, command, signal="USR1@60", **WAYS[way])
    tasks = signalled(run, way)
    assert run.lines().count("caught") == tasks
    assert run.record()["code"] == 5


# -- what it used ------------------------------------------------------------------------------------------------------

MEMORY = (
    "import os, sys, time\n"
    "rank = int(os.environ['SLURM_PROCID'])\n"
    "held = b'x' * ((60 + 40 * rank) << 20)\n"
    "while time.process_time() < 0.3: pass\n"
)


@pytest.mark.parametrize("way", ["launch", "launch and apptainer", "pyxis"])
def test_the_use_of_all_tasks_is_known(tmp_path: Path, way: str) -> None:
    (tmp_path / "memory.py").write_text(MEMORY)
    run = Launched(tmp_path, f"{sys.executable} -IS memory.py", **WAYS[way])
    record = run.execute()
    assert (record["code"], record["memory_source"], run.ranks()) == (0, "ranks", ["0.json", "1.json"])
    assert 0.6 <= record["cpu_seconds"] < 3.0
    assert 100 << 20 <= record["peak_memory_bytes"] < 150 << 20  # of the second node alone
    exited = run.dir.exit()
    assert exited is not None
    assert exited.cpu_seconds == record["cpu_seconds"]


def test_tasks_on_one_node_use_its_memory_together(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    for rank, node in enumerate(["n1", "n2", "n2", "n3"]):
        found = {"node": node, "tasks": 4, "peak_memory_bytes": 100 + rank, "cpu_seconds": 1.25}
        (folder / f"{rank}.json").write_text(json.dumps(found))
    assert job.use_of_ranks(str(folder)) == (203, 5.0)


def test_the_use_is_unknown_where_one_task_was_killed(tmp_path: Path) -> None:
    run = Launched(tmp_path, "[ $RANK = 0 ] || kill -9 $PPID; exit 0", launch="env")
    record = run.execute()
    assert run.ranks() == ["0.json"]
    assert (record["peak_memory_bytes"], record["cpu_seconds"]) == (None, None)


@pytest.mark.parametrize("text", ["", '{"node": "n1"', None])
def test_the_use_is_unknown_where_a_record_is_missing_or_damaged(tmp_path: Path, text: str | None) -> None:
    folder = tmp_path / "ranks"
    if text is not None:
        folder.mkdir()
        (folder / "0.json").write_text(text)
    assert job.use_of_ranks(str(folder)) == (None, None)


def test_the_use_of_a_launcher_that_measures_nothing_is_unknown(tmp_path: Path) -> None:
    run = Launched(tmp_path, "true", launch="env")
    run.run_dir.launcher.write_text('. "$ORC_RUN_DIR/wrapper.sh"\n')  # as of a site's own template
    record = run.execute()
    assert (record["code"], record["peak_memory_bytes"], record["cpu_seconds"]) == (0, None, None)


def test_tasks_run_also_where_there_is_no_python_to_measure_them(tmp_path: Path) -> None:
    run = Launched(tmp_path, "echo here; exit 4", launch="env")
    text = run.run_dir.launcher.read_text()
    assert sys.executable in text
    for word in (sys.executable, "python3 ", "/usr/bin/python3"):
        text = text.replace(word, "/no/python ")
    run.run_dir.launcher.write_text(text)
    record = run.execute()
    assert (run.lines(), record["code"]) == (["here", "here", "tasks: 4 4"], 4)
    assert (record["peak_memory_bytes"], record["cpu_seconds"]) == (None, None)


def test_a_run_directory_keeps_no_job_py_that_it_does_not_need(tmp_path: Path) -> None:
    run = Launched(tmp_path, "true", launch="env")
    assert run.run_dir.job.read_text() == Path(str(job.__file__)).read_text()
    run.run_dir.prepare("true")
    assert not run.run_dir.job.exists()


# -- one task, alone ---------------------------------------------------------------------------------------------------


class Rank:
    """job.py beside one task."""

    def __init__(self, folder: Path, script: str, **options: Any) -> None:
        self.folder = folder / "ranks"
        env = {"PATH": "/usr/bin:/bin", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURMD_NODENAME": "n2"}
        words = [sys.executable, "-I", "-S", str(job.__file__), "--rank", str(self.folder), "/bin/bash", "-c", script]
        self.process = subprocess.Popen(
            words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
        STARTED.append(self.process)

    def end(self) -> tuple[int, str]:
        said = self.process.communicate(timeout=30)[0]
        return self.process.returncode, said.decode()

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "3.json").read_text()))


def test_a_task_leaves_its_record(tmp_path: Path) -> None:
    rank = Rank(tmp_path, "echo out; echo err >&2; echo out; exit 7")
    assert rank.end() == (7, "out\nerr\nout\n")
    assert (rank.record()["node"], rank.record()["tasks"]) == ("n2", 4)
    assert rank.record()["peak_memory_bytes"] > 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
def test_a_task_that_a_signal_killed_is_seen_to_have_been(tmp_path: Path, number: int) -> None:
    rank = Rank(tmp_path, f"kill -{int(number)} $$")
    assert rank.end() == (-number, "")
    assert rank.record()["tasks"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_to_the_process_group_reaches_the_task_once_and_its_record_is_left(
    tmp_path: Path, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    rank = Rank(tmp_path, f"trap 'echo caught; exit 9' {name}; echo ready; while :; do :; done")
    rank.ready()
    os.killpg(rank.process.pid, number)
    assert rank.end() == (9, "caught\n")
    assert rank.record()["tasks"] == 4


def test_a_signal_that_comes_before_there_is_a_task_reaches_it(tmp_path: Path) -> None:
    """As with a step that srun ends while its last task is still being started: it is told once."""
    source = (
        f"import os, signal, sys\nsys.path.insert(0, {str(Path(str(job.__file__)).parent)!r})\nimport job\n"
        "job.become_subreaper = lambda: os.killpg(0, signal.SIGTERM)\n"
        f"sys.exit(job.Rank({str(tmp_path / 'ranks')!r}, ['/bin/bash', '-c', 'sleep 300']).run())"
    )
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", source], start_new_session=True, env={"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
    )
    STARTED.append(process)
    assert process.wait(30) == -signal.SIGTERM
    assert (tmp_path / "ranks" / "3.json").exists()


@pytest.mark.parametrize("ending", ["exit 3", "kill -9 $$"])
def test_a_task_that_starts_after_another_has_failed_ends_at_once(tmp_path: Path, ending: str) -> None:
    """Slurm does not end the step on a node that has yet to start its tasks."""
    Rank(tmp_path, "exit 0").end()
    assert Rank(tmp_path, "echo runs").end() == (0, "runs\n")
    Rank(tmp_path, ending).end()
    status, said = Rank(tmp_path, "echo runs").end()
    assert (status, "runs" in said, "has failed" in said) == (1, False, True)


def test_a_task_sees_the_signals_that_it_would_see_alone(tmp_path: Path) -> None:
    status, said = Rank(tmp_path, "grep -E '^Sig(Ign|Blk)' /proc/self/status").end()
    internal = 0x180000000  # signals 32 and 33, which the C library keeps for itself
    assert status == 0
    assert {int(line.split()[1], 16) & ~internal for line in said.splitlines()} == {0}


def test_what_leaves_the_tasks_tree_is_counted_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "burn.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "while time.process_time() < 0.4: pass\n"
    )
    pid = f"{tmp_path}/pid"
    # Once nothing has its PID any more, job.py has waited for it.
    until = f"until [ -s {pid} ] && ! kill -0 $(cat {pid}) 2>/dev/null; do sleep 0.02; done"
    rank = Rank(tmp_path, f"(setsid {sys.executable} -IS {tmp_path}/burn.py &); {until}; (sleep 60 &>/dev/null &)")
    assert rank.end() == (0, "")
    assert rank.record()["cpu_seconds"] >= 0.4


def test_a_record_that_cannot_be_written_costs_the_task_nothing(tmp_path: Path) -> None:
    (tmp_path / "ranks").touch()
    assert Rank(tmp_path, "echo done").end() == (0, "done\n")
