"""Wakes a waiter when a process ends or a file goes away: pidfds and inotify in one thread.

Everything that waits here also has a slower fallback; a kernel without pidfds only makes things slower.
"""

import ctypes
import os
import selectors
import threading
from collections.abc import Callable
from pathlib import Path

IN_DELETE = 0x00000200
IN_CLOEXEC = 0o2000000
IN_NONBLOCK = 0o4000


class ProcessWatch:
    """Calls ``wake`` soon after any watched process has ended, or a file of a watched folder was removed."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._selector = selectors.DefaultSelector()
        self._pids: dict[int, int] = {}
        self._lock = threading.Lock()
        self._pipe = os.pipe()
        self._selector.register(self._pipe[0], selectors.EVENT_READ, "stop")
        self._thread = threading.Thread(target=self._run, name="process-watch", daemon=True)
        self._thread.start()

    def add(self, pid: int) -> None:
        """Watches a process (of any user); one that is gone already wakes at once."""
        with self._lock:
            if pid in self._pids:
                return
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._wake()
                return
            except OSError:
                return  # no pidfds here, or not for this: the fallback polls
            self._pids[pid] = fd
            self._selector.register(fd, selectors.EVENT_READ, pid)

    def add_folder(self, folder: Path) -> None:
        """Watches for files removed from a folder."""
        fd = inotify(folder, IN_DELETE)
        with self._lock:
            self._selector.register(fd, selectors.EVENT_READ, "folder")

    def close(self) -> None:
        """Ends the thread."""
        os.write(self._pipe[1], b".")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        os.close(self._pipe[1])
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data == "stop":
                    return
                if key.data == "folder":
                    os.read(key.fd, 65536)
                else:
                    self._forget(key.data, key.fd)
            self._wake()

    def _forget(self, pid: int, fd: int) -> None:
        with self._lock:
            self._selector.unregister(fd)
            self._pids.pop(pid, None)
            os.close(fd)


def inotify(folder: Path, mask: int) -> int:
    """A descriptor that is readable when something of ``mask`` happened in ``folder`` (man 7 inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK))
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(folder), mask) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"inotify: {os.strerror(code)}", str(folder))
    return fd
