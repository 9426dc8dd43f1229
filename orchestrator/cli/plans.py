"""plan check, save, list, show, approve, amend, execute, complete, archive, report."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, Rest, ago, command_text, emit, say, table, usage, visible
from orchestrator.client import Client

app = typer.Typer(help="Plans: written, approved, executed.", no_args_is_help=True)
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def save(
    file: Annotated[Path, typer.Argument(help="The plan's markdown.", exists=True, dir_okay=False)],
    title: Annotated[str | None, typer.Option(help="Without: the markdown's own.")] = None,
    goal: Annotated[str | None, typer.Option(help="Without: the Objective section.")] = None,
    plan: Annotated[str | None, typer.Option(help="Replace this one's text; it becomes a draft again.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Saves a plan as a draft."""
    text = file.read_text()
    if plan is not None and goal is not None:
        usage("a plan's goal stays what it was: leave out --goal, or save a new plan")
    with Client() as orc:
        if plan is None:
            _tell(orc.save_plan(text, title=title, goal=goal), as_json=as_json)
        else:
            fields = {"raw_markdown": text} | ({"title": title} if title is not None else {})
            _tell(orc.request("PATCH", f"/plans/{plan}", fields), as_json=as_json)


def _tell(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit(plan)
        return
    say(f"Plan {plan['id']} is {plan['status']}: {visible(plan['title'])}")
    _problems(plan)
    if plan.get("overlap"):
        _repeats(plan["overlap"])
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
    say(f"Plan {found['id']} is {found['status']}: {visible(found['title'])}")
    print(visible(found["raw_markdown"]))
    _problems(found)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The plan's markdown.", exists=True, dir_okay=False)],
    as_json: JsonFlag = False,
) -> None:
    """Says what is wrong in a plan, and what it repeats, without saving it; exits with 1 where there are problems."""
    with Client() as orc:
        found = orc.request("POST", "/plans/check", {"raw_markdown": file.read_text()})
    if as_json:
        emit(found)
    else:
        _problems(found)
        _repeats(found["overlap"])
        say("" if found["problems"] else "It has the required structure.")
    raise SystemExit(1 if found["problems"] else 0)


def _problems(plan: dict[str, Any]) -> None:
    for problem in plan["problems"]:
        where = f"line {problem['line']}: " if problem["line"] else ""
        say(f"  {where}{visible(problem['message'])}")


def _repeats(overlap: dict[str, Any]) -> None:
    for plan in overlap["plans"]:
        say(f"  like plan {plan['id']} ({plan['status']}, {plan['title']}): {plan['words']}")
    if overlap["runs"]["finished"]:
        say(f"  {overlap['runs']['finished']} run(s) of these commands have finished already.")


