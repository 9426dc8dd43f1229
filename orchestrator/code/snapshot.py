"""Copies of the code of workdirs, kept by their digests: runs of the same code share one."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from orchestrator.code.files import as_text, open_folder
from orchestrator.code.listing import code_of
from orchestrator.code.tree import Code, entry_at
from orchestrator.errors import BadInput, StorageError, StorageFull
from orchestrator.home import write_private

ABANDONED_SECONDS = 86_400.0  # a copy half made, of a server that died

# One copy at a time: of the runs of a sweep that are submitted at once, the first copies and the others find it.
_MAKING = threading.Lock()


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code. ``workdir``: where in ``root`` the run starts. ``size``: bytes of ``files`` files and links.

    Other runs share it (see ``snapshot``).
    """

    root: Path
    workdir: Path
    digest: str
    files: int
    size: int


def snapshot(workdir: Path, destination: Path, limit_bytes: int, limit_files: int) -> Snapshot:
    """Copies the code of ``workdir`` to ``destination``/DIGEST, or finds the copy that is there already.

    In a git repository: all tracked files of it as they are on disk, and untracked ones that are not ignored; those of
    submodules and of repositories within it too. Elsewhere: the files of ``workdir`` but SKIPPED_FOLDERS and
    SKIPPED_SUFFIXES (``listing``). Links stay links and are never followed; one that leads to what is not copied is
    written as an absolute one and leads where it led. Empty folders, FIFOs, sockets and devices are left out.

    The digest (SHA-256, 40 hex digits) covers paths, modes and contents, so all runs of unchanged code share one copy.
    While paths, sizes, modes, inodes and times are those of last time, contents are not read again. Files are
    read-only: a run that would overwrite the code of its neighbours fails instead. Folders can be written: a run finds
    its relative outputs and checkpoints again after a requeue, as it would in its workdir. A copy that lost files all
    the same (by a run, by a power cut) is left to the runs that use it; the next run gets DIGEST.2.

    Raises BadInput for too much code or what cannot be read, StorageFull and StorageError for ``destination``.
    """
    place = os.path.realpath(workdir)
    if not Path(place).is_dir():
        raise BadInput("workdir", f"{workdir} is not a folder.")
    code = code_of(place, os.path.realpath(destination), limit_files)
    _refuse_too_much(code, limit_bytes, limit_files)
    try:
        with _MAKING:
            digest, root = _Store(destination).hold(code)
        inside = root / Path(place).relative_to(code.top)
        inside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"No space for the snapshot of {code.top} in {destination}.") from None
        raise StorageError(f"The snapshot of {code.top} could not be made in {destination}: {error}.") from None
    return Snapshot(root, inside, digest, len(code.entries), code.size)


class _Store:
    """The snapshots under one folder. ``.seen/``: for each toplevel, its last signature and snapshot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, code: Code) -> tuple[str, Path]:
        """The digest and a whole copy of the code, made where there is none."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = self._folder / ".seen" / hashlib.sha256(os.fsencode(code.top)).hexdigest()[:20]
        signature = code.signature()
        digest = _recall(seen, signature) or code.digest()
        root = self._free_or_whole(digest, code)
        if not root.exists():
            digest, root = self._make(code)
        if code.settled():
            seen.parent.mkdir(exist_ok=True)
            write_private(seen, json.dumps({"signature": signature, "digest": digest}))
        return digest, root

    def _free_or_whole(self, digest: str, code: Code) -> Path:
        names = (f"{digest}.{number}" if number > 1 else digest for number in count(1))
        roots = (self._folder / name for name in names)
        return next(root for root in roots if not root.exists() or _whole(root, code))

    def _make(self, code: Code) -> tuple[str, Path]:
        """Copies under a temporary name. Another process may be first with the same: then its copy is taken."""
        self._sweep()
        temporary = Path(tempfile.mkdtemp(prefix=".making.", dir=self._folder))  # 0700: as private as any workdir
        try:
            with open_folder(os.fsencode(temporary)) as target:
                digest = code.digest(target)  # of what was copied, whatever was read before
            while not _renamed(temporary, root := self._free_or_whole(digest, code)) and not _whole(root, code):
                pass
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return digest, root

    def _sweep(self) -> None:
        for path in self._folder.glob(".making.*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _recall(seen: Path, signature: str) -> str | None:
    try:
        found = json.loads(seen.read_bytes())
        known = found["digest"] if found["signature"] == signature else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if isinstance(known, str) and re.fullmatch(r"[0-9a-f]{40}", known) else None


def _renamed(temporary: Path, root: Path) -> bool:
    try:
        temporary.rename(root)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _whole(root: Path, code: Code) -> bool:
    """Whether a copy still has all its files, by kind and size: a power cut leaves empty ones, a run may take some."""
    with open_folder(os.fsencode(root)) as top:
        copies = (entry_at(top, entry.path) for entry in code.entries)
        return all(
            copy is not None and (copy.mode, copy.size, copy.link) == (entry.mode, entry.size, entry.link)
            for copy, entry in zip(copies, code.entries, strict=True)
        )


def _refuse_too_much(code: Code, limit_bytes: int, limit_files: int) -> None:
    """Raises BadInput for more than the limits, naming what is largest."""
    files, size = str(len(code.entries)), code.size
    if len(code.entries) <= limit_files and size <= limit_bytes:
        return
    largest = sorted(code.entries, key=lambda entry: -entry.size)[:5]
    offenders = ", ".join(f"{as_text(entry.path)} ({_human(entry.size)})" for entry in largest)
    counts = Counter(os.path.dirname(entry.path) for entry in code.entries)
    fullest = ", ".join(f"{as_text(folder) or '.'} ({number} files)" for folder, number in counts.most_common(3))
    advice = "Name in .gitignore what is no code, or move it out of the repository"
    if not code.git:
        files = files if len(code.entries) <= limit_files else f"more than {limit_files}"  # nobody counted further
        advice = "Move data elsewhere, or make it a git repository (git init) and name in .gitignore what is no code"
    raise BadInput(
        "snapshot",
        f"The code under {code.top} is {files} files of {_human(size)}; "
        f"at most {limit_files} files of {_human(limit_bytes)} are copied. "
        f"The largest: {offenders}. The fullest folders: {fullest}. {advice}, and submit again.",
    )


def _human(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
