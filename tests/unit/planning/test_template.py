"""A plan's command, filled in and recognised again."""

import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.grid import value_text
from orchestrator.planning.template import fill, guess, named, quoted_twice, recognise

GRID: dict[str, list[Any]] = {"lr": [0.1, 0.01], "name": ["a b", "it's", "$(id)"]}


def test_only_the_tables_names_are_replaced() -> None:
    text = "x --lr {lr} ${lr} ${HOME} {other} {a,b} '{}' {lr}"
    assert fill(text, {"lr": 0.1}) == "x --lr 0.1 ${lr} ${HOME} {other} {a,b} '{}' 0.1"
    assert named(text, GRID) == {"lr"}


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_a_value_is_one_word_of_the_shell(value: str) -> None:
    assert shlex.split(fill("printf %s {v}", {"v": value}))[2:] == [value]


def test_the_shell_sees_the_value_itself() -> None:
    for value in GRID["name"]:
        done = subprocess.run(
            ["bash", "-c", fill("printf %s {name}", {"name": value})], capture_output=True, check=True
        )
        assert done.stdout.decode() == value


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('x "{name}"', ["name"]),
        ("x '{name}'", ["name"]),
        ('x "lr={lr}"', []),
        ("x {name}", []),
        ('x "a" {name} "b"', []),
        ('x \\"{name}', []),
        ('x "\\"{name}"', ["name"]),
        ("x `{name}`", ["name"]),
    ],
)
def test_a_place_inside_quotes_is_told_where_the_value_needs_its_own(text: str, wrong: list[str]) -> None:
    assert quoted_twice(text, GRID) == wrong


VALUES = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text("ab '$\"", max_size=4)
)


@given(lr=st.lists(VALUES, min_size=1, max_size=4), seed=st.lists(VALUES, min_size=1, max_size=4))
def test_what_was_filled_in_is_recognised(lr: list[Any], seed: list[Any]) -> None:
    grid = {"lr": lr, "seed": seed}
    text = "x --lr {lr} --seed={seed} again {lr}"
    for first in lr:
        for second in seed:
            seen = recognise(text, grid, fill(text, {"lr": first, "seed": second}))
            assert seen is not None
            assert [value_text(seen["lr"]), value_text(seen["seed"])] == [value_text(first), value_text(second)]


@pytest.mark.parametrize(
    "command", ["x 0.3", "x 0.1; id", "x 0.1 ", "x  0.1", "x 0.1\n", "x '0.1'", "x", "x 0.1 0.1", "x .1"]
)
def test_nothing_else_is_recognised(command: str) -> None:
    assert recognise("x {lr}", GRID, command) is None


@pytest.mark.parametrize(
    ("command", "value"),
    [("x 0.3", 0.3), ("x 'a b'", "a b"), ("x true", True), ("x adam", "adam"), ("x '1; id'", "1; id")],
)
def test_a_value_outside_of_the_grid_is_told_as_what_it_is(command: str, value: Any) -> None:
    assert guess("x {lr}", GRID, command) == {"lr": value}


@pytest.mark.parametrize("command", ["x $(id)", "x `id`", "x a;id", "x a b", "x a|b", "x a>b", 'x "$(id)"', "x a&"])
def test_what_the_shell_would_act_on_is_no_value(command: str) -> None:
    assert guess("x {lr}", GRID, command) is None
