"""The run directory: every path of a run, what the service writes there and reads back.

The protocol is docs/run-directory.md; ``job.py`` is its other side.
"""

import errno
import json
import os
import shutil
import stat
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data import shipped
from orchestrator.environments.activation import REFUSED
from orchestrator.proc import ProcessId, host_name
from orchestrator.states import ExitRecord


@dataclass(frozen=True)
class Claim:
    """Which process took the attempt."""

    process: ProcessId
    host: str
    at: float
    job_id: str = ""
    restart: int = 0
    withdrawn: bool = False


class RunDir:
    """One run's directory."""

    def __init__(self, runs_dir: Path, run_id: str) -> None:
        self.path = runs_dir / run_id
        self.command = self.path / "command.sh"
        self.environment = self.path / "environment.sh"
        self.launcher = self.path / "launch.sh"
        self.wrapper = self.path / "wrapper.sh"
        self.job = self.path / "job.py"
        self.artifacts = self.path / "artifacts"
        self.metrics = self.path / "metrics.jsonl"
        self.wandb = self.path / "wandb"

    def attempt(self, number: int) -> "AttemptDir":
        """The directory of one attempt."""
        return AttemptDir(self.path / "attempts" / str(number))

    def latest(self, number: int) -> int:
        """The attempt that a job submitted for ``number`` is at by now: requeued jobs go on to the next."""
        while self.attempt(number).requeued():
            number += 1
        return number

    def prepare(self, command: str, setup: str = "", launcher: str = "", job: str = "") -> None:
        """Makes the directory with the command in it; may be done again. ``setup``: what the wrapper sources first;
        ``job``: job.py, for a launcher whose tasks need it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.artifacts.mkdir(exist_ok=True)
        write_whole(self.command, command if command.endswith("\n") else command + "\n")
        write_whole(self.wrapper, wrapper_text())
        for path, text in ((self.environment, setup), (self.launcher, launcher), (self.job, job)):
            if text:
                write_whole(path, text)
            else:
                path.unlink(missing_ok=True)

    def standard_env(self, run_id: str, sweep_id: str | None, attempt: int) -> dict[str, str]:
        """What every run sees, whatever executes it."""
        env = {
            "ORC_RUN_ID": run_id,
            "ORC_RUN_DIR": str(self.path),
            "ORC_METRICS_FILE": str(self.metrics),
            "ORC_ARTIFACTS_DIR": str(self.artifacts),
            "ORC_ATTEMPT": str(attempt),
            "WANDB_DIR": str(self.path),
            "WANDB_RUN_ID": run_id,
        }
        if sweep_id is not None:
            env["ORC_SWEEP_ID"] = sweep_id
        if attempt > 1:
            env["WANDB_RESUME"] = "allow"
        return env


@cache
def wrapper_text() -> str:
    """The script that bash runs: it makes conda and module work, then reads the command."""
    return (shipped("slurm_templates") / "wrapper.sh").read_text()


class AttemptDir:
    """What one attempt wrote, read without ever raising for what is not there (yet, or any more)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.launch = path / "launch"
        self.log = path / "output.log"
        self.complaints = path / "job.err"

    def prepare(self, settings: dict[str, str], env: dict[str, str]) -> None:
        """Writes the launch file (0600: the environment may hold secrets)."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        records = [f"{name}={value}" for name, value in settings.items()]
        records += [f"env:{name}={value}" for name, value in env.items()]
        write_whole(self.launch, "\0".join(records))

    def claim(self) -> Claim | None:
        """The claim, or None where nobody has taken the attempt. A damaged one (power loss) is a dead process's."""
        try:
            text = (self.path / "claim").read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        fields = dict(line.partition("=")[::2] for line in text.splitlines())
        try:
            process = ProcessId(int(fields["pid"]), int(fields["start_ticks"]), fields["boot"])
            return Claim(
                process,
                fields["host"],
                float(fields["at"]),
                fields.get("job_id", ""),
                int(fields["restart"]),
                fields.get("withdrawn") == "1",
            )
        except (KeyError, ValueError):
            return Claim(ProcessId(0, 0, ""), host_name(), 0.0)

    def withdraw(self) -> bool:
        """Takes the attempt out of reach: a claim of nobody's, made as a job makes its own. False: a job was first."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = f"pid=0\nstart_ticks=0\nboot=\nhost={host_name()}\nat={time.time()}\nrestart=0\nwithdrawn=1\n"
        return _link(self.path / "claim", text) or "withdrawn=1" in _text(self.path / "claim")

    def close(self) -> bool:
        """Decides that no requeue of this attempt's job begins another: what follows is the service's. False: a
        requeued job was first, and its attempt follows."""
        return _link(self.path / "next", "by=service\n") or "by=service" in _text(self.path / "next")

    def requeued(self) -> bool:
        """Whether the attempt's own job goes on as the next attempt."""
        return "by=job" in _text(self.path / "next")

    def ask_to_stop(self) -> None:
        """For a job that its scheduler has forgotten: job.py sees it at its next beat."""
        (self.path / "stop").touch()

    def beat(self) -> float | None:
        """When job.py last said that it lives (epoch seconds), or None where it never began."""
        try:
            return (self.path / "claim").stat().st_mtime
        except OSError:
            return None

    def started(self) -> dict[str, Any] | None:
        """started.json, or None."""
        return _read_json(self.path / "started.json")

    def exit(self) -> ExitRecord | None:
        """The exit record, or None while there is none."""
        found = _read_json(self.path / "exit.json")
        if found is None or "ended_at" not in found:
            return None
        fields: dict[str, Any] = {"code": None, "signal": None}
        fields |= {name: found[name] for name in ExitRecord.__dataclass_fields__ if name in found}
        return self._with_refusal(ExitRecord(**fields))

    def _with_refusal(self, record: ExitRecord) -> ExitRecord:
        """The record of a failure with what its environment's activation left to say, where that refused.

        The exit code tells nothing: a command may have the same, and srun gives another where it ends the other nodes.
        """
        if not record.code or record.stopped or record.timed_out or record.reason is not None:
            return record
        said = _text(self.path / REFUSED)[:2000].strip()
        if not said:
            return record
        return replace(record, reason="BAD_ENVIRONMENT", error=f"The environment could not be set up: {said}")

    def complaint(self) -> str:
        """The end of what job.py itself had to say (2,000 characters), "" for nothing."""
        try:
            return self.complaints.read_text(errors="replace")[-2000:].strip()
        except FileNotFoundError:
            return ""

    def log_tail(self, size: int) -> str:
        """The last ``size`` bytes of the log as text."""
        try:
            with open_regular(self.log) as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - size))
                return file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""


def open_regular(path: Path) -> BinaryIO:
    """A file that a run has written, for reading. It may have put something else there, a FIFO say, at which reading
    would never end. Raises OSError for that."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "It is no regular file", str(path))
    return os.fdopen(fd, "rb")


def _link(path: Path, text: str) -> bool:
    """Makes a file with its whole content; False where there is one (link(2), on network file systems too)."""
    mine = path.with_name(f"{path.name}.service.{os.getpid()}")
    write_whole(mine, text)
    try:
        os.link(mine, path)
    except FileExistsError:
        return mine.stat().st_nlink == 2  # an NFS server may have made it and lost its answer
    finally:
        mine.unlink()
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Writes a file under a temporary name and renames it: a reader sees all of it or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def free_bytes(path: Path) -> int:
    """Free space of the disk that holds ``path``."""
    return shutil.disk_usage(path).free
