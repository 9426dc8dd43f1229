"""Sweeps: sets of runs. What follows from the runs (progress, status, times) is computed, never kept."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func, select

from orchestrator import grid, ids, runs, wishes
from orchestrator.access import Identity
from orchestrator.admission import OPEN, Admission, bounds_of, plan_of
from orchestrator.drafts import Draft, RunChecks
from orchestrator.errors import BadInput, BadTransition, Conflict, NotFound
from orchestrator.journal import change, move, record
from orchestrator.models import Plan, Run, Sweep
from orchestrator.planning.template import fill, named, quoted_twice
from orchestrator.planning.values import PARAMETER_NAME
from orchestrator.shapes import RunCreate, RunTerms, SweepCreate, SweepUpdate, SweepWild
from orchestrator.states import LIVE, Move, RunStatus

PUBLIC = (
    *("id", "name", "base_command", "workdir", "parameters", "created_at", "goal", "is_wild", "max_runs", "parallel"),
    *("ui_config", "creation_context", "chat_session_id", "plan_id", "created_by"),
)
CommandOf = Callable[[str, dict[str, Any]], str]


def command_line(base: str, configuration: dict[str, Any]) -> str:
    """A configuration's command: ``{lr}`` becomes its value as a shell word; what has no place is an option."""
    others = {name: value for name, value in configuration.items() if name not in named(base, configuration)}
    return grid.command_line(fill(base, configuration), others)


def check_places(command: str, parameters: dict[str, list[Any]], field: str) -> None:
    """Raises BadInput where a value would come to stand in quotes twice."""
    doubly = quoted_twice(command, parameters)
    if doubly:
        raise BadInput(field, f"Write {{{doubly[0]}}} without quotes: its values get their own, and two are none.")


def get(session: Session, sweep_id: str) -> Sweep:
    """The sweep. Raises NotFound."""
    found = session.exec(select(Sweep).where(col(Sweep.id) == sweep_id)).first()
    if found is None:
        raise NotFound("sweep", sweep_id)
    return found


@dataclass(frozen=True)
class Progress:
    """How far a sweep's runs are, from one query."""

    counts: dict[str, int]
    started_at: float | None
    ended_at: float | None

    @property
    def total(self) -> int:
        """All runs."""
        return sum(self.counts.values())

    def count(self, *statuses: RunStatus) -> int:
        """Runs in any of these."""
        return sum(self.counts.get(status, 0) for status in statuses)

    def public(self) -> dict[str, int]:
        """As the wire shows it."""
        return {
            "total": self.total,
            "completed": self.count(RunStatus.FINISHED),
            "failed": self.count(RunStatus.FAILED),
            "running": self.count(RunStatus.RUNNING),
            "launching": self.count(RunStatus.LAUNCHING),
            "ready": self.count(RunStatus.READY),
            "queued": self.count(RunStatus.QUEUED),
            "canceled": self.count(RunStatus.STOPPED),
        }

    @property
    def over(self) -> bool:
        """Whether there are runs and all have ended."""
        return self.total > 0 and self.count(RunStatus.FINISHED, RunStatus.FAILED, RunStatus.STOPPED) == self.total


NONE = Progress({}, None, None)


def status_of(stored: str, progress: Progress) -> str:
    """A sweep's status: what was set by hand where it has no runs, else what its runs tell."""
    if progress.total == 0:
        return stored
    if progress.count(RunStatus.QUEUED, *LIVE):
        return "running"
    if progress.count(RunStatus.READY):
        return "canceled" if stored == "canceled" else "pending"
    if progress.count(RunStatus.FAILED):
        return "failed"
    return "canceled" if progress.count(RunStatus.STOPPED) else "completed"


def progress_of(session: Session, sweep_ids: Iterable[str]) -> dict[str, Progress]:
    """The progress of several sweeps, in one query."""
    rows = session.connection().execute(
        sql_select(col(Run.sweep_id), col(Run.status), func.count(), func.min(Run.started_at), func.max(Run.ended_at))
        .where(col(Run.sweep_id).in_(list(sweep_ids)))
        .group_by(col(Run.sweep_id), col(Run.status))
    )
    found: dict[str, Progress] = {}
    for sweep, status, count, started, ended in rows:
        sweep_id = str(sweep)
        before = found.get(sweep_id, NONE)
        begins = [t for t in (before.started_at, started) if t is not None]
        ends = [t for t in (before.ended_at, ended) if t is not None]
        found[sweep_id] = Progress({**before.counts, status: count}, min(begins, default=None), max(ends, default=None))
    return found


