"""Where this user's server answers: found, or started, and never shown the token unless it is the user's own."""

import ipaddress
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from orchestrator import home as home_files
from orchestrator.errors import ServerUnreachable, Unauthorized, UntrustedServer
from orchestrator.proc import ProcessId, host_name, listener_uid

START_SECONDS = 30.0


@dataclass(frozen=True)
class Found:
    """How a server is reached. ``socket``: its Unix socket, None over TCP; ``headers``: those with the token."""

    url: str
    socket: Path | None
    headers: Mapping[str, str]


def find_server(home: Path, url: str | None = None, *, start: bool = True) -> Found:
    """The server of ``home``, started where there is none and ``start`` says so; or the one at ``url`` (or ORC_URL).

    Raises ServerUnreachable, or UntrustedServer where what answers is another user's.
    """
    named = url or os.environ.get("ORC_URL")
    if named is not None:
        return _over_tcp(home, named)
    found = _running(home)
    if found is None and start:
        start_server(home)
        found = _running(home)
    if found is None:
        raise ServerUnreachable(f"No server runs for {home}: start one with `orc serve`.")
    return found


def _running(home: Path) -> Found | None:
    """The server that server.json tells of, or None when none answers."""
    said = home_files.read_server_file(home)
    if said is None:
        return None
    if said.get("host") != host_name():
        raise ServerUnreachable(
            f"The server of {home} runs on {said.get('host')}, not here: use it there, or set ORC_URL."
        )
    path = Path(str(said.get("socket")))
    owner = _socket_owner(path)
    if owner is not None:
        if owner != os.getuid():
            raise UntrustedServer(f"The process behind {path} belongs to uid {owner}: the token was not sent.")
        return Found("http://localhost", path, _headers(home))
    alive = ProcessId.of(int(said["pid"])) is not None
    return _over_tcp(home, str(said["url"])) if alive and _answers(str(said["url"])) else None


def _over_tcp(home: Path, url: str) -> Found:
    """A server over TCP: on this machine alone, and only when the process that listens is the user's own."""
    parts = httpx2.URL(url)
    if not _is_loopback(parts.host):
        raise UntrustedServer(
            f"{url} is not on this machine: the token was not sent. Reach it by a tunnel (ssh -L) to localhost."
        )
    owner = listener_uid(_address(parts.host), parts.port or 80)
    if owner is None:
        raise ServerUnreachable(f"Nothing listens at {url}.")
    if owner != os.getuid():
        raise UntrustedServer(f"What listens at {url} belongs to uid {owner}: the token was not sent.")
    return Found(url, None, _headers(home))


def _headers(home: Path) -> dict[str, str]:
    try:
        return {"X-Auth-Token": home_files.read_token(home)}
    except OSError as error:
        raise Unauthorized(f"The token cannot be read: {error}. ORC_TOKEN_FILE names the file it is in.") from error


def start_server(home: Path) -> None:
    """Starts a server on demand, detached, and waits until it answers. Raises ServerUnreachable with its last words."""
    if "ORC_RUN_ID" in os.environ:
        raise ServerUnreachable(
            f"No server runs for {home}, and one started from inside a run would end with it: `orc serve` outside."
        )
    home_files.make_home(home)
    log = home / "server.log"
    command = [sys.executable, "-m", "api", "--on-demand", "--port", "0"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**home_files.without_token(os.environ), "ORC_HOME": str(home)},
            cwd=Path.home(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        said = home_files.read_server_file(home)
        if said is not None and _answers(str(said["url"])):
            process.returncode = 0  # it goes on without us: no warning when this object ends
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    words = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    raise ServerUnreachable(f"The server could not be started: {' '.join(words) or 'it said nothing'} (more in {log}).")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _socket_owner(path: Path) -> int | None:
    """The uid of the process that listens on a Unix socket (SO_PEERCRED), None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])


def _answers(url: str) -> bool:
    parts = httpx2.URL(url)
    try:
        with socket.create_connection((_address(parts.host), parts.port or 80), timeout=2):
            return True
    except OSError:
        return False
