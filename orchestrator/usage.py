"""What runs have used: GPU-hours and CPU-hours given, summed by sweep, plan, token, executor or day."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Integer, cast
from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func

from orchestrator.models import Run

By = Literal["sweep", "plan", "token", "executor", "day", "status"]
DAY = 86_400
_COLUMNS: dict[str, Any] = {
    "sweep": col(Run.sweep_id),
    "plan": col(Run.plan_id),
    "token": col(Run.created_by),
    "executor": col(Run.executor),
    "status": col(Run.status),
    "day": cast(col(Run.created_at) / DAY, Integer) * DAY,  # UTC midnight, epoch seconds
}


@dataclass(frozen=True)
class Wanted:
    """Which runs count: created at or after ``since`` and before ``until`` (epoch seconds), of a sweep or plan."""

    since: float | None = None
    until: float | None = None
    sweep_id: str | None = None
    plan_id: str | None = None


def totals(session: Session, by: By, wanted: Wanted) -> dict[str, Any]:
    """The sums for each value of ``by``, and over all. Hours; ``runs`` that have ended or are going on."""
    key = _COLUMNS[by]
    query = sql_select(
        key.label("key"),
        func.count(),
        func.coalesce(func.sum(col(Run.elapsed_seconds)), 0.0),
        func.coalesce(func.sum(col(Run.gpu_seconds)), 0.0),
        func.coalesce(func.sum(col(Run.cpu_seconds_given)), 0.0),
        func.coalesce(func.sum(col(Run.cpu_seconds)), 0.0),
    ).group_by(key)
    if wanted.since is not None:
        query = query.where(col(Run.created_at) >= wanted.since)
    if wanted.until is not None:
        query = query.where(col(Run.created_at) < wanted.until)
    for column, value in ((Run.sweep_id, wanted.sweep_id), (Run.plan_id, wanted.plan_id)):
        if value is not None:
            query = query.where(col(column) == value)
    rows = [_row(*row) for row in session.connection().execute(query.order_by(key))]
    names = ("runs", "elapsed_hours", "gpu_hours", "cpu_hours_given", "cpu_hours_used")
    return {"by": by, "rows": rows, "total": {name: sum(row[name] for row in rows) for name in names}}


def _row(key: Any, runs: int, elapsed: float, gpu: float, given: float, used: float) -> dict[str, Any]:
    return {
        "key": key,
        "runs": runs,
        "elapsed_hours": elapsed / 3600,
        "gpu_hours": gpu / 3600,
        "cpu_hours_given": given / 3600,
        "cpu_hours_used": used / 3600,
    }