def public(session: Session, sweeps: list[Sweep]) -> list[dict[str, Any]]:
    """Sweeps as the wire shows them, with their runs' ids and progress."""
    sweep_ids = [sweep.id for sweep in sweeps]
    progress = progress_of(session, sweep_ids)
    run_ids: dict[str, list[str]] = {sweep_id: [] for sweep_id in sweep_ids}
    members = select(Run.sweep_id, Run.id).where(col(Run.sweep_id).in_(sweep_ids)).order_by(col(Run.seq))
    for sweep_id, run_id in session.exec(members):
        run_ids[str(sweep_id)].append(run_id)
    return [_public(sweep, progress.get(sweep.id, NONE), run_ids[sweep.id]) for sweep in sweeps]


def _public(sweep: Sweep, progress: Progress, run_ids: list[str]) -> dict[str, Any]:
    return {
        **{name: getattr(sweep, name) for name in PUBLIC},
        "run_ids": run_ids,
        "status": status_of(sweep.status, progress),
        "started_at": progress.started_at,
        "completed_at": progress.ended_at if progress.over else None,
        "progress": progress.public(),
    }


def detail(session: Session, sweep_id: str) -> dict[str, Any]:
    """One sweep."""
    return public(session, [get(session, sweep_id)])[0]


def listing(session: Session, limit: int, before: int | None = None, plan_id: str | None = None) -> list[Sweep]:
    """Sweeps, newest first."""
    query = select(Sweep).order_by(col(Sweep.seq).desc()).limit(limit)
    if before is not None:
        query = query.where(col(Sweep.seq) < before)
    if plan_id is not None:
        query = query.where(col(Sweep.plan_id) == plan_id)
    return list(session.exec(query))


def create_wild(session: Session, body: SweepWild, identity: Identity) -> Sweep:
    """An empty tracking sweep."""
    plan = _named(session, body.plan_id)
    return _create(session, plan, identity, is_wild=True, status="pending", **body.model_dump(exclude={"plan_id"}))


def _create(session: Session, plan: Plan | None, identity: Identity, **columns: Any) -> Sweep:
    if plan is not None and plan.status not in OPEN:  # what refers to a draft keeps its maker from deleting it
        identity.check_own(f"Plan {plan.id}", plan.created_by)
    plan_id, actor = plan.id if plan is not None else None, identity.actor
    sweep = Sweep(id=ids.run_id(), created_at=time.time(), created_by=actor, plan_id=plan_id, **columns)
    session.add(sweep)
    outline = {name: getattr(sweep, name) for name in ("name", "goal", "base_command", "parameters", "plan_id")}
    record(session, actor, "sweep.created", f"sweep:{sweep.id}", sweep.name, None, outline)
    session.flush()
    return sweep


@dataclass(frozen=True)
class SweepDraft:
    """A sweep that has been checked outside the writer, with the drafts of its runs."""

    body: SweepCreate
    runs: list[Draft]
    workdir: str


def check_grid(parameters: dict[str, list[Any]], max_runs: int | None, limit: int) -> None:
    """Raises BadInput for a grid that cannot be, before it is expanded."""
    for name, values in parameters.items():
        if not PARAMETER_NAME.fullmatch(name):
            raise BadInput(
                "parameters", f"{name!r} cannot be an option's name: letters, digits, and _ . - / after a letter."
            )
        if not values:
            raise BadInput(f"parameters.{name}", "has no values: give at least one, or leave the parameter out.")
    count = grid.size(parameters)
    if count > 10**15:
        raise BadInput(
            "parameters", f"The grid has over 10^15 configurations and this server's limit is {limit} (max_sweep_runs)."
        )
    if max_runs is not None and count > max_runs:
        raise BadInput(
            "max_runs", f"The grid has {count} configurations and max_runs is {max_runs}: raise it, or cut the grid."
        )
    if count > limit:
        raise BadInput(
            "parameters", f"The grid has {count} configurations and this server's limit is {limit} (max_sweep_runs)."
        )


