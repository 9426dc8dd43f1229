"""Looks for what wants a person's choice, in a thread of its own: a slow file system must not hold up the loop.

Runs that failed are found in the journal, once each. What goes on is looked at anew each time; what has had its alert
is known by the alert's key. What must last a while (no progress, idle GPUs) is counted from this watch's start on, so
that a server that was away does not take its own absence for theirs.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func, select

from orchestrator import events, runs
from orchestrator.alerting import alerts, rules
from orchestrator.alerting.rules import IdleGpus, Raised, Seen, Thresholds
from orchestrator.db import Database
from orchestrator.errors import OrcError
from orchestrator.executors.line import Reader
from orchestrator.explaining import Explainer
from orchestrator.models import Alert, Event, Metric, Run
from orchestrator.rundir import RunDir
from orchestrator.states import Reason, RunStatus
from orchestrator.why import Why

log = logging.getLogger(__name__)
LOOKED_BACK = 3600.0  # seconds before the start within which failures are looked for once more
PROBE_SPACING = 30.0
WANTED = frozenset({"BeginTime", "JobHeldUser"})  # Slurm's words for waiting that the user has asked for
AT_ONCE = 500  # explained within one look; the others within the next

_SEEN: tuple[Any, ...] = (
    *(Run.id, Run.name, Run.attempt, Run.reason, Run.error, Run.sweep_id, Run.started_at, Run.resources),
    *(Run.executor, Run.lease_gpus, Run.gpus),
)
_RUNNING = sql_select(*_SEEN).where(col(Run.status) == RunStatus.RUNNING)
_OF_RUNNING = col(Metric.run_id).in_(select(Run.id).where(col(Run.status) == RunStatus.RUNNING))
_GREW: tuple[Any, ...] = (Metric.run_id, func.max(Metric.updated_at))
_GROWN = sql_select(*_GREW).where(_OF_RUNNING).group_by(col(Metric.run_id))
_BAD: tuple[Any, ...] = (Metric.run_id, Metric.key, Metric.last, Metric.updated_at)
_NONFINITE = sql_select(*_BAD).where(_OF_RUNNING, col(Metric.nonfinite) > 0)
_WAITS: tuple[Any, ...] = (*_SEEN, Run.queued_at, Run.history)
_QUEUED = sql_select(*_WAITS).where(col(Run.status) == RunStatus.QUEUED, col(Run.stop_requested_at).is_(None))


class AlertWatch:
    """Holds what is stored against the rules, look by look. ``shown``: what Slurm says of runs now."""

    def __init__(
        self,
        db: Database,
        runs_dir: Path,
        thresholds: Thresholds,
        explainer: Explainer,
        shown: Callable[[], Mapping[str, dict[str, Any]]],
        reader: Reader,
        spacing: float,
    ) -> None:
        self._db = db
        self._runs_dir = runs_dir
        self._thresholds = thresholds
        self._explainer = explainer
        self._shown = shown
        self._reader = reader
        self._spacing = spacing
        self._began = time.time()
        self._suspended: dict[str, float] = {}
        self._idle = IdleGpus()
        self._idle_for: dict[tuple[str, int], float] = {}
        self._probed = 0.0
        with db.read() as session:
            self._cursor = first_event(session, self._began)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Looks in a thread, until ``close``."""
        self._thread = threading.Thread(target=self._loop, name="alert-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the look under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(self._spacing):
            try:
                self.look(time.time())
            except OrcError as error:  # the disk is full, say: tried again
                log.error("alerts could not be looked for: %s", error.message)
            except Exception:
                log.exception("alerts could not be looked for")

    def look(self, now: float) -> None:
        """One look: raises what there is to raise, resolves what is over."""
        with self._db.read() as session:
            newest = events.last_id(session)
            ended = self._new_failures(session, newest) if self._thresholds.failed else []
            going_on = self._going_on(session, now)
            waiting = self._waiting(session, now) if self._thresholds.pending_seconds else []
            moot = alerts.moot(session)
        found = [*self._failed(ended), *going_on(), *self._pending(waiting, now)]
        with self._db.read() as session:
            told = alerts.known(session, [raised.key for raised in found])
        news = [raised for raised in found if raised.key not in told]
        if news or moot:
            self._db.write(lambda session: _settle(session, news))
        self._cursor = newest

    # -- what has failed -------------------------------------------------------------------------------------------

    def _new_failures(self, session: Session, newest: int) -> list[Run]:
        """Runs that failed since the last look, for good."""
        query = select(Event.subject).where(
            col(Event.id) > self._cursor, col(Event.id) <= newest, col(Event.kind) == f"run.{RunStatus.FAILED}"
        )
        ended = runs.many(session, (subject.removeprefix("run:") for subject in session.exec(query)))
        return _untold(session, "failed", ended.values())

    def _failed(self, ended: Iterable[Run]) -> list[Raised]:
        raised = (rules.failed(alerts.seen_of(run), self._why(run)) for run in ended)
        return [found for found in raised if found is not None]

    def _why(self, run: Run) -> Why:
        try:
            return self._explainer.why(runs.live(runs.public(run), self._shown()))
        except OSError as error:
            words = run.error or run.reason or run.status
            return Why("unknown", words, f"Its files cannot be read ({error.strerror}).")

    # -- what goes on ----------------------------------------------------------------------------------------------

    def _going_on(self, session: Session, now: float) -> Callable[[], list[Raised]]:
        """Reads what is stored of running runs; what is answered looks at their files and GPUs, without the session."""
        running = session.connection().execute(_RUNNING).all()
        grown: dict[str, float] = {}
        if running:
            grown = {row[0]: row[1] for row in session.connection().execute(_GROWN)}
        bad: dict[str, list[tuple[str, float | None, float]]] = {}
        if running and self._thresholds.nonfinite:
            for run_id, key, last, at in session.connection().execute(_NONFINITE):
                bad.setdefault(run_id, []).append((key, last, at))

        def look() -> list[Raised]:
            seen = {row.id: alerts.seen_of(row) for row in running}
            raised = [rules.nonfinite(seen[run_id], metrics) for run_id, metrics in bad.items()]
            raised += [self._progress(run, grown.get(run.id), now) for run in seen.values()]
            self._suspended = {run_id: at for run_id, at in self._suspended.items() if run_id in seen}
            return [*(found for found in raised if found is not None), *self._idle_gpus(running, seen, now)]

        return look

    def _progress(self, run: Seen, rows_at: float | None, now: float) -> Raised | None:
        """A run that writes nothing any more. Its log is looked at where its metrics have stopped."""
        if run.reason == Reason.SUSPENDED:
            self._suspended[run.id] = now
        since, limit = max(self._began, self._suspended.get(run.id, 0.0)), self._thresholds.no_progress_seconds
        if not rules.no_progress(run, rows_at, None, since, now, limit):
            return None
        try:
            log_at: float | None = RunDir(self._runs_dir, run.id).attempt(run.attempt).log.stat().st_mtime
        except FileNotFoundError:
            log_at = None
        except OSError as error:  # a look that failed tells nothing
            log.warning("the log of run %s cannot be looked at: %s", run.id, error)
            return None
        if not rules.no_progress(run, rows_at, log_at, since, now, limit):
            return None
        return rules.stuck(run, now - max(rows_at or 0.0, log_at or 0.0, since))

    def _idle_gpus(self, running: Sequence[Any], seen: Mapping[str, Seen], now: float) -> list[Raised]:
        """Runs here whose GPUs do nothing. The driver is asked now and then, and only while there are such runs."""
        limit, percent = self._thresholds.idle_gpu_seconds, self._thresholds.idle_gpu_percent
        held = {
            (row.id, row.attempt): [gpu["uuid"] for gpu in row.gpus]
            for row in running
            if row.executor == "local" and row.lease_gpus and row.gpus
        }
        if not limit or not percent:
            return []
        if held and now - self._probed >= PROBE_SPACING:
            self._probed = now
            loads = {gpu.uuid: gpu.utilization for gpu in self._reader.read().gpus}
            self._idle_for = self._idle.look(loads, held, percent, now)
        long = {attempt: idle for attempt, idle in self._idle_for.items() if attempt in held and idle >= limit}
        return [
            rules.idle_gpu(seen[run_id], len(held[run_id, number]), idle, percent)
            for (run_id, number), idle in long.items()
        ]

    # -- what waits ------------------------------------------------------------------------------------------------

    def _waiting(self, session: Session, now: float) -> list[tuple[float, Run]]:
        """Runs that have been queued for too long, and since when."""
        limit = self._thresholds.pending_seconds
        rows = session.connection().execute(_QUEUED.where(col(Run.queued_at) <= now - limit)).all()
        since = {row.id: _waits_since(row) for row in rows}
        late = [row for row in rows if rules.waits_long(alerts.seen_of(row), since[row.id], now, limit)]
        found = runs.many(session, [row.id for row in _untold(session, "pending", late)][:AT_ONCE])
        return [(since[run.id], run) for run in found.values()]

    def _pending(self, waiting: Iterable[tuple[float, Run]], now: float) -> list[Raised]:
        shown = self._shown()
        return [
            rules.pending(alerts.seen_of(run), now - since, self._why(run))
            for since, run in waiting
            if (shown.get(run.id) or run.scheduler or {}).get("reason") not in WANTED
        ]


def first_event(session: Session, now: float) -> int:
    """After which event failures are looked for when a server starts: its id.

    An hour back, so that none is lost that a server had no time to tell of. Where this database has had alerts of rules
    before, an hour before its last server's last word, however long that is ago; else none that is older than an hour.
    """
    before = session.exec(select(Alert.id).where(col(Alert.rule) != "").limit(1)).first() is not None
    last = session.exec(select(Event.at).order_by(col(Event.id).desc()).limit(1)).first()
    since = (last if before and last is not None else now) - LOOKED_BACK
    older = select(Event.id).where(col(Event.at) < since).order_by(col(Event.id).desc()).limit(1)
    return session.exec(older).first() or 0


def _settle(session: Session, news: Sequence[Raised]) -> None:
    alerts.raise_all(session, news)
    alerts.settle_moot(session)


def _untold(session: Session, rule: str, found: Iterable[Any]) -> list[Any]:
    """Without those that have had their alert."""
    keys = {rules.key(rule, alerts.seen_of(run)): run for run in found}
    told = alerts.known(session, list(keys))
    return [run for key, run in keys.items() if key not in told]


def _waits_since(row: Any) -> float:
    """Since when a run waits: a requeued one since its attempt ended."""
    ended = (row.history[-1].get("ended_at") or 0.0) if row.history else 0.0
    return max(row.queued_at or 0.0, ended)
