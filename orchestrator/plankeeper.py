"""Plans that are going on: completed when their runs are, warned of and stopped when their budget is used up."""

import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select as sql_select
from sqlalchemy.orm import defer
from sqlmodel import Session, col, func, select

from orchestrator import admission, attempts, plans, wishes
from orchestrator.admission import ENDED, OPEN, TERMINAL
from orchestrator.alerting import alerts
from orchestrator.alerting.rules import Budget as What
from orchestrator.alerting.rules import Raised, budget_alert
from orchestrator.db import Database
from orchestrator.journal import SERVICE
from orchestrator.models import Alert, Plan, Run
from orchestrator.states import LIVE, RunStatus

LOOK = 1.0  # seconds between two looks: as much as a budget can be exceeded by, besides what stopping takes


# Every second: without the texts, which are long and hardly ever needed.
_TEXTS: tuple[Any, ...] = (Plan.raw_markdown, Plan.parsed, Plan.sections, Plan.goal)
# Runs of a completed plan may be run again, under its budget.
_GOING = select(Run.plan_id).where(col(Run.status).in_([RunStatus.QUEUED, *LIVE]), col(Run.plan_id).is_not(None))
_PLANS = select(Plan).options(*(defer(text) for text in _TEXTS))
_OPEN = _PLANS.where(col(Plan.status).in_(OPEN) | (col(Plan.status).in_(ENDED) & col(Plan.id).in_(_GOING)))


