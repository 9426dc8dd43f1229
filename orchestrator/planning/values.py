"""What a plan's words mean: values of parameters, numbers, criteria, labels. Pure.

Every pattern takes time in proportion to the text, or sees only a short piece of it.
"""

import math
import re
from typing import Any

PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]{0,199}")
MAX_VALUES = 1000
LONGEST_PIECE = 500  # longer ones are text
LONGEST_LABEL = 60
LONGEST_TEXT = 20_000
MAX_INTEGER = 2**63 - 1  # what every JSON library keeps
BRACKETS = {"[": "]", "(": ")", "{": "}"}
WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}

NUM = r"[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d*(?:_\d+)*)")
FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9]\d*(?:_\d+)*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
# What stands where values should, with what is meant left to the reader.
DESCRIPTIONS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"(?:from\s+|between\s+)?{NUM}\s*(?:[-–—~→]|->|\.\.+|…|to|and|through|until)\s*{NUM}(?:\s.*|\(.*)?",
        rf"{NUM}(?:\s+(?:[/|]\s+)?{NUM})+",
        rf"{NUM}\s*\(.*",
        r"(?:\w+\.)*(?:q?log[-_ ]?(?:uniform|normal|space)|q?uniform|normal|randint|choice|grid)\s*\(.*",
        r"(?:\w+\.)*(?:range|arange|linspace|geomspace)\s*\(.*",
        r"(?:\w+\.)*(?:log[-_ ]?uniform|linspace|logspace|geomspace|arange)\b.*",
        r"\d+\s+(?:random\s+|different\s+)?(?:seed|value|run|setting|option|level|choice|sample|point|trial|fold)s?\b.*",
        r".*(?:\.{3}|…)|etc\.?|and so on|tbd|todo",
        r"<.*>|[<>≤≥≈±].*",
        r".*\s[/|]\s.*",
    )
)
GROUPED = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})*,0\d\d(?!\d)")
EMPHASIS = re.compile(r"(?<![\w*])\*\*([^*\s](?:[^*]*[^*\s])?)\*\*(?![\w*])")
CODE = re.compile(r"(?<!`)`+([^`]+)`")
CRITERION = re.compile(
    r"(?<![\w./-])([A-Za-z_][\w./-]*)[`*\s]{0,10}(>=|≥|<=|≤|==|=|>|<)[`*\s]{0,10}"
    r"([-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+))(?:[eE]([-+]?\d{1,3}))?(?!\w|\.\d|,\d)\s{0,4}(%?)"
)
OPERATORS = {"≥": ">=", "≤": "<=", "=": "=="}
BOX = re.compile(r"\[([ xX])\](?:\s+|$)")
WHOLE = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?![.,]?\d)")


class NotValues(Exception):
    """A cell that cannot be read as values; the message says why."""


def plain(text: str) -> str:
    """Without emphasis and code marks, on one line."""
    bare = " ".join(text.replace("**", "").replace("`", "").split()).strip("* ")
    return cut(bare.strip("_") if bare.startswith("_") and bare.endswith("_") else bare)


def cut(text: str) -> str:
    """At most as long as a person reads."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def labelled(text: str) -> tuple[str, str] | None:
    """``**Label**: value`` as the label in lower case and the raw value; None without a label."""
    label, colon, value = text[: LONGEST_TEXT + LONGEST_LABEL].partition(":")
    if not colon or len(label) > LONGEST_LABEL:
        return None
    value = value.strip()
    if label.lstrip().startswith(("**", "__")) and value.startswith(("**", "__")):  # **Label:** value
        value = value[2:].lstrip()
    return plain(label).lower(), value


def placeholder(text: str) -> bool:
    """Whether it is one of the structure's own, as ``<N>``."""
    bare = plain(text)
    return bare.startswith("<") and bare.endswith(">")


def coded(text: str) -> str | None:
    """The first word in backticks."""
    found = CODE.search(text[:LONGEST_TEXT])
    return found[1].strip() if found else None


# -- the table's cells ---------------------------------------------------------------------------------------------


def parameter_name(cell: str) -> str:
    """A parameter's name from its cell."""
    return coded(cell) or plain(cell)


def values(cell: str) -> list[Any]:
    """A cell's values, JSON scalars, each once. Raises NotValues."""
    if GROUPED.search(cell):
        raise NotValues("separates thousands by commas, as values are: write 1000, not 1,000")
    found = [_value(piece) for piece in _pieces(_bare(cell))]
    if not found:
        raise NotValues("holds no values")
    return found


