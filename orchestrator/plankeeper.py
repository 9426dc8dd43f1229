"""Plans that are going on: completed when their runs are, warned of and stopped when their budget is used up."""

import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, select

from orchestrator import admission, attempts, plans, runs, sweeps
from orchestrator.admission import OPEN, TERMINAL
from orchestrator.db import Database
from orchestrator.journal import SERVICE
from orchestrator.models import Plan, Run
from orchestrator.planning.bounds import Budget
from orchestrator.planning.reading import reading
from orchestrator.states import LIVE, RunStatus

LOOK = 1.0  # seconds between two looks: as much as a budget can be exceeded by, besides what stopping takes


class PlanKeeper:
    """Looks at the plans that are open, now and then. Remembers nothing but when."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._looked = 0.0

    def once(self) -> None:
        """One look, unless the last was a moment ago."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        with self._db.read() as session:
            found = session.exec(select(Plan).where(col(Plan.status).in_(OPEN))).all()
            done = [plan.id for plan in found if plan.status == "executing" and _done(session, plan)]
            spent = {plan.id: words for plan in found if (words := _used_up(session, plan)) and _going(session, plan)}
        if done or spent:
            self._db.write(lambda session: _settle(session, done, spent))


def _settle(session: Session, done: Sequence[str], spent: dict[str, str]) -> None:
    for plan_id in done:
        if plans.get(session, plan_id).status == "executing":
            plans.complete(session, plan_id, SERVICE)
    for plan_id, words in spent.items():
        for run_id in session.exec(select(Run.id).where(*_stoppable(plan_id))).all():
            runs.stop(session, run_id, SERVICE, words)


def _stoppable(plan_id: str) -> tuple[Any, ...]:
    not_over = col(Run.status).in_([RunStatus.QUEUED, *LIVE])
    return (col(Run.plan_id) == plan_id, not_over, col(Run.stop_requested_at).is_(None))


def _going(session: Session, plan: Plan) -> bool:
    return session.exec(select(Run.id).where(*_stoppable(plan.id)).limit(1)).first() is not None


# -- done ------------------------------------------------------------------------------------------------------------


def _done(session: Session, plan: Plan) -> bool:
    """Its sweep has ended, and so has all else that runs under it; or its whole grid has finished."""
    still = select(Run.id).where(col(Run.plan_id) == plan.id, col(Run.status).not_in(TERMINAL)).limit(1)
    if session.exec(still).first() is not None:
        return False
    if plan.sweep_id is not None:
        return sweeps.progress_of(session, [plan.sweep_id]).get(plan.sweep_id, sweeps.NONE).over
    grid = reading(plan.raw_markdown).text.parameters
    return bool(grid) and _finished(session, plan.id, grid)


def _finished(session: Session, plan_id: str, grid: dict[str, list[Any]]) -> bool:
    """Whether each configuration has a run that finished."""
    finished = (col(Run.plan_id) == plan_id, col(Run.status) == RunStatus.FINISHED)
    rows = session.connection().execute(sql_select(col(Run.sweep_params)).where(*finished))
    seen = {_key([params.get(name) for name in grid]) for (params,) in rows if params}
    return all(_key(values) in seen for values in itertools.product(*grid.values()))


def _key(values: Sequence[Any]) -> str:
    return json.dumps(list(values), sort_keys=True)


# -- used up ---------------------------------------------------------------------------------------------------------


def _used_up(session: Session, plan: Plan) -> str:
    """Why its runs are to end; "" while there is something left."""
    bounds = admission.bounds_of(plan)
    if bounds is None or bounds.budget == Budget():
        return ""
    spent, now = admission.spent(session, plan.id), time.time()
    if bounds.budget.gpu_hours is not None:
        hours = (spent.gpu_seconds + _going_on(session, plan.id, now)) / 3600
        if hours >= bounds.budget.gpu_hours and hours > 0:
            return f"The budget of its plan {plan.id} is used up: {hours:.2f} of {bounds.budget.gpu_hours:g} GPU-hours."
    elapsed = admission.wall_seconds(plan, spent.first, now)
    if bounds.budget.wall_seconds is not None and elapsed >= bounds.budget.wall_seconds:
        return f"The time of its plan {plan.id} is over: {elapsed:.0f} of {bounds.budget.wall_seconds:.0f} seconds."
    return ""


def _going_on(session: Session, plan_id: str, now: float) -> float:
    """GPU-seconds of the attempts that are going on."""
    query = select(Run).where(col(Run.plan_id) == plan_id, col(Run.status).in_(LIVE), col(Run.started_at).is_not(None))
    total = 0.0
    for run in session.exec(query):
        gpus, _ = attempts.given(run.scheduler or {}, *attempts.asked(run.resources, run.gpus, run.cpus))
        total += gpus * max(0.0, now - (run.started_at or now))
    return total
