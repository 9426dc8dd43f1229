"""A plan's GPU-hours on a cluster: never exceeded by more than what one run can use."""

import threading
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.looking import marks
from tests.support.loops import agent_token, plan_for
from tests.support.service import RealServer

pytestmark = pytest.mark.acceptance


def test_fifty_submissions_at_once_get_what_the_budget_has(orc: RealServer, files: Path) -> None:
    agent = agent_token(orc, f"agent-{uuid4().hex[:8]}")
    headers = {"X-Auth-Token": agent["token"]}
    go = files / "go"  # until then none ends, and makes room for another
    command = f"until [ -e {go} ]; do sleep 0.05; done; echo $ORC_RUN_ID >> {files / 'marks'}; echo {{lr}}"
    text = plan_for(orc.get("/cluster")["cluster"], command, str(files)).replace("time = 5", "time = 6")
    plan = orc.http.post("/plans", json={"title": "x", "goal": "y", "raw_markdown": text}, headers=headers).json()
    orc.post(f"/plans/{plan['id']}/approve", {"budget": {"gpu_hours": 1.05, "runs": 100}})
    run = {"name": "x", "command": command.replace("{lr}", "0.1"), "plan_id": plan["id"], "auto_start": True}
    answers: list[int] = []

    def submit() -> None:
        answers.append(orc.http.post("/runs", json=run, headers=headers).status_code)

    threads = [threading.Thread(target=submit) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 10 + [403] * 40
    made = orc.get("/runs", plan_id=plan["id"], limit=100)
    assert len(made) == 10
    go.touch()
    assert orc.post("/runs/wait", {"ids": [found["id"] for found in made], "timeout": 50})["over"]
    assert len(marks(files / "marks")) == len(made)
    budget = orc.get(f"/plans/{plan['id']}")["budget"]
    assert (budget["reserved_gpu_hours"], budget["used_runs"]) == (0, len(made))
    assert budget["used_gpu_hours"] < 1.05
