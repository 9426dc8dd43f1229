"""The service's skills as prompts: listed and filled in by the service, each time anew."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from orchestrator.agenttools.caller import Caller
from orchestrator.agenttools.words import explain
from orchestrator.client import RequestFailed
from orchestrator.errors import OrcError

GOAL = PromptArgument(name="goal", description="What is to be found out.", required=False)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")  # it goes into a path


async def listed(caller: Caller) -> list[Prompt]:
    """One prompt per skill; none from a server that is older than skills are."""
    try:
        found = (await caller.call("GET", "/skills")).content
    except RequestFailed as error:
        if error.status == 404:
            return []
        raise _refused(error) from error
    except OrcError as error:
        raise _refused(error) from error
    return [
        Prompt(name=skill["name"], description=skill.get("description"), arguments=[GOAL])
        for skill in found
        if _NAME.fullmatch(skill["name"])
    ]


async def rendered(caller: Caller, name: str, arguments: Mapping[str, Any]) -> GetPromptResult:
    """A skill's text, filled in from the live service."""
    if not _NAME.fullmatch(name):
        raise MCPError(INVALID_PARAMS, f"There is no prompt {name[:100]!r}: prompts/list names those that there are.")
    body = {"goal": arguments.get("goal") or ""}
    try:
        found = (await caller.call("POST", f"/skills/{quote(name, safe='')}/render", body)).content
    except OrcError as error:
        raise _refused(error) from error
    message = PromptMessage(role="user", content=TextContent(type="text", text=found["text"]))
    return GetPromptResult(description=found.get("description"), messages=[message])


def _refused(error: OrcError) -> MCPError:
    words, data = explain(error)
    wrong = isinstance(error, RequestFailed) and error.status in {404, 422}
    return MCPError(INVALID_PARAMS if wrong else INTERNAL_ERROR, words, data)
