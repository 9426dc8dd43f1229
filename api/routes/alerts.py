"""Alerts."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from api.answers import Json
from api.deps import Limit, OnceOnly, Sys, Who
from orchestrator import alerts
from orchestrator.shapes import AlertCreate, AlertResponse

router = APIRouter(tags=["alerts"])
SCOPE = "run"


@router.post("/runs/{run_id}/alerts")
def create(actor: Who, run_id: str, body: AlertCreate, once: OnceOnly) -> Json:
    """Something about a run that wants a person's choice."""
    return once(lambda session: {"alert_id": alerts.create(session, run_id, body, actor).id})


@router.get("/alerts")
def listing(
    system: Sys,
    limit: Limit = 100,
    status: Annotated[Literal["pending", "resolved"] | None, Query()] = None,
    run_id: str | None = None,
) -> Json:
    """Alerts, newest first."""
    with system.db.read() as session:
        return Json([alerts.public(alert) for alert in alerts.listing(session, limit, status, run_id)])


@router.post("/alerts/{alert_id}/respond")
def respond(system: Sys, actor: Who, alert_id: str, body: AlertResponse) -> Json:
    """Records the choice, once."""
    found = system.db.write(lambda session: alerts.respond(session, alert_id, body.choice, actor))
    return Json({"message": "Response recorded", **alerts.public(found)})
