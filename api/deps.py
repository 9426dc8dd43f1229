"""What routes ask for, as type aliases."""

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query as QueryParameter
from fastapi.routing import APIRoute
from sqlmodel import Session

from api.answers import Json, Kept, dumps
from orchestrator import idempotency
from orchestrator.access import Identity
from orchestrator.errors import BadInput
from orchestrator.journal import Actor
from orchestrator.strict import MOST_TOLD, meant
from orchestrator.wiring import System


# Without a thread of its own each: that would cost more than they do.
async def _system(request: Request) -> System:
    system: System = request.app.state.system
    return system


async def _identity(request: Request) -> Identity:
    """Whose token the Guard has seen."""
    identity: Identity = request.state.identity
    return identity


async def _actor(request: Request) -> Actor:
    identity: Identity = request.state.identity
    return identity.actor


async def _going_on(request: Request) -> Callable[[], bool]:
    """For what lasts: whether the server goes on, and the token is still good."""
    commits, still_good = request.app.state.commits, request.state.still_good
    return lambda: not commits.closing and still_good()


async def known_query(request: Request) -> None:
    """Refuses a query parameter that the route does not have: a misspelt filter would list everything. What begins with
    an underscore (a browser's against its cache) passes."""
    known = request.app.state.query_names[request.scope["route"].path, request.method]
    strange = [name for name in request.query_params if name not in known and not name.startswith("_")]
    if strange:
        words = {name: f"There is no such parameter{meant(name, known)}" for name in strange[:MOST_TOLD]}
        raise RequestValidationError(
            [{"loc": ("query", name), "msg": told, "type": "extra_forbidden"} for name, told in words.items()]
        )


def query_names(route: APIRoute) -> list[str]:
    """Those that a route has."""
    return [field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, QueryParameter)]


Sys = Annotated[System, Depends(_system)]
Whose = Annotated[Identity, Depends(_identity)]
Who = Annotated[Actor, Depends(_actor)]
GoingOn = Annotated[Callable[[], bool], Depends(_going_on)]
Limit = Annotated[int, Query(ge=1, le=10_000, description="At most so many.")]
Before = Annotated[int | None, Query(ge=1, le=2**62, description="The cursor of the next page, from the Link header.")]


class Once:
    """Creates something once per Idempotency-Key: the answer is kept in the transaction that created."""

    def __init__(self, system: System, actor: Actor, route: str, key: str | None, body: bytes) -> None:
        self._system = system
        self._claim = idempotency.Claim(actor, route, key, idempotency.digest(body)) if key else None

    def recall(self) -> None:
        """Ends the request with the first answer, where there is one: before anything is checked again."""
        if self._claim is not None:
            with self._system.db.read() as session:
                kept = idempotency.recall(session, self._claim)
            if kept is not None:
                raise Kept(*kept)

    def __call__(self, create: Callable[[Session], Any], status: int = 200) -> Json:
        """The answer of ``create``, or the first one to the same key."""
        claim = self._claim
        if claim is None:
            return Json(self._system.db.write(create), status)

        def write(session: Session) -> tuple[int, Any]:
            kept = idempotency.recall(session, claim)
            if kept is not None:
                return kept
            answer = json.loads(dumps(create(session)))
            idempotency.keep(session, claim, status, answer)
            return status, answer

        code, answer = self._system.db.write(write)
        return Json(answer, code)


async def _body(request: Request) -> bytes:
    return await request.body()


def _once(
    request: Request,
    system: Sys,
    actor: Who,
    body: Annotated[bytes, Depends(_body)],
    idempotency_key: Annotated[
        str | None, Header(max_length=255, description="A repeat within 24 h gets the first answer.")
    ] = None,
) -> Once:
    if idempotency_key is not None and not idempotency_key.strip():
        raise BadInput("Idempotency-Key", "is empty: leave it out, or send one of your own making.")
    once = Once(system, actor, request.url.path, idempotency_key, body)
    once.recall()
    return once


OnceOnly = Annotated[Once, Depends(_once)]
