"""The clusters that the contract suite runs against, alike in layout: emulated, real with slurmdbd, real without.

Four nodes n1..n4 of 8 CPUs, 16 GB and four a100 each (n1, n2: feature ``fast``, n3, n4: ``big``); partitions normal
(the default), low (preempted by the others), high, short (two minutes at most); exit code 99 requeues; two matlab
licenses.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from orchestrator.testing import EmulatedSlurm, Node, Partition
from tests.support.realslurm import ACCOUNTS, NODES, RealSlurm, missing
from tests.support.service import RealServer, end_runs

MIN_JOB_AGE = 300
# The contract is kept by the other releases, too: TESTS_EMULATED_VERSION=26.05.5 make contract
EMULATED_VERSION = os.environ.get("TESTS_EMULATED_VERSION", "22.05.8")


class Slurm(Protocol):
    """What tests do to a cluster."""

    accounting: bool

    @property
    def environment(self) -> dict[str, str]:
        """What its clients need."""
        ...

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the cluster's."""
        ...

    def start_controller(self) -> None:
        """Starts it again."""
        ...

    def stop_controller(self) -> None:
        """It goes away, its state is kept."""
        ...

    def kill_controller(self) -> None:
        """kill -9: its last seconds are lost."""
        ...

    def hang_controller(self) -> None:
        """It answers nobody."""
        ...

    def resume_controller(self) -> None:
        """It goes on."""
        ...

    def fail_node(self, node: str) -> None:
        """A node and its jobs' processes die."""
        ...

    def resume_node(self, node: str) -> None:
        """It comes back."""
        ...

    def stop_database(self) -> None:
        """slurmdbd goes away."""
        ...

    def start_database(self) -> None:
        """It comes back."""
        ...


class Emulated:
    """The emulator, with the real cluster's layout."""

    def __init__(self, folder: Path, *, accounting: bool, version: str = EMULATED_VERSION) -> None:
        self.accounting = accounting
        nodes = [
            Node(name, cpus=8, memory_mb=16000, gres="gpu:a100:4", features=("fast",) if name < "n3" else ("big",))
            for name in NODES
        ]
        week = 7 * 24 * 60
        partitions = [
            Partition("normal", default=True, max_time_minutes=week, default_time_minutes=60, priority_tier=10),
            Partition("low", max_time_minutes=week, default_time_minutes=60, priority_tier=1, preempt="requeue"),
            Partition("high", max_time_minutes=week, default_time_minutes=60, priority_tier=100),
            Partition("short", max_time_minutes=2, priority_tier=10),
        ]
        self.slurm = EmulatedSlurm(
            folder,
            nodes,
            partitions,
            version=version,
            accounting=accounting,
            min_job_age=MIN_JOB_AGE,
            max_array_size=100_001,
            requeue_exit=(99,),
            kill_wait=5,
            licenses={"matlab": 2},
            accounts=(*ACCOUNTS, "root"),
            qos=("normal", "few"),
        )

    @property
    def environment(self) -> dict[str, str]:
        """What its clients need."""
        return self.slurm.environment

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the cluster's."""
        done = self.slurm.run(*command)
        if check:
            done.check_returncode()
        return done

    def start_controller(self) -> None:
        """Starts it again."""
        self.slurm.controller.start()

    def stop_controller(self) -> None:
        """It goes away, its state is kept."""
        self.slurm.controller.stop()

    def kill_controller(self) -> None:
        """kill -9: its last seconds are lost."""
        self.slurm.controller.kill()

    def hang_controller(self) -> None:
        """It answers nobody."""
        self.slurm.controller.hang()

    def resume_controller(self) -> None:
        """It goes on."""
        self.slurm.controller.resume()

    def fail_node(self, node: str) -> None:
        """A node and its jobs' processes die."""
        self.slurm.fail_node(node)

    def resume_node(self, node: str) -> None:
        """It comes back."""
        self.slurm.resume_node(node)

    def stop_database(self) -> None:
        """slurmdbd goes away."""
        self.slurm.faults.database_down(True)

    def start_database(self) -> None:
        """It comes back."""
        self.slurm.faults.database_down(False)


@dataclass
class Site:
    """A cluster, and a server of ours that uses it. ``folder``: for the tests' own files, seen by every node."""

    name: str
    slurm: Slurm
    orc: RealServer
    folder: Path


@contextmanager
def site(name: str, folder: Path) -> Iterator[Site]:
    """The cluster of this name, with a server, until the block ends; skipped where it cannot be."""
    with cluster(name, folder / "slurm") as slurm:
        home = folder / "home"
        polls = {
            "ORC_SLURM_POLL_FLOOR_SECONDS": "0.3",
            "ORC_SLURM_POLL_CEILING_SECONDS": "1",
            "ORC_SLURM_HEARTBEAT_SECONDS": "0.5",
            "ORC_SLURM_LOST_AFTER_SECONDS": "8",
        }
        orc = RealServer(home, {**slurm.environment, **polls}).start()
        try:
            yield Site(name, slurm, orc, folder)
        finally:
            orc.stop()
            end_runs(home / "runs")


@contextmanager
def cluster(name: str, folder: Path) -> Iterator[Slurm]:
    """The cluster alone."""
    folder.mkdir(parents=True, exist_ok=True)
    accounting = name != "real-without-accounting"
    if name == "emulated":
        emulated = Emulated(folder, accounting=True)
        with emulated.slurm:
            yield emulated
        return
    lacking = missing(accounting=accounting)
    if lacking is not None:
        pytest.skip(f"no real Slurm here: {lacking}")
    with RealSlurm(folder, accounting=accounting, min_job_age=MIN_JOB_AGE) as real:
        yield real
