"""Idempotency keys: the first answer is stored in the transaction that created what it tells of.

The single writer makes a repeat that comes while the first is under way wait for it. Only what was created is
kept: an error left nothing behind, so that a repeat of it may as well be tried.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from orchestrator.errors import Conflict
from orchestrator.journal import Actor
from orchestrator.models import IdempotentAnswer

KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Claim:
    """One key, as one actor used it on one route with one body."""

    actor: Actor
    route: str
    key: str
    body_hash: str


def digest(body: bytes) -> str:
    """What tells one body from another."""
    return hashlib.sha256(body).hexdigest()


def recall(session: Session, claim: Claim) -> tuple[int, Any] | None:
    """The first answer to this key. Raises Conflict when the key came with another body."""
    found = session.exec(
        select(IdempotentAnswer).where(
            col(IdempotentAnswer.actor) == claim.actor,
            col(IdempotentAnswer.route) == claim.route,
            col(IdempotentAnswer.key) == claim.key,
            col(IdempotentAnswer.created_at) >= time.time() - KEPT_SECONDS,
        )
    ).first()
    if found is None:
        return None
    if found.body_hash != claim.body_hash:
        raise Conflict(f"The Idempotency-Key {claim.key!r} was used with another body on this route: make a new one.")
    return found.status, json.loads(found.answer)


def keep(session: Session, claim: Claim, status: int, answer: Any) -> None:
    """Keeps the first answer, and forgets those that are too old."""
    old = time.time() - KEPT_SECONDS
    session.connection().execute(delete(IdempotentAnswer).where(col(IdempotentAnswer.created_at) < old))
    session.add(
        IdempotentAnswer(
            actor=claim.actor,
            route=claim.route,
            key=claim.key,
            body_hash=claim.body_hash,
            status=status,
            answer=json.dumps(answer),
            created_at=time.time(),
        )
    )
