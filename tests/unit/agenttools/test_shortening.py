"""Answers are short, and say what they leave out."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agenttools.shortening import (
    LIMIT,
    Json,
    cut,
    dumps,
    fit,
    page,
    part_of_text,
    thinned,
    without_nothing,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3000),
    lambda inner: st.lists(inner, max_size=80) | st.dictionaries(st.text(max_size=100), inner, max_size=80),
    max_leaves=60,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=20), VALUES, max_size=50))
def test_whatever_comes_fits(content: dict[str, Any]) -> None:
    shown = fit(content, "elsewhere")
    assert len(dumps(shown)) <= LIMIT + 100
    if len(dumps(content)) <= LIMIT:
        assert shown == content


@pytest.mark.parametrize(
    "content",
    [
        {"text": "ü" * 1_000_000},
        {"list": [{"name": "x" * 100}] * 10_000},
        {"dict": {f"key {number}": number for number in range(10_000)}},
        {f"key {number}": "x" * 100 for number in range(1000)},
        {"deep": [[["x" * 50] * 50] * 50] * 50},
        {'"' * 50 + str(number): '"\\' * 1000 for number in range(100)},
    ],
)
def test_what_is_left_out_is_said(content: Json) -> None:
    shown = fit(content, "call it again")
    assert len(dumps(shown)) <= LIMIT + 100
    assert shown["note"] == "Shortened (…): call it again"


def test_how_much_is_left_out_is_counted() -> None:
    assert cut("abcdef", 2) == "ab… 4 more characters"
    shown = fit({"list": list(range(100_000))}, "x")
    assert shown["list"][-1] == f"… {100_000 - len(shown['list']) + 1} more"


def test_a_page_that_does_not_fit_loses_no_row() -> None:
    rows = [{"id": number, "name": "x" * 400} for number in range(50)]
    shown = page("runs", rows, 7, "runs")
    kept = len(shown["runs"])
    assert shown["runs"] == rows[:kept]
    assert shown["more"] == f"… {50 - kept} more did not fit: call runs with limit={kept} and go on from there"
    assert page("runs", rows[:2], None, "runs") == {"runs": rows[:2]}


def test_a_row_too_long_for_any_page_is_cut() -> None:
    assert len(dumps(page("runs", [{"id": "x" * 100_000}], None, "runs"))) <= LIMIT


def test_a_text_is_read_part_by_part() -> None:
    assert part_of_text("x" * 6001, 0, str) == ("x" * 6000, "6000")
    assert part_of_text("x" * 6001, 6000, str) == ("x", None)
    assert part_of_text("x", 99, str) == ("", None)


@pytest.mark.parametrize("count", [0, 1, 2, 19, 20, 21, 400])
def test_a_thinned_series_keeps_its_ends_and_its_extremes(count: int) -> None:
    points = [{"step": step, "value": -1.0 if step == count // 3 else float(step % 50)} for step in range(count)]
    shown = thinned(points, 20)
    assert len(shown) == min(count, len(shown))
    assert len(shown) <= 20
    if count:
        assert [shown[0][0], shown[-1][0]] == [0, count - 1]
        assert min(value for _, value in shown) == -1.0


def test_a_series_of_nothing_but_nan_is_shown() -> None:
    assert len(thinned([{"step": step, "value": None} for step in range(100)], 5)) <= 5


def test_nothing_is_not_shown() -> None:
    assert without_nothing({"a": None, "b": "", "c": [], "d": {}, "e": 0, "f": False}) == {"e": 0, "f": False}


def test_what_would_turn_or_hide_text_is_written_out_and_is_still_the_same_json() -> None:
    name = "a\u202eb\x1b[2J\x9bc\u200b 終わり é"
    shown = dumps({"name": name})
    assert shown.isprintable()
    assert "終わり é" in shown
    assert json.loads(shown) == {"name": name}
