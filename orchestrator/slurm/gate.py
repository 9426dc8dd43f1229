"""The one gate for every Slurm command: its environment, its deadline, its count.

An answer that did not come is ``Unanswered``: never evidence of anything.
"""

import collections
import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import SchedulerUnavailable

log = logging.getLogger(__name__)
# Input variables would change what the commands answer or submit; SLURM_CONF says where the cluster is, SLURM_JWT who
# asks (AuthAltTypes=auth/jwt). ORC_ variables may hold secrets of the server.
KEPT = ("SLURM_CONF", "SLURM_JWT")
SCRUBBED = ("ORC_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_", "SLURM_", "SRUN_")
# What a controller that is down, hung or starting says (22.05 to 26.05).
AWAY = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Slurm backup controller in standby mode",
    "Communication connection failure",
    "Zero Bytes were transmitted or received",
    "Unexpected message received",
    "Transport endpoint is not connected",
    "Protocol authentication error",
    "Invalid authentication credential",
)
HOUR = 3600.0


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a Slurm command: without the variables that would change its answer."""
    kept = {name: value for name, value in environ.items() if name in KEPT or not name.startswith(SCRUBBED)}
    return kept | {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    output: str
    errors: str


@dataclass
class Tally:
    """What one command has cost. ``recent`` holds when it was called within the last hour."""

    calls: int = 0
    failures: int = 0
    seconds: float = 0.0
    recent: collections.deque[float] = field(default_factory=collections.deque)

    def prune(self, now: float) -> None:
        """Forgets what was more than an hour ago."""
        while self.recent and self.recent[0] < now - HOUR:
            self.recent.popleft()

    def public(self, now: float) -> dict[str, Any]:
        """For people."""
        self.prune(now)
        return {
            "calls": self.calls,
            "failures": self.failures,
            "seconds": round(self.seconds, 3),
            "last_hour": len(self.recent),
        }


class Gate:
    """Runs Slurm's commands."""

    def __init__(self, deadline: float, environ: Mapping[str, str] | None = None) -> None:
        self._deadline = deadline
        self._environ = environ
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}

    def run(self, argv: Sequence[str], deadline: float | None = None) -> Answer:
        """The command's answer, whatever its exit code.

        Raises SchedulerUnavailable when it gave none: too late, not to be run, the controller away.
        """
        seconds = self._deadline if deadline is None else deadline
        begin = time.monotonic()
        answer: Answer | None = None
        try:
            answer = self._call(argv, seconds)
            if answer.code != 0 and any(sign in answer.errors for sign in AWAY):
                raise SchedulerUnavailable(f"{argv[0]}: {answer.errors.strip()[:500]}")
            return answer
        finally:
            self.count(argv[0], time.monotonic() - begin, failed=answer is None or answer.code != 0)

    def _call(self, argv: Sequence[str], seconds: float) -> Answer:
        env = slurm_environment(os.environ if self._environ is None else self._environ)
        try:
            done = subprocess.run(
                list(argv),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
                env=env,
                cwd="/",
            )
        except subprocess.TimeoutExpired as late:
            said = (late.stderr or b"").decode("utf-8", "replace").strip()
            raise SchedulerUnavailable(f"{argv[0]} gave no answer within {seconds:g} s. {said[:500]}".strip()) from None
        except OSError as error:
            raise SchedulerUnavailable(f"{argv[0]} cannot be run: {error}.") from None
        return Answer(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))

    def count(self, command: str, seconds: float, *, failed: bool) -> None:
        """Adds one call to what is published: also of what asks Slurm without a command (pyslurm)."""
        with self._lock:
            tally = self._tallies.setdefault(command, Tally())
            tally.calls += 1
            tally.failures += failed
            tally.seconds += seconds
            tally.recent.append(time.time())
            tally.prune(time.time())

    def public(self) -> dict[str, dict[str, Any]]:
        """Each command's count, failures, seconds, and calls within the last hour."""
        with self._lock:
            now = time.time()
            return {command: tally.public(now) for command, tally in sorted(self._tallies.items())}

    def controller_up(self) -> bool:
        """Whether slurmctld answers (scontrol ping: 0.02 s even when it does not; the primary or its backup)."""
        try:
            return self.run(["scontrol", "ping"], min(self._deadline, 5.0)).code == 0
        except SchedulerUnavailable:
            return False
