"""A plan's markdown with its block held against what can be executed. Pure."""

from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError

from orchestrator.planning.markdown import PlanText, Problem, read
from orchestrator.planning.template import quoted_twice
from orchestrator.shapes import PlanBlock


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
    if text.block is None:
        return Reading(text, None, text.problems)
    block, found = _block(text)
    if block is not None and block.command is not None:
        found += [
            Problem(text.block_line, f"Write {{{name}}} without quotes: its values get their own, and two are none.")
            for name in quoted_twice(block.command, text.parameters)
        ]
    return Reading(text, block, sorted([*text.problems, *found], key=lambda problem: problem.line))


def _block(text: PlanText) -> tuple[PlanBlock | None, list[Problem]]:
    try:
        return PlanBlock.model_validate(text.block), []
    except ValidationError as error:
        return None, [
            Problem(text.block_line, f"The block's {'.'.join(map(str, item['loc'])) or 'table'}: {item['msg']}.")
            for item in error.errors()
        ]
