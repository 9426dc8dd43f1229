"""Reads the metrics of live runs as their files grow, and counts each row once."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session

from orchestrator import metrics
from orchestrator.db import Database
from orchestrator.metrics import Reading
from orchestrator.models import Run
from orchestrator.rundir import RunDir
from orchestrator.wandbfiles import WandbReader

SPACING = 1.0  # seconds between two looks at one run's files while it runs


@dataclass(frozen=True)
class Batch:
    """What was new for one run."""

    run_id: str
    reading: Reading
    expected_offset: int


class Collector:
    """Knows where each file was read to, and does the reading outside the writer."""

    def __init__(self, db: Database, runs_dir: Path, wandb: WandbReader) -> None:
        self._db = db
        self._runs_dir = runs_dir
        self._wandb = wandb
        self._looked: dict[str, float] = {}

    def collect(self, runs: Iterable[Run]) -> bool:
        """Reads what is new of these runs (not more often than SPACING) and stores it; whether there was anything."""
        now = time.monotonic()
        due = [run for run in runs if now - self._looked.get(run.id, -SPACING) >= SPACING]
        self._looked |= {run.id: now for run in due}
        return self._read(due)

    def finish(self, runs: Iterable[Run]) -> None:
        """Reads all that is left of runs that have ended."""
        ended = list(runs)
        for run in ended:
            self._looked.pop(run.id, None)
        while self._read(ended):
            continue

    def _read(self, runs: list[Run]) -> bool:
        if not runs:
            return False
        with self._db.read() as session:
            batches = [batch for run in runs for batch in self._new(session, run)]
        if not batches:
            return False

        def write(session: Session) -> None:
            for batch in batches:
                metrics.store(session, batch.run_id, batch.reading, batch.expected_offset)

        self._db.write(write)
        return True

    def _new(self, session: Session, run: Run) -> list[Batch]:
        run_dir = RunDir(self._runs_dir, run.id)
        found = []
        plain = metrics.source_offset(session, run.id, str(run_dir.metrics))
        if (reading := metrics.read_lines(run_dir.metrics, plain)) is not None:
            found.append(Batch(run.id, reading, plain))
        for path in self._wandb.files(run_dir.path, run.wandb_dir):
            offset = metrics.source_offset(session, run.id, str(path))
            if (reading := self._wandb.read(path, offset)) is not None:
                found.append(Batch(run.id, reading, offset))
        return found
