"""``make demo``: a plan's experiment becomes a sweep of tracked runs, through the HTTP API, with curl.

Starts the service over a data folder of its own (.demo), sends the curl lines that planning agents send, follows
the runs to their end and shows them by the plan's primary metric. Leaves nothing running.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
LEARNING_RATES = (0.001, 0.01, 0.1, 0.5)
WIDTHS = (16, 64, 128)
DEADLINE = 300.0
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def say(text: str) -> None:
    """A step of the demo."""
    out.print(f"[bold]{text}[/]")


@contextlib.contextmanager
def service() -> Iterator[str]:
    """The service on a free port; its URL. Ended at the end."""
    HOME.mkdir(mode=0o700, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORC_")}
    with (HOME / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "--port", "0"],
            cwd=ROOT,
            env=environment | {"ORC_HOME": str(HOME)},
            stdout=log,
            stderr=log,
        )
    try:
        yield wait_for_url(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def wait_for_url(process: "subprocess.Popen[bytes]") -> str:
    """Where it answers, once it does."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            said = json.loads((HOME / "server.json").read_text())
            if said["pid"] == process.pid:
                return str(said["url"])
        time.sleep(0.05)
    raise SystemExit(f"The service did not start; see {HOME / 'server.log'}.")


def curl(*arguments: str) -> Any:
    """Runs curl itself and reads its JSON."""
    done = subprocess.run(["curl", "-sS", "--fail-with-body", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"curl {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def post(url: str, auth: str, body: dict[str, Any] | None = None) -> Any:
    """curl -X POST … as the seed's agents write it."""
    arguments = ["-X", "POST", url, "-H", "Content-Type: application/json", "-H", auth]
    return curl(*arguments, *(["-d", json.dumps(body)] if body is not None else []))


def main() -> None:
    """The whole of it."""
    begin = time.monotonic()
    with service() as server_url:
        token = (HOME / "token").read_text().strip()
        header_file = HOME / "auth-header"
        header_file.touch(mode=0o600)
        header_file.write_text(f"X-Auth-Token: {token}\n")
        auth = f"@{header_file}"  # a file, so that the token stands in no process's arguments
        out.print(f"The service answers at {server_url}; its data is in {HOME.relative_to(ROOT)}/")

        say("\n1. What is this machine?   POST /cluster/detect")
        cluster = post(f"{server_url}/cluster/detect", auth)["cluster"]
        out.print(f"   {cluster['label']} ({cluster['type']}): {cluster['notes']}")

        say("2. Save the plan, approve it, execute it   POST /plans, /approve, /execute")
        markdown = (ROOT / "demo" / "plan.md").read_text().replace("cpu_only", cluster["type"])
        goal = re.search(r"### Objective\n(.+)", markdown)
        body = {"title": "Digits", "goal": goal[1] if goal else "", "session_id": None, "raw_markdown": markdown}
        plan = post(f"{server_url}/plans", auth, body)
        for action in ("approve", "execute"):
            plan = post(f"{server_url}/plans/{plan['id']}/{action}", auth)
        out.print(f"   plan {plan['id']} is {plan['status']}")

        say("3. A sweep and its runs   POST /sweeps/wild, then POST /runs for each configuration")
        wild = {"name": "digits", "goal": plan["goal"], "plan_id": plan["id"]}
        sweep = post(f"{server_url}/sweeps/wild", auth, wild)
        resources = resources_on(cluster)
        for lr in LEARNING_RATES:
            for hidden in WIDTHS:
                post(f"{server_url}/runs", auth, run_body(sweep["id"], lr, hidden) | resources)
        out.print(f"   sweep {sweep['id']} with {len(LEARNING_RATES) * len(WIDTHS)} runs")

        say("4. Follow them   GET /sweeps/{id}")
        follow(server_url, auth, sweep["id"])
        runs = curl(f"{server_url}/runs?sweep_id={sweep['id']}", "-H", auth)
        details = [curl(f"{server_url}/runs/{run['id']}", "-H", auth) for run in runs]
        post(f"{server_url}/plans/{plan['id']}/complete", auth)
    show(details, metric=primary_metric(markdown))
    out.print(f"\nDone in {time.monotonic() - begin:.0f} s; nothing is left running. To look further:")
    out.print(f"  export ORC_HOME={HOME}")
    out.print(f"  .venv/bin/orc show {sweep['id']}        .venv/bin/orc logs {runs[0]['id']}")
    out.print("  .venv/bin/orc events                 make serve, then /docs in a browser")
    if any(run["status"] != "finished" for run in details):
        raise SystemExit(1)


def run_body(sweep_id: str, lr: float, hidden: int) -> dict[str, Any]:
    """The seed's body of POST /runs."""
    activate = f"source {ROOT}/.venv/bin/activate && cd {ROOT}/demo"
    return {
        "name": f"lr={lr} hidden={hidden}",
        "command": f"{activate} && python train.py --lr {lr} --hidden {hidden}",
        "sweep_id": sweep_id,
        "auto_start": True,
        "gpuwrap_config": {"enabled": False},
    }


def resources_on(cluster: dict[str, Any]) -> dict[str, Any]:
    """On a Slurm cluster each run asks for a GPU by --gres, where there are any, and says how long it takes."""
    if cluster["type"] != "slurm":
        return {}
    return {"resources": {"cpus": 1, "time": 5} | ({"gpus": 1} if cluster["gpu_count"] else {})}


def follow(server_url: str, auth: str, sweep_id: str) -> None:
    """Until every run of the sweep is over."""
    deadline = time.monotonic() + DEADLINE
    with Progress(console=out, transient=True) as progress:
        bar = progress.add_task("   runs", total=None)
        while time.monotonic() < deadline:
            found = curl(f"{server_url}/sweeps/{sweep_id}", "-H", auth)["progress"]
            over = found["completed"] + found["failed"] + found["canceled"]
            progress.update(bar, total=found["total"], completed=over)
            if over == found["total"]:
                return
            time.sleep(0.5)
    raise SystemExit("The runs did not end in time.")


def primary_metric(markdown: str) -> str:
    """What the plan says is primary."""
    found = re.search(r"\*\*Primary\*\*: (\S+)", markdown)
    assert found is not None
    return found[1]


def where(run: dict[str, Any]) -> str:
    """The node and the GPUs that a run had; "here" on one machine."""
    gpus = ",".join(str(gpu["index"]) for gpu in run["gpus"] or [])
    node = (run["scheduler"] or {}).get("nodes") or "here"
    return f"{node} GPU {gpus}" if gpus else node


def show(runs: list[dict[str, Any]], metric: str) -> None:
    """The runs, best first."""

    def value(run: dict[str, Any]) -> float:
        summary = run.get("metricSummary", {}).get(metric)
        return float(summary["last"]) if summary and summary["last"] is not None else float("-inf")

    table = Table(title=f"\nRuns by {metric}", box=None, title_style="bold", header_style="bold")
    for column in ("RUN", "NAME", "STATUS", metric.upper(), "BEST", "LOSS", "EPOCHS", "SECONDS", "MEMORY", "WHERE"):
        table.add_column(column, no_wrap=column != "NAME")
    for run in sorted(runs, key=value, reverse=True):
        summary = run.get("metricSummary", {})
        table.add_row(
            run["id"],
            run["name"],
            run["status"],
            f"{value(run):.4f}",
            f"{summary[metric]['max']:.4f}" if metric in summary else "",
            f"{summary['loss']['last']:.4f}" if "loss" in summary else "",
            str(summary["loss"]["count"]) if "loss" in summary else "",
            f"{run['ended_at'] - run['started_at']:.1f}" if run["started_at"] else "",
            f"{(run['peak_memory_bytes'] or 0) / 2**20:.0f} MiB",
            where(run),
        )
    out.print(table)


if __name__ == "__main__":
    main()
