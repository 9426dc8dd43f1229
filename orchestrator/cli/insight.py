"""why, usage, script, profiles, env, advice."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, emit, say, table, until, visible
from orchestrator.client import Client

app = typer.Typer()


@app.command()
def why(run_id: str, as_json: JsonFlag = False) -> None:
    """Says why a run waits, failed or is slow, and what can be done."""
    with Client() as orc:
        found = orc.request("GET", f"/runs/{run_id}/why")
    if as_json:
        emit(found)
        return
    print(f"{found['status']} ({found['category']}): {found['summary']}")
    if found["said"]:
        print(f"It said last: {visible(found['said'])}")
    print(f"What to do: {found['action']}")
    for item in found["evidence"]:
        known = {name: value for name, value in item.items() if value is not None and name != "source"}
        print(f"  {item['source']}: {'  '.join(f'{name}={_value(name, value)}' for name, value in known.items())}")
    if found["rerun"]:
        print(f"Again with {found['rerun']['resources']}:  orc rerun {run_id} --fix")


def _value(name: str, value: Any) -> Any:
    """A fact as people read it: a time is local, not epoch seconds."""
    if name == "expected_start" or name.endswith("_at"):
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(value))
    return value


@app.command()
def usage(
    by: Annotated[str, typer.Option(help="sweep, plan, token, executor, day or status.")] = "sweep",
    days: Annotated[float | None, typer.Option(min=0, help="Only runs created within so many days.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Sums up GPU-hours and CPU-hours."""
    with Client() as orc:
        since = {"since": time.time() - days * 86_400} if days is not None else {}
        found = orc.request("GET", "/usage", params={"by": by, **since})
    if as_json:
        emit(found)
        return
    rows = [*found["rows"], {"key": "all", **found["total"]}]
    table(
        (by.upper(), "RUNS", "GPU HOURS", "CPU HOURS GIVEN", "USED"),
        ((_key(by, row["key"]), row["runs"], *(f"{row[name]:.2f}" for name in HOURS)) for row in rows),
    )


HOURS = ("gpu_hours", "cpu_hours_given", "cpu_hours_used")


def _key(by: str, key: Any) -> str:
    if by == "day" and isinstance(key, int | float):
        return time.strftime("%Y-%m-%d", time.gmtime(key))
    return "" if key is None else str(key)


PARTS = (
    ("launcher", "launch.sh: how the command starts on several nodes or in a container"),
    ("activation", "environment.sh: what is applied before the command"),
)


@app.command()
def script(run_id: str, as_json: JsonFlag = False) -> None:
    """Prints what was (or would be) handed to sbatch, and what its job sources."""
    with Client() as orc:
        found = orc.request("GET", f"/runs/{run_id}/script")
    emit(found) if as_json else tell_script(found)


def tell_script(found: dict[str, Any]) -> None:
    """The script, and what belongs to it under a comment; on standard error when it is expected to start."""
    print(found["script"])
    for name, heading in PARTS:
        if name in found:
            print(f"# ---- {heading} ----\n{found[name]}")
    if "sbatch" in found:
        start = found["expected_start"]
        say(
            f"Expected to start {until(start)}."
            if start
            else f"Slurm does not say when it would start. {found['sbatch']}"
        )


@app.command()
def profiles(as_json: JsonFlag = False) -> None:
    """Lists the profiles that runs may name."""
    with Client() as orc:
        found = orc.request("GET", "/profiles")
    if as_json:
        emit(found)
        return
    table(("PROFILE", "WHAT"), ((item["name"], item.get("description", "")) for item in found))


@app.command("env")
def environment(
    workdir: Annotated[Path | None, typer.Argument(help="Where to look (without: here).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Shows the environment found for a workdir: modules, virtualenv, conda; applied only when asked (--auto-env)."""
    with Client() as orc:
        found = orc.request("POST", "/environment/detect", {"workdir": str((workdir or Path.cwd()).absolute())})
    if as_json:
        emit(found)
        return
    for line in found["activation"] or ["# nothing found that could be activated"]:
        print(line)
    for item in found["evidence"]:
        print(f"# {item['file']}: {item['says']}")
    for note in found["notes"]:
        print(f"# {note}")


@app.command()
def advice(
    goal: Annotated[str, typer.Option(help="What is to be found out.")] = "",
    workdir: Annotated[Path, typer.Option(help="Where the runs will be.")] = Path(),
    as_json: JsonFlag = False,
) -> None:
    """Says what to plan with here: how many at once, GPUs, partition, environment, memory and time."""
    with Client() as orc:
        found = orc.request("GET", "/advice", params={"goal": goal, "workdir": str(workdir.absolute())})
    if as_json:
        emit(found)
        return
    print("### Compute Setup")
    print(found["compute_setup"])
    print(f"\n```toml orc\n{found['run_block']}\n```\n")
    print("\n### Estimated Effort")
    print(found["estimated_effort"])
    say("")
    for name in ("parallel", "pinning", "gpuwrap"):
        say(f"{name}: {found[name]['why']}")
    for line in found["environment"].get("activation", []):
        say(f"environment: {line}")
    for plan in found["related_plans"]:
        say(f"like plan {plan['id']} ({plan['status']}): {plan['title']}")
