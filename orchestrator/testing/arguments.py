"""Command lines, as getopt_long(3) reads them: short ones bundled, long ones abbreviated, errors in its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Takes = Literal["nothing", "value", "maybe", "near"]

_MARKS: dict[str, Takes] = {"=": "value", "?": "maybe", "~": "near"}


class UsageError(Exception):
    """What getopt prints about an option that it does not understand."""


@dataclass(frozen=True)
class Option:
    """One option. ``short`` is a letter or empty."""

    name: str
    takes: Takes = "nothing"
    short: str = ""


@dataclass
class Arguments:
    """What was given: option names to their last value, and the words that are no options."""

    options: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    order: list[tuple[str, str]] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.options

    def get(self, name: str, default: str = "") -> str:
        """The option's value, or ``default``."""
        return self.options.get(name, default)

    def add(self, name: str, value: str) -> None:
        """Takes one option."""
        self.options[name] = value
        self.order.append((name, value))


def options_table(text: str) -> dict[str, Option]:
    """Reads ``-J/--job-name= -H/--hold --nice?``: ``=`` takes a value, ``?`` may take one after ``=``.

    ``~`` may take one, from the next word too if that is no option: ``squeue -j 5``.
    """
    table: dict[str, Option] = {}
    for word in text.split():
        takes = _MARKS.get(word[-1], "nothing")
        short, _, long = word.rstrip("=?~").rpartition("/")
        option = Option(long.removeprefix("--"), takes, short.removeprefix("-"))
        table[option.name] = option
    return table


def parse(command: str, table: Mapping[str, Option], argv: Sequence[str], *, interleaved: bool = False) -> Arguments:
    """Reads ``argv``; stops at the first word that is no option unless ``interleaved``. UsageError."""
    found = Arguments()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if word == "-" or not word.startswith("-"):
            if not interleaved:
                rest.insert(0, word)
                break
            found.words.append(word)
        elif word.startswith("--"):
            _long(command, table, word, rest, found)
        else:
            _bundle(command, table, word[1:], rest, found)
    found.words += rest
    return found


def _long(command: str, table: Mapping[str, Option], word: str, rest: list[str], found: Arguments) -> None:
    name, equals, value = word[2:].partition("=")
    option = _by_name(command, table, name)
    if option.takes == "nothing" and equals:
        raise UsageError(f"{command}: option '--{option.name}' doesn't allow an argument")
    if option.takes == "value" and not equals:
        if not rest:
            raise UsageError(f"{command}: option '--{option.name}' requires an argument")
        value = rest.pop(0)
    if option.takes == "near" and not equals:
        value = _near(rest)
    found.add(option.name, value)


def _near(rest: list[str]) -> str:
    return rest.pop(0) if rest and not rest[0].startswith("-") else ""


def _by_name(command: str, table: Mapping[str, Option], name: str) -> Option:
    if name in table:
        return table[name]
    similar = [option for option in table.values() if option.name.startswith(name)]
    if len(similar) == 1 and name:
        return similar[0]
    if similar:
        choices = " ".join(f"'--{option.name}'" for option in similar)
        raise UsageError(f"{command}: option '--{name}' is ambiguous; possibilities: {choices}")
    raise UsageError(f"{command}: unrecognized option '--{name}'")


def _bundle(command: str, table: Mapping[str, Option], letters: str, rest: list[str], found: Arguments) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        option = next((one for one in table.values() if one.short == letter), None)
        if option is None:
            raise UsageError(f"{command}: invalid option -- '{letter}'")
        if option.takes == "nothing":
            found.add(option.name, "")
            continue
        if option.takes == "value" and not letters:
            if not rest:
                raise UsageError(f"{command}: option requires an argument -- '{letter}'")
            letters = rest.pop(0)
        if option.takes == "near" and not letters:
            letters = _near(rest)
        found.add(option.name, letters)
        return
