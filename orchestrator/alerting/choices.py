"""What is chosen for an alert, and done: once. Choices of a rule's alert do something, those of others are words."""

import time
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session, col, select

from orchestrator import runs, wishes
from orchestrator.access import Identity
from orchestrator.alerting import alerts
from orchestrator.alerting.rules import AGAIN, RERUN, STOP
from orchestrator.drafts import Draft, RunChecks
from orchestrator.errors import BadInput, Conflict
from orchestrator.models import Alert, Run
from orchestrator.shapes import RunRerun

LEFT = 'The alert still waits; "ignore" ends it.'


def to_repeat(session: Session, alert_id: str, choice: str) -> tuple[list[Run], dict[str, Any]]:
    """The runs that the choice runs again, and with what: none where it does something else."""
    alert = alerts.get(session, alert_id)
    body = (alert.proposal or AGAIN) | {"origin_alert_id": alert.id}
    if not alert.rule or choice != RERUN or choice not in alert.choices or alert.status != "pending":
        return [], body
    return _not_repeated(session, alerts.standing(session, alert)), body


def drafts(checks: RunChecks, found: list[Run], body: dict[str, Any]) -> dict[str, Draft]:
    """The new runs by the ids of those ``to_repeat``: checked outside the writer, and without a session.

    Raises Conflict for one that cannot be made any more.
    """
    return {run.id: _draft(checks, run, body) for run in found}


def _draft(checks: RunChecks, run: Run, body: dict[str, Any]) -> Draft:
    """A proposal was right when it was stored, and may be so no more: by another version, or on another machine."""
    try:
        return runs.rerun_draft(checks, run, RunRerun.model_validate(body))
    except BadInput as error:
        raise _impossible(f"Run {run.id}", error.field, error.message) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _impossible(f"Run {run.id}", ".".join(map(str, first["loc"])), first["msg"]) from error


def _impossible(what: str, field: str, words: str) -> Conflict:
    return Conflict(f"{what} cannot be run again: {field}: {words} {LEFT}")


def _not_repeated(session: Session, found: list[Run]) -> list[Run]:
    """Without those that somebody has run again."""
    repeated: set[str | None] = set()
    for start in range(0, len(found), runs.AT_ONCE):
        part = [run.id for run in found[start : start + runs.AT_ONCE]]
        repeated |= set(session.exec(select(Run.parent_run_id).where(col(Run.parent_run_id).in_(part))))
    return [run for run in found if run.id not in repeated]


def respond(
    session: Session, checks: RunChecks, alert_id: str, choice: str, made: dict[str, Draft], identity: Identity
) -> Alert:
    """Records the choice, once, and carries it out. ``made``: the choice's ``drafts``.

    Raises BadInput for one that was not offered, Conflict for one that can no longer be carried out.
    """
    alert = alerts.get(session, alert_id)
    if choice not in alert.choices:
        raise BadInput("choice", f"{choice!r} was not offered.", alert.choices)
    if alert.status != "pending":
        said = "what it told of is over" if alert.response is None else repr(alert.response)
        raise Conflict(f"Alert {alert.id} has been answered already: {said}.")
    fields: dict[str, Any] = {"response": choice, "responded_at": time.time()}
    if alert.rule and choice in {STOP, RERUN}:
        fields["outcome"] = _carry_out(session, checks, alert, choice, made, identity)
    alerts.answer(session, alert, fields, identity.actor)
    return alert


def _carry_out(
    session: Session, checks: RunChecks, alert: Alert, choice: str, made: dict[str, Draft], identity: Identity
) -> dict[str, Any]:
    """Stops the runs, or runs them again; of one that only waits, the new run takes its place."""
    found = alerts.standing(session, alert)
    if not found:
        raise Conflict(f"It is too late to {choice}: {_now(session, alert)} {LEFT}")
    outcome: dict[str, Any] = {}
    if choice == RERUN:
        outcome = _again(session, checks, found, made, identity)
    if choice == STOP or alert.rule == "pending":
        outcome["stopped"] = [wishes.stop(session, run.id, identity).id for run in found]
    return outcome


def _now(session: Session, alert: Alert) -> str:
    """What has become of the (first) run."""
    run = runs.get(session, alert.run_id or "")
    return f"run {run.id} is {run.status} (attempt {run.attempt})."


def _again(
    session: Session, checks: RunChecks, found: list[Run], made: dict[str, Draft], identity: Identity
) -> dict[str, Any]:
    wanted = _not_repeated(session, found)
    if not wanted:
        raise Conflict(f"What the alert tells of has been run again already. {LEFT}")
    if not {run.id for run in wanted} <= made.keys():
        raise Conflict("The alert has come to tell of more runs just now: look at it, then answer again.")
    try:  # all together: a refusal tells all that its plan does not allow
        new = [run.id for run in runs.create_many(session, checks, (made[run.id] for run in wanted), identity)]
    except BadInput as error:
        raise _impossible(", ".join(run.id for run in wanted[:5]), error.field, error.message) from error
    return {"run_id": new[0]} if len(found) == 1 else {"run_id": new[0], "run_ids": new}
