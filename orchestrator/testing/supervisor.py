"""Runs one job on its node, as slurmstepd does: outlives the controller, reports the end through a file.

    python -I -S supervisor.py LAUNCH

LAUNCH is a folder with ``launch.json``; what the controller wants is appended to its file ``control``, a line each,
and told by SIGUSR1: ``signal USR1 steps``, ``terminate SECONDS WHY``, ``suspend``, ``resume``.
"""

# pathlib is slow to import, and this starts often.
# ruff: noqa: PTH104, PTH110, PTH116, PTH118, PTH119, PTH123, PTH208

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
LOOK_SECONDS = 1.0


class Supervisor:
    """One job's processes."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(f"{folder}/launch.json") as file:
            self.launch: dict[str, Any] = json.load(file)
        self.batch = 0
        self.status: int | None = None
        self.deadline: float | None = None
        self.control_offset = 0
        self.stderr = -1

    def run(self) -> None:
        """Until the job's processes have gone."""
        os.chdir(self.launch["state_folder"])
        wakeup = _listen()
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if not self._start():
            self._report(0, launch_failed=True)
            return
        _write(f"{self.folder}/pid", str(os.getpid()))
        while not self._finished():
            timeout = LOOK_SECONDS if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)
            if select.select([wakeup], [], [], min(timeout, LOOK_SECONDS))[0]:
                os.read(wakeup, 4096)
            self._reap()
            self._obey()
            if self.deadline is not None and time.monotonic() >= self.deadline:
                _signal(descendants(os.getpid()), signal.SIGKILL)
            if not self._wanted():
                _signal(descendants(os.getpid()), signal.SIGKILL)
                return
        if self.launch["contain"]:
            self._clear()
        self._report(self.status or 0)

    # -- the batch script ------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Starts the script; False when its output cannot be opened."""
        launch = self.launch
        try:
            os.umask(launch["umask"])
            home, missing = _existing_folder(launch["work_dir"])
            mode = os.O_APPEND if launch["append"] else os.O_TRUNC
            stdin = os.open(os.path.join(home, launch["stdin"]), os.O_RDONLY)
            stdout = os.open(launch["stdout"], os.O_WRONLY | os.O_CREAT | mode, 0o666)
            same = launch["stderr"] == launch["stdout"]
            self.stderr = stdout if same else os.open(launch["stderr"], os.O_WRONLY | os.O_CREAT | mode, 0o666)
        except OSError:
            return False
        if missing:
            self._say(f"couldn't chdir to `{launch['work_dir']}': {missing}: going to /tmp instead")
        self.batch = os.fork()
        if self.batch == 0:
            self._become_script(home, (stdin, stdout, self.stderr))
        return True

    def _become_script(self, home: str, descriptors: tuple[int, int, int]) -> None:
        """In the child."""
        script = f"{self.folder}/slurm_script"
        try:
            os.setpgid(0, 0)
            for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            for wanted, descriptor in enumerate(descriptors):
                os.dup2(descriptor, wanted)
            os.chdir(home)
            environment = {**self.launch["environment"], "SLURM_TASK_PID": str(os.getpid())}
            encoded = {_bytes(name): _bytes(value) for name, value in environment.items()}
            os.execve(script, [script, *self.launch["arguments"]], encoded)  # noqa: S606 (it has its own first line)
        except OSError as error:
            os.write(2, f"slurmstepd: error: execve(): {_interpreter(script)}: {error.strerror}\n".encode())
            os._exit(error.errno or 1)

    def _say(self, text: str) -> None:
        """slurmstepd's own words, in the job's error output."""
        with contextlib.suppress(OSError):
            os.lseek(self.stderr, 0, os.SEEK_END)
            os.write(self.stderr, f"slurmstepd: error: {text}\n".encode())

    # -- its life --------------------------------------------------------------------------------------------------

    def _finished(self) -> bool:
        """The script ended; while the job is being terminated its steps have their time too."""
        return self.status is not None and (self.deadline is None or not self._step_processes())

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.batch:
                    self.status = status

    def _obey(self) -> None:
        for line in self._new_lines():
            word, *rest = line.split(" ")
            if word == "terminate":
                self._terminate(float(rest[0]), " ".join(rest[1:]))
            elif word == "signal":
                _signal(self._targets(rest[1]), getattr(signal, "SIG" + rest[0]))
            elif word in {"suspend", "resume"}:
                number = signal.SIGSTOP if word == "suspend" else signal.SIGCONT
                _signal(descendants(os.getpid()), number)

    def _new_lines(self) -> list[str]:
        try:
            with open(f"{self.folder}/control") as file:
                file.seek(self.control_offset)
                lines = file.read()
        except FileNotFoundError:
            return []
        self.control_offset += len(lines)
        return lines.splitlines()

    def _targets(self, whom: str) -> Iterable[int]:
        if whom == "batch":
            return [self.batch]
        return descendants(os.getpid()) if whom == "full" else self._step_processes()

    def _terminate(self, seconds: float, why: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S")
        name, node = self.launch["job_id"], self.launch["node"]
        self._say(f"*** JOB {name} ON {node} CANCELLED AT {moment} {why + ' ' if why else ''}***")
        self.deadline = min(time.monotonic() + seconds, self.deadline or float("inf"))
        tasks = set(self._step_processes())  # srun passes TERM on to its tasks
        processes = list(descendants(os.getpid()))
        _signal(processes, signal.SIGCONT)
        _signal((pid for pid in processes if pid not in tasks), signal.SIGTERM)

    def _step_processes(self) -> list[int]:
        """The processes of the steps that srun has registered in the folder."""
        found: list[int] = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(f"{self.folder}/steps"):
                if name.isdigit() and os.path.exists(f"/proc/{name}"):
                    found += [int(name), *descendants(int(name))]
        alive = set(descendants(os.getpid()))
        return [pid for pid in found if pid in alive]

    def _wanted(self) -> bool:
        """The cluster is there, and so is who started it."""
        owner = self.launch["owner"]
        return os.path.exists(f"{self.folder}/launch.json") and (not owner or os.path.exists(f"/proc/{owner}"))

    def _clear(self) -> None:
        """Nothing of the job is left behind."""
        until = time.monotonic() + 5
        while (left := list(descendants(os.getpid()))) and time.monotonic() < until:
            _signal(left, signal.SIGKILL)
            self._reap()
            time.sleep(0.005)
        self._reap()

    def _report(self, status: int, *, launch_failed: bool = False) -> None:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        ending = {
            "status": status,
            "end": int(time.time()),
            "max_rss": usage.ru_maxrss * 1024,
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "launch_failed": launch_failed,
        }
        _write(f"ended/{os.path.basename(self.folder)}", json.dumps(ending))
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect("controller.sock")  # to connect is to say: look


def _listen() -> int:
    """A descriptor that is readable after SIGCHLD and SIGUSR1."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    return reading


def _existing_folder(path: str) -> tuple[str, str]:
    """The folder, or /tmp and why."""
    try:
        os.stat(path)
    except OSError as error:
        return "/tmp", error.strerror or "?"  # noqa: S108 (what slurmstepd does)
    return path, ""


def descendants(root: int) -> Iterator[int]:
    """Every process below ``root``, children before theirs."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    children.setdefault(int(parent), []).append(int(name))
    queue = list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        yield pid
        queue += children.get(pid, ())


def _signal(pids: Iterable[int], *numbers: int) -> None:
    for pid in list(pids):
        for number in numbers:
            with contextlib.suppress(OSError):
                os.kill(pid, number)


def _interpreter(script: str) -> str:
    with open(script, "rb") as file:
        return f"bad interpreter({file.readline()[2:].decode().strip()})"


def _write(path: str, text: str) -> None:
    """Whole or not at all."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w") as file:
        file.write(text)
    os.rename(temporary, path)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


if __name__ == "__main__":
    Supervisor(sys.argv[1]).run()
