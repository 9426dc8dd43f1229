"""What all commands share: the call, the answer, tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.testing.arguments import UsageError
from orchestrator.testing.queue import Queue
from orchestrator.testing.state import Who


@dataclass(frozen=True)
class Call:
    """One call of a command, as the client saw it."""

    command: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    who: Who
    now: int
    umask: int = 0o022
    stdin: str | None = None


@dataclass
class Answer:
    """What the client prints, and its exit status."""

    out: str = ""
    err: str = ""
    rc: int = 0
    need: str = ""
    """``stdin``: ask again with what is on standard input."""
    again: str = ""
    """Say this, wait, ask again."""
    delay: float = 0.0
    """Seconds until the client prints."""
    timed_out: bool = False

    def to_json(self) -> dict[str, object]:
        """Only what is said."""
        return {name: value for name, value in vars(self).items() if value}


Command = Callable[[Call, Queue], Answer]


class Failed(Exception):
    """The command ends with this on its error output."""

    def __init__(self, text: str, rc: int = 1) -> None:
        super().__init__(text)
        self.answer = Answer(err=text if text.endswith("\n") else text + "\n", rc=rc)


def usage(command: str, error: UsageError, rc: int = 1) -> Failed:
    """getopt's error, with the hint that follows it."""
    hint = "" if command == "sacct" else f'Try "{command} --help" for more information\n'
    return Failed(f"{error}\n{hint}", rc)


@dataclass(frozen=True)
class Column:
    """One column of a table. ``width`` 0 prints the whole value; ``suffix`` follows it."""

    field: str
    width: int = 0
    right: bool = False
    suffix: str = ""
    heading: str = ""

    def show(self, value: str) -> str:
        """The value in its place."""
        if not self.width:
            return value + self.suffix
        cut = value[: self.width]
        return (cut.rjust(self.width) if self.right else cut.ljust(self.width)) + self.suffix


@dataclass
class Layout:
    """The columns that ``-o`` or ``-O`` asks for, with the text between them."""

    columns: list[Column] = field(default_factory=list)
    prefix: str = ""

    def line(self, values: Callable[[str], str]) -> str:
        """One row."""
        return self.prefix + "".join(column.show(values(column.field)) for column in self.columns) + "\n"

    def heading(self) -> str:
        """The first row."""
        return self.prefix + "".join(column.show(column.heading) for column in self.columns) + "\n"


def short_format(text: str, headings: Mapping[str, str]) -> Layout:
    """Reads ``%.18i %9P|%j``: a dot aligns to the right, digits are the width."""
    prefix, *pieces = text.split("%")
    layout = Layout(prefix=prefix)
    for piece in pieces:
        right, digits, rest = _width(piece)
        letter, suffix = rest[:1], rest[1:]
        layout.columns.append(Column(letter, int(digits or 0), right, suffix, headings.get(letter, "")))
    return layout


def long_format(text: str, known: Mapping[str, tuple[str, str]], default_width: int = 20) -> tuple[Layout, list[str]]:
    """Reads ``JobID:10,Name:|,State:.12``; what follows the colon is a width, or else a suffix.

    ``known`` maps the lower-case name to the field and its heading. Returns the unknown names too.
    """
    layout, unknown = Layout(), []
    for part in text.split(","):
        name, colon, spec = part.partition(":")
        found = known.get(name.lower())
        if found is None:
            unknown.append(name)
            continue
        right, digits, suffix = _width(spec)
        width = int(digits) if digits else (0 if colon and suffix else default_width)
        layout.columns.append(Column(found[0], width, right, suffix, found[1]))
    return layout, unknown


def _width(text: str) -> tuple[bool, str, str]:
    """Whether it begins with a dot, the digits that follow, the rest."""
    plain = text.removeprefix(".")
    rest = plain.lstrip("0123456789")
    return text.startswith("."), plain[: len(plain) - len(rest)], rest


def words_of(text: str) -> list[str]:
    """A comma-separated list without its empty parts."""
    return [part for part in text.split(",") if part]
