"""A plan's markdown as blocks, each with its line: headings, list items, tables, fences. Pure.

The blocks are those of CommonMark with tables; what stands inside a line is left as it was written.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

# Looks at a line. A plan of 2,000 lines takes some ten thousand; nested quotes take lines times depth.
MAX_STEPS = 60_000
MAX_TOKENS = 60_000
CHARACTERS_PER_STEP = 64  # a look at a long line costs more


class TooMuch(Exception):
    """More blocks, or deeper in each other, than a person writes."""


@dataclass(frozen=True)
class Heading:
    """``marked``: written with #, not underlined."""

    line: int
    level: int
    text: str
    marked: bool


@dataclass
class Item:
    """A list's item: its first paragraph, what else it holds, and the items of the lists in it."""

    line: int
    ordered: bool
    text: str = ""
    more: list[str] = field(default_factory=list)
    children: list["Item"] = field(default_factory=list)


@dataclass
class Table:
    """The header's cells, then the rows, each with its line."""

    line: int
    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, list[str]]] = field(default_factory=list)

    def cells(self) -> int:
        """How many there are, the header's among them."""
        return len(self.header) * (1 + len(self.rows))


@dataclass(frozen=True)
class Fence:
    """A fenced block. ``words``: those after the fence that opens it; ``closed``: whether another ends it."""

    line: int
    words: tuple[str, ...]
    content: str
    closed: bool = True


@dataclass
class Part:
    """What follows a heading of level 1 to 3, up to the next one. ``begin`` and ``end`` count lines from 0."""

    heading: Heading | None
    begin: int
    end: int = 0
    items: list[Item] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass
class Document:
    """``first``: the line of the first block, 0 without one; ``headings``: those that stand in no other block."""

    lines: list[str]
    first: int = 0
    headings: list[Heading] = field(default_factory=list)
    fences: list[Fence] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def text(self, part: Part) -> str:
        """A part as it was written, without its heading."""
        return "\n".join(self.lines[part.begin : part.end]).strip()


def parse(markdown: str) -> Document:
    """The blocks. Raises TooMuch: the work is bounded by counts, whatever the text is."""
    env: MutableMapping[str, Any] = {"steps": 0}
    tokens = _PARSER.parse(markdown, env)
    lines = markdown.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return _Walk(lines).through(tokens)


def _counted(state: StateBlock, line: int, _end: int, _silent: bool) -> bool:
    """A block rule that comes before all others and never holds: it counts the work."""
    state.env["steps"] += 1 + (state.eMarks[line] - state.bMarks[line]) // CHARACTERS_PER_STEP
    if state.env["steps"] > MAX_STEPS or len(state.tokens) > MAX_TOKENS:
        raise TooMuch
    return False


def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark").enable("table")
    # Definitions of links are text here: looking for the end of their titles takes the square of the lines.
    made.disable(["inline", "reference"])
    chains = ["paragraph", "blockquote", "list"]
    made.block.ruler.before("table", "counted", _counted, {"alt": chains})
    for chain in ("", *chains):
        made.block.ruler.getRules(chain)  # made at the first call, which two threads must not do at once
    return made


_PARSER = _parser()


class _Walk:
    """The parser's tokens, once through."""

    def __init__(self, lines: list[str]) -> None:
        self.document = Document(lines)
        self.part = Part(None, 0)
        self.quotes = 0
        self.items: list[Item] = []
        self.ordered: list[bool] = []
        self.table: Table | None = None
        self.row: list[str] | None = None
        self.heading: Token | None = None

    def through(self, tokens: list[Token]) -> Document:
        for token in tokens:
            if token.map is not None and not self.document.first:
                self.document.first = token.map[0] + 1
            self._token(token)
        self.part.end = len(self.document.lines)
        self.document.parts.append(self.part)
        return self.document

    def _token(self, token: Token) -> None:
        match token.type:
            case "blockquote_open" | "blockquote_close":
                self.quotes += token.nesting
            case "heading_open" if token.level == 0:
                self.heading = token
            case "bullet_list_open" | "ordered_list_open":
                self.ordered.append(token.type == "ordered_list_open")
            case "bullet_list_close" | "ordered_list_close":
                self.ordered.pop()
            case "list_item_open":
                self._open_item(token)
            case "list_item_close":
                self.items.pop()
            case "fence":
                self._fence(token)
            case "inline":
                self._text(token)
            case _:
                self._table_token(token)

    def _text(self, token: Token) -> None:
        if self.heading is not None:
            self._heading(self.heading, token.content)
            self.heading = None
        elif self.row is not None:
            self.row.append(token.content)
        elif self.items:
            self._of_item(token.content)

    def _heading(self, token: Token, text: str) -> None:
        begin, end = token.map or (0, 0)
        found = Heading(begin + 1, int(token.tag[1:]), text, token.markup.startswith("#"))
        self.document.headings.append(found)
        if found.marked and found.level <= 3:  # an underlined one may be text with a rule right below
            self.part.end = begin
            self.document.parts.append(self.part)
            self.part = Part(found, end)

    def _open_item(self, token: Token) -> None:
        item = Item(_line(token), self.ordered[-1])
        if self.items:
            self.items[-1].children.append(item)
        elif not self.quotes:
            self.part.items.append(item)
        self.items.append(item)

    def _of_item(self, text: str) -> None:
        item = self.items[-1]
        if item.text or item.more:
            item.more.append(text)
        else:
            item.text = text

    def _fence(self, token: Token) -> None:
        begin, end = token.map or (0, 0)
        closed = end - begin > 1 and self.document.lines[end - 1].strip("> \t").startswith(token.markup)
        self.document.fences.append(Fence(_line(token), tuple(token.info.split()), token.content, closed))
        if self.items:
            self.items[-1].more.append(token.content.rstrip("\n"))

    def _table_token(self, token: Token) -> None:
        match token.type:
            case "table_open":
                self.table = Table(_line(token))
                self.document.tables.append(self.table)
                if token.level == 0:
                    self.part.tables.append(self.table)
            case "table_close":
                self.table = None
            case "tr_open":
                self.row = []
                if self.table is not None:
                    self.table.rows.append((_line(token), self.row))
            case "tr_close":
                self.row = None
            case "thead_close" if self.table is not None:
                self.table.header = self.table.rows.pop()[1]


def _line(token: Token) -> int:
    return (token.map or [0])[0] + 1
