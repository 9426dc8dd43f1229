"""A synchronous client: finds its server by itself, or starts one, and never shows its token to another's.

from orchestrator.client import Client

with Client() as orc:
    run = orc.create_run("try", "python train.py --lr 0.1", workdir="/home/me/project", auto_start=True)
    print(orc.wait([run["id"]])[0]["status"])
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from orchestrator import home as home_files
from orchestrator.discovery import find_server
from orchestrator.errors import AnswerLost, OrcError, ServerUnreachable

Json = dict[str, Any]
TERMINAL = ("finished", "failed", "stopped")
WAIT_SECONDS = 30.0
WAIT_RUNS = 1000


class RequestFailed(OrcError):
    """The server answered with an error. ``status``: HTTP's; ``detail``: the server's own words.

    Where a plan refused: ``plan_id``, ``diff`` (what it says, what was asked), ``amendment`` (what allows just that),
    ``refusal`` (its number, for the person who may allow it).
    """

    def __init__(self, status: int, detail: Any, answer: Mapping[str, Any] | None = None) -> None:
        super().__init__(_words(detail))
        self.status = status
        self.detail = detail
        said = answer or {}
        self.plan_id: str | None = said.get("plan_id")
        self.diff: list[Json] = list(said.get("diff") or ())
        self.amendment: Json | None = said.get("amendment")
        self.refusal: int | None = said.get("refusal")


def _words(detail: Any) -> str:
    if not isinstance(detail, list):
        return str(detail)
    lines = []
    for item in detail:
        where = ".".join(str(part) for part in item.get("loc", ())[1:])
        words = str(item.get("msg"))
        choices = [str(choice) for choice in item.get("choices") or ()]
        more = f" Valid: {', '.join(choices)}" if choices and not all(choice in words for choice in choices) else ""
        lines.append(f"{where}: {words}{more}")
    return "\n".join(lines)


class Client:
    """Talks to one server. ``url`` (or ORC_URL) names another than the one of ``home`` ($ORC_HOME)."""

    def __init__(self, home: Path | None = None, url: str | None = None, *, start: bool = True) -> None:
        self.home = home or home_files.default_home()
        self._http = self._connect(url, start=start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def _connect(self, url: str | None, *, start: bool) -> httpx2.Client:
        found = find_server(self.home, url, start=start)
        transport = httpx2.HTTPTransport(uds=str(found.socket)) if found.socket is not None else None
        return httpx2.Client(
            transport=transport, base_url=found.url, headers=found.headers, timeout=60.0, trust_env=False
        )

    # -- requests --------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """One request; the JSON answer. Raises RequestFailed or ServerUnreachable."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            answer = self._http.request(method, path, json=body, params=given)
        except httpx2.TransportError as error:
            raise unanswered(method, error) from error
        if answer.is_error:
            raise failure(answer)
        return answer.json()

    def text(self, path: str, params: Mapping[str, Any] | None = None) -> str:
        """A GET whose answer is text. Raises RequestFailed or ServerUnreachable."""
        try:
            answer = self._http.get(path, params=dict(params or {}))
        except httpx2.TransportError as error:
            raise unanswered("GET", error) from error
        if answer.is_error:
            raise failure(answer)
        return answer.text

    def stream(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[tuple[str, str, str]]:
        """A server-sent stream as (event, id, data)."""
        with self._http.stream("GET", path, params=dict(params or {}), timeout=None) as answer:
            if answer.is_error:
                answer.read()
                raise failure(answer)
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

    def save_plan(self, raw_markdown: str, *, title: str | None = None, goal: str | None = None, **fields: Any) -> Json:
        """Saves a draft. Without ``title`` and ``goal``: the markdown's own."""
        body = {"title": title, "goal": goal, "raw_markdown": raw_markdown, **fields}
        return dict(self.request("POST", "/plans", body))

    def advance_plan(self, plan_id: str, action: str, body: Json | None = None) -> Json:
        """``approve``, ``execute``, ``complete``, ``archive``."""
        return dict(self.request("POST", f"/plans/{plan_id}/{action}", body))


def unanswered(method: str, error: httpx2.TransportError) -> ServerUnreachable:
    """What it means that no answer came: nothing, or for what changes something and was sent, that nobody knows."""
    said = str(error) or type(error).__name__
    if method == "GET" or isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return ServerUnreachable(f"The server does not answer: {said}")
    return AnswerLost(f"The server gave no answer, and may have carried it out all the same: {said}")


def failure(answer: httpx2.Response) -> RequestFailed:
    """An answer that is an error, as such."""
    try:
        content = answer.json()
    except ValueError:
        return RequestFailed(answer.status_code, f"HTTP {answer.status_code}: {answer.text[:500]}")
    if not isinstance(content, dict):
        return RequestFailed(answer.status_code, content)
    detail = content.get("detail", content)
    problems = content.get("problems")
    if problems:
        detail = "\n".join([str(detail), *(f"line {item['line']}: {item['message']}" for item in problems)])
    return RequestFailed(answer.status_code, detail, content)
