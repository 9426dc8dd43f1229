"""What a run asks for: sbatch's own forms of memory and time, and words for what is none of them."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.resources import MAX_SECONDS, Resources, parse_memory, parse_time

MIB, GIB = 2**20, 2**30
TIME_FORMS = ["D-HH:MM:SS", "D-HH", "HH:MM:SS", "MM:SS", "minutes"]
HUGE = "9" * 400


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16G", 16 * GIB),
        ("500M", 500 * MIB),
        ("64K", 64 * 2**10),
        ("2T", 2 * 2**40),
        ("4096", 4096 * MIB),  # sbatch: MiB without a unit
        ("1.5G", 3 * GIB // 2),
        ("0.5G", 512 * MIB),
        ("16g", 16 * GIB),
        ("16GB", 16 * GIB),
        ("16GiB", 16 * GIB),
        ("16 G", 16 * GIB),
        (" 16G ", 16 * GIB),
    ],
)
def test_memory_in_every_form(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "G", "0", "0G", "0.0M", "-1G", "lots", "16X", "1,5G", "16G 2", "1e9", "max", "16PB", "16GG", "..5G"],
)
def test_what_is_no_memory_size_is_told_which_forms_are(text: str) -> None:
    with pytest.raises(ValueError, match='such as "16G" or "500M"') as caught:
        parse_memory(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0.0001K", "0.0000001M"])
def test_a_memory_of_less_than_a_byte_is_refused(text: str) -> None:
    # sbatch takes 0 for all of the node's memory.
    with pytest.raises(ValueError, match='such as "16G" or "500M"'):
        parse_memory(text)


@pytest.mark.parametrize("text", [HUGE, HUGE + "G", "9" * 5000 + "T"], ids=["bare", "G", "5000 digits"])
def test_a_memory_larger_than_any_number_is_refused_in_words(text: str) -> None:
    # An OverflowError would be no validation error, and POST /runs would answer 500.
    with pytest.raises(ValueError, match='such as "16G" or "500M"'):
        parse_memory(text)
    with pytest.raises(ValidationError):
        Resources(mem=text)


@pytest.mark.parametrize("text", ["16B", "16iB", "16i"])
def test_a_unit_that_slurm_does_not_have_is_refused(text: str) -> None:
    # A B alone would say bytes.
    with pytest.raises(ValueError, match='such as "16G" or "500M"'):
        parse_memory(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("8:00:00", 8 * 3600),
        ("90:00", 90 * 60),
        ("1:30", 90),
        ("0:01", 1),
        ("1-0", 86400),
        ("2-12", 2 * 86400 + 12 * 3600),
        ("1-2:30", 86400 + 2 * 3600 + 30 * 60),
        ("1-02:03:04", 86400 + 2 * 3600 + 3 * 60 + 4),
        ("100:00:00", 100 * 3600),
        ("90", 90 * 60),
        ("0.5", 30),
        (" 90 ", 90 * 60),
        (90, 90 * 60),
        (0.5, 30),
    ],
)
def test_time_in_every_form_of_sbatch(value: str | float, seconds: float) -> None:
    assert parse_time(value) == seconds
    assert Resources(time=value).time_seconds == seconds


@pytest.mark.parametrize(
    "value",
    ["", "soon", "8h", "1:2:3:4", "1-", "-1", "-1:00", "1-2-3", "8:000", "1e3", "nan", "::", "8:00:", True, False],
)
def test_what_is_no_time_is_told_which_forms_are(value: str | bool) -> None:
    with pytest.raises(ValueError, match="a time limit is") as caught:
        parse_time(value)
    assert all(form in str(caught.value) for form in TIME_FORMS)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [[], {}, b"8:00", object()])
def test_a_time_of_another_type_is_told_which_forms_are(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Resources.model_validate({"time": value})
    assert all(form in str(caught.value) for form in TIME_FORMS)


@pytest.mark.parametrize(
    "value", [0, 0.0, -5, "0", "0:00:00", "0-0", math.inf, -math.inf, math.nan, MAX_SECONDS, "99999-0"]
)
def test_a_time_limit_is_above_zero_and_at_most_ten_years(value: str | float) -> None:
    with pytest.raises(ValueError, match="above zero and at most ten years"):
        parse_time(value)


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), HUGE, HUGE + ":00", HUGE + "-0", "9" * 5000 + ":00"],
    ids=["number", "below", "minutes", "clock", "days", "5000 digits"],
)
def test_a_time_larger_than_any_number_is_refused_in_words(value: str | int) -> None:
    # An OverflowError would be no validation error, and POST /runs would answer 500.
    with pytest.raises(ValueError, match="a time limit is"):
        parse_time(value)
    with pytest.raises(ValidationError):
        Resources(time=value)


def test_ten_years_are_allowed() -> None:
    assert parse_time(MAX_SECONDS / 60) == MAX_SECONDS


@given(st.integers(0, 3000), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
@settings(max_examples=40)
def test_a_clock_reads_as_it_is_written(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_time(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    assert parse_time(f"{days * 24 + hours}:{minutes:02}:{seconds:02}") == total


@given(st.text(alphabet="0123456789:-. GMKTiBh", max_size=12) | st.text(max_size=5))
@settings(max_examples=150)
def test_any_text_is_a_positive_size_or_time_or_refused_in_words(text: str) -> None:
    for parse in (parse_memory, parse_time):
        try:
            found = parse(text)
        except ValueError as error:
            refused = str(error)
        else:
            assert 0 < found < math.inf
            continue
        assert refused.startswith("a ")


# -- the whole of it ---------------------------------------------------------------------------------------------------


def test_nothing_asked_for_is_nothing() -> None:
    asked = Resources()
    assert asked.model_dump(exclude_none=True) == {}
    assert asked.time_seconds is None


def test_what_was_asked_for_is_kept_as_it_was_written() -> None:
    asked = {"gpus": 2, "cpus": 8, "mem": "16G", "time": "8:00:00"}
    assert Resources.model_validate(asked).model_dump(exclude_none=True) == asked
    assert Resources(time=90).model_dump(exclude_none=True) == {"time": 90}
    assert Resources(gpus=0).gpus == 0


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"gpus": -1}, "gpus"),
        ({"gpus": 1025}, "gpus"),
        ({"gpus": 1.5}, "gpus"),
        ({"gpus": "many"}, "gpus"),
        ({"cpus": 0}, "cpus"),
        ({"cpus": -4}, "cpus"),
        ({"cpus": 10**30}, "cpus"),
        ({"mem": "-1G"}, "mem"),
        ({"mem": 16}, "mem"),
        ({"mem": ["16G"]}, "mem"),
        ({"time": -5}, "time"),
        ({"time": "soon"}, "time"),
        ({"gpu": 1}, "gpu"),
        ({"Gpus": 1}, "Gpus"),
        ({"memory": "16G"}, "memory"),
    ],
)
def test_what_cannot_be_is_refused_and_its_field_named(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Resources.model_validate(asked)
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_what_was_asked_for_cannot_be_changed() -> None:
    asked = Resources(gpus=1)
    with pytest.raises(ValidationError, match="frozen"):
        asked.gpus = 2  # type: ignore[misc]
