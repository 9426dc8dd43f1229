"""One server per database: a row that names who serves it, checked inside every transaction."""

import secrets
import threading
import time
from collections.abc import Callable

from sqlmodel import Session

from orchestrator.db import Database
from orchestrator.errors import OrcError, ServerRunning
from orchestrator.models import ServerLease
from orchestrator.proc import ProcessId, boot_id, host_name

RENEW_SECONDS = 10.0
LIFETIME_SECONDS = 60.0


class Holding:
    """Our hold on the database. Raises ServerRunning, naming the other server, when there is one."""

    def __init__(self, db: Database, pid: int, on_lost: Callable[[str], None]) -> None:
        self._db = db
        self._token = secrets.token_hex(8)
        self._on_lost = on_lost
        self._stop = threading.Event()
        self.trouble: str | None = None  # why the last renewal failed: the database cannot be written
        process = ProcessId.of(pid)
        assert process is not None
        db.write(lambda session: self._take(session, process))
        db.writer.fence = self._fence
        self._thread = threading.Thread(target=self._renew, name="server-lease", daemon=True)
        self._thread.start()

    def name(self, url: str) -> None:
        """Says where we answer, for who is refused."""

        def write(session: Session) -> None:
            found = session.get(ServerLease, 1)
            assert found is not None
            found.url = url
            session.add(found)

        self._db.write(write)

    def release(self) -> None:
        """Lets the database go."""
        self._stop.set()
        self._thread.join()

        def write(session: Session) -> None:
            found = session.get(ServerLease, 1)
            if found is not None:
                session.delete(found)

        self._db.write(write)
        self._db.writer.fence = None

    def _take(self, session: Session, process: ProcessId) -> None:
        """Makes the lease ours. A transaction of its holder's is waited for; one that stands still is ended."""
        found = session.get(ServerLease, 1, with_for_update=True)
        if found is not None and _alive(found):
            raise ServerRunning(
                f"Another server serves this database: process {found.pid} on {found.host}"
                f"{f', {found.url}' if found.url else ''}. Use it, stop it, or set ORC_HOME or ORC_DATABASE_URL."
            )
        if found is not None:
            session.delete(found)
            session.flush()
        row = ServerLease(
            token=self._token,
            host=host_name(),
            pid=process.pid,
            boot_id=process.boot,
            start_ticks=process.start_ticks,
            renewed_at=time.time(),
        )
        session.add(row)

    def _fence(self, session: Session) -> None:
        """Runs first in every transaction: a server that was thought dead must not write any more.

        The row is locked until the transaction's end, so that who takes over waits for that. SQLite needs no lock: one
        transaction writes at a time.
        """
        found = session.get(ServerLease, 1, with_for_update={"read": True})
        if found is None or found.token != self._token:
            self._stop.set()
            who = f"process {found.pid} on {found.host}" if found else "nobody"
            message = f"This server has lost the database to {who}; it writes nothing any more and ends."
            self._on_lost(message)
            raise ServerRunning(message)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                self._db.write(self._stamp)
                self.trouble = None
            except OrcError as error:
                self.trouble = error.message

    @staticmethod
    def _stamp(session: Session) -> None:
        found = session.get(ServerLease, 1)
        if found is not None:
            found.renewed_at = time.time()
            session.add(found)


def _alive(lease: ServerLease) -> bool:
    """On this machine the process itself tells; on another, whether it has renewed its hold."""
    if lease.host == host_name():
        return lease.boot_id == boot_id() and ProcessId(lease.pid, lease.start_ticks, lease.boot_id).alive()
    return time.time() - lease.renewed_at < LIFETIME_SECONDS
