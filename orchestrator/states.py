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


@dataclass(frozen=True)
class Evidence:
    """What was seen of one attempt, in one look.

    ``alive`` is None where the look failed: a failed look is no evidence. ``orphaned``: job.py is
    dead while processes of the run live on. ``gpus``: those that the attempt says it has.
    """

    attempt: int
    claimed: bool = False
    started_at: float | None = None
    alive: bool | None = None
    orphaned: bool = False
    exit: ExitRecord | None = None
    refused: str | None = None
    gpus: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class RunView:
    """What ``decide`` needs to know of a run."""

    status: RunStatus
    attempt: int
    stop_requested: bool
    reason: str | None = None
    reported: dict[str, Any] | None = None


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

    An exit record of the present attempt ends the run, whatever else was seen. A dead job
    without one is LOST. Evidence of an earlier attempt says nothing.
    """
    if run.status.terminal or run.status is RunStatus.READY or seen.attempt != run.attempt:
        return None
    if seen.exit is not None:
        return _end(run, seen, seen.exit)
    if seen.refused is not None and not run.stop_requested:
        return Move(RunStatus.FAILED, Reason.SUBMIT_REJECTED, seen.refused)
    if seen.alive is None:
        return None
    if not seen.alive:
        return _lost(run, seen)
    return _alive(run, seen)


def _alive(run: RunView, seen: Evidence) -> Move | None:
    reason = Reason.STOPPING if run.stop_requested else Reason.ORPHANED if seen.orphaned else None
    if seen.started_at is not None and run.status is not RunStatus.QUEUED:
        if run.status is RunStatus.RUNNING and run.reason == reason:
            return None
        return Move(RunStatus.RUNNING, reason, fields=_facts(seen))
    if run.status is RunStatus.QUEUED:
        return Move(RunStatus.LAUNCHING, reason)
    return None


def _lost(run: RunView, seen: Evidence) -> Move:
    if run.stop_requested:
        return Move(RunStatus.STOPPED, Reason.CANCELLED, fields=_facts(seen))
    code = (run.reported or {}).get("exit_code")
    if code is not None:
        told = ExitRecord(code=code, signal=None, ended_at=(run.reported or {}).get("at", 0.0))
        return _end(run, seen, told)
    return Move(
        RunStatus.FAILED,
        Reason.LOST,
        "The run's processes are gone and none of them left an exit record: they were killed from outside, "
        "or the machine went down.",
        _facts(seen),
    )


def _end(run: RunView, seen: Evidence, end: ExitRecord) -> Move:
    fields: dict[str, Any] = {"exit_code": end.code, "signal": end.signal, "ended_at": end.ended_at, **_facts(seen)}
    if end.peak_memory_bytes is not None:
        fields["peak_memory_bytes"] = end.peak_memory_bytes
    status, reason, error = _judge(run, end)
    return Move(status, reason, error, fields)


def _facts(seen: Evidence) -> dict[str, Any]:
    """What the start record tells."""
    facts: dict[str, Any] = {} if seen.started_at is None else {"started_at": seen.started_at}
    return facts | ({"gpus": list(seen.gpus)} if seen.gpus else {})


def _judge(run: RunView, end: ExitRecord) -> tuple[RunStatus, Reason | None, str | None]:
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