@app.command()
def approve(
    plan_id: str,
    force: Annotated[bool, typer.Option("--force", help="Although its markdown has problems.")] = False,
    gpu_hours: Annotated[float | None, typer.Option(min=0, help="Of all runs together; before the plan's own.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="How many it may make; before the plan's own.")] = None,
    wall_time: Annotated[str | None, typer.Option(help='From its execution on ("2-00:00:00").')] = None,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Shows a draft and approves it as it was shown."""
    given = {"gpu_hours": gpu_hours, "runs": runs, "wall_time": wall_time}
    budget = {name: value for name, value in given.items() if value is not None}
    asked = {"force": force, "budget": budget or None}
    with Client() as orc:
        seen = orc.plan(plan_id)
        would = orc.advance_plan(plan_id, "approve", {**asked, "dry_run": True})
        say(visible(seen["raw_markdown"]))
        if would["bounds"] is not None:
            say("What it allows, once approved:")
            _allows(would["bounds"])
        _problems(would)
        _approvable(would, force=force)
        _sure(f"Approve plan {plan_id} ({seen['title']})?", yes=yes)
        body = {**asked, "approved_hash": would["approved_hash"]}
        _tell(orc.advance_plan(plan_id, "approve", body), as_json=as_json)


def _allows(bounds: dict[str, Any]) -> None:
    """A line for each thing that binds."""
    for text in [*bounds["commands"], *bounds["exact"]]:
        say(f"  command: {_shown(text)}")
    for name, values in bounds["grid"].items():
        unused = "" if any(f"{{{name}}}" in text for text in bounds["commands"]) else "   (in no command)"
        say(f"  {{{visible(name)}}}: {', '.join(map(_shown, values))}{unused}")
    for name, value in bounds["terms"].items():
        say(f"  {visible(name)}: {_shown(value)}")
    budget = {name: value for name, value in bounds["budget"].items() if value is not None}
    for name, value in budget.items():
        say(f"  budget.{name}: {value:g}")
    if "runs" not in budget:
        say(f"  runs: {bounds['runs']} at most for who needs a plan")
    if not bounds["commands"]:
        say("  It names no command: who needs a plan can run nothing under it until one is allowed.")


def _shown(value: Any) -> str:
    """A value for people: nothing in it can move a terminal's cursor or the direction of text."""
    return json.dumps(value, ensure_ascii=True)


def _approvable(would: dict[str, Any], *, force: bool) -> None:
    """Ends here with what keeps it from being approved."""
    if would["bounds"] is None:
        usage("it cannot run here as it is: mend the plan, or the machine")
    if would["problems"] and not force:
        usage(f"it has {len(would['problems'])} problem(s): mend them, or approve it all the same with --force")


def _sure(question: str, *, yes: bool) -> None:
    """Asks; where nobody can be asked, it must have been said."""
    if yes:
        return
    if not sys.stdin.isatty():
        usage(f"{visible(question)} There is nobody here to ask: say --yes, once it has been read")
    typer.confirm(visible(question), abort=True)


@app.command()
def amend(
    plan_id: str,
    file: Annotated[
        Path | None,
        typer.Option(help="An amendment (JSON); without: what was refused last.", exists=True, dir_okay=False),
    ] = None,
    refusal: Annotated[int | None, typer.Option(help="The refusal that is meant.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it stays with the plan.")] = "",
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Allows under an approved plan what was refused last, or what a file says."""
    with Client() as orc:
        body: dict[str, Any] = _written(file) if file is not None else _refused(orc, plan_id, refusal, yes=yes)
        would = orc.advance_plan(plan_id, "amendments", {**body, "dry_run": True})
        say("What changes:")
        for item in would["changes"]:
            before, after = (_shown(item[part]) for part in ("plan", "asked"))
            say(f"  {visible(item['field'])}: {after} {_before(item, before)}")
        _sure(f"Allow this under plan {plan_id}?", yes=yes)
        body |= {"reason": reason, "approved_hash": would["approved_hash"], "dry_run": False}
        amended = orc.advance_plan(plan_id, "amendments", body)
        _tell(amended, as_json=as_json)
        if amended["status"] == "completed":
            say("It is completed: this is for reruns of its runs that failed; for anything else it takes another plan.")


def _before(item: dict[str, Any], before: str) -> str:
    """What it was: of a budget, which becomes another, and of what gets more."""
    if not item["field"].startswith("budget."):
        return f"as well as {before}" if item["plan"] is not None else "as well"
    if item["plan"] is None:
        return "(there was no limit)"
    return f"(LESS than before: {before})" if item["asked"] < item["plan"] else f"(before: {before})"


def _written(file: Path) -> dict[str, Any]:
    """An amendment that somebody has written."""
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        usage(f"{file} is not JSON: {error}")
    if not isinstance(found, dict):
        usage(f'{file} is no amendment: an object like {{"budget": {{"runs": 12}}}}')
    return found


def _refused(orc: Client, plan_id: str, refusal: int | None, *, yes: bool) -> Any:
    """What would allow what was refused: shown with who asked for it. Without a question it must be named, for another
    may have asked meanwhile."""
    only = {} if refusal is None else {"refusal": refusal}
    found = orc.request("GET", f"/plans/{plan_id}/amendments", params=only)["refusals"]
    if refusal is not None and not found:
        usage(f"there is no refusal {refusal} under plan {plan_id} that it does not allow by now")
    if not found:
        usage(f"nothing was refused under plan {plan_id} that it does not allow by now")
    names = ", ".join(f"{item['id']} ({item['by']}, {ago(item['at'])})" for item in found)
    if yes and refusal is None:
        usage(f"--yes needs the refusal that is meant (--refusal NUMBER): {names}")
    meant = found[0]
    if refusal is None and len(found) > 1:
        say(f"The last of {len(found)} refusals; --refusal names another: {names}")
    say(f"Refusal {meant['id']} of {meant['by']}, {ago(meant['at'])}:")
    for item in meant["diff"]:
        planned, asked = (_shown(item[part]) for part in ("plan", "asked"))
        say(f"  {visible(item['field'])}: the plan says {planned}, asked is {asked}")
    return meant["amendment"]


@app.command()
def execute(
    plan_id: str,
    context: typer.Context,
    parallel: Annotated[int | None, typer.Option(min=1, help="So many of its runs at once.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the runs that it would make.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Executes an approved plan: with the command of its block, or the one after --, else it is only marked."""
    rest: Rest = context.obj
    body: dict[str, Any] = {"dry_run": dry_run}
    body |= {"parallel": parallel} if parallel is not None else {}
    body |= {"command": command_text([], rest)} if rest.words else {}
    with Client() as orc:
        found = orc.advance_plan(plan_id, "execute", body)
    if as_json:
        emit(found)
    elif dry_run:
        say(f"{found['runs']} run(s), at most {found['gpu_hours_at_most']} GPU-hours:")
        print(visible("\n".join(found["commands"])))
    else:
        _tell(found, as_json=False)
        sweep = found["sweep_id"]
        say(f"Its runs are sweep {sweep}." if sweep else "It names no command: it is only marked.")


@app.command()
def complete(plan_id: str, as_json: JsonFlag = False) -> None:
    """Marks an executing plan as completed."""
    with Client() as orc:
        _tell(orc.advance_plan(plan_id, "complete"), as_json=as_json)


@app.command()
def archive(plan_id: str, as_json: JsonFlag = False) -> None:
    """Puts a plan away; nothing runs under it any more."""
    with Client() as orc:
        _tell(orc.advance_plan(plan_id, "archive"), as_json=as_json)


@app.command()
def report(plan_id: str, as_json: JsonFlag = False) -> None:
    """Says what came of a plan, as markdown."""
    with Client() as orc:
        if as_json:
            emit(orc.request("GET", f"/plans/{plan_id}/report"))
        else:
            print(visible(orc.text(f"/plans/{plan_id}/report", {"format": "markdown"})))
