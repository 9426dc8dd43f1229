"""Agents for tests: a caller that only notes what it is asked, and the SDK's own client before the tools."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from mcp import Client
from mcp_types import CallToolResult

from orchestrator.agenttools.caller import Answer
from orchestrator.agenttools.server import AgentServer

T = TypeVar("T")
Asked = tuple[str, str, Any, dict[str, Any], str | None]


class StubCaller:
    """Answers what it was given, by method and path; an exception is raised. ``asked``: each call as it came."""

    def __init__(self, answers: Mapping[str, Any] | None = None, otherwise: Any = None) -> None:
        self._answers = dict(answers or {})
        self._otherwise = {} if otherwise is None else otherwise
        self.asked: list[Asked] = []

    async def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Answer:
        """Notes the call, and answers it."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        self.asked.append((method, path, body, given, key))
        found = self._answers.get(f"{method} {path}", self._otherwise)
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, Answer) else Answer(found)


def with_client(caller: StubCaller, talk: Callable[[Client], Awaitable[T]]) -> T:
    """What ``talk`` finds as a client of the tools over this caller."""

    async def main() -> T:
        async with Client(AgentServer(caller)) as client:
            return await talk(client)

    return asyncio.run(main())


def call(caller: StubCaller, tool: str, /, **arguments: Any) -> CallToolResult:
    """One call of a tool."""
    return with_client(caller, lambda client: client.call_tool(tool, arguments))


def words(result: CallToolResult) -> str:
    """What the model reads of an answer."""
    return "\n".join(part.text for part in result.content if part.type == "text")


def data(result: CallToolResult) -> dict[str, Any]:
    """An answer's data; it must not be a failure."""
    assert not result.is_error, words(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content
