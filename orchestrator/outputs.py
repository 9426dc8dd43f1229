"""What a run left: its log by byte offsets, its artifacts."""

import mimetypes
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import NotFound

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


def log_page(path: Path, offset: int, limit: int) -> LogPage:
    """Bytes ``offset`` to ``offset + limit`` as text; negative offsets count from the end.

    Both ends are moved back to the beginning of a UTF-8 character, so that pages in a row give every byte once,
    whether the next one is asked for at ``offset + limit`` or at ``next_offset``. Bytes that are no UTF-8 become
    U+FFFD. Half a character at the log's end waits for its other half, unless there is nothing else to show.
    """
    limit = max(1, min(limit, MAX_PAGE))
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return LogPage("", 0, 0, False, False, 0)
    with file:
        total = os.fstat(file.fileno()).st_size
        start = max(0, total + offset) if offset < 0 else min(offset, total)
        base = max(0, start - 3)
        file.seek(base)
        data = file.read(start - base + limit + 4)
    begin = _floor(data, start - base)
    end = _floor(data, min(start - base + limit, len(data)))
    if end <= begin:  # a page smaller than one character
        end = begin + max(1, len(_first_character(data[begin:])))
    end = min(end, len(data))
    text = data[begin:end].decode("utf-8", "replace")
    return LogPage(text, base + begin, total, base + begin > 0, base + end < total, base + end)


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


def _first_character(data: bytes) -> bytes:
    end = 1
    while end < min(4, len(data)) and data[end] & 0xC0 == 0x80:
        end += 1
    return data[:end]


KINDS = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".svg": "image", ".pdf": "document", ".md": "document",
    ".html": "document", ".json": "data", ".csv": "data", ".parquet": "data", ".npy": "data", ".npz": "data",
    ".pt": "model", ".pth": "model", ".ckpt": "model", ".safetensors": "model", ".onnx": "model", ".pkl": "model",
    ".txt": "text", ".log": "text", ".yaml": "text", ".yml": "text", ".toml": "text",
}  # fmt: skip


def artifacts(folder: Path, wandb_dir: str | None, limit: int) -> list[dict[str, Any]]:
    """The files below a run's artifacts folder (names relative to it), and its wandb directory."""
    found: list[dict[str, Any]] = []
    for path in _files(folder):
        if len(found) == limit:
            break
        found.append(
            {
                "name": str(path.relative_to(folder)),
                "path": str(path),
                "type": KINDS.get(path.suffix.lower(), "other"),
                "size": path.lstat().st_size,
            }
        )
    if wandb_dir:
        found.append({"name": "wandb", "path": wandb_dir, "type": "wandb", "size": None})
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Regular files and links, by name, link targets not followed into."""
    for base, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(base) / name
            if not stat.S_ISSOCK(path.lstat().st_mode) and not stat.S_ISFIFO(path.lstat().st_mode):
                yield path


def artifact(folder: Path, name: str) -> Path:
    """The file to serve. Raises NotFound for what is not a regular file below ``folder``, links out of it included."""
    root = folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise NotFound("artifact", name)
    return path


def media_type(path: Path) -> str:
    """What to call it over HTTP; whatever a browser would execute is plain bytes."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    shown = kind.startswith("image/") or kind in {"text/plain", "text/csv", "application/json", "application/pdf"}
    return kind if shown and kind != "image/svg+xml" else "application/octet-stream"
