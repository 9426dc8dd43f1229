"""The whole loop: detect, advise, plan, refuse to run, approve, execute, watch, report. Whoever drives it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.support.plans import GOOD
from tests.support.service import Json, RealServer

RATES = (0.1, 0.2, 0.4, 0.8)


class Driver(Protocol):
    """An agent that talks to the service in one way or another; it needs a plan for what it runs."""

    def detect(self) -> Json: ...
    def advice(self, workdir: str) -> Json: ...
    def brief(self, goal: str) -> str: ...
    def save(self, title: str, goal: str, markdown: str) -> Json: ...
    def refused(self, what: str, arguments: Json) -> str: ...
    def execute(self, plan_id: str) -> Json: ...
    def create_run(self, body: Json) -> Json: ...
    def runs(self, plan_id: str) -> list[Json]: ...
    def wait(self, ids: list[str]) -> bool: ...
    def why(self, run_id: str) -> Json: ...
    def report(self, plan_id: str) -> str: ...


def agent_token(orc: RealServer, name: str) -> Json:
    """A token for one agent."""
    body = {"name": name, "scopes": ["plan", "run"], "require_plan": True}
    return dict(orc.post("/tokens", body))


def plan_for(cluster: Mapping[str, Any], command: str, workdir: str) -> str:
    """A plan for this cluster, of four runs."""
    slurm = cluster["type"] == "slurm"
    resources = f"[resources]\ntime = 5\n{'gpus = 1' if slurm else 'cpus = 1'}\n"
    budget = f"[budget]\nruns = 6\n{'gpu_hours = 1' if slurm else ''}\n"
    block = f"```toml orc\ncommand = '''{command}'''\nworkdir = {json.dumps(workdir)}\n{resources}{budget}```"
    setup = f"- Cluster type: {cluster['type']}\n- GPU count: {1 if slurm else 0}\n- gpuwrap: disabled"
    text = GOOD.replace("- Cluster type: local_gpu\n- GPU count: 4\n- gpuwrap: enabled", setup)
    rows = "| lr | 0.001, 0.01 | the usual range |\n| seed | 1, 2, 3 | how much chance there is |"
    text = text.replace(rows, f"| lr | {', '.join(map(str, RATES))} | |")
    text = text.replace("- **Runs**: 6", "- **Runs**: 4")
    return text.replace("3. Compare the runs\n", f"3. Compare the runs\n\n{block}\n")


def drive(agent: Driver, orc: RealServer, files: Path) -> str:
    """The loop, from nothing to the report; ``orc`` is the person's own way in."""
    cluster = agent.detect()["cluster"]
    advice = agent.advice(str(files))
    assert advice["cluster"]["type"] == cluster["type"]
    assert advice["compute_setup"].startswith(f"- Cluster type: {cluster['type']}\n")
    assert "a good rate" in agent.brief("a good rate")

    go = files / "go"
    loss = '{"step": 1, "val/loss": \'{lr}\'}'
    command = f"until [ -e {go} ]; do sleep 0.05; done; echo '{loss}' >> $ORC_METRICS_FILE"
    plan = agent.save("Rates", "a good rate", plan_for(cluster, command, str(files)))
    assert (plan["status"], plan["problems"]) == ("draft", [])

    run = {"name": "one more", "command": command.replace("{lr}", "0.4"), "plan_id": plan["id"], "auto_start": True}
    assert f"Plan {plan['id']} is draft" in agent.refused("create_run", run)
    assert "approved" in agent.refused("execute_plan", {"plan_id": plan["id"]})
    assert orc.post(f"/plans/{plan['id']}/approve")["approved_by"] == "token:admin"

    executed = agent.execute(plan["id"])
    assert executed["status"] == "executing"
    made = agent.create_run(run)
    outside = agent.refused("create_run", run | {"command": run["command"].replace("0.4", "0.5")})
    assert "parameters.lr" in outside
    assert f"orc plan amend {plan['id']}" in outside
    assert "environment" not in agent.why(made["id"])["category"]

    ids = [found["id"] for found in agent.runs(plan["id"])]
    assert len(ids) == len(RATES) + 1
    go.touch()
    assert agent.wait(ids)
    done = [orc.get(f"/runs/{run_id}") for run_id in ids]
    assert {found["status"] for found in done} == {"finished"}, done
    orc.until_plan(plan["id"], "completed")
    for run_id in ids:
        orc.counted(run_id, "val/loss", 1)
    report = agent.report(plan["id"])
    assert "**`lr` = `0.1`**: `val/loss` = 0.1" in report
    assert "| val/loss &lt; 0.5 | ✅ met | 0.1 |" in report
    return report


class Curl:
    """An agent with nothing but curl, and its token in a file, as the seed's agents are."""

    def __init__(self, orc: RealServer, header_file: str) -> None:
        self._url = str(orc.http.base_url).rstrip("/")
        self._header = f"@{header_file}"

    def _curl(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        command = ["curl", "-sS", "-X", method, f"{self._url}{path}", "-H", self._header, "-w", "\n%{http_code}"]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        text, _, code = done.stdout.rpartition("\n")
        return int(code), json.loads(text) if text.startswith(("{", "[")) else text

    def _good(self, method: str, path: str, body: Any = None) -> Any:
        code, answer = self._curl(method, path, body)
        assert code == 200, answer
        return answer

    def detect(self) -> Json:
        return dict(self._good("POST", "/cluster/detect"))

    def advice(self, workdir: str) -> Json:
        return dict(self._good("GET", f"/advice?goal=a%20good%20rate&workdir={workdir}"))

    def brief(self, goal: str) -> str:
        return str(self._good("POST", "/skills/plan/render", {"goal": goal})["text"])

    def save(self, title: str, goal: str, markdown: str) -> Json:
        body = {"title": title, "goal": goal, "session_id": None, "raw_markdown": markdown}
        return dict(self._good("POST", "/plans", body))

    def refused(self, what: str, arguments: Json) -> str:
        path = "/runs" if what == "create_run" else f"/plans/{arguments['plan_id']}/execute"
        code, answer = self._curl("POST", path, arguments if what == "create_run" else None)
        assert code in {400, 403}, answer
        return json.dumps(answer, ensure_ascii=False)

    def execute(self, plan_id: str) -> Json:
        return dict(self._good("POST", f"/plans/{plan_id}/execute"))

    def create_run(self, body: Json) -> Json:
        return dict(self._good("POST", "/runs", body))

    def runs(self, plan_id: str) -> list[Json]:
        return list(self._good("GET", f"/runs?plan_id={plan_id}"))

    def wait(self, ids: list[str]) -> bool:
        return bool(self._good("POST", "/runs/wait", {"ids": ids, "timeout": 100})["over"])

    def why(self, run_id: str) -> Json:
        return dict(self._good("GET", f"/runs/{run_id}/why"))

    def report(self, plan_id: str) -> str:
        return str(self._good("GET", f"/plans/{plan_id}/report?format=markdown"))
