"""How a tool calls the service: a protocol, and the way to the running server of this user."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx2

from orchestrator import home as home_files
from orchestrator.client import failure, unanswered
from orchestrator.discovery import Found, find_server
from orchestrator.errors import ServerUnreachable

TIMEOUT = 60.0  # seconds for one request; a wait is made of shorter ones


@dataclass(frozen=True)
class Answer:
    """What the service answered: JSON, or text. ``before``: the cursor of a list's next page, None on the last."""

    content: Any
    before: int | None = None


class NotConnected(ServerUnreachable):
    """No connection came about: nothing was sent."""


class Caller(Protocol):
    """Calls the service's HTTP API as one token. ``key``: an Idempotency-Key.

    Raises RequestFailed with the service's own words, ServerUnreachable, UntrustedServer, Unauthorized.
    """

    async def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Answer:
        """One request and its answer."""
        ...


class RunningServer:
    """Calls this user's server, found (or started) anew for each call: it may have ended when idle, come back
    elsewhere, and its token may have been rotated since the last one."""

    def __init__(self, home: Path | None = None, url: str | None = None) -> None:
        self._home = home or home_files.default_home()
        self._url = url

    async def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Answer:
        """One request and its answer; a caller that is cancelled ends the request too."""
        try:
            return await self._call(method, path, body, params, key)
        except NotConnected:  # it ended after it was found: nothing was sent yet, and another can be found
            return await self._call(method, path, body, params, key)

    async def _call(
        self, method: str, path: str, body: Any, params: Mapping[str, Any] | None, key: str | None
    ) -> Answer:
        found = await asyncio.to_thread(find_server, self._home, self._url)
        async with _client(found) as http:
            return await ask(http, method, path, body, params, key)


def _client(found: Found) -> httpx2.AsyncClient:
    transport = httpx2.AsyncHTTPTransport(uds=str(found.socket)) if found.socket is not None else None
    return httpx2.AsyncClient(
        transport=transport, base_url=found.url, headers=found.headers, timeout=TIMEOUT, trust_env=False
    )


async def ask(
    http: httpx2.AsyncClient, method: str, path: str, body: Any, params: Mapping[str, Any] | None, key: str | None
) -> Answer:
    """One request over an open client. Raises RequestFailed or ServerUnreachable."""
    given = {name: value for name, value in (params or {}).items() if value is not None}
    headers = {"Idempotency-Key": key} if key is not None else {}
    try:
        answer = await http.request(method, path, json=body, params=given, headers=headers)
    except httpx2.ConnectError as error:
        raise NotConnected(f"The server does not answer: {error}") from error
    except httpx2.TransportError as error:
        raise unanswered(method, error) from error
    if answer.is_error:
        raise failure(answer)
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return Answer(answer.json() if is_json else answer.text, _cursor(answer))


def _cursor(answer: httpx2.Response) -> int | None:
    url = answer.links.get("next", {}).get("url")
    return int(httpx2.URL(url).params["before"]) if url else None
