"""GPU leases between any number of users and servers, with no daemon and no root: flock on a directory per GPU.

The kernel releases a lease when its last holder ends. Facts and reasons: docs/gpu-leases.md.
"""

import fcntl
import json
import math
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import OrcError
from orchestrator.executors.gpus import Gpu
from orchestrator.executors.sharedfiles import LARGEST, NONSENSE, opened, read_shared, user_name, write_shared
from orchestrator.executors.turns import Request, Ticket
from orchestrator.filesystems import is_network, kind_of
from orchestrator.proc import ProcessId, host_name

SHARED = 0o1777
TURN_PATIENCE = 2.0  # seconds to wait for the short common lock; without it only fairness suffers, never a lease


class LeaseFolderError(OrcError):
    """The folder that the leases live in cannot be used."""


def default_folder() -> Path:
    """The same for everybody on this machine, whoever asks: chosen by the machine alone."""
    run_lock = Path("/run/lock")
    if run_lock.is_dir() and stat.S_IMODE(run_lock.stat().st_mode) == SHARED:
        return run_lock / "orc-gpu"
    return Path("/tmp/orc-gpu")  # noqa: S108  (shared on purpose, checked in LeaseFolder.ensure)


@dataclass
class Lease:
    """GPUs held by this process, until handed over to another or released."""

    gpus: list[Gpu]
    folder: "LeaseFolder"
    request: Request
    gpu_ids: str = "uuid"
    _fds: dict[str, int] = field(default_factory=dict)
    handed_over: bool = False

    def fds(self) -> tuple[int, ...]:
        """The locked descriptors; a process that inherits them holds the lease too."""
        return tuple(self._fds.values())

    def visible_devices(self) -> dict[str, str]:
        """The CUDA variables for these GPUs. MIG devices have no usable index: always by UUID."""
        if self.gpu_ids == "index" and not any(gpu.parent for gpu in self.gpus):
            indices = ",".join(str(gpu.index) for gpu in self.gpus)
            return {"CUDA_VISIBLE_DEVICES": indices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in self.gpus)}

    def environment(self) -> dict[str, str]:
        """What job.py needs: the variables for the command (ORC_ALLOC_*), and what to let go of at the end."""
        notes = ":".join(str(self.folder.note_path(gpu.uuid)) for gpu in self.gpus)
        own = {
            "ORC_GPUS": json.dumps([gpu.brief() for gpu in self.gpus]),
            "ORC_LEASE_FDS": ",".join(map(str, self.fds())),
            "ORC_LEASE_NOTES": notes,
        }
        return own | {f"ORC_ALLOC_{name}": value for name, value in self.visible_devices().items()}

    def hand_over(self, holder: ProcessId) -> None:
        """``holder`` has inherited the descriptors: it is named as the holder, and ours are closed (never LOCK_UN)."""
        self.handed_over = True
        self.close()
        for gpu in self.gpus:
            self.folder.write_note(gpu.uuid, self.request, holder)

    def close(self) -> None:
        """Closes our descriptors; the lease is free when nobody else has them."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def release(self) -> None:
        """Gives the GPUs back: locks first, then the notes, whose removal wakes the waiters."""
        self.close()
        if not self.handed_over:
            for gpu in self.gpus:
                self.folder.drop_note(gpu.uuid)


@dataclass(frozen=True)
class Note:
    """What a holder wrote about itself."""

    uuid: str
    uid: int
    request: str
    label: str
    since: float
    process: ProcessId | None

    @property
    def user(self) -> str:
        """The holder's name."""
        return user_name(self.uid)


