"""The accounting database: a file of JSON lines that the controller appends to and sacct reads.

sacct needs no controller, as sacct needs slurmdbd only. A row is a job as it was; the last row of a database index
counts. Each is visible from a moment on, which is how accounting lags behind.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.testing.model import Job


class Ledger:
    """Appends to the file. ``lag`` seconds pass until a row can be seen."""

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self.path = path
        self.enabled = enabled
        self.lag = 0.0

    def record(self, job: Job) -> None:
        """The job as it is now."""
        if not self.enabled:
            return
        if not job.database_index:
            job.database_index = time.time_ns()
        data = job.to_json()
        data["request"] = {**data["request"], "environment": {}, "script": ""}
        line = json.dumps({"visible": time.time() + self.lag, "job": data})
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)


class LedgerReader:
    """Reads the file; what was read once is not read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._to_come: list[tuple[float, Job]] = []
        self._latest: dict[int, Job] = {}

    def rows(self, now: float) -> list[Job]:
        """Every attempt of every job, as far as it can be seen at ``now``, oldest first."""
        self._to_come += self._new()
        visible = [job for moment, job in self._to_come if moment <= now]
        self._to_come = [(moment, job) for moment, job in self._to_come if moment > now]
        for job in visible:
            self._latest[job.database_index] = job
        return [self._latest[index] for index in sorted(self._latest)]

    def _new(self) -> Iterator[tuple[float, Job]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                data = json.loads(line)
                yield data["visible"], Job.from_json(data["job"])


def read_rows(path: Path, now: float) -> list[Job]:
    """The same, once."""
    return LedgerReader(path).rows(now)
