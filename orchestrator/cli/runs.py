"""run, ls, show, logs, stop, rerun, wait."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.common import (
    RUN_FAILED,
    JsonFlag,
    Rest,
    ago,
    command_text,
    duration,
    emit,
    say,
    table,
    usage,
)
from orchestrator.cli.following import follow_log, wait_for
from orchestrator.cli.insight import tell_script
from orchestrator.cli.terms import Cpus, Gpus, Resource, Terms, Time, Workdir, resources_of, with_terms
from orchestrator.client import Client, RequestFailed

app = typer.Typer()


@app.command()
@with_terms
def run(
    context: typer.Context,
    terms: Terms,
    command: Annotated[list[str] | None, typer.Argument(help="The command, quoted; or words after --.")] = None,
    name: Annotated[str | None, typer.Option(help="A name (without: the command's beginning).")] = None,
    workdir: Workdir = None,
    plan: Annotated[str | None, typer.Option(help="The plan that it belongs to.")] = None,
    after: Annotated[list[str] | None, typer.Option(help="Start only when this run has finished.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run, and when.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Show its log; exit as it ends.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Starts a command as a tracked run:  orc run -- python train.py --lr 0.1"""
    rest: Rest = context.obj
    text = command_text(command or [], rest)
    if not text.strip():
        usage("no command: orc run -- python train.py --lr 0.1")
    fields = terms.body()
    with Client() as orc:
        made = orc.create_run(
            name or text[:60],
            text,
            workdir=str(workdir.absolute() if workdir else Path.cwd()),
            auto_start=True,
            depends_on=after or [],
            plan_id=plan,
            dry_run=dry_run,
            **fields,
        )
        if dry_run:
            emit(made) if as_json else tell_script(made)
            return
        if not wait:
            emit(made) if as_json else say(f"Run {made['id']} is {made['status']}.  orc logs -f {made['id']}")
            if not as_json:
                print(made["id"])
            return
        say(f"Run {made['id']}")
        _finish(orc, made["id"], as_json=as_json)


def _finish(orc: Client, run_id: str, *, as_json: bool) -> None:
    """Shows the log until the run is over and exits with its status."""
    if not as_json:
        follow_log(orc, run_id)
    (over,) = wait_for(orc, [run_id], show=False)
    if as_json:
        emit(over)
    else:
        _tell_end(over)
    raise SystemExit(0 if over["status"] == "finished" else RUN_FAILED)


def _tell_end(over: dict[str, Any]) -> None:
    took = duration((over["ended_at"] or 0) - (over["started_at"] or over["ended_at"] or 0))
    say(f"Run {over['id']} {over['status']} after {took}." + (f" {over['error']}" if over["error"] else ""))


