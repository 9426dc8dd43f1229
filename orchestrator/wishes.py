"""What somebody wishes of a run that is there: started, stopped, held, released, begun again, sooner or later.

Recorded here, each with its event; carried out by the loop. Functions of a session.
"""

import time
from typing import Any

from sqlmodel import Session

from orchestrator import runs
from orchestrator.access import Identity
from orchestrator.admission import Admission
from orchestrator.errors import BadTransition
from orchestrator.journal import Actor, change, move
from orchestrator.models import Run
from orchestrator.states import LIVE, Move, Reason, RunStatus
from orchestrator.terms import rekeyed


def queue(session: Session, run_id: str, identity: Identity, *, allow_queued: bool) -> Run:
    """ready → queued. ``allow_queued``: a queued run is fine as it is (/start)."""
    run = runs.get(session, run_id)
    if allow_queued and run.status == RunStatus.QUEUED:
        return run
    if run.is_archived:
        raise BadTransition(f"Run {run.id} is archived: unarchive it first.")
    if run.status != RunStatus.READY:
        raise BadTransition(f"Run {run.id} is {run.status}; only a ready run can be queued.")
    Admission(session, identity).start(run)
    move(session, run, Move(RunStatus.QUEUED), identity.actor)
    return run


def stop(session: Session, run_id: str, identity: Identity) -> Run:
    """Somebody wants it to stop. Raises BadTransition for one that does not wait or execute."""
    run = runs.get(session, run_id)
    runs.check_own(session, run, identity)
    return end(session, run, identity.actor)


def end(session: Session, run: Run, actor: Actor, why: str = "") -> Run:
    """A recorded wish: what has not been handed over stops at once, the rest when its executor has done it."""
    status = RunStatus(run.status)
    if status is not RunStatus.QUEUED and status not in LIVE:
        raise BadTransition(f"Run {run.id} is {status}; only a queued, launching or running run can be stopped.")
    if status is RunStatus.QUEUED and run.submission_id is None:
        move(session, run, Move(RunStatus.STOPPED, Reason.CANCELLED), actor, why or "Stopped before it was started.")
    elif run.stop_requested_at is None:
        fields = {"stop_requested_at": time.time(), "reason": str(Reason.STOPPING)}
        change(session, run, actor, "run.stop_requested", f"run:{run.id}", fields, why)
    return run


def hold(session: Session, run_id: str, identity: Identity) -> Run:
    """Keeps a run from starting until it is released; in Slurm's queue too. Raises BadTransition once it has begun."""
    run, actor = runs.get(session, run_id), identity.actor
    runs.check_own(session, run, identity)
    if RunStatus(run.status) not in {RunStatus.READY, RunStatus.QUEUED}:
        raise BadTransition(f"Run {run.id} is {run.status}; only a run that has not begun can be held.")
    fields = {"held": True, "wishes": _wishes(run, "hold", without="release")}
    change(session, run, actor, "run.held", f"run:{run.id}", fields)
    return run


def release(session: Session, run_id: str, identity: Identity) -> Run:
    """Lets a held run start: by us, or by anybody in Slurm. Raises BadTransition for one that does not wait."""
    run, actor = runs.get(session, run_id), identity.actor
    if RunStatus(run.status) not in {RunStatus.READY, RunStatus.QUEUED}:
        raise BadTransition(f"Run {run.id} is {run.status}; only a run that has not begun can be released.")
    Admission(session, identity).start(run)
    wishes = _wishes(run, "release", without="hold")
    if "release" in wishes and run.priority < 0:
        wishes["priority"] = time.time()  # Slurm has been seen to forget the niceness of what it releases
    fields = {"held": False, "wishes": wishes}
    change(session, run, actor, "run.released", f"run:{run.id}", fields)
    return run


def requeue(session: Session, run_id: str, identity: Identity) -> Run:
    """Begins a launching or running run again, from its place in the queue. Raises BadTransition for any other; who
    needs a plan may do so as often as it has the run tried again (``retry.max``)."""
    run, actor = runs.get(session, run_id), identity.actor
    if RunStatus(run.status) not in LIVE:
        raise BadTransition(f"Run {run.id} is {run.status}; only a launching or running run can be requeued.")
    if run.stop_requested_at is not None:
        raise BadTransition(f"Run {run.id} is being stopped.")
    admission = Admission(session, identity)
    admission.term(admission.of(run), "retry.max", max(1, run.attempt), run)
    wishes = run.wishes | {"requeue": time.time()}
    change(session, run, actor, "run.requeue_requested", f"run:{run.id}", {"wishes": wishes})
    return run


def prioritise(session: Session, run_id: str, priority: int, identity: Identity) -> Run:
    """Another priority for a run that has not begun; in Slurm below zero is niceness, which is all a user may set."""
    run, actor = runs.get(session, run_id), identity.actor
    if RunStatus(run.status) not in {RunStatus.READY, RunStatus.QUEUED}:
        raise BadTransition(f"Run {run.id} is {run.status}; its priority decides nothing any more.")
    admission = Admission(session, identity)
    admission.term(admission.of(run), "priority", priority, run)
    fields = rekeyed(run, {"priority": priority, "wishes": _wishes(run, "priority")})
    change(session, run, actor, "run.prioritised", f"run:{run.id}", fields)
    return run


def _wishes(run: Run, wish: str, without: str = "") -> dict[str, Any]:
    """What is wished of the run's job, where it has one; a run that waits here needs no wish."""
    kept = {name: at for name, at in run.wishes.items() if name not in {wish, without}}
    submitted_held = wish == "release" and bool((run.resources.get("slurm") or {}).get("hold"))
    return kept | {wish: time.time()} if run.submission_id is not None or submitted_held else kept
