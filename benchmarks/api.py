"""How fast the service answers and executes, on this machine: ``make bench``. Bounded in count; ends by itself."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

SECONDS = 5.0
CLIENTS = 8
NO_OPS = 300


def measure(name: str, client: Callable[[httpx2.Client], None], url: str, token: str) -> None:
    """Requests per second of ``CLIENTS`` clients for ``SECONDS``, with the 50th and 99th percentile (ms)."""
    took: list[float] = []
    until = time.monotonic() + SECONDS

    def loop() -> None:
        with httpx2.Client(base_url=url, headers={"X-Auth-Token": token}, trust_env=False) as http:
            while time.monotonic() < until:
                begin = time.perf_counter()
                client(http)
                took.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=loop) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took.sort()
    rate, middle, late = len(took) / SECONDS, took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3
    print(f"{name:<34} {rate:8.0f}/s   p50 {middle:6.1f} ms   p99 {late:6.1f} ms")


def main() -> None:
    """A server of its own, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        environment = {**os.environ, "ORC_HOME": str(home)}
        with Path(os.devnull).open("wb") as nothing:
            server = subprocess.Popen([sys.executable, "-m", "api", "--port", "0"], env=environment, stderr=nothing)
        try:
            while not (home / "server.json").exists():
                time.sleep(0.05)
            url = json.loads((home / "server.json").read_text())["url"]
            run_all(url, (home / "token").read_text().strip())
        finally:
            server.terminate()
            server.wait()


def run_all(url: str, token: str) -> None:
    """Every figure."""
    http = httpx2.Client(base_url=url, headers={"X-Auth-Token": token}, trust_env=False, timeout=60)
    body = {"name": "bench", "command": "true"}
    measure("POST /runs (ready)", lambda h: check(h.post("/runs", json=body)), url, token)
    one = http.post("/runs", json=body).json()["id"]
    measure("GET /runs/{id}", lambda h: check(h.get(f"/runs/{one}")), url, token)
    measure("GET /runs?limit=100", lambda h: check(h.get("/runs")), url, token)
    measure("GET /healthz", lambda h: check(h.get("/healthz")), url, token)
    begin = time.monotonic()
    sweep = http.post(
        "/sweeps",
        json={"name": "b", "base_command": "true", "parameters": {"i": list(range(NO_OPS))}, "auto_start": True},
    ).json()["id"]
    while http.get(f"/sweeps/{sweep}").json()["progress"]["completed"] < NO_OPS:
        time.sleep(0.1)
    print(f"{NO_OPS} no-op runs end to end {'':<12} {NO_OPS / (time.monotonic() - begin):8.0f}/s")


def check(answer: httpx2.Response) -> None:
    """Only good answers count."""
    answer.raise_for_status()


if __name__ == "__main__":
    main()
