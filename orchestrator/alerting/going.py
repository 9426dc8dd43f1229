"""Runs that go on: metrics that are not finite, no progress, GPUs that do nothing.

What must last a while is counted from when this began to look, so that a server that was away does not take its own
absence for theirs.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func, select

from orchestrator.alerting import alerts, rules
from orchestrator.alerting.rules import IdleGpus, Raised, Seen, Thresholds
from orchestrator.executors.line import Reader
from orchestrator.models import Metric, Run
from orchestrator.rundir import RunDir
from orchestrator.states import Reason, RunStatus

log = logging.getLogger(__name__)
PROBE_SPACING = 30.0

_COLUMNS: tuple[Any, ...] = (*alerts.SEEN_COLUMNS, Run.executor, Run.lease_gpus, Run.gpus)
_RUNNING = sql_select(*_COLUMNS).where(col(Run.status) == RunStatus.RUNNING)
_OF_RUNNING = col(Metric.run_id).in_(select(Run.id).where(col(Run.status) == RunStatus.RUNNING))
_GREW: tuple[Any, ...] = (Metric.run_id, func.max(Metric.updated_at))
_GROWN = sql_select(*_GREW).where(_OF_RUNNING).group_by(col(Metric.run_id))
_BAD: tuple[Any, ...] = (Metric.run_id, Metric.key, Metric.last, Metric.updated_at)
_NONFINITE = sql_select(*_BAD).where(_OF_RUNNING, col(Metric.nonfinite) > 0)
Each = Callable[[Iterable[Seen]], Iterator[Seen]]


@dataclass
class Stored:
    """What the database has of running runs. ``grown``: when their metrics did last; ``bad``: metrics not finite."""

    rows: Sequence[Any] = ()
    grown: dict[str, float] = field(default_factory=dict)
    bad: dict[str, list[tuple[str, float | None, float]]] = field(default_factory=dict)


@dataclass
class Found:
    """What a look has seen. ``over``: keys of conditions that hold no more, whether or not they ever did."""

    raised: list[Raised] = field(default_factory=list)
    over: list[str] = field(default_factory=list)


def stored(session: Session) -> Stored:
    """What is stored of running runs now."""
    found = Stored(session.connection().execute(_RUNNING).all())
    if found.rows:
        found.grown = {row[0]: row[1] for row in session.connection().execute(_GROWN)}
        for run_id, key, last, at in session.connection().execute(_NONFINITE):
            found.bad.setdefault(run_id, []).append((key, last, at))
    return found


class GoingOn:
    """Looks at what runs, look by look; ``since``: before that nobody has."""

    def __init__(self, runs_dir: Path, thresholds: Thresholds, reader: Reader, since: float) -> None:
        self._runs_dir = runs_dir
        self._thresholds = thresholds
        self._reader = reader
        self._began = since
        self._suspended: dict[str, float] = {}
        self._idle = IdleGpus()
        self._idle_for: dict[tuple[str, int], float] = {}
        self._probed = 0.0

    def look(self, found: Stored, now: float, each: Each) -> Found:
        """Looks at the runs' files and GPUs too; no session need be open. ``each`` goes through runs, and may end."""
        seen = {row.id: alerts.seen_of(row) for row in found.rows}
        made = Found()
        if self._thresholds.nonfinite:
            raised = (rules.nonfinite(seen[run_id], metrics) for run_id, metrics in found.bad.items())
            made.raised += [alert for alert in raised if alert is not None]
        for run in each(seen.values()):
            self._progress(made, run, found.grown.get(run.id), now)
        self._suspended = {run_id: at for run_id, at in self._suspended.items() if run_id in seen}
        self._idle_gpus(made, found.rows, seen, now)
        return made

    def _progress(self, made: Found, run: Seen, rows_at: float | None, now: float) -> None:
        """A run that writes nothing any more. Its log is looked at where its metrics have stopped."""
        if run.reason == Reason.SUSPENDED:
            self._suspended[run.id] = now
        if rows_at is None:
            return
        limit, since = self._thresholds.no_progress_seconds, max(self._began, self._suspended.get(run.id, 0.0))
        grown, stuck = rows_at, rules.no_progress(run, rows_at, 0.0, since, now, limit)
        if limit and stuck is not False:
            try:
                grown = max(rows_at, self._log_at(run))
            except OSError as error:  # a look that failed tells nothing
                log.warning("the log of run %s cannot be looked at: %s", run.id, error)
                return
            stuck = rules.no_progress(run, rows_at, grown, since, now, limit)
        if stuck:
            made.raised.append(rules.stuck(run, now - max(grown, since)))
        elif stuck is False:
            made.over.append(rules.key("no_progress", run))

    def _log_at(self, run: Seen) -> float:
        """When its log grew last; 0 without one."""
        try:
            return RunDir(self._runs_dir, run.id).attempt(run.attempt).log.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _idle_gpus(self, made: Found, rows: Sequence[Any], seen: Mapping[str, Seen], now: float) -> None:
        """Runs here whose GPUs do nothing. The driver is asked now and then, and only while there are such runs."""
        limit, percent = self._thresholds.idle_gpu_seconds, self._thresholds.idle_gpu_percent
        held = {
            (row.id, row.attempt): [gpu["uuid"] for gpu in row.gpus]
            for row in rows
            if row.executor == "local" and row.lease_gpus and row.gpus
        }
        if not limit or not percent:
            return
        if held and now - self._probed >= PROBE_SPACING:
            self._probed = now
            loads = {gpu.uuid: gpu.utilization for gpu in self._reader.read().gpus}
            self._idle_for = self._idle.look(loads, held, percent, now)
            made.over += [rules.key("idle_gpu", seen[run_id]) for run_id, _ in self._idle.busy]
        long = {attempt: idle for attempt, idle in self._idle_for.items() if attempt in held and idle >= limit}
        made.raised += [
            rules.idle_gpu(seen[run_id], len(held[run_id, number]), idle, percent)
            for (run_id, number), idle in long.items()
        ]
