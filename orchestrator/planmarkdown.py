"""What is wrong in a plan's markdown, held against the structure that the seed requires. Pure."""

import re
from dataclasses import asdict, dataclass
from typing import Any

REQUIRED = (
    "Objective",
    "Compute Setup",
    "Approach",
    "Metrics",
    "Success Criteria",
    "Risks & Mitigations",
    "Estimated Effort",
    "💡 Workflow Improvements",
)
OPTIONAL = ("Parameters to Sweep",)
TITLE = re.compile(r"^## 📋 Plan: \S")
HEADER = re.compile(r"^### +(.*?)\s*$")
# CommonMark 4.5: what follows backticks that open a fence holds none; what closes it is as long, with nothing after.
OPENING = re.compile(r"^ {0,3}(`{3,}(?=[^`]*$)|~{3,})")
CLOSING = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*$")


@dataclass(frozen=True)
class Problem:
    """One departure. ``line`` counts from 1; 0: something is missing altogether."""

    line: int
    message: str

    def public(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def problems(markdown: str) -> list[Problem]:
    """The departures from the required headers, in the order of the lines; none for a plan without markdown."""
    if not markdown.strip():
        return []
    lines = _outside_fences(markdown)
    found = _title_problems(lines)
    headers = [(number, match[1]) for number, line in lines if (match := HEADER.match(line))]
    known = [*REQUIRED, *OPTIONAL]
    seen: set[str] = set()
    for number, name in headers:
        if name not in known:
            found.append(
                Problem(number, f'The header "### {name}" is not one of the structure\'s: {", ".join(known)}.')
            )
        elif name in seen:
            found.append(Problem(number, f'The header "### {name}" stands a second time.'))
        seen.add(name)
    found += [Problem(0, f'The header "### {name}" is missing.') for name in REQUIRED if name not in seen]
    return sorted(found, key=lambda problem: problem.line)


def _title_problems(lines: list[tuple[int, str]]) -> list[Problem]:
    first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if TITLE.match(first[1]):
        return []
    return [Problem(first[0], 'The plan must begin with "## 📋 Plan: <title>".')]


def _outside_fences(markdown: str) -> list[tuple[int, str]]:
    """The numbered lines that are not inside a fenced block."""
    kept, fence = [], ""
    for number, line in enumerate(markdown.splitlines(), start=1):
        if fence:
            closing = CLOSING.match(line)
            if closing and closing[1].startswith(fence):
                fence = ""
        elif opening := OPENING.match(line):
            fence = opening[1]
        else:
            kept.append((number, line))
    return kept
