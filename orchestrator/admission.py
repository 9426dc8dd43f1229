"""Whether a run may be made or started under its plan. Asked inside the writer: nothing can come between the answer
and what follows from it.

A plan's budget binds everybody; what else it says binds those who need a plan (``Identity.require_plan``).
"""

import json
import math
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
from orchestrator.journal import SERVICE
from orchestrator.models import Event, Plan, Run, Sweep
from orchestrator.planning.bounds import Asked, Bounds, Difference, amendment, differences, flatten, shown, within
from orchestrator.planning.template import named
from orchestrator.resources import parse_time
from orchestrator.shapes import RunTerms
from orchestrator.states import LIVE, RunStatus

OPEN = ("approved", "executing")
ENDED = ("completed", "archived")
TERMINAL = [status for status in RunStatus if status.terminal]
# What is told of a plan under which nothing runs.
_CLOSED = {
    "draft": "it runs nothing before a person has approved it (orc plan approve {}).",
    "completed": "it runs nothing any more, but for reruns of its runs that failed. Save another plan.",
    "archived": "it runs nothing any more. Save another plan.",
}
# Options of sbatch that change neither how much is allocated nor for how long.
HARMLESS = frozenset({"comment", "mail-type", "mail-user", "hint", "open-mode", "wckey"})
# More differences than this (or so many characters) nobody reads: such a refusal cannot be allowed in one step.
MOST_DIFFERENCES = 200
MOST_TO_ALLOW = 200_000
Body = TypeVar("Body", bound=RunTerms)


@dataclass(frozen=True)
class Spent:
    """What the runs admitted under a plan's approval have used and may still use: GPU-seconds of ended attempts and
    reserved, how many runs, and when the first was started."""

    runs: int
    gpu_seconds: float
    reserved: float
    first: float | None = None


def spent(session: Session, plan: Plan) -> Spent:
    """The sums over the runs that count."""
    over = col(Run.status).in_(TERMINAL)
    reserved = func.coalesce(func.sum(case((over, 0.0), else_=col(Run.reserved_gpu_seconds))), 0.0)
    query = sql_select(
        func.count(), func.coalesce(func.sum(col(Run.gpu_seconds)), 0.0), reserved, func.min(Run.queued_at)
    ).where(col(Run.plan_id) == plan.id, col(Run.admitted_under) == plan.approved_at)
    count, used, kept, first = session.connection().execute(query).one()
    return Spent(count, used, kept, first)


def counts(plan: Plan, run: Run) -> bool:
    """Whether a run is in those sums: not one of another plan, of an earlier approval, or put away (``dismissed``)."""
    return run.plan_id == plan.id and run.admitted_under is not None and run.admitted_under == plan.approved_at


def dismissed(run: Run) -> dict[str, Any]:
    """The columns of a run that is put away before it was started: it counts no more until it is to be started."""
    return {"admitted_under": None} if run.status == RunStatus.READY else {}


def bounds_of(plan: Plan | None) -> Bounds | None:
    """What was approved of a plan; None for a draft, or for one that was never approved."""
    return Bounds.load(plan.bounds) if plan is not None and plan.bounds is not None else None


def going(session: Session, plan_id: str) -> str | None:
    """A run of the plan that waits or executes; None without any."""
    not_over = col(Run.status).in_([RunStatus.QUEUED, *LIVE])
    return session.exec(select(Run.id).where(col(Run.plan_id) == plan_id, not_over).limit(1)).first()


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
        f"The token {identity.name!r} runs only what an approved plan says: no plan was named (plan_id), and none of "
        "its own is executing. Name the plan, or save one, which a person approves."
    )


def filled(session: Session, identity: Identity, body: Body, plan_id: str | None, sweep_id: str | None) -> Body:
    """The body with what it leaves out taken from its plan."""
    bounds = bounds_of(plan_of(session, identity, plan_id, sweep_id))
    return body if bounds is None else completed(body, bounds.body())


def completed(body: Body, terms: Mapping[str, Any]) -> Body:
    """The body with what it leaves out (null says nothing) taken from ``terms``, field by field of ``resources`` and
    ``env``."""
    given = body.model_dump(exclude_unset=True, mode="json")
    for name in ("resources", "env"):
        if isinstance(terms.get(name), dict) and isinstance(given.get(name), dict):
            said = {key: value for key, value in given[name].items() if value is not None}
            given[name] = terms[name] | said
    merged = {**terms, **{name: value for name, value in given.items() if value is not None}}
    return type(body).model_validate({name: merged[name] for name in merged if name in type(body).model_fields})


