"""Asks ``why`` of a run with all that is known of it here: its log, its processes, what Slurm says and can give."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import why
from orchestrator.proc import cpu_seconds, host_name
from orchestrator.rundir import AttemptDir, RunDir
from orchestrator.slurm.checks import Bounds, Limits
from orchestrator.states import RunStatus

LOG_TAIL = 65_536


@dataclass(frozen=True)
class Explainer:
    """``trouble``: why Slurm gives no answer; ``bounds``: what the cluster can give. Neither asks anybody."""

    runs_dir: Path
    trouble: Callable[[], str | None]
    bounds: Callable[[], Bounds]

    def why(self, found: Mapping[str, Any], said: str | None = None) -> why.Why:
        """Of a run as the wire shows it. ``said``: the last words of who would not take it."""
        attempt = RunDir(self.runs_dir, found["id"]).attempt(found["attempt"])
        failed_there = found["status"] == RunStatus.FAILED and found["executor"] == "slurm"
        limits = self.bounds().of(found["resources"]) if failed_there else Limits()
        used = _cpu_so_far(attempt) if found["status"] == RunStatus.RUNNING else None
        known = why.Known(limits, said, used, time.time())
        return why.explain(found, attempt.log_tail(LOG_TAIL), self.trouble(), known)


def _cpu_so_far(attempt: AttemptDir) -> float | None:
    """CPU time of an attempt's processes, where all of them are on this machine."""
    claim = attempt.claim()
    return None if claim is None or claim.host != host_name() else cpu_seconds(claim.process)
