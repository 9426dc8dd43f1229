"""A synchronous client: finds its server by itself, or starts one, and never shows its token to another's.

from orchestrator.client import Client

with Client() as orc:
    run = orc.create_run("try", "python train.py --lr 0.1", workdir="/home/me/project", auto_start=True)
    print(orc.wait([run["id"]])[0]["status"])
"""

import ipaddress
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from orchestrator import home as home_files
from orchestrator.errors import OrcError, ServerUnreachable, UntrustedServer
from orchestrator.proc import ProcessId, host_name, listener_uid

Json = dict[str, Any]
TERMINAL = ("finished", "failed", "stopped")
START_SECONDS = 30.0
WAIT_SECONDS = 30.0
WAIT_RUNS = 1000


class RequestFailed(OrcError):
    """The server answered with an error. ``status``: HTTP's; ``detail``: the server's own words."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(_words(detail))
        self.status = status
        self.detail = detail


def _words(detail: Any) -> str:
    if not isinstance(detail, list):
        return str(detail)
    lines = []
    for item in detail:
        where = ".".join(str(part) for part in item.get("loc", ())[1:])
        choices = item.get("choices")
        lines.append(f"{where}: {item.get('msg')}" + (f" Valid: {choices}" if choices else ""))
    return "\n".join(lines)


class Client:
    """Talks to one server. ``url`` (or ORC_URL) names another than the one of ``home`` ($ORC_HOME)."""

    def __init__(self, home: Path | None = None, url: str | None = None, *, start: bool = True) -> None:
        self.home = home or home_files.default_home()
        self._http = self._connect(url or os.environ.get("ORC_URL"), start=start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    # -- finding the server ----------------------------------------------------------------------------------------

    def _connect(self, url: str | None, *, start: bool) -> httpx2.Client:
        if url is not None:
            return self._over_tcp(url)
        found = self._running()
        if found is None and start:
            start_server(self.home)
            found = self._running()
        if found is None:
            raise ServerUnreachable(f"No server runs for {self.home}: start one with `orc serve`.")
        return found

    def _running(self) -> httpx2.Client | None:
        """A connection to the server that server.json tells of, or None when none answers."""
        said = home_files.read_server_file(self.home)
        if said is None:
            return None
        if said.get("host") != host_name():
            raise ServerUnreachable(
                f"The server of {self.home} runs on {said.get('host')}, not here: use it there, or set ORC_URL."
            )
        path = Path(str(said.get("socket")))
        owner = _socket_owner(path)
        if owner is not None:
            if owner != os.getuid():
                raise UntrustedServer(f"The process behind {path} belongs to uid {owner}: the token was not sent.")
            return self._client(httpx2.HTTPTransport(uds=str(path)), "http://localhost")
        alive = ProcessId.of(int(said["pid"])) is not None
        return self._over_tcp(str(said["url"])) if alive and _answers(str(said["url"])) else None

    def _over_tcp(self, url: str) -> httpx2.Client:
        """A connection over TCP: to this machine alone, and only when the process that listens is the user's own."""
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
        return self._client(None, url)

    def _client(self, transport: httpx2.HTTPTransport | None, url: str) -> httpx2.Client:
        headers = {"X-Auth-Token": home_files.read_token(self.home)}
        return httpx2.Client(transport=transport, base_url=url, headers=headers, timeout=60.0, trust_env=False)

    # -- requests --------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """One request; the JSON answer. Raises RequestFailed or ServerUnreachable."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            answer = self._http.request(method, path, json=body, params=given)
        except httpx2.TransportError as error:
            raise ServerUnreachable(f"The server does not answer: {error}") from error
        if answer.is_error:
            raise RequestFailed(answer.status_code, _detail(answer))
        return answer.json()

    def text(self, path: str, params: Mapping[str, Any] | None = None) -> str:
        """A GET whose answer is text. Raises RequestFailed or ServerUnreachable."""
        try:
            answer = self._http.get(path, params=dict(params or {}))
        except httpx2.TransportError as error:
            raise ServerUnreachable(f"The server does not answer: {error}") from error
        if answer.is_error:
            raise RequestFailed(answer.status_code, _detail(answer))
        return answer.text

    def stream(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[tuple[str, str, str]]:
        """A server-sent stream as (event, id, data)."""
        with self._http.stream("GET", path, params=dict(params or {}), timeout=None) as answer:
            if answer.is_error:
                answer.read()
                raise RequestFailed(answer.status_code, _detail(answer))
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = fields[name] + "\n" + value[1:] if name in fields else value.removeprefix(" ")
                elif "data" in fields:
                    yield fields.get("event", ""), fields.get("id", ""), fields["data"]
                    fields = {}

    # -- cluster ---------------------------------------------------------------------------------------------------

    def cluster(self) -> Json:
        """What the machine is, and how many runs are where."""
        return dict(self.request("GET", "/cluster"))

    def detect(self, body: Json | None = None) -> Json:
        """Detects now."""
        return dict(self.request("POST", "/cluster/detect", body or {}))

    # -- runs ------------------------------------------------------------------------------------------------------

    def create_run(self, name: str, command: str, **fields: Any) -> Json:
        """Makes a run; ``fields`` as in POST /runs."""
        return dict(self.request("POST", "/runs", {"name": name, "command": command, **fields}))

    def run(self, run_id: str) -> Json:
        """One run."""
        return dict(self.request("GET", f"/runs/{run_id}"))

    def runs(self, **filters: Any) -> list[Json]:
        """Runs, newest first; ``filters`` as in GET /runs."""
        return list(self.request("GET", "/runs", params=filters))

    def act(self, run_id: str, action: str, body: Json | None = None) -> Json:
        """``start``, ``queue``, ``stop``, ``rerun``, ``archive``, ``unarchive``."""
        return dict(self.request("POST", f"/runs/{run_id}/{action}", body))

    def events(self, run_id: str) -> list[Json]:
        """A run's events, oldest first."""
        return list(self.request("GET", f"/runs/{run_id}/events"))

    def logs(self, run_id: str, offset: int = -10_000, limit: int = 10_000, attempt: int | None = None) -> Json:
        """A part of a run's log: of its latest attempt, or another."""
        part = {"offset": offset, "limit": limit, "attempt": attempt}
        return dict(self.request("GET", f"/runs/{run_id}/logs", params=part))

    def wait(
        self, run_ids: Sequence[str], timeout: float | None = None, on_over: Callable[[Json], None] = lambda _: None
    ) -> list[Json]:
        """The runs once all are over, in the order asked; ``on_over`` is called for each as it is seen.

        Raises TimeoutError after ``timeout`` seconds. The server answers when one is over: nothing is polled.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        left, done = list(dict.fromkeys(run_ids)), dict[str, Json]()
        while left:
            rest = WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            body = {"ids": left[:WAIT_RUNS], "until": "any", "timeout": max(0.0, min(WAIT_SECONDS, rest))}
            for found in self.request("POST", "/runs/wait", body)["runs"]:
                if found["status"] in TERMINAL:
                    left.remove(found["id"])
                    done[found["id"]] = found
                    on_over(found)
            if left and deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"not over after {timeout:g} s: {', '.join(sorted(left)[:10])}")
        return [done[run_id] for run_id in run_ids]

    # -- alerts ----------------------------------------------------------------------------------------------------

    def alerts(self, **filters: Any) -> list[Json]:
        """Alerts, newest first; ``filters`` as in GET /alerts."""
        return list(self.request("GET", "/alerts", params=filters))

    def respond(self, alert_id: str, choice: str) -> Json:
        """Answers an alert; its ``outcome`` tells what that did."""
        return dict(self.request("POST", f"/alerts/{alert_id}/respond", {"choice": choice}))

    # -- sweeps and plans ------------------------------------------------------------------------------------------

    def create_sweep(
        self, name: str, base_command: str, parameters: Mapping[str, Sequence[Any]], **fields: Any
    ) -> Json:
        """A sweep with one run per configuration."""
        body = {"name": name, "base_command": base_command, "parameters": dict(parameters), **fields}
        return dict(self.request("POST", "/sweeps", body))

    def sweep(self, sweep_id: str) -> Json:
        """One sweep."""
        return dict(self.request("GET", f"/sweeps/{sweep_id}"))

    def sweeps(self, **filters: Any) -> list[Json]:
        """Sweeps, newest first."""
        return list(self.request("GET", "/sweeps", params=filters))

    def start_sweep(self, sweep_id: str, parallel: int | None = None) -> Json:
        """Queues its ready runs."""
        return dict(self.request("POST", f"/sweeps/{sweep_id}/start", params={"parallel": parallel}))

    def plan(self, plan_id: str) -> Json:
        """One plan."""
        return dict(self.request("GET", f"/plans/{plan_id}"))

    def plans(self, **filters: Any) -> list[Json]:
        """Plans, newest first."""
        return list(self.request("GET", "/plans", params=filters))

    def save_plan(self, title: str, goal: str, raw_markdown: str, **fields: Any) -> Json:
        """Saves a draft."""
        body = {"title": title, "goal": goal, "raw_markdown": raw_markdown, **fields}
        return dict(self.request("POST", "/plans", body))

    def advance_plan(self, plan_id: str, action: str, body: Json | None = None) -> Json:
        """``approve``, ``execute``, ``complete``, ``archive``."""
        return dict(self.request("POST", f"/plans/{plan_id}/{action}", body))


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
            env={**os.environ, "ORC_HOME": str(home)},
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


def _detail(answer: httpx2.Response) -> Any:
    try:
        content = answer.json()
    except ValueError:
        return f"HTTP {answer.status_code}: {answer.text[:500]}"
    detail = content.get("detail", content) if isinstance(content, dict) else content
    problems = content.get("problems") if isinstance(content, dict) else None
    if problems:
        return "\n".join([str(detail), *(f"line {item['line']}: {item['message']}" for item in problems)])
    return detail


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
