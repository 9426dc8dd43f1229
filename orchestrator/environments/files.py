"""Files looked at, whatever they are: nothing raises, nothing is waited for, no more than the beginning is read."""

import os
import stat
from pathlib import Path

LONGEST_READ = 64 * 2**10


def status_of(path: Path) -> os.stat_result | None:
    """What stat(2) says of what a path leads to."""
    try:
        return path.stat()
    except (OSError, ValueError):  # not there, not to be entered, a circle of links, a name too long
        return None


def is_file(path: Path) -> bool:
    status = status_of(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_dir(path: Path) -> bool:
    status = status_of(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def text_of(path: Path) -> str | None:
    """The beginning of a text file; None for what is none, or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)  # a pipe is not waited for
        with os.fdopen(fd, "rb") as file:
            data = file.read(LONGEST_READ) if stat.S_ISREG(os.fstat(fd).st_mode) else b"\0"
    except (OSError, ValueError):
        return None
    return None if b"\0" in data else data.decode("utf-8-sig", "replace")
