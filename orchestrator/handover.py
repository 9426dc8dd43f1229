"""From the queue to an executor and back: intents before, answers after; what a crash or a lost answer left open."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sqlmodel import Session

from orchestrator import ids, placement, runs
from orchestrator.db import Database
from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.base import Executor, JobHandle, Refusal, SubmissionSpec
from orchestrator.journal import SERVICE, change, move
from orchestrator.models import Run, Submission
from orchestrator.states import Move, Reason, RunStatus
from orchestrator.views import task_of

log = logging.getLogger(__name__)
HOLD_AFTER_REFUSAL = 5.0
LONGEST_HOLD = 300.0


@dataclass(frozen=True)
class Batch:
    """Runs that go out together: they ask for the same. ``words``: for their events; ``throttle``: the array's %N."""

    runs: Sequence[Run]
    words: str = ""
    throttle: int | None = None


@dataclass(frozen=True)
class Started:
    """A submission whose intent is committed."""

    executor: str
    runs: Sequence[Run]
    spec: SubmissionSpec
    words: str = ""


class GpusHeld(Protocol):
    """What is known of GPUs leased for runs (``gpuqueue.GpuQueue``)."""

    def held(self, run_id: str) -> list[dict[str, Any]] | None:
        """Those leased for a run."""
        ...

    def forget(self, run_ids: Sequence[str]) -> None:
        """These leases are their jobs' now."""
        ...


class Handover:
    """Hands runs to their executors; never twice, and never without a trace."""

    def __init__(
        self,
        db: Database,
        executors: dict[str, Executor],
        gpus: GpusHeld,
        code_of: Callable[[Run], dict[str, Any] | None] = lambda _: None,
    ) -> None:
        self._db = db
        self._code_of = code_of
        self._executors = executors
        self._gpus = gpus
        self._held: dict[str, float] = {}
        self._refusals: dict[str, int] = {}
        self._most: dict[str, int] = {}
        # There may be intents without an answer: a crash left them, a pass that broke, a submission that heard nothing.
        # Only ``recover``, which looks at all of them, may say that there are none.
        self._unsettled = True

    # -- what is held back -----------------------------------------------------------------------------------------

    @property
    def holding(self) -> bool:
        """Whether anything waits to be tried again."""
        now = time.monotonic()
        self._held = {key: until for key, until in self._held.items() if until > now}
        return bool(self._held) or self._unsettled

    def may_try(self, run: Run) -> bool:
        """Whether a run (or its like) that could not be handed over has waited long enough since."""
        now = time.monotonic()
        return now >= self._held.get(run.id, 0.0) and now >= self._held.get(run.ask_key or run.id, 0.0)

    def held_back(self) -> list[str]:
        """What is not to be tried now: asks (or single runs) that were refused a while ago."""
        now = time.monotonic()
        return [key for key, until in self._held.items() if until > now]

    def most(self, ask_key: str) -> int | None:
        """How many such runs the cluster has been taking at once, where it has refused more."""
        return self._most.get(ask_key)

    # -- handing over ----------------------------------------------------------------------------------------------

    def carry_out(self, batches: Sequence[Batch]) -> None:
        """Commits the intents, hands the runs to their executors, commits the answers."""
        if not batches:
            return
        self._unsettled = True
        code = {run.id: self._code_of(run) for batch in batches for run in batch.runs}
        started = self._db.write(lambda session: [_intend(session, batch, code) for batch in batches])
        answers: list[tuple[Started, dict[str, JobHandle]]] = []
        silent: dict[str, str] = {}
        for item in started:
            if item is None:
                continue
            if item.executor in silent:  # it was never sent: nothing to look up
                self._take_back(item, silent[item.executor], Reason.CLUSTER_DEGRADED, attempts=1)
                continue
            try:
                answer = self._executors[item.executor].submit(item.spec)
            except SchedulerUnavailable as error:
                log.warning("no answer to submission %s: %s", item.spec.name, error.message)
                silent[item.executor] = error.message
                continue
            if isinstance(answer, Refusal):
                self._refused(item, answer)
            else:
                self._accepted(item)
                answers.append((item, answer))
        self._answer(answers)

    def _accepted(self, item: Started) -> None:
        key = item.runs[0].ask_key
        self._refusals.pop(key, None)
        if key in self._most:
            self._most[key] = max(self._most[key], 2 * len(item.runs))  # there may be room for more again

    def _refused(self, item: Started, refusal: Refusal) -> None:
        first = item.runs[0]
        if refusal.final:
            made = Move(RunStatus.FAILED, Reason.SUBMIT_REJECTED, refusal.message)
            self._db.write(lambda session: _close(session, item, lambda same, run: move(same, run, made)))
            return
        counted = 0 if refusal.withdrawn else 1
        if refusal.too_many and len(item.runs) > 1 and not refusal.withdrawn:
            self._most[first.ask_key] = len(item.runs) // 2  # tried at once with half as many
            self._take_back(item, refusal.message, Reason.SUBMIT_LIMIT, attempts=counted)
            return
        self._most.pop(first.ask_key, None)
        key = first.ask_key or first.id
        count = self._refusals[key] = self._refusals.get(key, -1) + 1
        hold = min(LONGEST_HOLD, HOLD_AFTER_REFUSAL * 2**count) if first.ask_key else HOLD_AFTER_REFUSAL
        self._held[key] = time.monotonic() + hold
        reason = Reason.SUBMIT_LIMIT if refusal.too_many else Reason.SUBMIT_FAILED
        self._take_back(item, f"{refusal.message} Tried again in {hold:g} s.", reason, attempts=counted)

    def _answer(self, answers: Sequence[tuple[Started, dict[str, JobHandle]]]) -> None:
        """Commits what the executors answered."""
        if answers:
            self._db.write(lambda session: self._note(session, answers))
            self._gpus.forget([run_id for _, handles in answers for run_id in handles])

    def _note(
        self, session: Session, answers: Sequence[tuple[Started, dict[str, JobHandle]]], message: str = ""
    ) -> None:
        for item, handles in answers:
            submission = session.get(Submission, item.spec.name)
            assert submission is not None
            submission.state, submission.submitted_at = "submitted", time.time()
            submission.job = next(iter(handles.values())).data
            session.add(submission)
            for run_id, run in runs.many(session, handles).items():
                self._answered(session, run, item, handles[run_id], message, submission.created_at)

    def _answered(
        self, session: Session, run: Run, item: Started, handle: JobHandle, message: str, intended_at: float
    ) -> None:
        if run.submission_id != item.spec.name or run.status != RunStatus.QUEUED:
            return
        fields: dict[str, Any] = {"job": handle.data, "error": None}
        if (gpus := self._gpus.held(run.id)) is not None:
            fields["gpus"] = gpus
        stopping = Reason.STOPPING if run.stop_requested_at is not None else None
        if handle.executor == "local":
            fields["launched_at"] = intended_at  # by now it may have begun, and ended
            made = Move(RunStatus.LAUNCHING, stopping, fields=fields)
        else:
            fields["scheduler"] = {"job_id": handle.data["job_id"], "array_index": handle.data.get("index")}
            made = Move(RunStatus.QUEUED, stopping or Reason.SLURM_WAIT, fields=fields)
        move(session, run, made, message=message or item.words or _words(handle))

    # -- what was left open ----------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Intents without an answer: looked up and adopted, or taken back so that their runs are queued again."""
        if not self._unsettled:
            return
        silent: set[str] = set()
        with self._db.read() as session:
            intents = [_started_of(session, intent) for intent in session.exec(placement.INTENTS).all()]
        for item in intents:
            if item.executor in silent:
                continue
            try:
                handles = self._executors[item.executor].find(item.spec)
            except SchedulerUnavailable as error:
                log.debug("submission %s cannot be looked up: %s", item.spec.name, error.message)
                silent.add(item.executor)
                continue
            self._settle(item, handles)
        self._unsettled = bool(silent)

    def _settle(self, item: Started, handles: dict[str, JobHandle]) -> None:
        """Adopts these, queues the others again: at once, or a server that dies between leaves some for nobody."""
        lost = Started(item.executor, [run for run in item.runs if run.id not in handles], item.spec)

        def write(session: Session) -> None:
            _close(session, lost, partial(_queue_again, "Its submission was never carried out; it waits again."))
            if handles:
                self._note(session, [(item, handles)], "Adopted: it was handed over, and the answer was lost.")

        self._db.write(write)
        self._gpus.forget(list(handles))

    def _take_back(self, item: Started, message: str, reason: Reason | None = None, *, attempts: int = 0) -> None:
        """Queues runs again. ``attempts``: so many of those counted were none."""
        again = partial(_queue_again, message, reason=reason, attempts=attempts)
        self._db.write(lambda session: _close(session, item, again))


