"""The life of a run, as pure functions: what may follow what, and what evidence means.

``decide`` is the only place where evidence becomes a move; ``journal.move`` the only one that writes it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RunStatus(StrEnum):
    """Where a run is. The wire's own words."""

    READY = "ready"
    QUEUED = "queued"
    LAUNCHING = "launching"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def terminal(self) -> bool:
        """Nothing leaves a terminal status."""
        return self in TERMINAL

    @property
    def live(self) -> bool:
        """An executor has it, or is about to."""
        return self in LIVE


TERMINAL = frozenset({RunStatus.FINISHED, RunStatus.FAILED, RunStatus.STOPPED})
LIVE = frozenset({RunStatus.LAUNCHING, RunStatus.RUNNING})

ALLOWED: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.READY: frozenset({RunStatus.QUEUED}),
    RunStatus.QUEUED: frozenset({RunStatus.LAUNCHING}) | TERMINAL,
    RunStatus.LAUNCHING: frozenset({RunStatus.RUNNING, RunStatus.QUEUED}) | TERMINAL,
    RunStatus.RUNNING: frozenset({RunStatus.QUEUED}) | TERMINAL,
    RunStatus.FINISHED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.STOPPED: frozenset(),
}


class Reason(StrEnum):
    """Why a run is where it is, for programs. Waiting reasons first, then ends."""

    CPU_WAIT = "CPU_WAIT"
    GPU_WAIT = "GPU_WAIT"
    DEPENDENCY = "DEPENDENCY"
    SWEEP_PARALLEL = "SWEEP_PARALLEL"
    CLUSTER_DEGRADED = "CLUSTER_DEGRADED"
    RESOURCES_GONE = "RESOURCES_GONE"
    SUBMIT_FAILED = "SUBMIT_FAILED"
    STOPPING = "STOPPING"
    ORPHANED = "ORPHANED"
    HELD = "HELD"
    SLURM_WAIT = "SLURM_WAIT"
    SUBMIT_LIMIT = "SUBMIT_LIMIT"
    REQUEUED = "REQUEUED"
    RETRYING = "RETRYING"
    SUSPENDED = "SUSPENDED"
    FORGOTTEN = "FORGOTTEN"

    NONZERO_EXIT = "NONZERO_EXIT"
    SIGNAL = "SIGNAL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    SUBMIT_REJECTED = "SUBMIT_REJECTED"
    GPU_BUSY = "GPU_BUSY"
    PARENT_FAILED = "PARENT_FAILED"
    BAD_WORKDIR = "BAD_WORKDIR"
    BAD_ENVIRONMENT = "BAD_ENVIRONMENT"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"


