"""What a plan repeats: other plans, and runs that have finished already. Asked of a reading session."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col

from orchestrator.models import Plan, Run
from orchestrator.planning.overlap import Content, commands, with_plan
from orchestrator.states import RunStatus

PLANS = 200
COMMANDS = 2000
AT_ONCE = 500
SHOWN = 20


def of_plan(session: Session, title: str, goal: str, parsed: Mapping[str, Any], plan_id: str = "") -> dict[str, Any]:
    """``plans`` (newest first, at most 200 looked at) and ``runs`` (how many, and some of them).

    ``parsed``: what is stored of the plan's reading (``planning.reading.stored``).
    """
    mine = _content(title, goal, parsed)
    columns: tuple[Any, ...] = (Plan.id, Plan.title, Plan.goal, Plan.status, Plan.parsed)
    others = sql_select(*columns).where(col(Plan.status) != "archived", col(Plan.id) != plan_id)
    found = []
    for row in session.connection().execute(others.order_by(col(Plan.seq).desc()).limit(PLANS)):
        common = with_plan(mine, _content(row.title, row.goal, row.parsed or {}))
        if common is not None:
            found.append({"id": row.id, "title": row.title, "status": row.status, "words": common.words()})
    done = _finished(session, commands(mine, COMMANDS), plan_id)
    return {"plans": found[:SHOWN], "runs": {"finished": len(done), "ids": done[:SHOWN]}}


def _content(title: str, goal: str, parsed: Mapping[str, Any]) -> Content:
    return Content(f"{title} {goal}", parsed.get("parameters") or {}, parsed.get("command"))


def _finished(session: Session, wanted: list[str], plan_id: str) -> list[str]:
    """Runs of these very commands that finished, but for the plan's own."""
    others = col(Run.plan_id).is_(None) | (col(Run.plan_id) != plan_id)
    found: list[str] = []
    for start in range(0, len(wanted), AT_ONCE):
        part = col(Run.command).in_(wanted[start : start + AT_ONCE])
        query = sql_select(col(Run.id)).where(part, col(Run.status) == RunStatus.FINISHED, others)
        found += [run_id for (run_id,) in session.connection().execute(query.order_by(col(Run.seq).desc()))]
    return found
