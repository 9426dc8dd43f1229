"""gpu ls, gpu exec: the leases of this machine, with no server at all."""

import os
import time
from typing import Annotated, Any

import typer

from orchestrator.cli.common import BAD_USAGE, RUN_FAILED, JsonFlag, Rest, ago, emit, say, table, usage

app = typer.Typer(help="The GPUs of this machine: who has them, who waits.", no_args_is_help=True)


def _line() -> Any:
    from orchestrator.executors.gpus import GpuReader
    from orchestrator.settings import load
    from orchestrator.wiring import make_line

    settings = load()
    reader = GpuReader(settings.probe_deadline_seconds)
    return make_line(settings, reader), reader


@app.command()
def ls(as_json: JsonFlag = False) -> None:
    """Every GPU with its holder, and who waits, of all users."""
    from orchestrator.executors.line import overview

    line, reader = _line()
    try:
        found = overview(line.look())
    finally:
        reader.close()
    if as_json:
        emit(found)
        return
    if found["trouble"]:
        say(found["trouble"])
    rows = []
    for gpu in found["gpus"]:
        holder = gpu["holder"] or {}
        memory = f"{gpu['memory_used_mib']}/{gpu['memory_total_mib']} MiB"
        what = holder.get("what") or gpu["why"]
        rows.append(
            (gpu["index"], gpu["name"], gpu["state"], memory, holder.get("user"), what, ago(holder.get("since")))
        )
    table(("GPU", "NAME", "STATE", "MEMORY", "USER", "WHAT", "SINCE"), rows)
    if found["waiting"]:
        print()
        table(
            ("WAITING", "GPUS", "FOR", "SINCE"),
            ((item["user"], item["gpus"], item["what"], ago(item["since"])) for item in found["waiting"]),
        )


@app.command("exec")
def exec_(
    context: typer.Context,
    gpus: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after so many seconds (exit 1).")] = None,
) -> None:
    """Runs a command under a lease, with no server:  orc gpu exec --gpus 1 -- python train.py"""
    rest: Rest = context.obj
    if not rest.words:
        usage("no command: orc gpu exec --gpus 1 -- python train.py")
    lease = _wait_for_lease(gpus, rest.words, timeout)
    environment = {**os.environ, **lease.visible_devices()}
    say(f"orc: {environment['CUDA_VISIBLE_DEVICES']}")
    try:  # the command takes our place: the lease is its own until it ends
        os.execvpe(rest.words[0], rest.words, environment)
    except OSError as error:
        lease.release()
        say(f"orc: {rest.words[0]}: {error.strerror}")
        raise SystemExit(127) from None


def _wait_for_lease(gpus: int, words: list[str], timeout: float | None) -> Any:
    from threading import Event

    from orchestrator.executors.turns import Request
    from orchestrator.watch import ProcessWatch

    line, reader = _line()
    wanted = Request(f"exec-{os.getpid()}", gpus, time.time(), label=" ".join(words)[:80])
    woken, told = Event(), False
    watch = ProcessWatch(woken.set)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        line.folder.ensure()
        watch.add_folder(line.folder.path)
        while True:
            woken.clear()
            outcome = line.acquire([wanted])
            if wanted.id in outcome.leases:
                return outcome.leases[wanted.id]
            if gpus > len(outcome.states):
                say(f"orc: this machine has {len(outcome.states)} GPU(s) to lease, not {gpus}. {outcome.trouble or ''}")
                raise SystemExit(BAD_USAGE)
            if deadline is not None and time.monotonic() > deadline:
                say(f"orc: no free GPUs within {timeout:g} s. {outcome.explain()}")
                raise SystemExit(RUN_FAILED)
            if not told:
                say(f"orc: waiting. {outcome.explain()}")
                told = True
            for holder in outcome.holders:
                if holder.alive():
                    watch.add(holder.pid)
            woken.wait(min(outcome.recheck_in or 5.0, 5.0))
    finally:
        line.leave()
        watch.close()
        reader.close()
