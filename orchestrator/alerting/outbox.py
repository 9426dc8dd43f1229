"""The outbox: word of alerts, stored with them, until each target has it. Functions of a session."""

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from orchestrator.journal import SERVICE, record
from orchestrator.models import Alert, OutboxMessage, Run

SEVERITIES = ("info", "warning", "critical")
FIRST_WAIT, LONGEST_WAIT = 10.0, 3600.0  # seconds between two tries: doubled each time
PATIENCE = 86_400.0  # after so long it is given up
AT_ONCE = 50


@dataclass(frozen=True)
class Recipients:
    """Who is told of alerts that are at least this severe: the channels of the targets that are configured."""

    channels: tuple[str, ...] = ()
    severity: str = "warning"
    server: str = ""

    def want(self, severity: str) -> bool:
        """Whether an alert goes out."""
        return SEVERITIES.index(severity) >= SEVERITIES.index(self.severity)


def add(session: Session, alert: Alert, shown: dict[str, Any], run: Run | None) -> None:
    """A message for each target, in the transaction that makes the alert. ``shown``: the alert as the wire shows it."""
    recipients: Recipients = session.info.get(Recipients, Recipients())
    if not recipients.want(alert.severity):
        return
    for channel in recipients.channels:
        message_id, now = secrets.token_hex(8), time.time()
        payload = {
            "id": message_id,
            "kind": "alert",
            "at": now,
            "alert": shown,
            "run": None if run is None else {"id": run.id, "name": run.name, "status": run.status},
            "plan_id": alert.plan_id,
            "server": recipients.server,
        }
        session.add(
            OutboxMessage(
                id=message_id, alert_id=alert.id, channel=channel, payload=payload, created_at=now, next_at=now
            )
        )


def due(session: Session, now: float, resting: Collection[str] = ()) -> list[OutboxMessage]:
    """What is to be sent now, oldest first; nothing to the channels that rest."""
    query = select(OutboxMessage).where(col(OutboxMessage.next_at) <= now)
    if resting:
        query = query.where(col(OutboxMessage.channel).not_in(resting))
    return list(session.exec(query.order_by(col(OutboxMessage.seq)).limit(AT_ONCE)))


def next_at(session: Session, resting: Collection[str] = ()) -> float | None:
    """When the next message is due (epoch seconds), but for the channels that rest; None where none waits."""
    query = select(OutboxMessage.next_at).where(col(OutboxMessage.next_at).is_not(None))
    if resting:
        query = query.where(col(OutboxMessage.channel).not_in(resting))
    return session.exec(query.order_by(col(OutboxMessage.next_at)).limit(1)).first()


def delivered(session: Session, message_id: str, now: float) -> None:
    """The target has it."""
    message = _get(session, message_id)
    if message is None:
        return
    message.attempts += 1
    message.delivered_at, message.next_at, message.error = now, None, None
    session.add(message)
    record(session, SERVICE, "alert.told", f"alert:{message.alert_id}", f"Sent to {message.channel}.")


def failed(session: Session, message_id: str, error: str, now: float, *, final: bool = False) -> float | None:
    """The target has not taken it: tried again, ever more seldom, unless that is of no use. When; None for never."""
    message = _get(session, message_id)
    if message is None:
        return None
    message.attempts += 1
    message.error = error
    over = final or now - message.created_at >= PATIENCE
    message.next_at = None if over else now + min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(message.attempts - 1, 20))
    session.add(message)
    subject, words = f"alert:{message.alert_id}", f"{message.channel} has not taken word of it: {error}"
    if over:
        tries = f"Given up after {message.attempts} attempt(s)."
        record(session, SERVICE, "alert.not_told", subject, f"{words} {tries}")
    elif message.attempts == 1:
        record(session, SERVICE, "alert.telling_again", subject, f"{words} It is tried again, for a day.")
    return message.next_at


def _get(session: Session, message_id: str) -> OutboxMessage | None:
    """The message, while it waits: one that another has settled stays as it is."""
    waiting = col(OutboxMessage.next_at).is_not(None)
    return session.exec(select(OutboxMessage).where(col(OutboxMessage.id) == message_id, waiting)).first()
