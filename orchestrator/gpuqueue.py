"""Between the queue of runs and the line for GPUs: what is asked for, what was given, when to give up."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.executors.leases import Lease, LeaseFolderError
from orchestrator.executors.line import TICKET_DEPTH, Outcome
from orchestrator.executors.turns import Request
from orchestrator.models import Run
from orchestrator.proc import ProcessId
from orchestrator.rundir import RunDir
from orchestrator.shapes import GpuwrapConfig
from orchestrator.states import Move, Reason, RunStatus
from orchestrator.views import Glance

FALLBACK = 5.0
MAX_BUSY_RETRIES = 3
LOG_TAIL = 16_384
# What CUDA and frameworks say when another process has the GPU for itself. Memory is left out on purpose: a program
# that asks for more memory than there is would be sent round for ever.
BUSY_SIGNS = (
    "all CUDA-capable devices are busy or unavailable",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "cudaErrorDevicesUnavailable",
    "CUDA-capable device(s) is/are busy or unavailable",
)


class Standing(Protocol):
    """A place in the line (``executors.line.Line``)."""

    def acquire(self, requests: Sequence[Request]) -> Outcome:
        """Takes what may be taken now."""
        ...

    def tidy(self) -> None:
        """Takes stale notes away."""
        ...

    def leave(self) -> None:
        """Leaves the line."""
        ...


@dataclass
class Turn:
    """What one try gave: for whom GPUs were leased (and which, in words), who waits and why, who gave up."""

    words: dict[str, str] = field(default_factory=dict)
    waits: dict[str, str] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    recheck_in: float = FALLBACK


@dataclass
class _Poll:
    """The fallback polls of one waiting run; only they count against its retries."""

    due: float
    done: int = 0


class GpuQueue:
    """Asks the line for GPUs on behalf of queued runs. ``leases`` is shared with the executor that hands them over."""

    def __init__(
        self,
        line: Standing,
        leases: dict[str, Lease],
        runs_dir: Path,
        busy_retry_seconds: float,
        on_holder: Callable[[int], None],
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._line = line
        self._leases = leases
        self._runs_dir = runs_dir
        self._busy_retry_seconds = busy_retry_seconds
        self._on_holder = on_holder
        self._on_ready = on_ready
        self._polls: dict[str, _Poll] = {}

    def take(self, waiting: Sequence[Run]) -> Turn:
        """Leases for those whose turn it is."""
        turn = Turn()
        try:
            outcome = self._line.acquire([request_of(run) for run in waiting[:TICKET_DEPTH]])
        except LeaseFolderError as error:
            turn.waits = {run.id: error.message for run in waiting[:TICKET_DEPTH]}
            return turn
        if waiting:
            self._on_ready()
        self._leases.update(outcome.leases)
        turn.words = {run_id: _words(lease) for run_id, lease in outcome.leases.items()}
        self._watch(outcome.holders)
        still = [run for run in waiting[:TICKET_DEPTH] if run.id not in outcome.leases]
        self._polls = {run.id: self._polls[run.id] for run in still if run.id in self._polls}
        why = outcome.explain() if still else ""
        for run in still:
            self._poll(run, why, turn)
        dues = [poll.due - time.monotonic() for poll in self._polls.values()]
        turn.recheck_in = max(0.01, min([outcome.recheck_in or FALLBACK, *dues]))
        return turn

    def _poll(self, run: Run, why: str, turn: Turn) -> None:
        config = GpuwrapConfig.model_validate(run.gpuwrap_config or {})
        now = time.monotonic()
        poll = self._polls.setdefault(run.id, _Poll(now + config.retry_delay_seconds))
        if now >= poll.due:
            poll.done += 1
            poll.due = now + config.retry_delay_seconds
        if 0 <= config.retries <= poll.done:
            turn.given_up[run.id] = why
            del self._polls[run.id]
        else:
            turn.waits[run.id] = why

    def _watch(self, holders: Iterable[ProcessId]) -> None:
        for holder in holders:
            if holder.alive():
                self._on_holder(holder.pid)

    def held(self, run_id: str) -> list[dict[str, Any]] | None:
        """The GPUs just leased for a run, for its row."""
        lease = self._leases.get(run_id)
        return None if lease is None else [gpu.brief() for gpu in lease.gpus]

    def forget(self, run_ids: Iterable[str]) -> None:
        """These leases are their jobs' now."""
        for run_id in run_ids:
            if (lease := self._leases.pop(run_id, None)) is not None:
                lease.close()

    def release_unused(self) -> None:
        """Gives back what was leased for runs that did not start after all."""
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()

    def tidy(self) -> None:
        """A run with GPUs has ended: wakes who waits, where its job.py could not."""
        self._line.tidy()

    def leave(self) -> None:
        """Leaves the line."""
        self.release_unused()
        self._line.leave()

    def contention(self, run: Glance, made: Move) -> Move | None:
        """Instead of a failure in a run's first moments for a GPU that was busy after all: back into the queue."""
        ended, started = made.fields.get("ended_at"), made.fields.get("started_at") or run.started_at
        by_itself = made.status is RunStatus.FAILED and made.reason in {Reason.NONZERO_EXIT, Reason.SIGNAL}
        if not by_itself or not run.lease_gpus or ended is None or started is None:
            return None
        if ended - started > self._busy_retry_seconds or run.gpu_retries >= MAX_BUSY_RETRIES:
            return None
        tail = RunDir(self._runs_dir, run.id).attempt(run.attempt).log_tail(LOG_TAIL)
        sign = next((sign for sign in BUSY_SIGNS if sign in tail), None)
        if sign is None:
            return None
        fields = {
            "gpu_retries": run.gpu_retries + 1,
            "avoid_gpus": [gpu["uuid"] for gpu in run.gpus or []],
            "gpus": None,
        }
        return Move(RunStatus.QUEUED, Reason.GPU_WAIT, f"Its log says {sign!r}: tried again on other GPUs.", fields)


def request_of(run: Run) -> Request:
    """What a queued run asks of the line."""
    return Request(
        id=run.id,
        gpus=run.lease_gpus,
        since=run.queued_at or run.created_at,
        priority=run.priority,
        avoid=frozenset(run.avoid_gpus),
        label=f"run {run.id} ({run.name[:80]})",
    )


def _words(lease: Lease) -> str:
    return "Leased " + ", ".join(f"GPU {gpu.index} ({gpu.uuid})" for gpu in lease.gpus) + "."
