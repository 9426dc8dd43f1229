"""Who may ask, under which name, how much at once; and what every answer carries."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin

import httpx2
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from orchestrator.settings import Settings
from tests.support.service import InProcess, in_process

MIB = 2**20
OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")
PATHS = create_app(Settings(home=Path("/nowhere"))).openapi()["paths"]
ROUTES = [(method.upper(), path) for path, item in PATHS.items() for method in item if path not in OPEN]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service for all: nothing here changes it."""
    with in_process(tmp_path_factory.mktemp("auth") / "home") as found:
        yield found


def token_of(service: InProcess) -> str:
    return (service.settings.home / "token").read_text().strip()


def bare(
    service: InProcess, method: str, path: str, headers: dict[str, str] | None = None, content: bytes | None = None
) -> httpx2.Response:
    """A request without the fixture's own token."""
    request = service.http.build_request(method, path, headers=headers, content=content)
    if "X-Auth-Token" not in (headers or {}):
        del request.headers["X-Auth-Token"]
    return service.http.send(request)


def check_guarded(answer: httpx2.Response) -> None:
    """The headers of every answer."""
    policy = answer.headers["Content-Security-Policy"]
    directives = [part.strip() for part in policy.split(";")]
    assert "default-src 'self'" in directives, policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_the_schema_lists_the_routes_of_the_wire() -> None:
    assert {("POST", "/runs"), ("GET", "/events"), ("POST", "/plans/{plan_id}/approve")} <= set(ROUTES)
    assert len(ROUTES) >= 45


@pytest.mark.parametrize("token", [None, "wrong", ""])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_refuses_who_has_no_token(shared: InProcess, method: str, path: str, token: str | None) -> None:
    headers = {} if token is None else {"X-Auth-Token": token}
    answer = bare(shared, method, path, headers)
    assert answer.status_code == 401, answer.text
    assert "token" in answer.json()["detail"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    check_guarded(answer)


@pytest.mark.parametrize("path", OPEN)
def test_the_open_pages_need_no_token(shared: InProcess, path: str) -> None:
    assert bare(shared, "GET", path).status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("X-Auth-Token", "{token}", 200),
        ("Authorization", "Bearer {token}", 200),
        ("Authorization", "bearer {token}", 200),
        ("Authorization", "Bearer wrong", 401),
        ("Authorization", "Bearer ", 401),
        ("Authorization", "{token}", 401),
        ("Authorization", "Basic {token}", 401),
        ("X-Auth-Token", "{token}x", 401),
        ("X-Auth-Token", "Bearer {token}", 401),
    ],
)
def test_a_token_comes_in_either_header(shared: InProcess, name: str, value: str, status: int) -> None:
    answer = bare(shared, "GET", "/runs", {name: value.format(token=token_of(shared))})
    assert answer.status_code == status
    assert token_of(shared) not in answer.text


def test_a_token_of_strange_bytes_is_refused(shared: InProcess) -> None:
    request = shared.http.build_request("GET", "/runs", headers=[(b"X-Auth-Token", b"\xff\xfe\xe9")])
    assert shared.http.send(request).status_code == 401


def test_a_token_in_the_address_is_no_token(shared: InProcess) -> None:
    assert bare(shared, "GET", f"/runs?token={token_of(shared)}&x-auth-token={token_of(shared)}").status_code == 401


# FastAPI by itself parses the body before its dependencies run.
def test_who_has_no_token_is_told_nothing_about_the_body(shared: InProcess) -> None:
    answer = bare(shared, "POST", "/runs", {"Content-Type": "application/json"}, content=b"{ not json")
    assert answer.status_code == 401


# -- host names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8756", "LocalHost", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8756"],
)
def test_its_own_names_are_answered(shared: InProcess, host: str) -> None:
    assert shared.http.get("/runs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/runs", "/healthz", "/docs", "/docs/swagger-ui.css", "/openapi.json"])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8756", "127.0.0.2", "[::2]:8756", ""])
def test_another_host_name_is_refused(shared: InProcess, host: str, path: str) -> None:
    answer = shared.http.get(path, headers={"Host": host})
    assert answer.status_code in {400, 403, 421}
    assert "allowed_hosts" in answer.json()["detail"]


def test_the_operator_allows_host_names(tmp_path: Path) -> None:
    with in_process(tmp_path / "home", allowed_hosts=["GPU7.example"]) as service:
        assert service.http.get("/runs", headers={"Host": "gpu7.example:8756"}).status_code == 200
        assert service.http.get("/runs", headers={"Host": "localhost"}).status_code != 200


