"""A web server on loopback that takes messages, and answers as it is told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Taken:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


@dataclass
class Hook:
    """``answers``: the statuses of the next answers, then 200. ``hang``: while it is set, no answer goes out."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    retry_after: str | None = None
    taken: list[Taken] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/hook") -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}{path}"


def _handler(hook: Hook) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.taken.append(Taken(self.path, dict(self.headers), body))
            if hook.hang.is_set():
                hook.release.wait(30)
                return
            self.send_response(hook.answers.pop(0) if hook.answers else 200)
            self.send_header("Location", "/elsewhere")
            if hook.retry_after is not None:
                self.send_header("Retry-After", hook.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base's own name)
            pass

    return Handler


@contextmanager
def listening(hook: Hook) -> Iterator[None]:
    """The hook answers until the block ends; on the same port as before, where it had one."""
    server = ThreadingHTTPServer(("127.0.0.1", hook.port), _handler(hook))
    server.daemon_threads = True
    hook.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        hook.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
