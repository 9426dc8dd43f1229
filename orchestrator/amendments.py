"""What an approved plan refused, and what it is made to allow after all."""

import re
import time
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session, col, select

from orchestrator import admission, plans
from orchestrator.errors import BadInput, Conflict, OutsidePlan
from orchestrator.journal import Actor, change, record
from orchestrator.models import Event, Plan
from orchestrator.planning import bounds as binding
from orchestrator.planning.bounds import Allowed, Bounds
from orchestrator.planning.reading import QUOTED
from orchestrator.planning.template import quoted_twice
from orchestrator.proposals import limits
from orchestrator.shapes import PlanAmendment, PlanBudget, RunTerms
from orchestrator.strict import meant

REFUSED = "plan.refused"
ENDS_ALL = ("plan.approved", "plan.updated")  # what was refused before was refused by other bounds
ENDS = (*ENDS_ALL, "plan.amended")
MOST = 20
SAME_WITHIN = 600.0  # seconds
TERMS = ("workdir", "parallel", "executor", "signal", "launch", "container", "environment", "snapshot", "priority")
NAMES = (*TERMS, "gpuwrap_config.enabled", "env.NAME", "retry.NAME", "resources.NAME", "resources.slurm.NAME")
TERM = re.compile(
    rf"{'|'.join(TERMS)}|gpuwrap_config\.enabled|env\.[A-Za-z_][A-Za-z0-9_]*"
    r"|retry\.(max|on|exit_codes|memory_factor|delay_seconds)|resources\.[a-z_]+|resources\.slurm\.[a-z][a-z0-9-]*"
)


# -- refused -----------------------------------------------------------------------------------------------------------


def refused(session: Session, error: OutsidePlan, actor: Actor) -> int | None:
    """Keeps what would allow it, and answers under which number; None where nothing can. Who tries again and again is
    answered with the number of the first time."""
    if not error.amendment or _amendment(error.amendment) is None:
        return None
    subject = f"plan:{error.plan_id}"
    lately = select(Event).where(col(Event.subject) == subject, col(Event.kind).in_([REFUSED, *ENDS]))
    for event in session.exec(lately.order_by(col(Event.id).desc()).limit(MOST)):
        if event.kind != REFUSED or time.time() - event.at > SAME_WITHIN:
            break
        if event.actor == actor and _alike((event.after or {}).get("diff", ())) == _alike(error.diff):
            return event.id
    after = {"diff": error.diff, "amendment": error.amendment}
    made = record(session, actor, REFUSED, subject, error.message, None, after)
    session.flush()
    return made.id


def _alike(diff: Any) -> list[Any]:
    """Differences without how much of a budget was asked for: that grows by itself."""
    return [item if not item["field"].startswith("budget.") else item["field"] for item in diff]


def refusals(session: Session, plan: Plan, number: int | None = None) -> list[dict[str, Any]]:
    """What was refused under the present approval and is not allowed yet, newest first: ``id``, ``at``, ``by``,
    ``diff`` and the ``amendment`` that would allow it. ``number``: that one alone, however many came after it."""
    bounds = admission.bounds_of(plan)
    if bounds is None:
        return []
    mine = select(Event).where(col(Event.subject) == f"plan:{plan.id}").order_by(col(Event.id).desc())
    ended = session.exec(mine.where(col(Event.kind).in_(ENDS_ALL)).limit(1)).first()
    since = ended.id if ended is not None and ended.id is not None else 0
    query = mine.where(col(Event.kind) == REFUSED, col(Event.id) > since)
    if number is not None:
        query = query.where(col(Event.id) == number)
    found = []
    for event in session.exec(query.limit(MOST)):
        said = event.after or {}
        body = _amendment(said.get("amendment"))
        wanted = _still_wanted(bounds, body) if body is not None else {}
        if wanted:
            found.append({"id": event.id, "at": event.at, "by": event.actor, "diff": said["diff"], "amendment": wanted})
    return found


def _amendment(body: Any) -> PlanAmendment | None:
    """The amendment; None for what can be none: it is nested more deeply than the run that it would allow."""
    try:
        return PlanAmendment.model_validate(body)
    except ValidationError:
        return None


