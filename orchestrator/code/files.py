"""Files of folders that nobody vouches for, opened without following links or waiting, and their names as text."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def as_text(raw: bytes) -> str:
    """A name or path as it can be stored and shown: bytes that are not UTF-8 stand as ``\\xNN``."""
    return raw.decode("utf-8", "backslashreplace")


@contextmanager
def regular_file(path: str | bytes, folder: int | None = None, flags: int = 0) -> Iterator[int | None]:
    """An open file, or None for what is not there or no file (opening a FIFO would wait for ever)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        yield None
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


@contextmanager
def open_folder(path: bytes) -> Iterator[int]:
    """An open folder, for paths under it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_parent(root: int, path: bytes, make: bool = False) -> Iterator[tuple[int | None, bytes]]:
    """The open folder of a path under ``root``, and the name in it. None where there is none, or behind a link.

    Opened step by step, each without following links: an index may name ../../x, and a folder of the workdir may
    be a link by now.
    """
    *folders, name = path.split(b"/")
    fd = os.dup(root) if _decent(path) else None
    try:
        for step in folders:
            outer, fd = fd, None if fd is None else _step(fd, step, make)
            if outer is not None:
                os.close(outer)
        yield fd, name
    finally:
        if fd is not None:
            os.close(fd)


def _decent(path: bytes) -> bool:
    return not any(step in (b"", b".", b"..") or step.lower() == b".git" for step in path.split(b"/"))


def _step(folder: int, name: bytes, make: bool) -> int | None:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
