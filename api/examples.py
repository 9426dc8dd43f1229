"""An example of each request's body, shown in the OpenAPI schema."""

from typing import Any

from pydantic import BaseModel

from orchestrator import shapes

RESOURCES = {"gpus": 1, "mem": "16G", "time": "1:00:00"}
RUN: dict[str, Any] = {
    "name": "lr=0.001",
    "command": "source .venv/bin/activate && python train.py --lr 0.001",
    "workdir": "/home/ada/project",
    "auto_start": True,
    "resources": RESOURCES,
    "tags": ["baseline"],
}
MARKDOWN = "## 📋 Plan: Learning rate\n\n### Objective\nFind a learning rate.\n…"

EXAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    shapes.RunCreate: RUN,
    shapes.RunsCreate: {"runs": [RUN, RUN | {"name": "lr=0.01", "command": "python train.py --lr 0.01"}]},
    shapes.RunsWait: {"ids": ["3f2a9c81d4e0", "77b1c2d3e4f5"], "until": "any", "timeout": 60},
    shapes.RunUpdate: {"name": "a better name"},
    shapes.RunRerun: {"auto_start": True, "resources": {"mem": "32G"}},
    shapes.RunReport: {"status": "failed", "exit_code": 1, "error": "no such file"},
    shapes.MetricRows: {"rows": [{"step": 10, "train/loss": 0.42, "val_acc": 0.91}]},
    shapes.Priority: {"priority": 10},
    shapes.AlertCreate: {"message": "The loss has not moved for an hour.", "choices": ["go on", "stop"]},
    shapes.AlertResponse: {"choice": "stop"},
    shapes.SweepWild: {"name": "learning rates", "goal": "Which learning rate trains best?"},
    shapes.SweepCreate: {
        "name": "learning rates",
        "base_command": "python train.py",
        "parameters": {"lr": [0.001, 0.01], "seed": [1, 2, 3]},
        "parallel": 4,
        "auto_start": True,
        "resources": RESOURCES,
    },
    shapes.SweepUpdate: {"parallel": 8},
    shapes.PlanCreate: {
        "title": "Learning rate",
        "goal": "Find a learning rate.",
        "session_id": None,
        "raw_markdown": MARKDOWN,
    },
    shapes.PlanUpdate: {"raw_markdown": MARKDOWN},
    shapes.PlanCheck: {"raw_markdown": MARKDOWN},
    shapes.PlanApproval: {"force": False, "budget": {"gpu_hours": 12, "runs": 10, "wall_time": "2-00:00:00"}},
    shapes.PlanExecute: {"command": "python train.py --lr {lr} --seed {seed}", "resources": RESOURCES, "parallel": 4},
    shapes.PlanAmendment: {
        "parameters": {"lr": [0.03]},
        "terms": {"resources.gpus": 2},
        "reason": "0.03 looks promising",
    },
    shapes.TokenCreate: {"name": "agent", "scopes": ["plan", "run"], "require_plan": True},
    shapes.TokenRotate: {"expires_at": 1_900_000_000.0},
    shapes.SkillRender: {"goal": "Find the learning rate with which the small model trains best."},
    shapes.EnvironmentDetect: {"workdir": "/home/ada/project"},
    shapes.ClusterDetect: {"preferred_type": "local_gpu"},
    shapes.ClusterSet: {"notes": "Two of the GPUs are reserved until Friday."},
}