def draft(checks: RunChecks, body: SweepCreate, limit: int, command_of: CommandOf = command_line) -> SweepDraft:
    """A sweep that can be made. Raises BadInput for what cannot be. ``command_of``: a configuration's command."""
    check_grid(body.parameters, body.max_runs, limit)
    checks.command(body.base_command, "base_command")
    drafts = _runs(checks, body, command_of) if body.status != "draft" else []
    return SweepDraft(body, drafts, checks.workdir(body.workdir))


def _runs(checks: RunChecks, body: SweepCreate, command_of: CommandOf = command_line) -> list[Draft]:
    """A run for each configuration."""
    check_places(body.base_command, body.parameters, "base_command")
    workdir = checks.workdir(body.workdir)
    terms = checks.terms(body, workdir)
    drafts = []
    for configuration in grid.expand(body.parameters):
        command = command_of(body.base_command, configuration)
        checks.command(command, "parameters")
        name = grid.short_name(configuration) or body.name
        start = body.auto_start or body.status == "running"
        run = RunCreate.model_construct(name=name, command=command, auto_start=start)
        drafts.append(Draft(run, terms, workdir, configuration))
    return drafts


def runs_of_draft(checks: RunChecks, sweep: Sweep, body: SweepUpdate, limit: int) -> list[Draft]:
    """The runs that a sweep gets when it is a draft no more: those of its grid, as it is after the change."""
    if sweep.status != "draft" or body.status not in {"pending", "running"} or sweep.is_wild:
        return []
    names = ("name", "base_command", "workdir", "parameters", "max_runs")
    whole = {name: getattr(sweep, name) for name in names} | (sweep.template or {})
    whole |= {name: value for name, value in body.model_dump(exclude_unset=True).items() if name in (*names, "status")}
    made = SweepCreate.model_validate(whole)
    check_grid(made.parameters, made.max_runs, limit)
    return _runs(checks, made)


def create(session: Session, checks: RunChecks, made: SweepDraft, identity: Identity) -> Sweep:
    """A sweep and all its runs, in one transaction."""
    body = made.body
    plan = _named(session, body.plan_id)
    if plan is None and body.status != "draft":
        plan = plan_of(session, identity, None, None)
    names = ("name", "base_command", "parameters", "max_runs", "goal", "chat_session_id", "ui_config")
    template = body.model_dump(include=set(RunTerms.model_fields), exclude_none=True, mode="json")
    sweep = _create(
        session,
        plan,
        identity,
        **{name: getattr(body, name) for name in (*names, "creation_context")},
        parallel=_at_once(session, plan, body.parallel, identity),
        workdir=made.workdir,
        status=body.status or "pending",
        template=template,
    )
    _create_runs(session, checks, sweep, made.runs, identity)
    return sweep


def _named(session: Session, plan_id: str | None) -> Plan | None:
    """The plan that a sweep names. Raises NotFound."""
    plan = session.exec(select(Plan).where(col(Plan.id) == plan_id)).first() if plan_id is not None else None
    if plan_id is not None and plan is None:
        raise NotFound("plan", plan_id)
    return plan


def _at_once(session: Session, plan: Plan | None, asked: int | None, identity: Identity) -> int | None:
    """How many of a sweep's runs may go at once: what is left out is its plan's."""
    bounds = bounds_of(plan)
    wanted = bounds.terms.get("parallel") if asked is None and bounds is not None else asked
    _parallel(session, plan, wanted, identity)
    return wanted


def _parallel(session: Session, plan: Plan | None, parallel: int | None, identity: Identity) -> None:
    """Raises OutsidePlan for more at once than the sweep's plan allows."""
    if plan is not None:
        Admission(session, identity).term(plan, "parallel", parallel)


def _create_runs(session: Session, checks: RunChecks, sweep: Sweep, drafts: list[Draft], identity: Identity) -> None:
    bound = [replace(run, body=run.body.model_copy(update={"sweep_id": sweep.id})) for run in drafts]
    runs.create_many(session, checks, bound, identity)
    session.flush()


