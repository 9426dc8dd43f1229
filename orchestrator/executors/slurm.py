"""Slurm: submissions go out through sbatch, and are watched through their directories, squeue and sacct.

A job is known by its submission's name (and array index), which is unique; never by its id alone: ids are used again
when a controller loses its last seconds.
"""

import logging
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import job as job_side
from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.base import Action, JobHandle, Refusal, SubmissionSpec, Watched
from orchestrator.executors.preparing import Preparer
from orchestrator.executors.slurmlook import Look
from orchestrator.rundir import RunDir, write_whole
from orchestrator.slurm import arrays, queue
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.phases import Phase
from orchestrator.slurm.poller import Key, Poller, Snapshot
from orchestrator.slurm.sbatch import Rejection, ScriptExecutor
from orchestrator.slurm.script import JobSpec, Templates, render, sbatch_options
from orchestrator.states import Evidence

log = logging.getLogger(__name__)
ASK_AGAIN = 10.0
LOOK_SPACING = 1.0
IDS_PER_CALL = 500
STRAY_AFTER = 60.0  # seconds that a job may take from its exit record to its end in Slurm: a busy controller's
LINGER = 300.0  # seconds after the last job for which squeue is still asked (MinJobAge's default): a job may come back


@dataclass(frozen=True)
class SlurmPolicy:
    """Times in seconds: ``grace`` between TERM and KILL, ``lost_after`` without any sign of life, ``heartbeat`` of
    job.py, ``submit_deadline`` of one sbatch."""

    grace: float
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
        self._asked: dict[Key, float] = {}
        self._throttled: dict[str, tuple[int, float]] = {}
        self._looked_at = 0.0
        self._strays: dict[Key, float] = {}
        self._sent: dict[tuple[str, str], int] = {}
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
            "grace": str(policy.grace),
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
        if self._poller.trouble is not None and not self._gate.controller_up():
            raise SchedulerUnavailable(self._poller.trouble)
        answer = self._gate.run(queue.command(self._poller.user, names=[spec.name]))
        if answer.code != 0:
            raise SchedulerUnavailable(f"squeue: {answer.errors.strip()[:500]}")
        rows = [row for row in queue.parse(answer.output) if row.name == spec.name]
        if rows:
            return self._handles(spec, rows[0].job_id)
        found = {}
        for index, task in enumerate(spec.tasks):
            attempt = RunDir(self._runs_dir, task.run_id).attempt(task.attempt)
            if not attempt.withdraw():
                claim = attempt.claim()
                assert claim is not None
                place = index if len(spec.tasks) > 1 else None
                found[task.run_id] = self._handle(spec.name, claim.job_id, place)
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
        self._look.eager = False
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
            self._asked.pop(key, None)
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
        """One scancel for all whose job squeue shows; asked again until squeue confirms."""
        now = time.monotonic()
        due: dict[Key, str] = {}
        for item, _ in stopping:
            key = _key(item)
            if key in self._rows() and now - self._asked.get(key, -ASK_AGAIN) >= ASK_AGAIN:
                due[key] = item.run_id
            elif self._rows() and key not in self._rows():
                self._look.ask_to_stop(item)
        done = self._steer(["scancel"], due)
        self._asked |= dict.fromkeys(done, now)
        if stopping:
            self._poller.cadence.hurry()
        return {due[key]: "scancel sent." for key in done}

    def steer(self, action: Action, items: Sequence[tuple[Watched, int]]) -> dict[str, str]:
        """One scontrol for all whose job squeue shows (one for each priority)."""
        by_priority: dict[int, dict[Key, str]] = {}
        for item, priority in items:
            if _key(item) in self._rows():
                by_priority.setdefault(priority if action == "priority" else 0, {})[_key(item)] = item.run_id
        said: dict[str, str] = {}
        for priority, due in by_priority.items():
            words = ["update", f"Nice={max(0, -priority)}"] if action == "priority" else [action]
            done = self._steer(["scontrol", *words], due)
            said |= {due[key]: f"scontrol {' '.join(words)} sent." for key in done}
        self._sent |= {(item.run_id, action): priority for item, priority in items if item.run_id in said}
        self._poller.cadence.hurry()
        return said

    def confirms(self, action: Action, watched: Watched, priority: int) -> bool:
        """By the last squeue: its reason tells of holds; a requeue is confirmed by its job's waiting again."""
        row = self._rows().get(_key(watched))
        if row is not None and row.mixed:
            row = self._poller.task_row(_key(watched), row)
        if row is None:
            return False
        held = row.phase is Phase.PENDING and any(word in row.reason.lower() for word in ("held", "hold"))
        if action == "hold":
            return held
        # Once sent, and seen; a priority squeue does not show: scontrol's own answer has to do.
        sent = self._sent.get((watched.run_id, action))
        done = sent == priority if action == "priority" else sent is not None and not held
        if done:
            del self._sent[watched.run_id, action]
        return done and action != "requeue"

    def _rows(self) -> Mapping[Key, queue.QueueRow]:
        return self._poller.last.rows if self._poller.last is not None and self._poller.trouble is None else {}

    def _steer(self, command: list[str], keys: Iterable[Key]) -> list[Key]:
        """The command for these jobs, many at once; those it was sent for."""
        rows = self._rows()
        # Those that wait go first: where a task ends, the next of its array would begin.
        targets = sorted(
            (key for key in keys if rows[key].phase is not Phase.ENDED),
            key=lambda key: rows[key].phase is not Phase.PENDING,
        )
        done: list[Key] = []
        for start in range(0, len(targets), IDS_PER_CALL):
            part = targets[start : start + IDS_PER_CALL]
            if not self._told(_with_ids(command, job_ids((rows[key].job_id, key[1]) for key in part))):
                return done
            done += part
        return done

    def _told(self, command: list[str]) -> bool:
        """Whether Slurm answered, whatever it said: squeue tells what became of it."""
        try:
            answer = self._gate.run(command)
        except SchedulerUnavailable as error:
            self._poller.away(error.message)
            return False
        if answer.code != 0:  # some may have ended meanwhile
            log.info("%s: %s", " ".join(command[:3]), answer.errors.strip()[:500])
        return True

    def throttle(self, wanted: Mapping[str, int]) -> list[str]:
        """By ArrayTaskThrottle, which squeue shows where tasks wait together; asked again until it does."""
        now = time.monotonic()
        shown = {row.name: row for row in self._rows().values() if row.name in wanted and row.throttle is not None}
        self._throttled = {name: last for name, last in self._throttled.items() if name in shown}
        asked: list[str] = []
        for name, row in shown.items():
            last, at = self._throttled.get(name, (None, -ASK_AGAIN))
            if row.throttle == wanted[name] or (last == wanted[name] and now - at < ASK_AGAIN):
                continue
            command = ["scontrol", "update", f"JobId={row.job_id}", f"ArrayTaskThrottle={wanted[name]}"]
            if not self._told(command):
                break
            asked += [name] * (last != wanted[name])
            self._throttled[name] = (wanted[name], now)
        if asked:
            self._poller.cadence.hurry()
        return asked

    def strays(self, watched: Sequence[Watched]) -> list[Key]:
        """Jobs with a name such as ours that go on though nothing is watched under it.

        One that waits has been requeued. One that runs may only be ending: its run is over as soon as its record says
        so, and Slurm, which hears of the end later, would take our scancel for it.
        """
        known, now = {_key(item) for item in watched}, time.monotonic()
        alive = {
            key: row
            for key, row in self._rows().items()
            if row.phase in {Phase.PENDING, Phase.ALLOCATED} and key[0].startswith("orc-") and key not in known
        }
        self._strays = {key: self._strays.get(key, now) for key in alive}
        return [
            key for key, row in alive.items() if row.phase is Phase.PENDING or now - self._strays[key] >= STRAY_AFTER
        ]

    def end_strays(self, keys: Sequence[Key]) -> list[Key]:
        """One scancel for jobs that nobody should have any more; asked again until squeue confirms."""
        now = time.monotonic()
        due = [key for key in keys if now - self._asked.get(key, -ASK_AGAIN) >= ASK_AGAIN]
        new = [key for key in due if key not in self._asked]
        self._asked |= dict.fromkeys(self._steer(["scancel"], due), now)
        return new

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


def _with_ids(command: list[str], ids: list[str]) -> list[str]:
    if command[0] == "scancel":
        return [*command, *ids]
    joined = ",".join(ids)
    return [*command, f"JobId={joined}"] if command[1] == "update" else [*command, joined]


def job_ids(parts: Iterable[tuple[str, int | None]]) -> list[str]:
    """``7`` and ``18_[1-3,9]`` of single jobs and array tasks."""
    single: list[str] = []
    tasks: dict[str, list[int]] = {}
    for job, index in parts:
        if index is None:
            single.append(job)
        else:
            tasks.setdefault(job, []).append(index)
    return single + [f"{job}_[{arrays.compress(found)}]" for job, found in tasks.items()]


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
