"""Wishes are asked for once, and again only after a while."""

import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from orchestrator.db import Database
from orchestrator.executors.base import Action, Executor, Told, Watched
from orchestrator.models import Run
from orchestrator.steering import ASK_AGAIN, Steering


class Orders:
    """An executor that takes every order and confirms none."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []

    def confirms(self, action: Action, watched: Watched, priority: int) -> Told | None:
        return None

    def steer(self, action: Action, items: Sequence[tuple[Watched, int]]) -> dict[str, Told]:
        self.taken += [(action, item.run_id) for item, _ in items]
        return {item.run_id: Told("Sent.") for item, _ in items}


def wishing(run_id: str) -> Any:
    job = {"submission": "orc-1", "index": None, "job_id": "1"}
    given: dict[str, Any] = {"name": "x", "command": "true", "created_at": 1.0, "executor": "slurm", "job": job}
    return Run(id=run_id, status="running", wishes={"requeue": 1.0}, **given)


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture
def steering(database: Database, orders: Orders) -> Steering:
    return Steering(database, {"slurm": cast("Executor", orders), "local": cast("Executor", Orders())})


def test_an_order_is_repeated_only_after_a_while_whatever_other_executors_look_at(
    steering: Steering, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    for passed in (0.0, 0.5, ASK_AGAIN - 0.1, ASK_AGAIN):
        monkeypatch.setattr(time, "monotonic", lambda: now + passed)  # noqa: B023  (called within the pass)
        steering.carry_out("slurm", [wishing("r1")])
        steering.carry_out("local", [])
    assert orders.taken == [("requeue", "r1")] * 2


def test_what_has_moved_in_this_look_is_asked_for_by_the_next(steering: Steering, orders: Orders) -> None:
    steering.carry_out("slurm", [wishing("r1"), wishing("r2")], {"r1"})
    assert orders.taken == [("requeue", "r2")]
    steering.carry_out("slurm", [wishing("r1"), wishing("r2")])
    assert orders.taken == [("requeue", "r2"), ("requeue", "r1")]