@dataclass(frozen=True)
class ExitRecord:
    """What job.py wrote at the end. ``code`` and ``signal`` of the command itself; times in epoch seconds."""

    code: int | None
    signal: int | None
    ended_at: float
    timed_out: bool = False
    stopped: bool = False
    error: str | None = None
    reason: str | None = None
    peak_memory_bytes: int | None = None
    oom_kills: int = 0
    started_at: float | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class SchedulerEnd:
    """How the scheduler says that the job ended. ``state``: its own word; ``code`` and ``signal`` as it keeps them."""

    state: str
    code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    said: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was seen of one attempt, in one look.

    ``alive`` is None where the look failed: a failed look is no evidence. ``orphaned``: job.py is
    dead while processes of the run live on. ``gpus``: those that the attempt says it has.

    Of a scheduler: ``waiting`` in its line (again), ``suspended``, ``ended``; ``forgotten``: it knows nothing of the
    job any more, which has never executed and now never can; ``scheduler``: what to show; ``previous``: how the
    attempt ended that a requeue follows.
    """

    attempt: int
    claimed: bool = False
    started_at: float | None = None
    alive: bool | None = None
    orphaned: bool = False
    exit: ExitRecord | None = None
    refused: str | None = None
    gpus: tuple[dict[str, Any], ...] = ()
    waiting: bool = False
    suspended: bool = False
    forgotten: str | None = None
    ended: SchedulerEnd | None = None
    scheduler: dict[str, Any] | None = None
    previous: ExitRecord | None = None


@dataclass(frozen=True)
class RunView:
    """What ``decide`` needs to know of a run. ``closed``: its attempt is over; what is to come is another."""

    status: RunStatus
    attempt: int
    stop_requested: bool
    reason: str | None = None
    reported: dict[str, Any] | None = None
    closed: bool = False


@dataclass(frozen=True)
class Move:
    """A change of a run: its new status (or the present one, with a new reason), and the fields that come with it."""

    status: RunStatus
    reason: Reason | None = None
    error: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def can_move(before: RunStatus, after: RunStatus) -> bool:
    """Whether ``after`` may follow ``before``."""
    return after in ALLOWED[before]


def decide(run: RunView, seen: Evidence) -> Move | None:
    """The move that the evidence calls for, or None.

    Evidence of an earlier attempt says nothing; that of a later one tells of a requeue. An exit record ends the run,
    whatever else was seen; so does the scheduler's word. A dead job without either is LOST.
    """
    if run.status.terminal or run.status is RunStatus.READY or seen.attempt < run.attempt:
        return None
    if seen.attempt > run.attempt:
        return _requeued(run, seen)
    if seen.exit is not None or seen.ended is not None:
        return _end(run, seen, seen.exit, seen.ended)
    if seen.refused is not None and not run.stop_requested:
        return Move(RunStatus.FAILED, Reason.SUBMIT_REJECTED, seen.refused)
    if seen.forgotten is not None:
        return _forgotten(run, seen.forgotten)
    if seen.waiting:
        return _waits(run, seen)
    if seen.alive is None:
        return None
    if not seen.alive:
        return _lost(run, seen)
    return _alive(run, seen)


def _requeued(run: RunView, seen: Evidence) -> Move:
    """The scheduler has started the job again: its next attempt."""
    reason = Reason.STOPPING if run.stop_requested else Reason.REQUEUED
    fields: dict[str, Any] = {"attempt": seen.attempt, "gpus": None} | _scheduler(seen) | _previous(seen)
    return Move(RunStatus.QUEUED, reason, "The scheduler has started the job again.", fields)


def _waits(run: RunView, seen: Evidence) -> Move | None:
    if run.stop_requested:
        return None
    if run.status is RunStatus.QUEUED:
        if run.reason in {Reason.SLURM_WAIT, Reason.REQUEUED}:
            return None
        return Move(RunStatus.QUEUED, Reason.SLURM_WAIT, fields=_scheduler(seen))
    fields: dict[str, Any] = {"gpus": None} | _scheduler(seen) | _previous(seen)
    return Move(RunStatus.QUEUED, Reason.REQUEUED, "The scheduler has put the job back into its queue.", fields)


def _previous(seen: Evidence) -> dict[str, Any]:
    """How the attempt before ended: for the run's history."""
    end = seen.previous
    if end is None:
        return {}
    found = {"started_at": end.started_at, "ended_at": end.ended_at, "exit_code": end.code, "signal": end.signal}
    return found | {"cpu_seconds": end.cpu_seconds}


def _forgotten(run: RunView, said: str) -> Move:
    if run.stop_requested:
        return Move(RunStatus.STOPPED, Reason.CANCELLED)
    return Move(RunStatus.QUEUED, Reason.FORGOTTEN, said, {"submission_id": None, "job": None, "scheduler": None})


def _alive(run: RunView, seen: Evidence) -> Move | None:
    if run.closed:  # the allocation is the next attempt's, which has not begun: this one's start is no news
        return None
    reason = _why(run, seen)
    if seen.started_at is not None and run.status is not RunStatus.QUEUED:
        if run.status is RunStatus.RUNNING and run.reason == reason:
            return None
        return Move(RunStatus.RUNNING, reason, fields=_facts(seen))
    if run.status is RunStatus.QUEUED:
        return Move(RunStatus.LAUNCHING, reason, fields=_scheduler(seen))
    return None


def _why(run: RunView, seen: Evidence) -> Reason | None:
    if run.stop_requested:
        return Reason.STOPPING
    if seen.orphaned:
        return Reason.ORPHANED
    return Reason.SUSPENDED if seen.suspended else None


def _lost(run: RunView, seen: Evidence) -> Move:
    if run.stop_requested:
        return Move(RunStatus.STOPPED, Reason.CANCELLED, fields=_facts(seen))
    code = (run.reported or {}).get("exit_code")
    if code is not None:
        told = ExitRecord(code=code, signal=None, ended_at=(run.reported or {}).get("at", 0.0))
        return _end(run, seen, told, None)
    return Move(
        RunStatus.FAILED,
        Reason.LOST,
        "The run's processes are gone and none of them left an exit record: they were killed from outside, "
        "or the machine went down.",
        _facts(seen),
    )


def _end(run: RunView, seen: Evidence, end: ExitRecord | None, told: SchedulerEnd | None) -> Move:
    fields = _facts(seen)
    if end is not None:
        fields |= {"exit_code": end.code, "signal": end.signal, "ended_at": end.ended_at}
        measured = {"peak_memory_bytes": end.peak_memory_bytes, "cpu_seconds": end.cpu_seconds}
        fields |= {name: value for name, value in measured.items() if value is not None}
    elif told is not None:
        fields |= {"exit_code": told.code, "signal": told.signal}
        fields |= {"ended_at": told.ended_at} if told.ended_at is not None else {}
        if told.started_at is not None and seen.claimed:  # Slurm gives a start even to what it cancelled in its line
            fields["started_at"] = told.started_at
    status, reason, error = _by_scheduler(run, end, told) or (
        _judge(run, end) if end is not None else _without_record(told)
    )
    return Move(status, reason, error, fields)


