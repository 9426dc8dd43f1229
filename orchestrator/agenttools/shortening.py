"""Answers short enough for a model: what is left out is counted, and it is said how to get it. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIMIT = 8000  # characters of an answer
TEXT_PAGE = 6000
Json = dict[str, Any]

# Ever tighter: so many characters of a text, so many items of a list.
_STEPS = ((4000, 60), (1500, 30), (500, 20), (200, 10), (80, 5), (40, 2))


@dataclass(frozen=True)
class Text:
    """An answer that is read as text: the words themselves, and the data beside them."""

    words: str
    data: Json


def dumps(data: Any) -> str:
    """JSON as a model reads it: in one line, every character as itself but for those that cannot be seen."""
    text = json.dumps(data, ensure_ascii=False, separators=(", ", ": "), default=str)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    """A character as JSON text: one that would move a terminal's cursor, or turn or hide text, is written out."""
    if character.isprintable():
        return character
    return json.dumps(character)[1:-1]


def fit(data: Mapping[str, Any], how: str, limit: int = LIMIT) -> Json:
    """``data`` within ``limit`` characters; ``how`` says where the rest is to be had."""
    whole = dict(data)
    if len(dumps(whole)) <= limit:
        return whole
    note = {"note": f"Shortened (…): {how}"}
    for text, items in _STEPS:
        short = {**_short(whole, text, items), **note}
        if len(dumps(short)) <= limit:
            return short
    return {
        "part": dumps(whole)[: limit // 2],
        **note,
    }  # quotes in it are escaped once more: it may become twice as long


def _short(value: Any, text: int, items: int) -> Any:
    if isinstance(value, str):
        return cut(value, text)
    if isinstance(value, Mapping):
        kept = {cut(str(key), text): _short(item, text, items) for key, item in list(value.items())[: 2 * items]}
        return kept if len(value) <= 2 * items else {**kept, "…": f"{len(value) - 2 * items} more"}
    if isinstance(value, list | tuple):
        shown = [_short(item, text, items) for item in value[:items]]
        return shown if len(value) <= items else [*shown, f"… {len(value) - items} more"]
    return value


def cut(text: str, length: int) -> str:
    """The beginning of a text, and how much more there is."""
    return text if len(text) <= length else f"{text[:length]}… {len(text) - length} more characters"


def part_of_text(text: str, offset: int, how: Callable[[int], str]) -> tuple[str, str | None]:
    """A page of a long text from ``offset`` on, and how to get the next one (None at the end)."""
    end = offset + TEXT_PAGE
    return text[offset:end], how(end) if end < len(text) else None


def page(name: str, rows: Sequence[Json], before: int | None, tool: str) -> Json:
    """A list's rows under ``name``, and how to call ``tool`` for more."""
    shown = list(rows)
    while len(shown) > 1 and len(dumps(shown)) > LIMIT - 300:
        shown.pop()
    if len(shown) < len(rows):  # the cursor is after the last row, not after the last one shown
        more = f"… {len(rows) - len(shown)} more did not fit: call {tool} with limit={len(shown)} and go on from there"
        return fit({name: shown, "more": more}, more)
    if before is not None:
        return fit({name: shown, "more": f"… older ones: call {tool} with before={before}"}, f"limit=1 in {tool}")
    return fit({name: shown}, f"limit=1 in {tool}")


def without_nothing(row: Mapping[str, Any]) -> Json:
    """The row without what is null or empty."""
    return {name: value for name, value in row.items() if value is not None and value not in ("", [], {})}


def thinned(points: Sequence[Mapping[str, Any]], most: int) -> list[list[Any]]:
    """At most ``most`` points of a series as [step, value], evenly spaced; the first, the last, the least and the
    greatest value are always among them."""
    numbers = [index for index, point in enumerate(points) if point["value"] is not None]
    wanted: set[int] = set()
    if len(points) <= most:
        wanted = set(range(len(points)))
    else:
        always = {0, len(points) - 1}
        if numbers:
            always |= {find(numbers, key=lambda index: points[index]["value"]) for find in (min, max)}
        even = max(2, most - len(always))
        wanted = {round(index * (len(points) - 1) / (even - 1)) for index in range(even)} | always
    return [[points[index]["step"], points[index]["value"]] for index in sorted(wanted)]
