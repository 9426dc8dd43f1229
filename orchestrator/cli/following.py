"""Waiting for runs and following their logs, on a terminal."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.client import TERMINAL, Client

LOOK = 0.5


def follow_log(orc: Client, run_id: str) -> None:
    """Prints a run's output until it is over."""
    for _, _, data in orc.stream(f"/runs/{run_id}/logs/stream"):
        message = json.loads(data)
        if message["type"] == "done":
            return
        sys.stdout.write(message["content"])
        sys.stdout.flush()


def wait_for(
    orc: Client, run_ids: Sequence[str], *, timeout: float | None = None, show: bool = True
) -> list[dict[str, Any]]:
    """The runs once all are over; a bar per wait where ``show``. Raises TimeoutError."""
    if not show:
        return list(orc.wait(run_ids, timeout))
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = None if timeout is None else time.monotonic() + timeout
    done: dict[str, dict[str, Any]] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("runs", total=len(run_ids))
        while len(done) < len(set(run_ids)):
            for run_id in run_ids:
                if run_id not in done and (found := orc.run(run_id))["status"] in TERMINAL:
                    done[run_id] = found
            failed = sum(item["status"] != "finished" for item in done.values())
            progress.update(bar, completed=len(done), description=f"runs ({failed} failed)" if failed else "runs")
            if deadline is not None and time.monotonic() > deadline and len(done) < len(set(run_ids)):
                raise TimeoutError(f"{len(run_ids) - len(done)} run(s) are not over after {timeout:g} s")
            time.sleep(LOOK if len(done) < len(set(run_ids)) else 0)
    return [done[run_id] for run_id in run_ids]
