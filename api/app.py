"""The application: one function that wires it."""

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.responses import Response
from starlette.types import ASGIApp

from api import answers, docs, mcp, schema, scopes
from api.activity import Activity
from api.answers import Json
from api.deps import Sys, known_query, query_names
from api.guard import Guard
from api.routes import alerts, cluster, events, insight, outputs, plans, runs, skills, sweeps, tokens, waits
from api.signal import Commits
from orchestrator import __version__
from orchestrator.errors import OrcError
from orchestrator.settings import Settings
from orchestrator.wiring import System, build

log = logging.getLogger(__name__)
# Said in the OpenAPI schema; the check itself is the Guard's.
_TOKEN = Security(APIKeyHeader(name="X-Auth-Token", auto_error=False, scheme_name="X-Auth-Token"))
_BEARER = Security(HTTPBearer(auto_error=False))


class Service(FastAPI):
    """FastAPI behind the Guard: also what answers when all else fails passes it."""

    def __init__(self, *, allowed_hosts: list[str], **options: Any) -> None:
        self._allowed_hosts = allowed_hosts
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        """The application as it is served."""
        return Guard(super().build_middleware_stack(), self, self._allowed_hosts)


def create_app(settings: Settings, on_lost: Callable[[str], None] = lambda _: None) -> FastAPI:
    """The service over ``settings``. Its background work runs between the application's start and its end."""
    commits = Commits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            system = build(settings, on_lost)
        except OrcError as error:
            app.state.failure = error.message
            raise
        app.state.system = system
        commits.attach()
        system.db.writer.on_commit(commits.notify)
        redetect = Redetection(system)
        system.start()
        redetect.start()
        try:
            yield
        finally:
            commits.close()
            redetect.close()
            system.close()

    app = Service(
        title="orc",
        version=__version__,
        description="Turns a research plan into tracked runs.",
        lifespan=lifespan,
        docs_url=None,
        redirect_slashes=False,
        redoc_url=None,
        default_response_class=Json,
        allowed_hosts=settings.allowed_hosts,
    )
    app.state.commits = commits
    app.state.failure = None
    app.state.activity = Activity()
    app.state.query_names = {}
    answers.install(app)
    for module in (cluster, runs, sweeps, plans, alerts, events, outputs, insight, skills, tokens, waits):
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                _summarise(route)
                scopes.apply(module, route)
                schema.describe(route)
                app.state.query_names |= {(route.path, method): query_names(route) for method in route.methods or ()}
        app.include_router(module.router, dependencies=[_TOKEN, _BEARER, Depends(known_query)])
    app.include_router(docs.router)
    app.openapi = schema.with_examples(app)  # type: ignore[method-assign]  # as FastAPI's documentation has it
    app.router.routes.append(mcp.route(app))
    app.add_api_route("/healthz", healthz, tags=["service"], summary="The service answers.")
    app.add_api_route("/readyz", readyz, tags=["service"], summary="The service works.")
    return app


def _summarise(route: APIRoute) -> None:
    """In the schema, a route is called what its docstring says first."""
    if route.endpoint.__doc__:
        route.summary = route.endpoint.__doc__.strip().splitlines()[0].rstrip(".")


def healthz() -> Json:
    """Alive."""
    return Json({"status": "ok", "version": __version__})


def readyz(system: Sys) -> Response:
    """Ready: the database can be read and written, the reconciler's passes succeed."""
    trouble = system.reconciler.trouble or system.holding.trouble
    return Json(
        {"status": "ready" if trouble is None else "not ready", "trouble": trouble}, 200 if trouble is None else 503
    )


class Redetection:
    """Looks at the machine at the start and now and then; an answer that changed is an event."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="redetection", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def close(self) -> None:
        """Ends, after the look under way."""
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            try:
                self._system.cluster.detect()
            except Exception:
                log.exception("the machine could not be detected")
            if self._stop.wait(self._system.settings.redetect_seconds):
                return
