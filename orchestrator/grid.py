"""A sweep's grid: configurations from lists of values, and the command line of each. Pure."""

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def size(parameters: Mapping[str, Sequence[Any]]) -> int:
    """How many configurations there are, without making them."""
    return math.prod(len(values) for values in parameters.values())


def expand(parameters: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every configuration; the last parameter changes fastest."""
    for values in itertools.product(*parameters.values()):
        yield dict(zip(parameters, values, strict=True))


def value_text(value: Any) -> str:
    """A value as a program reads it from its command line: JSON's form for what is no text, text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def command_line(base: str, configuration: Mapping[str, Any]) -> str:
    """``base --name=value …``, each quoted for the shell."""
    options = [f"--{name}={shlex.quote(value_text(value))}" for name, value in configuration.items()]
    return " ".join([_without_end(base), *options])


def _without_end(text: str) -> str:
    """Without white space and line continuations at its end; an escaped blank there is kept."""
    while True:
        bare = text.rstrip()
        escaped = (len(bare) - len(bare.rstrip("\\"))) % 2 == 1
        after = text[len(bare) : len(bare) + 1]
        if not escaped or not after:
            return bare
        if after != "\n":
            return bare + after
        text = bare[:-1]


def short_name(configuration: Mapping[str, Any]) -> str:
    """A run's name from its configuration: ``lr=0.001 seed=2``, at most 200 characters."""
    text = " ".join(f"{name}={value_text(value)}" for name, value in configuration.items())
    return text if len(text) <= 200 else text[:199] + "…"
