"""A plan's markdown, held against the structure that the seed requires: what it says, and what is wrong in it. Pure."""

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from orchestrator.planning import runblock
from orchestrator.planning import sections as readers
from orchestrator.planning.document import Document, Heading, Part, TooMuch, parse
from orchestrator.planning.runblock import RunBlock
from orchestrator.planning.values import cut, placeholder

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
TITLE = "📋 Plan:"
MAX_CHARACTERS = 200_000
MAX_CELLS = 10_000
MAX_PROBLEMS = 200


@dataclass(frozen=True)
class Problem:
    """One departure. ``line`` counts from 1; 0: something is missing altogether."""

    line: int
    message: str

    def public(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PlanText:
    """What a plan's markdown says. Readers share it: nobody changes what is in it.

    ``parameters``: the grid, for every parameter whose values could be read. ``block``: the ```toml orc fence.
    """

    title: str | None = None
    sections: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    parameters: dict[str, list[Any]] = field(default_factory=dict)
    block: RunBlock = field(default_factory=RunBlock)


def read(markdown: str) -> PlanText:
    """What it says and how it departs from the structure; nothing for a plan without markdown. Never raises."""
    if len(markdown) > MAX_CHARACTERS:
        message = f"The plan is longer than a person reads: {len(markdown)} characters, of {MAX_CHARACTERS} at most."
        return PlanText(problems=[Problem(1, message)])
    return _read(markdown)


@lru_cache(maxsize=128)
def _read(markdown: str) -> PlanText:
    if not markdown.strip():
        return PlanText()
    try:
        document = parse(markdown)
    except TooMuch:
        message = "The plan has more lines, lists or tables in each other than a person reads: it was not read."
        return PlanText(problems=[Problem(1, message)])
    return _Reading(document).text()


def name_of(heading: Heading) -> str:
    """A heading's words without emphasis, code marks and the emoji's variation selector."""
    bare = heading.text.replace("**", "").replace("`", "").replace("\ufe0f", "")
    return " ".join(bare.strip("*_ ").split())


class _Reading:
    """One document: its problems as they are found."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def tell(self, line: int, message: str) -> None:
        self.problems.append(Problem(line, message))

    def text(self) -> PlanText:
        title = self._title()
        parts = self._parts()
        self._sizes(parts.get("Parameters to Sweep"))
        for fence in self.document.fences:
            if not fence.closed:
                self.tell(fence.line, "The fence that begins here is never closed: all after it is its content.")
        block = runblock.block(self.document.fences, self.tell)
        sections: dict[str, Any] = {} if title is None else {"title": title}
        for name, (key, reader) in readers.READERS.items():
            if name in parts:
                sections[key] = reader(self.document, parts[name], self.tell)
        parameters = sections.get("parameters", [])
        grid = {entry["name"]: entry["values"] for entry in parameters if entry["values"]}
        part = parts.get("Parameters to Sweep")
        whole = part is not None and not any(part.begin <= told.line <= part.end for told in self.problems)
        found = runblock.Said(sections, grid if whole else {}, block)
        runblock.contradictions(found, parts, self.tell)
        if block.table is not None:
            sections["run"] = block.table
        return PlanText(title, sections, self._told(), grid, block)

    def _told(self) -> list[Problem]:
        """The problems in the order of their lines, as many as a person reads."""
        found = sorted(self.problems, key=lambda problem: problem.line)
        more = len(found) - MAX_PROBLEMS
        if more <= 0:
            return found
        last = found[MAX_PROBLEMS].line
        return [*found[:MAX_PROBLEMS], Problem(last, f"There are {more} more problems from here on.")]

    def _title(self) -> str | None:
        """The first title there is; a problem where the plan does not begin with it."""
        second = (heading for heading in self.document.headings if heading.level == 2 and heading.marked)
        heading = next((heading for heading in second if name_of(heading).startswith(f"{TITLE} ")), None)
        if heading is None or heading.line != self.document.first:
            self.tell(max(1, self.document.first), 'The plan must begin with "## 📋 Plan: <title>".')
        if heading is None:
            return None
        title = cut(name_of(heading).removeprefix(TITLE).strip())
        if placeholder(title):
            self.tell(heading.line, f"The title \"{title[:80]}\" is the structure's own: write the plan's.")
        return title

    def _parts(self) -> dict[str, Part]:
        """The structure's parts by their names."""
        known = (*REQUIRED, *OPTIONAL)
        parts: dict[str, Part] = {}
        for part in self.document.parts:
            if part.heading is None or part.heading.level != 3:
                continue
            name, line = name_of(part.heading), part.heading.line
            if name not in known:
                written, others = part.heading.text[:200], ", ".join(known)
                self.tell(line, f'The header "### {written}" is not one of the structure\'s: {others}.')
            elif name in parts:
                self.tell(line, f'The header "### {name}" stands a second time.')
            else:
                parts[name] = part
        self._missing(parts)
        return parts

    def _missing(self, parts: dict[str, Part]) -> None:
        for name in REQUIRED:
            if name not in parts:
                self.tell(0, f'The header "### {name}" is missing.')
        for heading in self.document.headings:
            name = name_of(heading)
            if name in (*REQUIRED, *OPTIONAL) and name not in parts and (heading.level != 3 or not heading.marked):
                self.tell(heading.line, f'The header "{name}" is at another level: write it as "### {name}".')

    def _sizes(self, part: Part | None) -> None:
        """Of the tables: those that go beyond what a person reads are not read."""
        cells, left = 0, set()
        for table in self.document.tables:
            cells += table.cells()
            if cells > MAX_CELLS:
                self.tell(table.line, f"The plan's tables have more than {MAX_CELLS} cells: this one is not read.")
                left.add(table.line)
        if part is not None:
            part.tables = [table for table in part.tables if table.line not in left]
