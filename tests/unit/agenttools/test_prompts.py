"""The service's skills are prompts."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from orchestrator.client import RequestFailed
from orchestrator.errors import ServerUnreachable
from tests.support.agents import StubCaller, with_client

SKILLS = [{"name": "plan", "description": "Writes a plan."}, {"name": "../tokens", "description": "no"}]


def listed(caller: StubCaller) -> Any:
    return with_client(caller, lambda client: client.list_prompts()).prompts


def rendered(caller: StubCaller, name: str, **arguments: str) -> Any:
    return with_client(caller, lambda client: client.get_prompt(name, arguments))


def refusal(caller: StubCaller, ask: Callable[[Client], Awaitable[Any]]) -> MCPError:
    """The error that it must be answered with, caught before the connection's task groups wrap it."""

    async def talk(client: Client) -> MCPError:
        with pytest.raises(MCPError) as caught:
            await ask(client)
        return caught.value

    return with_client(caller, talk)


def test_each_skill_is_a_prompt_that_takes_a_goal() -> None:
    (prompt,) = listed(StubCaller({"GET /skills": SKILLS}))
    assert (prompt.name, prompt.description) == ("plan", "Writes a plan.")
    assert [(argument.name, argument.required) for argument in prompt.arguments] == [("goal", False)]


def test_an_older_server_has_no_prompts() -> None:
    assert listed(StubCaller({"GET /skills": RequestFailed(404, "Not Found")})) == []


@pytest.mark.parametrize("error", [RequestFailed(401, "revoked"), ServerUnreachable("revoked, and gone")])
def test_a_failure_is_told(error: Exception) -> None:
    assert "revoked" in str(refusal(StubCaller({"GET /skills": error}), lambda client: client.list_prompts()))


def test_a_prompt_is_filled_in_by_the_service() -> None:
    caller = StubCaller({"POST /skills/plan/render": {"text": "Plan for ü."}})
    found = rendered(caller, "plan", goal="ü")
    assert [(message.role, message.content.text) for message in found.messages] == [("user", "Plan for ü.")]
    assert caller.asked == [("POST", "/skills/plan/render", {"goal": "ü"}, {}, None)]


def test_a_goal_may_be_left_out() -> None:
    caller = StubCaller({"POST /skills/plan/render": {"text": "A plan."}})
    rendered(caller, "plan")
    assert caller.asked[0][2] == {"goal": ""}


@pytest.mark.parametrize("name", ["nope", "../tokens", "a/b", ""])
def test_a_prompt_that_is_not_there_is_told(name: str) -> None:
    caller = StubCaller(otherwise=RequestFailed(404, "There is no skill."))
    assert "There is no" in str(refusal(caller, lambda client: client.get_prompt(name)))
    assert [path for _, path, *_ in caller.asked] in ([], ["/skills/nope/render"])
