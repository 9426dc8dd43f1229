"""Whether a plan repeats what another one says, or what has been done already. Pure."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from orchestrator.grid import expand
from orchestrator.planning.template import fill

ALIKE = 0.6  # share of the words of the shorter text that the other has too
COMMON = frozenset({"the", "and", "for", "with", "are", "our", "find", "which", "what", "best", "how", "does"})


@dataclass(frozen=True)
class Overlap:
    """With one plan: how many configurations both have, of how many; 0 of 0 where only the words are alike."""

    shared: int
    size: int

    def words(self) -> str:
        """For people."""
        if self.size:
            return f"{self.shared} of its {self.size} configuration(s) are in that plan too."
        return "Its title and goal say much the same."


@dataclass(frozen=True)
class Content:
    """What two plans are compared by: title and goal, the grid, the command (None: not said)."""

    text: str
    parameters: Mapping[str, Sequence[Any]]
    command: str | None


def with_plan(mine: Content, other: Content) -> Overlap | None:
    """What two plans have in common; None for nothing."""
    first, second = mine.parameters, other.parameters
    if first and first.keys() == second.keys() and len({mine.command, other.command} - {None}) < 2:
        shared = math.prod(len(_both(first[name], second[name])) for name in first)
        return Overlap(shared, math.prod(len(values) for values in first.values())) if shared else None
    return Overlap(0, 0) if not (first and second) and related(mine.text, other.text) else None


def _both(first: Sequence[Any], second: Sequence[Any]) -> set[str]:
    return {json.dumps(value) for value in first} & {json.dumps(value) for value in second}


def related(first: str, second: str) -> bool:
    """Whether the shorter text's words are mostly in the longer."""
    mine, other = _words(first), _words(second)
    fewer = min(len(mine), len(other))
    return fewer > 0 and len(mine & other) / fewer >= ALIKE


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[\w-]{3,}", text[:2000].lower()) if word not in COMMON}


def commands(mine: Content, limit: int) -> list[str]:
    """The commands of its first configurations; none for a plan that names no command."""
    if mine.command is None:
        return []
    return [fill(mine.command, configuration) for configuration in islice(expand(mine.parameters), limit)]
