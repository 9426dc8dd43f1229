"""A sweep's grid: every configuration once, and a command line that any shell reads back to the very values."""

import itertools
import json
import math
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.grid import command_line, expand, short_name, size, value_text

# What a command line can hold: any text but NUL and halves of surrogate pairs (the API refuses both).
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
names = st.from_regex(re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]{0,20}", re.ASCII), fullmatch=True)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(texts | plain, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
grids = st.dictionaries(names, st.lists(values, max_size=4), max_size=4)
NASTY = [
    "",
    " ",
    "-",
    "--",
    "-n",
    "--lr=2",
    "it's",
    '"quoted"',
    "''",
    "$HOME",
    "${HOME}",
    "$(echo no)",
    "`echo no`",
    "a b\tc",
    "line\nline\n",
    "\r\n",
    "back\\slash\\",
    "*",
    "~",
    "!!",
    "{a,b}",
    "a;b&c|d>e<f",
    "#comment",
    "é ✓ 💡 \u202e \u00a0",
    "\x01\x1b[31m\x7f",
    "null",
    "true",
    "1e-3",
]


def received(*configurations: dict[str, Any], locale: str = "C.UTF-8", base: str = "show") -> list[list[str]]:
    """What a program gets on its command line, asked of bash itself (as job.py runs a command)."""
    # Each call prints how many arguments there were, then each of them.
    program = 'show() { printf \'%s\\0\' "$#" "$@"; }\n'
    lines = [command_line(base, configuration) for configuration in configurations]
    done = subprocess.run(
        ["bash", "-c", program + "\n".join(lines)],
        capture_output=True,
        check=True,
        timeout=30,
        env={"HOME": "/nowhere", "LC_ALL": locale, "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == b""
    words = iter(done.stdout.decode().split("\0")[:-1])
    return [list(itertools.islice(words, int(count))) for count in words]


# -- the grid ----------------------------------------------------------------------------------------------------------


@given(grids)
@settings(max_examples=60)
def test_there_are_as_many_configurations_as_the_product_of_the_lists(parameters: dict[str, list[Any]]) -> None:
    configurations = list(expand(parameters))
    assert size(parameters) == len(configurations) == math.prod(map(len, parameters.values()))
    assert all(list(configuration) == list(parameters) for configuration in configurations)


@given(st.dictionaries(names, st.lists(st.integers() | texts, max_size=4, unique=True), max_size=4))
@settings(max_examples=60)
def test_distinct_values_make_distinct_configurations(parameters: dict[str, list[Any]]) -> None:
    found = [tuple(configuration.items()) for configuration in expand(parameters)]
    assert len(set(found)) == len(found)


@given(grids)
@settings(max_examples=40)
def test_the_last_parameter_changes_fastest(parameters: dict[str, list[Any]]) -> None:
    places = {name: range(len(listed)) for name, listed in parameters.items()}
    found = [tuple(configuration.values()) for configuration in expand(places)]
    assert found == sorted(found)


def test_the_order_of_a_grid_is_that_of_nested_loops() -> None:
    assert list(expand({"lr": [0.1, 0.2], "seed": [1, 2]})) == [
        {"lr": 0.1, "seed": 1},
        {"lr": 0.1, "seed": 2},
        {"lr": 0.2, "seed": 1},
        {"lr": 0.2, "seed": 2},
    ]


def test_an_empty_list_leaves_nothing_and_no_parameters_leave_one() -> None:
    assert list(expand({"lr": [], "seed": [1]})) == []
    assert list(expand({})) == [{}]
    assert (size({"lr": [], "seed": [1]}), size({})) == (0, 1)


def test_the_size_of_a_huge_grid_is_told_without_making_it() -> None:
    huge: dict[str, Sequence[int]] = {f"p{number}": range(1000) for number in range(20)}
    assert size(huge) == 10**60
    assert next(expand(huge)) == dict.fromkeys(huge, 0)


# -- the command line --------------------------------------------------------------------------------------------------


@given(st.dictionaries(names, texts, max_size=5), st.sampled_from(["C.UTF-8", "C"]))
@example(dict(zip((f"p{number}" for number in range(len(NASTY))), NASTY, strict=True)), "C.UTF-8")
@example(dict(zip((f"p{number}" for number in range(len(NASTY))), NASTY, strict=True)), "C")
@settings(max_examples=60)
def test_a_shell_hands_over_exactly_the_text_that_was_given(configuration: dict[str, str], locale: str) -> None:
    assert received(configuration, locale=locale) == [[f"--{name}={text}" for name, text in configuration.items()]]


@given(st.dictionaries(names, values, max_size=4))
@settings(max_examples=50)
def test_what_is_no_text_arrives_as_json(configuration: dict[str, Any]) -> None:
    [arguments] = received(configuration)
    assert len(arguments) == len(configuration)
    for argument, (name, value) in zip(arguments, configuration.items(), strict=True):
        option, _, text = argument.partition("=")
        assert option == f"--{name}"
        read = text if isinstance(value, str) else json.loads(text)
        assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "0.001"),
        (1e-05, "1e-05"),
        (3, "3"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ("", ""),
        ("null", "null"),
        ([1, "a", None], '[1, "a", null]'),
        ({"é": [0.5]}, '{"é": [0.5]}'),
    ],
)
def test_a_value_reads_as_programs_expect_it(value: object, text: str) -> None:
    assert value_text(value) == text
    assert received({"x": value}) == [[f"--x={text}"]]


