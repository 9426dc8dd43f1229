"""A command with ``{name}`` for parameters of the plan's table: filled in, and recognised again. Pure.

Only the table's names are replaced; all other braces (``${HOME}``, ``{a,b}``, a program's own) stay as they are.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.grid import value_text

Grid = Mapping[str, Sequence[Any]]
STEPS = 20_000  # that recognising may take: what is more ambiguous is not recognised
# A word in quotes, or one without anything that the shell would act on.
_WORD = re.compile(r"""(?:'[^']*'|"[^"$`\\]*"|[A-Za-z0-9_.,:/@%+=\-])+""")
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.\-/]*)\}")
# Where a toggle of quotes says nothing: substitutions, here-documents, comments.
_DEEP = re.compile(r"<<|\$\(|`|\$'|(?:^|[\s;&|(])#")


def fill(template: str, configuration: Mapping[str, Any]) -> str:
    """The command of one configuration: each of its names that the template has, as a shell word."""

    def word(match: re.Match[str]) -> str:
        name = match[1]
        return shlex.quote(value_text(configuration[name])) if _ours(match, configuration) else match[0]

    return _PLACE.sub(word, template)


def named(template: str, grid: Grid) -> set[str]:
    """The parameters that the template has a place for."""
    return {match[1] for match in _PLACE.finditer(template) if _ours(match, grid)}


def strangers(template: str, grid: Grid) -> list[str]:
    """The places that look like one of a parameter's, and are none's."""
    return sorted({match[1] for match in _PLACE.finditer(template) if not _shells(match) and match[1] not in grid})


def nearly(template: str, name: str) -> str | None:
    """How the template names a parameter that it has no place for: in braces with something besides, in another case,
    as a variable of the shell. None where it does not."""
    word = re.escape(name)
    braces = rf"\{{\{{?[ \t]*(?:\w+\.)?{word}[ \t]*(?:[:!][^{{}}]{{0,20}})?\}}?\}}"
    variable = rf"\$(?-i:{word})\b|\$\{{(?-i:{word})\}}"
    found = re.search(rf"(?<!\$){braces}|(?<!\w)<{word}>|{variable}", template, re.IGNORECASE)
    return found[0] if found else None


def _ours(match: re.Match[str], names: Mapping[str, Any]) -> bool:
    return match[1] in names and not _shells(match)


def _shells(match: re.Match[str]) -> bool:
    """``${name}`` is the shell's, whatever its name."""
    return match.start() > 0 and match.string[match.start() - 1] == "$"


def quoted_twice(template: str, grid: Grid) -> list[str]:
    """Parameters whose place is inside quotes (or in a substitution, a here-document, beside a comment), though a value
    of theirs needs quotes of its own: the shell would take those apart again, and might execute what is in them."""
    inside, deep = _inside_quotes(template), _DEEP.search(template) is not None
    return sorted(
        {
            match[1]
            for match in _PLACE.finditer(template)
            if _ours(match, grid)
            and (deep or inside[match.start()])
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
        elif character in "'\"":
            quote = character
    return found


def recognise(template: str, grid: Grid, command: str, told: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The values of the grid with which the template is this command, ``told`` ones among them; None where it is with
    none. Of several ways to read it the first."""
    literals, names = _parts(template, grid)
    known = {name: value_text(value) for name, value in (told or {}).items()}
    words = {name: _words(grid[name], known.get(name)) for name in set(names)}
    if not command.startswith(literals[0]):
        return None
    return _read(_Reading(command, literals, names, words), 0, len(literals[0]), {})


def _words(values: Sequence[Any], known: str | None) -> list[tuple[str, Any]]:
    texts = [(value_text(value), value) for value in values]
    return [(shlex.quote(text), value) for text, value in texts if known in {None, text}]


class _Reading:
    """A command under way of being read: what it is made of, and how many steps are left."""

    def __init__(
        self, command: str, literals: list[str], names: list[str], words: Mapping[str, list[tuple[str, Any]]]
    ) -> None:
        self.command, self.literals, self.names, self.words = command, literals, names, words
        self.left = STEPS


def _read(reading: _Reading, number: int, at: int, found: dict[str, Any]) -> dict[str, Any] | None:
    """The rest of the command from its ``number``-th place on."""
    if number == len(reading.names):
        return found if at == len(reading.command) else None
    name, literal = reading.names[number], reading.literals[number + 1]
    for word, value in reading.words[name]:
        reading.left -= 1
        if reading.left < 0:
            return None
        end = at + len(word)
        same = name not in found or value_text(found[name]) == value_text(value)
        if same and reading.command.startswith(word, at) and reading.command.startswith(literal, end):
            rest = _read(reading, number + 1, end + len(literal), {**found, name: value})
            if rest is not None:
                return rest
    return None


def guess(template: str, grid: Grid, command: str) -> dict[str, Any] | None:
    """What stands in the parameters' places, whether the grid has it or not: to say what is wrong, never to allow it.
    Reads on to the next literal part, and not back."""
    literals, names = _parts(template, grid)
    if not command.startswith(literals[0]):
        return None
    at, found = len(literals[0]), dict[str, Any]()
    for name, literal in zip(names, literals[1:], strict=True):
        end = command.find(literal, at) if literal else len(command)
        if end < 0 or not _WORD.fullmatch(command, at, end):
            return None
        found[name] = _typed(command[at:end])
        at = end + len(literal)
    return found if at == len(command) else None


def _parts(template: str, grid: Grid) -> tuple[list[str], list[str]]:
    """The texts around the places, one more than there are places, and the places' names."""
    literals, names, at = [], [], 0
    for match in _PLACE.finditer(template):
        if _ours(match, grid):
            literals.append(template[at : match.start()])
            names.append(match[1])
            at = match.end()
    return [*literals, template[at:]], names


def _typed(word: str) -> Any:
    text = "".join(shlex.split(word))
    try:
        return json.loads(text) if len(text) < 40 and text[:1] not in "[{N" else text
    except ValueError:
        return text
