"""Plans: written by an agent, approved by a person, executed under tracking.

Their status moves by its own endpoints alone.
"""

import time
from typing import Any

from sqlmodel import Session, col, select

from orchestrator import ids
from orchestrator.errors import BadTransition, Conflict, NotFound
from orchestrator.journal import Actor, change, record
from orchestrator.models import Plan, Run, Sweep
from orchestrator.planmarkdown import read
from orchestrator.shapes import PlanCreate, PlanUpdate

FOLLOWS: dict[str, tuple[str, ...]] = {
    "approved": ("draft",),
    "executing": ("approved",),
    "completed": ("executing",),
    "archived": ("draft", "approved", "executing", "completed"),
}


def public(plan: Plan) -> dict[str, Any]:
    """A plan as the wire shows it, with what is wrong in its markdown."""
    found = [problem.public() for problem in read(plan.raw_markdown).problems]
    return plan.model_dump(exclude={"seq"}) | {"problems": found}


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


def create(session: Session, body: PlanCreate, actor: Actor) -> Plan:
    """A draft. Problems in its markdown do not keep it from being stored."""
    now = time.time()
    plan = Plan(id=ids.plan_id(), created_at=now, updated_at=now, created_by=actor, **body.model_dump())
    session.add(plan)
    record(
        session, actor, "plan.created", f"plan:{plan.id}", plan.title, None, {"title": plan.title, "goal": plan.goal}
    )
    return plan


def update(session: Session, plan_id: str, body: PlanUpdate, actor: Actor) -> Plan:
    """Edits a plan; an approved one becomes a draft again, one that is executing or over cannot be edited."""
    plan = get(session, plan_id)
    if plan.status not in {"draft", "approved"}:
        raise Conflict(f"Plan {plan.id} is {plan.status}: it cannot be edited any more.")
    fields = body.model_dump(exclude_unset=True)
    if any(getattr(plan, name) != value for name, value in fields.items()):
        fields |= {"status": "draft", "approved_at": None, "approved_by": None, "updated_at": time.time()}
    change(session, plan, actor, "plan.updated", f"plan:{plan.id}", fields)
    return plan


def delete(session: Session, plan_id: str, actor: Actor) -> None:
    """Deletes a plan that nothing refers to; its last state stays in the journal."""
    plan = get(session, plan_id)
    for table, kind in ((Run, "run"), (Sweep, "sweep")):
        used = session.exec(select(table.id).where(col(table.plan_id) == plan.id).limit(1)).first()
        if used is not None:
            raise Conflict(f"Plan {plan.id} is that of {kind} {used} and maybe others: archive it instead.")
    record(session, actor, "plan.deleted", f"plan:{plan.id}", plan.title, plan.model_dump(exclude={"seq"}))
    session.delete(plan)


def approve(session: Session, plan_id: str, actor: Actor, *, force: bool) -> Plan:
    """draft → approved. A plan whose markdown has problems is refused with them, unless forced."""
    plan = get(session, plan_id)
    _check(plan, "approved")
    found = read(plan.raw_markdown).problems
    if found and not force:
        raise Conflict(
            f"Plan {plan.id} departs from the required structure in {len(found)} point(s). Mend them, or approve it "
            'all the same with {"force": true}.',
            [problem.public() for problem in found],
        )
    message = f"Approved with {len(found)} problem(s), by force." if found else ""
    return _move(session, plan, "approved", actor, {"approved_at": time.time(), "approved_by": actor}, message)


def execute(session: Session, plan_id: str, actor: Actor) -> Plan:
    """approved → executing; only marks it, as the seed's front end does."""
    return _advance(session, plan_id, "executing", actor, {"executed_at": time.time()})


def complete(session: Session, plan_id: str, actor: Actor) -> Plan:
    """executing → completed."""
    return _advance(session, plan_id, "completed", actor, {"completed_at": time.time()})


def archive(session: Session, plan_id: str, actor: Actor) -> Plan:
    """Any status → archived."""
    return _advance(session, plan_id, "archived", actor, {})


def _advance(session: Session, plan_id: str, status: str, actor: Actor, fields: dict[str, Any]) -> Plan:
    plan = get(session, plan_id)
    _check(plan, status)
    return _move(session, plan, status, actor, fields)


def _check(plan: Plan, status: str) -> None:
    if plan.status not in FOLLOWS[status]:
        raise BadTransition(f"Plan {plan.id} is {plan.status}; {status} follows only {' or '.join(FOLLOWS[status])}.")


def _move(session: Session, plan: Plan, status: str, actor: Actor, fields: dict[str, Any], message: str = "") -> Plan:
    fields = {"status": status, "updated_at": time.time(), **fields}
    change(session, plan, actor, f"plan.{status}", f"plan:{plan.id}", fields, message)
    return plan