def _facts(seen: Evidence) -> dict[str, Any]:
    """What the start record and the scheduler tell."""
    facts: dict[str, Any] = {} if seen.started_at is None else {"started_at": seen.started_at}
    return facts | ({"gpus": list(seen.gpus)} if seen.gpus else {}) | _scheduler(seen)


def _scheduler(seen: Evidence) -> dict[str, Any]:
    return {} if seen.scheduler is None else {"scheduler": seen.scheduler}


Verdict = tuple[RunStatus, Reason | None, str | None]
_SCHEDULER_ENDS: dict[str, tuple[Reason, str]] = {
    "TIMEOUT": (Reason.TIMEOUT, "The run reached its time limit (resources.time, or its partition's)."),
    "DEADLINE": (Reason.TIMEOUT, "The job reached its deadline."),
    "OUT_OF_MEMORY": (Reason.OUT_OF_MEMORY, "Slurm ended the job for memory (resources.mem)."),
    "PREEMPTED": (Reason.PREEMPTED, "Slurm preempted the job for one of higher priority."),
    **{
        state: (Reason.NODE_FAIL, f"A node of the job failed ({state}).")
        for state in ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL")
    },
}


def _by_scheduler(run: RunView, end: ExitRecord | None, told: SchedulerEnd | None) -> Verdict | None:
    """Where the scheduler knows better than the exit record why a job ended. First match wins."""
    if told is None:
        return None
    # Of a job that is cancelled the command may have heard, and ended well, before job.py did.
    cancelled = run.stop_requested and told.state == "CANCELLED"
    if end is not None and end.code == 0 and not end.stopped and not cancelled:
        return None
    if run.stop_requested:
        return RunStatus.STOPPED, Reason.CANCELLED, None
    if told.state in _SCHEDULER_ENDS:
        return RunStatus.FAILED, *_SCHEDULER_ENDS[told.state]
    if told.state == "CANCELLED":
        return RunStatus.STOPPED, Reason.CANCELLED, told.said or "The job was cancelled in Slurm (scancel)."
    return None


def _without_record(told: SchedulerEnd | None) -> Verdict:
    """The job ended and left no exit record: the scheduler's word is all there is."""
    if told is None or told.state in {"COMPLETED", "REVOKED"}:
        words = "The job ended and left no exit record: it was killed from outside, or its files could not be written."
        return RunStatus.FAILED, Reason.LOST, words
    if told.signal == 53:
        words = "Slurm could not start the job (0:53): its output folder cannot be written from the compute node."
        return RunStatus.FAILED, Reason.SUBMIT_REJECTED, words
    if told.signal:
        return RunStatus.FAILED, Reason.SIGNAL, f"The job was ended by signal {told.signal}."
    if told.code:
        return RunStatus.FAILED, Reason.NONZERO_EXIT, f"The job ended with exit code {told.code}. {told.said}".strip()
    return RunStatus.FAILED, Reason.LOST, f"Slurm says {told.state}, and the job left no exit record."


def _judge(run: RunView, end: ExitRecord) -> Verdict:
    """The one table from how a run ended to what it is called. First match wins."""
    if end.reason is not None and end.reason in Reason.__members__:
        return RunStatus.FAILED, Reason(end.reason), end.error
    if end.error is not None:
        return RunStatus.FAILED, Reason.SUBMIT_REJECTED, end.error
    if end.timed_out:
        return RunStatus.FAILED, Reason.TIMEOUT, "The run reached its time limit (resources.time)."
    if end.stopped and run.stop_requested:  # told to end, it may well have ended with 0: it was stopped all the same
        return RunStatus.STOPPED, Reason.CANCELLED, None
    if end.stopped:
        return (
            RunStatus.FAILED,
            Reason.SIGNAL,
            "It was told to end (TERM) from outside: the machine shut down, or by hand.",
        )
    if end.code == 0:
        return RunStatus.FINISHED, None, None
    if run.stop_requested:
        return RunStatus.STOPPED, Reason.CANCELLED, None
    if end.oom_kills:
        return RunStatus.FAILED, Reason.OUT_OF_MEMORY, "The kernel killed a process of the run for memory."
    if end.signal is not None:
        return RunStatus.FAILED, Reason.SIGNAL, f"The command was ended by signal {end.signal}."
    return RunStatus.FAILED, Reason.NONZERO_EXIT, f"The command ended with exit code {end.code}."