def once(found: list[Any]) -> tuple[list[Any], list[Any]]:
    """Each value once, and those that stand there again; 1 and 1.0 are one value, 1 and true are two."""
    kept: dict[tuple[bool, Any], Any] = {}
    again = []
    for value in found:
        key = (isinstance(value, bool), value)
        if key in kept:
            again.append(value)
        kept.setdefault(key, value)
    return list(kept.values()), again


def scalar(text: str) -> Any:
    """A number, true, false or null where the text is one, else the text."""
    if text in WORDS:
        return WORDS[text]
    if len(text) > LONGEST_PIECE:
        return text
    if INTEGER.fullmatch(text):
        whole = int(text)
        return whole if abs(whole) <= MAX_INTEGER else text
    if FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def _value(piece: str) -> Any:
    if len(piece) >= 2 and piece[0] in "\"'" and piece.find(piece[0], 1) == len(piece) - 1:
        return cut(piece[1:-1])  # what is quoted is text, whatever it looks like
    text = piece.replace("`", "").strip()
    found = scalar(text)
    if isinstance(found, str) and len(text) <= LONGEST_PIECE and any(d.fullmatch(text) for d in DESCRIPTIONS):
        raise NotValues(f'holds "{text[:80]}", which is not a list of values: write each one')
    return cut(found) if isinstance(found, str) else found


def _bare(cell: str) -> str:
    """Without emphasis, and without one pair of brackets around the whole."""
    cell = EMPHASIS.sub(r"\1", cell).strip()
    if len(cell) > 2 and cell[0] == cell[-1] == "`" and cell.count("`") == 2 and cell[1:].lstrip()[0] in BRACKETS:
        cell = cell[1:-1].strip()
    if cell[:1] in BRACKETS and _closing(cell) == len(cell) - 1:
        return cell[1:-1].strip()
    return cell


def _closing(text: str) -> int:
    """Where the first character's bracket is closed; -1: nowhere."""
    depth = 0
    for place, char in enumerate(text):
        if char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
            if depth == 0:
                return place if char == BRACKETS[text[0]] else -1
    return -1


def _pieces(text: str) -> list[str]:
    """Split at commas and semicolons outside quotes, backticks and brackets."""
    pieces, begin, depth, quote, blank = [], 0, 0, "", True
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char == "`" or (char in "\"'" and blank):
            quote = char
        elif char in "[({":
            depth += 1
        elif char in "])}":
            depth = max(0, depth - 1)
        elif char in ",;" and not depth:
            pieces.append(text[begin:place].strip())
            begin, blank = place + 1, True
            if len(pieces) > MAX_VALUES:
                raise NotValues(f"holds more than {MAX_VALUES} values")
            continue
        blank = blank and char.isspace()
    if quote or depth:
        raise NotValues("leaves a quote or a bracket open")
    return [piece for piece in (*pieces, text[begin:].strip()) if piece]


# -- numbers in sentences ------------------------------------------------------------------------------------------


def criterion(text: str) -> tuple[str | None, str | None, float | None]:
    """The metric, operator and value that a criterion names; an inequality comes before an equality."""
    found = [match for match in CRITERION.finditer(text[:LONGEST_TEXT]) if not _arrow(match)]
    chosen = next((match for match in found if match[2] not in {"=", "=="}), found[0] if found else None)
    if chosen is None:
        return None, None, None
    exponent = int(chosen[4] or 0) - (2 if chosen[5] else 0)  # not divided by 100, for 99.9 % is 0.999
    value = float(f"{chosen[3].replace(',', '')}e{exponent}")
    if not math.isfinite(value):
        return None, None, None
    return chosen[1].rstrip("./-"), OPERATORS.get(chosen[2], chosen[2]), value


def _arrow(match: re.Match[str]) -> bool:
    return match[1].endswith("-") and match[2].startswith(">")  # "loss->0" tells of no bound


def checkbox(text: str) -> tuple[bool, str]:
    """Whether a task's box is ticked, and its text."""
    box = BOX.match(text)
    return (box[1] != " ", text[box.end() :]) if box else (False, text)


def whole_number(text: str) -> int | None:
    """The first whole number, or the first after the last "=": ``3 × 3 = 9`` is 9."""
    found = WHOLE.search(text[-LONGEST_TEXT:].rpartition("=")[2]) or WHOLE.search(text[:LONGEST_TEXT])
    digits = found[0].replace(",", "") if found else ""
    return int(digits) if 0 < len(digits) <= 15 else None


def split_dash(text: str, *, colon: bool = False) -> tuple[str, str]:
    """``name — why``, with any dash that separates; the second is "" without one."""
    signs = (r"\s[-–—]+\s|[–—]", r"\s[-–—]+\s|[–—]|:\s")[colon]
    found = re.search(signs, text[:LONGEST_TEXT])
    return (text[: found.start()], text[found.end() :]) if found else (text, "")
