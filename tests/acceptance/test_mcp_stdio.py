"""``orc mcp`` as an MCP client starts it: a process of its own, the protocol on its standard streams."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from orchestrator import agenttools
from orchestrator.cli.main import main as orc
from orchestrator.cli.mcp import configuration
from orchestrator.client import Client as OrcClient
from tests.support.agents import data, words
from tests.support.plans import bindable
from tests.support.service import RealServer, end_runs, real_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
ORC = str(Path(sys.executable).with_name("orc"))
MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server for all: each test has its own token and runs."""
    with real_server(tmp_path_factory.mktemp("mcp") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


def token_file(server: RealServer, name: str, *scopes: str, **fields: Any) -> str:
    """The file of a new token."""
    return str(server.post("/tokens", {"name": name, "scopes": list(scopes), **fields})["file"])


@asynccontextmanager
async def agent(home: Path, mode: str = "auto", **environment: str) -> AsyncIterator[Client]:
    """The SDK's client with an ``orc mcp`` of its own. What it writes to standard error goes to a file in the home."""
    home.mkdir(mode=0o700, exist_ok=True)
    with (home / "agents.log").open("a") as log:
        parameters = StdioServerParameters(
            command=ORC, args=["mcp"], env={"ORC_HOME": str(home), **environment}, cwd=home
        )
        async with Client(stdio_client(parameters, errlog=log), mode=mode) as client:
            yield client


async def made(client: Client, command: str) -> str:
    """A run that starts at once."""
    return str(data(await client.call_tool("create_run", {"run": {"name": "x", "command": command}}))["id"])


def test_the_loop_from_detection_to_what_came_of_it(server: RealServer) -> None:
    async def main() -> None:
        async with agent(server.home) as client:
            assert "approve" in (client.instructions or "")
            tools = (await client.list_tools()).tools
            assert all(tool.annotations is not None and tool.description for tool in tools)
            assert data(await client.call_tool("detect", {}))["cluster"]["type"] == "cpu_only"
            plan = {"title": "x", "goal": "y", "raw_markdown": bindable("echo 学习率={lr} $ORC_PARAM_SEED")}
            assert data(await client.call_tool("check_plan", {"raw_markdown": plan["raw_markdown"]}))["problems"] == []
            plan_id = data(await client.call_tool("save_plan", plan))["id"]
            early = await client.call_tool("execute_plan", {"plan_id": plan_id})
            assert early.is_error
            server.post(f"/plans/{plan_id}/approve")
            data(await client.call_tool("execute_plan", {"plan_id": plan_id}))
            over = data(await client.call_tool("wait", {"plan_id": plan_id}))
            assert over["counts"] == {"finished": 4}
            found = data(await client.call_tool("runs", {"plan_id": plan_id}))["runs"]
            assert "学习率=0.1" in words(await client.call_tool("logs", {"run_id": found[-1]["id"]}))
            assert data(await client.call_tool("why", {"run_id": found[0]["id"]}))["category"] == "finished"
            assert data(await client.call_tool("usage", {"plan_id": plan_id}))["total"]["runs"] == 4

    asyncio.run(main())


def test_a_token_that_needs_a_plan_runs_nothing_without_one(server: RealServer) -> None:
    file = token_file(server, "bound", "plan", "run", require_plan=True)

    async def main() -> None:
        async with agent(server.home, ORC_TOKEN_FILE=file) as client:
            refused = await client.call_tool("create_run", {"run": {"name": "x", "command": "true"}})
            assert refused.is_error
            assert "The token 'bound' runs only what an approved plan says" in words(refused)
            plan = {"title": "x", "goal": "y", "raw_markdown": bindable()}
            plan_id = data(await client.call_tool("save_plan", plan))["id"]
            server.post(f"/plans/{plan_id}/approve")
            outside = {"run": {"name": "x", "command": "rm -rf /", "plan_id": plan_id}}
            refused = await client.call_tool("create_run", outside)
            assert f"orc plan amend {plan_id}" in words(refused)
            assert refused.structured_content is not None
            assert refused.structured_content["amendment"]["exact_commands"] == ["rm -rf /"]

    asyncio.run(main())


def test_a_wrong_token_and_one_that_is_revoked_in_the_middle_are_told(server: RealServer, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nonsense\n")
    file = token_file(server, "short-lived", "read")
    kept = tmp_path / "kept"  # the server takes its own file away with the token
    kept.write_text(Path(file).read_text())

    async def main() -> None:
        async with agent(server.home, ORC_TOKEN_FILE=str(wrong)) as client:
            refused = await client.call_tool("cluster", {})
            assert refused.is_error
            assert "not one of this server's" in words(refused)
        async with agent(server.home, ORC_TOKEN_FILE=str(kept)) as client:
            assert not (await client.call_tool("cluster", {})).is_error
            server.http.delete("/tokens/short-lived").raise_for_status()
            refused = await client.call_tool("cluster", {})
            assert refused.is_error
            assert "ask a person" in words(refused).lower()
            kept.unlink()
            assert "cannot be read" in words(await client.call_tool("cluster", {}))

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_wait_is_cancelled_and_a_run_stopped(server: RealServer, mode: str) -> None:
    async def main() -> None:
        async with agent(server.home, mode) as client:
            run_id = await made(client, "sleep 100")
            waiting = asyncio.create_task(client.call_tool("wait", {"run_ids": [run_id], "timeout": 300}))
            assert data(await client.call_tool("run", {"run_id": run_id}))["id"] == run_id
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            data(await client.call_tool("stop", {"run_id": run_id}))
            assert data(await client.call_tool("wait", {"run_ids": [run_id]}))["counts"] == {"stopped": 1}

    asyncio.run(main())


def test_a_long_log_is_read_in_parts(server: RealServer) -> None:
    async def main() -> None:
        async with agent(server.home) as client:
            run_id = await made(client, f"head -c {MIB} /dev/zero | tr '\\0' x; echo; echo 終わり")
            data(await client.call_tool("wait", {"run_ids": [run_id]}))
            last = await client.call_tool("logs", {"run_id": run_id})
            assert words(last).endswith("終わり\n")
            assert len(words(last)) < 8000
            found = data(last)
            assert (found["total_size"], found["has_more_before"]) == (MIB + 11, True)
            first = data(await client.call_tool("logs", {"run_id": run_id, "offset": 0, "limit": 7000}))
            assert (first["content"], first["next_offset"]) == ("x" * 7000, 7000)

    asyncio.run(main())


def test_two_clients_at_once_are_each_who_they_are(server: RealServer) -> None:
    files = {name: token_file(server, name, "run") for name in ("one", "two")}

    async def submit(name: str) -> str:
        async with agent(server.home, ORC_TOKEN_FILE=files[name]) as client:
            ids = await asyncio.gather(*(made(client, "true") for _ in range(5)))
            assert not data(await client.call_tool("wait", {"run_ids": ids}))["waiting"]
            return ids[0]

    async def main() -> list[str]:
        return list(await asyncio.gather(submit("one"), submit("two")))

    found = [server.get(f"/runs/{run_id}")["created_by"] for run_id in asyncio.run(main())]
    assert found == ["token:one", "token:two"]


def test_a_server_is_started_when_there_is_none_and_found_again_when_it_is_another(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def main() -> None:
        async with agent(home) as client:
            first = await _pid_after_a_call(client, home)
            path = json.loads((home / "server.json").read_text())["socket"]
            os.kill(first, 9)
            wait_until(lambda: _refused(path), "the socket closed")
            second = await _pid_after_a_call(client, home)
            assert second != first

    try:
        asyncio.run(main())
    finally:
        os.kill(json.loads((home / "server.json").read_text())["pid"], 15)
        end_runs(home / "runs")


def test_an_agent_that_starts_the_server_stays_who_it_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with real_server(home) as first:
        file = token_file(first, "bound", "plan", "run", require_plan=True)

    async def main() -> None:
        async with agent(home, ORC_TOKEN_FILE=file) as client:
            await _pid_after_a_call(client, home)
            refused = await client.call_tool("create_run", {"run": {"name": "x", "command": "true"}})
            assert "The token 'bound' runs only what an approved plan says" in words(refused)

    try:
        asyncio.run(main())
        with OrcClient(home, start=False) as person:
            assert person.request("GET", "/tokens/self")["name"] == "admin"
    finally:
        os.kill(json.loads((home / "server.json").read_text())["pid"], 15)
        end_runs(home / "runs")


def _refused(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) != 0


async def _pid_after_a_call(client: Client, home: Path) -> int:
    data(await client.call_tool("cluster", {}))
    return int(json.loads((home / "server.json").read_text())["pid"])


def test_nothing_but_the_protocol_is_on_standard_output(server: RealServer) -> None:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        "nonsense",
    ]
    done = subprocess.run(
        [ORC, "mcp"],
        input="".join(json.dumps(message) + "\n" for message in messages),
        env={**os.environ, "ORC_HOME": str(server.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert answers[0]["result"]["serverInfo"]["name"] == "orc"


def test_a_configuration_is_printed_for_clients(tmp_path: Path) -> None:
    environment = {**os.environ, "ORC_HOME": str(tmp_path), "ORC_TOKEN_FILE": "/secret/file"}
    done = subprocess.run([ORC, "mcp", "--print-config"], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "mcpServers": {
            "orc": {
                "command": ORC,
                "args": ["mcp"],
                "env": {"ORC_HOME": str(tmp_path), "ORC_TOKEN_FILE": "/secret/file"},
            }
        }
    }


def test_a_configuration_names_places_that_are_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("ORC_HOME", "home"), ("ORC_TOKEN_FILE", "agents-token")):
        monkeypatch.setenv(name, value)
    found = configuration()["env"]
    assert found == {"ORC_HOME": str(tmp_path / "home"), "ORC_TOKEN_FILE": str(tmp_path / "agents-token")}


def test_a_token_that_is_in_no_file_is_no_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORC_TOKEN", "an agent's secret")
    with pytest.raises(SystemExit) as ended:
        orc(["mcp", "--print-config"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "ORC_TOKEN_FILE" in said.err
    assert "secret" not in said.out + said.err


def test_where_the_sdk_is_missing_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agenttools, "installed", lambda: False)
    with pytest.raises(SystemExit) as caught:
        orc(["mcp"])
    assert caught.value.code == 2
    assert "pip install 'hpc-orchestrator[mcp]'" in capsys.readouterr().err


def test_orc_itself_does_not_load_the_sdk() -> None:
    code = "import sys, api.app, orchestrator.cli.main; print([name for name in sys.modules if name.startswith('mcp')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(ORC).parents[2]
    )
    assert done.stdout.strip() == "[]"
