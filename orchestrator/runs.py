"""Runs: made, looked at, changed, run again. Functions of a session; each change with its event."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Text, cast
from sqlalchemy import select as sql_select
from sqlmodel import Session, col, select

from orchestrator import ids, metrics
from orchestrator.access import Identity
from orchestrator.admission import Admission, dismissed, plan_of
from orchestrator.drafts import Draft, RunChecks
from orchestrator.efficiency import Used, shares
from orchestrator.errors import BadTransition, Conflict, Forbidden, NotFound
from orchestrator.journal import Actor, change, move, record
from orchestrator.models import Alert, Dependency, Plan, Run, Sweep
from orchestrator.shapes import RunCreate, RunReport, RunRerun
from orchestrator.states import LIVE, Move, RunStatus

AT_ONCE = 500
Row = TypeVar("Row", Sweep, Plan, Run, Alert)

PUBLIC = (
    *("id", "name", "command", "workdir", "status", "reason", "error", "is_archived", "sweep_id", "sweep_params"),
    *("plan_id", "parent_run_id", "origin_alert_id", "chat_session_id", "depends_on", "tags", "priority", "created_by"),
    *("executor", "resources", "env", "gpuwrap_config", "attempt", "gpus", "created_at", "queued_at", "launched_at"),
    *("profile", "environment", "retry", "retries", "launch", "container", "snapshot", "git", "held", "history"),
    *("scheduler", "elapsed_seconds", "gpu_seconds", "cpu_seconds_given", "cpu_seconds"),
    *("started_at", "ended_at", "stopped_at", "exit_code", "signal", "peak_memory_bytes", "run_dir", "wandb_dir"),
)


def public(run: Run) -> dict[str, Any]:
    """A run as the wire shows it."""
    return _shown(run)


def live(found: dict[str, Any], shown: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A run with what Slurm said of its job last, which changes too often to be stored each time."""
    now = shown.get(found["id"])
    return found if now is None or RunStatus(found["status"]).terminal else found | {"scheduler": now}


def _shown(run: Any) -> dict[str, Any]:
    """From a row of the table or of a query over its columns."""
    shown = {name: getattr(run, name) for name in PUBLIC}
    shown["stop_requested"] = run.stop_requested_at is not None
    shown["used"] = _used(run) if RunStatus(run.status).terminal and run.started_at is not None else None
    process = (run.job or {}).get("process")
    if process is not None:
        shown["scheduler"] = {"job_id": str(process["pid"])}
    return shown


def _used(run: Any) -> dict[str, float | None]:
    """The shares that an ended run has used of what it asked for."""
    elapsed = run.ended_at - run.started_at if run.ended_at is not None else None
    used = Used(run.cpu_seconds, run.cpu_seconds_given, run.peak_memory_bytes, elapsed)
    return shares(used, run.resources, run.scheduler)


def get(session: Session, run_id: str) -> Run:
    """The run. Raises NotFound."""
    found = session.exec(select(Run).where(col(Run.id) == run_id)).first()
    if found is None:
        raise NotFound("run", run_id)
    return found


def many(session: Session, run_ids: Iterable[str]) -> dict[str, Run]:
    """These runs by their ids, a few hundred with each query; what there is not is left out."""
    wanted, found = list(dict.fromkeys(run_ids)), dict[str, Run]()
    for start in range(0, len(wanted), AT_ONCE):
        rows = session.exec(select(Run).where(col(Run.id).in_(wanted[start : start + AT_ONCE])))
        found |= {run.id: run for run in rows}
    return found


def over(session: Session, run_ids: Iterable[str]) -> dict[str, bool]:
    """Of these runs, as far as there are any, which are over."""
    wanted, found = list(run_ids), dict[str, bool]()
    for start in range(0, len(wanted), AT_ONCE):
        query = sql_select(col(Run.id), col(Run.status)).where(col(Run.id).in_(wanted[start : start + AT_ONCE]))
        found |= {run_id: RunStatus(status).terminal for run_id, status in session.connection().execute(query)}
    return found


def detail(session: Session, run_id: str) -> dict[str, Any]:
    """One run with its metrics, once there are any."""
    run = get(session, run_id)
    return public(run) | metrics.public(session, run.id)


@dataclass(frozen=True)
class Filter:
    """Which runs to list. ``before``: only those older than this ``seq`` (the cursor)."""

    archived: bool | None = False
    status: Sequence[str] = ()
    sweep_id: str | None = None
    plan_id: str | None = None
    tag: str | None = None
    before: int | None = None
    limit: int = 100


_COLUMNS = (Run.seq, *(getattr(Run, name) for name in PUBLIC), Run.job, Run.stop_requested_at)
_NEWEST_FIRST = sql_select(*_COLUMNS).order_by(col(Run.seq).desc())


