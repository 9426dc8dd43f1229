"""Reading the journal."""

from typing import Any

from sqlmodel import Session, col, func, select

from orchestrator.models import Event


def public(event: Event) -> dict[str, Any]:
    """An event as the wire shows it."""
    return event.model_dump()


def last_id(session: Session) -> int:
    """The newest event's id, 0 before the first."""
    return session.exec(select(func.max(Event.id))).one() or 0


def after(session: Session, event_id: int, limit: int, subject: str | None = None) -> list[Event]:
    """Events after ``event_id``, oldest first."""
    query = select(Event).where(col(Event.id) > event_id).order_by(col(Event.id)).limit(limit)
    if subject is not None:
        query = query.where(col(Event.subject) == subject)
    return list(session.exec(query))


def latest(session: Session, limit: int) -> list[Event]:
    """The newest ``limit`` events, oldest first."""
    found = session.exec(select(Event).order_by(col(Event.id).desc()).limit(limit)).all()
    return list(reversed(found))


def last_words(session: Session, subject: str, kind: str) -> str | None:
    """The message of the newest event of one kind about ``subject``, None without any."""
    query = select(Event.message).where(col(Event.subject) == subject, col(Event.kind) == kind)
    return session.exec(query.order_by(col(Event.id).desc()).limit(1)).first()
