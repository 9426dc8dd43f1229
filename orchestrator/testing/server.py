"""The controller's process and its Unix socket.

    python -m orchestrator.testing.server FOLDER [--owner PID]

It ends when FOLDER is gone or, if one is named, when its owner is: then its jobs end with it.
"""

import argparse
import contextlib
import grp
import json
import os
import pwd
import selectors
import signal
import socket
import struct
import time
import traceback
from functools import lru_cache
from pathlib import Path

from orchestrator.testing.commands.base import Answer
from orchestrator.testing.controller import Controller
from orchestrator.testing.folder import Folder
from orchestrator.testing.state import Who

LOOK_SECONDS = 1.0


class Server:
    """Reads requests whole and writes answers whole, one process, no waiting for anyone."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        Path("controller.sock").unlink(missing_ok=True)
        self.listener.bind("controller.sock")
        Path("controller.sock").chmod(0o777)
        self.listener.listen(512)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.signals, writing = socket.socketpair()  # a signal ends the wait for the next call
        writing.setblocking(False)
        self.signals.setblocking(False)
        signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
        self.selector.register(self.signals, selectors.EVENT_READ)
        self.received: dict[socket.socket, bytearray] = {}
        self.to_send: dict[socket.socket, memoryview] = {}

    def serve(self) -> None:
        """Until the controller is to end."""
        while not self.controller.ending and self._wanted():
            timeout = min(self.controller.step(), LOOK_SECONDS)
            for key, _ in self.selector.select(timeout):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self.signals:
                    connection.recv(1024)
                elif connection is self.listener:
                    self._accept()
                elif connection in self.to_send:
                    self._write(connection)
                else:
                    self._read(connection)

    def _wanted(self) -> bool:
        owner = self.controller.owner
        if not self.controller.folder.cluster.exists():
            return False
        if owner and not Path(f"/proc/{owner}").exists():
            self.controller.runner.destroy_all()
            return False
        return True

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self.listener.accept()
                connection.setblocking(False)
                self.received[connection] = bytearray()
                self.selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            while chunk := connection.recv(1 << 20):
                self.received[connection] += chunk
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if not self.received[connection]:
            self._close(connection)  # a supervisor: it has reported a job's end, and we look anyway
            return
        self.to_send[connection] = memoryview(self._answer(connection))
        self.selector.modify(connection, selectors.EVENT_WRITE)
        self._write(connection)

    def _answer(self, connection: socket.socket) -> bytes:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", credentials)
        try:
            answer = self.controller.answer(json.loads(self.received[connection]), who_is(uid, gid))
        except Exception:  # one client's trouble is not the others'
            answer = Answer(err=traceback.format_exc(), rc=70)
        return json.dumps(answer.to_json()).encode()

    def _write(self, connection: socket.socket) -> None:
        try:
            while self.to_send[connection]:
                sent = connection.send(self.to_send[connection])
                self.to_send[connection] = self.to_send[connection][sent:]
        except BlockingIOError:
            return
        except OSError:
            pass  # the client has gone
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        self.received.pop(connection, None)
        self.to_send.pop(connection, None)
        connection.close()


@lru_cache(maxsize=64)
def who_is(uid: int, gid: int) -> Who:
    """The user's and group's names, or their numbers."""
    user, group = str(uid), str(gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(gid).gr_name
    return Who(user, uid, group, gid)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--owner", type=int, default=0)
    given = parser.parse_args()
    os.chdir(given.folder)  # the socket's path stays short
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are nobody's to wait for
    controller = Controller(Folder(given.folder), given.owner)

    def end(*_: object) -> None:
        controller.ending = True

    signal.signal(signal.SIGTERM, end)
    server = Server(controller)
    Path("controller.pid").write_text(str(os.getpid()))
    server.serve()
    if controller.folder.cluster.exists():
        controller.save(time.time(), force=True)
        Path("controller.sock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
