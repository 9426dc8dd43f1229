"""How a tool's call goes over the wire, and what comes back."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator import agenttools
from orchestrator.agenttools import caller
from orchestrator.agenttools.caller import Answer, RunningServer, ask
from orchestrator.client import RequestFailed
from orchestrator.discovery import Found
from orchestrator.errors import ServerUnreachable


def asked(respond: Any, *arguments: Any) -> Answer:
    """One request, answered by a function."""

    async def main() -> Answer:
        transport = httpx2.MockTransport(respond)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await ask(http, *arguments)

    return asyncio.run(main())


def test_parameters_that_are_none_are_left_out_and_the_key_is_a_header() -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        assert request.url.query == b"status=failed&status=stopped"
        assert request.headers["Idempotency-Key"] == "k"
        return httpx2.Response(200, json=[1])

    params = {"status": ["failed", "stopped"], "tag": None}
    assert asked(respond, "GET", "/runs", None, params, "k") == Answer([1])


def test_the_next_pages_cursor_is_kept() -> None:
    link = '</runs?limit=1&before=42>; rel="next"'
    found = asked(lambda _: httpx2.Response(200, json=[], headers={"Link": link}), "GET", "/runs", None, None, None)
    assert found.before == 42


def test_text_is_text() -> None:
    answer = httpx2.Response(200, text="# ü", headers={"Content-Type": "text/markdown; charset=utf-8"})
    assert asked(lambda _: answer, "GET", "/x", None, None, None).content == "# ü"


def test_an_error_is_raised_with_what_was_said() -> None:
    refusal = {"detail": "no", "plan_id": "p", "diff": [{"field": "a"}], "amendment": {"b": 1}}
    with pytest.raises(RequestFailed) as caught:
        asked(lambda _: httpx2.Response(403, json=refusal), "POST", "/x", {}, None, None)
    assert (caught.value.status, caught.value.diff, caught.value.amendment) == (403, [{"field": "a"}], {"b": 1})


def test_a_server_that_goes_away_is_unreachable() -> None:
    def gone(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("")

    with pytest.raises(ServerUnreachable, match="ReadTimeout"):
        asked(gone, "GET", "/x", None, None, None)


def test_a_server_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORC_RUN_ID", "x")  # nothing is started from inside a run
    with pytest.raises(ServerUnreachable, match="orc serve"):
        asyncio.run(RunningServer(tmp_path).call("GET", "/cluster"))


def test_a_server_that_ended_after_it_was_found_is_found_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        tried.append(request.url.path)
        if len(tried) != 2:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, json={"ok": True})

    monkeypatch.setattr(caller, "find_server", lambda *_: Found("http://localhost", None, {}))
    monkeypatch.setattr(caller, "_client", lambda found: _mocked(respond, found.url))
    assert asyncio.run(RunningServer().call("GET", "/cluster")).content == {"ok": True}
    with pytest.raises(ServerUnreachable, match="refused"):
        asyncio.run(RunningServer().call("GET", "/cluster"))
    assert len(tried) == 4


def _mocked(respond: Any, url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.MockTransport(respond), base_url=url)


def test_the_sdk_is_there() -> None:
    assert agenttools.installed()
