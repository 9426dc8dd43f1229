"""Whether a run may be made or started under its plan. Asked inside the writer: nothing can come between the answer
and what follows from it.

A plan's budget binds everybody; what else it says binds those who need a plan (``Identity.require_plan``).
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy import case
from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func, select

from orchestrator.access import Identity
from orchestrator.attempts import asked as gpus_asked
from orchestrator.drafts import Draft
from orchestrator.errors import BadInput, Forbidden, OutsidePlan
from orchestrator.models import Plan, Run, Sweep
from orchestrator.planning.bounds import Asked, Bounds, Difference, amendment, differences, flatten, nest, shown
from orchestrator.resources import parse_time
from orchestrator.shapes import RunTerms
from orchestrator.states import RunStatus

OPEN = ("approved", "executing")
TERMINAL = [status for status in RunStatus if status.terminal]
Body = TypeVar("Body", bound=RunTerms)


@dataclass(frozen=True)
class Spent:
    """What a plan's runs have used and may still use: GPU-seconds by ended attempts and reserved, and how many runs."""

    runs: int
    gpu_seconds: float
    reserved: float
    first: float | None


def spent(session: Session, plan_id: str) -> Spent:
    """The sums over a plan's runs."""
    over = col(Run.status).in_(TERMINAL)
    reserved = func.coalesce(func.sum(case((over, 0.0), else_=col(Run.reserved_gpu_seconds))), 0.0)
    query = sql_select(
        func.count(), func.coalesce(func.sum(col(Run.gpu_seconds)), 0.0), reserved, func.min(Run.created_at)
    ).where(col(Run.plan_id) == plan_id)
    count, used, kept, first = session.connection().execute(query).one()
    return Spent(count, used, kept, first)


def bounds_of(plan: Plan | None) -> Bounds | None:
    """What an approved or executing plan allows; None for any other."""
    return Bounds.load(plan.bounds) if plan is not None and plan.bounds is not None and plan.status in OPEN else None


def plan_of(session: Session, identity: Identity, plan_id: str | None, sweep_id: str | None) -> Plan | None:
    """The plan that a run belongs to: its own, its sweep's, or for who needs one the only one that is executing."""
    if plan_id is None and sweep_id is not None:
        plan_id = session.exec(select(Sweep.plan_id).where(col(Sweep.id) == sweep_id)).first()
    if plan_id is not None:
        return session.exec(select(Plan).where(col(Plan.id) == plan_id)).first()
    return _only_one(session, identity) if identity.require_plan else None


def _only_one(session: Session, identity: Identity) -> Plan:
    own = (col(Plan.created_by) == identity.actor) | (col(Plan.executed_by) == identity.actor)
    found = session.exec(select(Plan).where(col(Plan.status) == "executing", own).order_by(col(Plan.seq))).all()
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{plan.id} ({plan.title[:60]})" for plan in found)
        raise Forbidden(f"{len(found)} plans of {identity.name!r} are executing: name one as plan_id: {names}.")
    raise Forbidden(
        f"The token {identity.name!r} runs only what an approved plan says, and no plan was named (plan_id). "
        "Save one (POST /plans); a person approves it."
    )


def filled(session: Session, identity: Identity, body: Body, plan_id: str | None, sweep_id: str | None) -> Body:
    """The body with what it leaves out taken from its plan."""
    bounds = bounds_of(plan_of(session, identity, plan_id, sweep_id))
    if bounds is None:
        return body
    said = {name: value for name, value in bounds.terms.items() if name != "executor"}
    return completed(body, nest(said))


def completed(body: Body, terms: Mapping[str, Any]) -> Body:
    """The body with what it leaves out taken from ``terms``, field by field of ``resources`` and ``env``."""
    given = body.model_dump(exclude_unset=True, mode="json")
    for name in ("resources", "env"):
        if isinstance(terms.get(name), dict) and isinstance(given.get(name), dict):
            given[name] = terms[name] | given[name]
    merged = {**terms, **given}
    return type(body).model_validate({name: merged[name] for name in merged if name in type(body).model_fields})


