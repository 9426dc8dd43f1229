"""Plans."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from sqlmodel import Session
from starlette.responses import PlainTextResponse, Response

from api.answers import Json, page
from api.deps import Before, Limit, OnceOnly, Sys, Who, Whose
from api.scopes import needs
from orchestrator import amendments as amending
from orchestrator import execution, planoverlap, planreports, plans, proposals
from orchestrator.planning.reading import stored
from orchestrator.planning.reportmarkdown import markdown
from orchestrator.shapes import PlanAmendment, PlanApproval, PlanCheck, PlanCreate, PlanExecute, PlanUpdate

router = APIRouter(tags=["plans"])
SCOPE = "plan"
Status = Literal["draft", "approved", "executing", "completed", "archived"]


@router.post("/plans")
def create(system: Sys, actor: Who, body: PlanCreate, once: OnceOnly) -> Json:
    """Saves a plan as a draft; ``problems`` tells where its markdown departs from the required structure and what of
    it cannot run here, ``overlap`` which plans and finished runs it repeats."""
    parsed, misfits = stored(body.raw_markdown), proposals.misfits(system.checks, body.raw_markdown)
    body = plans.named(body, parsed)
    with system.db.read() as session:
        repeats = planoverlap.of_plan(session, body.title or "", body.goal or "", parsed)

    def write(session: Session) -> dict[str, Any]:
        made = plans.detail(session, plans.create(session, body, parsed, actor))
        return made | {"problems": made["problems"] + misfits, "overlap": repeats}

    return once(write)


@router.post("/plans/check")
def check(system: Sys, body: PlanCheck) -> Json:
    """How a plan's markdown is read, what is wrong in it and what it repeats; nothing is saved."""
    parsed = stored(body.raw_markdown)
    sections = parsed["sections"]
    title = sections.get("title") or ""
    with system.db.read() as session:
        repeats = planoverlap.of_plan(session, title, sections.get("objective") or "", parsed)
    problems = parsed["problems"] + proposals.misfits(system.checks, body.raw_markdown)
    return Json({"title": title, "sections": sections, "problems": problems, "overlap": repeats})


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
        return Json(plans.detail(session, plans.get(session, plan_id)))


@router.get("/plans/{plan_id}/overlap")
def overlap(system: Sys, plan_id: str) -> Json:
    """Which other plans, and which finished runs, this one repeats."""
    with system.db.read() as session:
        plan = plans.get(session, plan_id)
        parsed = plan.parsed or stored(plan.raw_markdown)
        return Json(planoverlap.of_plan(session, plan.title, plan.goal, parsed, plan.id))


@router.patch("/plans/{plan_id}")
def update(system: Sys, identity: Whose, plan_id: str, body: PlanUpdate) -> Json:
    """Edits a plan; an approved one becomes a draft again."""
    parsed = stored(body.raw_markdown) if body.raw_markdown is not None else None
    with system.db.read() as session:
        text = plans.get(session, plan_id).raw_markdown if body.raw_markdown is None else body.raw_markdown
    misfits = proposals.misfits(system.checks, text)

    def write(session: Session) -> dict[str, Any]:
        found = plans.detail(session, plans.update(session, plan_id, body, parsed, identity))
        return found | {"problems": found["problems"] + misfits}

    return Json(system.db.write(write))


@router.delete("/plans/{plan_id}")
def delete(system: Sys, identity: Whose, plan_id: str) -> Json:
    """Deletes a plan that no run and no sweep refers to."""
    system.db.write(lambda session: plans.delete(session, plan_id, identity))
    return Json({"deleted": True, "id": plan_id})


@router.post("/plans/{plan_id}/approve", openapi_extra=needs("approve"))
def approve(system: Sys, actor: Who, plan_id: str, body: PlanApproval | None = None) -> Json:
    """draft → approved, which freezes what it allows; 409 with the problems where it has any, unless forced."""
    asked = body or PlanApproval()
    with system.db.read() as session:
        plan = plans.get(session, plan_id)
    made = proposals.proposal(system.checks, plan, asked)
    if asked.dry_run:
        return Json(made.public())
    return Json(
        system.db.write(lambda session: plans.detail(session, plans.approve(session, plan_id, made, asked, actor)))
    )


@router.post("/plans/{plan_id}/amendments", openapi_extra=needs("approve"))
def amend(system: Sys, actor: Who, plan_id: str, body: PlanAmendment) -> Json:
    """Allows more under an approved plan: the body is the ``amendment`` of a refusal, or of your own making."""
    if body.dry_run:
        with system.db.read() as session:
            return Json(amending.look(session, plan_id, body).public())
    return Json(system.db.write(lambda session: plans.detail(session, amending.amend(session, plan_id, body, actor))))


@router.get("/plans/{plan_id}/amendments")
def amendments(system: Sys, plan_id: str, refusal: Annotated[int | None, Query(ge=0, le=2**62)] = None) -> Json:
    """What was amended, oldest first; and what was refused, newest first, with what would allow it (``refusals``;
    ``refusal``: that one alone)."""
    with system.db.read() as session:
        plan = plans.get(session, plan_id)
        return Json({"amendments": plan.amendments, "refusals": amending.refusals(session, plan, refusal)})


@router.post("/plans/{plan_id}/execute", openapi_extra=needs("run"))
def execute(system: Sys, identity: Whose, plan_id: str, once: OnceOnly, body: PlanExecute | None = None) -> Json:
    """approved → executing. With a command, its own or the request's, the plan's table becomes a sweep of runs."""
    asked = body or PlanExecute()
    with system.db.read() as session:
        plan = plans.get(session, plan_id)
    made = execution.draft(system.checks, plan, asked, system.settings.max_sweep_runs)
    if asked.dry_run:
        with system.db.read() as session:
            return Json(execution.preview(session, plan, made, identity))
    return once(
        lambda session: plans.detail(session, execution.execute(session, system.checks, plan_id, made, identity))
    )


@router.get("/plans/{plan_id}/report")
def report(
    system: Sys, plan_id: str, form: Annotated[Literal["json", "markdown"], Query(alias="format")] = "json"
) -> Response:
    """What came of it: results by the primary metric, criteria judged, what was used, what failed, the plan's text."""
    found = planreports.of_plan(system.db, system.explainer, plan_id)
    if form == "json":
        return Json(found)
    return PlainTextResponse(markdown(found), media_type="text/markdown; charset=utf-8")


@router.post("/plans/{plan_id}/complete")
def complete(system: Sys, identity: Whose, plan_id: str) -> Json:
    """executing → completed."""
    return Json(system.db.write(lambda session: plans.detail(session, plans.complete(session, plan_id, identity))))


@router.post("/plans/{plan_id}/archive")
def archive(system: Sys, identity: Whose, plan_id: str) -> Json:
    """Any status → archived."""
    return Json(system.db.write(lambda session: plans.detail(session, plans.archive(session, plan_id, identity))))
