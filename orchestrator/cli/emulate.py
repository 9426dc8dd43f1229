"""emulate-slurm: a Slurm cluster to play with, on this machine, for as long as a command runs."""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import Rest, say, usage
from orchestrator.home import read_server_file

SERVER_ENDS = 15.0  # seconds


def emulate_slurm(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Where it lives; kept afterwards. Default: a temporary one, taken away.")
    ] = None,
    version: Annotated[str, typer.Option(help="Behaves as this release, such as 22.05.8.")] = "24.11.5",
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes of 8 CPUs.")] = 4,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each node.")] = 4,
    accounting: Annotated[bool, typer.Option(help="With sacct and accounts.")] = True,
) -> None:
    """Emulates Slurm around a command, by default your shell:  orc emulate-slurm -- sinfo"""
    from orchestrator.testing import EmulatedSlurm, Node, Partition

    rest: Rest | None = context.obj
    words = rest.words if rest is not None and rest.words else [os.environ.get("SHELL", "/bin/sh")]
    gres = f"gpu:a100:{gpus}" if gpus else ""
    with tempfile.TemporaryDirectory(prefix="orc-slurm-") as temporary:
        try:
            slurm = EmulatedSlurm(
                folder or Path(temporary),
                nodes=[Node(f"n{number}", gres=gres) for number in range(1, nodes + 1)],
                partitions=[Partition("normal", default=True, default_time_minutes=60)],
                version=version,
                accounting=accounting,
            )
        except ValueError as error:
            usage(str(error))
        with slurm:
            say(f"orc: emulates Slurm {slurm.cluster.version} in {slurm.path}: {nodes} nodes; ends with: {words[0]}")
            # A home of its own, unless one is named: a server that `orc` starts in there knows this cluster alone.
            home = {"ORC_HOME": str(slurm.path / "orc"), **os.environ}["ORC_HOME"]
            try:
                environment = {**os.environ, **slurm.environment, "ORC_HOME": home}
                ended = subprocess.run(words, env=environment, check=False)
            except OSError as error:
                say(f"orc: {words[0]}: {error.strerror}")
                raise SystemExit(127) from None
            finally:
                if "ORC_HOME" not in os.environ:
                    _end_server(Path(home))
    raise SystemExit(ended.returncode if ended.returncode >= 0 else 128 - ended.returncode)


def _end_server(home: Path) -> None:
    """Ends the server that was started on demand for this cluster, and waits until it has."""
    said = read_server_file(home)
    if said is None:
        return
    with suppress(ProcessLookupError):
        os.kill(int(said["pid"]), signal.SIGTERM)
    until = time.monotonic() + SERVER_ENDS
    while read_server_file(home) is not None and time.monotonic() < until:
        time.sleep(0.05)
