"""A plan's ```toml orc block, and where it and the plan's words contradict each other. Pure."""

import datetime as dt
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import grid
from orchestrator.planning.document import Fence, Part
from orchestrator.planning.sections import Tell, line_of

WORD = "orc"
MAX_BLOCK = 10_000  # characters: the time of Python's TOML parser grows with the square of a key's dots
MAX_DEPTH = 10
TOO_FEW = "The budget is"
PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True)
class RunBlock:
    """``table``: as it was parsed, None where there is no block or it is no TOML; ``line``: where it begins, 0 without
    one."""

    table: dict[str, Any] | None = None
    line: int = 0
    text: str = ""

    def line_of(self, *keys: str) -> int:
        """The line in the plan where the last of these keys stands that the block has; else where the block begins."""
        lines = (_line_in(self.text, key) for key in reversed(keys))
        return self.line + next((line for line in lines if line), 0)


@dataclass(frozen=True)
class Said:
    """What was read. ``parameters``: the grid, {} unless all of its table could be read."""

    sections: Mapping[str, Any]
    parameters: Mapping[str, list[Any]]
    block: RunBlock

    @property
    def table(self) -> Mapping[str, Any]:
        """The block's keys; {} without one."""
        return self.block.table or {}


def block(fences: list[Fence], tell: Tell) -> RunBlock:
    """The first block."""
    found = [fence for fence in fences if WORD in fence.words]
    for fence in found[1:]:
        tell(fence.line, f"A second block for orc: the one at line {found[0].line} says how the plan runs.")
    if not found:
        _unmarked(fences, tell)
        return RunBlock()
    return RunBlock(_parsed(found[0], tell), found[0].line, found[0].content)


def _unmarked(fences: list[Fence], tell: Tell) -> None:
    """Tells of a TOML fence that names a command, where none is marked as the block."""
    for fence in fences:
        if fence.words[:1] == ("toml",) and _line_in(fence.content[:MAX_BLOCK], "command"):
            tell(fence.line, 'This is not read as how the plan runs: begin it with "```toml orc" if it is that.')


def _parsed(fence: Fence, tell: Tell) -> dict[str, Any] | None:
    if len(fence.content) > MAX_BLOCK:
        tell(fence.line, f"The block has more than {MAX_BLOCK} characters: it is not read.")
        return None
    try:
        parsed = tomllib.loads(fence.content)
    except tomllib.TOMLDecodeError as error:
        place = PLACE.search(str(error))
        words = PLACE.sub("", str(error))
        last = max(1, len(fence.content.rstrip("\n").split("\n")))
        tell(fence.line + (int(place[1]) if place and place[1] else last), f"The block is not TOML: {words}.")
        return None
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        tell(fence.line, "The block is not TOML that can be read: its numbers or lists go too far.")
        return None
    wrong = _not_json(parsed)
    if wrong is not None:
        tell(fence.line + _line_in(fence.content, wrong[0]), f'The block\'s "{wrong[0]}" {wrong[1]}.')
        return None
    return parsed


def _not_json(table: dict[str, Any]) -> tuple[str, str] | None:
    """The first key whose value JSON does not have, and why."""
    waiting: list[tuple[str, Any, int]] = [(key, value, 1) for key, value in table.items()]
    while waiting:
        key, value, depth = waiting.pop()
        if isinstance(value, dt.date | dt.time):
            return key, "is a date or a time: write it as text, in quotes"
        if isinstance(value, float) and not math.isfinite(value):
            return key, "is no finite number"
        if isinstance(value, int) and abs(value) >= 2**63:
            return key, "is a number of more than 64 bits"
        if depth > MAX_DEPTH:
            return key, f"is more than {MAX_DEPTH} levels deep"
        if isinstance(value, dict):
            waiting += [(inner, more, depth + 1) for inner, more in value.items()]
        elif isinstance(value, list):
            waiting += [(key, more, depth + 1) for more in value]
    return None


def _line_in(content: str, key: str) -> int:
    """The line (from 1) of the first assignment or table of that name; 0 where none is found."""
    sign = re.compile(rf"\s*(?:\[\[?\s*)?(?:[\w\"'-]+\s*\.\s*)*[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
    for number, line in enumerate(content.split("\n"), start=1):
        if sign.match(line[:500]):
            return number
    return 0


def contradictions(said: Said, parts: Mapping[str, Part], tell: Tell) -> None:
    """Tells where the table, the effort, the compute setup and the block do not say the same."""
    at = said.block.line_of
    size = grid.size(said.parameters) if said.parameters else None
    shown = f"{size} run(s)" if size is not None and size < 10**12 else "more runs than there is time for"
    runs = said.sections.get("effort", {}).get("runs")
    if size is not None and runs is not None and runs != size:
        line = line_of(parts["Estimated Effort"], "runs")
        tell(line, f"The effort is {runs} run(s), the table's parameters make {shown}.")
    allowed = _within(said.table, "budget", "runs")
    if size is not None and type(allowed) is int and allowed < size:
        tell(at("runs"), f"{TOO_FEW} {allowed} run(s), the table's parameters make {shown}.")
    if "parameters" in said.table:
        tell(at("parameters"), 'The block has "parameters": the table under "### Parameters to Sweep" is the grid.')
    _hardware(said, at, tell)


def _hardware(said: Said, at: Callable[..., int], tell: Tell) -> None:
    setup = said.sections.get("compute_setup", {})
    gpus = _within(said.table, "resources", "gpus")
    if type(gpus) is int and gpus > 0:
        if setup.get("gpu_count") == 0:
            tell(at("gpus"), f"The block asks for {gpus} GPU(s), the Compute Setup has none.")
        elif setup.get("cluster_type") == "cpu_only":
            tell(at("gpus"), f"The block asks for {gpus} GPU(s), the Compute Setup is cpu_only.")
    enabled, word = _within(said.table, "gpuwrap_config", "enabled"), setup.get("gpuwrap")
    if isinstance(enabled, bool) and word in {"enabled", "disabled"} and enabled is not (word == "enabled"):
        tell(at("enabled"), f"gpuwrap is {word} in the Compute Setup, and not so in the block.")


def _within(table: Mapping[str, Any], outer: str, inner: str) -> Any:
    found = table.get(outer)
    return found.get(inner) if isinstance(found, dict) else None