class PlanKeeper:
    """Looks at the plans that are open, or have runs that go on, now and then. Remembers nothing but when."""

    def __init__(self, db: Database, warn_at: float) -> None:
        """``warn_at``: the share of a budget from which on there is an alert; 0: none."""
        self._db = db
        self._warn_at = warn_at
        self._looked = 0.0

    def once(self) -> None:
        """One look, unless the last was a moment ago."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        with self._db.read() as session:
            found = session.exec(_OPEN).all()
            done = [plan.id for plan in found if plan.status == "executing" and _done(session, plan)]
            uses = [use for plan in found if admission.going(session, plan.id) for use in _uses(session, plan)]
            news = self._news(session, uses)
            moot = self._moot(session)
        spent = {use.plan_id: use.words() for use in uses if use.used >= use.limit and use.used > 0}
        if done or spent or news or moot:
            self._db.write(lambda session: _settle(session, done, spent, news, moot))

    def _news(self, session: Session, uses: Sequence["Use"]) -> list[Raised]:
        """The alerts that there have not been yet."""
        raised = self._alerts(uses)
        known = alerts.known(session, [alert.key for alert in raised])
        return [alert for alert in raised if alert.key not in known]

    def _alerts(self, uses: Iterable["Use"]) -> list[Raised]:
        found = (budget_alert(use.plan_id, use.title, use.what, use.used, use.limit, self._warn_at) for use in uses)
        return [alert for alert in found if alert is not None]

    def _moot(self, session: Session) -> list[str]:
        """Alerts of what is over: the plan has ended in time, has another budget by now, or has used up all of it."""
        return [alert.id for alert in alerts.of_budgets(session) if not self._stands(session, alert)]

    def _stands(self, session: Session, alert: Alert) -> bool:
        plan = session.exec(_PLANS.where(col(Plan.id) == alert.plan_id)).first()
        if plan is None or alert.key not in {raised.key for raised in self._alerts(_uses(session, plan))}:
            return False
        # That a budget was used up has ended the plan's runs: somebody should know, as of a run that failed.
        return alert.severity == "critical" or plan.status in OPEN or admission.going(session, plan.id) is not None


def _settle(
    session: Session, done: Sequence[str], spent: dict[str, str], news: Sequence[Raised], moot: Sequence[str]
) -> None:
    for plan_id in done:
        plan = plans.get(session, plan_id)
        if plan.status == "executing" and admission.going(session, plan_id) is None:
            plans.move(session, plan, "completed", SERVICE, {"completed_at": time.time()})
    for alert in news:
        alerts.raise_alert(session, alert)
    for alert_id in moot:
        over = alerts.get(session, alert_id)
        if over.status == "pending":
            alerts.over(session, over)
            alerts.retire(session, [over.key or ""])  # should it come to that again, it is told of again
    for plan_id, words in spent.items():
        for run in session.exec(select(Run).where(*_stoppable(plan_id))).all():
            wishes.end(session, run, SERVICE, words)


def _stoppable(plan_id: str) -> tuple[Any, ...]:
    not_over = col(Run.status).in_([RunStatus.QUEUED, *LIVE])
    return (col(Run.plan_id) == plan_id, not_over, col(Run.stop_requested_at).is_(None))


# -- done ------------------------------------------------------------------------------------------------------------


def _done(session: Session, plan: Plan) -> bool:
    """Its sweep has ended, and so has all else that was started under it; or its whole grid has finished."""
    if admission.going(session, plan.id) is not None:
        return False
    if plan.sweep_id is not None:
        return _ended(session, plan.id, plan.sweep_id)
    grid = (plan.parsed or {}).get("parameters") or {}
    return bool(grid) and _finished(session, plan.id, grid)


def _ended(session: Session, plan_id: str, sweep_id: str) -> bool:
    """Whether nothing of the sweep is left to be started, and something of the plan has ended."""
    ready = (col(Run.sweep_id) == sweep_id, col(Run.status) == RunStatus.READY)
    over = (col(Run.plan_id) == plan_id, col(Run.status).in_(TERMINAL))
    left = session.exec(select(Run.id).where(*ready).limit(1)).first()
    return left is None and session.exec(select(Run.id).where(*over).limit(1)).first() is not None


def _finished(session: Session, plan_id: str, grid: dict[str, list[Any]]) -> bool:
    """Whether each configuration has a run that finished."""
    finished = (col(Run.plan_id) == plan_id, col(Run.status) == RunStatus.FINISHED)
    if session.exec(select(func.count()).select_from(Run).where(*finished)).one() < math.prod(map(len, grid.values())):
        return False  # without reading a large grid's runs every second
    rows = session.connection().execute(sql_select(col(Run.sweep_params)).where(*finished))
    seen = {_key([params.get(name) for name in grid]) for (params,) in rows if params}
    return all(_key(values) in seen for values in itertools.product(*grid.values()))


def _key(values: Sequence[Any]) -> str:
    return json.dumps(list(values), sort_keys=True)


# -- used up ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """How much of one of a plan's budgets is used: GPU-hours, or seconds of its time."""

    plan_id: str
    title: str
    what: What
    used: float
    limit: float

    def words(self) -> str:
        """Why its runs are to end."""
        if self.what == "gpu_hours":
            return f"The budget of its plan {self.plan_id} is used up: {self.used:.2f} of {self.limit:g} GPU-hours."
        return f"The time of its plan {self.plan_id} is over: {self.used:.0f} of {self.limit:.0f} seconds."


def _uses(session: Session, plan: Plan) -> Iterator[Use]:
    """Of each budget that it has. Runs are counted when they are made: that budget cannot run out later."""
    bounds = admission.bounds_of(plan)
    if bounds is None or (bounds.budget.gpu_hours is None and bounds.budget.wall_seconds is None):
        return
    spent, now, budget = admission.spent(session, plan), time.time(), bounds.budget
    if budget.gpu_hours is not None:
        hours = (spent.gpu_seconds + _going_on(session, plan.id, now)) / 3600
        yield Use(plan.id, plan.title, "gpu_hours", hours, budget.gpu_hours)
    if budget.wall_seconds is not None:
        elapsed = admission.wall_seconds(plan, spent.first, now)
        yield Use(plan.id, plan.title, "wall_time", elapsed, budget.wall_seconds)


def _going_on(session: Session, plan_id: str, now: float) -> float:
    """GPU-seconds of the attempts that are going on."""
    query = select(Run).where(col(Run.plan_id) == plan_id, col(Run.status).in_(LIVE), col(Run.started_at).is_not(None))
    total = 0.0
    for run in session.exec(query):
        gpus, _ = attempts.given(run.scheduler or {}, *attempts.asked(run.resources, run.gpus, run.cpus))
        total += gpus * max(0.0, now - (run.started_at or now))
    return total
