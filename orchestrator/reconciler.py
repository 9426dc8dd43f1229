"""The loop: load, observe, decide, apply. Everything that happens to a run by itself happens here."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlmodel import Session

from orchestrator import attempts, placement, retries, runs
from orchestrator.collector import Collector
from orchestrator.db import Database
from orchestrator.errors import OrcError
from orchestrator.executors.base import Executor
from orchestrator.gpuqueue import GpuQueue
from orchestrator.handover import Batch, Handover
from orchestrator.journal import SERVICE, change, move, record
from orchestrator.models import Run, Submission
from orchestrator.slurm.checks import Bounds
from orchestrator.slurmqueue import SlurmQueue
from orchestrator.states import Evidence, Move, Reason, RunStatus, decide
from orchestrator.steering import Steering
from orchestrator.terms import rekeyed
from orchestrator.views import Glance, view_of, watched_of

log = logging.getLogger(__name__)
IDLE_LOOK = 5.0
BUSY_LOOK = 1.0
STOP_LOOK = 0.25
LAUNCH_LOOK = 0.1  # the start record is a file that nothing announces
GAP = 0.01  # after a pass that found nothing to do, as long again as it took: looking must not be all that is done


class Reconciler:
    """Brings what is stored and what is real together, one pass at a time."""

    def __init__(
        self,
        db: Database,
        executors: dict[str, Executor],
        local_cpus: int,
        gpus: GpuQueue,
        slurm: SlurmQueue,
        collector: Collector,
        on_trouble: Callable[[str | None], None] = lambda _: None,
        code_of: Callable[[Run], dict[str, Any] | None] = lambda _: None,
        bounds: Callable[[], Bounds] = Bounds,
        keep_plans: Callable[[], None] = lambda: None,
    ) -> None:
        self._db = db
        self._executors = executors
        self._local_cpus = local_cpus
        self._gpus = gpus
        self._slurm = slurm
        self._collector = collector
        self._on_trouble = on_trouble
        self._bounds = bounds
        self._keep_plans = keep_plans
        self._handover = Handover(db, executors, gpus, code_of)
        self._steering = Steering(db, executors)
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
        while True:
            self._wakeup.clear()
            if self._closing:  # looked at after the clearing, or a close between the two would be slept through
                return
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
        self._handover.recover()
        live = self._observe()
        pauses = self._start_waiting()
        self._keep_plans()
        if any(run.stop_requested_at is not None for run in live):
            pauses.append(STOP_LOOK)
        if any(run.status == RunStatus.LAUNCHING for run in live):
            pauses.append(LAUNCH_LOOK)
        pauses.append(BUSY_LOOK if live or self._handover.holding else IDLE_LOOK)
        pauses += [executor.next_look() for executor in self._executors.values()]
        return min(pauses)

    # -- what is executing -----------------------------------------------------------------------------------------

    def _observe(self) -> list[Glance]:
        """One look at every live run; the moves that follow; stops and other wishes carried out; metrics read."""
        going: list[Glance] = []
        for name, executor in self._executors.items():
            going += self._observe_one(name, executor)
        self._collector.watch(run for run in going if run.status == RunStatus.RUNNING)
        self._on_trouble(self._slurm_trouble())
        return going

    def _observe_one(self, name: str, executor: Executor) -> list[Glance]:
        waiting = executor.looks_at_waiting()
        with self._db.read() as session:
            live = placement.watched(session, name, waiting=waiting)
        seen = executor.observe([watched_of(run) for run in live])
        moves = [(run, decide(view_of(run), seen[run.id])) for run in live if run.id in seen]
        ending = [run for run, made in moves if made is not None and made.status.terminal]
        self._collector.finish(ending)
        self._apply([(run, seen[run.id], made) for run, made in moves if made is not None])
        gone = {run.id for run in ending}
        going = [run for run in live if run.id not in gone]
        self._cancel(executor, [run for run in going if run.stop_requested_at is not None])
        if waiting:
            self._steering.carry_out(name, going, {run.id for run, made in moves if made is not None})
            self._steering.throttle(name, going)
            self._steering.end_strays(name, live)
        if any(run.lease_gpus for run in ending):
            self._gpus.tidy()
        return going

    def _apply(self, decided: Sequence[tuple[Glance, Evidence, Move]]) -> None:
        """Decides again inside the writer, on what is stored by now, and makes the moves."""
        if not decided:
            return
        contended = {run.id: self._gpus.contention(run, made) for run, _, made in decided}
        # Slurm may have to be asked, which the writer must not wait for.
        bounds = self._bounds() if any(made.reason is Reason.OUT_OF_MEMORY for _, _, made in decided) else Bounds()

        def write(session: Session) -> None:
            found = runs.many(session, (known.id for known, _, _ in decided))
            for known, evidence, _ in decided:
                run = found[known.id]
                made = decide(view_of(run), evidence)
                if made is not None:
                    _make(session, run, made, contended[run.id], bounds)

        self._db.write(write)

    def _cancel(self, executor: Executor, stopping: Sequence[Glance]) -> None:
        now = time.time()
        done = executor.cancel([(watched_of(run), now - (run.stop_requested_at or now)) for run in stopping])
        if done:
            self._db.write(
                lambda session: [
                    record(session, SERVICE, "run.stopping", f"run:{run}", said) for run, said in done.items()
                ]
            )

    # -- what waits ------------------------------------------------------------------------------------------------

    def _start_waiting(self) -> list[float]:
        """Everything about queued runs. When to look again."""
        with self._db.read() as session:
            waiting = placement.waiting(session)
        if not waiting:
            self._gpus.take([])
            self._slurm.settled(0)
            return []
        self._fail_orphans()
        pauses = [self._start_cpu() if waiting.cpu else IDLE_LOOK, self._start_gpu()]
        pauses.append(self._start_slurm(waiting.slurm))
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
            if not self._handover.may_try(run) or not room.take(run):
                continue
            if run.cpus > left:
                break
            left -= run.cpus
            chosen.append(run)
        return self._hand_over([Batch([run]) for run in chosen])

    def _start_gpu(self) -> float:
        """Runs with GPUs: those whose turn it is get theirs."""
        with self._db.read() as session:
            room = placement.room(session)
            waiting = placement.candidates(session, gpu=True, full_sweeps=room.full())
        wanted = [run for run in waiting if self._handover.may_try(run) and room.take(run)]
        turn = self._gpus.take(wanted)
        try:
            if turn.given_up:
                self._db.write(lambda session: _give_up(session, turn.given_up))
            pause = self._hand_over([Batch([run], turn.words[run.id]) for run in wanted if run.id in turn.words])
        finally:
            self._gpus.release_unused()
        news = {run.id: turn.waits[run.id] for run in wanted if run.id in turn.waits and run.reason != Reason.GPU_WAIT}
        if news:
            self._db.write(lambda session: _note_waits(session, news))
        return min(pause, turn.recheck_in)

    def _start_slurm(self, waiting: int) -> float:
        """Runs that go to Slurm, once no more of their kind arrive; none while it gives no answer."""
        if waiting == 0 or self._slurm_trouble() is not None:
            self._slurm.settled(0)
            return IDLE_LOOK
        pause = self._slurm.settled(waiting)
        if pause > 0:
            return pause
        return self._hand_over(self._slurm.batches(self._handover.held_back(), self._handover.most))

    def _slurm_trouble(self) -> str | None:
        executor = self._executors.get("slurm")
        return executor.trouble if executor is not None else "There is no Slurm."

    def _hand_over(self, batches: Sequence[Batch]) -> float:
        self._handover.carry_out(batches)
        return BUSY_LOOK if batches else IDLE_LOOK

    def _explain(self) -> None:
        """Says of each queued run what it waits for."""
        with self._db.read() as session:
            full = placement.room(session).full()
            found = placement.unexplained(session, full, slurm_well=self._slurm_trouble() is None)
        if not found:
            return

        def write(session: Session) -> None:
            stored = runs.many(session, (run_id for run_id, _ in found))
            for run_id, reason in found:
                run = stored[run_id]
                if run.status == RunStatus.QUEUED and run.submission_id is None:
                    change(session, run, SERVICE, "run.waiting", f"run:{run.id}", {"reason": str(reason)})

        self._db.write(write)


def _make(session: Session, run: Run, made: Move, contended: Move | None, bounds: Bounds) -> None:
    """The move, or the next attempt that takes its place: for a GPU that was busy after all, or by the run's policy."""
    before, now = RunStatus(run.status), time.time()
    final = _instead(run, made, contended, now, bounds) or made
    closes = attempts.ends_attempt(before, final, _past(run))
    fields = final.fields | (attempts.closing(_past(run), made, now) if closes else {})
    if final.status is RunStatus.QUEUED and closes:
        fields |= dict.fromkeys(("started_at", "launched_at", "ended_at", "exit_code", "signal"))
    if final.status.terminal or (before.live and final.status is RunStatus.QUEUED):
        fields["wishes"] = {}
    if final.status.terminal or "submission_id" in final.fields:
        _close_submission(session, run)
    move(session, run, replace(final, fields=rekeyed(run, fields)))


