"""A plan's markdown with its block held against what can be executed. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from orchestrator.planning.markdown import PlanText, Problem, read
from orchestrator.planning.template import named, nearly, quoted_twice, strangers
from orchestrator.shapes import PlanBlock

# Control characters but tab; marks that turn the direction of text, or have no width.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
MOST_UNSEEN = 20
MOST_MISSPELT, LONGEST_NAME = 50, 60  # the comparing takes as long as the product of all four
QUOTED = (
    "Write {{{name}}} where the shell reads plain words: its values get quotes of their own, which mean nothing inside "
    "quotes, $(…), here-documents, or beside a comment."
)


@dataclass(frozen=True)
class Reading:
    """``block``: how it runs, None where the plan does not say, or not well. ``problems``: all, by line."""

    text: PlanText
    block: PlanBlock | None
    problems: list[Problem]


@lru_cache(maxsize=128)
def reading(markdown: str) -> Reading:
    """What a plan says. Never raises: what is wrong is among its problems."""
    text = read(markdown)
    block, found = _block(text) if text.block.table is not None else (None, [])
    if block is not None and block.command is not None:
        line = text.block.line_of("command")
        words = [QUOTED.format(name=name) for name in quoted_twice(block.command, text.parameters)]
        found += [Problem(line, told) for told in [*words, *_misspelt(text, block.command)]]
    found += _unseen(markdown)
    return Reading(text, block, sorted([*text.problems, *found], key=lambda problem: problem.line))


def _misspelt(text: PlanText, command: str) -> Iterator[str]:
    """What of the command is no place of a parameter, where it lacks one that may be meant."""
    rows: dict[str, list[Any]] = {str(row["name"]): [] for row in text.sections.get("parameters", []) if row["name"]}
    left = [
        name
        for name in sorted(set(rows) - named(command, rows))
        if len(name) <= LONGEST_NAME and f"ORC_PARAM_{re.sub('[^A-Za-z0-9]', '_', name).upper()}" not in command
    ][:MOST_MISSPELT]
    written = {name: nearly(command, name) for name in left}
    places = {f"{{{place}}}": place for place in strangers(command, rows)[:MOST_MISSPELT]}
    close = {place: get_close_matches(place, left, 1) for place in places.values() if len(place) <= LONGEST_NAME}
    meant = {shown: name for name, shown in written.items() if shown is not None}
    meant |= {shown: close[place][0] for shown, place in places.items() if shown not in meant and close.get(place)}
    for shown, name in meant.items():
        yield f"{shown} in the command is no place of a parameter, it stays so: did you mean {{{name}}}?"


def _unseen(markdown: str) -> list[Problem]:
    """What a terminal or a page does not show as it is: the first of each line, a few lines of them."""
    found = []
    for number, line in enumerate(markdown.replace("\r\n", "\n").split("\n"), start=1):
        match = UNSEEN.search(line)
        if match is not None:
            found.append(Problem(number, f"A character that nobody sees (U+{ord(match[0]):04X}): leave it out."))
        if len(found) == MOST_UNSEEN:
            break
    return found


def stored(markdown: str) -> dict[str, Any]:
    """What is kept of a reading beside its plan, so that lists and comparisons need not read again."""
    found = reading(markdown)
    return {
        "sections": found.text.sections,
        "parameters": found.text.parameters,
        "command": found.block.command if found.block is not None else None,
        "problems": [problem.public() for problem in found.problems],
    }


def _block(text: PlanText) -> tuple[PlanBlock | None, list[Problem]]:
    try:
        return PlanBlock.model_validate(text.block.table), []
    except ValidationError as error:
        return None, [_problem(text, item) for item in error.errors()]


def _problem(text: PlanText, item: Mapping[str, Any]) -> Problem:
    keys = [str(part) for part in item["loc"]]
    words = str(item["msg"])
    message = f"The block's {'.'.join(keys) or 'table'}: {words}{'' if words.endswith(('.', '?')) else '.'}"
    return Problem(text.block.line_of(*keys), message)
