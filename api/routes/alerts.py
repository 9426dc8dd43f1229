"""Alerts."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from sqlmodel import Session

from api.answers import Json, page
from api.deps import Before, Limit, OnceOnly, Sys, Who, Whose
from orchestrator.alerting import alerts, choices
from orchestrator.alerting.rules import Rule
from orchestrator.shapes import AlertCreate, AlertResponse

router = APIRouter(tags=["alerts"])
SCOPE = "run"


@router.post("/runs/{run_id}/alerts")
def create(actor: Who, run_id: str, body: AlertCreate, once: OnceOnly) -> Json:
    """Something about a run that wants a person's choice."""
    return once(lambda session: {"alert_id": alerts.create(session, run_id, body, actor).id})


@router.get("/alerts")
def listing(
    request: Request,
    system: Sys,
    limit: Limit = 100,
    before: Before = None,
    status: Annotated[Literal["pending", "resolved"] | None, Query()] = None,
    run_id: str | None = None,
    plan_id: str | None = None,
    rule: Annotated[Rule | Literal[""] | None, Query(description="The rule that made it; empty: somebody did.")] = None,
    severity: Annotated[Literal["info", "warning", "critical"] | None, Query()] = None,
) -> Json:
    """Alerts, newest first."""
    wanted = alerts.Filter(status, run_id, plan_id, rule, severity, before, limit)
    with system.db.read() as session:
        found = alerts.listing(session, wanted)
        return page(request, alerts.shown(session, found), limit, found[-1].seq if found else None)


@router.post("/alerts/{alert_id}/respond")
def respond(system: Sys, identity: Whose, alert_id: str, body: AlertResponse, once: OnceOnly) -> Json:
    """Records the choice, once. Where a rule of the service made the alert, "stop" and "rerun" are carried out."""
    with system.db.read() as session:
        again, terms = choices.to_repeat(session, alert_id, body.choice)
    drafts = choices.drafts(system.checks, again, terms)

    def write(session: Session) -> dict[str, Any]:
        found = choices.respond(session, system.checks, alert_id, body.choice, drafts, identity)
        return {"message": "Response recorded", **alerts.shown(session, [found])[0]}

    return once(write)
