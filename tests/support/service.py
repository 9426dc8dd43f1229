"""The service for tests: inside the test's process, or as a real process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from starlette.testclient import TestClient

from api.app import create_app
from orchestrator.settings import Settings
from orchestrator.wiring import System
from tests.support.waiting import wait_until

TERMINAL = {"finished", "failed", "stopped"}
Json = dict[str, Any]


class Calls:
    """The wire, as tests use it. ``http`` sends requests; every answer that is no success is shown."""

    def __init__(self, http: "httpx2.Client | TestClient") -> None:
        self.http = http

    def get(self, path: str, **params: Any) -> Any:
        """GET, which must succeed."""
        return self._good(self.http.get(path, params=params))

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """POST, which must succeed."""
        return self._good(self.http.post(path, json=body, **options))

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """A request that must fail: its status and detail."""
        answer = self.http.request(method, path, json=body, **options)
        assert answer.status_code >= 400, answer.text
        return answer.status_code, answer.json()["detail"]

    @staticmethod
    def _good(answer: Any) -> Any:
        assert answer.status_code < 300, f"{answer.status_code}: {answer.text}"
        return answer.json()

    def run(self, command: str, **fields: Any) -> Json:
        """A run that starts at once."""
        return dict(self.post("/runs", {"name": "test", "command": command, "auto_start": True, **fields}))

    def status(self, run_id: str) -> str:
        """A run's status."""
        return str(self.get(f"/runs/{run_id}")["status"])

    def until(self, run_id: str, *statuses: str, seconds: float = 60.0) -> Json:
        """The run once it has one of these statuses; another end than those fails at once."""

        def there(run: Json) -> bool:
            assert run["status"] in statuses or run["status"] not in TERMINAL, run
            return run["status"] in statuses

        return self._once(f"/runs/{run_id}", there, "/".join(statuses), seconds)

    def over(self, run_id: str, seconds: float = 60.0) -> Json:
        """The run once it is over, however."""
        return self.until(run_id, *TERMINAL, seconds=seconds)

    def counted(self, run_id: str, key: str, rows: int, seconds: float = 60.0) -> Json:
        """The run once it has so many rows of this metric: some may be read after its end."""

        def there(run: Json) -> bool:
            return bool(run.get("metricSummary", {}).get(key, {}).get("count") == rows)

        return self._once(f"/runs/{run_id}", there, f"{rows} rows of {key}", seconds)

    def until_plan(self, plan_id: str, status: str, seconds: float = 60.0) -> Json:
        """The plan once it has this status."""
        return self._once(f"/plans/{plan_id}", lambda plan: bool(plan["status"] == status), status, seconds)

    def _once(self, path: str, good: Callable[[Json], bool], what: str, seconds: float) -> Json:
        """What is at the path, once it is good; fails with what it was last."""
        seen: list[Json] = []

        def there() -> bool:
            seen[:] = [dict(self.get(path))]
            return good(seen[0])

        wait_until(there, lambda: f"{what}: {seen}", seconds)
        return seen[0]

    def log(self, run_id: str) -> str:
        """A run's whole log (at most 100 KiB)."""
        return str(self.get(f"/runs/{run_id}/logs", offset=0, limit=102_400)["content"])

    def journal(self) -> list[Json]:
        """The latest events that somebody has caused (at most 1,000): the service's own come when they come."""
        return [event for event in self.get("/events/latest", limit=1000) if event["actor"] != "service"]

    def events(self, run_id: str) -> list[Json]:
        """A run's events."""
        return list(self.get(f"/runs/{run_id}/events"))


class InProcess(Calls):
    """The service inside the test's process; ``system`` is open to look into."""

    def __init__(self, http: TestClient, system: System, settings: Settings) -> None:
        super().__init__(http)
        self.system = system
        self.settings = settings


@contextmanager
def in_process(home: Path, **settings: Any) -> Iterator[InProcess]:
    """The service over a home of its own, until the block ends."""
    given = {"home": home, "default_workdir": home, "local_cpus": 4, "stop_grace_seconds": 2.0, **settings}
    made = Settings(**given)
    app = create_app(made)
    try:
        with TestClient(app, base_url="http://localhost") as http:
            http.headers["X-Auth-Token"] = (home / "token").read_text().strip()
            wait_until(lambda: app.state.system.cluster.current().source != "unset", "the first detection")
            yield InProcess(http, app.state.system, made)
    finally:
        end_runs(home / "runs")


class RealServer(Calls):
    """A server process of its own, that tests may kill and start again over the same home."""

    def __init__(
        self,
        home: Path,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        uid: int | None = None,
    ) -> None:
        self.home = home
        self.uid = uid
        self._python = python
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ORC_")}
        self.environment = {**clean, "ORC_HOME": str(home), "ORC_STOP_GRACE_SECONDS": "2", **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        super().__init__(httpx2.Client())

    def start(self) -> "RealServer":
        """Starts it and waits until it answers."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.uid is not None:
            os.chown(self.home, self.uid, self.uid)
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._python, "-m", "api", "--port", "0"],
                env=self.environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
                user=self.uid,
                group=self.uid,
                extra_groups=[] if self.uid is not None else None,
            )
        try:
            self._until_ready()
        except BaseException:
            self.stop()  # no fixture does: it never had it
            raise
        return self

    def _until_ready(self) -> None:
        url = wait_until(self._url, f"the server of {self.home}: {self.words()}", 60)
        headers = {"X-Auth-Token": (self.home / "token").read_text().strip()}
        self.http.close()
        self.http = httpx2.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False)
        wait_until(lambda: self.get("/cluster")["cluster"]["source"] != "unset", "the first detection")

    def _url(self) -> str | None:
        assert self.process is not None
        assert self.process.poll() is None, self.words()
        try:
            said = json.loads((self.home / "server.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return str(said["url"]) if said["pid"] == self.process.pid else None

    def words(self) -> str:
        """What it wrote last."""
        path = self.home / "server.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends it as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)
        self.http.close()


@contextmanager
def real_server(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[RealServer]:
    """A server process until the block ends; the runs that it leaves are ended too."""
    server = RealServer(home, environment).start()
    try:
        yield server
    finally:
        server.stop()
        end_runs(home / "runs")


def end_runs(runs_dir: Path) -> None:
    """Ends whatever job.py of these runs still lives, so that no test leaves anything running."""
    deadline = time.monotonic() + 10
    for claim in runs_dir.glob("*/attempts/*/claim"):
        if (claim.parent / "exit.json").exists():
            continue
        fields = dict(line.partition("=")[::2] for line in claim.read_text().splitlines())
        stat = Path(f"/proc/{fields['pid']}/stat")
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end by itself any moment
            if stat.read_text().rsplit(")", 1)[1].split()[19] == fields["start_ticks"]:
                os.kill(int(fields["pid"]), signal.SIGTERM)
                while _lives(stat) and time.monotonic() < deadline:
                    time.sleep(0.02)


def _lives(stat: Path) -> bool:
    """Whether the process runs still; in process, job.py is the tests' own child and stays a zombie."""
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
