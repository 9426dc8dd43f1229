"""job.py from its own side: a run directory made by hand, the records that it leaves."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import job
from orchestrator.rundir import AttemptDir, RunDir
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


class Attempt:
    """One attempt of one run, prepared as the service does it."""

    def __init__(self, folder: Path, command: str, **settings: str) -> None:
        self.run_dir = RunDir(folder, "run")
        self.run_dir.prepare(command)
        self.dir: AttemptDir = self.run_dir.attempt(1)
        given = {"workdir": str(folder), "grace": "0.5", "subreaper": "1", **settings}
        env = {"PATH": "/usr/bin:/bin", "HOME": "/", **self.run_dir.standard_env("run", None, 1)}
        self.dir.prepare(given, env)

    def start(self, **options: Any) -> "subprocess.Popen[bytes]":
        """job.py, as a process."""
        command = [sys.executable, str(job.__file__), str(self.run_dir.path), "1"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, **options)

    def execute(self, **options: Any) -> dict[str, Any]:
        """Runs job.py to its end: the exit record."""
        process = self.start(**options)
        process.communicate(timeout=30)
        return self.record()

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.dir.path / "exit.json").read_text()))

    def log(self) -> str:
        return self.dir.log.read_text()


def test_the_records_of_a_run_that_finishes(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "pwd; echo $ORC_RUN_ID; exit 7")
    record = attempt.execute()
    assert attempt.log() == f"{tmp_path}\nrun\n"
    assert (record["code"], record["signal"], record["stopped"], record["timed_out"]) == (7, None, False, False)
    assert record["peak_memory_bytes"] > 0
    claim, started = attempt.dir.claim(), attempt.dir.started()
    assert claim is not None
    assert started is not None
    assert (started["pid"], started["gpus"]) == (claim.process.pid, [])
    assert claim.at <= started["started_at"] <= record["ended_at"]
    assert sorted(path.name for path in attempt.dir.path.iterdir()) == [
        *("claim", "exit.json", "launch", "output.log", "started.json"),
    ]


def test_a_second_job_finds_the_claim_and_ends_at_once(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, f"echo once >> {tmp_path}/executed")
    attempt.execute()
    again = attempt.start()
    assert b"claimed by another job" in again.communicate(timeout=30)[1]
    assert (again.returncode, (tmp_path / "executed").read_text()) == (0, "once\n")


def test_eight_jobs_at_once_execute_once(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, f"echo once >> {tmp_path}/executed")
    for process in [attempt.start() for _ in range(8)]:
        process.communicate(timeout=60)
    assert (tmp_path / "executed").read_text() == "once\n"


def test_a_withdrawn_attempt_is_not_executed(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, f"touch {tmp_path}/executed")
    assert attempt.dir.withdraw()
    assert attempt.dir.withdraw()
    attempt.start().communicate(timeout=30)
    assert not (tmp_path / "executed").exists()


def test_a_claimed_attempt_cannot_be_withdrawn(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "true")
    attempt.execute()
    assert not attempt.dir.withdraw()


def test_the_time_limit_ends_the_tree(tmp_path: Path) -> None:
    for limit in (0.3, 3, 30):  # the first that leaves the shell the time to set its trap
        attempt = Attempt(tmp_path, "trap '' TERM; echo set; sleep 60 & wait; sleep 60", time_limit=str(limit))
        record = attempt.execute()
        if attempt.log():
            break
        shutil.rmtree(attempt.run_dir.path)
    assert (record["timed_out"], record["signal"]) == (True, 9)
    assert record["ended_at"] - record["started_at"] >= limit


def test_term_is_passed_on_and_what_ends_well_ends_well(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done", grace="20")
    process = attempt.start()
    wait_until(lambda: attempt.dir.log.exists() and "ready" in attempt.log())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (attempt.record()["stopped"], attempt.record()["code"]) == (True, 0)
    assert attempt.log().endswith("saved\n")


def test_what_is_left_is_ended_also_where_it_hides(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    Attempt(
        tmp_path, f"(setsid bash -c 'trap \"\" TERM; echo $$ > {pids}; sleep 60' &) ; until [ -s {pids} ]; do :; done"
    ).execute()
    state = Path(f"/proc/{pids.read_text().strip()}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] in "ZX"


@pytest.mark.parametrize(("where", "reason"), [("missing", "BAD_WORKDIR"), ("file", "BAD_WORKDIR")])
def test_a_workdir_that_is_gone_is_told(tmp_path: Path, where: str, reason: str) -> None:
    (tmp_path / "file").touch()
    record = Attempt(tmp_path, "true", workdir=str(tmp_path / where)).execute()
    assert (record["reason"], record["code"]) == (reason, None)
    assert "could not be started" in record["error"]


def test_a_shell_that_is_not_there_is_told(tmp_path: Path) -> None:
    record = Attempt(tmp_path, "true", shell="/no/such/bash").execute()
    assert (record["reason"], "/no/such/bash" in record["error"]) == (None, True)


def test_ignored_signals_are_not_inherited(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "grep -E '^Sig(Ign|Blk)' /proc/self/status")
    attempt.execute()
    internal = 0x180000000  # signals 32 and 33, which the C library keeps for itself
    assert {int(line.split()[1], 16) & ~internal for line in attempt.log().splitlines()} == {0}


def test_what_the_allocation_gives_reaches_the_command_and_the_rest_does_not(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "env")
    env = {"ORC_ALLOC_CUDA_VISIBLE_DEVICES": "GPU-a", "SECRET": "x", "ORC_GPUS": '[{"index": 0, "uuid": "GPU-a"}]'}
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COV")}
    attempt.execute(env=env | coverage)
    seen = dict(line.split("=", 1) for line in attempt.log().splitlines() if "=" in line)
    assert seen["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert not {"SECRET", "ORC_ALLOC_CUDA_VISIBLE_DEVICES"} & set(seen)
    assert (attempt.dir.started() or {})["gpus"] == [{"index": 0, "uuid": "GPU-a"}]


def test_leases_are_let_go_at_the_end_and_their_notes_taken_away(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "true")
    (tmp_path / "gpu").mkdir()
    fd = os.open(tmp_path / "gpu", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    note, others = tmp_path / "lease.a.0", tmp_path / "lease.b.0"
    process = attempt.start(
        env={**os.environ, "ORC_LEASE_FDS": str(fd), "ORC_LEASE_NOTES": f"{note}:{others}:{tmp_path}/gone"},
        pass_fds=(fd,),
    )
    note.write_text(json.dumps({"request": "run", "pid": process.pid, "boot": ""}))
    others.write_text(json.dumps({"request": "another", "pid": 1, "boot": ""}))
    os.close(fd)
    process.communicate(timeout=30)
    again = os.open(tmp_path / "gpu", os.O_RDONLY)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
    assert others.exists()


def test_a_run_directory_that_goes_away_ends_the_job_all_the_same(tmp_path: Path) -> None:
    started = tmp_path / "run" / "attempts" / "1" / "started.json"  # the last file that job.py makes before the end
    attempt = Attempt(tmp_path, f"until [ -e {started} ]; do sleep 0.02; done; rm -r {tmp_path}/run; exit 3")
    process = attempt.start()
    assert b"could not be written" in process.communicate(timeout=30)[1]


# -- the parts that a kernel or a C library may lack -------------------------------------------------------------------


def test_processes_are_found_without_the_kernels_list_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["bash", "-c", "sleep 60 & wait"]) as shell:
        found = wait_until(lambda: tree if len(tree := job.tree(shell.pid)) == 1 else None)
        monkeypatch.setattr(job, "children", lambda _pid: None)
        assert job.tree(shell.pid) == found
        job.signal_all([*found, shell.pid, 4_194_305], signal.SIGKILL)


def test_an_old_c_library_is_served_by_fork(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    nothing = os.open("/dev/null", os.O_RDONLY)
    argv = ["/bin/bash", "-c", "echo $A; cut -d' ' -f6 /proc/self/stat | grep -q $$ && echo session"]
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import job; "
        "pid = job.fork_spawn(eval(sys.argv[2]), {b'A': b'1', b'PATH': b'/usr/bin:/bin'}, 0, 1, [2]); "
        "os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    folder = str(Path(str(job.__file__)).parent)
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, folder, repr(argv)], stdin=nothing, stdout=log, check=False
    )
    assert (done.returncode, (tmp_path / "log").read_text()) == (0, "1\nsession\n")
    os.close(log)
    os.close(nothing)


def test_memory_and_out_of_memory_kills_are_read_from_proc() -> None:
    assert job.memory_of([os.getpid(), 4_194_305]) > 1_000_000
    assert job.oom_kills() >= 0
    assert job.start_ticks(4_194_305) == 0
    assert job.children(os.getpid()) is not None


def test_a_cgroup_of_its_own_tells_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job.Job(str(tmp_path), str(tmp_path), 1, {"launcher_cgroup": "0::/server"}, {})
    files = {"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/memory.peak": "12345\n"}
    for path, text in files.items():
        (tmp_path / path.replace("/", "_")).write_text(text)
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *rest: real(tmp_path / str(path).replace("/", "_"), *rest))
    assert made.cgroup_peak() == 12345
    made.settings["launcher_cgroup"] = "0::/job"
    assert made.cgroup_peak() is None


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job.Job(str(tmp_path), str(tmp_path), 1, {}, {})
    made.reserve()
    failures = iter([OSError(28, "No space left on device")] * 2)
    real = os.open

    def full(*arguments: Any) -> int:
        if (failure := next(failures, None)) is not None:
            raise failure
        return real(*arguments)

    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    made.write_exit({"code": 0})
    assert json.loads((tmp_path / "exit.json").read_text()) == {"code": 0}
