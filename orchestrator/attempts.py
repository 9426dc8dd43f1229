"""What an attempt leaves behind when it ends: its line of the run's history, and what it used. Pure.

GPU-hours and CPU-hours are those that were given (allocated) for as long as the attempt had them, used or not, as
Slurm's own accounting counts them; all attempts of a run count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.slurm.queue import tres_count
from orchestrator.states import Move, RunStatus


@dataclass(frozen=True)
class Past:
    """What is known of a run before the move that ends its attempt."""

    attempt: int
    history: list[dict[str, Any]]
    started_at: float | None
    launched_at: float | None
    gpus: int
    cpus: int
    elapsed_seconds: float
    gpu_seconds: float
    cpu_seconds_given: float
    cpu_seconds: float | None
    scheduler: dict[str, Any] | None


def closing(past: Past, made: Move, now: float) -> dict[str, Any]:
    """The run's columns that an ended attempt changes, besides those of the move."""
    scheduler = made.fields.get("scheduler") or past.scheduler or {}
    began = made.fields.get("started_at") or past.started_at
    ended = made.fields.get("ended_at") or now
    elapsed = max(0.0, ended - began) if began is not None else 0.0
    gpus, cpus = given(scheduler, past.gpus, past.cpus)
    used = made.fields.get("cpu_seconds")
    line = {
        "attempt": past.attempt,
        "job_id": scheduler.get("job_id"),
        "nodes": scheduler.get("nodes"),
        "started_at": began,
        "ended_at": ended,
        "exit_code": made.fields.get("exit_code"),
        "signal": made.fields.get("signal"),
        "reason": made.reason and str(made.reason),
    }
    return {
        "history": [*past.history, line],
        "elapsed_seconds": past.elapsed_seconds + elapsed,
        "gpu_seconds": past.gpu_seconds + gpus * elapsed,
        "cpu_seconds_given": past.cpu_seconds_given + cpus * elapsed,
        "cpu_seconds": past.cpu_seconds if used is None else (past.cpu_seconds or 0.0) + used,
    }


def given(scheduler: Mapping[str, Any], gpus: int, cpus: int) -> tuple[int, int]:
    """GPUs and CPUs of an allocation, all its nodes together: as Slurm counted them, else those ``asked`` for."""
    tres = scheduler.get("tres") or ""
    return tres_count(tres, "gres/gpu") or gpus, tres_count(tres, "cpu") or cpus


def asked(resources: Mapping[str, Any], held: Sequence[Any] | None, cpus: int) -> tuple[int, int]:
    """GPUs and CPUs over all nodes, without Slurm's word. ``held``: the GPUs known by name; ``cpus``: of each node."""
    nodes = int(resources.get("nodes") or 1)
    return len(held or ()) or int(resources.get("gpus") or 0) * nodes, cpus * nodes


def is_closed(history: Sequence[Mapping[str, Any]], attempt: int) -> bool:
    """Whether the history has the end of this attempt already: what is to come is the next one."""
    return bool(history) and history[-1]["attempt"] == attempt


def ends_attempt(before: RunStatus, made: Move, past: Past) -> bool:
    """Whether the move ends an attempt that had begun, and that the history does not have yet."""
    if is_closed(past.history, past.attempt):
        return False
    if made.status.terminal:
        return True
    return made.status is RunStatus.QUEUED and (before.live or "attempt" in made.fields or "ended_at" in made.fields)
