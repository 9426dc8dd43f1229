"""/mcp: the agents' tools over streamable HTTP, inside the service. Each call of a tool is a request to this same
application, with the caller's own token, and never leaves the process.

Every request stands alone (the SDK's stateless way): the Guard looks at the token of each, so that a revoked one is 401
at the next, no session outlives anything, and what a request asked of us ends with it. Answers are JSON where they come
soon; what takes longer (a wait) becomes a stream, which can carry progress, is kept alive by comments, and tells us
when the client has gone: then the wait ends too. Only POST is served: a GET would be a stream on which nothing ever
comes."""

import asyncio
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpx2
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api.answers import Json
from api.guard import MAX_BODY
from orchestrator import agenttools
from orchestrator.agenttools.caller import TIMEOUT, Answer, ask

if TYPE_CHECKING:
    from orchestrator.agenttools.server import AgentServer

PATH = "/mcp"
PASSED_ON = ("x-auth-token", "authorization", "host")

# Of the request that is being answered. Each is answered in a context of its own; outside of one there is no token.
_whose: ContextVar[Mapping[str, str]] = ContextVar("whose request it is")


def route(app: ASGIApp) -> Route:
    """The route. To read is what its door needs, and every token may; what a tool's call needs is checked at that."""
    return Route(PATH, Door(app), methods=["POST"], include_in_schema=False)


class InProcess:
    """Calls the application itself, as whoever is asking."""

    def __init__(self, app: ASGIApp) -> None:
        self._transport = httpx2.ASGITransport(app, raise_app_exceptions=False)

    async def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Answer:
        """One request and its answer."""
        async with httpx2.AsyncClient(
            transport=self._transport, base_url="http://localhost", headers=_whose.get(), timeout=TIMEOUT
        ) as http:
            return await ask(http, method, path, body, params, key)


class Door:
    """Answers one MCP request at a time; the SDK is imported when the first one comes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.server: AgentServer | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, which the Guard has let pass."""
        if not agenttools.installed():
            await Json({"detail": f"{agenttools.MISSING}, where the server runs."}, 501)(scope, receive, send)
            return
        async with self._making:
            if self.server is None:
                self.server = await asyncio.to_thread(_server, self._app)
        headers = Headers(scope=scope)
        before = _whose.set({name: headers[name] for name in PASSED_ON if name in headers})
        try:
            await _answer(self.server, scope, receive, send)
        finally:
            _whose.reset(before)


def _server(app: ASGIApp) -> "AgentServer":
    from orchestrator.agenttools.server import AgentServer  # half a second, for those alone who use it

    logging.getLogger("mcp").setLevel(logging.WARNING)  # it tells of every request
    return AgentServer(InProcess(app))


async def _answer(server: "AgentServer", scope: Scope, receive: Receive, send: Send) -> None:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.server.transport_security import TransportSecuritySettings

    # A manager for each request: without sessions it has nothing to keep between two, and its tasks end with it.
    # Its own check of Host is off, for the Guard's has been passed: the same, against allowed_hosts. Of Origin nothing
    # need be known: no page can send us the token's header, as no CORS header of ours allows it to.
    manager = StreamableHTTPSessionManager(
        server.lowlevel,
        stateless=True,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=MAX_BODY,
    )
    async with manager.run():
        await manager.handle_request(scope, receive, send)
