"""``lr=1e-3,1e-4 seed=0..4``: a sweep's parameters as one types them."""

import json
import re
from typing import Any

RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.([1-9]\d*))?")


def parse_parameter(text: str) -> tuple[str, list[Any]]:
    """A name and its values: commas between them, ``0..4`` (both ends included), ``0..8..2``, or a JSON list.

    Raises ValueError in words.
    """
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise ValueError(f"{text!r} is no parameter: NAME=VALUE,VALUE or NAME=FIRST..LAST")
    if values.startswith("["):
        try:
            found = json.loads(values)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name}: {values!r} begins like a JSON list and is none: {error}") from None
        return name, list(found)
    return name, [value for part in values.split(",") for value in _values(name, part)]


def _values(name: str, part: str) -> list[Any]:
    match = RANGE.fullmatch(part)
    if match is None:
        return [parse_value(part)]
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if first > last:
        raise ValueError(f"{name}: the range {part!r} goes backwards")
    if (last - first) // step > 1_000_000:
        raise ValueError(f"{name}: the range {part!r} has over a million values")
    return list(range(first, last + 1, step))


def parse_value(text: str) -> Any:
    """A number, true, false or null as JSON has them; all else is text."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return _number(text)
    return value if isinstance(value, int | float | bool) or value is None else text


def _number(text: str) -> Any:
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return text
