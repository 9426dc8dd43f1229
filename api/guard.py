"""What every request passes first: the Host header, the token, the body's size; and what every answer carries."""

from collections.abc import Iterable
from functools import partial

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import Unauthorized
from orchestrator.wiring import System

MAX_BODY = 16 * 2**20
OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Stands before the whole application. Pure ASGI, so that streams pass through untouched.

    The token is looked at before the body is: who has none costs nothing and learns nothing.
    """

    def __init__(self, app: ASGIApp, service: Starlette, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._service = service
        self._hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._host_problem(headers) or self._token_problem(scope, headers) or _length_problem(headers)
        if problem is None:
            body = await _body(receive)
            if body is not None:
                await self._app(scope, _replayed(body, receive), send)
                return
            problem = _too_long("more than that")
        await problem(scope, receive, send)

    def _host_problem(self, headers: dict[str, str]) -> JSONResponse | None:
        host = host_of(headers.get("host", ""))
        if host in self._hosts or "*" in self._hosts:
            return None
        words = f"This server does not answer to the host name {host!r}. Its operator can allow it (allowed_hosts)."
        return JSONResponse({"detail": words}, 421)

    def _token_problem(self, scope: Scope, headers: dict[str, str]) -> JSONResponse | None:
        """Whose request it is goes into the scope's state."""
        path = scope["path"]
        if path in OPEN or path.startswith("/docs/"):
            return None
        system: System = self._service.state.system
        self._service.state.activity.touch()
        bearer = headers.get("authorization", "")
        token = headers.get("x-auth-token") or (bearer[7:].strip() if bearer.lower().startswith("bearer ") else None)
        try:
            state = scope.setdefault("state", {})
            state["identity"] = system.access.identify(token)
            state["still_good"] = partial(system.access.knows, token)
        except Unauthorized as error:
            return JSONResponse({"detail": error.message}, 401, {"WWW-Authenticate": "Bearer"})
        return None


def host_of(header: str) -> str:
    """The name in a Host header, without its port; IPv6 addresses keep their brackets."""
    header = header.strip().lower()
    if header.startswith("["):
        return header.split("]")[0] + "]"
    return header.rsplit(":", 1)[0] if ":" in header else header


def _length_problem(headers: dict[str, str]) -> JSONResponse | None:
    length = headers.get("content-length", "0")
    if length.isdigit() and len(length) < 20 and int(length) <= MAX_BODY:
        return None
    return _too_long(f"{length[:40]} bytes")


def _too_long(size: str) -> JSONResponse:
    return JSONResponse({"detail": f"The body has {size}; the limit is {MAX_BODY} bytes."}, 413)


async def _body(receive: Receive) -> list[Message] | None:
    """The whole body, or None when it is longer than MAX_BODY."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            return None
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    """What was read, once more, then what comes after (that the client has gone)."""
    left = iter(messages)

    async def again() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return again


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sender
