"""From a goal to a report on a cluster: the agent plans, a person approves, Slurm runs it."""

from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.loops import Curl, agent_token, drive
from tests.support.mcploops import by_http, by_stdio
from tests.support.service import RealServer

pytestmark = pytest.mark.acceptance


def test_by_curl_alone(orc: RealServer, files: Path) -> None:
    token = agent_token(orc, f"agent-{uuid4().hex[:8]}")
    report = drive(Curl(orc, token["header_file"]), orc, files)
    assert "| resources | 1 GPU each |" in report


def test_by_an_mcp_client_over_stdio(orc: RealServer, files: Path) -> None:
    with by_stdio(orc, agent_token(orc, f"agent-{uuid4().hex[:8]}")) as agent:
        drive(agent, orc, files)


def test_by_an_mcp_client_over_http(orc: RealServer, files: Path) -> None:
    with by_http(orc, agent_token(orc, f"agent-{uuid4().hex[:8]}")) as agent:
        drive(agent, orc, files)
