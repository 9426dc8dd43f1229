"""Plans: written by an agent, approved by a person, executed under tracking.

Their status moves by its own endpoints alone. Approval freezes what the plan allows (``planning.bounds``).
"""

import time
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from orchestrator import admission, ids
from orchestrator.drafts import RunChecks
from orchestrator.errors import BadInput, BadTransition, Conflict, NotFound, OutsidePlan
from orchestrator.journal import Actor, change, record
from orchestrator.models import Event, Plan, Run, Sweep
from orchestrator.planning import bounds as binding
from orchestrator.planning.bounds import Bounds, Budget
from orchestrator.planning.markdown import Problem
from orchestrator.planning.reading import Reading, reading
from orchestrator.resources import parse_time
from orchestrator.shapes import PlanAmendment, PlanApproval, PlanBlock, PlanBudget, PlanCreate, PlanUpdate, RunTerms

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
REFUSED = "plan.refused"


def public(plan: Plan) -> dict[str, Any]:
    """A plan as the wire shows it: its markdown read into sections, and what is wrong in it."""
    found = reading(plan.raw_markdown)
    return plan.model_dump(exclude={"seq"}) | {
        "sections": {**(plan.sections or {}), **found.text.sections} or None,
        "problems": [problem.public() for problem in found.problems],
        "content_hash": content_hash(plan),
    }


def detail(session: Session, plan: Plan) -> dict[str, Any]:
    """The same, with what of its budget is used where it has been approved."""
    bounds = admission.bounds_of(plan)
    if bounds is None:
        return public(plan)
    return public(plan) | {"budget": admission.budget_public(bounds, admission.spent(session, plan.id), plan)}


def content_hash(plan: Plan) -> str:
    """Of all that a person reads of a plan before approving it."""
    return binding.digest(plan.title, plan.goal, plan.raw_markdown, plan.sections)


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
        fields |= UNAPPROVED | {"updated_at": time.time()}
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


# -- approval --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proposal:
    """What an approval would freeze, worked out outside the writer, from the plan of this ``content_hash``."""

    content_hash: str
    bounds: Bounds
    problems: list[Problem]


def proposal(checks: RunChecks, plan: Plan, body: PlanApproval) -> Proposal:
    """What approving the plan as it is now would freeze."""
    found = reading(plan.raw_markdown)
    block, problems = found.block or PlanBlock(), list(found.problems)
    try:
        terms = _terms(checks, block)
    except BadInput as error:  # this machine cannot give that: with force it allows no more than a bare run
        problems.append(Problem(found.text.block_line, f"This cannot run here: {error.field}: {error.message}"))
        terms = _terms(checks, PlanBlock())
    commands = [block.command] if block.command is not None else []
    bounds = Bounds(dict(found.text.parameters), commands, terms, _budget(found, block, body.budget))
    return Proposal(content_hash(plan), bounds, problems)


def _terms(checks: RunChecks, block: PlanBlock) -> binding.Flat:
    workdir = checks.workdir(block.workdir)
    return binding.flatten(checks.terms(block, workdir).columns, workdir)


def _budget(found: Reading, block: PlanBlock, given: PlanBudget | None) -> Budget:
    """The person's before the plan's; as many runs as the table has configurations, or the effort says, without."""
    said = {**limits(block.budget or PlanBudget()), **limits(given or PlanBudget())}
    estimated = (found.text.sections.get("effort") or {}).get("runs")
    size = binding.size(Bounds(dict(found.text.parameters)))
    said.setdefault("runs", max(size, estimated or 0) or None)
    return Budget(**said)


def limits(budget: PlanBudget) -> dict[str, Any]:
    """The fields of a budget that are set, in the units of ``Budget``."""
    given = budget.model_dump(exclude_none=True)
    wall_time = given.pop("wall_time", None)
    return given if wall_time is None else given | {"wall_seconds": parse_time(wall_time)}


def approve(session: Session, plan_id: str, proposed: Proposal, body: PlanApproval, actor: Actor) -> Plan:
    """draft → approved. A plan whose markdown has problems is refused with them, unless forced."""
    plan = get(session, plan_id)
    _check(plan, "approved")
    now = content_hash(plan)
    if now != proposed.content_hash or body.content_hash not in {None, now}:
        raise Conflict(
            f"Plan {plan.id} has changed since it was looked at (its content_hash is {now} now): look again, then "
            "approve what you have seen."
        )
    found = proposed.problems
    if found and not body.force:
        raise Conflict(
            f"Plan {plan.id} departs from the required structure in {len(found)} point(s). Mend them, or approve it "
            'all the same with {"force": true}.',
            [problem.public() for problem in found],
        )
    message = f"Approved with {len(found)} problem(s), by force." if found else ""
    fields = {"approved_at": time.time(), "approved_by": actor, **_frozen(plan, proposed.bounds)}
    return move(session, plan, "approved", actor, fields, message)


