"""The report of a plan, from what is stored of its runs."""

import time
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, select

from orchestrator import plans, runs, usage
from orchestrator.db import Database
from orchestrator.explaining import Explainer
from orchestrator.models import Metric, Plan, Run
from orchestrator.planning.report import Outcome, keys_of, report


def of_plan(db: Database, explainer: Explainer, plan_id: str) -> dict[str, Any]:
    """What came of it so far. Raises NotFound."""
    with db.read() as session:
        found, outcomes = _stored(session, plan_id)
    shown = {outcome.run["id"]: outcome.run for outcome in outcomes}
    for group in found["failures"]:  # with no session open: it reads the end of a log
        why = explainer.why(shown[group["run_ids"][0]])
        group["example"] = f"{why.summary} {why.said or ''}".strip()
    return found


def _stored(session: Session, plan_id: str) -> tuple[dict[str, Any], list[Outcome]]:
    plan = plans.get(session, plan_id)
    shown = plans.detail(session, plan)
    found = session.exec(select(Run).where(col(Run.plan_id) == plan.id).order_by(col(Run.seq))).all()
    summaries = _summaries(session, plan.id, keys_of(shown["sections"] or {}))
    outcomes = [Outcome(runs.public(run), summaries.get(run.id, {})) for run in found]
    total = usage.totals(session, "plan", usage.Wanted(plan_id=plan.id))["total"]
    hours = {name: total[name] for name in usage.NAMES}
    return report(shown, outcomes, hours | {"wall_seconds": _wall(plan, outcomes)}), outcomes


def _summaries(session: Session, plan_id: str, keys: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Of these metrics: last, min and max, by run and name."""
    mine = select(Run.id).where(col(Run.plan_id) == plan_id)
    columns: tuple[Any, ...] = (Metric.run_id, Metric.key, Metric.last, Metric.min, Metric.max)
    query = sql_select(*columns).where(col(Metric.run_id).in_(mine), col(Metric.key).in_(keys))
    rows = session.connection().execute(query)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run_id, key, last, least, most in rows:
        found.setdefault(run_id, {})[key] = {"last": last, "min": least, "max": most}
    return found


def _wall(plan: Plan, outcomes: list[Outcome]) -> float:
    """Seconds from the first run's making to the last one's end, or now where it goes on."""
    begins: list[float] = [outcome.run["created_at"] for outcome in outcomes]
    ends: list[float | None] = [outcome.run["ended_at"] for outcome in outcomes]
    if not begins:
        return 0.0
    over = all(end is not None for end in ends) or plan.status in {"completed", "archived"}
    last = max((end for end in ends if end is not None), default=time.time())
    return (last if over else time.time()) - min(begins)