def update(
    session: Session,
    checks: RunChecks,
    sweep_id: str,
    body: SweepUpdate,
    limit: int,
    drafts: list[Draft],
    identity: Identity,
) -> Sweep:
    """Changes a sweep; its grid and command only while it has no runs. One that was a draft gets ``drafts``."""
    sweep = get(session, sweep_id)
    identity.check_own(f"Sweep {sweep.id}", sweep.created_by)
    fields = body.model_dump(exclude_unset=True)
    drafts = drafts if sweep.status == "draft" else []
    if drafts:
        plan = plan_of(session, identity, sweep.plan_id, None)
        at_once = _at_once(session, plan, fields.get("parallel", sweep.parallel), identity)
        fields |= {"plan_id": plan.id if plan is not None else None, "parallel": at_once}
    elif "parallel" in fields:
        _parallel(session, _named(session, sweep.plan_id), body.parallel, identity)
    structural = {"base_command", "workdir", "parameters", "max_runs"} & set(fields)
    if structural and session.exec(select(Run.id).where(col(Run.sweep_id) == sweep.id).limit(1)).first():
        raise Conflict(
            f"Sweep {sweep.id} has runs made from its grid: {', '.join(sorted(structural))} cannot change any more. "
            "Make another sweep."
        )
    if "parameters" in fields:
        check_grid(fields["parameters"], fields.get("max_runs", sweep.max_runs), limit)
    change(session, sweep, identity.actor, "sweep.updated", f"sweep:{sweep.id}", fields)
    _create_runs(session, checks, sweep, drafts, identity)
    return sweep


def start(session: Session, sweep_id: str, parallel: int | None, identity: Identity) -> int:
    """Queues every ready run but the archived; ``parallel`` of the sweep's runs are kept going until all are done."""
    sweep, actor = get(session, sweep_id), identity.actor
    has_runs = session.exec(select(Run.id).where(col(Run.sweep_id) == sweep.id).limit(1)).first() is not None
    if sweep.status == "draft" and not has_runs:
        raise BadTransition(f"Sweep {sweep.id} is a draft: set its status to pending first.")
    if parallel is not None:
        if sweep.plan_id is None:
            identity.check_own(f"Sweep {sweep.id}", sweep.created_by)
        _parallel(session, _named(session, sweep.plan_id), parallel, identity)
        change(session, sweep, actor, "sweep.updated", f"sweep:{sweep.id}", {"parallel": parallel})
    ready = session.exec(
        select(Run)
        .where(col(Run.sweep_id) == sweep.id, col(Run.status) == RunStatus.READY, ~col(Run.is_archived))
        .order_by(col(Run.seq))
    ).all()
    admission = Admission(session, identity)
    for run in ready:
        admission.start(run)
        move(session, run, Move(RunStatus.QUEUED), actor)
    record(
        session,
        actor,
        "sweep.started",
        f"sweep:{sweep.id}",
        f"{len(ready)} run(s) queued.",
        None,
        {"parallel": parallel},
    )
    return len(ready)


def stop(session: Session, sweep_id: str, identity: Identity) -> int:
    """Asks every run that is not over to stop; ready ones stay ready."""
    sweep = get(session, sweep_id)
    wanted = [RunStatus.QUEUED, *LIVE]
    found = session.exec(
        select(Run).where(
            col(Run.sweep_id) == sweep.id, col(Run.status).in_(wanted), col(Run.stop_requested_at).is_(None)
        )
    ).all()
    for run in found:
        wishes.stop(session, run.id, identity)
    record(session, identity.actor, "sweep.stop_requested", f"sweep:{sweep.id}", f"{len(found)} run(s) asked to stop.")
    return len(found)


def each(session: Session, sweep_id: str, statuses: Iterable[RunStatus], act: Callable[[Session, str], Run]) -> int:
    """Does something to every run of a sweep that is in one of these statuses; answers how many."""
    sweep = get(session, sweep_id)
    wanted = col(Run.status).in_(list(statuses))
    found = session.exec(select(Run.id).where(col(Run.sweep_id) == sweep.id, wanted).order_by(col(Run.seq))).all()
    for run_id in found:
        act(session, run_id)
    return len(found)


def failed_runs(session: Session, sweep_id: str) -> list[Run]:
    """The failed and stopped runs that nobody has run again yet."""
    sweep = get(session, sweep_id)
    done_again = select(Run.parent_run_id).where(col(Run.sweep_id) == sweep.id, col(Run.parent_run_id).is_not(None))
    found = select(Run).where(
        col(Run.sweep_id) == sweep.id,
        col(Run.status).in_([RunStatus.FAILED, RunStatus.STOPPED]),
        col(Run.id).not_in(done_again),
    )
    return list(session.exec(found.order_by(col(Run.seq))))