def _instead(run: Run, made: Move, contended: Move | None, now: float, bounds: Bounds) -> Move | None:
    """Another attempt in place of an end: none where somebody wants the run to stop."""
    if run.stop_requested_at is not None or not made.status.terminal:
        return None
    if "requeue" in run.wishes and made.status is not RunStatus.FINISHED:
        return Move(RunStatus.QUEUED, Reason.REQUEUED, "Requeued as asked.", dict(retries.NOTHING_HANDED_OVER))
    if contended is not None:
        return replace(contended, fields=contended.fields | retries.NOTHING_HANDED_OVER)
    of_slurm = run.executor == "slurm" and made.reason is Reason.OUT_OF_MEMORY
    most = bounds.memory(run.resources) if of_slurm else None
    return retries.again(run.retry, run.retries, run.resources, made, now, most)


def _past(run: Run) -> attempts.Past:
    gpus, cpus = attempts.asked(run.resources, run.gpus, run.cpus)
    return attempts.Past(
        attempt=run.attempt,
        history=run.history,
        started_at=run.started_at,
        launched_at=run.launched_at,
        gpus=gpus,
        cpus=cpus,
        elapsed_seconds=run.elapsed_seconds,
        gpu_seconds=run.gpu_seconds,
        cpu_seconds_given=run.cpu_seconds_given,
        cpu_seconds=run.cpu_seconds,
        scheduler=run.scheduler,
    )


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
