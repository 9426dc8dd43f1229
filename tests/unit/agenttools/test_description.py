"""What a model is told of the tools is enough to use them, and true."""

import json
from typing import Any

import pytest
from mcp_types import Tool

from orchestrator.agenttools.server import BOXES, INSTRUCTIONS, tools_of
from tests.support.agents import StubCaller, call, with_client
from tests.unit.agenttools.test_calls import CALLS

# What a tool that only looks may call besides GET: none of these changes anything.
HARMLESS = {"/runs/wait", "/plans/check"}


async def _listed(client: Any) -> list[Tool]:
    return list((await client.list_tools()).tools)


TOOLS: list[Tool] = with_client(StubCaller(), _listed)
READING = {tool.name for tool in TOOLS if tool.annotations is not None and tool.annotations.read_only_hint}


def test_the_tools_are_those_that_are_written() -> None:
    assert [tool.name for tool in TOOLS] == [name for box in BOXES for name in tools_of(box)]
    assert {tool.name for tool in TOOLS} == {case[0] for case in CALLS}, "each is tried in test_calls"


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tool_explains_itself(tool: Tool) -> None:
    assert tool.description is not None
    assert 30 < len(tool.description) < 600
    hints = tool.annotations
    assert hints is not None
    for hint in (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint):
        assert isinstance(hint, bool)
    assert not (hints.read_only_hint and hints.destructive_hint)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_parameter_has_a_type_and_says_what_it_is(tool: Tool) -> None:
    for name, schema in tool.input_schema["properties"].items():
        assert {"type", "anyOf", "$ref", "enum"} & schema.keys(), (name, schema)
        told = json.dumps(schema)
        if "$ref" not in told and "enum" not in told:
            assert "description" in told, (name, schema)


def test_no_tool_approves_amends_or_makes_tokens() -> None:
    assert not [tool.name for tool in TOOLS if any(word in tool.name for word in ("approve", "amend", "token"))]
    for name in {tool.name for tool in TOOLS}:
        for case in CALLS:
            if case[0] == name:
                assert not [path for _, path, *_ in case[3] if "approve" in path or "amend" in path or "token" in path]
    assert "no tool that approves" in INSTRUCTIONS


@pytest.mark.parametrize("case", [case for case in CALLS if case[0] in READING], ids=lambda case: case[0])
def test_a_tool_that_only_looks_changes_nothing(case: Any) -> None:
    tool, arguments, answers, _ = case
    caller = StubCaller(answers)
    assert not call(caller, tool, **arguments).is_error
    for method, path, body, *_ in caller.asked:
        assert method == "GET" or path in HARMLESS or (body or {}).get("dry_run") is True, (method, path)


def test_what_changes_something_says_so() -> None:
    assert {tool.name for tool in TOOLS} - READING == {
        *("detect", "save_plan", "execute_plan", "complete_plan"),
        *("create_sweep", "create_run", "create_runs", "stop", "respond"),
    }
    destructive = {tool.name for tool in TOOLS if tool.annotations is not None and tool.annotations.destructive_hint}
    assert destructive == {"save_plan", "complete_plan", "stop", "respond"}


def test_all_of_it_together_is_bearable() -> None:
    assert sum(len(tool.model_dump_json(exclude_none=True)) for tool in TOOLS) < 45_000
