"""Looks for what wants a person's choice, in a thread of its own: a slow file system must not hold up the loop.

Runs that failed are found in the journal, once each: how far it was looked through is stored, so that no failure is
missed however a server ends and whenever the next one starts. What goes on and what waits is looked at anew each time;
what has had its alert is known by the alert's key.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlmodel import Session, col, select

from orchestrator import events, runs
from orchestrator.alerting import alerts, going, rules
from orchestrator.alerting.going import GoingOn
from orchestrator.alerting.rules import Raised, Thresholds
from orchestrator.alerting.waits import Waits
from orchestrator.db import Database
from orchestrator.errors import OrcError
from orchestrator.executors.line import Reader
from orchestrator.explaining import Explainer
from orchestrator.models import Event, Run, WatchedUntil
from orchestrator.states import RunStatus
from orchestrator.why import Why

log = logging.getLogger(__name__)
T = TypeVar("T")
AT_ONCE = 500  # failures explained within one look; the others within the next, at once
FAR = 1000  # so many events are looked through again at most, where none of them was a failure
BLIND = 60.0  # seconds without a look after which what lasts is counted anew: the machine slept, or its clock was set
ENDS_WITHIN = 5.0  # seconds that the server's end waits for a look at a file system that hangs


class Ended(Exception):
    """The look is over before its end, for the server is ending."""


@dataclass(frozen=True)
class Failures:
    """Runs that failed, up to an event. ``more``: there are others after it. ``any``: there were some, told or not."""

    runs: Sequence[Run]
    upto: int
    any: bool
    more: bool


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
        self._reader = reader
        self._thresholds = thresholds
        self._explainer = explainer
        self._shown = shown
        self._spacing = spacing
        self._begin(time.time())
        with db.read() as session:
            self._cursor = self._stored = session.exec(select(WatchedUntil.event_id)).one()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _begin(self, now: float) -> None:
        """Counts from now on what must last a while."""
        self._looked = now
        self._going = GoingOn(self._runs_dir, self._thresholds, self._reader, now)
        self._waits = Waits(self._thresholds.pending_seconds)

    def start(self) -> None:
        """Looks in a thread, until ``close``."""
        self._thread = threading.Thread(target=self._loop, name="alert-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, which may be at a file that gives no answer: what it has not told of, the next one tells."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(ENDS_WITHIN)

    def _loop(self) -> None:
        more = False
        while not self._stop.wait(0.0 if more else self._spacing):
            more = False
            try:
                more = self.look(time.time())
            except Ended:
                return
            except OrcError as error:  # the disk is full, say: tried again
                log.error("alerts could not be looked for: %s", error.message)
            except Exception:
                log.exception("alerts could not be looked for")

    def look(self, now: float) -> bool:
        """One look: raises what there is to raise, resolves what is over. True where more failures are to be told."""
        if not 0 <= now - self._looked <= max(BLIND, 5 * self._spacing):
            self._begin(now)
        began = time.monotonic()
        with self._db.read() as session:
            failures = self._failures(session)
            stored = going.stored(session)
            late = self._waits.late(session, now)
            moot = alerts.moot(session)
        found = self._going.look(stored, now, self._each)
        raised = [*self._failed(failures.runs), *found.raised, *self._pending(late, now)]
        with self._db.read() as session:
            told = alerts.known(session, [alert.key for alert in raised])
            over = alerts.known(session, found.over)
        news = [alert for alert in raised if alert.key not in told]
        far = failures.any or failures.upto - self._stored >= FAR
        if news or moot or over or far:
            self._db.write(lambda session: _settle(session, news, over, failures.upto))
            self._stored = failures.upto
        self._cursor = failures.upto
        self._looked = now + time.monotonic() - began
        return failures.more

    def _each(self, items: Iterable[T]) -> Iterator[T]:
        """One after the other, until the server ends: each may take long."""
        for item in items:
            if self._stop.is_set():
                raise Ended
            yield item

    def _failures(self, session: Session) -> Failures:
        """Runs that failed since the last look, for good."""
        newest = events.last_id(session)
        failed = select(Event.id, Event.subject).where(col(Event.kind) == f"run.{RunStatus.FAILED}")
        query = failed.where(col(Event.id) > self._cursor, col(Event.id) <= newest)
        rows = session.exec(query.order_by(col(Event.id)).limit(AT_ONCE)).all()
        more = len(rows) == AT_ONCE
        upto = (rows[-1][0] if more else newest) or 0
        ended = runs.many(session, (subject.removeprefix("run:") for _, subject in rows))
        untold = alerts.untold(session, "failed", ended.values()) if self._thresholds.failed else []
        return Failures(untold, upto, bool(rows), more)

    def _failed(self, ended: Iterable[Run]) -> list[Raised]:
        raised = (rules.failed(alerts.seen_of(run), self._why(run)) for run in self._each(ended))
        return [found for found in raised if found is not None]

    def _pending(self, late: Sequence[tuple[float, Run]], now: float) -> list[Raised]:
        unwanted = self._waits.unwanted(late, self._shown(), now)
        return [rules.pending(alerts.seen_of(run), now - since, self._why(run)) for since, run in self._each(unwanted)]

    def _why(self, run: Run) -> Why:
        """Whatever is wrong with one run must not keep the others from being told of."""
        words = run.error or run.reason or run.status
        try:
            return self._explainer.why(runs.live(runs.public(run), self._shown()))
        except OSError as error:
            return Why("unknown", words, f"Its files cannot be read ({error.strerror}).")
        except Exception:
            log.exception("run %s cannot be explained", run.id)
            return Why("unknown", words, "Why cannot be said: see the server's log.")


def _settle(session: Session, news: Sequence[Raised], over: Iterable[str], upto: int) -> None:
    alerts.retire(session, over)
    alerts.raise_all(session, news)
    alerts.settle_moot(session)
    until = session.exec(select(WatchedUntil)).one()
    until.event_id = upto
    session.add(until)
