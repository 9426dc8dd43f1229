"""What an attempt leaves behind when it ends: its line of the history, and what was given to it."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.attempts import Past, closing, ends_attempt
from orchestrator.states import Move, Reason, RunStatus

PAST = Past(
    attempt=2,
    history=[{"attempt": 1}],
    started_at=100.0,
    launched_at=90.0,
    gpus=1,
    cpus=4,
    elapsed_seconds=10.0,
    gpu_seconds=10.0,
    cpu_seconds_given=40.0,
    cpu_seconds=5.0,
    scheduler={"job_id": "15", "nodes": "n1", "tres": "cpu=8,mem=1G,node=1,gres/gpu=2,gres/gpu:a100=2"},
)
END: dict[str, Any] = {"ended_at": 160.0, "exit_code": 3, "signal": None}


def ended(**fields: Any) -> Move:
    return Move(RunStatus.FAILED, Reason.NONZERO_EXIT, "no", END | fields)


def test_an_attempt_has_a_line_in_the_history() -> None:
    found = closing(PAST, ended(), 999.0)
    assert found["history"] == [
        {"attempt": 1},
        {
            "attempt": 2,
            "job_id": "15",
            "nodes": "n1",
            "started_at": 100.0,
            "ended_at": 160.0,
            "exit_code": 3,
            "signal": None,
            "reason": "NONZERO_EXIT",
        },
    ]
    assert PAST.history == [{"attempt": 1}]


def test_what_was_given_counts_as_slurm_counted_it_for_all_attempts_together() -> None:
    found = closing(PAST, ended(cpu_seconds=7.5), 999.0)
    assert found["elapsed_seconds"] == 10.0 + 60.0
    assert found["gpu_seconds"] == 10.0 + 2 * 60.0
    assert found["cpu_seconds_given"] == 40.0 + 8 * 60.0
    assert found["cpu_seconds"] == 5.0 + 7.5


@pytest.mark.parametrize("scheduler", [None, {}, {"tres": None}, {"tres": "N/A"}, {"tres": ""}])
def test_without_slurms_count_what_was_asked_for_counts(scheduler: dict[str, Any] | None) -> None:
    found = closing(replace(PAST, scheduler=scheduler), ended(), 999.0)
    assert (found["gpu_seconds"], found["cpu_seconds_given"]) == (10.0 + 60.0, 40.0 + 4 * 60.0)


def test_what_the_move_brings_goes_before_what_was_known() -> None:
    scheduler = {"job_id": "16", "nodes": "n2", "tres": "cpu=1"}
    found = closing(PAST, ended(started_at=150.0, scheduler=scheduler), 999.0)
    line = found["history"][-1]
    assert (line["job_id"], line["nodes"], line["started_at"]) == ("16", "n2", 150.0)
    assert (found["elapsed_seconds"], found["cpu_seconds_given"]) == (20.0, 50.0)


def test_an_attempt_that_never_began_has_used_nothing() -> None:
    found = closing(replace(PAST, started_at=None), ended(), 999.0)
    assert (found["elapsed_seconds"], found["gpu_seconds"], found["cpu_seconds_given"]) == (10.0, 10.0, 40.0)
    assert found["history"][-1]["started_at"] is None


def test_an_end_that_nobody_told_is_now() -> None:
    found = closing(PAST, Move(RunStatus.FAILED, Reason.LOST), 130.0)
    assert (found["history"][-1]["ended_at"], found["elapsed_seconds"]) == (130.0, 40.0)


def test_clocks_that_disagree_give_no_negative_time() -> None:
    assert closing(PAST, ended(ended_at=50.0), 999.0)["elapsed_seconds"] == 10.0


@pytest.mark.parametrize(
    ("before", "used", "after"), [(None, None, None), (None, 2.0, 2.0), (5.0, None, 5.0), (5.0, 0.0, 5.0)]
)
def test_cpu_time_that_was_not_measured_is_not_made_up(
    before: float | None, used: float | None, after: float | None
) -> None:
    assert closing(replace(PAST, cpu_seconds=before), ended(cpu_seconds=used), 999.0)["cpu_seconds"] == after


def test_a_run_without_a_reason_finished() -> None:
    assert closing(PAST, Move(RunStatus.FINISHED, fields={"ended_at": 1.0}), 2.0)["history"][-1]["reason"] is None


# -- whether a move ends an attempt ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "made", "ends"),
    [
        (RunStatus.RUNNING, Move(RunStatus.FINISHED), True),
        (RunStatus.LAUNCHING, Move(RunStatus.FAILED), True),
        (RunStatus.QUEUED, Move(RunStatus.STOPPED), True),
        (RunStatus.RUNNING, Move(RunStatus.QUEUED, Reason.REQUEUED), True),
        (RunStatus.LAUNCHING, Move(RunStatus.QUEUED, Reason.REQUEUED), True),
        (RunStatus.QUEUED, Move(RunStatus.QUEUED, Reason.REQUEUED, fields={"attempt": 3}), True),
        (RunStatus.QUEUED, Move(RunStatus.QUEUED, Reason.RETRYING, fields={"ended_at": None}), True),
        (RunStatus.QUEUED, Move(RunStatus.QUEUED, Reason.SLURM_WAIT), False),
        (RunStatus.LAUNCHING, Move(RunStatus.RUNNING), False),
        (RunStatus.RUNNING, Move(RunStatus.RUNNING, Reason.STOPPING), False),
        (RunStatus.QUEUED, Move(RunStatus.LAUNCHING), False),
    ],
)
def test_an_attempt_ends_with_its_run_or_with_the_next_attempt(before: RunStatus, made: Move, ends: bool) -> None:
    assert ends_attempt(before, made, PAST) is ends


def test_an_attempt_ends_once() -> None:
    there = replace(PAST, history=[{"attempt": 1}, {"attempt": 2}])
    assert not ends_attempt(RunStatus.RUNNING, Move(RunStatus.FINISHED), there)
    assert ends_attempt(RunStatus.RUNNING, Move(RunStatus.FINISHED), replace(PAST, history=[]))
