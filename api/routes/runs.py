"""Runs: made, listed, changed, moved."""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from sqlmodel import Session

from api.answers import Json, page
from api.deps import Before, Limit, Once, OnceOnly, Sys, Who, Whose
from orchestrator import runs, wishes
from orchestrator.access import Identity
from orchestrator.admission import filled
from orchestrator.drafts import Draft
from orchestrator.errors import BadInput, OutsidePlan
from orchestrator.models import Run
from orchestrator.preview import shown
from orchestrator.shapes import Priority, RunCreate, RunReport, RunRerun, RunsCreate, RunTerms, RunUpdate
from orchestrator.states import RunStatus
from orchestrator.wiring import System

router = APIRouter(tags=["runs"])
SCOPE = "run"
Body = TypeVar("Body", bound=RunTerms)


def acted(message: str, run: Run) -> dict[str, object]:
    """The answer to an action: what was done, and the run as it is now."""
    return {"message": message, **runs.public(run)}


@router.post("/runs")
def create(system: Sys, identity: Whose, body: RunCreate, once: OnceOnly) -> Json:
    """Makes a run; with ``auto_start`` it is queued at once."""
    return make_run(system, identity, body, once)


def make_run(system: System, identity: Identity, body: RunCreate, once: Once) -> Json:
    """Makes a run, or shows what it would be."""
    draft = _draft(system, identity, body)
    if body.dry_run:
        with system.db.read() as session:
            would = _previewed(session, draft, identity)
        return Json(runs.public(would) | {"id": None, "run_dir": None, "dry_run": True} | shown(system, would))
    return once(lambda session: runs.public(runs.create(session, system.checks, draft, identity)))


def _previewed(session: Session, draft: Draft, identity: Identity) -> Run:
    """What would be made. What is only looked at is not kept as something that a person could allow."""
    try:
        return runs.preview(session, draft, identity)
    except OutsidePlan as error:
        error.asked_for = False
        raise


def _draft(system: System, identity: Identity, body: RunCreate) -> Draft:
    """The run, checked; what it leaves out is its plan's."""
    return system.checks.draft(of_plan(system, identity, body, body.plan_id, body.sweep_id))


def of_plan(system: System, identity: Identity, body: Body, plan_id: str | None, sweep_id: str | None) -> Body:
    """The body with what it leaves out taken from its plan, where it has one."""
    if plan_id is None and sweep_id is None and not identity.require_plan:
        return body
    with system.db.read() as session:
        return filled(session, identity, body, plan_id, sweep_id)


@router.post("/runs/bulk")
def create_many(system: Sys, identity: Whose, body: RunsCreate, once: OnceOnly) -> Json:
    """Makes many runs in one go: all of them, or none."""
    for number, wanted in enumerate(body.runs):
        if wanted.dry_run:
            raise BadInput(f"runs.{number}.dry_run", "is of POST /runs alone: here nothing can be previewed.")
    drafts = [_draft(system, identity, wanted) for wanted in body.runs]

    def write(session: Session) -> list[dict[str, Any]]:
        return [runs.public(run) for run in runs.create_many(session, system.checks, drafts, identity)]

    return once(write)


@router.get("/runs")
def listing(
    request: Request,
    system: Sys,
    archived: bool = False,
    limit: Limit = 100,
    before: Before = None,
    status: Annotated[list[RunStatus] | None, Query()] = None,
    sweep_id: str | None = None,
    plan_id: str | None = None,
    tag: str | None = None,
) -> Json:
    """Runs, newest first."""
    wanted = runs.Filter(archived, [str(s) for s in status or ()], sweep_id, plan_id, tag, before, limit)
    with system.db.read() as session:
        found, cursor = runs.listing(session, wanted)
    return page(request, [runs.live(run, system.slurm.shown) for run in found], limit, cursor)


@router.get("/runs/{run_id}")
def show(system: Sys, run_id: str) -> Json:
    """One run, with its metrics once there are any."""
    with system.db.read() as session:
        return Json(runs.live(runs.detail(session, run_id), system.slurm.shown))