class Admission:
    """What one transaction may make. Counts what it has admitted, and collects what it may not until ``settle``."""

    def __init__(self, session: Session, identity: Identity) -> None:
        self._session = session
        self._identity = identity
        self._spent: dict[str, Spent] = {}
        self._refused: dict[str, tuple[Plan, list[Difference]]] = {}

    def admit(self, plan: Plan | None, draft: Draft) -> dict[str, Any]:
        """The columns that a new run of the plan gets besides: what it reserves, its configuration as it was told.

        Raises Forbidden for a plan that is not approved, or BadInput for what a budget of GPU-hours cannot count.
        """
        bounds, params = self._open(plan, draft.body.parent_run_id), draft.sweep_params
        columns = draft.terms.columns
        needs = gpu_seconds(columns, draft.terms.cpus)
        if plan is not None and bounds is not None:
            _countable(plan, bounds, columns, needs)
            found, told = differences(bounds, Asked(draft.body.command, flatten(columns, draft.workdir), params))
            self._hold(plan, bounds, found, Spent(1, 0.0, needs or 0.0))
            params = told or params
        under = plan.approved_at if plan is not None else None
        return {"sweep_params": params, "reserved_gpu_seconds": needs or 0.0, "admitted_under": under}

    def settle(self) -> None:
        """Raises OutsidePlan with all that was outside, where anything was."""
        for plan, found in self._refused.values():
            raise refusal(plan, found)

    def template(self, plan: Plan, command: str) -> None:
        """Raises OutsidePlan for a command that is to be filled in and that the plan does not have."""
        bounds = self._open(plan)
        if self._identity.require_plan and bounds is not None and command not in bounds.commands:
            raise refusal(plan, [Difference("template", shown(bounds.commands), command)])

    def term(self, plan: Plan | None, name: str, asked: Any, run: Run | None = None) -> None:
        """Raises OutsidePlan for a single term (of a sweep, or of a run that was made) that the plan does not allow."""
        bounds = self._open(plan, run.parent_run_id if run is not None else None)
        if self._identity.require_plan and plan is not None and bounds is not None and not within(bounds, name, asked):
            raise refusal(plan, [Difference(name, bounds.terms.get(name), asked)])

    def start(self, run: Run) -> None:
        """A stored run is to be started. Raises OutsidePlan, and what ``admit`` does."""
        self.change(run, {})

    def change(self, run: Run, changes: Mapping[str, Any]) -> dict[str, Any]:
        """A stored run is to become another: its columns after it. Raises OutsidePlan, and what ``admit`` does."""
        found = self._changed(self.of(run), run, changes)
        self.settle()
        return found

    def adopt(self, run: Run, plan: Plan | None) -> None:
        """A stored run is to become one of the plan's. Raises OutsidePlan, and what ``admit`` does."""
        self._changed(plan, run, {})
        self.settle()

    def of(self, run: Run) -> Plan | None:
        """The plan of a stored run. Raises Forbidden for one without, where a plan is needed: it is somebody else's."""
        if run.plan_id is None and self._identity.require_plan:
            raise Forbidden(
                f"Run {run.id} belongs to no plan, and the token {self._identity.name!r} runs only what one says: "
                "make a run of your own, or add this one to a sweep of your plan."
            )
        return plan_of(self._session, self._identity, run.plan_id, None)

    def _changed(self, plan: Plan | None, run: Run, changes: Mapping[str, Any]) -> dict[str, Any]:
        bounds = self._open(plan, run.parent_run_id)
        if plan is None or bounds is None:
            return dict(changes)
        columns = {**run.model_dump(), **changes}
        asked = Asked(columns["command"], flatten(columns, columns["workdir"] or ""), _told(run, changes, bounds))
        found, told = differences(bounds, asked)
        needs = gpu_seconds(columns, run.cpus)
        _countable(plan, bounds, columns, needs)
        over = RunStatus(run.status).terminal  # what has ended uses no more than it did
        reserved = 0.0 if over else needs or 0.0
        if counts(plan, run):
            more = Spent(0, 0.0, 0.0 if over else reserved - run.reserved_gpu_seconds)
        else:
            more = Spent(1, run.gpu_seconds, reserved)
        self._hold(plan, bounds, found, more)
        if more.runs:
            run.admitted_under = plan.approved_at
        run.reserved_gpu_seconds = needs or 0.0
        return {**changes, "sweep_params": told or run.sweep_params}

    def _open(self, plan: Plan | None, parent: str | None = None) -> Bounds | None:
        """Its bounds. Raises Forbidden where a plan is needed and this one is not approved, or not any more.

        ``parent``: the run that is run again. A plan that its last run has completed still allows that of what failed.
        """
        if self._identity.require_plan and (plan is None or plan.status not in OPEN):
            if plan is None:
                _only_one(self._session, self._identity)  # says what is missing
                raise Forbidden("The plan is gone.")
            if plan.status != "completed" or not self._repeats(plan, parent):
                raise Forbidden(f"Plan {plan.id} is {plan.status}: {_CLOSED[plan.status].format(plan.id)}")
        return bounds_of(plan)

    def _repeats(self, plan: Plan, parent: str | None) -> bool:
        """Whether the run that is run again is one of the plan's, and failed or was stopped; and nobody has said that
        the plan is over."""
        failed = col(Run.status).in_([RunStatus.FAILED, RunStatus.STOPPED])
        again = select(Run.id).where(col(Run.id) == parent, col(Run.plan_id) == plan.id, failed)
        if parent is None or self._session.exec(again).first() is None:
            return False
        ends = select(Event.actor).where(col(Event.subject) == f"plan:{plan.id}", col(Event.kind) == "plan.completed")
        return self._session.exec(ends.order_by(col(Event.id).desc()).limit(1)).first() == SERVICE

    def _hold(self, plan: Plan, bounds: Bounds, found: list[Difference], more: Spent) -> None:
        """Counts so much more, and notes all that is outside."""
        before = self._spent.get(plan.id) or spent(self._session, plan)
        after = Spent(
            before.runs + more.runs,
            before.gpu_seconds + more.gpu_seconds,
            before.reserved + more.reserved,
            before.first,
        )
        self._spent[plan.id] = after
        needed = self._identity.require_plan
        most = bounds.budget.runs if bounds.budget.runs is not None or not needed else bounds.runs
        outside = [*(found if needed else ()), *_over(bounds, plan, after, most if more.runs else None)]
        if outside:
            known = self._refused.setdefault(plan.id, (plan, []))[1]
            over = [item for item in outside if item.field.startswith("budget.")]  # the last word of each counts
            kept = [item for item in known if item.field not in {later.field for later in over}]
            if len(kept) <= MOST_DIFFERENCES:
                kept += [item for item in outside if item not in over and item not in kept]
            known[:] = kept + over


