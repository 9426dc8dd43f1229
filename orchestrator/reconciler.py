"""The loop: load, observe, decide, apply. Everything that happens to a run by itself happens here."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from orchestrator import ids, placement, runs
from orchestrator.collector import Collector
from orchestrator.db import Database
from orchestrator.errors import OrcError
from orchestrator.executors.base import Executor, JobHandle, Refusal, SubmissionSpec
from orchestrator.gpuqueue import GpuQueue
from orchestrator.journal import SERVICE, change, move, record
from orchestrator.models import Run, Submission
from orchestrator.states import Evidence, Move, Reason, RunStatus, decide
from orchestrator.views import task_of, view_of, watched_of

log = logging.getLogger(__name__)
IDLE_LOOK = 5.0
BUSY_LOOK = 1.0
STOP_LOOK = 0.25
LAUNCH_LOOK = 0.1  # the start record is a file that nothing announces
GAP = 0.01  # after a pass that found nothing to do, as long again as it took: looking must not be all that is done
HOLD_AFTER_REFUSAL = 5.0


@dataclass(frozen=True)
class Started:
    """One run whose intent is committed."""

    run: Run
    spec: SubmissionSpec


class Reconciler:
    """Brings what is stored and what is real together, one pass at a time."""

    def __init__(
        self, db: Database, executors: dict[str, Executor], local_cpus: int, gpus: GpuQueue, collector: Collector
    ) -> None:
        self._db = db
        self._executors = executors
        self._local_cpus = local_cpus
        self._gpus = gpus
        self._collector = collector
        self._held: dict[str, float] = {}
        self._unsettled = True  # there may be intents without an answer: a crash left them, or a pass that broke
        self._wakeup = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None
        self.passes = 0

    # -- the loop --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Runs passes in a thread until ``close``."""
        self._thread = threading.Thread(target=self._loop, name="reconciler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something has changed: look again soon."""
        self._wakeup.set()

    def close(self) -> None:
        """Ends the loop after the pass under way."""
        self._closing = True
        self.wake()
        if self._thread is not None:
            self._thread.join()
        self._collector.close()
        self._gpus.leave()
        for executor in self._executors.values():
            executor.close()

    def _loop(self) -> None:
        while not self._closing:
            self._wakeup.clear()
            begin, commits = time.monotonic(), self._db.writer.commits
            try:
                pause = self.once()
                self.trouble = None
            except OrcError as error:  # the disk is full, the database is away: said aloud, tried again
                self.trouble = error.message
                log.error("the reconciler's pass failed: %s", error.message)
                pause = BUSY_LOOK
            except Exception as error:
                self.trouble = f"{type(error).__name__}: {error}"
                log.exception("the reconciler's pass failed")
                pause = BUSY_LOOK
            took = time.monotonic() - begin
            self._wakeup.wait(pause)
            time.sleep(GAP if self._db.writer.commits != commits else max(GAP, min(BUSY_LOOK, took)))

    def once(self) -> float:
        """One pass. Answers after how many seconds the next is due if nothing wakes it."""
        self.passes += 1
        self._held = {run_id: until for run_id, until in self._held.items() if until > time.monotonic()}
        if self._unsettled:
            self._recover()
            self._unsettled = False
        live = self._observe()
        pauses = self._start_waiting()
        if any(run.stop_requested_at is not None for run in live):
            pauses.append(STOP_LOOK)
        if any(run.status == RunStatus.LAUNCHING for run in live):
            pauses.append(LAUNCH_LOOK)
        pauses.append(BUSY_LOOK if live or self._held else IDLE_LOOK)
        return min(pauses)

    # -- what a crash left behind ----------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Intents without an answer: looked up and adopted, or taken back so that the run is queued again."""
        with self._db.read() as session:
            intents = session.exec(placement.INTENTS).all()
            members = {intent.id: [runs.get(session, run_id) for run_id in intent.run_ids] for intent in intents}
        for intent in intents:
            for run in members[intent.id]:
                spec = SubmissionSpec(intent.id, [task_of(run)])
                handle = self._executors[intent.executor].find(spec)
                if handle is not None:
                    self._answer([(Started(run, spec), handle)], "Adopted: it was started before the server ended.")
                else:
                    self._take_back(run.id, intent.id, "Its submission was never carried out; it waits again.")

    def _take_back(
        self, run_id: str, submission_id: str, message: str, reason: Reason | None = None, *, attempts: int = 0
    ) -> None:
        """Queues a run again. ``attempts``: so many of those counted were none."""

        def write(session: Session) -> None:
            run, intent = runs.get(session, run_id), session.get(Submission, submission_id)
            if intent is not None:
                intent.state = "withdrawn"
                session.add(intent)
            if run.status != RunStatus.QUEUED or run.submission_id != submission_id:
                return
            if run.stop_requested_at is not None:
                move(session, run, Move(RunStatus.STOPPED, Reason.CANCELLED))
                return
            fields = {"submission_id": None, "attempt": run.attempt - attempts, "reason": reason and str(reason)}
            change(session, run, SERVICE, "run.requeued", f"run:{run.id}", fields, message)

        self._db.write(write)

    # -- what is executing -----------------------------------------------------------------------------------------

    def _observe(self) -> list[Run]:
        """One look at every live run; the moves that follow; stops carried out; metrics read."""
        with self._db.read() as session:
            live = list(session.exec(placement.HANDED_OVER))
        live = [run for run in live if run.job is not None]
        seen: dict[str, Evidence] = {}
        for name, executor in self._executors.items():
            seen |= executor.observe([watched_of(run) for run in live if run.executor == name])
        moves = [(run, decide(view_of(run), seen[run.id])) for run in live if run.id in seen]
        ending = [run for run, made in moves if made is not None and made.status.terminal]
        self._collector.finish(ending)
        self._apply([(run, seen[run.id], made) for run, made in moves if made is not None])
        gone = {run.id for run in ending}
        going = [run for run in live if run.id not in gone]
        self._collector.watch(run for run in going if run.status == RunStatus.RUNNING)
        self._cancel([run for run in going if run.stop_requested_at is not None])
        if any(run.lease_gpus for run in ending):
            self._gpus.tidy()
        return going

    def _apply(self, decided: Sequence[tuple[Run, Evidence, Move]]) -> None:
        """Decides again inside the writer, on what is stored by now, and makes the moves."""
        if not decided:
            return
        contended = {run.id: self._gpus.contention(run, made) for run, _, made in decided}

        def write(session: Session) -> None:
            for known, evidence, _ in decided:
                run = runs.get(session, known.id)
                made = decide(view_of(run), evidence)
                if made is None:
                    continue
                again = contended[run.id] if run.stop_requested_at is None else None
                move(session, run, again or made)
                if made.status.terminal:
                    _close_submission(session, run)
                    if again is not None:
                        run.submission_id, run.job = None, None
                        session.add(run)

        self._db.write(write)

    def _cancel(self, stopping: Sequence[Run]) -> None:
        done: list[tuple[str, str]] = []
        for run in stopping:
            assert run.stop_requested_at is not None
            said = self._executors[run.executor].cancel(watched_of(run), time.time() - run.stop_requested_at)
            if said is not None:
                done.append((run.id, said))
        if done:
            self._db.write(
                lambda session: [record(session, SERVICE, "run.stopping", f"run:{run}", said) for run, said in done]
            )

    # -- what waits ------------------------------------------------------------------------------------------------

    def _start_waiting(self) -> list[float]:
        """Everything about queued runs. When to look again."""
        with self._db.read() as session:
            waiting = placement.waiting(session)
        if not waiting.cpu and not waiting.gpu:
            self._gpus.take([])
            return []
        self._fail_orphans()
        pauses = [self._start_cpu() if waiting.cpu else IDLE_LOOK, self._start_gpu()]
        self._explain()
        return pauses

    def _fail_orphans(self) -> None:
        """Runs whose parent failed can never start."""
        with self._db.read() as session:
            found = placement.orphans_of_failure(session)
        if not found:
            return

        def write(session: Session) -> None:
            for child, parent in found:
                run = runs.get(session, child.id)
                if run.status == RunStatus.QUEUED:
                    error = f"Run {parent.id}, which it depends on, has {parent.status} ({parent.reason})."
                    move(session, run, Move(RunStatus.FAILED, Reason.PARENT_FAILED, error))

        self._db.write(write)

    def _start_cpu(self) -> float:
        """Runs without GPUs, as many as there are CPUs: by priority, then strictly in order of arrival."""
        with self._db.read() as session:
            left = self._local_cpus - placement.cpus_taken(session)
            if left <= 0:
                return IDLE_LOOK
            room = placement.room(session)
            waiting = placement.candidates(session, gpu=False, full_sweeps=room.full())
        chosen: list[Run] = []
        for run in waiting:
            if not self._free_to_try(run) or not room.take(run):
                continue
            if run.cpus > left:
                break
            left -= run.cpus
            chosen.append(run)
        return self._hand_over([(run, "") for run in chosen])

    def _start_gpu(self) -> float:
        """Runs with GPUs: those whose turn it is get theirs."""
        with self._db.read() as session:
            room = placement.room(session)
            waiting = placement.candidates(session, gpu=True, full_sweeps=room.full())
        wanted = [run for run in waiting if self._free_to_try(run) and room.take(run)]
        turn = self._gpus.take(wanted)
        try:
            if turn.given_up:
                self._db.write(lambda session: _give_up(session, turn.given_up))
            pause = self._hand_over([(run, turn.words[run.id]) for run in wanted if run.id in turn.words])
        finally:
            self._gpus.release_unused()
        news = {run.id: turn.waits[run.id] for run in wanted if run.id in turn.waits and run.reason != Reason.GPU_WAIT}
        if news:
            self._db.write(lambda session: _note_waits(session, news))
        return min(pause, turn.recheck_in)

    def _free_to_try(self, run: Run) -> bool:
        """Whether a run that could not be started has waited long enough since."""
        return time.monotonic() >= self._held.get(run.id, 0.0)

    def _hand_over(self, chosen: Sequence[tuple[Run, str]]) -> float:
        """Commits the intents, hands the runs to their executors, commits the answers."""
        if not chosen:
            return IDLE_LOOK
        self._unsettled = True
        started = self._db.write(lambda session: [_intend(session, run.id) for run, _ in chosen])
        words = {run.id: text for run, text in chosen}
        answers: list[tuple[Started, JobHandle]] = []
        for item in started:
            if item is None:
                continue
            answer = self._executors[item.run.executor].submit(item.spec)
            if isinstance(answer, JobHandle):
                answers.append((item, answer))
            else:
                self._refused(item, answer)
        self._answer(answers, words=words)
        self._unsettled = False
        return BUSY_LOOK

    def _refused(self, item: Started, refusal: Refusal) -> None:
        if refusal.final:
            made = Move(RunStatus.FAILED, Reason.SUBMIT_REJECTED, refusal.message)
            self._db.write(lambda session: move(session, runs.get(session, item.run.id), made))
            return
        self._held[item.run.id] = time.monotonic() + HOLD_AFTER_REFUSAL
        message = f"{refusal.message} Tried again in {HOLD_AFTER_REFUSAL:g} s."
        self._take_back(item.run.id, item.spec.name, message, Reason.SUBMIT_FAILED, attempts=1)

    def _answer(
        self, answers: Sequence[tuple[Started, JobHandle]], message: str = "", words: dict[str, str] | None = None
    ) -> None:
        """Commits what the executors answered."""
        if not answers:
            return

        def write(session: Session) -> None:
            for item, handle in answers:
                submission = session.get(Submission, item.spec.name)
                assert submission is not None
                submission.state, submission.job, submission.submitted_at = "submitted", handle.data, time.time()
                session.add(submission)
                run = runs.get(session, item.run.id)
                gpus = self._gpus.held(run.id)
                fields = {"job": handle.data} | ({"gpus": gpus} if gpus is not None else {})
                reason = Reason.STOPPING if run.stop_requested_at is not None else None
                text = message or (words or {}).get(run.id, "")
                move(session, run, Move(RunStatus.LAUNCHING, reason, fields=fields), message=text)

        self._db.write(write)
        self._gpus.forget(item.run.id for item, _ in answers)

    def _explain(self) -> None:
        """Says of each queued run what it waits for."""
        with self._db.read() as session:
            found = placement.unexplained(session, placement.room(session).full())
        if not found:
            return

        def write(session: Session) -> None:
            for run_id, reason in found:
                run = runs.get(session, run_id)
                if run.status == RunStatus.QUEUED and run.submission_id is None:
                    change(session, run, SERVICE, "run.waiting", f"run:{run.id}", {"reason": str(reason)})

        self._db.write(write)


def _intend(session: Session, run_id: str) -> Started | None:
    """Commits that the run is about to be handed over; None when it no longer should be."""
    run = runs.get(session, run_id)
    if run.status != RunStatus.QUEUED or run.submission_id is not None or run.stop_requested_at is not None:
        return None
    name = f"orc-{ids.run_id()}"
    session.add(Submission(id=name, executor=run.executor, run_ids=[run.id], created_at=time.time()))
    run.submission_id, run.attempt = name, run.attempt + 1
    session.add(run)
    session.flush()
    return Started(run, SubmissionSpec(name, [task_of(run)]))


def _close_submission(session: Session, run: Run) -> None:
    submission = session.get(Submission, run.submission_id) if run.submission_id else None
    if submission is not None:
        submission.state = "ended"
        session.add(submission)


def _give_up(session: Session, given_up: dict[str, str]) -> None:
    for run_id, why in given_up.items():
        run = runs.get(session, run_id)
        if run.status == RunStatus.QUEUED and run.submission_id is None:
            error = f"No free GPUs after {(run.gpuwrap_config or {}).get('retries')} retries. {why}"
            move(session, run, Move(RunStatus.FAILED, Reason.GPU_BUSY, error))


def _note_waits(session: Session, waits: dict[str, str]) -> None:
    for run_id, why in waits.items():
        run = runs.get(session, run_id)
        if run.status == RunStatus.QUEUED and run.reason != Reason.GPU_WAIT:
            change(
                session, run, SERVICE, "run.waiting", f"run:{run.id}", {"reason": str(Reason.GPU_WAIT)}, f"Waits: {why}"
            )
