"""alerts, alert respond."""

from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, ago, emit, say, table
from orchestrator.client import Client
from orchestrator.plaintext import clean

app = typer.Typer()
one = typer.Typer(help="One alert.", no_args_is_help=True)
SHOWN = 200


@app.command()
def alerts(
    all_: Annotated[bool, typer.Option("--all", help="Those that are answered or over, too.")] = False,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    plan: Annotated[str | None, typer.Option(help="Only of this plan.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only by this rule.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 30,
    as_json: JsonFlag = False,
) -> None:
    """Lists what wants a choice, newest first."""
    with Client() as orc:
        status = None if all_ else "pending"
        found = orc.alerts(status=status, run_id=run, plan_id=plan, rule=rule, limit=limit)
    if as_json:
        emit(found)
        return
    columns = ("ALERT", "SEVERITY", "SINCE", "RUN", "MESSAGE", "CHOICES" if not all_ else "CHOICES OR ANSWER")
    table(columns, (_row(item) for item in found))


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    """Messages are anybody's text: no control characters on the terminal."""
    over = item["response"] or "over"
    last = ", ".join(item["choices"]) if item["status"] == "pending" else over
    message = clean(item["message"], SHOWN)
    return item["id"], item["severity"], ago(item["timestamp"]), item["run_id"], message, clean(last)


@one.command()
def respond(alert_id: str, choice: str, as_json: JsonFlag = False) -> None:
    """Answers an alert with one of its choices, which is carried out."""
    with Client() as orc:
        found = orc.respond(alert_id, choice)
    if as_json:
        emit(found)
        return
    outcome = found["outcome"] or {}
    say(f"Alert {alert_id}: {choice}.")
    for stopped in outcome.get("stopped", []):
        say(f"Run {stopped} is being stopped.")
    for new in outcome.get("run_ids") or [run_id for run_id in [outcome.get("run_id")] if run_id]:
        print(new)
