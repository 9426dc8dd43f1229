"""``lr=1e-3,1e-4 seed=0..4``: what one types becomes values."""

from typing import Any

import pytest

from orchestrator.cli.values import parse_parameter, parse_value


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=1e-3,1e-4", [0.001, 0.0001]),
        ("lr=.5,5.,+3", [0.5, 5.0, 3.0]),
        ("seed=0..4", [0, 1, 2, 3, 4]),
        ("seed=-2..2..2", [-2, 0, 2]),
        ("seed=1,3..5,9", [1, 3, 4, 5, 9]),
        ("on=true,false,null", [True, False, None]),
        ("model=a,b c", ["a", "b c"]),
        ('name=["a,b", 1, [2]]', ["a,b", 1, [2]]),
        ("path=/x=y", ["/x=y"]),
        ('text="quoted"', ['"quoted"']),
        ("version=1.2.3,1_0,0x10,nan", ["1.2.3", "1_0", "0x10", "nan"]),
    ],
)
def test_values_are_what_they_look_like(text: str, values: list[Any]) -> None:
    found = parse_parameter(text)[1]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr", "is no parameter"),
        ("=1", "is no parameter"),
        ("lr=", "is no parameter"),
        ("seed=4..0", "goes backwards"),
        ("seed=0..99999999", "over a million"),
        ("x=[1,", "begins like a JSON list"),
    ],
)
def test_what_is_none_is_told(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_parameter(text)


def test_deep_text_is_text() -> None:
    assert parse_value("[" * 100_000) == "[" * 100_000
