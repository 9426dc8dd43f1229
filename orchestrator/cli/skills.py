"""skill list, show, render, install."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator import home as home_files
from orchestrator.cli.common import JsonFlag, emit, say, table, usage
from orchestrator.client import Client
from orchestrator.guidance import skills

app = typer.Typer(help="Briefs for agents: how to plan and how to watch experiments here.", no_args_is_help=True)
AGENTS = Path.home() / ".claude" / "skills"


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """Lists the briefs that there are."""
    found = [{"name": skill.name, "description": skill.description} for skill in skills.everything()]
    if as_json:
        emit(found)
        return
    table(("SKILL", "FOR"), ((skill["name"], skill["description"]) for skill in found))


@app.command()
def show(name: str) -> None:
    """Shows a brief with its variables as they are written."""
    print(skills.get(name).text)


@app.command()
def render(
    name: str, goal: Annotated[str, typer.Option(help="What the agent is asked for.")] = "", as_json: JsonFlag = False
) -> None:
    """Prints a brief with the goal and the state of things filled in: what an agent begins with."""
    with Client() as orc:
        found = orc.request("POST", f"/skills/{name}/render", {"goal": goal})
    if as_json:
        emit(found)
        return
    print(found["text"])


@app.command()
def install(
    token: Annotated[str, typer.Option("--for", help="The name of the agent's token (orc token create NAME).")],
    names: Annotated[list[str] | None, typer.Argument(help="Which; without: all.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="The agent's folder of skills.")] = AGENTS,
) -> None:
    """Writes the briefs as SKILL.md into an agent's folder, in place of what an earlier version wrote. They name the
    agent's own token: with yours it could approve what it planned."""
    wanted = [skills.get(name) for name in names] if names else skills.everything()
    file, header = home_files.token_files(home_files.default_home(), token)
    if not header.is_file():
        usage(f"there is no {header}: `orc token create {token} --scope plan --scope run --require-plan` makes it")
    for skill in wanted:
        path = folder.expanduser() / f"orc-{skill.name}" / "SKILL.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(skill.file(skills.unfilled(skill, file, header)))
        say(f"{skill.name}: {path}")
