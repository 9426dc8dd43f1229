"""token create, list, rotate, revoke, self."""

import re
import time
from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, ago, emit, say, table, until, usage
from orchestrator.client import Client

app = typer.Typer(help="Tokens: who may do what, and until when.", no_args_is_help=True)
UNITS = {"m": 60, "h": 3600, "d": 86_400}
Expires = Annotated[str | None, typer.Option(help="In how long it ends: 90m, 12h, 30d. Without: never.")]

Renewed = Annotated[
    str | None, typer.Option("--expires", help="In how long it ends: 90m, 12h, 30d. Without: as before.")
]


@app.command()
def create(
    name: str,
    scope: Annotated[list[str], typer.Option(help="read, plan, run, approve or admin; more than once.")] = ["read"],  # noqa: B006  (typer's way)
    require_plan: Annotated[bool, typer.Option("--require-plan", help="Its runs need an approved plan.")] = False,
    expires: Expires = None,
    as_json: JsonFlag = False,
) -> None:
    """Makes a token, in a file of its own."""
    body = {"name": name, "scopes": scope, "require_plan": require_plan, "expires_at": _moment(expires)}
    with Client() as orc:
        _tell(orc.request("POST", "/tokens", body), as_json=as_json)


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """Lists all tokens but the first admin's."""
    with Client() as orc:
        found = orc.request("GET", "/tokens")
    if as_json:
        emit(found)
        return
    rows = (
        (token["name"], ", ".join(token["scopes"]), "yes" if token["require_plan"] else "", _state(token))
        for token in found
    )
    table(("TOKEN", "SCOPES", "NEEDS A PLAN", "STATE"), rows)


@app.command()
def rotate(name: str, expires: Renewed = None, as_json: JsonFlag = False) -> None:
    """Makes a new secret in place of the old one; "admin" is the first token."""
    with Client() as orc:
        _tell(orc.request("POST", f"/tokens/{name}/rotate", {"expires_at": _moment(expires)}), as_json=as_json)


@app.command()
def revoke(name: str, as_json: JsonFlag = False) -> None:
    """Ends a token; what it started goes on."""
    with Client() as orc:
        found = orc.request("DELETE", f"/tokens/{name}")
    if as_json:
        emit(found)
    else:
        say(f"The token {name} is revoked.")


@app.command("self")
def self_() -> None:
    """Shows what your own token may."""
    with Client() as orc:
        emit(orc.request("GET", "/tokens/self"))


def _tell(token: dict[str, Any], *, as_json: bool) -> None:
    """Where it lies. The secret itself is printed only as JSON, for programs."""
    if as_json:
        emit(token)
        return
    say(f"The token {token['name']} ({', '.join(token['scopes'])}) is in")
    print(token["file"])
    if "header_file" in token:
        say(f"and for curl, as -H @{token['header_file']}; for orc: ORC_TOKEN_FILE={token['file']}")


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        usage(f"--expires is a number and m, h or d (90m, 12h, 30d), not {text!r}")
    return time.time() + int(match[1]) * UNITS[match[2]]


def _state(token: dict[str, Any]) -> str:
    if token["revoked_at"] is not None:
        return f"revoked {ago(token['revoked_at'])}"
    ends = token["expires_at"]
    if ends is None:
        return "valid"
    return f"expired {ago(ends)}" if ends < time.time() else f"ends {until(ends)}"
