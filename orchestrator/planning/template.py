"""A command with ``{name}`` for parameters of the plan's table: filled in, and recognised again. Pure.

Only the table's names are replaced; all other braces (``${HOME}``, ``{a,b}``, a program's own) stay as they are.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from orchestrator.grid import value_text

Grid = Mapping[str, Sequence[Any]]
# A word in quotes, or one without anything that the shell would act on.
_WORD = r"""(?:'[^']*'|"[^"$`\\]*"|[A-Za-z0-9_.,:/@%+=\-])+"""
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.\-/]*)\}")


def fill(template: str, configuration: Mapping[str, Any]) -> str:
    """The command of one configuration: each of its names that the template has, as a shell word."""

    def word(match: re.Match[str]) -> str:
        name = match[1]
        return shlex.quote(value_text(configuration[name])) if _ours(match, configuration) else match[0]

    return _PLACE.sub(word, template)


def named(template: str, grid: Grid) -> set[str]:
    """The parameters that the template has a place for."""
    return {match[1] for match in _PLACE.finditer(template) if _ours(match, grid)}


def _ours(match: re.Match[str], names: Mapping[str, Any]) -> bool:
    """``${name}`` is the shell's, whatever its name."""
    return match[1] in names and (match.start() == 0 or match.string[match.start() - 1] != "$")


def quoted_twice(template: str, grid: Grid) -> list[str]:
    """Parameters whose place is inside quotes, though a value of theirs needs quotes of its own: the shell would take
    those apart again, and might execute what is in them."""
    inside = _inside_quotes(template)
    return sorted(
        {
            match[1]
            for match in _PLACE.finditer(template)
            if _ours(match, grid)
            and inside[match.start()]
            and any(shlex.quote(value_text(value)) != value_text(value) for value in grid[match[1]])
        }
    )


def _inside_quotes(text: str) -> list[bool]:
    """For each character whether it stands between quotes, as the shell reads them."""
    found, quote, escaped = [], "", False
    for character in text:
        found.append(bool(quote))
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
    return found


def recognise(template: str, grid: Grid, command: str) -> dict[str, Any] | None:
    """The values of the grid with which the template is this command; None where it is with none."""
    key = tuple((name, tuple(value_text(value) for value in values)) for name, values in sorted(grid.items()))
    pattern, names = _pattern(template, key)
    match = pattern.fullmatch(command)
    if match is None:
        return None
    return {name: _value(grid[name], match[f"p{number}"]) for name, number in names.items()}


def guess(template: str, grid: Grid, command: str) -> dict[str, Any] | None:
    """The same for any words in the parameters' places, whether the grid has them or not."""
    pattern, names = _pattern(template, tuple((name, ()) for name in sorted(grid)))
    match = pattern.fullmatch(command)
    if match is None:
        return None
    return {name: _typed(match[f"p{number}"]) for name, number in names.items()}


def _typed(word: str) -> Any:
    text = "".join(shlex.split(word))
    try:
        return json.loads(text)
    except ValueError:
        return text


@lru_cache(maxsize=64)
def _pattern(template: str, grid: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[re.Pattern[str], dict[str, int]]:
    """Values are few and texts are short: alternatives, the longest first. Without values: any one shell word."""
    values = dict(grid)
    names: dict[str, int] = {}
    parts, at = [], 0
    for match in _PLACE.finditer(template):
        if _ours(match, values):
            parts += [re.escape(template[at : match.start()]), "".join(_group(match[1], values, names))]
            at = match.end()
    parts.append(re.escape(template[at:]))
    return re.compile("".join(parts)), names


def _group(name: str, values: Mapping[str, Sequence[str]], names: dict[str, int]) -> Iterator[str]:
    if name in names:
        yield f"(?P=p{names[name]})"
        return
    names[name] = len(names)
    words = sorted((shlex.quote(text) for text in values[name]), key=len, reverse=True)
    yield f"(?P<p{names[name]}>{'|'.join(re.escape(word) for word in words) or _WORD})"


def _value(values: Sequence[Any], word: str) -> Any:
    return next(value for value in values if shlex.quote(value_text(value)) == word)
