"""job.py under Slurm: requeues go on to the next attempt, exit statuses and signals reach those that they are for."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import job
from orchestrator.rundir import AttemptDir, RunDir
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

NOTHING = b"nothing to do"


class Attempt:
    """A run whose first attempt is prepared as the service does it for Slurm."""

    def __init__(self, folder: Path, command: str, **settings: str) -> None:
        self.folder = folder
        self.run_dir = RunDir(folder, "run")
        self.run_dir.prepare(command)
        given = {"workdir": str(folder), "grace": "0.5", "scheduler": "slurm", "subreaper": "1", **settings}
        env = {"PATH": "/usr/bin:/bin", "HOME": "/", **self.run_dir.standard_env("run", None, 1)}
        self.dir.prepare(given, env)

    @property
    def dir(self) -> AttemptDir:
        return self.run_dir.attempt(1)

    def start(self, job_id: str = "15", restart: int | None = None, **env: str) -> "subprocess.Popen[bytes]":
        """job.py, as the batch script of a job starts it."""
        slurm = {"SLURM_JOB_ID": job_id} | ({} if restart is None else {"SLURM_RESTART_COUNT": str(restart)})
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(job.__file__), str(self.run_dir.path), "1"],
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin"} | slurm | env,
        )

    def execute(self, job_id: str = "15", restart: int | None = None, **env: str) -> tuple[int, bytes]:
        """Runs it to its end: its exit status, and what it had to say."""
        process = self.start(job_id, restart, **env)
        said = process.communicate(timeout=30)[1]
        return process.returncode, said

    def record(self, number: int = 1) -> dict[str, Any]:
        return dict(json.loads((self.run_dir.attempt(number).path / "exit.json").read_text()))

    def log(self, number: int = 1) -> str:
        return self.run_dir.attempt(number).log_tail(10_000)

    def ready(self, process: "subprocess.Popen[bytes]", word: str = "ready") -> None:
        wait_until(lambda: word in self.log() or process.poll() is not None, word)
        assert word in self.log()


def attempts(run: Attempt) -> list[str]:
    return sorted(path.name for path in (run.run_dir.path / "attempts").iterdir())


# -- requeues ----------------------------------------------------------------------------------------------------------


def test_a_requeued_job_goes_on_to_the_next_attempt(tmp_path: Path) -> None:
    run = Attempt(tmp_path, 'echo "attempt $ORC_ATTEMPT, $WANDB_RESUME"; exit 3')
    assert run.execute()[0] == 3
    assert run.execute(restart=1)[0] == 3
    assert (run.log(1), run.log(2)) == ("attempt 1, \n", "attempt 2, allow\n")
    assert (run.record(1)["attempt"], run.record(2)["attempt"]) == (1, 2)
    assert (run.run_dir.latest(1), run.dir.requeued()) == (2, True)
    claim = run.run_dir.attempt(2).claim()
    assert claim is not None
    assert (claim.job_id, claim.restart) == ("15", 1)


def test_each_requeue_goes_on_to_an_attempt_of_its_own(tmp_path: Path) -> None:
    run = Attempt(tmp_path, "echo $ORC_ATTEMPT; exit 1")
    for restart in range(4):
        run.execute(restart=restart)
    assert [run.log(number) for number in range(1, 5)] == ["1\n", "2\n", "3\n", "4\n"]
    assert run.run_dir.latest(1) == 4


def test_a_requeue_that_was_missed_between_leaves_no_gap(tmp_path: Path) -> None:
    run = Attempt(tmp_path, "exit 1")
    run.execute()
    run.execute(restart=3)  # the starts in between died before they claimed anything
    assert attempts(run) == ["1", "2"]
    claim = run.run_dir.attempt(2).claim()
    assert claim is not None
    assert claim.restart == 3


@pytest.mark.parametrize(("job_id", "restart"), [("15", None), ("15", 0), ("16", None), ("16", 1), ("", None), ("", 1)])
def test_a_second_start_that_is_no_requeue_executes_nothing(tmp_path: Path, job_id: str, restart: int | None) -> None:
    run = Attempt(tmp_path, f"echo once >> {tmp_path}/executed; exit 1")
    run.execute()
    status, said = run.execute(job_id, restart)
    assert (status, NOTHING in said) == (0, True)
    assert (tmp_path / "executed").read_text() == "once\n"
    assert attempts(run) == ["1"]
    assert not (run.dir.path / "next").exists()


def test_the_same_requeue_twice_executes_once(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo $ORC_ATTEMPT >> {tmp_path}/executed")
    run.execute()
    run.execute(restart=1)
    assert NOTHING in run.execute(restart=1)[1]
    assert (tmp_path / "executed").read_text() == "1\n2\n"


def test_starts_at_once_of_one_requeue_execute_once(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo $ORC_ATTEMPT >> {tmp_path}/executed")
    run.execute()
    for process in [run.start(restart=1) for _ in range(5)]:
        process.communicate(timeout=30)
    assert (tmp_path / "executed").read_text() == "1\n2\n"


def test_another_job_does_not_go_on_where_a_requeued_one_did(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo $ORC_ATTEMPT >> {tmp_path}/executed")
    run.execute()
    run.execute(restart=1)
    assert NOTHING in run.execute("16", 5)[1]
    assert (tmp_path / "executed").read_text() == "1\n2\n"


def test_what_the_service_has_closed_is_not_gone_on_with(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo once >> {tmp_path}/executed; exit 1")
    run.execute()
    assert run.dir.close()
    status, said = run.execute(restart=1)
    assert (status, NOTHING in said) == (0, True)
    assert (tmp_path / "executed").read_text() == "once\n"
    assert (attempts(run), run.dir.requeued()) == (["1"], False)


def test_the_service_cannot_close_what_a_requeued_job_has_gone_on_from(tmp_path: Path) -> None:
    run = Attempt(tmp_path, "exit 1")
    run.execute()
    run.execute(restart=1)
    assert not run.dir.close()
    assert run.run_dir.attempt(2).close()
    assert NOTHING in run.execute(restart=2)[1]


def test_a_withdrawn_attempt_is_executed_by_no_requeue(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"touch {tmp_path}/executed")
    assert run.dir.withdraw()
    for restart in (0, 1):
        assert NOTHING in run.execute(restart=restart)[1]
    assert not (tmp_path / "executed").exists()
    assert attempts(run) == ["1"]


def test_a_requeue_goes_on_where_the_job_was_cut_off_between_next_and_its_claim(tmp_path: Path) -> None:
    run = Attempt(tmp_path, "echo $ORC_ATTEMPT")
    run.execute()
    (run.dir.path / "next").write_text("by=job\njob_id=15\nrestart=1\n")  # and then its node failed
    assert run.execute(restart=2)[0] == 0
    assert run.log(2) == "2\n"


def test_the_next_attempts_launch_file_is_as_private_as_the_first(tmp_path: Path) -> None:
    run = Attempt(tmp_path, "true")
    run.execute()
    run.execute(restart=1)
    second = run.run_dir.attempt(2)
    assert second.launch.read_bytes() == run.dir.launch.read_bytes()
    assert (second.launch.stat().st_mode & 0o777, second.path.stat().st_mode & 0o777) == (0o600, 0o700)


# -- as a task of a submission -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [None, 0, 1])
def test_a_task_takes_its_own_run(tmp_path: Path, index: int | None) -> None:
    runs = [Attempt(tmp_path / name, "echo $ORC_RUN_ID; exit 4") for name in ("a", "b")]
    submission = tmp_path / "submission"
    submission.mkdir()
    (submission / "tasks").write_text("\0".join(f"1 {run.run_dir.path}" for run in runs))
    env = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "15"} | (
        {} if index is None else {"SLURM_ARRAY_TASK_ID": str(index)}
    )
    command = [sys.executable, "-I", "-S", str(job.__file__), "--submission", str(submission)]
    assert subprocess.run(command, env=env, check=False, capture_output=True).returncode == 4
    assert [run.dir.claim() is not None for run in runs] == [(index or 0) == place for place in range(2)]


# -- exit statuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "scheduler", "status"),
    [
        ("exit 0", "slurm", 0),
        ("exit 7", "slurm", 7),
        ("exit 255", "slurm", 255),
        ("kill -9 $$", "slurm", 137),
        ("kill -TERM $$", "slurm", 143),
        ("exit 7", "", 0),
        ("kill -9 $$", "", 0),
    ],
)
def test_under_slurm_its_exit_status_is_the_commands_own(
    tmp_path: Path, command: str, scheduler: str, status: int
) -> None:
    assert Attempt(tmp_path, command, scheduler=scheduler).execute()[0] == status


def test_a_command_that_cannot_be_started_is_a_failure_for_slurm_too(tmp_path: Path) -> None:
    run = Attempt(tmp_path, "true", workdir=str(tmp_path / "missing"))
    assert run.execute()[0] == 1
    assert run.record()["reason"] == "BAD_WORKDIR"


# -- signals -----------------------------------------------------------------------------------------------------------

WAIT = "while :; do sleep 0.05; done"


@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_signal_is_handed_to_the_shell_that_catches_it(tmp_path: Path, name: str) -> None:
    run = Attempt(tmp_path, f"trap 'echo caught; exit 5' {name}; echo ready; {WAIT}")
    process = run.start()
    run.ready(process)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=30)
    assert (process.returncode, run.log()) == (5, "ready\ncaught\n")
    assert not run.record()["stopped"]


PROGRAM = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.SIGUSR1, lambda *_: (os.write(1, b'program caught\\n'), sys.exit(6)))\n"
    "os.write(1, b'ready\\n')\n"
    "while True: time.sleep(0.05)\n"
)


def test_a_signal_is_handed_through_a_shell_that_does_not_catch_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run = Attempt(tmp_path, f"{sys.executable} -I -S {tmp_path}/program.py; code=$?; echo the shell lives; exit $code")
    process = run.start()
    run.ready(process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert (process.returncode, run.log()) == (6, "ready\nprogram caught\nthe shell lives\n")


def test_nobody_below_one_that_catches_a_signal_is_given_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f"trap 'echo shell caught; kill $!; exit 0' USR1; {sys.executable} -I -S {tmp_path}/program.py & wait"
    run = Attempt(tmp_path, command)
    process = run.start()
    run.ready(process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert run.log() == "ready\nshell caught\n"


def test_a_signal_that_nobody_catches_kills_nobody(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo ready; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo went on")
    process = run.start()
    run.ready(process)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: not _pending(process.pid, signal.SIGUSR1), "the signal is taken")
    (tmp_path / "go").touch()
    process.communicate(timeout=30)
    assert (process.returncode, run.log()) == (0, "ready\nwent on\n")


def _pending(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) >> (number - 1) & 1 for line in lines if line.startswith(("SigPnd", "ShdPnd")))


def _witness(process: "subprocess.Popen[bytes]", run: Attempt) -> int:
    """The process that job.py keeps beside the command, once it is there."""

    def found() -> list[int]:
        started = run.dir.started()
        return [pid for pid in job.children(process.pid) or [] if started and pid != started["command_pid"]]

    return int(wait_until(found, "the witness")[0])


def _said(run: Attempt) -> list[str]:
    """The command's own words: bash tells of the sleeps that a signal has ended."""
    return [line for line in run.log().splitlines() if line != "Terminated"]


