"""The life of a run: whatever is seen, in whatever order, only what may follow does."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.states import (
    ALLOWED,
    LIVE,
    TERMINAL,
    Evidence,
    ExitRecord,
    Move,
    Reason,
    RunStatus,
    RunView,
    SchedulerEnd,
    can_move,
    decide,
)

FINISHED, FAILED, STOPPED = RunStatus.FINISHED, RunStatus.FAILED, RunStatus.STOPPED
HANDED_OVER = [RunStatus.QUEUED, RunStatus.LAUNCHING, RunStatus.RUNNING]
ENDS = [reason for reason in Reason if list(Reason).index(reason) >= list(Reason).index(Reason.NONZERO_EXIT)]

exit_records = st.builds(
    ExitRecord,
    code=st.none() | st.integers(0, 255),
    signal=st.none() | st.sampled_from([1, 2, 9, 11, 15]),
    ended_at=st.floats(0, 2e9),
    timed_out=st.booleans(),
    stopped=st.booleans(),
    error=st.none() | st.text(max_size=5),
    reason=st.none() | st.sampled_from([*Reason, "MADE_UP", ""]),
    peak_memory_bytes=st.none() | st.integers(0, 2**40),
    oom_kills=st.integers(0, 2),
)
evidences = st.builds(
    Evidence,
    attempt=st.sampled_from([0, 0, 0, 1, -1]),  # as seen from the run's present one
    claimed=st.booleans(),
    started_at=st.none() | st.floats(0, 2e9),
    alive=st.none() | st.booleans(),
    orphaned=st.booleans(),
    exit=st.none() | exit_records,
    refused=st.none() | st.text(max_size=5),
    gpus=st.sampled_from([(), ({"index": 0, "uuid": "GPU-a"},)]),
)
reports = st.none() | st.fixed_dictionaries(
    {}, optional={"status": st.just("finished"), "exit_code": st.none() | st.integers(0, 255), "at": st.floats(0, 2e9)}
)
views = st.builds(
    RunView,
    status=st.sampled_from(RunStatus),
    attempt=st.integers(0, 4),
    stop_requested=st.booleans(),
    reason=st.none() | st.sampled_from([str(reason) for reason in Reason]),
    reported=reports,
    closed=st.booleans(),
)
# What else happens to a run: it is queued, handed over, requeued (another attempt), stopped, reported on.
deeds = st.sampled_from(["queue", "submit", "requeue", "stop"]) | reports | evidences


def ended(**told: Any) -> ExitRecord:
    return ExitRecord(**{"code": None, "signal": None, "ended_at": 100.0, **told})


def running(**told: Any) -> RunView:
    return RunView(**{"status": RunStatus.RUNNING, "attempt": 1, "stop_requested": False, **told})


def seen(**told: Any) -> Evidence:
    return Evidence(**{"attempt": 1, "alive": True, **told})


def decided(run: RunView, evidence: Evidence) -> Move:
    move = decide(run, evidence)
    assert move is not None
    return move


def _after(run: RunView, deed: object) -> RunView:
    """The run after something else than evidence."""
    if deed == "queue" and run.status is RunStatus.READY:
        return replace(run, status=RunStatus.QUEUED)
    if deed == "submit" and run.status is RunStatus.QUEUED:
        return replace(run, status=RunStatus.LAUNCHING, attempt=run.attempt + 1, reason=None)
    if deed == "requeue" and run.status.live:
        return replace(run, status=RunStatus.QUEUED, reason=None)
    if deed == "stop" and not run.status.terminal:
        return replace(run, stop_requested=True)
    return replace(run, reported=deed) if isinstance(deed, dict) else run


# -- what may follow what ----------------------------------------------------------------------------------------------


@given(st.lists(deeds, max_size=15))
@settings(max_examples=100)
def test_whatever_is_seen_only_allowed_moves_are_proposed(history: list[object]) -> None:
    run = RunView(RunStatus.READY, 0, stop_requested=False)
    for deed in history:
        if not isinstance(deed, Evidence):
            run = _after(run, deed)
            continue
        move = decide(run, replace(deed, attempt=run.attempt + deed.attempt))
        if move is None:
            continue
        assert move.status is run.status or can_move(run.status, move.status)
        run = replace(run, status=move.status, reason=move.reason)


@pytest.mark.parametrize("status", RunStatus)
def test_one_look_at_any_run_proposes_an_allowed_move_or_none(status: RunStatus) -> None:
    # journal.move refuses any other, and with it the whole pass of the reconciler.
    both = [False, True]
    exits = [None, ended(code=0), ended(code=1)]
    for stop, alive, orphaned, started, end, refused in product(
        both, [None, *both], both, [None, 50.0], exits, [None, "no"]
    ):
        evidence = seen(alive=alive, orphaned=orphaned, started_at=started, exit=end, refused=refused)
        move = decide(running(status=status, stop_requested=stop), evidence)
        assert move is None or move.status is status or can_move(status, move.status), evidence


@pytest.mark.parametrize("reason", [None, Reason.GPU_WAIT])
def test_a_queued_run_that_is_seen_started_is_running_after_two_looks(reason: Reason | None) -> None:
    run = running(status=RunStatus.QUEUED, reason=reason)
    first = decided(run, seen(started_at=50.0))
    assert can_move(run.status, first.status)
    second = decided(replace(run, status=first.status, reason=first.reason), seen(started_at=50.0))
    assert (first.status, second.status) == (RunStatus.LAUNCHING, RunStatus.RUNNING)
    assert second.fields["started_at"] == 50.0


@given(st.sampled_from(sorted(TERMINAL)), views, evidences)
@settings(max_examples=100)
def test_nothing_leaves_a_terminal_status(status: RunStatus, run: RunView, evidence: Evidence) -> None:
    run = replace(run, status=status)
    assert decide(run, evidence) is None
    assert decide(run, replace(evidence, attempt=run.attempt)) is None
    assert not ALLOWED[status]
    assert not any(can_move(status, after) for after in RunStatus)


@given(views, evidences)
@settings(max_examples=100)
def test_evidence_of_an_earlier_attempt_says_nothing(run: RunView, evidence: Evidence) -> None:
    assert decide(run, replace(evidence, attempt=run.attempt - 1)) is None


@given(views, evidences)
@settings(max_examples=100)
def test_a_failed_look_moves_nothing(run: RunView, evidence: Evidence) -> None:
    assert decide(run, replace(evidence, attempt=run.attempt, alive=None, exit=None, refused=None)) is None


@given(st.sampled_from(HANDED_OVER), views, evidences, exit_records)
@settings(max_examples=200)
def test_an_exit_record_of_the_present_attempt_ends_the_run_whatever_else_is_seen(
    status: RunStatus, run: RunView, evidence: Evidence, end: ExitRecord
) -> None:
    run = replace(run, status=status)
    move = decided(run, replace(evidence, attempt=run.attempt, exit=end))
    assert move.status.terminal
    assert (move.fields["exit_code"], move.fields["signal"]) == (end.code, end.signal)
    assert move.fields["ended_at"] == end.ended_at
    assert (move.reason is None) == (move.status is FINISHED)
    assert move.error is None or move.status is FAILED


def test_a_ready_run_is_moved_by_no_evidence() -> None:
    assert decide(running(status=RunStatus.READY), seen(started_at=1.0, exit=ended(code=0))) is None


def test_terminal_and_live_are_what_the_wire_calls_so() -> None:
    assert {status for status in RunStatus if status.terminal} == {FINISHED, FAILED, STOPPED}
    assert {status for status in RunStatus if status.live} == {RunStatus.LAUNCHING, RunStatus.RUNNING} == LIVE
    assert set(ALLOWED) == set(RunStatus)
    assert can_move(RunStatus.READY, RunStatus.QUEUED)
    assert can_move(RunStatus.RUNNING, RunStatus.QUEUED)  # another attempt is due
    assert not can_move(RunStatus.READY, RunStatus.RUNNING)


# -- while it lives ----------------------------------------------------------------------------------------------------


def test_a_start_record_makes_a_launching_run_run() -> None:
    gpus = ({"index": 3, "uuid": "GPU-a"},)
    move = decided(running(status=RunStatus.LAUNCHING), seen(started_at=50.0, gpus=gpus))
    assert (move.status, move.reason) == (RunStatus.RUNNING, None)
    assert move.fields == {"started_at": 50.0, "gpus": list(gpus)}


def test_a_living_run_without_a_start_record_is_launching() -> None:
    assert decided(running(status=RunStatus.QUEUED), seen()).status is RunStatus.LAUNCHING
    assert decide(running(status=RunStatus.LAUNCHING), seen()) is None


def test_a_requeued_job_that_has_its_allocation_again_has_not_begun_again() -> None:
    waits = running(status=RunStatus.QUEUED, reason=Reason.REQUEUED, closed=True)
    before = {"started_at": 50.0, "scheduler": {"state": "RUNNING"}}
    assert decide(waits, seen(**before)) is None
    again = decided(waits, seen(attempt=2, claimed=True))
    assert (again.status, again.fields["attempt"]) == (RunStatus.QUEUED, 2)


def test_a_running_run_that_goes_on_running_is_left_alone() -> None:
    assert decide(running(), seen(started_at=50.0)) is None


@pytest.mark.parametrize(
    ("stop", "orphaned", "before", "after"),
    [
        (False, True, None, Reason.ORPHANED),
        (False, False, Reason.ORPHANED, None),
        (True, False, None, Reason.STOPPING),
        (True, True, Reason.ORPHANED, Reason.STOPPING),
    ],
)
def test_a_running_runs_reason_follows_what_is_seen(
    stop: bool, orphaned: bool, before: Reason | None, after: Reason | None
) -> None:
    run = running(stop_requested=stop, reason=before and str(before))
    move = decided(run, seen(started_at=50.0, orphaned=orphaned))
    assert (move.status, move.reason) == (RunStatus.RUNNING, after)
    again = replace(run, reason=move.reason and str(move.reason))
    assert decide(again, seen(started_at=50.0, orphaned=orphaned)) is None


# -- how it ended ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "told", "status", "reason"),
    [
        (False, {"code": 0}, FINISHED, None),
        (False, {"code": 3}, FAILED, Reason.NONZERO_EXIT),
        (False, {"code": None, "signal": 11}, FAILED, Reason.SIGNAL),
        (False, {"code": 137, "signal": 9, "oom_kills": 1}, FAILED, Reason.OUT_OF_MEMORY),
        (False, {"code": 1, "oom_kills": 2}, FAILED, Reason.OUT_OF_MEMORY),
        (False, {"code": 0, "oom_kills": 1}, FINISHED, None),  # a child was killed and the command coped
        (False, {"code": 0, "timed_out": True}, FAILED, Reason.TIMEOUT),
        (False, {"signal": 9, "timed_out": True}, FAILED, Reason.TIMEOUT),
        (True, {"signal": 15, "timed_out": True, "stopped": True}, FAILED, Reason.TIMEOUT),
        (True, {"code": 0, "stopped": True}, STOPPED, Reason.CANCELLED),  # it heeded TERM and ended well
        (False, {"code": 0, "stopped": True}, FAILED, Reason.SIGNAL),  # TERM from outside: nobody here wished it
        (True, {"code": 0}, FINISHED, None),  # it was over before the wish reached it
        (True, {"code": 1}, STOPPED, Reason.CANCELLED),
        (True, {"signal": 15}, STOPPED, Reason.CANCELLED),
        (True, {"signal": 9, "oom_kills": 1}, STOPPED, Reason.CANCELLED),
        (True, {"error": "no such directory", "reason": "BAD_WORKDIR"}, FAILED, Reason.BAD_WORKDIR),
        (False, {"error": "bash is not there"}, FAILED, Reason.SUBMIT_REJECTED),
        (False, {"code": 2, "reason": "MADE_UP"}, FAILED, Reason.NONZERO_EXIT),
    ],
)
def test_how_a_run_ended_decides_what_it_is_called(
    stop: bool, told: dict[str, Any], status: RunStatus, reason: Reason | None
) -> None:
    move = decided(running(stop_requested=stop), seen(exit=ended(**told), alive=False))
    assert (move.status, move.reason) == (status, reason)
    assert (move.error is not None) == (status is FAILED)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"code": 3}, "exit code 3"),
        ({"signal": 11}, "signal 11"),
        ({"error": "There is no directory /x.", "reason": "BAD_WORKDIR"}, "There is no directory /x."),
        ({"timed_out": True}, "resources.time"),
        ({"code": 1, "oom_kills": 1}, "memory"),
        ({"code": 0, "stopped": True}, "from outside"),
    ],
)
def test_an_error_says_what_happened(told: dict[str, Any], words: str) -> None:
    assert words in (decided(running(), seen(exit=ended(**told))).error or "")


@pytest.mark.parametrize("reason", ENDS)
def test_a_reason_that_job_py_names_is_kept(reason: Reason) -> None:
    move = decided(running(), seen(exit=ended(reason=str(reason), error="why")))
    assert (move.status, move.reason, move.error) == (FAILED, reason, "why")


def test_the_end_brings_what_the_start_record_told_and_the_peak_memory() -> None:
    gpus = ({"index": 0, "uuid": "GPU-a"},)
    end = ended(code=0, peak_memory_bytes=7)
    move = decided(running(status=RunStatus.LAUNCHING), seen(exit=end, started_at=50.0, gpus=gpus))
    assert move.fields == {
        "exit_code": 0,
        "signal": None,
        "ended_at": 100.0,
        "started_at": 50.0,
        "gpus": list(gpus),
        "peak_memory_bytes": 7,
    }


def test_an_unknown_peak_memory_takes_nothing_away() -> None:
    assert "peak_memory_bytes" not in decided(running(), seen(exit=ended(code=0))).fields


# -- gone without an exit record ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", HANDED_OVER)
def test_a_dead_run_without_an_exit_record_is_lost(status: RunStatus) -> None:
    move = decided(running(status=status), seen(alive=False))
    assert (move.status, move.reason) == (FAILED, Reason.LOST)
    assert move.error


def test_a_dead_run_that_was_to_be_stopped_is_stopped() -> None:
    move = decided(running(stop_requested=True, reported={"exit_code": 0, "at": 1.0}), seen(alive=False))
    assert (move.status, move.reason) == (STOPPED, Reason.CANCELLED)


@pytest.mark.parametrize(("code", "status", "reason"), [(0, FINISHED, None), (7, FAILED, Reason.NONZERO_EXIT)])
def test_a_reported_exit_code_counts_where_the_record_is_lost(
    code: int, status: RunStatus, reason: Reason | None
) -> None:
    run = running(reported={"status": "finished", "exit_code": code, "at": 42.0})
    move = decided(run, seen(alive=False))
    assert (move.status, move.reason) == (status, reason)
    assert (move.fields["exit_code"], move.fields["ended_at"]) == (code, 42.0)


def test_a_reported_exit_code_says_nothing_while_the_run_lives_or_against_its_record() -> None:
    run = running(reported={"exit_code": 0, "at": 42.0})
    assert decide(run, seen(started_at=50.0)) is None
    assert decided(run, seen(exit=ended(code=5))).reason is Reason.NONZERO_EXIT


@pytest.mark.parametrize("reported", [None, {}, {"status": "failed"}, {"exit_code": None, "at": 1.0}])
def test_a_report_without_an_exit_code_leaves_the_run_lost(reported: dict[str, Any] | None) -> None:
    assert decided(running(reported=reported), seen(alive=False)).reason is Reason.LOST


@pytest.mark.parametrize("stop", [False, True])
def test_a_run_that_is_gone_keeps_what_its_start_record_told(stop: bool) -> None:
    # It may have started and died between two looks.
    gpus = ({"index": 0, "uuid": "GPU-a"},)
    run = running(status=RunStatus.LAUNCHING, stop_requested=stop)
    move = decided(run, seen(alive=False, started_at=50.0, gpus=gpus))
    assert move.fields == {"started_at": 50.0, "gpus": list(gpus)}


def test_a_refused_run_that_was_to_be_stopped_is_stopped() -> None:
    run = running(status=RunStatus.LAUNCHING, stop_requested=True)
    assert decided(run, seen(alive=False, refused="no such partition")).status is STOPPED


def test_a_refused_run_failed_with_the_refusals_words() -> None:
    move = decided(running(status=RunStatus.LAUNCHING), seen(alive=False, refused="no such partition"))
    assert (move.status, move.reason, move.error) == (FAILED, Reason.SUBMIT_REJECTED, "no such partition")


def test_a_command_that_ends_well_before_job_py_hears_of_the_cancel_was_stopped_all_the_same() -> None:
    run = running(stop_requested=True)
    ended = ExitRecord(code=0, signal=None, ended_at=5.0)
    move = decided(run, seen(exit=ended, ended=SchedulerEnd("CANCELLED")))
    assert (move.status, move.reason) == (RunStatus.STOPPED, Reason.CANCELLED)
    assert decided(run, seen(exit=ended, ended=SchedulerEnd("COMPLETED"))).status is RunStatus.FINISHED
    unasked = decided(running(), seen(exit=ended, ended=SchedulerEnd("CANCELLED")))
    assert unasked.status is RunStatus.FINISHED
