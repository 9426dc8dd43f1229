"""Detached processes on this machine, each under job.py; they outlive the server."""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import job as job_side
from orchestrator.executors.base import Action, JobHandle, Refusal, SubmissionSpec, Task, Told, Watched
from orchestrator.executors.leases import Lease
from orchestrator.executors.preparing import FALLBACK_PATH, Preparer
from orchestrator.proc import ProcessId, boot_id, host_name, marked, session_of
from orchestrator.rundir import AttemptDir, Claim, RunDir
from orchestrator.states import Evidence
from orchestrator.watch import ProcessWatch

log = logging.getLogger(__name__)
START_RECORD_SECONDS = 10.0


class LocalExecutor:
    """Spawns job.py for each task. GPU leases are taken by the caller and handed over in ``leases``."""

    name = "local"
    trouble = None

    def __init__(self, runs_dir: Path, grace: float, preparer: Preparer, watch: ProcessWatch) -> None:
        self._runs_dir = runs_dir
        self._grace = grace
        self._preparer = preparer
        self._watch = watch
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._killed: dict[str, int] = {}
        self.leases: dict[str, Lease] = {}

    def submit(self, spec: SubmissionSpec) -> dict[str, JobHandle] | Refusal:
        """Starts job.py for the submission's one task, with the GPUs leased for it."""
        (task,) = spec.tasks
        lease = self.leases.get(task.run_id)
        try:
            attempt = self._preparer.prepare(task, self._told(task))
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
        return {task.run_id: JobHandle(self.name, {"process": started.dump()})}

    def find(self, spec: SubmissionSpec) -> dict[str, JobHandle]:
        """A claim is a job; without one the attempt is withdrawn, by a claim of nobody's."""
        (task,) = spec.tasks
        attempt = RunDir(self._runs_dir, task.run_id).attempt(task.attempt)
        if attempt.withdraw():
            return {}
        claim = attempt.claim()
        assert claim is not None
        self._watch.add(claim.process.pid)
        return {task.run_id: JobHandle(self.name, {"process": claim.process.dump()})}

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

    def cancel(self, stopping: Sequence[tuple[Watched, float]]) -> dict[str, str]:
        """Each by itself: they are processes of this machine."""
        said = {item.run_id: self._cancel(item, seconds) for item, seconds in stopping}
        return {run_id: words for run_id, words in said.items() if words is not None}

    def _cancel(self, watched: Watched, seconds_since_asked: float) -> str | None:
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

    def looks_at_waiting(self) -> bool:
        """Nothing waits here: the queue is the service's own."""
        return True

    def next_look(self) -> float:
        """Processes announce their ends."""
        return math.inf

    def steer(self, action: Action, items: Sequence[tuple[Watched, int]]) -> dict[str, Told]:
        """A requeue ends the job first; everything else is the service's own matter."""
        if action != "requeue":
            return {}
        return {run_id: Told(words) for run_id, words in self.cancel([(item, 0.0) for item, _ in items]).items()}

    def confirms(self, action: Action, watched: Watched, priority: int) -> Told | None:  # noqa: ARG002  (waits here)
        """A requeue is confirmed by the job's end."""
        return Told("Confirmed.") if action != "requeue" else None

    def throttle(self, wanted: Mapping[str, int]) -> list[str]:  # noqa: ARG002
        """There are no arrays here: the service itself holds the rest of a sweep back."""
        return []

    def strays(self, watched: Sequence[Watched]) -> list[tuple[str, int | None]]:  # noqa: ARG002
        """A job that comes late finds the claim."""
        return []

    def end_strays(self, keys: Sequence[tuple[str, int | None]]) -> list[tuple[str, int | None]]:  # noqa: ARG002
        """There are none."""
        return []

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

    def _told(self, task: Task) -> dict[str, str]:
        """What job.py must know of this machine and of the run's limits."""
        told = {"grace": str(self._grace), "subreaper": "1"}
        if task.resources.time_seconds is not None:
            told["time_limit"] = str(task.resources.time_seconds)
        if task.signal is not None:
            told["signal"] = task.signal
        if (cgroup := own_cgroup()) is not None:
            told["launcher_cgroup"] = cgroup
        return told

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
