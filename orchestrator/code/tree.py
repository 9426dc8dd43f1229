"""The code of a workdir as a tree of files and links: what marks it as unchanged, its digest, its copy."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.code.files import as_text, open_folder, open_parent, regular_file
from orchestrator.errors import BadInput

# Time stamps are trusted as a sign of "unchanged" once they are this old, as git's "racily clean" entries:
# a second write within one tick of the file system's clock (1 s on some network file systems) leaves them as they are.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Entry:
    """A file or link of the code. ``mode``: st_mode without write permissions. ``marks``: times and inode."""

    path: bytes
    mode: int
    size: int
    marks: tuple[int, ...]
    link: bytes = b""


@dataclass(frozen=True)
class Code:
    """The code under ``top``, sorted by path. ``at``: when it was listed, ns since the epoch."""

    top: str
    entries: list[Entry]
    git: bool
    at: int

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    def signature(self) -> str:
        """What stays the same while nobody touches the code."""
        return hashlib.sha256(repr((self.top, self.entries)).encode()).hexdigest()

    def settled(self) -> bool:
        """Whether the same signature will mean the same contents."""
        return all(self.at - entry.marks[1] > SETTLED_NS for entry in self.entries)

    def digest(self, target: int | None = None) -> str:
        """Reads all contents, and copies them into the folder ``target``. What has gone meanwhile is left out."""
        whole = hashlib.sha256(b"orc snapshot 1\0")
        with open_folder(os.fsencode(self.top)) as top:
            for entry in self.entries:
                part = _pour_link(entry, target) if stat.S_ISLNK(entry.mode) else _pour(top, entry, target)
                if part is not None:
                    whole.update(f"{entry.mode:o} {part} ".encode() + entry.path + b"\0")
        return whole.hexdigest()[:40]


def entry_at(root: int, path: bytes) -> Entry | None:
    """What is at a path under an open folder. None where nothing is, behind a link, for a FIFO, socket or device."""
    with open_parent(root, path) as (folder, name):
        if folder is None:
            return None
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            link = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(found.st_mode) else b""
        except FileNotFoundError:
            return None
    marks = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    if link:
        return Entry(path, stat.S_IFLNK, len(link), marks, link)
    regular = stat.S_ISREG(found.st_mode)
    if not regular and not stat.S_ISDIR(found.st_mode):
        return None
    return Entry(path, stat.S_IFMT(found.st_mode) | (found.st_mode & 0o555), found.st_size if regular else 0, marks)


def _pour_link(entry: Entry, target: int | None) -> str:
    if target is not None:
        with open_parent(target, entry.path, make=True) as (folder, name):
            os.symlink(entry.link, name, dir_fd=folder)
    return hashlib.sha256(entry.link).hexdigest()


def _pour(top: int, entry: Entry, target: int | None) -> str | None:
    """Hashes a file, and copies it into the folder ``target``. A log that grows ends where it ended when listed."""
    with open_parent(top, entry.path) as (folder, name):
        if folder is None:
            return None
        try:
            with regular_file(name, folder, os.O_NOFOLLOW) as source:
                if source is None:
                    return None
                if target is None:
                    return _hashed(source, entry.size)
                with _created(target, entry) as copy:
                    return _hashed(source, entry.size, copy)
        except PermissionError:
            raise BadInput("snapshot", f"{as_text(entry.path)} is part of the code and cannot be read.") from None


@contextmanager
def _created(target: int, entry: Entry) -> Iterator[int]:
    with open_parent(target, entry.path, make=True) as (folder, name):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        yield fd
        os.utime(fd, ns=(entry.marks[0], entry.marks[0]))
        os.fchmod(fd, stat.S_IMODE(entry.mode))
    finally:
        os.close(fd)


def _hashed(source: int, size: int, copy: int | None = None) -> str:
    found, left = hashlib.sha256(), size
    while left and (chunk := os.read(source, min(left, 2**20))):
        found.update(chunk)
        left -= len(chunk)
        rest = memoryview(chunk)
        while copy is not None and rest:
            rest = rest[os.write(copy, rest) :]
    return found.hexdigest()
