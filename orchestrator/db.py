"""The database: many readers, one writer with group commit.

A write is a function of a session. Functions that arrive while a commit is under way go together into the
next one, each in its own savepoint: one that fails takes nothing with it. A function may be run twice
(when its batch broke), so it must do nothing but read and write its session.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlmodel import Session

from orchestrator.errors import OrcError, StorageError, StorageFull
from orchestrator.filesystems import is_network, kind_of

log = logging.getLogger(__name__)
T = TypeVar("T")
Write = Callable[[Session], T]
Item = tuple[Write[Any], "Future[Any]"]
BATCH = 500
STANDSTILL = 30.0  # seconds; not more than a server's lease lasts, which a transaction locks (serverlease.py)


class Database:
    """One database, served by one process."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database) if self.is_sqlite and self.url.database else None
        self.network = self.path is not None and is_network(kind_of(self.path.parent))
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)  # what runs are given in their environment is in there; SQLite keeps the mode
        self.writer_engine = self._engine(readonly=False)
        self.reader_engine = self._engine(readonly=True)
        self.writer = Writer(self.writer_engine)

    def _engine(self, *, readonly: bool) -> Engine:
        if not self.is_sqlite:
            url = self.url.set(drivername="postgresql+psycopg") if self.url.drivername == "postgresql" else self.url
            engine = create_engine(url, pool_pre_ping=True, pool_size=1 if not readonly else 10)
            if not readonly:
                _end_what_stands_still(engine)
            return engine
        connect_args = {"check_same_thread": False, "timeout": 30}
        if readonly:
            engine = create_engine(self.url, connect_args=connect_args, pool_size=16, max_overflow=48)
        else:
            engine = create_engine(self.url, connect_args=connect_args, pool_size=1, max_overflow=0)
        _sqlite_pragmas(engine, readonly=readonly, wal=not self.network)
        return engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session to read with; what it sees is one consistent moment."""
        with (
            _storage_errors(),
            Session(self.reader_engine, expire_on_commit=False, autoflush=False) as session,
        ):
            yield session

    def write(self, function: Write[T]) -> T:
        """Runs ``function`` in the writer and returns its result once it is committed (on disk)."""
        return self.writer.submit(function).result()

    def close(self) -> None:
        """Ends the writer after what was submitted is written."""
        self.writer.close()
        self.reader_engine.dispose()
        self.writer_engine.dispose()


class Writer:
    """The one thread that writes. ``fence`` runs first in every transaction and may refuse it.

    ``info``: what the sessions of all transactions carry (``session.info``).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Write[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._listeners: list[Callable[[], None]] = []
        self.fence: Callable[[Session], None] | None = None
        self.info: dict[Any, Any] = {}
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name="db-writer", daemon=True)
        self._thread.start()

    def on_commit(self, listener: Callable[[], None]) -> None:
        """``listener`` is called (in the writer's thread: be quick) after each commit."""
        self._listeners.append(listener)

    def submit(self, function: Write[T]) -> "Future[T]":
        """Queues a write."""
        future: Future[T] = Future()
        self._queue.put((function, future))
        return future

    def close(self) -> None:
        """Writes what is queued and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            item = self._queue.get()
            batch: list[Item] = []
            while item is not None:
                batch.append(item)
                if len(batch) == BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            ending = item is None
            if batch:
                self._settle(batch)

    def _settle(self, batch: "list[Item]") -> None:
        """Commits a batch; whatever goes wrong, everybody who waits gets an answer and the thread lives on."""
        try:
            self._commit(batch)
        except Exception as error:
            log.exception("the writer met a defect")
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)

    def _commit(self, batch: "list[Item]") -> None:
        try:
            outcomes = self._transaction([function for function, _ in batch])
        except Exception as error:
            if len(batch) > 1:  # something broke the whole transaction: each on its own
                for item in batch:
                    self._settle([item])
            else:
                batch[0][1].set_exception(storage_error(error))
            return
        self.commits += 1
        for (_, future), (result, failure) in zip(batch, outcomes, strict=True):
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
        for listener in self._listeners:
            listener()

    def _transaction(self, functions: list[Write[Any]]) -> list[tuple[Any, Exception | None]]:
        outcomes: list[tuple[Any, Exception | None]] = []
        with Session(self._engine, expire_on_commit=False, info=self.info) as session, session.begin():
            if self.fence is not None:
                self.fence(session)
            for function in functions:
                try:
                    with session.begin_nested():  # what is wrong may show only as it ends, when it is flushed
                        result = function(session)
                except Exception as error:
                    if _breaks_all(error):
                        raise
                    outcomes.append((None, storage_error(error)))
                else:
                    outcomes.append((result, None))
        return outcomes


def _breaks_all(error: Exception) -> bool:
    """Whether the whole transaction is lost, not only what one of its functions wrote."""
    return isinstance(error, DBAPIError) and (isinstance(error, OperationalError) or error.connection_invalidated)


def storage_error(error: Exception) -> Exception:
    """A driver's error in our words; others as they are."""
    if isinstance(error, OrcError) or not isinstance(error, DBAPIError | OSError | sqlite3.Error):
        return error
    text = str(getattr(error, "orig", None) or error)
    if "full" in text or "No space left" in text or "Disk quota" in text:
        return StorageFull(
            f"The disk that holds the database is full ({text}); nothing was stored. Free space and repeat."
        )
    return StorageError(f"The database cannot be used just now ({text}); nothing was stored.")


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise storage_error(error) from error


def _sqlite_pragmas(engine: Engine, *, readonly: bool, wal: bool) -> None:
    """Transactions are ours (BEGIN IMMEDIATE for the writer), durability is FULL, readers cannot write."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # no implicit BEGIN by the driver
        cursor = connection.cursor()
        if readonly:
            cursor.execute("PRAGMA query_only=ON")
        else:
            wanted = "WAL" if wal else "DELETE"
            # A new database may be opened by two at once: changing the mode needs it alone for a moment.
            _retry_locked(lambda: cursor.execute(f"PRAGMA journal_mode={wanted}"))
            cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")


def _end_what_stands_still(engine: Engine) -> None:
    """PostgreSQL ends a transaction whose process does nothing more: it was stopped, or its machine is gone."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {STANDSTILL * 1000:.0f}")
        connection.commit()


def _retry_locked(action: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def scalar_pragma(database: Database, name: str) -> Any:
    """A PRAGMA's value as the writer has it, for ``orc doctor``."""
    with database.writer_engine.connect() as connection:
        return cast(Any, connection.exec_driver_sql(f"PRAGMA {name}").scalar())
