"""Which jobs in Slurm nobody should have any more: not those whose end Slurm has only yet to hear of."""

import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.executors.base import JobHandle, Watched
from orchestrator.executors.slurm import SlurmExecutor, SlurmPolicy
from orchestrator.executors.slurmsteer import STRAY_AFTER
from orchestrator.slurm.poller import Cadence, Poller, Snapshot
from orchestrator.slurm.queue import QueueRow

NOW = 1000.0


def row(name: str, state: str) -> QueueRow:
    return QueueRow("15", None, state, 1.0, 2.0, None, "n1", "gpu", 1, 0, "cpu=1", 0, 0, "", name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOW]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def executor(tmp_path: Path) -> SlurmExecutor:
    unused: Any = None
    poller = Poller(unused, "alice", Cadence(2, 30))
    return SlurmExecutor(tmp_path, unused, poller, unused, unused, SlurmPolicy(lambda: 10, 180, 30, 30))


def show(executor: SlurmExecutor, *rows: QueueRow) -> None:
    """What squeue says now."""
    executor._poller.last = Snapshot(time.monotonic(), {(one.name, None): one for one in rows}, frozenset())


def test_a_job_that_waits_though_its_run_is_over_is_one(executor: SlurmExecutor, clock: list[float]) -> None:
    show(executor, row("orc-1", "PENDING"))
    assert executor.strays([]) == [("orc-1", None)]


def test_a_job_that_runs_may_only_be_ending(executor: SlurmExecutor, clock: list[float]) -> None:
    show(executor, row("orc-1", "RUNNING"))
    assert executor.strays([]) == []
    clock[0] += STRAY_AFTER - 1
    assert executor.strays([]) == []
    clock[0] += 1
    assert executor.strays([]) == [("orc-1", None)]


def test_the_time_it_may_take_is_counted_from_where_it_was_watched_last(
    executor: SlurmExecutor, clock: list[float]
) -> None:
    watched = Watched("r", 1, JobHandle("slurm", {"submission": "orc-1", "index": None, "job_id": "15"}))
    show(executor, row("orc-1", "RUNNING"))
    for _ in range(3):
        assert executor.strays([watched]) == []
        clock[0] += STRAY_AFTER
    assert executor.strays([]) == []


@pytest.mark.parametrize("state", ["COMPLETING", "COMPLETED", "CANCELLED", "SOMETHING_NEW"])
def test_what_has_ended_or_ends_or_is_unknown_is_none(executor: SlurmExecutor, clock: list[float], state: str) -> None:
    show(executor, row("orc-1", state))
    executor.strays([])
    clock[0] += 10 * STRAY_AFTER
    assert executor.strays([]) == []


def test_jobs_of_other_names_are_none(executor: SlurmExecutor, clock: list[float]) -> None:
    show(executor, row("train", "PENDING"))
    assert executor.strays([]) == []
