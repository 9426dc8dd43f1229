"""Plans: written by an agent, approved by a person, executed under tracking.

Their status moves by its own endpoints alone. Approval freezes what the plan allows (``planning.bounds``).
"""

import time
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session, col, select

from orchestrator import admission, ids
from orchestrator.access import Identity
from orchestrator.errors import BadInput, BadTransition, Conflict, NotFound
from orchestrator.journal import Actor, change, record
from orchestrator.models import Plan, Run, Sweep
from orchestrator.planning.bounds import Bounds
from orchestrator.planning.reading import stored
from orchestrator.proposals import Proposal, approved_hash, content_hash
from orchestrator.shapes import PlanApproval, PlanCreate, PlanUpdate

FOLLOWS: dict[str, tuple[str, ...]] = {
    "approved": ("draft",),
    "executing": ("approved",),
    "completed": ("executing",),
    "archived": ("draft", "approved", "executing", "completed"),
}
UNAPPROVED: dict[str, Any] = {
    "status": "draft",
    "approved_at": None,
    "approved_by": None,
    "approved_hash": None,
    "bounds": None,
    "amendments": [],
}


def public(plan: Plan) -> dict[str, Any]:
    """A plan as the wire shows it: its markdown read into sections, and what is wrong in it."""
    parsed = plan.parsed or stored(plan.raw_markdown)  # of a plan that is older than its reading is kept
    return plan.model_dump(exclude={"seq", "parsed"}) | {
        "sections": {**(plan.sections or {}), **parsed["sections"]} or None,
        "problems": parsed["problems"],
    }


def detail(session: Session, plan: Plan) -> dict[str, Any]:
    """The same, with what of its budget is used where it has been approved."""
    bounds = admission.bounds_of(plan)
    if bounds is None:
        return public(plan)
    return public(plan) | {"budget": admission.budget_public(bounds, admission.spent(session, plan), plan)}


def get(session: Session, plan_id: str) -> Plan:
    """The plan. Raises NotFound."""
    found = session.exec(select(Plan).where(col(Plan.id) == plan_id)).first()
    if found is None:
        raise NotFound("plan", plan_id)
    return found


def listing(
    session: Session, status: str | None, session_id: str | None, limit: int, before: int | None = None
) -> list[Plan]:
    """Plans, newest first."""
    query = select(Plan).order_by(col(Plan.seq).desc()).limit(limit)
    for column, value in ((Plan.status, status), (Plan.session_id, session_id)):
        if value is not None:
            query = query.where(col(column) == value)
    if before is not None:
        query = query.where(col(Plan.seq) < before)
    return list(session.exec(query))


def named(body: PlanCreate, parsed: dict[str, Any]) -> PlanCreate:
    """With the title and the goal of its markdown, where it has none itself. Raises BadInput where neither has one."""
    sections = parsed["sections"]
    title, goal = body.title or sections.get("title"), sections.get("objective") if body.goal is None else body.goal
    for name, value, place in (("title", title, "## 📋 Plan: <title>"), ("goal", goal, "### Objective")):
        if value is None:
            raise BadInput(name, f'is required where the markdown has no "{place}".')
    try:
        return PlanCreate.model_validate({**body.model_dump(), "title": title, "goal": goal})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(str(first["loc"][0]), f"The markdown's own cannot be it: {first['msg']}.") from None


def create(session: Session, body: PlanCreate, parsed: dict[str, Any], actor: Actor) -> Plan:
    """A draft. Problems in its markdown do not keep it from being stored. ``parsed``: ``stored`` of that; ``body``:
    ``named``."""
    now = time.time()
    given = body.model_dump()
    plan = Plan(id=ids.plan_id(), created_at=now, updated_at=now, created_by=actor, parsed=parsed, **given)
    session.add(plan)
    record(
        session, actor, "plan.created", f"plan:{plan.id}", plan.title, None, {"title": plan.title, "goal": plan.goal}
    )
    return plan


def update(session: Session, plan_id: str, body: PlanUpdate, parsed: dict[str, Any] | None, identity: Identity) -> Plan:
    """Edits a plan; an approved one becomes a draft again. Raises Conflict for one that is executing or over, or whose
    runs are going on. ``parsed``: ``stored`` of its new markdown, where that changes."""
    plan = _own(get(session, plan_id), identity)
    if plan.status not in {"draft", "approved"}:
        raise Conflict(
            f"Plan {plan.id} is {plan.status}: it cannot be edited any more. Save another plan; "
            f"what more this one is to allow a person adds: orc plan amend {plan.id}."
        )
    fields = body.model_dump(exclude_unset=True)
    if any(getattr(plan, name) != value for name, value in fields.items()):
        _still(session, plan, "edited")
        fields |= UNAPPROVED | {"updated_at": time.time()}
    change(session, plan, identity.actor, "plan.updated", f"plan:{plan.id}", fields)
    if parsed is not None:
        plan.parsed = parsed  # follows from the text: no event tells of it
    return plan


