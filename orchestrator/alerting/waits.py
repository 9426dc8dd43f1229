"""Runs that have been queued for too long: what is stored of them, and since when nobody wants them to wait."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col

from orchestrator import runs
from orchestrator.alerting import alerts, rules
from orchestrator.models import Event, Run
from orchestrator.states import RunStatus

AT_ONCE = 500  # explained within one look; the others within the next
WANTED = frozenset({"BeginTime", "JobHeldUser"})  # Slurm's words for waiting that the user has asked for

_COLUMNS: tuple[Any, ...] = (*alerts.SEEN_COLUMNS, Run.queued_at, Run.history)
_QUEUED = sql_select(*_COLUMNS).where(col(Run.status) == RunStatus.QUEUED, col(Run.stop_requested_at).is_(None))
_CHANGES: tuple[Any, ...] = (Event.subject, Event.at, Event.before, Event.after)


class Waits:
    """Finds them, look by look. Remembers of which runs nothing need be asked for a while."""

    def __init__(self, limit: float) -> None:
        """``limit``: the seconds that are too long; 0: nothing is."""
        self._limit = limit
        self._not_before: dict[str, float] = {}

    def late(self, session: Session, now: float) -> list[tuple[float, Run]]:
        """Runs that wait for too long and have no alert of it, and since when."""
        if not self._limit:
            return []
        rows = session.connection().execute(_QUEUED.where(col(Run.queued_at) <= now - self._limit)).all()
        waiting = {row.id for row in rows}
        self._not_before = {run_id: at for run_id, at in self._not_before.items() if run_id in waiting and at > now}
        late = [row for row in rows if row.id not in self._not_before and self._waits_long(row, now)]
        since = self._since(session, alerts.untold(session, "pending", late), now)
        found = runs.many(session, list(since)[:AT_ONCE])
        return [(since[run.id], run) for run in found.values()]

    def _waits_long(self, row: Any, now: float) -> bool:
        return rules.waits_long(alerts.seen_of(row), _queued_since(row), now, self._limit)

    def _since(self, session: Session, rows: Sequence[Any], now: float) -> dict[str, float]:
        """Of these the late ones. The journal tells until when they waited because somebody wanted it."""
        wanted = wanted_until(session, [row.id for row in rows])
        since = {row.id: max(_queued_since(row), wanted.get(row.id, 0.0)) for row in rows}
        for run_id, moment in since.items():
            if now - moment < self._limit:
                self._not_before[run_id] = moment + self._limit
        return {run_id: moment for run_id, moment in since.items() if run_id not in self._not_before}

    def unwanted(
        self, found: Sequence[tuple[float, Run]], shown: Mapping[str, dict[str, Any]], now: float
    ) -> list[tuple[float, Run]]:
        """Without those that wait in Slurm because their user wants it, of which the journal may say nothing."""
        for _, run in found:
            if (shown.get(run.id) or run.scheduler or {}).get("reason") in WANTED:
                self._not_before[run.id] = now + self._limit
        return [(since, run) for since, run in found if run.id not in self._not_before]


def wanted_until(session: Session, run_ids: Sequence[str]) -> dict[str, float]:
    """When these runs last ceased to wait on purpose, of those that have."""
    found: dict[str, float] = {}
    for part in alerts.parts(run_ids):
        query = sql_select(*_CHANGES).where(col(Event.subject).in_([f"run:{run_id}" for run_id in part]))
        for subject, at, before, after in session.connection().execute(query.order_by(col(Event.id))):
            if _ceased(before or {}, after or {}):
                found[subject.removeprefix("run:")] = at
    return found


def _ceased(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    released = before.get("held") is True and after.get("held") is False
    return released or (before.get("reason") in rules.ON_PURPOSE and "reason" in after)


def _queued_since(row: Any) -> float:
    """Since when a run is queued: a requeued one since its attempt ended."""
    ended = (row.history[-1].get("ended_at") or 0.0) if row.history else 0.0
    return max(row.queued_at or 0.0, ended)
