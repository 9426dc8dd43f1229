"""Alerts: something that wants a person's choice."""

import time
from typing import Any

from sqlmodel import Session, col, select

from orchestrator import ids, runs
from orchestrator.errors import BadInput, Conflict, NotFound
from orchestrator.journal import Actor, change, record
from orchestrator.models import Alert
from orchestrator.shapes import AlertCreate


def public(alert: Alert) -> dict[str, Any]:
    """An alert as the wire shows it."""
    return alert.model_dump(exclude={"seq"})


def create(session: Session, run_id: str, body: AlertCreate, actor: Actor) -> Alert:
    """An alert about a run."""
    run = runs.get(session, run_id)
    alert = Alert(
        id=ids.plan_id(), run_id=run.id, timestamp=time.time(), session_id=run.chat_session_id, **body.model_dump()
    )
    session.add(alert)
    record(
        session,
        actor,
        "alert.created",
        f"alert:{alert.id}",
        alert.message,
        None,
        {"run_id": run.id, **body.model_dump()},
    )
    return alert


def listing(session: Session, limit: int, status: str | None = None, run_id: str | None = None) -> list[Alert]:
    """Alerts, newest first."""
    query = select(Alert).order_by(col(Alert.seq).desc()).limit(limit)
    if status is not None:
        query = query.where(col(Alert.status) == status)
    if run_id is not None:
        query = query.where(col(Alert.run_id) == run_id)
    return list(session.exec(query))


def respond(session: Session, alert_id: str, choice: str, actor: Actor) -> Alert:
    """Records the choice, once. Raises BadInput for one that was not offered."""
    alert = session.exec(select(Alert).where(col(Alert.id) == alert_id)).first()
    if alert is None:
        raise NotFound("alert", alert_id)
    if choice not in alert.choices:
        raise BadInput("choice", f"{choice!r} was not offered.", alert.choices)
    if alert.status != "pending":
        raise Conflict(f"Alert {alert.id} has been answered already: {alert.response!r}.")
    fields = {"status": "resolved", "response": choice, "responded_at": time.time()}
    change(session, alert, actor, "alert.resolved", f"alert:{alert.id}", fields)
    return alert
