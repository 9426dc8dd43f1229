"""What the tools have in common: how one is marked as such, and how it calls."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from mcp_types import ToolAnnotations

from orchestrator.agenttools.caller import Answer, Caller
from orchestrator.agenttools.shortening import Json, Text, cut, dumps, without_nothing

Shown = Json | Text
Tool = TypeVar("Tool", bound=Callable[..., Awaitable[Shown]])
MARK = "__agent_tool__"

READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


def changes(*, destructive: bool = False, idempotent: bool = False, runs_code: bool = False) -> ToolAnnotations:
    """A tool that changes something. ``runs_code``: what it starts may do anything that its user may."""
    return ToolAnnotations(
        read_only_hint=False, destructive_hint=destructive, idempotent_hint=idempotent, open_world_hint=runs_code
    )


def tool(annotations: ToolAnnotations) -> Callable[[Tool], Tool]:
    """Marks a method as a tool: its name, docstring and parameters are what the model is told."""

    def mark(method: Tool) -> Tool:
        setattr(method, MARK, annotations)
        return method

    return mark


class Toolbox:
    """Tools that share a caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def _list(self, path: str, **params: Any) -> Answer:
        return await self._caller.call("GET", path, params=params)

    async def _get(self, path: str, **params: Any) -> Any:
        return (await self._caller.call("GET", path, params=params)).content

    async def _post(self, path: str, body: Any = None, key: str | None = None) -> Any:
        return (await self._caller.call("POST", path, body, key=key)).content


def given(**fields: Any) -> Json:
    """The fields that were given at all."""
    return {name: value for name, value in fields.items() if value is not None}


def row_of_run(run: Mapping[str, Any]) -> Json:
    """A run in a line."""
    params = cut(dumps(run["sweep_params"]), 80) if run.get("sweep_params") else None
    row = {name: run.get(name) for name in ("id", "status", "reason", "exit_code")}
    return without_nothing({**row, "name": cut(str(run.get("name")), 40), "params": params})
