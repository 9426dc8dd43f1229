"""Sweeps."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlmodel import Session

from api.answers import Json, page
from api.deps import Before, Limit, OnceOnly, Sys, Whose
from api.routes.runs import make_run, of_plan
from orchestrator import runs, sweeps, wishes
from orchestrator.models import Run
from orchestrator.shapes import LARGEST, Priority, RunCreate, RunRerun, SweepCreate, SweepUpdate, SweepWild
from orchestrator.states import LIVE, RunStatus
from orchestrator.wiring import System

NOT_BEGUN = (RunStatus.READY, RunStatus.QUEUED)

router = APIRouter(tags=["sweeps"])
SCOPE = "run"


@router.post("/sweeps/wild")
def wild(identity: Whose, body: SweepWild, once: OnceOnly) -> Json:
    """An empty tracking sweep."""
    return once(lambda session: sweeps.public(session, [sweeps.create_wild(session, body, identity)])[0])


@router.post("/sweeps")
def create(system: Sys, identity: Whose, body: SweepCreate, once: OnceOnly) -> Json:
    """A sweep with one run per configuration of its grid."""
    whole = of_plan(system, identity, body, body.plan_id, None)
    draft = sweeps.draft(system.checks, whole, system.settings.max_sweep_runs)
    return once(lambda session: sweeps.public(session, [sweeps.create(session, system.checks, draft, identity)])[0])


@router.get("/sweeps")
def listing(
    request: Request, system: Sys, limit: Limit = 100, before: Before = None, plan_id: str | None = None
) -> Json:
    """Sweeps, newest first."""
    with system.db.read() as session:
        found = sweeps.listing(session, limit, before, plan_id)
        return page(request, sweeps.public(session, found), limit, found[-1].seq if found else None)


@router.get("/sweeps/{sweep_id}")
def show(system: Sys, sweep_id: str) -> Json:
    """One sweep with its progress."""
    with system.db.read() as session:
        return Json(sweeps.detail(session, sweep_id))


@router.put("/sweeps/{sweep_id}")
def update(system: Sys, identity: Whose, sweep_id: str, body: SweepUpdate) -> Json:
    """Changes a sweep; its grid only while it has no runs."""
    limit = system.settings.max_sweep_runs
    if body.base_command is not None:
        system.checks.command(body.base_command, "base_command")
    if body.workdir is not None:
        body = body.model_copy(update={"workdir": system.checks.workdir(body.workdir)})
    with system.db.read() as session:
        drafts = sweeps.runs_of_draft(system.checks, sweeps.get(session, sweep_id), body, limit)
    system.db.write(lambda session: sweeps.update(session, system.checks, sweep_id, body, limit, drafts, identity))
    return show(system, sweep_id)


@router.post("/sweeps/{sweep_id}/start")
def start(
    system: Sys, identity: Whose, sweep_id: str, parallel: Annotated[int | None, Query(ge=1, le=LARGEST)] = None
) -> Json:
    """Queues every ready run; ``parallel`` of them are kept going until all are done."""
    count = system.db.write(lambda session: sweeps.start(session, sweep_id, parallel, identity))
    return Json({"message": f"{count} run(s) queued", "sweep_id": sweep_id, "queued": count})


@router.post("/sweeps/{sweep_id}/stop")
def stop(system: Sys, identity: Whose, sweep_id: str) -> Json:
    """Asks every run of the sweep that is not over to stop."""
    count = system.db.write(lambda session: sweeps.stop(session, sweep_id, identity))
    return Json({"message": f"{count} run(s) asked to stop", "sweep_id": sweep_id, "stopping": count})


@router.post("/sweeps/{sweep_id}/hold")
def hold(system: Sys, identity: Whose, sweep_id: str) -> Json:
    """Keeps every run of the sweep that has not begun from starting."""
    return _each(system, sweep_id, NOT_BEGUN, lambda session, run_id: wishes.hold(session, run_id, identity))


@router.post("/sweeps/{sweep_id}/release")
def release(system: Sys, identity: Whose, sweep_id: str) -> Json:
    """Lets the held runs of the sweep start."""
    return _each(system, sweep_id, NOT_BEGUN, lambda session, run_id: wishes.release(session, run_id, identity))


@router.post("/sweeps/{sweep_id}/requeue")
def requeue(system: Sys, identity: Whose, sweep_id: str) -> Json:
    """Begins every launching or running run of the sweep again."""
    return _each(system, sweep_id, LIVE, lambda session, run_id: wishes.requeue(session, run_id, identity))


@router.post("/sweeps/{sweep_id}/priority")
def prioritise(system: Sys, identity: Whose, sweep_id: str, body: Priority) -> Json:
    """Another priority for every run of the sweep that has not begun."""

    def act(session: Session, run_id: str) -> Run:
        return wishes.prioritise(session, run_id, body.priority, identity)

    return _each(system, sweep_id, NOT_BEGUN, act)


def _each(system: System, sweep_id: str, statuses: Iterable[RunStatus], act: Callable[[Session, str], Run]) -> Json:
    count = system.db.write(lambda session: sweeps.each(session, sweep_id, statuses, act))
    return Json({"message": f"{count} run(s) changed", "sweep_id": sweep_id, "changed": count})


@router.post("/sweeps/{sweep_id}/rerun-failed")
def rerun_failed(system: Sys, identity: Whose, sweep_id: str, once: OnceOnly, body: RunRerun | None = None) -> Json:
    """A new run for each failed or stopped one that nobody has run again."""
    with system.db.read() as session:
        failed = sweeps.failed_runs(session, sweep_id)
    again = body or RunRerun(auto_start=True)
    drafts = [runs.rerun_draft(system.checks, run, again) for run in failed]

    def create(session: Session) -> list[dict[str, Any]]:
        still = {run.id for run in sweeps.failed_runs(session, sweep_id)}  # another may have done it meanwhile
        wanted = [draft for draft in drafts if draft.body.parent_run_id in still]
        return [runs.public(run) for run in runs.create_many(session, system.checks, wanted, identity)]

    return once(create)


@router.post("/sweeps/{sweep_id}/runs")
def add_run(system: Sys, identity: Whose, sweep_id: str, body: RunCreate, once: OnceOnly) -> Json:
    """Makes a run in this sweep."""
    return make_run(system, identity, body.model_copy(update={"sweep_id": sweep_id}), once)
