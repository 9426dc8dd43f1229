"""Slurm: submissions go out through sbatch, and are watched through their directories, squeue and sacct.

A job is known by its submission's name (and array index), which is unique; never by its id alone: ids are used again
when a controller loses its last seconds.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import job as job_side
from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.base import Action, JobHandle, Refusal, SubmissionSpec, Told, Watched
from orchestrator.executors.preparing import Preparer
from orchestrator.executors.slurmlook import Look
from orchestrator.executors.slurmsteer import Steer
from orchestrator.rundir import RunDir, write_whole
from orchestrator.slurm import queue
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.phases import Phase
from orchestrator.slurm.poller import Key, Poller, Snapshot
from orchestrator.slurm.sbatch import Rejection, ScriptExecutor
from orchestrator.slurm.script import JobSpec, Templates, render, sbatch_options
from orchestrator.states import Evidence

log = logging.getLogger(__name__)
LOOK_SPACING = 1.0
FULL_QUEUE = "temporarily unable to accept job"  # what sbatch says while it waits by itself, for two minutes
LINGER = 300.0  # seconds after the last job for which squeue is still asked (MinJobAge's default): a job may come back


@dataclass(frozen=True)
class SlurmPolicy:
    """Times in seconds: ``kill_wait`` between Slurm's TERM and its KILL, ``lost_after`` without any sign of life,
    ``heartbeat`` of job.py, ``submit_deadline`` of one sbatch."""

    kill_wait: Callable[[], float]
    lost_after: float
    heartbeat: float
    submit_deadline: float


class SlurmExecutor:
    """One cluster, as this user sees it."""

    name = "slurm"

    def __init__(
        self, runs_dir: Path, gate: Gate, poller: Poller, templates: Templates, preparer: Preparer, policy: SlurmPolicy
    ) -> None:
        self._runs_dir = runs_dir
        self._gate = gate
        self._poller = poller
        self._templates = templates
        self._preparer = preparer
        self._policy = policy
        self._look = Look(runs_dir, policy.lost_after, policy.heartbeat, self._booted_at)
        self._steer = Steer(poller)
        self._looked_at = 0.0
        self._poll = False
        self._busy = False
        self._linger_until = 0.0
        self.shown: dict[str, dict[str, Any]] = {}

    # -- submitting ------------------------------------------------------------------------------------------------

    def submit(self, spec: SubmissionSpec) -> dict[str, JobHandle] | Refusal:
        """One sbatch for all tasks. Raises SchedulerUnavailable when its answer did not come: look it up then."""
        try:
            job = self._write(spec)
        except OSError as error:
            return Refusal(f"The submission could not be written: {error}.", final=False)
        executor = ScriptExecutor(job.folder, sbatch_options(job))
        try:
            answer = executor.submit_script(job.folder / "job.sh", self._gate, self._policy.submit_deadline)
        except SchedulerUnavailable as error:
            if FULL_QUEUE in error.message and not self.find(spec):
                return Refusal(error.message[:2000], final=False, too_many=True, withdrawn=True)
            if FULL_QUEUE not in error.message:
                self._poller.away(error.message)
            raise
        self._poller.cadence.hurry()
        self._linger_until = time.monotonic() + LINGER
        self._busy = True
        if isinstance(answer, Rejection):
            return Refusal(f"sbatch: {answer}"[:2000], final=answer.final, too_many=answer.too_many)
        return self._handles(spec, answer)

    def _write(self, spec: SubmissionSpec) -> JobSpec:
        """The run directories, and the submission's own folder: job.py, the tasks, the script."""
        job = self.job_spec(spec)
        job.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        policy = self._policy
        settings = {
            "scheduler": "slurm",
            "subreaper": "1",
            # A moment before Slurm's own KILL, which would take job.py along, and with it the exit record.
            "grace": str(max(1.0, policy.kill_wait() - 1)),
            "heartbeat": str(policy.heartbeat),
        }
        for task in spec.tasks:
            self._preparer.prepare(task, settings)
        # The job takes the job.py of its submission's day, whatever is installed when it starts.
        shutil.copyfile(job_side.__file__, job.folder / "job.py")
        tasks = (f"{task.attempt} {self._runs_dir / task.run_id}" for task in spec.tasks)
        write_whole(job.folder / "tasks", "\0".join(tasks))
        write_whole(job.folder / "job.sh", render(job, self._templates))
        return job

    def script(self, spec: SubmissionSpec) -> str:
        """The script that a submission has."""
        return render(self.job_spec(spec), self._templates)

    def job_spec(self, spec: SubmissionSpec) -> JobSpec:
        """The submission as sbatch sees it."""
        folder = self._runs_dir / ".submissions" / spec.name
        return JobSpec(spec.name, spec.tasks[0].ask(), len(spec.tasks), folder, spec.throttle)

    def _handles(self, spec: SubmissionSpec, job_id: str) -> dict[str, JobHandle]:
        many = len(spec.tasks) > 1
        return {
            task.run_id: self._handle(spec.name, job_id, index if many else None)
            for index, task in enumerate(spec.tasks)
        }

    def _handle(self, name: str, job_id: str, index: int | None) -> JobHandle:
        return JobHandle(self.name, {"submission": name, "job_id": job_id, "index": index, "at": time.time()})

    def find(self, spec: SubmissionSpec) -> dict[str, JobHandle]:
        """Looked up by name. What Slurm does not know is withdrawn; what a job has claimed meanwhile is that job's."""
        if self._poller.trouble is not None:
            raise SchedulerUnavailable(self._poller.trouble)
        rows = self._poller.named(spec.name)
        found = {}
        for index, task in enumerate(spec.tasks):
            attempt = RunDir(self._runs_dir, task.run_id).attempt(task.attempt)
            claim = attempt.claim()
            if claim is not None and claim.withdrawn:
                continue  # a look before this one has seen no job: one that came after it finds this, and ends at once
            if not rows and attempt.withdraw():
                continue
            claim = attempt.claim()
            job_id = rows[0].job_id if rows or claim is None else claim.job_id
            found[task.run_id] = self._handle(spec.name, job_id, index if len(spec.tasks) > 1 else None)
        return found

    # -- watching --------------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why Slurm gives no answer, or None."""
        return self._poller.trouble

    def observe(self, watched: Sequence[Watched]) -> dict[str, Evidence]:
        """Run directories first; squeue when it is due; sacct for what squeue no longer knows."""
        if watched:
            self._linger_until = time.monotonic() + LINGER
        self._busy = time.monotonic() < self._linger_until or self._poller.trouble is not None
        if not self._busy:
            return {}
        own = {_key(item): str(_data(item).get("job_id")) for item in watched}
        fresh = self._poller.look(own) if self._poll else None
        if fresh is None and time.monotonic() - self._looked_at < LOOK_SPACING:
            return {}
        self._looked_at = time.monotonic()
        self._look.begin()
        found: dict[str, Evidence] = {}
        missing = [] if fresh is None else [i for i in watched if (key := _key(i)) and key not in fresh.rows]
        ended = self._poller.ended([(_key(item), str(_data(item)["job_id"])) for item in missing])
        for item in watched:
            try:
                seen = self._see(item, fresh, ended)
            except (OSError, ValueError, KeyError) as error:
                log.warning("run %s cannot be looked at: %s", item.run_id, error)
                continue
            if seen is not None:
                found[item.run_id] = seen
        if self._look.eager:
            self._poller.cadence.hurry(5.0)
        return found

    def _see(self, item: Watched, fresh: Snapshot | None, ended: Any) -> Evidence | None:
        key = _key(item)
        waits = fresh.rows.get(key) if fresh is not None else None
        if waits is not None and waits.phase is Phase.PENDING and waits.restarts == 0:
            # It has never begun: its directory has nothing to tell, and there may be ten thousand of these.
            self._look.waits(item)
            self.shown[item.run_id] = shown(waits, key[1])
            return Evidence(item.attempt, waiting=True, scheduler=self.shown[item.run_id])
        requeued = self._look.requeued(item)
        if requeued is not None:
            return requeued
        if fresh is None:
            last = self._poller.last
            row = last.rows.get(key) if last is not None else None
            return None if row is not None and row.phase is Phase.PENDING else self._look.between(item)
        row = fresh.rows.get(key)
        if row is None:
            kin = key[0] in fresh.known_names
            seen = self._look.unknown(
                item, ended(key), kin=kin, keeps_accounts=self._poller.keeps_accounts is not False
            )
        else:
            self.shown[item.run_id] = shown(row, key[1])
            seen = self._look.known(item, row, self.shown[item.run_id])
        if seen.exit is not None or seen.ended is not None or seen.forgotten is not None:
            self._poller.forget([key])
            self.shown.pop(item.run_id, None)
            self._steer.forget(key)
        return seen

    def _booted_at(self) -> float | None:
        """When slurmctld started (epoch seconds), or None where it does not say."""
        try:
            answer = self._gate.run(["scontrol", "show", "config"])
        except SchedulerUnavailable:
            return None
        for line in answer.output.splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "BOOT_TIME":
                return queue.epoch(value.strip())
        return None

    # -- ending and steering ---------------------------------------------------------------------------------------

    def cancel(self, stopping: Sequence[tuple[Watched, float]]) -> dict[str, str]:
        """One scancel for all whose job squeue shows; a job that Slurm has forgotten is told through its files."""
        shown = self._poller.last.rows if self._poller.last is not None and self._poller.trouble is None else None
        for item, _ in stopping:
            if shown is not None and _key(item) not in shown:
                self._look.ask_to_stop(item)
        if stopping:
            self._poller.cadence.hurry()
        return self._steer.cancel({_key(item): item.run_id for item, _ in stopping})

    def steer(self, action: Action, items: Sequence[tuple[Watched, int]]) -> dict[str, Told]:
        """One scontrol for all whose job squeue shows."""
        return self._steer.steer(action, [(item, _key(item), priority) for item, priority in items])

    def confirms(self, action: Action, watched: Watched, priority: int) -> Told | None:
        """By the last squeue."""
        return self._steer.confirms(action, _key(watched), priority)

    def throttle(self, wanted: Mapping[str, int]) -> list[str]:
        """By ArrayTaskThrottle."""
        return self._steer.throttle(wanted)

    def strays(self, watched: Sequence[Watched]) -> list[Key]:
        """Jobs with a name such as ours that go on though nothing is watched under it."""
        return self._steer.strays({_key(item) for item in watched})

    def end_strays(self, keys: Sequence[Key]) -> list[Key]:
        """One scancel for jobs that nobody should have any more."""
        return self._steer.end_strays(keys)

    def looks_at_waiting(self) -> bool:
        """When squeue is due."""
        self._poll = time.monotonic() >= self._poller.cadence.due
        return self._poll

    def next_look(self) -> float:
        """When squeue is due."""
        return max(0.0, self._poller.cadence.due - time.monotonic()) if self._busy else math.inf

    def close(self) -> None:
        """Nothing is held: the jobs are Slurm's."""


def _data(item: Watched) -> dict[str, Any]:
    return item.job.data if item.job is not None else {}


def _key(item: Watched) -> Key:
    data = _data(item)
    return str(data.get("submission", "")), data.get("index")


def shown(row: queue.QueueRow, index: int | None) -> dict[str, Any]:
    """A job as the wire shows it."""
    waits = row.phase is Phase.PENDING
    return {
        "job_id": row.job_id,
        "array_index": index,
        "state": row.state,
        "reason": row.reason or None,
        "partition": row.partition,
        "nodes": row.nodes or None,
        "priority": row.priority,
        "restarts": row.restarts,
        "submitted_at": row.submitted,
        "expected_start": row.start if waits else None,
        "tres": row.tres,
    }