def _frozen(plan: Plan, bounds: Bounds) -> dict[str, Any]:
    stored = bounds.public()
    return {"bounds": stored, "approved_hash": binding.digest(content_hash(plan), stored)}


# -- what was refused, and is allowed after all ----------------------------------------------------------------------


def refused(session: Session, error: OutsidePlan, actor: Actor) -> None:
    """Keeps what would allow it, unless that is what was kept last."""
    if last_refused(session, error.plan_id) != error.amendment:
        after = {"diff": error.diff, "amendment": error.amendment}
        record(session, actor, REFUSED, f"plan:{error.plan_id}", error.message, None, after)


def last_refused(session: Session, plan_id: str) -> dict[str, Any] | None:
    """The amendment that would allow what was refused last; None without any, or when it was made already."""
    query = select(Event).where(
        col(Event.subject) == f"plan:{plan_id}", col(Event.kind).in_([REFUSED, "plan.amended", "plan.updated"])
    )
    found = session.exec(query.order_by(col(Event.id).desc()).limit(1)).first()
    return (found.after or {}).get("amendment") if found is not None and found.kind == REFUSED else None


def amend(session: Session, plan_id: str, body: PlanAmendment, actor: Actor) -> Plan:
    """Allows more (or another budget) under an approved plan, with a hash of its own. Raises Conflict for a draft."""
    plan = get(session, plan_id)
    before = admission.bounds_of(plan)
    if before is None:
        raise Conflict(f"Plan {plan.id} is {plan.status}: only an approved or executing plan can be amended.")
    _known(body.terms)
    after = binding.amended(before, body.command, body.parameters, body.terms, limits(body.budget or PlanBudget()))
    frozen = _frozen(plan, after)
    changes = body.model_dump(exclude_unset=True, exclude={"reason"})
    line = {"at": time.time(), "by": actor, "reason": body.reason, "changes": changes, "hash": frozen["approved_hash"]}
    fields = {**frozen, "amendments": [*plan.amendments, line], "updated_at": time.time()}
    change(session, plan, actor, "plan.amended", f"plan:{plan.id}", fields, body.reason)
    return plan


def _known(terms: dict[str, Any]) -> None:
    """Raises BadInput for a term that no run has; ValidationError for a value that cannot be."""
    given = {name: value for name, value in terms.items() if name != "workdir" and value is not None}
    for name in given:
        if name.partition(".")[0] not in RunTerms.model_fields:
            raise BadInput(f"terms.{name}", "is no term of a run.", sorted(RunTerms.model_fields))
    RunTerms.model_validate(binding.nest(given))


# -- execution -------------------------------------------------------------------------------------------------------


def execute(session: Session, plan_id: str, actor: Actor) -> Plan:
    """approved → executing; marks it."""
    return _advance(session, plan_id, "executing", actor, {"executed_at": time.time(), "executed_by": actor})


def complete(session: Session, plan_id: str, actor: Actor) -> Plan:
    """executing → completed."""
    return _advance(session, plan_id, "completed", actor, {"completed_at": time.time()})


def archive(session: Session, plan_id: str, actor: Actor) -> Plan:
    """Any status → archived."""
    return _advance(session, plan_id, "archived", actor, {})


def _advance(session: Session, plan_id: str, status: str, actor: Actor, fields: dict[str, Any]) -> Plan:
    plan = get(session, plan_id)
    _check(plan, status)
    return move(session, plan, status, actor, fields)


def _check(plan: Plan, status: str) -> None:
    if plan.status not in FOLLOWS[status]:
        raise BadTransition(f"Plan {plan.id} is {plan.status}; {status} follows only {' or '.join(FOLLOWS[status])}.")


def move(session: Session, plan: Plan, status: str, actor: Actor, fields: dict[str, Any], message: str = "") -> Plan:
    """The plan with another status, stamped, with its event."""
    fields = {"status": status, "updated_at": time.time(), **fields}
    change(session, plan, actor, f"plan.{status}", f"plan:{plan.id}", fields, message)
    return plan
