"""Briefs for agents, filled in from the live service."""

import shlex
from pathlib import Path

from fastapi import APIRouter, Request

from api.answers import Json
from api.deps import Sys, Whose
from api.scopes import needs
from orchestrator import home as home_files
from orchestrator.access import ADMIN, Identity
from orchestrator.guidance import briefing, skills
from orchestrator.shapes import SkillRender
from orchestrator.wiring import System

router = APIRouter(tags=["skills"])
HIDDEN = "not shown; it is in the file that the header names"


@router.get("/skills")
def listing() -> Json:
    """The briefs that there are."""
    return Json([{"name": skill.name, "description": skill.description} for skill in skills.everything()])


@router.get("/skills/{name}")
def show(name: str) -> Json:
    """One brief with its variables as they are written."""
    skill = skills.get(name)
    told = {"name": skill.name, "description": skill.description, "variables": list(skill.variables)}
    return Json(told | {"text": skill.text})


@router.post("/skills/{name}/render", openapi_extra=needs("read"))
def render(request: Request, system: Sys, identity: Whose, name: str, body: SkillRender | None = None) -> Json:
    """The brief with the goal and the state of things filled in."""
    asked = body or SkillRender()
    skill = skills.get(name)
    with system.db.read() as session:
        context, plans = briefing.experiment_context(session), briefing.existing_plans(session)
    values = {
        "goal": asked.goal or "(not said yet: ask)",
        "experiment_context": context,
        "existing_plans": plans,
        "server_url": _url(system, request),
        "auth_token": _token(request) if asked.show_token else HIDDEN,
        "auth_header": _header(system.settings.home, identity),
        "cluster_state": briefing.cluster_state(system.cluster.public()),
        "api_catalog": briefing.api_catalog(request.app.openapi(), identity.may),
    }
    return Json({"name": skill.name, "text": skill.render(values), "variables": values})


def _url(system: System, request: Request) -> str:
    """Where it listens, whichever way the question came."""
    said = home_files.read_server_file(system.settings.home)
    return str(said["url"]) if said is not None else str(request.base_url).rstrip("/")


def _token(request: Request) -> str:
    """Its owner's own: the one that came with the request."""
    bearer = request.headers.get("authorization", "")
    return request.headers.get("x-auth-token") or bearer[7:].strip()


def _header(home: Path, identity: Identity) -> str:
    """curl's option that sends the token from a file, where there is one."""
    own = home_files.token_files(home, identity.name)[1]
    path = home_files.admin_header(home) if identity.name == ADMIN else own
    return f"-H {shlex.quote(f'@{path}')}" if path.exists() else '-H "@<file with the line X-Auth-Token: …>"'