@app.command()
def ls(
    status: Annotated[list[str] | None, typer.Option(help="Only these statuses.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only this sweep's.")] = None,
    plan: Annotated[str | None, typer.Option(help="Only this plan's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 30,
    archived: Annotated[bool, typer.Option("--archived", help="The archived ones.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Lists runs, newest first."""
    with Client() as orc:
        found = orc.runs(status=status or None, sweep_id=sweep, plan_id=plan, limit=limit, archived=archived)
    if as_json:
        emit(found)
        return
    table(
        ("RUN", "STATUS", "REASON", "NAME", "GPUS", "TIME", "CREATED", "SWEEP"),
        (
            (
                item["id"],
                item["status"],
                item["reason"],
                item["name"],
                ",".join(str(gpu["index"]) for gpu in item["gpus"] or []),
                _took(item),
                ago(item["created_at"]),
                item["sweep_id"],
            )
            for item in found
        ),
    )


def _took(item: dict[str, Any]) -> str:
    if item["started_at"] is None:
        return ""
    if item["ended_at"] is not None:
        return duration(item["ended_at"] - item["started_at"])
    return ago(item["started_at"]).removesuffix(" ago")


@app.command()
def show(item: Annotated[str, typer.Argument(help="A run's or a sweep's id.")], as_json: JsonFlag = False) -> None:
    """Shows a run with its events, or a sweep with its runs."""
    with Client() as orc:
        try:
            found = orc.run(item)
        except RequestFailed as error:
            if error.status != 404:
                raise
            _show_sweep(orc, item, as_json=as_json)
            return
        events = orc.events(item)
    if as_json:
        emit(found | {"events": events})
        return
    hidden = {"metricSeries", "metricKeys", "metrics", "metricSummary"}
    table(("FIELD", "VALUE"), _fields(found, hidden))
    if found.get("metricSummary"):
        print()
        summary = found["metricSummary"].items()
        table(
            ("METRIC", "LAST", "MIN", "MAX", "ROWS"),
            ((k, m["last"], m["min"], m["max"], m["count"]) for k, m in summary),
        )
    print()
    table(("WHEN", "WHO", "WHAT", "WORDS"), ((ago(e["at"]), e["actor"], e["kind"], e["message"]) for e in events))


def _fields(found: dict[str, Any], hidden: set[str]) -> Iterator[tuple[str, object]]:
    """What there is to say, times and sizes as people read them."""
    for name, value in found.items():
        if value is None or value is False or value in ([], {}) or name in hidden:
            continue
        if name.endswith("_at"):
            yield name, ago(value)
        elif name == "used":
            yield (
                "used of asked",
                "  ".join(f"{what} {share:.0%}" for what, share in value.items() if share is not None),
            )
        elif name.endswith("_bytes"):
            yield name.removesuffix("_bytes"), f"{value / 2**20:.0f} MiB"
        else:
            yield name, value


def _show_sweep(orc: Client, sweep_id: str, *, as_json: bool) -> None:
    found = orc.sweep(sweep_id)
    members = orc.runs(sweep_id=sweep_id, limit=1000)
    if as_json:
        emit(found | {"runs": members})
        return
    hidden = {"run_ids"}
    table(("FIELD", "VALUE"), _fields(found, hidden))
    print()
    rows = ((r["id"], r["status"], r["reason"], r["name"], _took(r)) for r in reversed(members))
    table(("RUN", "STATUS", "REASON", "NAME", "TIME"), rows)


@app.command()
def logs(
    run_id: str,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run is over.")] = False,
    size: Annotated[int, typer.Option("--bytes", "-n", min=1, help="The last so many bytes.")] = 10_000,
    attempt: Annotated[int | None, typer.Option(min=1, help="What this attempt wrote (without: the latest).")] = None,
) -> None:
    """Prints what a run wrote."""
    if follow and attempt is not None:
        usage("--follow goes on with the latest attempt: --attempt is for what one has written so far")
    with Client() as orc:
        if follow:
            follow_log(orc, run_id)
            return
        page = orc.logs(run_id, offset=-size, limit=size, attempt=attempt)
        sys.stdout.write(page["content"])
        while page["has_more_after"]:
            page = orc.logs(run_id, offset=page["next_offset"], limit=100_000, attempt=attempt)
            sys.stdout.write(page["content"])


@app.command()
def stop(items: Annotated[list[str], typer.Argument(help="Runs or sweeps.")], as_json: JsonFlag = False) -> None:
    """Stops runs (or all runs of a sweep): TERM, a grace, KILL, for the whole process tree."""
    answers = []
    with Client() as orc:
        for item in items:
            answers.append(_stop(orc, item))
            if not as_json:
                say(f"{item}: {answers[-1]['message']}")
    if as_json:
        emit(answers)


def _stop(orc: Client, item: str) -> dict[str, Any]:
    try:
        return orc.act(item, "stop")
    except RequestFailed as error:
        if error.status != 404:
            raise
        return dict(orc.request("POST", f"/sweeps/{item}/stop"))


@app.command()
def rerun(
    item: Annotated[str, typer.Argument(help="A run; or a sweep: each of its runs that failed or was stopped.")],
    command: Annotated[str | None, typer.Option(help="Another command.")] = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    time: Time = None,
    resource: Resource = None,
    fix: Annotated[bool, typer.Option("--fix", help="With the resources that `orc why` proposes.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Show its log; exit as it ends.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Runs a run again, as a new one; what is said of its resources goes over what it asked for."""
    said = resources_of(gpus, cpus, time, resource)
    with Client() as orc:
        run = _run(orc, item)
        if run is None:
            if command or fix or said:
                usage(
                    f"{item} is a sweep: its runs are run again as they were; for another command or more, name a run"
                )
            _rerun_sweep(orc, item, wait=wait, as_json=as_json)
            return
        body: dict[str, Any] = {"auto_start": True} | ({"command": command} if command else {})
        changed = (_proposed(orc, item) if fix else {}) | said
        if changed:
            body["resources"] = run["resources"] | changed
        made = orc.act(item, "rerun", body)
        if wait:
            say(f"Run {made['id']}")
            _finish(orc, made["id"], as_json=as_json)
    if as_json:
        emit(made)
    else:
        say(f"Run {made['id']} is {made['status']}.")
        print(made["id"])


def _run(orc: Client, item: str) -> dict[str, Any] | None:
    """The run; None where there is none of that id: it may be a sweep's."""
    try:
        return orc.run(item)
    except RequestFailed as error:
        if error.status != 404:
            raise
        return None


def _rerun_sweep(orc: Client, sweep_id: str, *, wait: bool, as_json: bool) -> None:
    made = orc.request("POST", f"/sweeps/{sweep_id}/rerun-failed", {"auto_start": True})
    if not as_json:
        say(f"{len(made)} run(s) of sweep {sweep_id} are run again.")
    run_ids = [run["id"] for run in made]
    over = wait_for(orc, run_ids, show=not as_json and os.isatty(2)) if wait and made else made
    if as_json:
        emit(over)
    elif made:
        print("\n".join(run_ids))
    if wait:
        raise SystemExit(0 if all(run["status"] == "finished" for run in over) else RUN_FAILED)


def _proposed(orc: Client, run_id: str) -> dict[str, Any]:
    """The resources that would help; none is an error in words."""
    found = orc.request("GET", f"/runs/{run_id}/why")
    if not found["rerun"]:
        usage(f"orc why {run_id} proposes no change: {found['summary']} {found['action']}")
    return dict(found["rerun"]["resources"])


@app.command()
def wait(
    items: Annotated[list[str], typer.Argument(help="Runs, sweeps or plans.")],
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after so many seconds (exit 1).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Waits until all are over. Exits with 0 when every run has finished, else 1."""
    with Client() as orc:
        run_ids = [run_id for item in items for run_id in _members(orc, item)]
        try:
            over = wait_for(orc, run_ids, timeout=timeout, show=not as_json and os.isatty(2))
        except TimeoutError as error:
            say(f"orc: {error}")
            raise SystemExit(RUN_FAILED) from None
    if as_json:
        emit(over)
    else:
        for item in over:
            _tell_end(item)
    raise SystemExit(0 if all(item["status"] == "finished" for item in over) else RUN_FAILED)


def _members(orc: Client, item: str) -> list[str]:
    run = _run(orc, item)
    if run is not None:
        return [str(run["id"])]
    try:
        return list(orc.sweep(item)["run_ids"])
    except RequestFailed as error:
        if error.status != 404:
            raise
    sweep_id = _plan(orc, item)["sweep_id"]
    if sweep_id is None:
        usage(f"plan {item} has no sweep to wait for: orc ls --plan {item} lists its runs")
    return list(orc.sweep(sweep_id)["run_ids"])


def _plan(orc: Client, item: str) -> dict[str, Any]:
    try:
        return orc.plan(item)
    except RequestFailed as error:
        if error.status == 404:
            usage(f"there is no run, sweep or plan {item!r}")
        raise
