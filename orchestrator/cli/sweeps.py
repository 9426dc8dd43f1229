"""sweep."""

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import RUN_FAILED, JsonFlag, Rest, command_text, emit, say, usage
from orchestrator.cli.following import wait_for
from orchestrator.cli.terms import Terms, Workdir, with_terms
from orchestrator.cli.values import parse_parameter
from orchestrator.client import Client

app = typer.Typer()


@app.command()
@with_terms
def sweep(
    context: typer.Context,
    terms: Terms,
    parameters: Annotated[list[str], typer.Argument(help="lr=1e-3,1e-4 seed=0..4")],
    name: Annotated[str | None, typer.Option(help="A name (without: the command's beginning).")] = None,
    goal: Annotated[str | None, typer.Option(help="What it is to find out.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="At most so many at a time.")] = None,
    workdir: Workdir = None,
    plan: Annotated[str | None, typer.Option(help="The plan that it belongs to.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until all runs are over.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Starts one run per configuration:  orc sweep lr=1e-3,1e-4 seed=0..4 -- python train.py

    Values are added as options (--lr=0.001), or stand where the command has {lr}."""
    rest: Rest = context.obj
    if not rest.words:
        usage("no command: orc sweep lr=1e-3,1e-4 seed=0..4 -- python train.py")
    try:
        grid = dict(parse_parameter(parameter) for parameter in parameters)
    except ValueError as error:
        usage(str(error))
    text = command_text([], rest, places=grid)
    fields = terms.body()
    with Client() as orc:
        made = orc.create_sweep(
            name or text[:60],
            text,
            grid,
            workdir=str(workdir.absolute() if workdir else Path.cwd()),
            auto_start=True,
            goal=goal,
            parallel=parallel,
            plan_id=plan,
            **fields,
        )
        if not as_json:
            say(f"Sweep {made['id']} with {len(made['run_ids'])} run(s).  orc wait {made['id']}")
        if wait:
            over = wait_for(orc, made["run_ids"], show=not as_json and os.isatty(2))
            made = orc.sweep(made["id"])
    if as_json:
        emit(made)
    else:
        print(made["id"])
    if wait:
        raise SystemExit(0 if all(item["status"] == "finished" for item in over) else RUN_FAILED)
