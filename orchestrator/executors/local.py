"""Detached processes on this machine, each under job.py; they outlive the server."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from orchestrator import job as job_side
from orchestrator.executors.base import JobHandle, Refusal, SubmissionSpec, Task, Watched
from orchestrator.executors.leases import Lease
from orchestrator.proc import ProcessId, boot_id, host_name, marked, session_of
from orchestrator.rundir import AttemptDir, Claim, RunDir
from orchestrator.states import Evidence
from orchestrator.watch import ProcessWatch

log = logging.getLogger(__name__)
START_RECORD_SECONDS = 10.0
FALLBACK_PATH = "/usr/local/bin:/usr/bin:/bin"


class LocalExecutor:
    """Spawns job.py for each task. GPU leases are taken by the caller and handed over in ``leases``."""

    name = "local"

    def __init__(self, runs_dir: Path, grace: float, env_pass: Sequence[str], watch: ProcessWatch) -> None:
        self._runs_dir = runs_dir
        self._grace = grace
        self._env_pass = env_pass
        self._watch = watch
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._killed: dict[str, int] = {}
        self.leases: dict[str, Lease] = {}

    def submit(self, spec: SubmissionSpec) -> JobHandle | Refusal:
        """Starts job.py for the submission's one task, with the GPUs leased for it."""
        (task,) = spec.tasks
        attempt = RunDir(self._runs_dir, task.run_id).attempt(task.attempt)
        lease = self.leases.get(task.run_id)
        try:
            self._prepare(task, attempt)
            process = self._spawn(task, attempt, lease)
        except OSError as error:
            return Refusal(f"The run could not be started: {error}.", final=False)
        started = ProcessId.of(process.pid)
        if started is None:  # a child that has ended is a zombie until we reap it: this cannot be
            raise AssertionError(f"the child {process.pid} vanished")
        self._children[process.pid] = process
        self._watch.add(process.pid)
        if lease is not None:
            lease.hand_over(started)
        return JobHandle(self.name, {"process": started.dump()})

    def find(self, spec: SubmissionSpec) -> JobHandle | None:
        """A claim is a job; without one the attempt is withdrawn, by a claim of nobody's."""
        (task,) = spec.tasks
        attempt = RunDir(self._runs_dir, task.run_id).attempt(task.attempt)
        if attempt.withdraw():
            return None
        claim = attempt.claim()
        assert claim is not None
        self._watch.add(claim.process.pid)
        return JobHandle(self.name, {"process": claim.process.dump()})

    def observe(self, watched: Sequence[Watched]) -> dict[str, Evidence]:
        """Run directories first, then the processes. One that cannot be looked at does not keep us from the others."""
        self._reap()
        found: dict[str, Evidence] = {}
        for item in watched:
            try:
                found[item.run_id] = self._look(item)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("run %s cannot be looked at: %s", item.run_id, error)
        return found

    def cancel(self, watched: Watched, seconds_since_asked: float) -> str | None:
        """TERM to job.py, which ends the tree; where job.py is dead or does not do it, the processes themselves."""
        claim = self._attempt(watched).claim()
        late = seconds_since_asked > 2 * self._grace + 5
        job = claim.process if claim is not None else self._spawned(watched)
        if job is not None and job.alive() and not late:
            return self._once(watched, signal.SIGTERM, [job], "TERM sent to the run's processes")
        orphans = self._orphans(watched.run_id, claim, self._attempt(watched).started() or {}) if claim else []
        if seconds_since_asked <= self._grace and not late:
            return self._once(watched, signal.SIGTERM, orphans, "TERM sent to the processes that job.py left behind")
        if late and job is not None:
            orphans.append(job)
        return self._once(watched, signal.SIGKILL, orphans, "KILL sent to the run's processes", again=True)

    def close(self) -> None:
        """The children go on without us; whoever serves next finds them by their claims."""
        for process in self._children.values():
            process.returncode = process.poll() or 0
        self._children.clear()

    def _once(
        self, watched: Watched, number: int, targets: list[ProcessId], message: str, *, again: bool = False
    ) -> str | None:
        """Signals the targets; says so the first time only."""
        known = self._killed.get(watched.run_id) == number
        if known and not again:
            return None
        for target in targets:
            if target.alive():
                _kill(target.pid, number)
        self._killed[watched.run_id] = number
        return None if known or not targets else f"{message} ({', '.join(str(target.pid) for target in targets)})."

    def _attempt(self, watched: Watched) -> AttemptDir:
        return RunDir(self._runs_dir, watched.run_id).attempt(watched.attempt)

    def _prepare(self, task: Task, attempt: AttemptDir) -> None:
        run_dir = RunDir(self._runs_dir, task.run_id)
        run_dir.prepare(task.command)
        settings = {"workdir": task.workdir or str(run_dir.path), "grace": str(self._grace), "subreaper": "1"}
        if task.resources.time_seconds is not None:
            settings["time_limit"] = str(task.resources.time_seconds)
        if (cgroup := own_cgroup()) is not None:
            settings["launcher_cgroup"] = cgroup
        env = passed_environment(os.environ, self._env_pass) | task.env
        for name, value in run_dir.standard_env(task.run_id, task.sweep_id, task.attempt).items():
            if name.startswith("ORC_") or name not in task.env:  # which run it is, nobody sets but we
                env[name] = value
        if task.hide_gpus:
            env["CUDA_VISIBLE_DEVICES"] = ""
        attempt.prepare(settings, env)

    def _spawn(self, task: Task, attempt: AttemptDir, lease: Lease | None) -> "subprocess.Popen[bytes]":
        env = {"PATH": FALLBACK_PATH, "ORC_RUN_ID": task.run_id} | (lease.environment() if lease else {})
        argv = [sys.executable, "-I", "-S", str(job_side.__file__), str(attempt.path.parents[1]), str(task.attempt)]
        with attempt.complaints.open("ab") as complaints:
            return subprocess.Popen(
                argv,
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                start_new_session=True,
                pass_fds=lease.fds() if lease else (),
            )

    def _reap(self) -> None:
        for pid, process in list(self._children.items()):
            if process.poll() is not None:
                del self._children[pid]

    def _look(self, item: Watched) -> Evidence:
        """The order matters: liveness first, the exit record after, so that a job ending in between is not lost."""
        attempt = self._attempt(item)
        claim, there = attempt.claim(), attempt.path.is_dir()
        process = claim.process if claim else self._spawned(item)
        if claim is not None and claim.host != host_name() and claim.process.boot != boot_id():
            return Evidence(item.attempt, claimed=True, alive=None, exit=attempt.exit())  # another machine's to tell
        alive = process is not None and process.alive()
        if alive and process is not None:
            self._watch.add(process.pid)
        started = attempt.started() or {}
        record = attempt.exit()
        orphans = self._orphans(item.run_id, claim, started) if claim and not alive and record is None else []
        record = record or (attempt.exit() if not alive else None)
        if record is not None or not (alive or orphans):
            self._killed.pop(item.run_id, None)
        return Evidence(
            attempt=item.attempt,
            claimed=claim is not None,
            started_at=started.get("started_at") or _unrecorded_start(claim),
            alive=alive or bool(orphans),
            orphaned=bool(orphans),
            exit=record,
            refused=_refusal(attempt) if claim is None and not alive and record is None and there else None,
            gpus=tuple(started.get("gpus") or ()),
        )

    def _orphans(self, run_id: str, claim: Claim, started: dict[str, Any]) -> list[ProcessId]:
        """Processes of a run whose job.py is dead: by their environment, and by the session of the command."""
        if claim.process.boot != boot_id():
            return []
        found = marked("ORC_RUN_ID", run_id)
        if "command_pid" in started:
            found += session_of(ProcessId(started["command_pid"], started["command_start_ticks"], boot_id()))
        for orphan in found:
            self._watch.add(orphan.pid)
        return list(dict.fromkeys(found))

    @staticmethod
    def _spawned(item: Watched) -> ProcessId | None:
        data: dict[str, Any] = item.job.data if item.job else {}
        return ProcessId.load(data["process"]) if "process" in data else None


def _unrecorded_start(claim: Claim | None) -> float | None:
    """A claim that is older than any start takes: the start record could not be written (a full disk)."""
    return claim.at if claim is not None and claim.at and time.time() - claim.at > START_RECORD_SECONDS else None


def _refusal(attempt: AttemptDir) -> str:
    complaint = attempt.complaint()
    return f"job.py ended before it took the run. {complaint}".strip()


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("process %s ended before signal %s", pid, number)


def own_cgroup() -> str | None:
    """This process's cgroup (v2), so that job.py can tell whether it has one of its own."""
    try:
        line = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1]
    except (OSError, IndexError):
        return None
    return line if line.startswith("0::") else None


def passed_environment(environ: "os._Environ[str] | dict[str, str]", patterns: Sequence[str]) -> dict[str, str]:
    """What a run gets of the server's environment: the names that match ``patterns``, without the server's own venv."""
    env = {name: value for name, value in environ.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    venv = environ.get("VIRTUAL_ENV")
    parts = env.get("PATH", FALLBACK_PATH).split(os.pathsep)
    env["PATH"] = os.pathsep.join(part for part in parts if part and (not venv or part != f"{venv}/bin"))
    return env
