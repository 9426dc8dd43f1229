"""Records as scontrol prints them: one line each with ``-o``, else indented lines. Pure."""

from collections.abc import Callable, Sequence

from orchestrator.testing.arguments import Arguments
from orchestrator.testing.commands.base import Answer, Call
from orchestrator.testing.queue import Queue

NULL = "(null)"
Lines = list[list[str]]
Show = Callable[[Arguments, str, Call, Queue], Answer]


def render(records: Sequence[Lines], given: Arguments, *, blank: int = 1) -> Answer:
    """One line each with ``-o``, else indented lines."""
    records = [[line for line in record if line] for record in records]
    if "oneliner" in given:
        return Answer("".join(" ".join(word for line in record for word in line) + " \n" for record in records))
    shown = ("\n   ".join(" ".join(line) for line in record) + "\n" for record in records)
    return Answer("".join(one + "\n" * blank for one in shown))