def _as_slurm(process: "subprocess.Popen[bytes]", number: int) -> None:
    """A signal to every process of the job, as slurmstepd sends it: all have it before job.py looks."""
    below = job.tree(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    job.signal_all([process.pid, *below], number)
    witness = [pid for pid in below if job.arguments(pid)[-1:] == [b"read"]]
    wait_until(lambda: not any(map(job.lives, witness)), "the witness's end")
    os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_term_that_slurm_has_sent_to_all_is_not_sent_again(tmp_path: Path, number: int) -> None:
    run = Attempt(tmp_path, f"trap 'echo told' TERM INT; echo ready; {WAIT}", grace=str(3 * job.TOLD_WITHIN))
    process = run.start()
    _witness(process, run)
    run.ready(process)
    _as_slurm(process, number)
    process.communicate(timeout=30)  # killed after the grace: a second TERM would have come long before
    assert (_said(run), run.record()["stopped"], run.record()["signal"]) == (["ready", "told"], True, 9)


def test_a_term_that_slurm_has_sent_to_the_batch_shell_alone_is_handed_on(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"trap 'echo told; exit 4' TERM; echo ready; {WAIT}", grace="20")
    process = run.start()
    _witness(process, run)
    run.ready(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (_said(run), run.record()["stopped"], run.record()["code"]) == (["ready", "told"], True, 4)


def test_a_term_is_handed_on_once_and_the_grace_follows_it(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"trap 'echo told' TERM; echo ready; {WAIT}", grace="1.5")
    process = run.start()
    run.ready(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    record = run.record()
    assert (_said(run), record["signal"]) == (["ready", "told"], 9)


def test_a_term_to_a_process_group_is_handed_on_to_the_commands_own(tmp_path: Path) -> None:
    """As with proctrack/pgid: the command has a session of its own."""
    run = Attempt(tmp_path, f"trap 'echo told; exit 4' TERM; echo ready; {WAIT}", grace="20")
    process = run.start()
    run.ready(process)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert (_said(run), run.record()["code"]) == (["ready", "told"], 4)


def test_a_term_that_comes_while_the_witness_is_started_is_handed_on(tmp_path: Path) -> None:
    """It may have been in job.py's own process group then, which is not the command's."""
    run = Attempt(tmp_path, f"trap 'echo told; exit 4' TERM; echo ready; {WAIT}", grace="20")
    source = (
        f"import os, signal, sys, time\nsys.path.insert(0, {str(Path(str(job.__file__)).parent)!r})\nimport job\n"
        "def early(words, *others):\n"
        "    pid = spawn(words, *others)\n"
        f"    while words[-1] == 'read' and 'ready' not in open({str(run.dir.log)!r}).read(): time.sleep(0.01)\n"
        "    for told in [pid, os.getpid()] if words[-1] == 'read' else []:\n"
        "        os.kill(told, signal.SIGTERM)\n"
        "    return pid\n"
        "spawn, job.spawn = job.spawn, early\n"
        f"sys.exit(job.main(['job.py', {str(run.run_dir.path)!r}, '1']))"
    )
    subprocess.run([sys.executable, "-IS", "-c", source], env={"SLURM_JOB_ID": "15"}, timeout=30, check=False)
    assert (_said(run), run.record()["code"]) == (["ready", "told"], 4)


def test_a_witness_that_ended_otherwise_keeps_no_term_back(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"trap 'echo told; exit 4' TERM; echo ready; {WAIT}", grace="20")
    process = run.start()
    witness = _witness(process, run)
    run.ready(process)
    os.kill(witness, signal.SIGUSR1)
    wait_until(lambda: not Path(f"/proc/{witness}").exists(), "the witness is gone")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (_said(run), run.record()["code"]) == (["ready", "told"], 4)


@pytest.mark.parametrize("ending", ["exit 3", "kill -9 $PPID"])
def test_no_witness_outlives_job_py(tmp_path: Path, ending: str) -> None:
    run = Attempt(tmp_path, f"echo ready; until [ -e {tmp_path}/go ]; do sleep 0.05; done; {ending}")
    process = run.start()
    witness = _witness(process, run)
    (tmp_path / "go").touch()
    process.communicate(timeout=30)
    wait_until(lambda: not job.lives(witness), "the witness's end")


def test_where_no_scheduler_sends_signals_there_is_no_witness(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo ready; until [ -e {tmp_path}/go ]; do sleep 0.05; done", scheduler="")
    process = run.start()
    run.ready(process)
    started = wait_until(run.dir.started, "started.json")
    assert job.children(process.pid) == [started["command_pid"]]
    (tmp_path / "go").touch()
    process.communicate(timeout=30)


WAITS = (
    "import signal, threading\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
    "thread = threading.Thread(target=lambda: signal.sigwait([signal.SIGUSR1]))\n"
    "thread.start()\n"
    "print('ready', flush=True)\n"
    "thread.join()\n"
    "print('waited for', flush=True)\n"
)


def test_a_signal_is_handed_to_a_program_that_waits_for_it_in_a_thread_as_srun_does(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WAITS)
    run = Attempt(tmp_path, f"{sys.executable} -I -S {tmp_path}/program.py; echo the shell lives")
    process = run.start()
    run.ready(process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert run.log() == "ready\nwaited for\nthe shell lives\n"


# -- heartbeats --------------------------------------------------------------------------------------------------------


def test_a_stop_file_is_obeyed_at_a_heartbeat(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"trap 'echo told; exit 9' TERM; echo ready; {WAIT}", heartbeat="0.1", grace="20")
    process = run.start()
    run.ready(process)
    run.dir.ask_to_stop()
    process.communicate(timeout=30)
    assert (process.returncode, run.log().endswith("told\n")) == (9, True)
    assert (run.record()["stopped"], run.record()["code"]) == (True, 9)


def test_a_stop_file_ends_a_command_that_does_not_heed_term(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"trap '' TERM; echo ready; {WAIT}", heartbeat="0.1", grace="0.2")
    process = run.start()
    run.ready(process)
    run.dir.ask_to_stop()
    process.communicate(timeout=30)
    assert (process.returncode, run.record()["signal"], run.record()["stopped"]) == (137, 9, True)


def test_a_heartbeat_renews_the_claim(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo ready; until [ -e {tmp_path}/go ]; do sleep 0.05; done", heartbeat="0.1")
    process = run.start()
    run.ready(process)
    os.utime(run.dir.path / "claim", (1.0, 1.0))
    wait_until(lambda: (run.dir.beat() or 0) > 1.0, "a beat")
    (tmp_path / "go").touch()
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_without_a_heartbeat_the_claim_stays_as_it_was_made(tmp_path: Path) -> None:
    run = Attempt(tmp_path, f"echo ready; until [ -e {tmp_path}/go ]; do sleep 0.05; done")
    process = run.start()
    run.ready(process)
    os.utime(run.dir.path / "claim", (1.0, 1.0))
    run.dir.ask_to_stop()
    (tmp_path / "go").touch()
    process.communicate(timeout=30)
    assert (run.dir.beat(), run.record()["stopped"]) == (1.0, False)
