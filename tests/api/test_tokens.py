"""Tokens: what each may, how long, what is kept of them. Every operation of the schema is tried with every scope."""

import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlmodel import Session, select

from api.app import create_app
from orchestrator.access import SCOPES
from orchestrator.models import Token
from orchestrator.settings import Settings
from tests.support.service import InProcess, Json, in_process

OPEN = {"/healthz", "/readyz"}
PATHS: dict[str, Any] = create_app(Settings(home=Path("/nowhere"))).openapi()["paths"]
OPERATIONS = [
    (method.upper(), path, operation["x-scope"])
    for path, item in PATHS.items()
    for method, operation in item.items()
    if path not in OPEN
]
# A stream does not end, and what others here rely on must stay as it is.
NOT_DONE = {"/events", "/runs/{run_id}/logs/stream", "/tokens/{name}/rotate", "/cluster/detect"}


def allowed(needed: str, scope: str) -> bool:
    return needed == "read" or scope in {needed, "admin"}


TRIED = [
    pytest.param(*operation, scope, id=f"{operation[0]} {operation[1]} {scope}")
    for operation in OPERATIONS
    for scope in SCOPES
    if not (allowed(operation[2], scope) and operation[1] in NOT_DONE)
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service for all."""
    with in_process(tmp_path_factory.mktemp("tokens") / "home") as found:
        yield found


@pytest.fixture(scope="module")
def secrets(shared: InProcess) -> dict[str, str]:
    """A token for each scope, with that one alone."""
    made = {scope: shared.post("/tokens", {"name": f"only-{scope}", "scopes": [scope]}) for scope in SCOPES}
    return {scope: token["token"] for scope, token in made.items()}


def ask(service: InProcess, secret: str, method: str, path: str, body: Any = None) -> httpx2.Response:
    return service.http.request(method, path, json=body, headers={"X-Auth-Token": secret})


@pytest.mark.parametrize(("method", "path", "needed", "scope"), TRIED)
def test_each_operation_takes_its_scope_and_no_other(
    shared: InProcess, secrets: dict[str, str], method: str, path: str, needed: str, scope: str
) -> None:
    filled = re.sub(r"\{[^}]*\}", "nobody", path)
    answer = ask(shared, secrets[scope], method, filled)
    if allowed(needed, scope):
        assert answer.status_code not in {401, 403}, answer.text
    else:
        assert answer.status_code == 403, answer.text
        assert f"needs the scope '{needed}'" in answer.json()["detail"]


def test_what_changes_something_needs_more_than_to_read() -> None:
    asks = {"POST /runs/wait", "POST /skills/{name}/render"}  # with a body, and change nothing
    for method, path, needed in OPERATIONS:
        assert (needed == "read") <= (method == "GET" or f"{method} {path}" in asks)


def test_approval_is_a_scope_of_its_own() -> None:
    needed = {f"{method} {path}": scope for method, path, scope in OPERATIONS}
    assert needed["POST /plans/{plan_id}/approve"] == "approve"
    assert needed["POST /plans"] == "plan"
    assert needed["POST /plans/{plan_id}/execute"] == needed["POST /runs"] == "run"
    assert needed["GET /tokens"] == needed["POST /cluster"] == "admin"


def made(service: InProcess, name: str, **fields: Any) -> Json:
    return dict(service.post("/tokens", {"name": name, "scopes": ["plan", "run"], **fields}))


def test_a_token_tells_what_it_may(service: InProcess) -> None:
    token = made(service, "agent", require_plan=True)
    told = ask(service, token["token"], "GET", "/tokens/self").json()
    assert told == {"name": "agent", "scopes": ["plan", "read", "run"], "require_plan": True, "expires_at": None}
    assert service.get("/tokens/self")["scopes"] == ["admin", "read"]


def test_what_it_does_is_told_by_its_name(service: InProcess) -> None:
    token = made(service, "agent")
    run = ask(service, token["token"], "POST", "/runs", {"name": "x", "command": "true"}).json()
    assert run["created_by"] == "token:agent"
    assert service.events(run["id"])[0]["actor"] == "token:agent"


def test_its_secret_is_in_files_of_its_own_and_nowhere_else(service: InProcess) -> None:
    token = made(service, "agent")
    secret, home = token["token"], service.settings.home
    assert Path(token["file"]).read_text() == f"{secret}\n"
    assert Path(token["header_file"]).read_text() == f"X-Auth-Token: {secret}\n"
    for name in ("file", "header_file"):
        assert stat.S_IMODE(Path(token[name]).stat().st_mode) == 0o600
    with sqlite3.connect(home / "orc.db") as database:
        assert not [line for line in database.iterdump() if secret in line]
    assert secret not in service.http.get("/tokens").text
    assert secret not in service.http.get("/events/latest").text


def test_an_expired_token_is_worth_nothing(service: InProcess) -> None:
    token = made(service, "agent", expires_at=time.time() + 3600)
    assert ask(service, token["token"], "GET", "/runs").status_code == 200

    def ended(session: Session) -> None:
        session.exec(select(Token)).one().expires_at = time.time() - 1

    service.system.db.write(ended)
    service.system.access.reload()
    answer = ask(service, token["token"], "GET", "/runs")
    assert answer.status_code == 401
    assert "has expired" in answer.json()["detail"]


def test_an_end_in_the_past_is_refused(service: InProcess) -> None:
    status, detail = service.refused("POST", "/tokens", {"name": "late", "expires_at": time.time() - 5})
    assert status == 422
    assert detail[0]["loc"] == ["body", "expires_at"]


def test_a_revoked_token_is_worth_nothing_and_its_files_are_gone(service: InProcess) -> None:
    token = made(service, "agent")
    service.http.delete("/tokens/agent").raise_for_status()
    assert ask(service, token["token"], "GET", "/runs").status_code == 401
    assert not Path(token["file"]).exists()
    assert not Path(token["header_file"]).exists()
    assert service.get("/tokens")[0]["revoked_at"] is not None
    assert service.refused("POST", "/tokens/agent/rotate")[0] == 409


def test_a_name_is_never_taken_again(service: InProcess) -> None:
    made(service, "agent")
    service.http.delete("/tokens/agent").raise_for_status()
    assert service.refused("POST", "/tokens", {"name": "agent"})[0] == 409
    assert service.refused("POST", "/tokens", {"name": "admin"})[0] == 409


def test_a_rotated_token_is_another_under_the_same_name(service: InProcess) -> None:
    old = made(service, "agent", expires_at=time.time() + 3600)
    new = service.post("/tokens/agent/rotate")
    assert ask(service, old["token"], "GET", "/runs").status_code == 401
    assert ask(service, new["token"], "GET", "/runs").status_code == 200
    assert new["expires_at"] == old["expires_at"]
    assert Path(new["file"]).read_text().strip() == new["token"]


def test_the_first_token_can_be_rotated(service: InProcess) -> None:
    home, old = service.settings.home, service.http.headers["X-Auth-Token"]
    new = service.post("/tokens/admin/rotate")
    assert ask(service, old, "GET", "/runs").status_code == 401
    assert ask(service, new["token"], "GET", "/tokens").status_code == 200
    assert (home / "token").read_text().strip() == new["token"]
    assert (home / "header").read_text() == f"X-Auth-Token: {new['token']}\n"


def test_tokens_outlive_the_server(tmp_path: Path) -> None:
    with in_process(tmp_path / "home") as first:
        token = made(first, "agent")
    with in_process(tmp_path / "home") as second:
        assert ask(second, token["token"], "GET", "/tokens/self").json()["name"] == "agent"


@pytest.mark.parametrize("name", ["", "Agent", "../x", "a b", "a/b", "-x", "x.header", "x" * 65])
def test_a_name_is_one_that_a_file_can_have(service: InProcess, name: str) -> None:
    assert service.refused("POST", "/tokens", {"name": name})[0] == 422
    assert service.http.post(f"/tokens/{name or '%20'}/rotate").status_code in {404, 405}


def test_an_unknown_scope_is_refused_with_the_choices(service: InProcess) -> None:
    status, detail = service.refused("POST", "/tokens", {"name": "agent", "scopes": ["root"]})
    assert status == 422
    assert detail[0]["choices"] == list(SCOPES)


def test_only_an_administrator_says_where_runs_go(service: InProcess) -> None:
    token = made(service, "agent")
    assert ask(service, token["token"], "POST", "/cluster/detect").status_code == 200
    wish = {"preferred_type": "cpu_only"}
    assert ask(service, token["token"], "POST", "/cluster/detect", wish).status_code == 403