def _queue_again(message: str, session: Session, run: Run, *, reason: Reason | None = None, attempts: int = 0) -> None:
    if run.stop_requested_at is not None:
        move(session, run, Move(RunStatus.STOPPED, Reason.CANCELLED))
        return
    fields = {"submission_id": None, "attempt": run.attempt - attempts, "reason": reason and str(reason)}
    change(session, run, SERVICE, "run.requeued", f"run:{run.id}", fields, message)


def _close(session: Session, item: Started, each: Callable[[Session, Run], None]) -> None:
    """Withdraws a submission; does ``each`` to those of its runs that still wait in it."""
    intent = session.get(Submission, item.spec.name)
    if intent is not None:
        intent.state = "withdrawn"
        session.add(intent)
    for run in runs.many(session, (known.id for known in item.runs)).values():
        if run.status == RunStatus.QUEUED and run.submission_id == item.spec.name and run.job is None:
            each(session, run)


def _words(handle: JobHandle) -> str:
    if handle.executor == "local":
        return ""
    index = handle.data.get("index")
    return f"Submitted to Slurm as job {handle.data['job_id']}{'' if index is None else f'_{index}'}."


def _intend(session: Session, batch: Batch, code: dict[str, dict[str, Any] | None]) -> Started | None:
    """The runs' next attempts, to be handed over; without those that no longer should be."""
    name = f"orc-{ids.run_id()}"
    still = []
    stored = runs.many(session, (known.id for known in batch.runs))
    for known in batch.runs:
        run = stored[known.id]
        if run.status != RunStatus.QUEUED or run.submission_id is not None or run.stop_requested_at is not None:
            continue
        if run.ask_key != known.ask_key or run.held:
            continue  # it asks for something else by now (its priority changed): with others, then
        run.submission_id, run.attempt, run.job = name, run.attempt + 1, None
        run.git = code.get(run.id)
        session.add(run)
        still.append(run)
    if not still:
        return None
    executor = still[0].executor
    run_ids = [run.id for run in still]
    session.add(
        Submission(id=name, executor=executor, run_ids=run_ids, throttle=batch.throttle, created_at=time.time())
    )
    session.flush()
    spec = SubmissionSpec(name, [task_of(run) for run in still], batch.throttle)
    return Started(executor, still, spec, batch.words)


def _started_of(session: Session, intent: Submission) -> Started:
    """A submission as it was handed over: all its runs, in their order, at the attempts that it named."""
    stored = runs.many(session, intent.run_ids)
    found = [stored[run_id] for run_id in intent.run_ids]
    return Started(intent.executor, found, SubmissionSpec(intent.id, [task_of(run) for run in found], intent.throttle))