class LeaseFolder:
    """The shared folder: locks, notes, tickets, turns."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_folder()
        self.uid = os.geteuid()

    def ensure(self) -> None:
        """Makes the folder, or checks the one there is: 1777, a real directory, on a local disk."""
        if ":" in str(self.path):
            raise LeaseFolderError(f"{self.path}: a lease folder's name cannot hold a colon.")
        if is_network(kind_of(self.path)):
            raise LeaseFolderError(f"{self.path} is on a network file system, where locks do not hold.")
        with suppress(FileExistsError):
            self.path.mkdir()
        if (made := self.path.lstat()).st_uid == self.uid and stat.S_ISDIR(made.st_mode):
            self.path.chmod(SHARED)
        found = self._settled_stat()
        if not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) != SHARED:
            raise LeaseFolderError(
                f"{self.path} is {stat.filemode(found.st_mode)}, owner {user_name(found.st_uid)}; it must be a real "
                f"directory with mode 1777 (chmod 1777 {self.path}, by its owner or root)."
            )

    def _settled_stat(self) -> os.stat_result:
        """Its stat, once whoever is making it just now has set its mode."""
        deadline = time.monotonic() + 0.5
        while True:
            found = self.path.lstat()
            if stat.S_IMODE(found.st_mode) == SHARED or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def owner(self) -> str:
        """Who owns the folder; any owner is accepted, one that is not root is worth a word."""
        return user_name(self.path.lstat().st_uid)

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """The short common lock under which tickets are read and GPUs taken; False when it could not be had in time."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield _lock_within(fd, TURN_PATIENCE)
        finally:
            os.close(fd)

    # -- locks -----------------------------------------------------------------------------------------------------

    def lock(self, uuid: str) -> int | None:
        """Takes one GPU's lock; the descriptor, or None when somebody has it."""
        while True:
            fd = self._open_gpu(uuid)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            if self._still_there(uuid, fd):  # a cleaner of /tmp may have put a new directory in its place
                os.set_inheritable(fd, True)
                return fd
            os.close(fd)

    def leased(self, uuid: str) -> bool:
        """Whether somebody holds the GPU's lock. Only under ``turn``: it takes the lock for a moment."""
        fd = self.lock(uuid)
        if fd is None:
            return True
        os.close(fd)
        return False

    def _open_gpu(self, uuid: str) -> int:
        path = self.path / f"gpu-{uuid}"
        with suppress(FileExistsError):
            path.mkdir()
        found = path.lstat()
        if found.st_uid == self.uid and stat.S_IMODE(found.st_mode) != 0o755:
            path.chmod(0o755)  # whatever the umask, and whoever was killed before this: others must be able to open it
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _still_there(self, uuid: str, fd: int) -> bool:
        with suppress(FileNotFoundError):
            there, mine = (self.path / f"gpu-{uuid}").stat(), os.fstat(fd)
            return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
        return False

    # -- notes -----------------------------------------------------------------------------------------------------

    def note_path(self, uuid: str) -> Path:
        """Our own note about a GPU. Per user: nobody can write over another's file in a sticky folder."""
        return self.path / f"lease.{uuid}.{self.uid}"

    def write_note(self, uuid: str, request: Request, holder: ProcessId) -> None:
        """Says who holds the GPU and why; for people and for waking, never for deciding."""
        text = {
            "request": request.id,
            "label": request.label,
            "since": time.time(),
            "host": host_name(),
            **holder.dump(),
        }
        write_shared(self.note_path(uuid), json.dumps(text))

    def drop_note(self, uuid: str) -> None:
        """Takes our note away, if it is ours and there."""
        with suppress(OSError):
            self.note_path(uuid).unlink(missing_ok=True)

    def notes(self) -> list[Note]:
        """Every note that can be read, ours and others'."""
        return [note for path in self.path.glob("lease.*") if (note := _read_note(path)) is not None]

    def drop_stale_notes(self) -> None:
        """Takes away our notes of GPUs that nobody holds any more. Only under ``turn``."""
        for note in self.notes():
            if note.uid == self.uid and not self.leased(note.uuid):
                self.drop_note(note.uuid)

    # -- turns -----------------------------------------------------------------------------------------------------

    def served(self) -> dict[int, float]:
        """When each user last got GPUs; never in the future, whatever a file says."""
        found: dict[int, float] = {}
        for path in self.path.glob("served.*"):
            text = read_shared(path)
            with suppress(ValueError):
                moment = float(text.content) if text is not None else math.nan
                if text is not None and math.isfinite(moment):
                    found[text.uid] = min(max(0.0, moment), time.time())
        return found

    def mark_served(self) -> None:
        """Our user had a turn just now."""
        write_shared(self.path / f"served.{self.uid}", repr(time.time()))

    def tickets(self, own: "TicketFile | None") -> list[Ticket]:
        """What everybody waits for; tickets of dead processes are passed over, our own dead ones removed."""
        found = []
        for path in sorted(self.path.glob("ticket.*")):
            if own is not None and path == own.path:
                continue
            ticket = self._foreign_ticket(path)
            if ticket is not None:
                found.append(ticket)
        return found

    def _foreign_ticket(self, path: Path) -> Ticket | None:
        with opened(path) as fd:
            if fd is None:
                return None
            uid = os.fstat(fd).st_uid
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse_ticket(path.name, uid, os.pread(fd, LARGEST, 0).decode(errors="replace"))
            if uid == self.uid:
                path.unlink(missing_ok=True)
            return None


class TicketFile:
    """Our place in the line: a file of our own, locked while we live, rewritten in place under ``turn``."""

    def __init__(self, folder: LeaseFolder, name: str) -> None:
        self.path = folder.path / f"ticket.{folder.uid}.{name}"
        self.key = self.path.name
        self._fd: int | None = None

    def write(self, requests: Sequence[Request]) -> None:
        """Says what we wait for; nothing: leaves the line."""
        if not requests:
            self.leave()
            return
        if self._fd is None:
            self.path.unlink(missing_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.fchmod(fd, 0o644)
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._fd = fd
        text = json.dumps([_request_json(request) for request in requests]).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def leave(self) -> None:
        """Leaves the line; others see it at once."""
        if self._fd is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None


def _lock_within(fd: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        else:
            return True


def _read_note(path: Path) -> Note | None:
    text = read_shared(path)
    if text is None:
        return None
    try:
        data = json.loads(text.content)
        process, since = ProcessId.load(data), float(data["since"])
        return Note(path.name.split(".")[1], text.uid, str(data["request"]), str(data["label"]), since, process)
    except NONSENSE:
        return None


def _request_json(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "gpus": request.gpus,
        "since": request.since,
        "priority": request.priority,
        "allowed": None if request.allowed is None else sorted(request.allowed),
        "label": request.label,
    }


def _parse_ticket(key: str, uid: int, text: str) -> Ticket | None:
    """Another user's ticket; one that makes no sense is passed over."""
    try:
        requests = tuple(
            Request(
                id=str(item["id"]),
                gpus=max(1, int(item["gpus"])),
                since=float(item["since"]),
                priority=int(item["priority"]),
                allowed=None if item["allowed"] is None else frozenset(map(str, item["allowed"])),
                label=str(item["label"]),
            )
            for item in json.loads(text)
        )
    except NONSENSE:
        return None
    if not all(math.isfinite(request.since) for request in requests):
        return None
    return Ticket(key, uid, requests)