class Admission:
    """What one transaction may make. Counts what it has admitted itself."""

    def __init__(self, session: Session, identity: Identity) -> None:
        self._session = session
        self._identity = identity
        self._spent: dict[str, Spent] = {}

    def admit(self, plan: Plan | None, draft: Draft) -> dict[str, Any]:
        """The columns that a new run of the plan gets besides: what it reserves, its configuration as it was told.

        Raises OutsidePlan, Forbidden, or BadInput for a run without a time limit under a budget of GPU-hours.
        """
        bounds, params = self._open(plan), draft.sweep_params
        needs = gpu_seconds(draft.terms.columns, draft.terms.cpus)
        _countable(plan, bounds, draft.terms.columns["resources"], needs)
        if plan is not None and bounds is not None:
            asked = Asked(draft.body.command, flatten(draft.terms.columns, draft.workdir), params)
            found, told = differences(bounds, asked)
            self._hold(plan, bounds, found if self._identity.require_plan else [], runs=1, reserved=needs or 0.0)
            params = told or params
        return {"sweep_params": params, "reserved_gpu_seconds": needs or 0.0}

    def template(self, plan: Plan, command: str) -> None:
        """Raises OutsidePlan for a command that is to be filled in and that the plan does not have."""
        bounds = self._open(plan)
        if self._identity.require_plan and bounds is not None and command not in bounds.commands:
            raise refusal(plan, [Difference("command", shown(bounds.commands), command)])

    def start(self, run: Run) -> None:
        """A stored run is to be started. Raises as ``admit`` does."""
        self.change(run, {})

    def change(self, run: Run, changes: Mapping[str, Any]) -> dict[str, Any]:
        """A stored run is to become another: its columns after it. Raises as ``admit`` does."""
        plan = self._plan_of(run)
        bounds = self._open(plan)
        if plan is None or bounds is None:
            return dict(changes)
        columns = {**run.model_dump(), **changes}
        params = None if "command" in changes else run.sweep_params  # of another command it is read anew
        found, told = differences(bounds, Asked(columns["command"], flatten(columns, columns["workdir"] or ""), params))
        needs = gpu_seconds(columns, run.cpus)
        _countable(plan, bounds, run.resources, needs)
        more = (needs or 0.0) - run.reserved_gpu_seconds
        self._hold(plan, bounds, found if self._identity.require_plan else [], runs=0, reserved=more)
        run.reserved_gpu_seconds = needs or 0.0
        return {**changes, "sweep_params": told or params}

    def _plan_of(self, run: Run) -> Plan | None:
        return plan_of(self._session, self._identity, run.plan_id, None)

    def _open(self, plan: Plan | None) -> Bounds | None:
        """Its bounds. Raises Forbidden where a plan is needed and this one is not approved."""
        bounds = bounds_of(plan)
        if bounds is None and self._identity.require_plan:
            if plan is None:
                _only_one(self._session, self._identity)  # says what is missing
                raise Forbidden("The plan is gone.")
            words = "a person approves it first" if plan.status == "draft" else "it runs nothing any more"
            raise Forbidden(f"Plan {plan.id} is {plan.status}: {words}.")
        return bounds

    def _hold(self, plan: Plan, bounds: Bounds, found: list[Difference], *, runs: int, reserved: float) -> None:
        """Counts so many more runs and GPU-seconds that they may use, or refuses them with all that is outside."""
        before = self._spent.get(plan.id) or spent(self._session, plan.id)
        after = Spent(before.runs + runs, before.gpu_seconds, before.reserved + reserved, before.first)
        found = found + _over(bounds, plan, after, more=runs > 0)
        if found:
            raise refusal(plan, found)
        self._spent[plan.id] = after


def _countable(plan: Plan | None, bounds: Bounds | None, resources: Mapping[str, Any], needs: float | None) -> None:
    """Raises BadInput for a run of which nobody can say what to reserve of its plan's GPU-hours."""
    if plan is None or bounds is None or bounds.budget.gpu_hours is None:
        return
    which = f"plan {plan.id} has a budget of {bounds.budget.gpu_hours:g} GPU-hours, of which GPUs × time are reserved"
    if needs is None:
        raise BadInput("resources.time", f"is required of each run: {which}.")
    for name in resources.get("slurm") or {}:
        if any(word in name for word in ("gpu", "gres", "tres")):
            raise BadInput(f"resources.slurm.{name}", f"cannot be counted: ask by resources.gpus, for {which}.")


def gpu_seconds(columns: Mapping[str, Any], cpus: int) -> float | None:
    """GPUs × time that a run of these columns may use; None for one without a time limit that holds GPUs."""
    resources = columns["resources"]
    gpus, _ = gpus_asked(resources, None, cpus)
    gpus = max(gpus, columns.get("lease_gpus") or 0)
    time_limit = resources.get("time")
    if time_limit is None:
        return None if gpus else 0.0
    return gpus * parse_time(time_limit)


def _over(bounds: Bounds, plan: Plan, after: Spent, *, more: bool) -> list[Difference]:
    """Where the budget would not be kept."""
    budget, found = bounds.budget, []
    if budget.runs is not None and more and after.runs > budget.runs:
        found.append(Difference("budget.runs", budget.runs, after.runs))
    hours = (after.gpu_seconds + after.reserved) / 3600
    if budget.gpu_hours is not None and hours > budget.gpu_hours + 1e-9:
        found.append(Difference("budget.gpu_hours", budget.gpu_hours, round(hours + 5e-4, 3)))
    elapsed = wall_seconds(plan, after.first, time.time())
    if budget.wall_seconds is not None and elapsed >= budget.wall_seconds:
        minutes = int(elapsed // 60) + 60
        found.append(Difference("budget.wall_time", int(budget.wall_seconds // 60), minutes))
    return found


def began_at(plan: Plan, first_run: float | None) -> float | None:
    """Since when a plan has been going on (epoch seconds): it was executed, or its first run was made."""
    return min((moment for moment in (plan.executed_at, first_run) if moment is not None), default=None)


def wall_seconds(plan: Plan, first_run: float | None, now: float) -> float:
    """How long it has been going on."""
    began = began_at(plan, first_run)
    return 0.0 if began is None else now - began


def refusal(plan: Plan, found: list[Difference]) -> OutsidePlan:
    """With all that differs, and what would allow it."""
    words = "; ".join(
        f"{item.field}: the plan says {_short(item.plan)}, asked is {_short(item.asked)}" for item in found[:5]
    )
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    message = f"This is outside of plan {plan.id}: {words}{more}. A person can allow it: orc plan amend {plan.id}."
    return OutsidePlan(plan.id, message, [item.public() for item in found], amendment(found))


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def budget_public(bounds: Bounds, used: Spent, plan: Plan) -> dict[str, Any]:
    """A plan's budget beside what of it is used and reserved (hours)."""
    return {
        **asdict(bounds.budget),
        "used_gpu_hours": used.gpu_seconds / 3600,
        "reserved_gpu_hours": used.reserved / 3600,
        "used_runs": used.runs,
        "began_at": began_at(plan, used.first),
    }
