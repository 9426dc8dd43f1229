"""Tokens."""

from fastapi import APIRouter

from api.answers import Json
from api.deps import Sys, Who, Whose
from api.scopes import needs
from orchestrator import home as home_files
from orchestrator import tokens
from orchestrator.access import ADMIN, Identity
from orchestrator.journal import Actor, record
from orchestrator.models import Token
from orchestrator.shapes import TokenCreate, TokenRotate
from orchestrator.wiring import System

router = APIRouter(tags=["tokens"])
SCOPE = "admin"


@router.post("/tokens")
def create(system: Sys, actor: Who, body: TokenCreate) -> Json:
    """Makes a token; its secret is told this once, and written to files (0600) of its own under $ORC_HOME/tokens."""
    with system.access.changing:
        token, secret = system.db.write(lambda session: tokens.create(session, body, actor))
        return _told(system, token, secret)


@router.get("/tokens", openapi_extra=needs("admin"))
def listing(system: Sys) -> Json:
    """All tokens but the first admin's, oldest first."""
    with system.db.read() as session:
        return Json([tokens.public(token) for token in tokens.everyone(session)])


@router.get("/tokens/self")
def own(identity: Whose) -> Json:
    """What the token of this request may."""
    return Json(_self(identity))


def _self(identity: Identity) -> dict[str, object]:
    scopes = sorted({"read", *identity.scopes})
    told = {"name": identity.name, "scopes": scopes, "require_plan": identity.require_plan}
    return told | {"expires_at": identity.expires_at}


@router.post("/tokens/{name}/rotate")
def rotate(system: Sys, actor: Who, name: str, body: TokenRotate | None = None) -> Json:
    """Another secret in its place; the old one is worth nothing from now on. ``admin``: the first token."""
    if name == ADMIN:
        return _rotate_admin(system, actor)
    expires = body.expires_at if body else None
    with system.access.changing:
        token, secret = system.db.write(lambda session: tokens.rotate(session, name, expires, actor))
        return _told(system, token, secret)


def _rotate_admin(system: System, actor: Actor) -> Json:
    secret = tokens.new_secret()
    with system.access.changing:
        system.db.write(lambda session: record(session, actor, "token.rotated", f"token:{ADMIN}") and None)
        home_files.write_admin_token(system.settings.home, secret)
        system.access.renew_admin(secret)
    return Json({"name": ADMIN, "scopes": [ADMIN], "token": secret, "file": str(system.settings.home / "token")})


@router.delete("/tokens/{name}")
def revoke(system: Sys, actor: Who, name: str) -> Json:
    """Ends a token; what it started goes on."""
    with system.access.changing:
        token = system.db.write(lambda session: tokens.revoke(session, name, actor))
        system.access.reload()
        home_files.remove_token_files(system.settings.home, name)
    return Json(tokens.public(token))


def _told(system: System, token: Token, secret: str) -> Json:
    """The answer that tells the secret, once its files have it and the old one is worth nothing."""
    system.access.reload()
    file, header = home_files.write_token_files(system.settings.home, token.name, secret)
    return Json(tokens.public(token) | {"token": secret, "file": str(file), "header_file": str(header)})
