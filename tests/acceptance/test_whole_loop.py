"""From a goal to a report, on a machine without GPUs: the agent plans, a person approves, the service runs it."""

from pathlib import Path

import pytest

from tests.support.loops import Curl, agent_token, drive
from tests.support.mcploops import by_http, by_stdio
from tests.support.service import RealServer

pytestmark = pytest.mark.acceptance


def test_by_curl_alone(server: RealServer, tmp_path: Path) -> None:
    server.post("/cluster/detect", {"preferred_type": "cpu_only"})
    drive(Curl(server, agent_token(server, "agent")["header_file"]), server, tmp_path)


def test_by_an_mcp_client_over_stdio(server: RealServer, tmp_path: Path) -> None:
    server.post("/cluster/detect", {"preferred_type": "cpu_only"})
    with by_stdio(server, agent_token(server, "agent")) as agent:
        drive(agent, server, tmp_path)


def test_by_an_mcp_client_over_http(server: RealServer, tmp_path: Path) -> None:
    server.post("/cluster/detect", {"preferred_type": "cpu_only"})
    with by_http(server, agent_token(server, "agent")) as agent:
        drive(agent, server, tmp_path)
