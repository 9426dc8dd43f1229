"""The client without a server: how it waits, what it says, whom it trusts."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.cli.following import wait_for
from orchestrator.client import Client, RequestFailed
from orchestrator.discovery import start_server
from orchestrator.errors import AnswerLost, ServerUnreachable, Unauthorized, UntrustedServer


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Client]:
    """A client whose requests are answered by a function."""

    def made(answer: Callable[[httpx2.Request], httpx2.Response]) -> Client:
        http = httpx2.Client(transport=httpx2.MockTransport(answer), base_url="http://localhost")
        monkeypatch.setattr(Client, "_connect", lambda *_, **__: http)
        return Client(tmp_path)

    return made


def runs_that_end(after: dict[str, int], statuses: dict[str, str]) -> Callable[[httpx2.Request], httpx2.Response]:
    """Each run is over after so many looks."""
    looks = dict.fromkeys(after, 0)

    def shown(run_id: str) -> dict[str, str]:
        looks[run_id] += 1
        return {"id": run_id, "status": statuses[run_id] if looks[run_id] > after[run_id] else "running"}

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert (request.method, request.url.path) == ("POST", "/runs/wait")
        body = json.loads(request.content)
        assert body["until"] == "any"
        return httpx2.Response(200, json={"runs": [shown(run_id) for run_id in body["ids"]]})

    return answer


def test_waiting_gives_the_runs_in_the_order_asked(answering: Any) -> None:
    after = {f"r{number}": number % 5 for number in range(100)}
    statuses = {run_id: "failed" if run_id == "r7" else "finished" for run_id in after}
    seen: list[str] = []
    with answering(runs_that_end(after, statuses)) as orc:
        over = orc.wait([*after, "r3"], on_over=lambda run: seen.append(run["id"]))
    assert [run["id"] for run in over] == [*after, "r3"]
    assert sorted(seen) == sorted(after)
    assert over[7]["status"] == "failed"


def test_waiting_gives_up_in_time_and_says_for_whom(answering: Any) -> None:
    runs = runs_that_end({"a": 0, "b": 10**9}, {"a": "finished", "b": "finished"})
    with answering(runs) as orc, pytest.raises(TimeoutError, match="b"):
        orc.wait(["a", "b"], timeout=0.05)


def test_a_bar_is_shown_on_a_wait(answering: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(runs_that_end({"a": 1, "b": 2}, {"a": "finished", "b": "stopped"})) as orc:
        assert [run["status"] for run in wait_for(orc, ["a", "b"], show=True)] == ["finished", "stopped"]
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (404, {"detail": "There is no run 'x'."}, "There is no run 'x'."),
        (422, {"detail": [{"loc": ["body", "a", "b"], "msg": "no", "choices": [1, 2]}]}, "a.b: no Valid: 1, 2"),
        (
            422,
            {"detail": [{"loc": ["query", "a"], "msg": "Input should be 'b'", "choices": ["b"]}]},
            "a: Input should be 'b'",
        ),
        (409, {"detail": "Mend them.", "problems": [{"line": 3, "message": "bad"}]}, "Mend them.\nline 3: bad"),
        (500, {"other": 1}, "{'other': 1}"),
    ],
)
def test_an_error_says_what_the_server_said(answering: Any, status: int, content: Any, words: str) -> None:
    with answering(lambda _: httpx2.Response(status, json=content)) as orc, pytest.raises(RequestFailed) as caught:
        orc.run("x")
    assert (caught.value.status, caught.value.message) == (status, words)


def test_an_answer_that_is_no_json_is_shown(answering: Any) -> None:
    with answering(lambda _: httpx2.Response(502, text="<html>gateway")) as orc, pytest.raises(RequestFailed) as caught:
        orc.run("x")
    assert caught.value.message == "HTTP 502: <html>gateway"


def test_a_server_that_goes_away_is_unreachable(answering: Any) -> None:
    def gone(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with answering(gone) as orc, pytest.raises(ServerUnreachable, match="refused"):
        orc.runs()


def test_a_change_that_was_sent_and_not_answered_may_have_been_made(answering: Any) -> None:
    def lost(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("nothing came")

    with answering(lost) as orc:
        with pytest.raises(AnswerLost, match="may have carried it out"):
            orc.create_run("x", "true")
        with pytest.raises(ServerUnreachable, match="does not answer") as caught:
            orc.runs()
    assert not isinstance(caught.value, AnswerLost)


def test_a_stream_that_is_refused_is_told(answering: Any) -> None:
    with answering(lambda _: httpx2.Response(404, json={"detail": "no"})) as orc, pytest.raises(RequestFailed):
        next(orc.stream("/runs/x/logs/stream"))


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8756", "http://example.org", "http://0.0.0.0:1", "http://2130706433"]
)
def test_the_token_goes_to_no_other_machine(tmp_path: Path, url: str) -> None:
    with pytest.raises(UntrustedServer, match="tunnel"):
        Client(tmp_path, url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"])
def test_nobody_listens(tmp_path: Path, url: str) -> None:
    with pytest.raises(ServerUnreachable, match="Nothing listens"):
        Client(tmp_path, url)


def test_a_server_on_another_machine_is_named(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(
        '{"host": "elsewhere", "pid": 1, "url": "http://127.0.0.1:1", "socket": "/x"}'
    )
    with pytest.raises(ServerUnreachable, match="elsewhere"):
        Client(tmp_path, start=False)


def test_without_a_server_and_without_leave_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="orc serve"):
        Client(tmp_path, start=False)


def test_no_server_is_started_from_inside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORC_RUN_ID", "x")
    with pytest.raises(ServerUnreachable, match="inside a run"):
        start_server(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_plan_refused_comes_with_what_would_allow_it(answering: Any) -> None:
    refusal = {"plan_id": "p", "diff": [{"field": "runs", "plan": 1, "asked": 2}], "amendment": {"budget": {"runs": 2}}}
    answer = httpx2.Response(403, json={"detail": "outside", **refusal})
    with answering(lambda _: answer) as orc, pytest.raises(RequestFailed) as caught:
        orc.create_run("x", "true")
    found = caught.value
    assert {"plan_id": found.plan_id, "diff": found.diff, "amendment": found.amendment} == refusal


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ORC_TOKEN_FILE", str(tmp_path / "missing"))
        with pytest.raises(Unauthorized, match="missing"):
            Client(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}")
