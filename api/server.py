"""Runs the service: on a loopback port and on a Unix socket, until told to end or, started on demand, until idle."""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import uvicorn

from api.app import create_app
from orchestrator import home as home_files
from orchestrator.alerting import outbox
from orchestrator.errors import ServerRunning
from orchestrator.proc import host_name
from orchestrator.settings import Settings
from orchestrator.states import RunStatus
from orchestrator.wiring import System

log = logging.getLogger(__name__)
IDLE_LOOK = 1.0
LOOPBACK = ("127.", "localhost", "::1")


class Server(uvicorn.Server):
    """uvicorn, which writes server.json once it answers and takes it away at the end."""

    def __init__(self, settings: Settings, path: Path, *, on_demand: bool) -> None:
        self._settings = settings
        self._path = path
        self._on_demand = on_demand
        self.lost: str | None = None
        self.application = create_app(settings, self._on_lost)
        super().__init__(
            uvicorn.Config(
                self.application,
                log_config=None,  # what goes wrong is said by our own handlers, once
                access_log=False,
                timeout_graceful_shutdown=3,
                server_header=False,
                ws="none",
                loop="asyncio",
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, then says where."""
        await super().startup(sockets)
        if not self.should_exit and sockets:
            self._announce(sockets)
            if self._on_demand:
                self._idle = asyncio.create_task(self._end_when_idle())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the streams first, so that nobody has to be waited for."""
        self.application.state.commits.close()
        await super().shutdown(sockets)

    def _announce(self, sockets: list[socket.socket]) -> None:
        host, port = sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{port}"
        system: System = self.application.state.system
        system.holding.name(url)
        content = {
            "url": url,
            "socket": str(self._path),
            "pid": os.getpid(),
            "host": host_name(),
            "started_at": time.time(),
        }
        home_files.write_private(self._settings.home / "server.json", json.dumps(content) + "\n")
        log.info("orc serves at %s and %s", url, self._path)

    def _on_lost(self, message: str) -> None:
        self.lost = message
        self.should_exit = True

    async def _end_when_idle(self) -> None:
        """Started on demand, it ends when nobody has asked for so long, no run waits or executes, and no word does."""
        while not self.should_exit:
            await asyncio.sleep(IDLE_LOOK)
            if self.application.state.activity.idle_seconds() < self._settings.idle_exit_seconds:
                continue
            busy = await asyncio.to_thread(_busy, self.application.state.system)
            if not busy:
                self.should_exit = True


def _busy(system: System) -> bool:
    counts = system.cluster.public()["run_summary"]
    if any(counts[name] for name in (RunStatus.QUEUED, RunStatus.LAUNCHING, RunStatus.RUNNING)):
        return True
    with system.db.read() as session:
        return outbox.waiting(session)


def serve(settings: Settings, *, on_demand: bool = False) -> int:
    """Serves until it is ended. The exit status: 0, or 1 when another server has the database."""
    home_files.make_home(settings.home)
    try:
        tcp = _tcp(settings.host, settings.port)
    except OSError as error:
        log.error("Port %s of %s cannot be had (%s): --port 0 takes a free one.", settings.port, settings.host, error)
        return 1
    if not settings.host.startswith(LOOPBACK):
        log.warning(
            "Listening on %s: whoever reaches this port and has a token can run commands as you.", settings.host
        )
    path = home_files.socket_path(settings.home)
    server = Server(settings, path, on_demand=on_demand)
    try:
        unix = _unix(path)
        mine = path.stat().st_ino
    except ServerRunning as error:
        log.error("%s", error.message)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn sends itself the signal again when all is done
        signal.signal(number, lambda *_: None)
    try:
        asyncio.run(server.serve([tcp, unix]))
    except SystemExit:  # uvicorn's way to say that the start failed; why is told below
        log.debug("the start failed")
    finally:
        _clean_up(settings.home, path, mine)
    trouble = server.lost or server.application.state.failure
    if trouble is not None:
        log.error("%s", trouble)
    return 0 if server.started and trouble is None else 1


def _clean_up(home: Path, path: Path, inode: int) -> None:
    """Takes away what is ours, and nothing that another server has put in its place."""
    found = home_files.read_server_file(home)
    if found is not None and found.get("pid") == os.getpid():
        (home / "server.json").unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, or asyncio would not see that it is TCP and leave Nagle's algorithm on: 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.strip("[]"), port))
    return listener


def _unix(path: Path) -> socket.socket:
    """A socket that only its owner may use (0600), in the place of a dead server's if there is one."""
    if _answers(path):
        raise ServerRunning(f"Another server of this ORC_HOME answers at {path}.")
    temporary = path.with_name(f".{os.getpid()}.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(temporary))
    finally:
        os.umask(before)
    temporary.replace(path)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