def listing(session: Session, wanted: Filter) -> tuple[list[dict[str, Any]], int | None]:
    """Runs as the wire shows them, newest first, and the cursor after the last. Plain rows: a page is read often."""
    query = _NEWEST_FIRST.limit(wanted.limit)
    if wanted.archived is not None:
        query = query.where(col(Run.is_archived).is_(wanted.archived))
    if wanted.status:
        query = query.where(col(Run.status).in_(wanted.status))
    for column, value in ((Run.sweep_id, wanted.sweep_id), (Run.plan_id, wanted.plan_id)):
        if value is not None:
            query = query.where(col(column) == value)
    if wanted.tag is not None:
        query = query.where(cast(col(Run.tags), Text).contains(json.dumps(wanted.tag), autoescape=True))
    if wanted.before is not None:
        query = query.where(col(Run.seq) < wanted.before)
    rows = session.connection().execute(query).all()
    return [_shown(row) for row in rows], rows[-1].seq if rows else None


def create(session: Session, checks: RunChecks, draft: Draft, identity: Identity) -> Run:
    """Makes a run: ``queued`` with ``auto_start``, else ``ready``. Raises OutsidePlan for one that its plan refuses."""
    return create_many(session, checks, [draft], identity)[0]


def create_many(session: Session, checks: RunChecks, drafts: Iterable[Draft], identity: Identity) -> list[Run]:
    """Makes runs; what one of them may not do, none does."""
    admission = Admission(session, identity)
    made = [_create(session, checks, draft, identity, admission) for draft in drafts]
    admission.settle()
    return made


def _create(session: Session, checks: RunChecks, draft: Draft, identity: Identity, admission: Admission) -> Run:
    body, actor = draft.body, identity.actor
    sweep, plan, parents = references(session, body)
    plan = plan or plan_of(session, identity, None, body.sweep_id)
    admitted = admission.admit(plan, draft)
    run_id = ids.run_id()
    run = Run(
        id=run_id,
        name=body.name,
        command=body.command,
        workdir=draft.workdir,
        sweep_id=body.sweep_id,
        plan_id=plan.id if plan else None,
        parent_run_id=body.parent_run_id,
        origin_alert_id=body.origin_alert_id,
        chat_session_id=body.chat_session_id or (sweep.chat_session_id if sweep else None),
        depends_on=[parent.id for parent in parents],
        created_by=actor,
        created_at=time.time(),
        run_dir=checks.run_dir(run_id),
        avoid_gpus=[],
        **admitted,
        **draft.terms.columns,
    )
    session.add(run)
    session.add_all(Dependency(run_id=run.id, parent_id=parent.id) for parent in parents)
    record(session, actor, "run.created", f"run:{run.id}", run.name, None, _outline(run))
    if body.auto_start:
        move(session, run, Move(RunStatus.QUEUED), actor)
    return run


def _outline(run: Run) -> dict[str, Any]:
    names = ("name", "command", "workdir", "status", "sweep_id", "plan_id", "executor", "resources", "priority")
    return {name: getattr(run, name) for name in names}


def references(session: Session, body: RunCreate) -> tuple[Sweep | None, Plan | None, list[Run]]:
    """The sweep, the plan and the parents that a run names. Raises NotFound, or Conflict for a parent that failed."""
    sweep = _reference(session, Sweep, "sweep", body.sweep_id)
    plan = _reference(session, Plan, "plan", body.plan_id)
    _reference(session, Run, "run", body.parent_run_id)
    _reference(session, Alert, "alert", body.origin_alert_id)
    return sweep, plan, _parents(session, body.depends_on)


def preview(session: Session, draft: Draft, identity: Identity) -> Run:
    """What ``create`` would make, for ``dry_run``: nothing is stored. Raises what ``create`` would."""
    body = draft.body
    _, plan, _ = references(session, body)
    plan = plan or plan_of(session, identity, None, body.sweep_id)
    admission = Admission(session, identity)
    columns = admission.admit(plan, draft) | draft.terms.columns
    admission.settle()
    plan_id = plan.id if plan else None
    return Run(id="", name=body.name, command=body.command, workdir=draft.workdir, plan_id=plan_id, **columns)


def _reference(session: Session, table: type[Row], kind: str, row_id: str | None) -> Row | None:
    if row_id is None:
        return None
    found = session.exec(select(table).where(col(table.id) == row_id)).first()
    if found is None:
        raise NotFound(kind, row_id)
    return found


def _parents(session: Session, parent_ids: Iterable[str]) -> list[Run]:
    parents = [get(session, parent_id) for parent_id in dict.fromkeys(parent_ids)]
    for parent in parents:
        if parent.status in {RunStatus.FAILED, RunStatus.STOPPED}:
            raise Conflict(f"Run {parent.id} has {parent.status}: what depends on it could never run.")
    return parents