def test_the_command_lines_of_a_grid_run_as_they_are() -> None:
    configurations = list(expand({"lr": [0.1, 0.01], "text": ["a b", "$HOME"]}))
    assert received(*configurations) == [
        ["--lr=0.1", "--text=a b"],
        ["--lr=0.1", "--text=$HOME"],
        ["--lr=0.01", "--text=a b"],
        ["--lr=0.01", "--text=$HOME"],
    ]


@pytest.mark.parametrize("base", ["python train.py", "python train.py ", "python train.py\n", "python train.py \t\n\n"])
def test_the_options_follow_the_base_command_on_its_last_line(base: str) -> None:
    assert command_line(base, {"lr": 0.1, "seed": 2}) == "python train.py --lr=0.1 --seed=2"


@pytest.mark.parametrize("base", ["show \\\n", "show a \\\n  \\\n", "show 'a\n' \\\n"])
def test_options_follow_a_command_that_ends_in_a_line_continuation(base: str) -> None:
    # A backslash left over would quote the space before the first option.
    [arguments] = received({"lr": 0.1, "seed": 2}, base=base)
    assert arguments[-2:] == ["--lr=0.1", "--seed=2"]


def test_without_parameters_the_command_is_the_base() -> None:
    assert command_line("python train.py", {}) == "python train.py"


# -- the name ----------------------------------------------------------------------------------------------------------


@given(st.dictionaries(names, values | st.text(min_size=150, max_size=250), max_size=5))
@settings(max_examples=60)
def test_a_name_is_never_longer_than_200_characters(configuration: dict[str, Any]) -> None:
    whole = " ".join(f"{name}={value_text(value)}" for name, value in configuration.items())
    name = short_name(configuration)
    assert len(name) <= 200
    assert name == whole if len(whole) <= 200 else (name[:-1] == whole[:199] and name[-1] == "…")


@pytest.mark.parametrize("length", [198, 199, 200, 201, 202])
def test_a_name_is_cut_where_it_would_be_longer(length: int) -> None:
    name = short_name({"x": "y" * (length - 2)})
    assert name == (f"x={'y' * (length - 2)}" if length <= 200 else f"x={'y' * 197}…")


def test_a_name_shows_the_configuration() -> None:
    assert short_name({"lr": 0.001, "seed": 2}) == "lr=0.001 seed=2"
