"""``make demo``: an agent plans, a person approves, the service runs it and reports, through the HTTP API, with curl.

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
    with service() as url:
        person = f"@{HOME / 'header'}"  # a file, so that the token stands in no process's arguments
        out.print(f"The service answers at {url}; its data is in {HOME.relative_to(ROOT)}/")

        say("\n1. A token for the agent: it may plan and run, and what it runs needs an approved plan   POST /tokens")
        name = f"agent-{int(time.time())}"
        body = {"name": name, "scopes": ["plan", "run"], "require_plan": True}
        agent = f"@{post(f'{url}/tokens', person, body)['header_file']}"
        out.print(f"   {name}")

        say("2. The agent asks what this machine is, and for advice   POST /cluster/detect, GET /advice")
        cluster = post(f"{url}/cluster/detect", agent)["cluster"]
        advice = curl(f"{url}/advice?goal=digits", "-H", agent)
        out.print(f"   {cluster['label']} ({cluster['type']}): {cluster['notes']}")
        out.print(f"   {advice['parallel']['why']}")

        say("3. It saves a plan, and may not run it yet   POST /plans")
        markdown = plan_for(cluster)
        goal = re.search(r"### Objective\n(.+)", markdown)
        body = {"title": "Digits", "goal": goal[1] if goal else "", "session_id": None, "raw_markdown": markdown}
        plan = post(f"{url}/plans", agent, body)
        out.print(f"   plan {plan['id']} is a {plan['status']}; asked to run it, the service says:")
        plan_url = f"{url}/plans/{plan['id']}"
        out.print(f"   “{refused(f'{plan_url}/execute', agent)}”")

        say("4. A person approves it, which freezes what it allows   POST /plans/{id}/approve")
        shown = post(f"{plan_url}/approve", person, {"dry_run": True})
        plan = post(f"{plan_url}/approve", person, {"approved_hash": shown["approved_hash"]})
        out.print(f"   {plan['status']} by {plan['approved_by']}, hash {plan['approved_hash'][:12]}…")

        say("5. The agent executes it; what is outside of it is refused   POST /plans/{id}/execute, POST /runs")
        plan = post(f"{plan_url}/execute", agent)
        another = {"name": "bolder", "command": "python demo/train.py --lr 7 --hidden 64", "plan_id": plan["id"]}
        out.print(f"   sweep {plan['sweep_id']}; asked for a bolder learning rate, the service says:")
        out.print(f"   “{refused(f'{url}/runs', agent, another)}”")

        say("6. It follows the runs, and the plan is completed with them   GET /sweeps/{id}")
        follow(url, agent, plan["sweep_id"])
        report = completed_report(url, agent, plan["id"])
        text = read(f"{plan_url}/report?format=markdown", agent)
        (HOME / "report.md").write_text(text)
        runs = [curl(f"{url}/runs/{row['run_id']}", "-H", agent) for row in report["results"]]
    show(runs, metric=report["metric"]["name"])
    judge(report)
    out.print(f"\nDone in {time.monotonic() - begin:.0f} s; nothing is left running. To look further:")
    out.print(f"  less {(HOME / 'report.md').relative_to(ROOT)}")
    out.print(f"  export ORC_HOME={HOME}")
    out.print(f"  .venv/bin/orc show {plan['sweep_id']}        .venv/bin/orc logs {runs[0]['id']}")
    out.print("  .venv/bin/orc events                 make serve, then /docs in a browser")
    if any(run["status"] != "finished" for run in runs):
        raise SystemExit(1)


def plan_for(cluster: dict[str, Any]) -> str:
    """The plan, for what this machine is: on a cluster that has GPUs each run asks for one."""
    text = (ROOT / "demo" / "plan.md").read_text().replace("cpu_only", cluster["type"])
    if cluster["type"] != "slurm" or not cluster["gpu_count"]:
        return text
    return text.replace("GPU count: 0", "GPU count: 1").replace("cpus = 1\n", "cpus = 1\ngpus = 1\n")


def refused(url: str, auth: str, body: dict[str, Any] | None = None) -> str:
    """A POST that the service must refuse: its words."""
    command = ["curl", "-sS", "-X", "POST", url, "-H", "Content-Type: application/json", "-H", auth]
    command += ["-d", json.dumps(body)] if body is not None else []
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if "detail" not in answer:
        raise SystemExit(f"This should have been refused: {answer}")
    return str(answer["detail"])


def read(url: str, auth: str) -> str:
    """A GET whose answer is text."""
    return subprocess.run(["curl", "-sS", url, "-H", auth], capture_output=True, text=True, check=True).stdout


def completed_report(url: str, auth: str, plan_id: str) -> dict[str, Any]:
    """The plan's report, once the service has seen that all of it is done."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        report: dict[str, Any] = curl(f"{url}/plans/{plan_id}/report", "-H", auth)
        if report["plan"]["status"] == "completed":
            return report
        time.sleep(0.2)
    raise SystemExit("The plan was not completed in time.")


def judge(report: dict[str, Any]) -> None:
    """What the plan wanted, and what came of it."""
    out.print("\n[bold]Success criteria[/]")
    for item in report["criteria"]:
        value = "" if item["value"] is None else f"  ({item['value']:.4g}, run {item['run_id']})"
        out.print(f"  {item['verdict']:6} {item['text']}{value}")


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
