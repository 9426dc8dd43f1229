"""Whether a failed attempt is followed by another: the run's own policy, and nothing else."""

from typing import Any

import pytest

from orchestrator.resources import parse_memory
from orchestrator.retries import again
from orchestrator.states import Move, Reason, RunStatus

NOW = 1000.0
ALWAYS = {"max": 2, "on": ["NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"]}


def failed(reason: Reason = Reason.NODE_FAIL, error: str | None = "A node failed.", **fields: Any) -> Move:
    return Move(RunStatus.FAILED, reason, error, {"exit_code": None, "ended_at": 900.0, "started_at": 800.0, **fields})


def retried(policy: dict[str, Any], made: Move, done: int = 0, **resources: Any) -> Move:
    found = again(policy, done, resources, made, NOW)
    assert found is not None
    return found


def test_without_a_policy_a_failure_is_a_failure() -> None:
    assert again(None, 0, {}, failed(), NOW) is None


@pytest.mark.parametrize("status", [status for status in RunStatus if status is not RunStatus.FAILED])
def test_only_a_failure_is_followed_by_another_attempt(status: RunStatus) -> None:
    assert again(ALWAYS, 0, {}, Move(status, Reason.NODE_FAIL), NOW) is None


def test_the_next_attempt_waits_in_the_queue_and_nothing_of_the_last_is_left() -> None:
    move = retried(ALWAYS, failed(signal=9))
    assert (move.status, move.reason) == (RunStatus.QUEUED, Reason.RETRYING)
    nothing = dict.fromkeys(["submission_id", "job", "gpus", "ended_at", "exit_code", "signal"])
    assert move.fields == {**nothing, "retries": 1, "not_before": 0.0}


@pytest.mark.parametrize(("done", "goes_on"), [(0, True), (1, True), (2, False), (3, False)])
def test_it_ends_after_as_many_retries_as_were_asked_for(done: int, goes_on: bool) -> None:
    move = again(ALWAYS, done, {}, failed(), NOW)
    assert (move is not None) == goes_on
    if move is not None:
        assert move.fields["retries"] == done + 1


def test_no_retries_at_all_may_be_asked_for() -> None:
    assert again({"max": 0}, 0, {}, failed(), NOW) is None


@pytest.mark.parametrize(
    ("reason", "goes_on"),
    [
        (Reason.PREEMPTED, True),
        (Reason.NODE_FAIL, True),
        (Reason.TIMEOUT, False),
        (Reason.OUT_OF_MEMORY, False),
        (Reason.NONZERO_EXIT, False),
        (Reason.SUBMIT_REJECTED, False),
        (Reason.BAD_WORKDIR, False),
        (None, False),
    ],
)
def test_a_policy_that_names_no_reasons_means_those_that_are_nobodys_fault(
    reason: Reason | None, goes_on: bool
) -> None:
    move = again({"max": 1}, 0, {}, Move(RunStatus.FAILED, reason, "", {}), NOW)
    assert (move is not None) == goes_on


@pytest.mark.parametrize(
    ("codes", "code", "reason", "goes_on"),
    [
        ([75], 75, Reason.NONZERO_EXIT, True),
        ([75], 1, Reason.NONZERO_EXIT, False),
        ([75, 1], 1, Reason.NONZERO_EXIT, True),
        ([75], None, Reason.NONZERO_EXIT, False),
        ([75], 75, Reason.TIMEOUT, False),
        ([], 1, Reason.NONZERO_EXIT, False),
    ],
)
def test_an_exit_code_that_was_named_is_worth_another_attempt(
    codes: list[int], code: int | None, reason: Reason, goes_on: bool
) -> None:
    move = again({"max": 1, "on": [], "exit_codes": codes}, 0, {}, failed(reason, exit_code=code), NOW)
    assert (move is not None) == goes_on


def test_a_delay_is_waited_for() -> None:
    assert retried(ALWAYS | {"delay_seconds": 60}, failed()).fields["not_before"] == NOW + 60
    assert retried(ALWAYS, failed()).fields["not_before"] == 0.0


@pytest.mark.parametrize(
    ("factor", "mem", "more"), [(2.0, "1G", "2048M"), (1.5, "1000M", "1500M"), (1.0, "3M", "3M"), (1.1, "1M", "2M")]
)
def test_after_running_out_of_memory_the_next_attempt_asks_for_more(factor: float, mem: str, more: str) -> None:
    move = retried(ALWAYS | {"memory_factor": factor}, failed(Reason.OUT_OF_MEMORY), mem=mem, gpus=1)
    assert move.fields["resources"] == {"mem": more, "gpus": 1}
    assert parse_memory(more) >= parse_memory(mem) * factor
    assert more in (move.error or "")


def bounded(mem: str, most_mib: int, factor: float = 2.0) -> Move:
    policy = ALWAYS | {"memory_factor": factor}
    made = failed(Reason.OUT_OF_MEMORY, "It was too big.")
    found = again(policy, 0, {"mem": mem, "gpus": 1}, made, NOW, most_mib * 2**20)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("mem", "factor", "more"), [("300M", 2.0, "600M"), ("600M", 2.0, "1000M"), ("999M", 16.0, "1000M")]
)
def test_no_more_memory_is_asked_for_than_a_node_has(mem: str, factor: float, more: str) -> None:
    move = bounded(mem, 1000, factor)
    assert (move.status, move.fields["resources"]) == (RunStatus.QUEUED, {"mem": more, "gpus": 1})


@pytest.mark.parametrize("mem", ["1000M", "1G"])
def test_where_there_is_no_more_memory_it_fails_for_want_of_it_and_says_so(mem: str) -> None:
    move = bounded(mem, 1000)
    assert (move.status, move.reason) == (RunStatus.FAILED, Reason.OUT_OF_MEMORY)
    assert (move.error or "").startswith(f"It was too big. It asked for {mem}, and no node")
    assert move.fields == failed(Reason.OUT_OF_MEMORY).fields


def test_who_wants_the_same_memory_again_gets_it_however_much_there_is() -> None:
    assert bounded("1000M", 1000, 1.0).fields["resources"]["mem"] == "1000M"


def test_memory_that_nobody_asked_for_is_not_asked_for_later() -> None:
    assert "resources" not in retried(ALWAYS, failed(Reason.OUT_OF_MEMORY), gpus=1).fields


def test_other_failures_ask_for_the_same_memory() -> None:
    assert "resources" not in retried(ALWAYS, failed(), mem="1G").fields


def test_what_happened_and_how_often_is_told() -> None:
    error = retried(ALWAYS, failed(error="The node is gone."), done=1).error or ""
    assert "Retry 2 of 2 after NODE_FAIL" in error
    assert error.endswith("The node is gone.")


def test_the_resources_that_were_asked_for_stay_as_they_are() -> None:
    asked = {"mem": "1G"}
    again(ALWAYS, 0, asked, failed(Reason.OUT_OF_MEMORY), NOW)
    assert asked == {"mem": "1G"}
