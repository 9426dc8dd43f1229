"""serve, detect, events, tick, doctor."""

import json
import os
import sys
import time
from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, ago, emit, say, table

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen (without: 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
) -> None:
    """Serves the HTTP API until it is ended. Runs outlive it."""
    command = [sys.executable, "-m", "api"]
    command += ["--host", host] if host is not None else []
    command += ["--port", str(port)] if port is not None else []
    os.execv(sys.executable, command)


@app.command()
def detect(
    prefer: Annotated[str | None, typer.Option(help="slurm, local_gpu or cpu_only, whatever is found.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget what was preferred.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Looks at the machine and says what it is."""
    from orchestrator.client import Client

    body: dict[str, Any] = {"preferred_type": prefer} if prefer or reset else {}
    with Client() as orc:
        found = orc.detect(body)["cluster"]
    if as_json:
        emit(found)
        return
    print(f"{found['label']} ({found['type']}, {found['status']}, {found['source']}): {found['gpu_count']} GPU(s)")
    for name, probe in found["details"].get("probes", {}).items():
        print(f"  {name}: {probe['says']}")
    gpus = found["details"].get("gpus", [])
    if gpus:
        table(("GPU", "NAME", "MEMORY", "PROCESSES", "UUID"), map(_gpu_row, gpus))


def _gpu_row(gpu: dict[str, Any]) -> tuple[object, ...]:
    who = ", ".join(f"{process['owner'] or '?'} ({process['pid']})" for process in gpu["processes"])
    memory = f"{gpu['memory_used_mib']}/{gpu['memory_total_mib']} MiB"
    return gpu["index"], gpu["name"], memory, who, gpu["uuid"]


@app.command()
def events(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as they come.")] = False,
    limit: Annotated[int, typer.Option("-n", min=1, max=1000, help="The last so many.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """The journal: what happened, when, by whom."""
    from orchestrator.client import Client

    with Client() as orc:
        found = orc.request("GET", "/events/latest", params={"limit": limit})
        if as_json and not follow:
            emit(found)
            return
        for event in found:
            _print_event(event, as_json=as_json)
        if follow:
            after = found[-1]["id"] if found else 0
            for _, _, data in orc.stream("/events", {"after": after}):
                _print_event(json.loads(data), as_json=as_json)


def _print_event(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(event))
    else:
        when, who = f"{ago(event['at']):>10}", f"{event['actor']:<12}"
        print(f"{when}  {who}  {event['subject']:<18}  {event['kind']:<16}  {event['message']}")
    sys.stdout.flush()


@app.command()
def tick() -> None:
    """One pass of the loop without a server, for login nodes that end daemons (scrontab, cron)."""
    from orchestrator.errors import ServerRunning
    from orchestrator.settings import load
    from orchestrator.wiring import build

    try:
        system = build(load())
    except ServerRunning as error:
        say(f"Nothing to do. {error.message}")
        return
    try:
        system.cluster.detect()
        system.reconciler.once()
        system.alertwatch.look(time.time())
        system.couriers.once()
        counts = system.cluster.public()["run_summary"]
    finally:
        system.close()
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count and name != "total") or "no runs")


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Says what is in force and where it came from, and what is wrong."""
    from orchestrator.doctor import examine
    from orchestrator.settings import load

    found = examine(load())
    if as_json:
        emit([finding.public() for finding in found])
    else:
        marks = {"ok": "[ok]", "note": "[--]", "warning": "[!!]", "error": "[XX]"}
        for finding in found:
            print(f"{marks[finding.level]} {finding.topic}: {finding.words}")
    raise SystemExit(1 if any(finding.level == "error" for finding in found) else 0)
