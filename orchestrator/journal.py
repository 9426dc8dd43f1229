"""The journal: every change of anything, with its event, in one transaction.

``move`` is the only writer of a run's status.
"""

import time
from typing import Any, NewType

from sqlmodel import Session, SQLModel

from orchestrator.errors import BadTransition
from orchestrator.models import Event, Run
from orchestrator.states import Move, RunStatus, can_move

Actor = NewType("Actor", str)
SERVICE = Actor("service")

GROWING = frozenset({"history"})
_STAMPS = {
    RunStatus.QUEUED: "queued_at",
    RunStatus.LAUNCHING: "launched_at",
    RunStatus.RUNNING: "started_at",
    RunStatus.FINISHED: "ended_at",
    RunStatus.FAILED: "ended_at",
    RunStatus.STOPPED: "ended_at",
}


def record(
    session: Session,
    actor: Actor,
    kind: str,
    subject: str,
    message: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> Event:
    """Appends one event. ``subject`` is "run:ID", "sweep:ID", "plan:ID", "alert:ID" or "cluster"."""
    event = Event(at=time.time(), actor=actor, kind=kind, subject=subject, message=message, before=before, after=after)
    session.add(event)
    return event


def change(
    session: Session,
    row: SQLModel,
    actor: Actor,
    kind: str,
    subject: str,
    fields: dict[str, Any],
    message: str = "",
) -> bool:
    """Sets ``fields`` of ``row`` and records those that changed; False when none did."""
    before = {name: getattr(row, name) for name in fields}
    changed = {name: value for name, value in fields.items() if before[name] != value}
    if not changed:
        return False
    for name, value in changed.items():
        setattr(row, name, value)
    session.add(row)
    told = {name: before[name] for name in changed if name not in GROWING}
    record(session, actor, kind, subject, message, told, {name: _news(name, value) for name, value in changed.items()})
    return True


def _news(name: str, value: Any) -> Any:
    """What an event tells of a field: of one that only grows, what has come."""
    return value[-1:] if name in GROWING else value


def move(session: Session, run: Run, move: Move, actor: Actor = SERVICE, message: str = "") -> None:
    """Makes a move of a run: status, reason and what comes with it, stamped, with its event.

    Raises BadTransition where ``move.status`` cannot follow the present one.
    """
    before = RunStatus(run.status)
    if before is not move.status and not can_move(before, move.status):
        raise BadTransition(f"Run {run.id} is {before}; it cannot become {move.status}.")
    fields: dict[str, Any] = {
        "status": str(move.status),
        "reason": move.reason and str(move.reason),
        **move.fields,
    }
    if before is not move.status:
        stamp = _STAMPS[move.status]
        if move.status is not RunStatus.QUEUED or run.queued_at is None:  # a requeued run keeps its place
            fields.setdefault(stamp, time.time())
        if move.status.terminal:
            fields["error"] = move.error
        if move.status is RunStatus.STOPPED:
            fields["stopped_at"] = fields["ended_at"]
    began, launched = fields.get("started_at"), fields.get("launched_at", run.launched_at)
    if began is not None and (launched is None or launched > began):  # it was seen later than it was
        fields["launched_at"] = began
    change(session, run, actor, f"run.{move.status}", f"run:{run.id}", fields, message or move.error or "")
