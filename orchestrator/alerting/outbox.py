"""The outbox: word of alerts, stored with them. A row is there while its message waits. Functions of a session."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, func, select

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


def channels(session: Session) -> list[str]:
    """For whom messages wait."""
    return list(session.exec(select(OutboxMessage.channel).distinct()))


def waiting(session: Session) -> bool:
    """Whether any message waits."""
    return session.exec(select(OutboxMessage.seq).limit(1)).first() is not None


def due(session: Session, now: float, channel: str) -> list[OutboxMessage]:
    """What is to be sent to one channel now. What was not taken comes after what has not been tried yet."""
    waiting = select(OutboxMessage).where(col(OutboxMessage.channel) == channel, col(OutboxMessage.next_at) <= now)
    return list(session.exec(waiting.order_by(col(OutboxMessage.next_at), col(OutboxMessage.seq)).limit(AT_ONCE)))


def next_at(session: Session, channel: str) -> float | None:
    """When a channel's next message is due (epoch seconds); None where none waits."""
    return session.exec(select(func.min(OutboxMessage.next_at)).where(col(OutboxMessage.channel) == channel)).one()


def wait(failures: int, after: float | None = None) -> float:
    """How long to wait after so many failures in a row. ``after``: for how long the target has asked."""
    return min(LONGEST_WAIT, max(FIRST_WAIT * 2.0 ** min(failures - 1, 20), after or 0.0))


def delivered(session: Session, message_id: str) -> None:
    """The target has it."""
    message = _get(session, message_id)
    if message is not None:
        session.delete(message)
        record(session, SERVICE, "alert.told", f"alert:{message.alert_id}", f"Sent to {message.channel}.")


def failed(
    session: Session, message_id: str, error: str, now: float, *, final: bool = False, after: float | None = None
) -> float | None:
    """The target has not taken it: tried again, ever more seldom, unless that is of no use. When; None for never."""
    message = _get(session, message_id)
    if message is None:
        return None
    message.attempts += 1
    message.error = error
    subject, words = f"alert:{message.alert_id}", f"{message.channel} has not taken word of it: {error}"
    if final or now - message.created_at >= PATIENCE:
        session.delete(message)
        tries = f"Given up after {message.attempts} attempt(s)."
        record(session, SERVICE, "alert.not_told", subject, f"{words} {tries}")
        return None
    message.next_at = now + wait(message.attempts, after)
    session.add(message)
    if message.attempts == 1:
        record(session, SERVICE, "alert.telling_again", subject, f"{words} It is tried again, for a day.")
    return message.next_at


def forget(session: Session, alert_id: str) -> None:
    """What still waits to tell of an alert that has been resolved is not sent any more."""
    for message in session.exec(select(OutboxMessage).where(col(OutboxMessage.alert_id) == alert_id)):
        session.delete(message)


def _get(session: Session, message_id: str) -> OutboxMessage | None:
    """The message, while it waits."""
    return session.exec(select(OutboxMessage).where(col(OutboxMessage.id) == message_id)).first()