def delete(session: Session, plan_id: str, identity: Identity) -> None:
    """Deletes a plan that nothing refers to; its last state stays in the journal."""
    plan = _own(get(session, plan_id), identity)
    for table, kind in ((Run, "run"), (Sweep, "sweep")):
        used = session.exec(select(table.id).where(col(table.plan_id) == plan.id).limit(1)).first()
        if used is not None:
            raise Conflict(f"Plan {plan.id} is that of {kind} {used} and maybe others: archive it instead.")
    before = plan.model_dump(exclude={"seq", "parsed"})
    record(session, identity.actor, "plan.deleted", f"plan:{plan.id}", plan.title, before)
    session.delete(plan)


def _own(plan: Plan, identity: Identity) -> Plan:
    """The plan, where it is the identity's to change. Raises Forbidden."""
    identity.check_own(f"Plan {plan.id}", plan.created_by)
    return plan


def _still(session: Session, plan: Plan, done: str) -> None:
    """Raises Conflict while runs of the plan wait or execute: nothing would hold them to it any more."""
    run = admission.going(session, plan.id)
    if run is not None and plan.bounds is not None:
        raise Conflict(f"Run {run} of plan {plan.id} is going on: stop it, or wait; then the plan can be {done}.")


# -- approval --------------------------------------------------------------------------------------------------------


def approve(session: Session, plan_id: str, proposed: Proposal, body: PlanApproval, actor: Actor) -> Plan:
    """draft → approved. A plan whose markdown has problems is refused with them, unless forced."""
    plan = get(session, plan_id)
    _check(plan, "approved")
    if content_hash(plan) != proposed.content_hash or body.approved_hash not in {None, proposed.approved_hash}:
        raise Conflict(
            f"Plan {plan.id}, or what it would allow, has changed since it was looked at: look again (with dry_run), "
            "then approve what you have seen."
        )
    found = proposed.problems
    if proposed.bounds is None:
        raise Conflict(
            f"Plan {plan.id} cannot run here: mend it, or the machine, then approve it. There is no way around that.",
            [problem.public() for problem in found],
        )
    if found and not body.force:
        raise Conflict(
            f"Plan {plan.id} departs from the required structure in {len(found)} point(s). Mend them, or approve it "
            'all the same with {"force": true}.',
            [problem.public() for problem in found],
        )
    message = f"Approved with {len(found)} problem(s), by force." if found else ""
    fields = {"approved_at": time.time(), "approved_by": actor, **frozen(plan, proposed.bounds)}
    return move(session, plan, "approved", actor, fields, message)


def frozen(plan: Plan, bounds: Bounds) -> dict[str, Any]:
    """The columns by which a plan is bound to these."""
    return {"bounds": bounds.public(), "approved_hash": approved_hash(content_hash(plan), bounds)}


# -- execution -------------------------------------------------------------------------------------------------------


def execute(session: Session, plan_id: str, actor: Actor) -> Plan:
    """approved → executing; marks it."""
    plan = get(session, plan_id)
    _check(plan, "executing")
    return move(session, plan, "executing", actor, {"executed_at": time.time(), "executed_by": actor})


def complete(session: Session, plan_id: str, identity: Identity) -> Plan:
    """executing → completed. Raises Conflict while runs of it are going on."""
    plan = _own(get(session, plan_id), identity)
    _check(plan, "completed")
    _still(session, plan, "completed")
    return move(session, plan, "completed", identity.actor, {"completed_at": time.time()})


def archive(session: Session, plan_id: str, identity: Identity) -> Plan:
    """Any status → archived. Raises Conflict while runs of an approved plan are going on."""
    plan = _own(get(session, plan_id), identity)
    _check(plan, "archived")
    _still(session, plan, "archived")
    return move(session, plan, "archived", identity.actor, {})


def _check(plan: Plan, status: str) -> None:
    if plan.status not in FOLLOWS[status]:
        words = f"Plan {plan.id} is {plan.status}; {status} follows only {' or '.join(FOLLOWS[status])}."
        how = f" A person approves it first: orc plan approve {plan.id}." if plan.status == "draft" else ""
        raise BadTransition(words + how)


def move(session: Session, plan: Plan, status: str, actor: Actor, fields: dict[str, Any], message: str = "") -> Plan:
    """The plan with another status, stamped, with its event."""
    fields = {"status": status, "updated_at": time.time(), **fields}
    change(session, plan, actor, f"plan.{status}", f"plan:{plan.id}", fields, message)
    return plan