def update(session: Session, run_id: str, fields: dict[str, Any], identity: Identity) -> Run:
    """Changes name, command or workdir (``RunChecks.changes``); what is executing keeps its command."""
    run = get(session, run_id)
    check_own(session, run, identity)
    if {"command", "workdir"} & set(fields) and (RunStatus(run.status) in LIVE or run.submission_id):
        raise Conflict(f"Run {run.id} is {run.status}: its command and workdir cannot change now.")
    if {"command", "workdir"} & set(fields) and RunStatus(run.status).terminal:
        raise Conflict(f"Run {run.id} has {run.status}: rerun it with another command instead.")
    if {"command", "workdir"} & set(fields):
        fields = Admission(session, identity).change(run, fields)
    change(session, run, identity.actor, "run.updated", f"run:{run.id}", fields)
    return run


def check_own(session: Session, run: Run, identity: Identity) -> None:
    """Raises Forbidden for who needs a plan, where neither the run nor its plan is its own."""
    if not identity.require_plan or run.created_by == identity.actor:
        return
    plan = _reference(session, Plan, "plan", run.plan_id)
    if plan is None or identity.actor not in {plan.created_by, plan.executed_by}:
        identity.check_own(f"Run {run.id}", run.created_by)


def rerun_draft(checks: RunChecks, run: Run, body: RunRerun) -> Draft:
    """A new run like an old one, with what the body says otherwise."""
    wrap = body.gpuwrap_config.model_dump() if body.gpuwrap_config else run.gpuwrap_config
    again = RunCreate.model_validate(
        {
            "name": run.name if run.name.endswith(" (Rerun)") else f"{run.name[:490]} (Rerun)",
            "command": body.command or run.command,
            "workdir": run.workdir,
            "sweep_id": run.sweep_id,
            "plan_id": run.plan_id,
            "parent_run_id": run.id,
            "executor": run.executor,
            "environment": run.environment,
            "retry": run.retry,
            "signal": run.signal_before_end,
            "launch": run.launch,
            "container": run.container,
            "snapshot": run.snapshot is not None,
            "origin_alert_id": body.origin_alert_id,
            "chat_session_id": run.chat_session_id,
            "auto_start": body.auto_start,
            "resources": body.resources.model_dump(exclude_none=True) if body.resources else run.resources,
            "env": run.env,
            "tags": run.tags,
            "priority": run.priority,
            "gpuwrap_config": wrap,
            "sweep_params": None if body.command else run.sweep_params,
        }
    )
    return checks.draft(again)


def archive(session: Session, run_id: str, identity: Identity, *, archived: bool) -> Run:
    """Hides a run from lists, or shows it again."""
    run = get(session, run_id)
    check_own(session, run, identity)
    if archived and (RunStatus(run.status) in LIVE or run.status == RunStatus.QUEUED):
        raise BadTransition(f"Run {run.id} is {run.status}; stop it before you archive it.")
    kind = "run.archived" if archived else "run.unarchived"
    fields = {"is_archived": archived} | (dismissed(run) if archived else {})
    change(session, run, identity.actor, kind, f"run:{run.id}", fields)
    return run


def report(session: Session, run_id: str, body: RunReport, actor: Actor) -> Run:
    """What a job-side helper says of a run: kept as evidence, weighed by ``decide``, never written as the status."""
    run = get(session, run_id)
    told = body.model_dump(exclude_none=True, exclude={"wandb_dir"}) | {"at": time.time()}
    fields: dict[str, Any] = {"reported": told}
    if body.wandb_dir is not None:
        fields["wandb_dir"] = body.wandb_dir
    change(session, run, actor, "run.reported", f"run:{run.id}", fields, f"A helper reports {body.status}.")
    return run


def add_to_sweep(session: Session, run_id: str, sweep_id: str, identity: Identity) -> Run:
    """Puts a run into a sweep, out of the one it was in. Without a plan of its own it becomes one of the sweep's, as if
    it were made under that. Raises Forbidden where who needs a plan would mix two."""
    run, actor = get(session, run_id), identity.actor
    sweep = _reference(session, Sweep, "sweep", sweep_id)
    fields: dict[str, Any] = {"sweep_id": sweep_id}
    plan_id = sweep.plan_id if sweep is not None else None
    if identity.require_plan and run.plan_id is not None and run.plan_id != plan_id:
        raise Forbidden(f"Run {run.id} is of plan {run.plan_id}, and sweep {sweep_id} is not.")
    if run.plan_id is None and plan_id is not None:
        Admission(session, identity).adopt(run, _reference(session, Plan, "plan", plan_id))
        fields["plan_id"] = plan_id
    change(session, run, actor, "run.added_to_sweep", f"run:{run.id}", fields)
    return run
