"""Plans."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from api.answers import Json, page
from api.deps import Before, Limit, OnceOnly, Sys, Who
from api.scopes import needs
from orchestrator import plans
from orchestrator.shapes import PlanApproval, PlanCreate, PlanUpdate

router = APIRouter(tags=["plans"])
SCOPE = "plan"
Status = Literal["draft", "approved", "executing", "completed", "archived"]


@router.post("/plans")
def create(actor: Who, body: PlanCreate, once: OnceOnly) -> Json:
    """Saves a plan as a draft; ``problems`` tells where its markdown departs from the required structure."""
    return once(lambda session: plans.public(plans.create(session, body, actor)))


@router.get("/plans")
def listing(
    request: Request,
    system: Sys,
    status: Annotated[Status | None, Query()] = None,
    session_id: str | None = None,
    limit: Limit = 100,
    before: Before = None,
) -> Json:
    """Plans, newest first."""
    with system.db.read() as session:
        found = plans.listing(session, status, session_id, limit, before)
    return page(request, [plans.public(plan) for plan in found], limit, found[-1].seq if found else None)


@router.get("/plans/{plan_id}")
def show(system: Sys, plan_id: str) -> Json:
    """One plan."""
    with system.db.read() as session:
        return Json(plans.public(plans.get(session, plan_id)))


@router.patch("/plans/{plan_id}")
def update(system: Sys, actor: Who, plan_id: str, body: PlanUpdate) -> Json:
    """Edits a plan; an approved one becomes a draft again."""
    return Json(system.db.write(lambda session: plans.public(plans.update(session, plan_id, body, actor))))


@router.delete("/plans/{plan_id}")
def delete(system: Sys, actor: Who, plan_id: str) -> Json:
    """Deletes a plan that no run and no sweep refers to."""
    system.db.write(lambda session: plans.delete(session, plan_id, actor))
    return Json({"deleted": True, "id": plan_id})


@router.post("/plans/{plan_id}/approve", openapi_extra=needs("approve"))
def approve(system: Sys, actor: Who, plan_id: str, body: PlanApproval | None = None) -> Json:
    """draft → approved; 409 with the problems where the markdown has any, unless forced."""
    force = body is not None and body.force
    return Json(system.db.write(lambda session: plans.public(plans.approve(session, plan_id, actor, force=force))))


@router.post("/plans/{plan_id}/execute", openapi_extra=needs("run"))
def execute(system: Sys, actor: Who, plan_id: str) -> Json:
    """approved → executing."""
    return Json(system.db.write(lambda session: plans.public(plans.execute(session, plan_id, actor))))


@router.post("/plans/{plan_id}/complete")
def complete(system: Sys, actor: Who, plan_id: str) -> Json:
    """executing → completed."""
    return Json(system.db.write(lambda session: plans.public(plans.complete(session, plan_id, actor))))


@router.post("/plans/{plan_id}/archive")
def archive(system: Sys, actor: Who, plan_id: str) -> Json:
    """Any status → archived."""
    return Json(system.db.write(lambda session: plans.public(plans.archive(session, plan_id, actor))))
