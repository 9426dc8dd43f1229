"""A wait tells how far it is, and ends when nobody waits for it any more."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from mcp import Client
from starlette.types import Message, Scope

from api.mcp import Door
from orchestrator.agenttools import watching
from orchestrator.agenttools.caller import Answer
from orchestrator.agenttools.server import AgentServer
from tests.support.agents import StubCaller, data

RUNS = [{"id": "a", "name": "a", "status": "finished"}, {"id": "b", "name": "b", "status": "running"}]


class SlowCaller(StubCaller):
    """A service in which nothing ends: a wait is answered when its time is over. ``begun``, ``ended``: of its call."""

    def __init__(
        self, over_after: int = 10**9, sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep
    ) -> None:
        super().__init__()
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self._over_after, self._sleep = over_after, sleep

    async def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Answer:
        """Takes as long as it was asked to."""
        await super().call(method, path, body, params, key)
        self.begun.set()
        try:
            await self._sleep(body["timeout"])
        finally:
            self.ended.set()
        return Answer({"over": len(self.asked) >= self._over_after, "waiting": ["b"], "runs": RUNS})


def test_a_wait_is_made_of_short_ones_and_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SLICE", 0.02)
    caller, told = SlowCaller(over_after=3), []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def main() -> None:
        async with Client(AgentServer(caller)) as client:
            result = await client.call_tool("wait", {"run_ids": ["a", "b"]}, progress_callback=note)
        assert data(result)["over"] is True

    asyncio.run(main())
    assert len(caller.asked) == 3
    assert told == [(1, 2, "1 of 2 runs are over")] * 2


def test_a_wait_ends_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def passes(seconds: float) -> None:
        clock.now += seconds

    caller = SlowCaller(sleep=passes)

    async def main() -> None:
        async with Client(AgentServer(caller)) as client:
            result = await client.call_tool("wait", {"run_ids": ["a", "b"], "timeout": 50})
        assert data(result)["over"] is False

    asyncio.run(main())
    assert [asked[2]["timeout"] for asked in caller.asked] == [20, 20, 10]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_that_cancels_ends_the_request(mode: str) -> None:
    async def main() -> None:
        caller = SlowCaller()
        async with Client(AgentServer(caller), mode=mode) as client:
            waiting = asyncio.create_task(client.call_tool("wait", {"run_ids": ["a"], "timeout": 300}))
            await caller.begun.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.wait_for(caller.ended.wait(), 10)

    asyncio.run(main())


BODY = (
    b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "wait", "arguments": {"run_ids": ["a"]},'
    b' "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",'
    b' "io.modelcontextprotocol/clientCapabilities": {}}}}'
)
OLD = [(b"mcp-protocol-version", b"2025-11-25")]
NEW = [(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", b"tools/call"), (b"mcp-name", b"wait")]


@pytest.mark.parametrize("version", [OLD, NEW], ids=["2025", "2026"])
def test_over_http_a_client_that_goes_away_ends_the_request(version: list[tuple[bytes, bytes]]) -> None:
    async def main() -> None:
        caller = SlowCaller()
        door = Door(None)  # type: ignore[arg-type]  # the application is not reached
        door.server = AgentServer(caller)
        headers = [
            (b"content-type", b"application/json"),
            (b"accept", b"application/json, text/event-stream"),
            *version,
        ]
        scope: Scope = {"type": "http", "method": "POST", "path": "/mcp", "query_string": b"", "headers": headers}
        sent: list[Message] = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive() -> Message:
            if sent:
                return sent.pop()
            await caller.begun.wait()
            return {"type": "http.disconnect"}

        async def send(_: Message) -> None:
            """Nobody is there to read it."""

        await asyncio.wait_for(door(scope, receive, send), 30)
        assert caller.ended.is_set()

    asyncio.run(main())
