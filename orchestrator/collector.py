"""Reads the metrics of runs as their files grow, and counts each row once. Its own thread does the work."""

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from sqlmodel import Session

from orchestrator import metrics
from orchestrator.db import Database
from orchestrator.errors import OrcError
from orchestrator.rundir import RunDir
from orchestrator.views import Glance
from orchestrator.wandbfiles import WandbReader

log = logging.getLogger(__name__)
SPACING = 1.0  # seconds between two looks at one run's files while it runs
RETRY = 1.0
PATIENCE = 2.0  # seconds that the end of runs waits for their metrics; what is left is read after it


class Collector:
    """Looks at the files of the runs that it was told of; a large or hanging file holds up nothing but metrics."""

    def __init__(self, db: Database, runs_dir: Path, wandb: WandbReader) -> None:
        self._db = db
        self._runs_dir = runs_dir
        self._wandb = wandb
        self._condition = threading.Condition()
        self._live: dict[str, Glance] = {}
        self._looked: dict[str, float] = {}
        self._ended: dict[str, Glance] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="collector", daemon=True)
        self._thread.start()

    def watch(self, runs: Iterable[Glance]) -> None:
        """These are the runs whose files grow."""
        with self._condition:
            self._live = {run.id: run for run in runs}
            self._looked = {run_id: at for run_id, at in self._looked.items() if run_id in self._live}
            self._condition.notify_all()

    def finish(self, runs: Iterable[Glance]) -> None:
        """These have ended: reads all that is left of them, and waits for it a moment."""
        mine = {run.id: run for run in runs}
        if not mine:
            return
        with self._condition:
            self._ended |= mine
            self._condition.notify_all()
            self._condition.wait_for(lambda: not (mine.keys() & self._ended.keys()), PATIENCE)

    def close(self) -> None:
        """Ends the thread after the look under way."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()

    def _loop(self) -> None:
        while (work := self._next()) is not None:
            for run, ended in work:
                more = self._safely(run, over=ended)
                if ended and not more:
                    with self._condition:
                        self._ended.pop(run.id, None)
                        self._condition.notify_all()

    def _next(self) -> list[tuple[Glance, bool]] | None:
        """What is to be read now: all that has ended, and the live ones not looked at for a while. None: the end."""
        with self._condition:
            while not self._closing:
                now = time.monotonic()
                due = [run for run_id, run in self._live.items() if now - self._looked.get(run_id, -SPACING) >= SPACING]
                if due or self._ended:
                    self._looked |= {run.id: now for run in due}
                    live = [(run, False) for run in due if run.id not in self._ended]
                    return [(run, True) for run in self._ended.values()] + live
                self._condition.wait(SPACING if self._live else None)
            return None

    def _safely(self, run: Glance, *, over: bool) -> bool:
        try:
            return self._read(run, over=over)
        except OrcError as error:  # a full disk, say: tried again
            log.error("metrics could not be stored: %s", error.message)
            time.sleep(RETRY)
            return True
        except Exception:
            log.exception("metrics could not be read")
        return False

    def _read(self, run: Glance, *, over: bool) -> bool:
        """One look at one run's files; whether there was anything new."""
        run_dir = RunDir(self._runs_dir, run.id)
        files = [run_dir.metrics, *self._wandb.files(run_dir.path, run.wandb_dir)]
        more = False
        for path in files:
            more = self._read_file(run, path, over=over) or more
        return more

    def _read_file(self, run: Glance, path: Path, *, over: bool) -> bool:
        with self._db.read() as session:
            offset = metrics.source_offset(session, run.id, str(path))
            reading = self._wandb.read(path, offset, over=over)
            if reading is None:
                return False
            counted = metrics.aggregate(session, run.id, reading, offset)

        def write(session: Session) -> None:
            metrics.write(session, counted)

        self._db.write(write)
        return True
