"""What lasts longer than a request, streams and waits, ends with its token."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.service import RealServer, real_server
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server for all."""
    with real_server(tmp_path_factory.mktemp("lasting") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


class Reader(threading.Thread):
    """Reads an answer until it ends."""

    def __init__(self, server: RealServer, path: str, token: str) -> None:
        super().__init__()
        self.text, self.status = "", 0
        self._path, self._token, self._url = path, token, str(server.http.base_url)

    def run(self) -> None:
        """The whole answer."""
        headers = {"X-Auth-Token": self._token}
        with (
            httpx2.Client(base_url=self._url, headers=headers, timeout=60.0, trust_env=False) as http,
            http.stream("GET", self._path) as answer,
        ):
            self.status = answer.status_code
            for text in answer.iter_text():
                self.text += text


@pytest.fixture
def run(server: RealServer) -> Iterator[dict[str, Any]]:
    """One that goes on."""
    made = server.run("echo hello; sleep 600")
    server.until(made["id"], "running")
    yield made
    server.post(f"/runs/{made['id']}/stop")
    server.over(made["id"])


@pytest.mark.parametrize("way", ["revoked", "rotated"])
@pytest.mark.parametrize("path", ["/events", "/runs/{id}/logs/stream"])
def test_a_stream_ends_with_its_token(server: RealServer, run: dict[str, Any], path: str, way: str) -> None:
    name = f"{way}-{path.count('/')}"
    token = server.post("/tokens", {"name": name, "scopes": ["read"]})["token"]
    reader = Reader(server, path.format(id=run["id"]), token)
    reader.start()
    wait_until(lambda: reader.text, "the stream's beginning")
    assert reader.is_alive()
    if way == "revoked":
        server.http.delete(f"/tokens/{name}").raise_for_status()
    else:
        server.post(f"/tokens/{name}/rotate")
    reader.join(30)
    assert not reader.is_alive()
    assert reader.status == 200


def test_a_wait_ends_with_its_token_and_tells_nothing(server: RealServer, run: dict[str, Any]) -> None:
    soon = {"name": "waits", "scopes": ["read"], "expires_at": time.time() + 8.0}
    reader = Reader(server, f"/runs/{run['id']}/wait?timeout=60", server.post("/tokens", soon)["token"])
    reader.start()
    reader.join(60)
    assert not reader.is_alive()
    assert reader.status == 401
    assert "while this was waited for" in reader.text
    assert run["id"] not in reader.text
