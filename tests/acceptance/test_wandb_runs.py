"""A run that logs with the real wandb, offline: its metrics appear while it runs."""

import sys
from pathlib import Path

import pytest

from tests.support.service import RealServer

pytestmark = pytest.mark.acceptance

PROGRAM = """
import os, time, wandb
run = wandb.init(project="p", mode="offline", settings=wandb.Settings(x_transaction_log_flush_interval=0.2))
for i in range(20):
    run.log({"loss": 1.0 / (i + 1), "nested": {"acc": i}})
while not os.path.exists(os.environ["GO"]):
    time.sleep(0.05)
run.log({"loss": -1.0})
run.finish()
"""


def test_metrics_of_wandb_are_read_while_the_run_runs(server: RealServer, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    env = {"GO": str(tmp_path / "go"), "WANDB_SILENT": "true"}
    run = server.run(f"{sys.executable} {program}", env=env)
    assert server.counted(run["id"], "loss", 20)["status"] == "running"
    (tmp_path / "go").touch()
    over = server.over(run["id"])
    assert over["status"] == "finished", server.log(run["id"])
    over = server.counted(run["id"], "loss", 21)
    summary = over["metricSummary"]
    assert (summary["loss"]["last"], summary["loss"]["max"]) == (-1.0, 1.0)
    assert summary["nested/acc"]["last"] == 19.0
    assert over["metrics"]["loss"] == -1.0
