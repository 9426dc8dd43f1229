"""Tokens: made, rotated, revoked. Functions of a session; a secret is told once and never stored."""

import secrets
import time
from typing import Any

from sqlmodel import Session, col, select

from orchestrator.access import ADMIN, digest
from orchestrator.errors import BadInput, Conflict, NotFound
from orchestrator.journal import Actor, change, record
from orchestrator.models import Token
from orchestrator.shapes import TokenCreate

PUBLIC = ("name", "scopes", "require_plan", "created_at", "created_by", "rotated_at", "expires_at", "revoked_at")


def public(token: Token) -> dict[str, Any]:
    """A token as the wire shows it: never its secret, nor its hash."""
    return {name: getattr(token, name) for name in PUBLIC}


def everyone(session: Session) -> list[Token]:
    """All tokens, revoked ones too, oldest first."""
    return list(session.exec(select(Token).order_by(col(Token.created_at), col(Token.name))))


def get(session: Session, name: str) -> Token:
    """The token. Raises NotFound."""
    found = session.get(Token, name)
    if found is None:
        raise NotFound("token", name)
    return found


def create(session: Session, body: TokenCreate, actor: Actor) -> tuple[Token, str]:
    """A token and its secret. A name stays taken for ever: the journal tells of it."""
    taken = session.get(Token, body.name)
    if taken is not None and taken.revoked_at is not None:
        raise Conflict(f"The token {body.name!r} was revoked, and its name stays taken: take another name.")
    if body.name == ADMIN or taken is not None:
        raise Conflict(f"There is a token {body.name!r}: take another name, or rotate it.")
    now = time.time()
    if body.expires_at is not None and body.expires_at <= now:
        raise BadInput("expires_at", "is in the past: epoch seconds, later than now.")
    secret = new_secret()
    scopes = sorted(set(body.scopes))
    token = Token(created_at=now, created_by=actor, hash=digest(secret), **body.model_dump() | {"scopes": scopes})
    session.add(token)
    record(session, actor, "token.created", f"token:{token.name}", "", None, public(token))
    return token, secret


def rotate(session: Session, name: str, expires_at: float | None, actor: Actor) -> tuple[Token, str]:
    """Another secret in place of the old one, which is worth nothing from now on. Raises Conflict for a revoked one."""
    token = get(session, name)
    if token.revoked_at is not None:
        raise Conflict(f"The token {name!r} is revoked: make another, of another name (orc token create).")
    now = time.time()
    expires = expires_at if expires_at is not None else token.expires_at
    if expires is not None and expires <= now:
        raise BadInput("expires_at", f"The token {name!r} would have expired already: name a later time.")
    secret = new_secret()
    token.hash = digest(secret)  # by itself: no event carries it
    fields = {"rotated_at": now, "expires_at": expires}
    change(session, token, actor, "token.rotated", f"token:{name}", fields)
    return token, secret


def revoke(session: Session, name: str, actor: Actor) -> Token:
    """It is worth nothing from now on. What it started goes on."""
    token = get(session, name)
    if token.revoked_at is None:
        change(session, token, actor, "token.revoked", f"token:{name}", {"revoked_at": time.time()})
    return token


def new_secret() -> str:
    """256 bits from the system."""
    return secrets.token_urlsafe(32)