def _told(run: Run, changes: Mapping[str, Any], bounds: Bounds) -> Mapping[str, Any] | None:
    """The configuration that a run has; of another command what that does not say itself."""
    if "command" not in changes:
        return run.sweep_params
    said = {name for text in bounds.commands for name in named(text, bounds.grid)}
    return {name: value for name, value in (run.sweep_params or {}).items() if name not in said}


def _countable(plan: Plan, bounds: Bounds, columns: Mapping[str, Any], needs: float | None) -> None:
    """Raises BadInput for a run of which nobody can say what to reserve of its plan's GPU-hours."""
    if bounds.budget.gpu_hours is None:
        return
    which = f"plan {plan.id} has a budget of {bounds.budget.gpu_hours:g} GPU-hours, of which GPUs × time are reserved"
    resources = columns["resources"]
    if needs is None:
        raise BadInput("resources.time", f"is required of each run: {which}.")
    unwrapped = (columns.get("gpuwrap_config") or {}).get("enabled") is False
    if columns["executor"] == "local" and unwrapped and resources.get("gpus") is None:
        raise BadInput("resources.gpus", f"must say how many GPUs it uses without gpuwrap: {which}.")
    for name in resources.get("slurm") or {}:
        if name not in HARMLESS:
            raise BadInput(f"resources.slurm.{name}", f"may change what is allocated, uncounted: {which}.")
    if resources.get("exclusive") or (resources.get("nodes") is None and _several(resources)):
        raise BadInput("resources.nodes", f"and resources.gpus must say what it gets: {which}.")


def _several(resources: Mapping[str, Any]) -> bool:
    """Whether Slurm may give more than one node to who names no number: n[1-4], n1,n2, a100*4."""
    return any(mark in (resources.get(name) or "") for name in ("nodelist", "constraint") for mark in ",[*")


def gpu_seconds(columns: Mapping[str, Any], cpus: int) -> float | None:
    """GPUs × time that a run of these columns may use; None for one without a time limit that holds GPUs."""
    resources = columns["resources"]
    gpus, _ = gpus_asked(resources, None, cpus)
    gpus = max(gpus, columns.get("lease_gpus") or 0)
    time_limit = resources.get("time")
    if time_limit is None:
        return None if gpus else 0.0
    return gpus * math.ceil(parse_time(time_limit) / 60) * 60  # Slurm gives whole minutes


def _over(bounds: Bounds, plan: Plan, after: Spent, most: int | None) -> list[Difference]:
    """Where the budget would not be kept. ``most``: how many runs there may be, None where none is added."""
    budget, found = bounds.budget, []
    if most is not None and after.runs > most:
        found.append(Difference("budget.runs", most, after.runs))
    hours = (after.gpu_seconds + after.reserved) / 3600
    if budget.gpu_hours is not None and hours > budget.gpu_hours + 1e-9:
        found.append(Difference("budget.gpu_hours", budget.gpu_hours, round(hours + 5e-4, 3)))
    elapsed = wall_seconds(plan, after.first, time.time())
    if budget.wall_seconds is not None and elapsed >= budget.wall_seconds:
        found.append(Difference("budget.wall_time", _clock(budget.wall_seconds), _clock(elapsed + 3600)))
    return found


def _clock(seconds: float) -> str:
    """As sbatch's --time and a plan's wall_time take it."""
    whole = math.ceil(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def began_at(plan: Plan, first_run: float | None) -> float | None:
    """Since when a plan has been going on (epoch seconds): it was executed, or its first run was started."""
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
    allows: dict[str, Any] = amendment(found)
    how = f"A person can allow it: orc plan amend {plan.id}."
    if len(found) > MOST_DIFFERENCES or len(json.dumps(allows)) > MOST_TO_ALLOW:
        allows, how = {}, "That is too much to be allowed in one step: ask for less at once, or write another plan."
    told = [item.public() for item in found[:MOST_DIFFERENCES]]
    return OutsidePlan(plan.id, f"This is outside of plan {plan.id}: {words}{more}. {how}", told, allows)


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
