"""Starts supervisors, tells them what is wanted, collects what they report. One folder for each launch."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.testing.cluster import Cluster
from orchestrator.testing.endings import Ending
from orchestrator.testing.launch import LAUNCH_VARIABLE, expand, job_environment, stderr_pattern, stdout_pattern
from orchestrator.testing.model import Job
from orchestrator.testing.supervisor import descendants

START_SECONDS = 10.0
SUPERVISOR = Path(__file__).with_name("supervisor.py")


class LocalRunner:
    """Runs jobs as processes of this machine, whatever node they think they are on.

    ``owner`` is the process that the cluster lives for: when it is gone, so are the jobs. 0 for none.
    """

    def __init__(self, folder: Path, cluster: Cluster, owner: int) -> None:
        self.folder = folder
        self.cluster = cluster
        self.owner = owner

    def start(self, job: Job) -> str:
        """Starts a supervisor; returns the launch's name, which no other launch ever has."""
        name = f"{job.job_id}-{job.restarts}-{time.time_ns()}"
        folder = self.folder / "launches" / name
        folder.mkdir(parents=True)
        shutil.copyfile(job.request.script, folder / "slurm_script")
        (folder / "slurm_script").chmod(0o700)
        (folder / "launch.json").write_text(json.dumps(self._describe(job, folder)))
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(folder)],
            {"PATH": os.environ.get("PATH", os.defpath), **_timezone()},
            setsid=True,
            file_actions=[(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(2)],
        )
        return name

    def _describe(self, job: Job, folder: Path) -> dict[str, object]:
        environment = job_environment(job, self.cluster)
        environment[LAUNCH_VARIABLE] = str(folder)
        node = job.nodes[0]
        return {
            "state_folder": str(self.folder),
            "owner": self.owner,
            "job_id": job.job_id,
            "node": node,
            "shares": [vars(share) for share in job.shares],
            "environment": environment,
            "arguments": job.request.arguments,
            "work_dir": job.request.work_dir,
            "umask": job.request.umask,
            "stdin": expand(job.request.stdin, job, node),
            "stdout": expand(stdout_pattern(job), job, node),
            "stderr": expand(stderr_pattern(job), job, node),
            "append": job.request.open_mode == "append",
            "contain": self.cluster.contain_processes,
            "kill_wait": self.cluster.kill_wait,
        }

    def keep(self, job_id: int, script: str) -> str:
        """Writes a script down; returns where. The name is new each time: ids are used again."""
        path = self.folder / "scripts" / f"{job_id}-{time.time_ns()}"
        path.write_bytes(script.encode("utf-8", "surrogateescape"))
        return str(path)

    def tell(self, launch: str, *words: str) -> None:
        """Leaves a line for the supervisor, and wakes it."""
        folder = self.folder / "launches" / launch
        with contextlib.suppress(FileNotFoundError), (folder / "control").open("a") as control:
            control.write(" ".join(words) + "\n")
        self._signal(launch, signal.SIGUSR1)

    def destroy(self, launch: str) -> None:
        """Kills the supervisor and all below it, unreported; one that has yet to begin finds nothing to do."""
        (self.folder / "launches" / launch / "launch.json").unlink(missing_ok=True)
        pid = self._pid(launch)
        if pid is None:
            return
        below = list(descendants(pid))
        for one in (pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def destroy_all(self) -> None:
        """Nothing that this cluster started is left, not even what fled from its job."""
        marker = f"{self.folder}/launches/".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                supervises = SUPERVISOR.name.encode() in (command := (process / "cmdline").read_bytes())
                started = f"{LAUNCH_VARIABLE}=".encode() + marker in (process / "environ").read_bytes()
                if started or (supervises and marker in command):
                    os.kill(int(process.name), signal.SIGKILL)

    def reported(self) -> Iterator[tuple[str, Ending]]:
        """What supervisors have reported, each once. Kept for a minute: a controller may forget that it knew."""
        for path in sorted((self.folder / "ended").iterdir()):
            if path.suffix != ".new":
                done = path.rename(self.folder / "done" / path.name)
                yield path.name, Ending(**json.loads(done.read_text()))

    def report_of(self, launch: str) -> Ending | None:
        """What has been reported of a launch, if it is still known."""
        for folder in ("ended", "done"):
            path = self.folder / folder / launch
            if path.exists():
                return Ending(**json.loads(path.read_text()))
        return None

    def is_alive(self, launch: str) -> bool:
        """Whether its supervisor runs, or has yet to begin."""
        folder = self.folder / "launches" / launch
        starting = folder.exists() and time.time() - folder.stat().st_mtime < START_SECONDS
        begun = (folder / "pid").exists()  # looked for first: it may be written any moment
        return self._pid(launch) is not None or (starting and not begun)

    def clean(self, keep_seconds: float) -> None:
        """Forgets old reports."""
        for path in (self.folder / "done").iterdir():
            if time.time() - path.stat().st_mtime > keep_seconds:
                path.unlink()

    def forget(self, launch: str) -> None:
        """Its folder is no longer needed."""
        if launch:
            shutil.rmtree(self.folder / "launches" / launch, ignore_errors=True)

    def _pid(self, launch: str) -> int | None:
        """The supervisor's, if it is running: a number alone may be another process by now."""
        folder = self.folder / "launches" / launch
        try:
            pid = int((folder / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        return pid if str(folder).encode() in command else None

    def _signal(self, launch: str, number: int) -> None:
        pid = self._pid(launch)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _timezone() -> dict[str, str]:
    return {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}
