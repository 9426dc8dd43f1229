"""An agent with nothing but the MCP SDK's own client, over stdio or HTTP, for ``tests.support.loops``."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.support.agents import data, words
from tests.support.service import Json, RealServer

T = TypeVar("T")
ORC = str(Path(sys.executable).with_name("orc"))
SECONDS = 120


@asynccontextmanager
async def _stdio(home: Path, token_file: str) -> AsyncIterator[Client]:
    environment = {"ORC_HOME": str(home), "ORC_TOKEN_FILE": token_file}
    with (home / "agents.log").open("a") as log:
        parameters = StdioServerParameters(command=ORC, args=["mcp"], env=environment, cwd=home)
        async with Client(stdio_client(parameters, errlog=log)) as client:
            yield client


@asynccontextmanager
async def _http(orc: RealServer, secret: str) -> AsyncIterator[Client]:
    url = f"{str(orc.http.base_url).rstrip('/')}/mcp"
    headers = {"X-Auth-Token": secret}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=SECONDS, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


@contextmanager
def by_stdio(orc: RealServer, token: Json) -> Iterator["McpAgent"]:
    """The agent starts ``orc mcp`` for itself."""
    with _agent(_stdio(orc.home, token["file"])) as agent:
        yield agent


@contextmanager
def by_http(orc: RealServer, token: Json) -> Iterator["McpAgent"]:
    """The agent asks the service at /mcp."""
    with _agent(_http(orc, token["token"])) as agent:
        yield agent


@contextmanager
def _agent(connecting: AbstractAsyncContextManager[Client]) -> Iterator["McpAgent"]:
    """Its connection lives in one task of a loop of its own: it must be closed where it was opened."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[Client] = []

    async def connected() -> None:
        try:
            async with connecting as client:
                found.append(client)
                ready.set()
                await over.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(connected()))
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield McpAgent(loop, found[0])
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(SECONDS)
        loop.close()


class McpAgent:
    """Calls tools."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: Client) -> None:
        self._loop = loop
        self._client = client

    def _do(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(SECONDS)

    def _call(self, tool: str, **arguments: Any) -> Json:
        return data(self._do(self._client.call_tool(tool, arguments)))

    def detect(self) -> Json:
        return self._call("detect")

    def advice(self, workdir: str) -> Json:
        return self._call("advice", goal="a good rate", workdir=workdir)

    def brief(self, goal: str) -> str:
        prompts = self._do(self._client.list_prompts()).prompts
        assert {prompt.name for prompt in prompts} == {"plan", "watch"}
        found = self._do(self._client.get_prompt("plan", {"goal": goal})).messages[0].content
        assert found.type == "text"
        return found.text

    def save(self, title: str, goal: str, markdown: str) -> Json:
        assert self._call("check_plan", raw_markdown=markdown)["problems"] == []
        saved = self._call("save_plan", title=title, goal=goal, raw_markdown=markdown)
        assert f"orc plan approve {saved['id']}" in saved["next"]
        return {"problems": [], **saved}

    def refused(self, what: str, arguments: Json) -> str:
        given = {"run": arguments} if what == "create_run" else arguments
        result = self._do(self._client.call_tool(what, given))
        assert result.is_error, words(result)
        return words(result)

    def execute(self, plan_id: str) -> Json:
        assert self._call("preview_execution", plan_id=plan_id)["runs"]
        return self._call("execute_plan", plan_id=plan_id)

    def create_run(self, body: Json) -> Json:
        return self._call("create_run", run=body)

    def runs(self, plan_id: str) -> list[Json]:
        return list(self._call("runs", plan_id=plan_id)["runs"])

    def wait(self, ids: list[str]) -> bool:
        return bool(self._call("wait", run_ids=ids, timeout=100)["over"])

    def why(self, run_id: str) -> Json:
        return self._call("why", run_id=run_id)

    def report(self, plan_id: str) -> str:
        result = self._do(self._client.call_tool("report", {"plan_id": plan_id}))
        assert not result.is_error
        return words(result)