def _still_wanted(bounds: Bounds, body: PlanAmendment) -> dict[str, Any]:
    """The amendment without what of its budget is there by now; {} where nothing is left that is not allowed."""
    given = body.model_dump(exclude_unset=True, mode="json")
    budget = given.pop("budget", None) or {}
    has = asdict(bounds.budget) | {"runs": bounds.budget.runs or bounds.runs}
    more = limits(PlanBudget.model_validate(budget))
    names = {"wall_seconds": "wall_time"}
    left = {names.get(name, name) for name, value in more.items() if has[name] is not None and value > has[name]}
    if left:
        return given | {"budget": {name: value for name, value in budget.items() if name in left}}
    return given if binding.amended(bounds, _allowed(body), {}) != bounds else {}


# -- allowed after all -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Amended:
    """What a plan allows, and what it would."""

    plan: Plan
    before: Bounds
    after: Bounds

    def public(self) -> dict[str, Any]:
        """As JSON, before it is done."""
        changes = [item.public() for item in binding.changes(self.before, self.after)]
        found = {"dry_run": True, "approved_hash": self.plan.approved_hash, "bounds": self.after.public()}
        return {**found, "changes": changes}


def look(session: Session, plan_id: str, body: PlanAmendment) -> Amended:
    """What the amendment would change. Raises Conflict for a plan that was not approved or was put away, and where all
    of it is allowed already; BadInput for what no run can have."""
    plan = plans.get(session, plan_id)
    before = admission.bounds_of(plan)
    if before is None or plan.status == "archived":
        raise Conflict(f"Plan {plan.id} is {plan.status}: only a plan that was approved can be amended.")
    if body.approved_hash not in {None, plan.approved_hash}:
        raise Conflict(f"What plan {plan.id} allows has changed since it was looked at: look again (with dry_run).")
    _known(body.terms)
    after = binding.amended(before, _allowed(body), limits(body.budget or PlanBudget()))
    _unquoted(before, after)
    if after == before:
        raise Conflict(f"Plan {plan.id} allows all of this already: nothing would change.")
    return Amended(plan, before, after)


def amend(session: Session, plan_id: str, body: PlanAmendment, actor: Actor) -> Plan:
    """Allows more (or another budget) under a plan that was approved, with a hash of its own. Raises what ``look``
    does."""
    found = look(session, plan_id, body)
    plan, frozen = found.plan, plans.frozen(found.plan, found.after)
    changes = body.model_dump(exclude_unset=True, exclude={"reason", "dry_run", "approved_hash"})
    line = {"at": time.time(), "by": actor, "reason": body.reason, "changes": changes, "hash": frozen["approved_hash"]}
    fields = {**frozen, "amendments": [*plan.amendments, line], "updated_at": time.time()}
    change(session, plan, actor, "plan.amended", f"plan:{plan.id}", fields, body.reason)
    return plan


def _allowed(body: PlanAmendment) -> Allowed:
    return Allowed(body.commands, body.exact_commands, body.parameters, body.terms)


def _unquoted(before: Bounds, after: Bounds) -> None:
    """Raises BadInput where a value would stand between quotes of a command, though it needs quotes of its own."""
    known = {(command, name) for command in before.commands for name in quoted_twice(command, before.grid)}
    for command in after.commands:
        for name in quoted_twice(command, after.grid):
            if (command, name) not in known:
                raise BadInput("commands", f"{command[:200]!r}: {QUOTED.format(name=name)}")


def _known(terms: dict[str, Any]) -> None:
    """Raises BadInput for a term that no run has; ValidationError for a value that cannot be."""
    for name, value in terms.items():
        if TERM.fullmatch(name) is None:
            raise BadInput(f"terms.{name}", f"There is no such term of a run{meant(name, NAMES)}", NAMES)
        if name == "workdir" and not (isinstance(value, str) and value.startswith("/")):
            raise BadInput("terms.workdir", "is an absolute path.")
        if name == "parallel" and not (value is None or (isinstance(value, int) and value > 0)):
            raise BadInput("terms.parallel", "is a number above zero, or null.")
    given = {name: value for name, value in terms.items() if value is not None and name not in {"workdir", "parallel"}}
    RunTerms.model_validate(binding.nest(given))
