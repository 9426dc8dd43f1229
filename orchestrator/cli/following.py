"""Waiting for runs and following their logs, on a terminal."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from orchestrator.client import Client


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
    """The runs once all are over; with a bar where ``show``. Raises TimeoutError."""
    if not show:
        return orc.wait(run_ids, timeout)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("runs", total=len(set(run_ids)))

        def advance(run: dict[str, Any]) -> None:
            nonlocal failed
            failed += run["status"] != "finished"
            progress.update(bar, advance=1, description=f"runs ({failed} not finished)" if failed else "runs")

        return orc.wait(run_ids, timeout, advance)
