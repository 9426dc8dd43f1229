"""plan save, list, show, approve, execute."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, ago, emit, say, table, usage
from orchestrator.client import Client

app = typer.Typer(help="Plans: written, approved, executed.", no_args_is_help=True)


@app.command()
def save(
    file: Annotated[Path, typer.Argument(help="The plan's markdown.", exists=True, dir_okay=False)],
    title: Annotated[str | None, typer.Option(help="Without: the markdown's own.")] = None,
    goal: Annotated[str | None, typer.Option(help="Without: the Objective section.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Saves a plan as a draft."""
    text = file.read_text()
    title = title or _match(r"^## 📋 Plan: (.+)$", text)
    goal = goal or _match(r"^### Objective\s*\n(.+?)(?=^###|\Z)", text)
    if not title or goal is None:
        usage(f'{file} has no "## 📋 Plan: <title>" or no "### Objective": give --title and --goal')
    with Client() as orc:
        _tell(orc.save_plan(title, goal, text), as_json=as_json)


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE | re.DOTALL if "Objective" in pattern else re.MULTILINE)
    return found[1].strip() if found else None


def _tell(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit(plan)
        return
    say(f"Plan {plan['id']} is {plan['status']}: {plan['title']}")
    for problem in plan["problems"]:
        say(f"  line {problem['line']}: {problem['message']}")
    print(plan["id"])


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 30,
    as_json: JsonFlag = False,
) -> None:
    """Lists plans, newest first."""
    with Client() as orc:
        found = orc.plans(status=status, limit=limit)
    if as_json:
        emit(found)
        return
    rows = ((p["id"], p["status"], p["title"], len(p["problems"]) or None, ago(p["updated_at"])) for p in found)
    table(("PLAN", "STATUS", "TITLE", "PROBLEMS", "UPDATED"), rows)


@app.command()
def show(plan_id: str, as_json: JsonFlag = False) -> None:
    """Shows a plan's text."""
    with Client() as orc:
        found = orc.plan(plan_id)
    if as_json:
        emit(found)
        return
    say(f"Plan {found['id']} is {found['status']}: {found['title']}")
    print(found["raw_markdown"])
    for problem in found["problems"]:
        say(f"line {problem['line']}: {problem['message']}")


@app.command()
def approve(
    plan_id: str,
    force: Annotated[bool, typer.Option("--force", help="Although its markdown has problems.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Approves a draft."""
    with Client() as orc:
        _tell(orc.advance_plan(plan_id, "approve", {"force": force}), as_json=as_json)


@app.command()
def execute(plan_id: str, as_json: JsonFlag = False) -> None:
    """Marks an approved plan as executing."""
    with Client() as orc:
        _tell(orc.advance_plan(plan_id, "execute"), as_json=as_json)


@app.command()
def complete(plan_id: str, as_json: JsonFlag = False) -> None:
    """Marks an executing plan as completed."""
    with Client() as orc:
        _tell(orc.advance_plan(plan_id, "complete"), as_json=as_json)