# -- headers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/runs", 200),
        ("GET", "/cluster", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/docs", 200),
        ("GET", "/docs/swagger-ui-bundle.js", 200),
        ("GET", "/docs/nothing.js", 404),
        ("GET", "/openapi.json", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/runs/nope", 404),
        ("DELETE", "/runs", 405),
        ("POST", "/runs", 422),
    ],
)
def test_every_answer_carries_the_policy(shared: InProcess, method: str, path: str, status: int) -> None:
    answer = shared.http.request(method, path)
    assert answer.status_code == status
    check_guarded(answer)


@pytest.mark.parametrize("refusal", ["host", "length"])
def test_refusals_at_the_door_carry_the_policy(shared: InProcess, refusal: str) -> None:
    headers = {"Host": "evil.example"} if refusal == "host" else {"Content-Length": str(17 * MIB)}
    answer = shared.http.post("/runs", headers=headers, content=b"")
    assert answer.status_code == (421 if refusal == "host" else 413)
    check_guarded(answer)


# Starlette's ServerErrorMiddleware stands outside of every middleware of the application's own.
def test_a_defect_carries_the_policy_and_no_inner_words(shared: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> NoReturn:
        raise RuntimeError("secret inner words")

    monkeypatch.setattr(shared.system.cluster, "public", broken)
    assert isinstance(shared.http, TestClient)
    client = TestClient(shared.http.app, base_url="http://localhost", raise_server_exceptions=False)
    answer = client.get("/cluster", headers={"X-Auth-Token": token_of(shared)})
    assert answer.status_code == 500
    assert "secret inner words" not in answer.text
    assert answer.json()["detail"]
    check_guarded(answer)


@pytest.mark.parametrize("path", ["/runs", "/healthz", "/docs", "/openapi.json"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_other_origins_are_told_nothing(shared: InProcess, method: str, path: str) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = shared.http.request(method, path, headers=headers)
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


# -- the documentation page --------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page refers to, and what it has inside that the policy would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in in {"script", "style"} and data.strip():
            self.inline.append(data)


def test_the_documentation_works_offline_under_its_policy(shared: InProcess) -> None:
    text = bare(shared, "GET", "/docs").text
    page = Page()
    page.feed(text)
    assert page.inline == []
    assert "//" not in text.replace("<!doctype html>", "")
    assert any(link.endswith(".js") for link in page.links)
    assert any(link.endswith(".css") for link in page.links)
    for link in page.links:
        asset = bare(shared, "GET", urljoin("/docs", link))
        assert asset.status_code == 200, link
        check_guarded(asset)
        expected = {"js": "javascript", "css": "css", "png": "image/png"}[link.rsplit(".", 1)[1]]
        assert expected in asset.headers["Content-Type"]
    start = bare(shared, "GET", "/docs/start.js").text
    assert "openapi.json" in start
    assert "://" not in start


@pytest.mark.parametrize("name", ["..%2f..%2fapp.py", "../app.py", "%2e%2e%2fapp.py", "swagger-ui-bundle.js.map"])
def test_the_documentation_serves_its_own_files_alone(shared: InProcess, name: str) -> None:
    assert bare(shared, "GET", f"/docs/{name}").status_code in {401, 404}  # 401: out of /docs a token is needed


# -- sizes -------------------------------------------------------------------------------------------------------------

RUN = b'{"name": "long", "command": "true", "dry_run": true}'


def test_a_body_of_the_limit_is_taken(shared: InProcess) -> None:
    answer = shared.http.post("/runs", content=RUN.ljust(16 * MIB), headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text[:500]


def test_a_longer_body_is_refused_by_its_length(shared: InProcess) -> None:
    answer = shared.http.post("/runs", content=RUN.ljust(16 * MIB + 1), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert str(16 * MIB) in answer.json()["detail"]


# What is raised while FastAPI reads a body becomes "400 There was an error parsing the body", unless it is told better.
def test_a_longer_body_is_refused_in_chunks_too(shared: InProcess) -> None:
    def chunks() -> Iterator[bytes]:
        yield RUN
        for _ in range(17):
            yield b" " * MIB

    answer = shared.http.post("/runs", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.request.headers["Transfer-Encoding"] == "chunked"
    assert answer.status_code == 413
    assert str(16 * MIB) in answer.json()["detail"]
