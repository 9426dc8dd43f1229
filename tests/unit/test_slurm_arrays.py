"""Array task ids in every form that Slurm writes, and nothing else taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.slurm import arrays

indices = st.sets(st.integers(0, 4_000_000), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("text", "job", "tasks"),
    [
        ("15", "15", None),
        (" 15 ", "15", None),
        ("18_7", "18", [7]),
        ("18_0", "18", [0]),
        ("15_[3-6]", "15", [3, 4, 5, 6]),
        ("15_[3-6%2]", "15", [3, 4, 5, 6]),
        ("16_[22,24,26]", "16", [22, 24, 26]),
        ("16_[1,3-4,9%1]", "16", [1, 3, 4, 9]),
        ("12012_[1-9:2]", "12012", [1, 3, 5, 7, 9]),
        ("12012_[1-9:4%3]", "12012", [1, 5, 9]),
        ("9_[5]", "9", [5]),
        ("9_[0-0]", "9", [0]),
    ],
)
def test_a_job_id_tells_its_job_and_its_tasks(text: str, job: str, tasks: list[int] | None) -> None:
    assert arrays.parse(text) == (job, tasks)


@pytest.mark.parametrize(
    "text",
    [
        *("", "15_", "15_[", "15_[]", "_3", "N/A", "15_[N/A]", "15_[1-]", "15_[-3]", "15_[1,]", "15_[a-b]", "15.batch"),
        *("15_3.0", "15 16", "15_[1-3", "15_[1-3]x"),
        "15_[1,3,5,...]",  # squeue cuts a long list
        "15_[1-3,...%2]",
    ],
)
def test_what_is_no_job_id_or_was_cut_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        arrays.parse(text)


@given(indices)
def test_compressed_indices_expand_to_themselves(tasks: set[int]) -> None:
    assert arrays.expand(arrays.compress(tasks)) == sorted(tasks)


@given(indices, st.integers(1, 99), st.integers(1, 10**9))
def test_a_compressed_list_is_read_back_from_a_job_id(tasks: set[int], limit: int, job: int) -> None:
    text = f"{job}_[{arrays.compress(tasks)}%{limit}]"
    assert arrays.parse(text) == (str(job), sorted(tasks))
    assert arrays.throttle(text) == limit


@pytest.mark.parametrize(
    ("tasks", "text"),
    [([], ""), ([7], "7"), ([1, 2, 3, 7], "1-3,7"), ([7, 3, 2, 1, 2], "1-3,7"), ([0, 1], "0-1"), ([1, 3], "1,3")],
)
def test_indices_are_written_as_scancel_takes_them(tasks: list[int], text: str) -> None:
    assert arrays.compress(tasks) == text


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("15_[3-20%3]", 3),
        ("15_[3-20]", 0),
        ("15_[4]", 0),
        ("15_[4%2] ", 2),
        ("15", None),
        ("15_4", None),
        ("16+1", None),
    ],
)
def test_the_throttle_of_an_array_is_found_where_its_tasks_wait_together(text: str, limit: int | None) -> None:
    assert arrays.throttle(text) == limit
