"""The entry: splits off what follows ``--``, and turns errors into words and exit codes."""

import sys
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.cli import (
    alerts,
    emulate,
    gpu,
    insight,
    mcp,
    plans,
    runs,
    service,
    skills,
    steering,
    sweeps,
    tokens,
)
from orchestrator.cli.common import Rest, fail
from orchestrator.errors import OrcError

app = typer.Typer(
    name="orc",
    help="Turns a research plan into tracked runs: on a Slurm cluster, a shared GPU workstation, a laptop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (service, runs, sweeps, steering, insight, alerts, mcp):
    app.registered_commands += module.app.registered_commands
app.command("emulate-slurm")(emulate.emulate_slurm)
app.add_typer(plans.app, name="plan")
app.add_typer(alerts.one, name="alert")
app.add_typer(gpu.app, name="gpu")
app.add_typer(tokens.app, name="token")
app.add_typer(skills.app, name="skill")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"orc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and do no more.")
    ] = False,
) -> None: ...


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 the run failed, 2 bad usage, 3 no server, 4 not allowed."""
    words = sys.argv[1:] if argv is None else argv
    head, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, None)
    try:
        app(args=head, obj=Rest(rest), prog_name="orc")
    except OrcError as error:
        fail(error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing more to say
        raise SystemExit(1) from None
