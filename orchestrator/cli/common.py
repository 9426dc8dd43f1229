"""What the commands share: tables for people, JSON for programs, exit codes."""

import json
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.errors import OrcError, ServerUnreachable, UntrustedServer

OK, RUN_FAILED, BAD_USAGE, UNREACHABLE, NOT_ALLOWED = range(5)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
STYLES = {"finished": "green", "running": "cyan", "launching": "cyan", "failed": "red", "stopped": "yellow"}


@dataclass(frozen=True)
class Rest:
    """What followed ``--`` on the command line; None without one."""

    words: list[str] | None


def console() -> Console:
    """Where tables go: as wide as the text where nobody looks at a terminal."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def emit(data: Any) -> None:
    """JSON, for programs."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """A line for people, on standard error: standard output is for what was asked."""
    sys.stderr.write(text + "\n")


def visible(text: str) -> str:
    """Text of others for a terminal: what would move its cursor, or turn or hide text, is written out."""
    return "".join(char if char in "\n\t" or char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    console().print(made)


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    style = STYLES.get(text)
    return f"[{style}]{text}[/]" if style else text.replace("[", "\\[")


def ago(moment: float | None) -> str:
    """How long ago, short."""
    return "" if moment is None else f"{duration(time.time() - moment)} ago"


def until(moment: float) -> str:
    """In how long, short."""
    left = moment - time.time()
    return "now" if left < 1 else f"in {duration(left)}"


def duration(seconds: float | None) -> str:
    """A length of time, short."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{max(0.0, seconds):.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"
    return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}m"


def command_text(words: Sequence[str], rest: Rest, places: Collection[str] = ()) -> str:
    """The command: what followed ``--`` word for word, or one argument as shell text. ``places``: {these} stay open."""
    if rest.words:
        return " ".join(_word(word, places) for word in rest.words) if len(rest.words) > 1 else rest.words[0]
    if len(words) == 1:
        return words[0]
    return shlex.join(words)


def _word(word: str, places: Collection[str]) -> str:
    """A word as the shell reads it again. A place stays open where nothing beside it needs quotes; within quotes the
    service refuses the values that would need some of their own."""
    bare = word
    for name in places:
        bare = bare.replace(f"{{{name}}}", "")
    return word if bare != word and (not bare or shlex.quote(bare) == bare) else shlex.quote(word)


def usage(message: str) -> NoReturn:
    """Bad usage: says so and exits with 2."""
    say(f"orc: {message}")
    raise SystemExit(BAD_USAGE)


def fail(error: OrcError) -> NoReturn:
    """An error in words, and its exit code."""
    say(f"orc: {error.message}")
    if isinstance(error, ServerUnreachable):
        raise SystemExit(UNREACHABLE)
    if isinstance(error, UntrustedServer) or error.status in {401, 403}:
        raise SystemExit(NOT_ALLOWED)
    raise SystemExit(BAD_USAGE)


def key_values(pairs: Sequence[str], what: str) -> dict[str, str]:
    """``NAME=VALUE`` arguments."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            usage(f"{what} must be NAME=VALUE, not {pair!r}")
        found[name] = value
    return found
