"""The seed's curl lines, to the letter, with its placeholders filled in: curl itself against a real server."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import RealServer

pytestmark = pytest.mark.acceptance

DETECT = """
curl -X POST {{server_url}}/cluster/detect {{auth_header}}
"""
CLUSTER = """
curl -X GET {{server_url}}/cluster {{auth_header}}
"""
SWEEP = """
curl -X POST {{server_url}}/sweeps/wild \\
  -H "Content-Type: application/json" \\
  {{auth_header}} \\
  -d '{"name": "descriptive-sweep-name", "goal": "what this sweep tests"}'
"""
RUN = """
curl -X POST {{server_url}}/runs \\
  -H "Content-Type: application/json" \\
  {{auth_header}} \\
  -d '{
    "name": "trial-name",
    "command": "source .venv/bin/activate && cd /path && python train.py --lr 0.001",
    "sweep_id": "<sweep_id>",
    "auto_start": true,
    "gpuwrap_config": {"enabled": true}
  }'
"""
RUNS = """
curl -X GET {{server_url}}/runs {{auth_header}}
"""
PLAN = """
curl -s -X POST "{{server_url}}/plans" \\
  -H "Content-Type: application/json" \\
  -H "X-Auth-Token: {{auth_token}}" \\
  -d '{
    "title": "<your plan title>",
    "goal": "<the objective section text>",
    "session_id": null,
    "raw_markdown": "<the FULL plan markdown starting from ## 📋 Plan: ...>"
  }'
"""


@pytest.fixture(params=["the token", "a file"])
def curl(server: RealServer, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Runs one of the lines; ``{{auth_header}}`` as the seed's project renders it, and from a file as we do."""
    token = (server.home / "token").read_text().strip()
    header = tmp_path / "header"
    header.write_text(f"X-Auth-Token: {token}\n")
    auth = f'-H "X-Auth-Token: {token}"' if request.param == "the token" else f"-H @{header}"
    values = {"server_url": str(server.http.base_url).rstrip("/"), "auth_header": auth, "auth_token": token}

    def run(line: str, **more: str) -> Any:
        text = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], line)
        for name, value in more.items():
            text = text.replace(f"<{name}>", value)
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60, check=True)
        return json.loads(done.stdout)

    return run


def test_an_agent_goes_through_the_seeds_steps(server: RealServer, curl: Any) -> None:
    venv = server.home / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text('python() { echo trained "$@"; }\n')
    assert curl(DETECT)["cluster"]["source"] == "detected"
    assert set(curl(CLUSTER)["run_summary"]) >= {"total", "running", "queued"}
    sweep = curl(SWEEP)
    assert (sweep["is_wild"], sweep["goal"]) == (True, "what this sweep tests")
    run = curl(RUN.replace("cd /path", "cd /"), sweep_id=sweep["id"])
    assert (run["status"], run["sweep_id"], run["gpuwrap_config"]["enabled"]) == ("queued", sweep["id"], True)
    assert server.over(run["id"])["status"] == "finished", server.log(run["id"])
    assert server.log(run["id"]) == "trained train.py --lr 0.001\n"
    assert [item["id"] for item in curl(RUNS)] == [run["id"]]
    plan = curl(PLAN)
    assert (plan["status"], bool(plan["id"])) == ("draft", True)


def test_an_unknown_sweep_is_told(curl: Any) -> None:
    assert "sweep" in curl(RUN)["detail"]
