"""Which code a run runs: git's word in its row, the diff in a file shared by all runs of the same code.

Asked at each hand-over; for a run with a snapshot once, when that is made: what comes after is not what it runs.
"""

import hashlib
from pathlib import Path
from typing import Any

from orchestrator.code.provenance import GitReader, Provenance
from orchestrator.models import Run
from orchestrator.rundir import write_whole

MANY = 100  # names of untracked files in a row; the rest is counted


class CodeRecorder:
    """Asks git, and keeps diffs under ``folder``, named by their content."""

    def __init__(self, reader: GitReader, folder: Path) -> None:
        self._reader = reader
        self._folder = folder

    def record(self, run: Run) -> dict[str, Any] | None:
        """What is known of the code of a run that is handed over; None where its workdir is in no repository."""
        if run.workdir is None or run.snapshot is not None:
            return run.git  # a snapshot stays what it was
        return self.of(Path(run.workdir))

    def of(self, workdir: Path) -> dict[str, Any] | None:
        """What git says of a workdir (no older than the reader's ``ttl``); None where it is in no repository."""
        found = self._reader.read(workdir)
        return None if found is None else self._brief(found)

    def _brief(self, found: Provenance) -> dict[str, Any]:
        return {
            "commit": found.commit,
            "branch": found.branch,
            "dirty": found.dirty,
            "remote": found.remote,
            "toplevel": found.toplevel,
            "diff": self._kept(found.diff) if found.diff else None,
            "diff_truncated": found.truncated,
            "untracked": list(found.untracked[:MANY]),
            "untracked_count": len(found.untracked),
            "problem": found.problem or None,
        }

    def _kept(self, diff: str) -> str | None:
        """The path of the diff; None where it cannot be kept: no run fails for that."""
        data = diff.encode("utf-8", "surrogateescape")
        path = self._folder / f"{hashlib.sha256(data).hexdigest()[:40]}.diff"
        try:
            if not path.exists():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(path, diff)
        except OSError:
            return None
        return str(path)
