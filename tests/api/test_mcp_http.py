"""/mcp as a client of the SDK sees it: a real server, a real connection."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from orchestrator import agenttools
from tests.support.agents import data, words
from tests.support.plans import bindable
from tests.support.service import InProcess, RealServer, real_server

PING = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server for all: each test has its own token and runs."""
    with real_server(tmp_path_factory.mktemp("mcp") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


def token(server: RealServer, name: str, *scopes: str, **fields: Any) -> str:
    """A new token's secret."""
    return str(server.post("/tokens", {"name": name, "scopes": list(scopes), **fields})["token"])


def admin(server: RealServer) -> str:
    return (server.home / "token").read_text().strip()


@asynccontextmanager
async def connected(
    server: RealServer, secret: str, mode: str = "auto", statuses: list[int] | None = None
) -> AsyncIterator[Client]:
    """The SDK's client with a token. ``statuses``: each answer's is noted there."""

    async def note(answer: httpx2.Response) -> None:
        if statuses is not None:
            statuses.append(answer.status_code)

    url = f"{str(server.http.base_url).rstrip('/')}/mcp"
    hooks = {"response": [note]}
    headers = {"Authorization": f"Bearer {secret}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, event_hooks=hooks, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


# -- the door ----------------------------------------------------------------------------------------------------------


def test_without_a_token_there_is_nothing(shared: RealServer) -> None:
    for headers in ({"X-Auth-Token": ""}, {"X-Auth-Token": "wrong"}):
        answer = shared.http.post("/mcp", json=PING, headers=headers | ACCEPT)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_another_host_name_is_refused(shared: RealServer) -> None:
    answer = shared.http.post("/mcp", json=PING, headers=ACCEPT | {"Host": "evil.example"})
    assert answer.status_code == 421


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_only_posts_are_served(shared: RealServer, method: str) -> None:
    assert shared.refused(method, "/mcp", headers=ACCEPT)[0] == 405


def test_a_page_elsewhere_is_allowed_nothing(shared: RealServer) -> None:
    answer = shared.http.post("/mcp", json=PING, headers=ACCEPT | {"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"jsonrpc": "2.0"}', b"\xff"])
def test_what_is_no_message_is_refused(shared: RealServer, content: bytes) -> None:
    headers = ACCEPT | {"Content-Type": "application/json"}
    assert shared.http.post("/mcp", content=content, headers=headers).status_code == 400


def test_where_the_sdk_is_missing_it_says_so(service: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenttools, "installed", lambda: False)
    status, detail = service.refused("POST", "/mcp", PING)
    assert status == 501
    assert "pip install 'hpc-orchestrator[mcp]'" in detail


def test_it_is_no_part_of_the_schema(shared: RealServer) -> None:
    assert "/mcp" not in shared.get("/openapi.json")["paths"]


# -- talking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_run_is_made_waited_for_and_read(shared: RealServer, mode: str) -> None:
    async def main() -> None:
        async with connected(shared, admin(shared), mode) as client:
            assert "approve" in (client.instructions or "")
            assert len((await client.list_tools()).tools) > 20
            assert (await client.list_prompts()).prompts is not None
            made = data(await client.call_tool("create_run", {"run": {"name": "ü", "command": "echo 你好"}}))
            over = data(await client.call_tool("wait", {"run_ids": [made["id"]]}))
            assert (over["over"], over["counts"]) == (True, {"finished": 1})
            assert "你好" in words(await client.call_tool("logs", {"run_id": made["id"]}))

    asyncio.run(main())


def test_a_run_waits_for_as_long_as_the_client_asks(shared: RealServer) -> None:
    async def main() -> None:
        async with connected(shared, admin(shared)) as client:
            made = data(await client.call_tool("create_run", {"run": {"name": "x", "command": "sleep 60"}}))
            found = data(await client.call_tool("wait", {"run_ids": [made["id"]], "timeout": 0.2}))
            assert (found["over"], found["waiting"]) == (False, 1)
            await client.call_tool("stop", {"run_id": made["id"]})
            assert data(await client.call_tool("wait", {"run_ids": [made["id"]]}))["counts"] == {"stopped": 1}

    asyncio.run(main())


def test_a_cancelled_wait_leaves_the_connection_good(shared: RealServer) -> None:
    async def main() -> None:
        async with connected(shared, admin(shared)) as client:
            made = data(await client.call_tool("create_run", {"run": {"name": "x", "command": "sleep 60"}}))
            waiting = asyncio.create_task(client.call_tool("wait", {"run_ids": [made["id"]], "timeout": 300}))
            assert data(await client.call_tool("run", {"run_id": made["id"]}))["id"] == made["id"]
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not (await client.call_tool("stop", {"run_id": made["id"]})).is_error

    asyncio.run(main())


def test_a_repeat_under_a_key_makes_one_run(shared: RealServer) -> None:
    async def main() -> None:
        run = {"run": {"name": "once", "command": "true", "auto_start": False}, "idempotency_key": "once"}
        async with connected(shared, admin(shared)) as client:
            first, again = [data(await client.call_tool("create_run", run)) for _ in range(2)]
            assert first["id"] == again["id"]

    asyncio.run(main())


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_two_at_once_are_each_who_they_are(shared: RealServer) -> None:
    names = [f"agent-{number}" for number in range(4)]
    secrets = {name: token(shared, name, "run") for name in names}

    async def submit(name: str) -> list[str]:
        async with connected(shared, secrets[name], "legacy" if name.endswith("3") else "auto") as client:
            run = {"run": {"name": name, "command": "true", "auto_start": False}}
            made = await asyncio.gather(*(client.call_tool("create_run", run) for _ in range(10)))
            return [data(result)["id"] for result in made]

    async def main() -> list[list[str]]:
        return list(await asyncio.gather(*map(submit, names)))

    for name, ids in zip(names, asyncio.run(main()), strict=True):
        assert {shared.get(f"/runs/{run_id}")["created_by"] for run_id in ids} == {f"token:{name}"}


def test_each_call_needs_its_own_scope(shared: RealServer) -> None:
    secret = token(shared, "reader", "read")

    async def main() -> None:
        async with connected(shared, secret) as client:
            assert not (await client.call_tool("cluster", {})).is_error
            for tool, arguments in (("create_run", {"run": {"name": "x", "command": "true"}}), ("detect", {})):
                refused = await client.call_tool(tool, arguments)
                assert refused.is_error
                assert "the token 'reader' has read" in words(refused)

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_revoked_token_is_refused_at_the_next_request(shared: RealServer, mode: str) -> None:
    secret, statuses = token(shared, f"short-lived-{mode}", "read"), list[int]()

    async def main() -> None:
        async with connected(shared, secret, mode, statuses) as client:
            assert not (await client.call_tool("cluster", {})).is_error
            shared.http.delete(f"/tokens/short-lived-{mode}").raise_for_status()
            with pytest.raises(Exception, match=r"401|Unauthorized|error"):
                await client.call_tool("cluster", {})

    asyncio.run(main())
    assert statuses[-1] == 401


def test_a_plan_binds_here_too(shared: RealServer) -> None:
    secret = token(shared, "bound", "plan", "run", require_plan=True)

    async def main() -> None:
        async with connected(shared, secret) as client:
            refused = await client.call_tool("create_run", {"run": {"name": "x", "command": "true"}})
            assert "no plan was named" in words(refused)
            saved = await client.call_tool("save_plan", {"title": "x", "goal": "y", "raw_markdown": bindable()})
            plan_id = data(saved)["id"]
            assert f"orc plan approve {plan_id}" in words(saved)
            shared.post(f"/plans/{plan_id}/approve")
            preview = data(await client.call_tool("preview_execution", {"plan_id": plan_id}))
            assert preview["runs"] == 4
            outside = {"name": "x", "command": "echo lr=0.1 seed=1", "plan_id": plan_id, "env": {"A": "b"}}
            refused = await client.call_tool("create_run", {"run": outside})
            assert f"orc plan amend {plan_id}" in words(refused)
            executed = data(await client.call_tool("execute_plan", {"plan_id": plan_id}))
            over = data(await client.call_tool("wait", {"plan_id": plan_id}))
            assert (over["counts"], executed["status"]) == ({"finished": 4}, "executing")

    asyncio.run(main())


# -- the service around it ---------------------------------------------------------------------------------------------


def test_its_own_calls_go_by_the_name_that_the_client_used(tmp_path: Path) -> None:
    with real_server(tmp_path / "home", {"ORC_ALLOWED_HOSTS": '["127.0.0.1"]'}) as server:

        async def main() -> None:
            async with connected(server, admin(server)) as client:
                assert not (await client.call_tool("cluster", {})).is_error

        asyncio.run(main())


def test_a_server_that_ends_keeps_no_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with real_server(tmp_path / "home") as server:

        async def main() -> None:
            async with connected(server, admin(server)) as client:
                made = data(await client.call_tool("create_run", {"run": {"name": "x", "command": "sleep 60"}}))
                waiting = asyncio.create_task(client.call_tool("wait", {"run_ids": [made["id"]], "timeout": 300}))
                assert not (await client.call_tool("run", {"run_id": made["id"]})).is_error
                begun = time.monotonic()
                await asyncio.to_thread(server.stop)
                assert time.monotonic() - begun < 15
                await asyncio.wait([waiting], timeout=15)
                assert waiting.done()

        asyncio.run(main())
    assert "Traceback" not in server.words()
