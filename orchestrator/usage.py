"""What runs have used: GPU-hours and CPU-hours given, summed by sweep, plan, token, executor or day."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Float, Select, literal_column
from sqlalchemy import select as sql_select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import Session, col, func

from orchestrator import attempts
from orchestrator.models import Run
from orchestrator.states import LIVE, RunStatus

By = Literal["sweep", "plan", "token", "executor", "day", "status"]
DAY = 86_400
NAMES = ("elapsed_hours", "gpu_hours", "cpu_hours_given", "cpu_hours_used")


class _Midnight(FunctionElement[float]):
    """The UTC midnight at or before a time (both epoch seconds, not before 1970)."""

    type = Float()
    inherit_cache = True


@compiles(_Midnight)
def _midnight(element: _Midnight, compiler: Any, **options: Any) -> str:
    return f"FLOOR({compiler.process(element.clauses, **options)} / {DAY}) * {DAY}"


@compiles(_Midnight, "sqlite")
def _midnight_of_sqlite(element: _Midnight, compiler: Any, **options: Any) -> str:
    """SQLite is not always built with FLOOR; its CAST cuts off, where PostgreSQL's rounds."""
    return f"CAST({compiler.process(element.clauses, **options)} / {DAY} AS INTEGER) * {DAY}"


_COLUMNS: dict[str, Any] = {
    "sweep": col(Run.sweep_id),
    "plan": col(Run.plan_id),
    "token": col(Run.created_by),
    "executor": col(Run.executor),
    "status": col(Run.status),
    "day": _Midnight(col(Run.created_at)),
}


@dataclass(frozen=True)
class Wanted:
    """Which runs count: created at or after ``since`` and before ``until`` (epoch seconds), of a sweep or plan."""

    since: float | None = None
    until: float | None = None
    sweep_id: str | None = None
    plan_id: str | None = None


@dataclass
class _Sums:
    """Seconds, in the order of ``NAMES``."""

    runs: int
    seconds: list[float]

    def row(self, key: Any) -> dict[str, Any]:
        hours = {name: seconds / 3600 for name, seconds in zip(NAMES, self.seconds, strict=True)}
        return {"key": key, "runs": self.runs, **hours}


def totals(session: Session, by: By, wanted: Wanted) -> dict[str, Any]:
    """The sums for each value of ``by``, and over all, in hours.

    ``runs`` are all but those that nobody has started (``ready``). All attempts count, the one that is going on too:
    what it has been given until now; what it has used of that is known at its end.
    """
    sums = {key: _Sums(runs, list(seconds)) for key, runs, *seconds in _ended(session, by, wanted)}
    for key, seconds in _going_on(session, by, wanted, time.time()):
        if key in sums:
            sums[key].seconds = [before + more for before, more in zip(sums[key].seconds, seconds, strict=True)]
    rows = [found.row(int(key) if by == "day" else key) for key, found in sums.items()]
    return {"by": by, "rows": rows, "total": {name: sum(row[name] for row in rows) for name in ("runs", *NAMES)}}


def _ended(session: Session, by: By, wanted: Wanted) -> Iterator[Any]:
    """Key, runs and seconds of the attempts that have ended."""
    columns = (Run.elapsed_seconds, Run.gpu_seconds, Run.cpu_seconds_given, Run.cpu_seconds)
    nothing: Any = literal_column("0.0")
    key = _COLUMNS[by].label("key")
    query = sql_select(key, func.count(), *(func.coalesce(func.sum(col(column)), nothing) for column in columns))
    query = _among(query, wanted).where(col(Run.status) != RunStatus.READY).group_by(key).order_by(key)
    yield from session.connection().execute(query)


def _going_on(session: Session, by: By, wanted: Wanted, now: float) -> Iterator[tuple[Any, tuple[float, ...]]]:
    """Key and seconds of each attempt that is going on."""
    columns: tuple[Any, ...] = (Run.started_at, Run.resources, Run.gpus, Run.cpus, Run.scheduler)
    query = sql_select(_COLUMNS[by].label("key"), *columns)
    query = query.where(col(Run.status).in_(LIVE), col(Run.started_at).is_not(None))
    for row in session.connection().execute(_among(query, wanted)):
        elapsed = max(0.0, now - row.started_at)
        gpus, cpus = attempts.given(row.scheduler or {}, *attempts.asked(row.resources, row.gpus, row.cpus))
        yield row.key, (elapsed, gpus * elapsed, cpus * elapsed, 0.0)


def _among(query: Select[Any], wanted: Wanted) -> Select[Any]:
    """The query, of the wanted runs alone."""
    if wanted.since is not None:
        query = query.where(col(Run.created_at) >= wanted.since)
    if wanted.until is not None:
        query = query.where(col(Run.created_at) < wanted.until)
    for column, value in ((Run.sweep_id, wanted.sweep_id), (Run.plan_id, wanted.plan_id)):
        if value is not None:
            query = query.where(col(column) == value)
    return query
