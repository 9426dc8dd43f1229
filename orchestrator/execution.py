"""A plan executed: its table and its command become a sweep of runs."""

from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from orchestrator import plans, sweeps
from orchestrator.access import Identity
from orchestrator.admission import Admission, bounds_of, completed, gpu_seconds
from orchestrator.drafts import RunChecks
from orchestrator.errors import BadInput, OutsidePlan
from orchestrator.journal import change
from orchestrator.models import Plan
from orchestrator.planning.reading import reading
from orchestrator.planning.template import fill, named
from orchestrator.shapes import PlanBlock, PlanExecute, PlanTerms, RunTerms, SweepCreate
from orchestrator.sweeps import SweepDraft


@dataclass(frozen=True)
class Execution:
    """How a plan is to run: None where neither it nor the request names a command."""

    sweep: SweepDraft | None


def draft(checks: RunChecks, plan: Plan, body: PlanExecute, limit: int) -> Execution:
    """The sweep that the plan becomes. Raises BadInput for one that cannot be."""
    terms = _asked(plan, body)
    if terms.command is None:
        return Execution(None)
    grid = _grid(plan, terms.command)
    sweeps.check_places(terms.command, grid, "command")
    given = terms.model_dump(mode="json", exclude_unset=True, include=set(RunTerms.model_fields))
    sweep = SweepCreate.model_validate(
        {
            **given,
            "name": plan.title,
            "goal": plan.goal,
            "base_command": terms.command,
            "workdir": terms.workdir,
            "parameters": grid,
            "parallel": terms.parallel,
            "plan_id": plan.id,
            "chat_session_id": plan.session_id,
            "auto_start": body.auto_start,
        }
    )
    return Execution(sweeps.draft(checks, sweep, limit, fill))


def _grid(plan: Plan, command: str) -> dict[str, Any]:
    """The plan's table. Raises BadInput where the command needs a parameter of it whose values cannot be read."""
    text = reading(plan.raw_markdown).text
    rows = {row["name"]: row["line"] for row in text.sections.get("parameters", []) if row["name"]}
    unread = named(command, {name: [] for name in rows if name not in text.parameters})
    for name in sorted(unread):
        raise BadInput("command", f"The plan's values of {name!r} (line {rows[name]}) cannot be read: mend the plan.")
    return text.parameters


def _asked(plan: Plan, body: PlanExecute) -> PlanTerms:
    """The request over what was approved; of a draft over what its block says."""
    block, bounds = reading(plan.raw_markdown).block or PlanBlock(), bounds_of(plan)
    terms = bounds.body() if bounds is not None else block.model_dump(mode="json", exclude_unset=True)
    terms |= {"command": block.command, "parallel": block.parallel}
    return completed(body, {name: value for name, value in terms.items() if value is not None})


def execute(session: Session, checks: RunChecks, plan_id: str, made: Execution, identity: Identity) -> Plan:
    """approved → executing, with its sweep in the same transaction. Raises OutsidePlan where that departs from it."""
    plan = plans.execute(session, plan_id, identity.actor)
    session.flush()  # its runs are held against it as it is now
    if made.sweep is not None:
        Admission(session, identity).template(plan, made.sweep.body.base_command)
        sweep = sweeps.create(session, checks, made.sweep, identity)
        change(session, plan, identity.actor, "plan.sweep", f"plan:{plan.id}", {"sweep_id": sweep.id}, sweep.name)
    return plan


def _admitted(session: Session, plan: Plan, sweep: SweepDraft, identity: Identity) -> None:
    """Raises OutsidePlan where the plan does not allow all of it."""
    admission = Admission(session, identity)
    admission.template(plan, sweep.body.base_command)
    for run in sweep.runs:
        admission.admit(plan, run)
    admission.settle()


def preview(session: Session, plan: Plan, made: Execution, identity: Identity) -> dict[str, Any]:
    """What would be made: how many runs, the first commands, and what they may use together. Raises OutsidePlan where
    an approved plan would refuse it."""
    drafts = made.sweep.runs if made.sweep is not None else []
    if made.sweep is not None and plan.status == "approved":
        try:
            _admitted(session, plan, made.sweep, identity)
        except OutsidePlan as error:
            error.asked_for = False
            raise
    needs = [gpu_seconds(run.terms.columns, run.terms.cpus) for run in drafts]
    known = [need for need in needs if need is not None]
    return {
        "dry_run": True,
        "runs": len(drafts),
        "commands": [run.body.command for run in drafts[:20]],
        "gpu_hours_at_most": sum(known) / 3600 if len(known) == len(needs) else None,
    }
