"""Files in a folder that every user of the machine may write to: read without trust, written whole."""

import logging
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# What another user's file may make of a parser.
NONSENSE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
LARGEST = 65536
log = logging.getLogger(__name__)


def user_name(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def write_shared(path: Path, text: str) -> None:
    """A file of our own that all may read, replaced whole. It is only a note: where it cannot be, it is left out."""
    temporary = path.with_name(f".{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644)
        with os.fdopen(fd, "w") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class SharedText:
    """What a file in the shared folder holds, and whose it is."""

    uid: int
    content: str


@contextmanager
def opened(path: Path) -> Iterator[int | None]:
    """A file that anybody may have put there, opened without waiting for it; None for what is no plain file of the
    user that its name tells (``kind.….uid`` or ``kind.uid.…``), or too large."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        found = os.fstat(fd)
        parts = path.name.split(".")
        named = parts[1] if parts[0] == "ticket" else parts[-1]
        plain = stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST and named == str(found.st_uid)
        yield fd if plain else None
    finally:
        os.close(fd)


def read_shared(path: Path) -> SharedText | None:
    """A file of the shared folder, or None for what is none of ours to trust."""
    with opened(path) as fd:
        if fd is None:
            return None
        return SharedText(os.fstat(fd).st_uid, os.pread(fd, LARGEST, 0).decode(errors="replace"))
