"""hold, release, requeue, priority: of runs, or of all runs of a sweep."""

from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, emit, say
from orchestrator.client import Client, RequestFailed

app = typer.Typer()
Items = Annotated[list[str], typer.Argument(help="Runs or sweeps.")]


@app.command()
def hold(items: Items, as_json: JsonFlag = False) -> None:
    """Keeps runs from starting, in Slurm's queue too, until they are released."""
    _each(items, "hold", as_json=as_json)


@app.command()
def release(items: Items, as_json: JsonFlag = False) -> None:
    """Lets held runs start."""
    _each(items, "release", as_json=as_json)


@app.command()
def requeue(items: Items, as_json: JsonFlag = False) -> None:
    """Begins running runs again, each as its next attempt."""
    _each(items, "requeue", as_json=as_json)


@app.command()
def priority(
    items: Items,
    value: Annotated[int, typer.Option("--to", help="Higher goes first; below zero is niceness in Slurm.")],
    as_json: JsonFlag = False,
) -> None:
    """Changes the priority of runs that wait."""
    _each(items, "priority", {"priority": value}, as_json=as_json)


def _each(items: list[str], action: str, body: dict[str, Any] | None = None, *, as_json: bool) -> None:
    answers = []
    with Client() as orc:
        for item in items:
            answers.append(_act(orc, item, action, body))
            if not as_json:
                say(f"{item}: {answers[-1]['message']}")
    if as_json:
        emit(answers)


def _act(orc: Client, item: str, action: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """The run's endpoint, or the sweep's of that id."""
    try:
        return orc.act(item, action, body)
    except RequestFailed as error:
        if error.status != 404:
            raise
        return dict(orc.request("POST", f"/sweeps/{item}/{action}", body))
