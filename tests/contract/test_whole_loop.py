"""From a goal to a report on a cluster: the agent plans, a person approves, Slurm runs it."""

from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.loops import Curl, agent_token, drive
from tests.support.service import RealServer

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]


def test_by_curl_alone(orc: RealServer, files: Path) -> None:
    token = agent_token(orc, f"agent-{uuid4().hex[:8]}")
    report = drive(Curl(orc, token["header_file"]), orc, files)
    assert "| GPU-hours | 1 GPU each | 1 |" in report
