"""Text for people, of files and paths that may hold anything."""

import shlex
import unicodedata
from pathlib import Path


def is_one_line(text: str) -> bool:
    """Whether a text has no line breaks, other control characters or halves of surrogate pairs."""
    return not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in text)


def plain(text: str, longest: int = 100) -> str:
    """Text of a file or a path, as it can be shown: no control characters, valid Unicode, not endless."""
    shown = "".join(char if is_one_line(char) else "�" for char in text[:longest])
    return shown + "…" * (len(text) > longest)


def word(path: Path) -> str:
    """A path as a word of a command line, to be shown."""
    return plain(shlex.quote(str(path)), 5000)