@router.put("/runs/{run_id}")
def update(system: Sys, identity: Whose, run_id: str, body: RunUpdate) -> Json:
    """Changes name, command, workdir."""
    fields = system.checks.changes(body)
    return Json(system.db.write(lambda session: runs.public(runs.update(session, run_id, fields, identity))))


@router.post("/runs/{run_id}/queue")
def queue(system: Sys, identity: Whose, run_id: str) -> Json:
    """ready → queued."""
    found = system.db.write(lambda session: wishes.queue(session, run_id, identity, allow_queued=False))
    return Json(acted("Run queued", found))


@router.post("/runs/{run_id}/start")
def start(system: Sys, identity: Whose, run_id: str) -> Json:
    """ready or queued → starts as soon as there is room."""
    found = system.db.write(lambda session: wishes.queue(session, run_id, identity, allow_queued=True))
    return Json(acted("Run started", found))


@router.post("/runs/{run_id}/stop")
def stop(system: Sys, identity: Whose, run_id: str) -> Json:
    """Asks a run to end: TERM, a grace, KILL, for its whole process tree."""
    found = system.db.write(lambda session: wishes.stop(session, run_id, identity))
    message = "Run stopped" if RunStatus(found.status).terminal else "Run is being stopped"
    return Json(acted(message, found))


@router.post("/runs/{run_id}/hold")
def hold(system: Sys, identity: Whose, run_id: str) -> Json:
    """Keeps a run from starting."""
    return Json(acted("Run held", system.db.write(lambda session: wishes.hold(session, run_id, identity))))


@router.post("/runs/{run_id}/release")
def release(system: Sys, identity: Whose, run_id: str) -> Json:
    """Lets a held run start."""
    return Json(acted("Run released", system.db.write(lambda session: wishes.release(session, run_id, identity))))


@router.post("/runs/{run_id}/requeue")
def requeue(system: Sys, identity: Whose, run_id: str) -> Json:
    """Begins a running run again as its next attempt."""
    found = system.db.write(lambda session: wishes.requeue(session, run_id, identity))
    return Json(acted("Run is being requeued", found))


@router.post("/runs/{run_id}/priority")
def prioritise(system: Sys, identity: Whose, run_id: str, body: Priority) -> Json:
    """Another priority for a run that waits."""
    found = system.db.write(lambda session: wishes.prioritise(session, run_id, body.priority, identity))
    return Json(acted("Priority changed", found))


@router.post("/runs/{run_id}/rerun")
def rerun(system: Sys, identity: Whose, run_id: str, once: OnceOnly, body: RunRerun | None = None) -> Json:
    """A new run like this one."""
    with system.db.read() as session:
        source = runs.get(session, run_id)
    draft = runs.rerun_draft(system.checks, source, body or RunRerun())
    return once(lambda session: runs.public(runs.create(session, system.checks, draft, identity)))


@router.post("/runs/{run_id}/archive")
def archive(system: Sys, identity: Whose, run_id: str) -> Json:
    """Hides a run from lists."""
    found = system.db.write(lambda session: runs.archive(session, run_id, identity, archived=True))
    return Json({"message": "Run archived", "run": runs.public(found)})


@router.post("/runs/{run_id}/unarchive")
def unarchive(system: Sys, identity: Whose, run_id: str) -> Json:
    """Shows it again."""
    found = system.db.write(lambda session: runs.archive(session, run_id, identity, archived=False))
    return Json({"message": "Run unarchived", "run": runs.public(found)})


@router.post("/runs/{run_id}/status")
def report(system: Sys, actor: Who, run_id: str, body: RunReport) -> Json:
    """What a job-side helper says: evidence, weighed with the rest."""
    found = system.db.write(lambda session: runs.report(session, run_id, body, actor))
    return Json(acted("Status noted as evidence", found))


@router.post("/runs/{run_id}/add-to-sweep")
def add_to_sweep(system: Sys, identity: Whose, run_id: str, sweep_id: str) -> Json:
    """Puts a run into a sweep."""
    found = system.db.write(lambda session: runs.add_to_sweep(session, run_id, sweep_id, identity))
    return Json(acted(f"Run {run_id} added to sweep {sweep_id}", found))
