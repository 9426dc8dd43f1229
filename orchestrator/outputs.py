"""What a run left: its log by byte offsets, its artifacts."""

import mimetypes
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import NotFound
from orchestrator.rundir import open_regular

MAX_PAGE = 100 * 1024


@dataclass(frozen=True)
class LogPage:
    """A part of a log. ``offset`` and ``total_size`` in bytes."""

    content: str
    offset: int
    total_size: int
    has_more_before: bool
    has_more_after: bool
    next_offset: int


def log_page(path: Path, offset: int, limit: int, *, growing: bool = False) -> LogPage:
    """Bytes ``offset`` to ``offset + limit`` as text; negative offsets count from the end.

    Both ends are moved back to the beginning of a UTF-8 character, so that pages in a row give every byte once,
    whether the next one is asked for at ``offset + limit`` or at ``next_offset``. Bytes that are no UTF-8 become
    U+FFFD. Where the log is ``growing``, half a character at its end waits for its other half.
    """
    limit = max(1, min(limit, MAX_PAGE))
    try:
        file = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return LogPage("", 0, 0, False, False, 0)
    with file:
        total = os.fstat(file.fileno()).st_size
        start = max(0, total + offset) if offset < 0 else min(offset, total)
        base = max(0, start - 3)
        file.seek(base)
        data = file.read(min(total, start + limit) - base + 4)[: total - base]
    begin = _floor(data, start - base) if start < total or growing else len(data)
    at_end = start + limit >= total
    end = len(data) if at_end and not growing else _floor(data, min(start + limit, total) - base)
    text = data[begin:end].decode("utf-8", "replace")
    following = base + end if end > begin or at_end else start + limit  # a page within one character is empty
    more = following < total and not (growing and at_end)
    return LogPage(text, base + begin, total, base + begin > 0, more, following)


def _floor(data: bytes, position: int) -> int:
    """The beginning of the character that ``position`` lies in; ``position`` itself where it lies in none."""
    for back in range(1, min(3, position) + 1):
        byte = data[position - back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        cut = length > back and (position == len(data) or data[position] & 0xC0 == 0x80)
        return position - back if cut else position
    return position


KINDS = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".svg": "image", ".pdf": "document", ".md": "document",
    ".html": "document", ".json": "data", ".csv": "data", ".parquet": "data", ".npy": "data", ".npz": "data",
    ".pt": "model", ".pth": "model", ".ckpt": "model", ".safetensors": "model", ".onnx": "model", ".pkl": "model",
    ".txt": "text", ".log": "text", ".yaml": "text", ".yml": "text", ".toml": "text",
}  # fmt: skip


def artifacts(folder: Path, wandb_dir: str | None, limit: int) -> list[dict[str, Any]]:
    """The files below a run's artifacts folder (names relative to it), and its wandb directory."""
    found: list[dict[str, Any]] = []
    for path, size in _files(folder):
        if len(found) == limit:
            break
        name = str(path.relative_to(folder))
        kind = KINDS.get(path.suffix.lower(), "other")
        found.append({"name": _readable(name), "path": _readable(str(path)), "type": kind, "size": size})
    if wandb_dir:
        found.append({"name": "wandb", "path": wandb_dir, "type": "wandb", "size": None})
    return found


def _readable(name: str) -> str:
    """A file's name as text, also where its bytes are no UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Regular files and links, by name, with their sizes; links are not followed into."""
    for base, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(base) / name
            try:
                found = path.lstat()
            except FileNotFoundError:  # a temporary file of the run's
                continue
            if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
                yield path, found.st_size


def artifact(folder: Path, name: str) -> Path:
    """The file to serve. Raises NotFound for what is not a regular file below ``folder``, links out of it included."""
    try:
        root = folder.resolve()
        path = (root / name).resolve()
        if path.is_relative_to(root) and path.is_file():
            return path
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        raise NotFound("artifact", name) from None
    raise NotFound("artifact", name)


def media_type(path: Path) -> str:
    """What to call it over HTTP; whatever a browser would execute is plain bytes."""
    kind, compression = mimetypes.guess_type(path.name)
    if kind is None or compression is not None:
        return "application/octet-stream"
    shown = kind.startswith("image/") or kind in {"text/plain", "text/csv", "application/json", "application/pdf"}
    return kind if shown and kind != "image/svg+xml" else "application/octet-stream"
