"""squeue: one call, fields with a closing separator each, rows that say what is known and no more."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.slurm import arrays, queue
from orchestrator.slurm.phases import PHASES, PROVISIONAL, Phase, bare, phase_of
from orchestrator.slurm.queue import FIELDS, by_task, epoch, exit_status, parse, tres_count

VALUES = {
    "JobArrayID": "15_3",
    "State": "RUNNING",
    "SubmitTime": "1000",
    "StartTime": "1010",
    "EndTime": "4610",
    "NodeList": "n[1-2]",
    "Partition": "gpu",
    "PriorityLong": "4294901757",
    "restartcnt": "2",
    "tres-alloc": "cpu=4,mem=1000M,node=1,billing=4,gres/gpu=2,gres/gpu:a100=2",
    "exit_code": "0:0",
    "Nice": "0",
    "Reason": "None",
    "Name": "orc-s1",
}


def line(**told: str) -> str:
    return "".join(f"{(VALUES | told)[field]}|" for field in FIELDS) + "\n"


def row(**told: str) -> queue.QueueRow:
    (found,) = parse(line(**told))
    return found


# -- the command -------------------------------------------------------------------------------------------------------


def test_one_squeue_asks_for_all_jobs_of_a_user_ended_ones_too() -> None:
    argv = queue.command("alice")
    assert argv[:7] == ["squeue", "-h", "-a", "-t", "all", "-u", "alice"]
    assert argv[7] == "-O"
    assert argv[8].split(",") == [f"{field}:|" for field in FIELDS]
    assert len(argv) == 9


def test_names_tasks_and_ids_are_asked_for_where_given() -> None:
    argv = queue.command("alice", names=["orc-a", "orc-b"], tasks=True, job_ids=["1", "2"])
    assert {"-r", "--name=orc-a,orc-b", "--jobs=1,2"} < set(argv)
    assert not any(
        part.startswith(("--name", "--jobs", "-r")) for part in queue.command("alice", names=[], job_ids=iter(()))
    )


def test_names_may_be_given_one_after_the_other() -> None:
    assert "--name=orc-a,orc-b" in queue.command("alice", names=iter(["orc-a", "orc-b"]))


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_row_tells_all_that_was_asked_for() -> None:
    assert row() == queue.QueueRow(
        job_id="15",
        indices=(3,),
        state="RUNNING",
        submitted=1000.0,
        start=1010.0,
        end=4610.0,
        nodes="n[1-2]",
        partition="gpu",
        priority=4294901757,
        restarts=2,
        tres=VALUES["tres-alloc"],
        code=0,
        signal=0,
        reason="",
        name="orc-s1",
        nice=0,
    )


@pytest.mark.parametrize("text", ["N/A", "None", "NONE", "Unknown", "", "0", "(null)"])
def test_a_time_that_is_not_known_is_none(text: str) -> None:
    found = row(StartTime=text, EndTime=text, SubmitTime=text)
    assert (found.submitted, found.start, found.end) == (None, None, None)
    assert epoch(text) is None


@pytest.mark.parametrize(("nodes", "read"), [("(null)", ""), ("", ""), ("n1", "n1"), ("n[1-3,7]", "n[1-3,7]")])
def test_no_nodes_are_an_empty_text(nodes: str, read: str) -> None:
    assert row(NodeList=nodes).nodes == read


def test_a_priority_or_a_restart_count_that_is_no_number_does_no_harm() -> None:
    found = row(PriorityLong="N/A", restartcnt="N/A")
    assert (found.priority, found.restarts) == (None, 0)


@pytest.mark.parametrize("reason", ["Resources", "ReqNodeNotAvail, UnavailableNodes:n1", "a|b", "|", "x||y", "(null)"])
def test_a_reason_may_hold_anything_and_the_name_stays_whole(reason: str) -> None:
    found = row(Reason=reason)
    assert (found.reason, found.name) == (reason, "orc-s1")


def test_the_reason_none_is_no_reason() -> None:
    assert row(Reason="None").reason == ""


@pytest.mark.parametrize(
    "broken", ["squeue: warning", "|||", "15_3|RUNNING|", line(JobArrayID="15_[1,3,...]"), line(JobArrayID="")]
)
def test_a_line_that_cannot_be_read_is_left_out_and_logged(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = parse(f"{line()}{broken.rstrip()}\n{line(Name='orc-s2')}")
    assert [found.name for found in rows] == ["orc-s1", "orc-s2"]
    assert "cannot be read" in caplog.text


def test_empty_lines_are_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert parse(f"\n  \n{line()}\n") == [row()]
    assert parse("") == []
    assert not caplog.text


@given(st.text(max_size=300))
def test_no_output_whatever_makes_it_fail(text: str) -> None:
    logging.disable()
    try:
        assert isinstance(parse(text), list)
    finally:
        logging.disable(logging.NOTSET)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"]), max_size=60))
def test_any_reason_of_one_line_leaves_the_name_alone(reason: str) -> None:
    assert row(Reason=reason).name == "orc-s1"


# -- exit codes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "signal"),
    [
        ("0:0", 0, 0),
        ("3:0", 3, 0),
        ("0:9", 0, 9),
        ("0:53", 0, 53),
        ("0", 0, 0),
        ("768", 3, 0),
        ("9", 0, 9),
        ("65280", 255, 0),
        ("139", 0, 11),  # 0x80: a core was dumped
        ("N/A", None, None),
        ("", None, None),
        (":", None, None),
    ],
)
def test_an_exit_code_is_read_in_both_forms(text: str, code: int | None, signal: int | None) -> None:
    assert exit_status(text) == (code, signal)
    assert (row(exit_code=text).code, row(exit_code=text).signal) == (code, signal)


@given(st.integers(0, 255), st.integers(0, 127))
def test_the_raw_status_and_the_pair_are_one_thing(code: int, signal: int) -> None:
    assert exit_status(str(code << 8 | signal)) == exit_status(f"{code}:{signal}") == (code, signal)


# -- resources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("cpu=4,mem=1000M,gres/gpu=2,gres/gpu:a100=2", "gres/gpu", 2),
        ("gres/gpu:a100=2,gres/gpu=2", "gres/gpu", 2),
        ("cpu=4,mem=1000M", "gres/gpu", 0),
        ("cpu=4,mem=1000M", "cpu", 4),
        ("cpu=4,mem=1000M", "mem", 0),
        ("gres/gpu:a100=2", "gres/gpu:a100", 2),
        ("N/A", "cpu", 0),
        ("", "cpu", 0),
    ],
)
def test_one_resource_is_counted(text: str, name: str, count: int) -> None:
    assert tres_count(text, name) == count


# -- arrays ------------------------------------------------------------------------------------------------------------


def test_each_task_has_its_row() -> None:
    rows = parse(
        line(JobArrayID="15_[3-5%1]", State="PENDING", Reason="JobArrayTaskLimit")
        + line(JobArrayID="15_2")
        + line(JobArrayID="16", Name="orc-s2")
    )
    found = by_task(rows)
    assert set(found) == {("orc-s1", 2), ("orc-s1", 3), ("orc-s1", 4), ("orc-s1", 5), ("orc-s2", None)}
    assert (found["orc-s1", 4].phase, found["orc-s1", 2].phase) == (Phase.PENDING, Phase.ALLOCATED)


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_jobs_with_one_name_the_one_that_is_not_over_counts(turned: bool) -> None:
    rows = parse(line(JobArrayID="9_3", State="COMPLETED") + line(JobArrayID="15_3"))
    assert by_task(rows[::-1] if turned else rows)["orc-s1", 3].job_id == "15"


def test_tasks_with_several_reasons_in_one_row_are_told_apart_from_others() -> None:
    assert row(JobArrayID="15_[3-5]", Reason="Resources,JobArrayTaskLimit").mixed
    assert not row(JobArrayID="15_[3-5]", Reason="Resources").mixed
    assert not row(JobArrayID="15_3", Reason="a,b").mixed
    assert not row(JobArrayID="15", Reason="ReqNodeNotAvail, UnavailableNodes:n1").mixed


@given(st.sets(st.integers(0, 500), min_size=1, max_size=20))
def test_a_row_of_an_array_tells_all_its_tasks(tasks: set[int]) -> None:
    found = by_task(parse(line(JobArrayID=f"15_[{arrays.compress(tasks)}%3]")))
    assert {index for _, index in found} == tasks


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("PENDING", Phase.PENDING),
        ("REQUEUED", Phase.PENDING),
        ("SPECIAL_EXIT", Phase.PENDING),
        ("CONFIGURING", Phase.ALLOCATED),
        ("RUNNING", Phase.ALLOCATED),
        ("SUSPENDED", Phase.ALLOCATED),
        ("COMPLETING", Phase.ENDING),
        ("COMPLETED", Phase.ENDED),
        ("CANCELLED by 0", Phase.ENDED),
        ("CANCELLED+", Phase.ENDED),
        ("OUT_OF_ME+", Phase.UNKNOWN),  # sacct cuts only where nobody asked for -P
        ("NODE_FAIL", Phase.ENDED),
        ("", Phase.UNKNOWN),
        ("MADE_UP", Phase.UNKNOWN),
        ("running", Phase.UNKNOWN),
    ],
)
def test_a_state_means_a_phase_and_an_unknown_word_is_not_guessed_at(state: str, phase: Phase) -> None:
    assert phase_of(state) is phase


def test_every_end_that_may_become_a_requeue_is_an_end() -> None:
    assert {PHASES[state] for state in PROVISIONAL} == {Phase.ENDED}
    assert bare("CANCELLED by 1000") == "CANCELLED"
    assert row(State="CANCELLED by 0").state == "CANCELLED"
