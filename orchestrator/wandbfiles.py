"""Reads wandb's offline files as they grow, without wandb: only the history rows are wanted.

``run-*.wandb`` is a LevelDB log (32 KiB blocks, records in fragments) of protobuf ``Record`` messages behind a
7-byte header; fields keep their numbers for ever (protobuf's contract), and a test holds this reader against
the SDK's own classes. Older wandb wrote ``wandb-history.jsonl``. Neither costs a helper process or an import.
"""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from orchestrator.metrics import CHUNK, Reading, Row, read_lines

MAGIC = b":W&B"
FILE_HEADER = 7
LONGEST = 64 * 2**20  # a longer record is not waited for
BLOCK = 32768
FRAME = struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

# Field numbers of wandb_internal.proto.
RECORD_HISTORY = 2
HISTORY_ITEM, HISTORY_STEP = 1, 2
ITEM_KEY, ITEM_NESTED_KEY, ITEM_INTEGER, ITEM_NUMBER, ITEM_JSON, ITEM_VALUE_JSON = 1, 2, 5, 6, 8, 16


class WandbReader:
    """Finds and reads the wandb files of runs."""

    def files(self, run_dir: Path, wandb_dir: str | None) -> list[Path]:
        """A run's wandb files: below its run directory (WANDB_DIR), and in the directory that it named itself."""
        folders = [run_dir / "wandb"]
        if wandb_dir:
            folders += [Path(wandb_dir), Path(wandb_dir) / "wandb"]
        found: dict[Path, None] = {}
        for folder in folders:
            for pattern in ("*run-*/run-*.wandb", "run-*.wandb", "*run-*/wandb-history.jsonl", "wandb-history.jsonl"):
                found |= dict.fromkeys(_regular_files(folder, pattern))
        return list(found)

    def read(self, path: Path, offset: int, *, over: bool = False) -> Reading | None:
        """The new history rows of one file; None when there is nothing new."""
        return read_lines(path, offset, over=over) if path.suffix == ".jsonl" else read_log(path, offset)


def _regular_files(folder: Path, pattern: str) -> list[Path]:
    """What matches, by its real name; a pipe would be waited for, a link in a circle has no name."""
    try:
        return [path for match in sorted(folder.glob(pattern)) if (path := Path(os.path.realpath(match))).is_file()]
    except (OSError, ValueError):
        return []


def read_log(path: Path, offset: int) -> Reading | None:
    """New whole records of a ``.wandb`` file from ``offset`` (the end of a record) on."""
    offset = max(offset, FILE_HEADER)
    size = CHUNK
    while True:
        data = _bytes(path, offset, size)
        records = list(_records(data, offset))
        if records or len(data) < size or size >= LONGEST or not _goes_on(data, offset):
            break
        size *= 4  # a record longer than that
    if not records:
        return None
    rows: list[Row] = []
    bad = 0
    for record, _ in records:
        try:
            rows += _history(record)
        except (ValueError, IndexError, struct.error, RecursionError):
            bad += 1
    return Reading(str(path), rows, offset + records[-1][1], bad)


def _bytes(path: Path, offset: int, size: int) -> bytes:
    """A part of a wandb file; nothing of what is none."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            if not file.read(FILE_HEADER).startswith(MAGIC):
                return b""
            file.seek(offset)
            return file.read(size)
    except OSError:
        return b""


def _records(data: bytes, base: int) -> Iterator[tuple[bytes, int]]:
    """Whole records, each with where it ends in ``data``; ``base`` is where ``data`` begins in the file."""
    position, parts = 0, b""
    while True:
        room = BLOCK - (base + position) % BLOCK
        if room < FRAME.size:  # too little for a frame: padding
            position += room
            continue
        if position + FRAME.size > len(data):
            return
        _, length, kind = FRAME.unpack_from(data, position)
        begin, end = position + FRAME.size, position + FRAME.size + length
        if end > len(data) or kind not in {FULL, FIRST, MIDDLE, LAST}:
            return  # still being written
        parts = data[begin:end] if kind in {FULL, FIRST} else parts + data[begin:end]
        position = end
        if kind in {FULL, LAST}:
            yield parts, position


def _goes_on(data: bytes, base: int) -> bool:
    """Whether ``data`` holds frames of one record to its end, as far as can be seen; a hole or a damage does not."""
    position = 0
    while position + FRAME.size <= len(data):
        room = BLOCK - (base + position) % BLOCK
        if room < FRAME.size:
            position += room
            continue
        _, length, kind = FRAME.unpack_from(data, position)
        if kind not in ({FULL, FIRST} if position == 0 else {MIDDLE, LAST}):
            return False
        position += FRAME.size + length
    return True


def _history(record: bytes) -> Iterator[Row]:
    for number, value in _fields(record):
        if number == RECORD_HISTORY and isinstance(value, bytes):
            yield _row(value)


def _row(history: bytes) -> Row:
    row: Row = {}
    for number, value in _fields(history):
        if number == HISTORY_ITEM and isinstance(value, bytes):
            name, content = _item(value)
            row[name] = content
        elif number == HISTORY_STEP and isinstance(value, bytes):
            row.setdefault("_step", next((step for _, step in _fields(value)), 0))
    return row


def _item(item: bytes) -> tuple[str, object]:
    names: list[str] = []
    content: object = None
    for number, value in _fields(item):
        if number in {ITEM_KEY, ITEM_NESTED_KEY} and isinstance(value, bytes):
            names.append(value.decode())
        elif number in {ITEM_JSON, ITEM_VALUE_JSON} and isinstance(value, bytes):
            content = json.loads(value)
        elif number == ITEM_NUMBER and isinstance(value, bytes):
            content = struct.unpack("<d", value)[0]
        elif number == ITEM_INTEGER and isinstance(value, int):
            content = (value >> 1) ^ -(value & 1)  # zigzag
    return "/".join(name for name in names if name), content


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: numbers for varints, bytes for the rest."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in {1, 5}:
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"protobuf wire type {kind}")
        if position + length > len(message):
            raise ValueError("a protobuf field runs past its message")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a protobuf number of more than 64 bits")
