"""Everything that an emulated cluster keeps on disk, in one folder."""

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.testing.cluster import Cluster

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol", "srun", "sacctmgr")
KEEP_SECONDS = 60.0
FINE_SECONDS = 6.0
"""Within the last so many seconds every saved state is kept, before that one in as many."""
CLIENT = Path(__file__).with_name("client.py")


class Folder:
    """The paths, and how the files among them are written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bin = path / "bin"
        self.calls = path / "calls"
        self.ended = path / "ended"
        self.done = path / "done"
        self.launches = path / "launches"
        self.scripts = path / "scripts"
        self.states = path / "states"
        self.cluster = path / "cluster.json"
        self.ledger = path / "accounting.jsonl"
        self.faults = path / "faults.json"
        self.log = path / "controller.log"
        self.pid = path / "controller.pid"

    def make(self, cluster: Cluster) -> None:
        """Makes the folder, its commands and the cluster's description."""
        for folder in (self.bin, self.calls, self.ended, self.done, self.launches, self.scripts, self.states):
            folder.mkdir(parents=True, exist_ok=True)
        _replace(self.cluster, json.dumps(cluster.to_json()))
        _replace(self.path / "connect_wait", str(cluster.connect_wait))
        start = " ".join(map(shlex.quote, (sys.executable, "-I", "-S", str(CLIENT), str(self.path))))
        for name in COMMANDS:
            (self.bin / name).write_text(f'#!/bin/sh\nexec {start} {name} "$@"\n')
            (self.bin / name).chmod(0o755)

    def read_cluster(self) -> Cluster:
        """The cluster's description."""
        return Cluster.from_json(json.loads(self.cluster.read_text()))

    def write_faults(self, faults: dict[str, Any]) -> None:
        """For the next controller, and for sacct, which needs none."""
        _replace(self.faults, json.dumps(faults))

    # -- the controller's state: one file for each save, so that a hard kill can lose the last of them -----------------

    def save(self, state: dict[str, Any]) -> None:
        """Writes a state down."""
        now = time.time()
        _replace(self.states / f"{now:.3f}.json", json.dumps(state))
        for moment in superfluous(self.saved(), now):
            self._state(moment).unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest state, or None."""
        moments = self.saved()
        if not moments:
            return None
        state: dict[str, Any] = json.loads(self._state(moments[-1]).read_text())
        return state

    def lose(self, seconds: float) -> None:
        """Drops the states of the last seconds."""
        until = time.time() - seconds
        for moment in self.saved():
            if moment > until:
                self._state(moment).unlink(missing_ok=True)

    def saved(self) -> list[float]:
        """When states were saved, oldest first."""
        return sorted(float(path.stem) for path in self.states.glob("*.json"))

    def _state(self, moment: float) -> Path:
        return self.states / f"{moment:.3f}.json"


def superfluous(moments: Sequence[float], now: float) -> list[float]:
    """Which saved states may go: all but the newest of those older than a minute; of the others some."""
    old = [moment for moment in moments if moment < now - KEEP_SECONDS]
    drop, kept = old[:-1], float("-inf")
    for moment in moments[len(old) :]:
        if moment < now - FINE_SECONDS and moment - kept < FINE_SECONDS:
            drop.append(moment)
        else:
            kept = moment
    return drop


def _replace(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)
