"""What many queued runs cost Slurm and the service: ``make bench-slurm`` (a real cluster where one can be had, else
the emulator). Bounded in count and time; ends by itself.

    python -m benchmarks.slurm [--runs 10000] [--one-sweep] [--minutes 1] [--emulated]
"""

import argparse
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.realslurm import missing
from tests.support.service import RealServer, end_runs
from tests.support.sites import cluster

CLIENTS = 4
WAITS = {"begin": "now+10hours", "cpus": 1}
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "pyslurm")


def cost(server: RealServer) -> dict[str, tuple[int, float]]:
    """Each command's calls and seconds so far."""
    text = server.http.get("/metrics").text
    found = {}
    for command in COMMANDS:
        numbers = [
            re.search(rf'^orc_slurm_command_{field}_total{{command="{command}"}} (\S+)', text, re.MULTILINE)
            for field in ("calls", "seconds")
        ]
        found[command] = (int(float(numbers[0][1])), float(numbers[1][1])) if numbers[0] and numbers[1] else (0, 0.0)
    return found


@contextmanager
def told(server: RealServer, what: str) -> Iterator[None]:
    """Prints how long the block took, and what it cost."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    before, begin, cpu = cost(server), time.monotonic(), sum(process.cpu_times()[:2])
    yield
    took, cpu = time.monotonic() - begin, sum(process.cpu_times()[:2]) - cpu
    print(f"{what:<34} {took:7.1f} s   server CPU {cpu:6.1f} s   {process.memory_info().rss / 2**20:.0f} MiB")
    for command, (calls, seconds) in cost(server).items():
        if more := calls - before[command][0]:
            print(f"    {command:<10} {more:5} calls {seconds - before[command][1]:8.2f} s")


def post_runs(server: RealServer, count: int, body: dict[str, Any]) -> None:
    """So many POST /runs by a few clients at once."""

    def some(numbers: range) -> None:
        for _ in numbers:
            server.http.post("/runs", json=body).raise_for_status()

    threads = [threading.Thread(target=some, args=(range(start, count, CLIENTS),)) for start in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def handed_over(server: RealServer, count: int) -> None:
    """Until Slurm has them all."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        found = server.get("/cluster")["run_summary"]
        waiting = server.get("/runs", status=["queued"], limit=1)
        if found["queued"] == count and waiting and (waiting[0]["scheduler"] or {}).get("job_id"):
            return
        time.sleep(0.2)
    raise TimeoutError(f"not all handed over within 600 s: {server.get('/cluster')['run_summary']}")


def main() -> None:
    """A cluster and a server of its own."""
    parser = argparse.ArgumentParser(description="What many queued runs cost.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--one-sweep", action="store_true", help="one POST /sweeps instead of repeated POST /runs")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to look at them waiting")
    parser.add_argument("--emulated", action="store_true")
    given = parser.parse_args()
    kind = "emulated" if given.emulated or missing(accounting=True) else "real-with-accounting"
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as name, cluster(kind, Path(name) / "slurm") as slurm:
        server = RealServer(Path(name) / "home", slurm.environment).start()
        print(f"{given.runs} runs on a Slurm ({kind})")
        try:
            measure(server, given)
        finally:
            server.stop()
            end_runs(Path(name) / "home" / "runs")


def measure(server: RealServer, given: argparse.Namespace) -> None:
    """Made, handed over, waiting, stopped."""
    with told(server, "made and handed over"):
        sweep = make_sweep(server, given.runs) if given.one_sweep else make_runs(server, given.runs)
        handed_over(server, given.runs)
    with told(server, f"waiting for {given.minutes:g} min"):
        time.sleep(given.minutes * 60)
    with told(server, "stopped"):
        server.post(f"/sweeps/{sweep}/stop", timeout=300)
        deadline = time.monotonic() + 600
        while server.get("/cluster")["run_summary"]["queued"] and time.monotonic() < deadline:
            time.sleep(0.2)


def make_sweep(server: RealServer, count: int) -> str:
    """One POST /sweeps."""
    grid = {"i": list(range(count))}
    body = {"name": "bench", "base_command": "true", "parameters": grid, "auto_start": True, "resources": WAITS}
    return str(server.post("/sweeps", body, timeout=300)["id"])


def make_runs(server: RealServer, count: int) -> str:
    """Repeated POST /runs, as an agent does it."""
    sweep = str(server.post("/sweeps/wild", {"name": "bench", "goal": "to see what it costs"})["id"])
    begin = time.monotonic()
    body = {"name": "bench", "command": "true", "sweep_id": sweep, "auto_start": True, "resources": WAITS}
    post_runs(server, count, body)
    print(f"    POST /runs: {count / (time.monotonic() - begin):.0f}/s")
    return sweep


if __name__ == "__main__":
    main()
