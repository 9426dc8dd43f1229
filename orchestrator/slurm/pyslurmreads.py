"""Reads through pyslurm, where it is installed, matches the cluster's Slurm and answers. What it does not answer squeue
and sinfo do: with it absent, broken or hung nothing is lost but speed (no process is started for a read).

It is asked in a helper process with a deadline (``pyslurmworker`` says why). After a failure it is left alone for a
while, ever longer.
"""

import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from orchestrator.errors import ProbeFailed
from orchestrator.slurm import arrays
from orchestrator.slurm.gate import Gate, slurm_environment
from orchestrator.slurm.phases import bare
from orchestrator.slurm.queue import QueueRow
from orchestrator.worker import Worker

log = logging.getLogger(__name__)
DEADLINE = 3.0  # a controller that hangs lets libslurm wait for 10 s and more
CONNECT_DEADLINE = 5.0
REST = 60.0
LONGEST_REST = 3600.0
# pyslurm has no call for one user's jobs. Past so many of everybody's it is squeue that is the better citizen.
MOST_JOBS = 2000
_RELEASE = re.compile(r"(\d+)\.(\d+)")


class Asks(Protocol):
    """The helper process (``Worker``)."""

    def ask(self, operation: str, deadline: float, **values: Any) -> dict[str, Any]:
        """One answer. Raises ProbeFailed."""

    def close(self) -> None:
        """Ends it."""


def installed() -> bool:
    """Whether there is a pyslurm to import."""
    return importlib.util.find_spec("pyslurm") is not None


def helper() -> Worker:
    """A process that can have pyslurm in it."""
    return Worker("orchestrator.slurm.pyslurmworker", lambda: slurm_environment(os.environ))


class PyslurmReads:
    """Jobs and nodes by pyslurm; None where squeue and sinfo are to be asked. Safe to use from several threads.

    ``words``: which way reads go, and why.
    """

    def __init__(self, gate: Gate, uid: int, *, wanted: bool = True, start: Callable[[], Asks] = helper) -> None:
        self._gate = gate
        self._uid = uid
        self._start = start
        self._lock = threading.Lock()
        self._helper: Asks | None = None
        self._tracks_gpus = False
        self._resting_until = 0.0
        self._rest = REST
        self._never = "" if wanted and installed() else _absent(wanted)
        self.words = self._never or "squeue and sinfo are used: pyslurm is asked once Slurm has answered"

    @property
    def connected(self) -> bool:
        """Whether the next read is pyslurm's."""
        return self._helper is not None

    def connect(self, slurm_version: str) -> None:
        """Uses pyslurm from now on, if it answers. ``slurm_version``: the controller's; "" where it is not known."""
        with self._lock:
            if self._never or self._helper is not None or not slurm_version or time.monotonic() < self._resting_until:
                return
            self._helper = self._start()
            said = self._ask("connect", CONNECT_DEADLINE)
            if said is None:
                return
            version, newer = str(said["version"]), _release(str(said["version"])) > _release(slurm_version)
            if newer:
                self._give_up(
                    f"pyslurm {version} speaks to its own Slurm release and later ones, not to {slurm_version}"
                )
                return
            self._tracks_gpus, self._rest = bool(said["tracks_gpus"]), REST
            self.words = f"pyslurm {version} is used: Slurm {slurm_version} answers it in {said['seconds']:.3f} s"
            log.info(self.words)

    def jobs(self) -> list[QueueRow] | None:
        """The user's jobs, as squeue would show them."""
        with self._lock:
            said = self._ask("jobs", DEADLINE, uid=self._uid, most=MOST_JOBS)
            if said is not None and "jobs" not in said:
                words = f"the queue holds {said['total']} jobs, and pyslurm can only fetch them all (over {MOST_JOBS})"
                self._give_up(words, LONGEST_REST)
                return None
            return None if said is None else [row_of(job) for job in said["jobs"]]

    def nodes(self) -> list[dict[str, Any]] | None:
        """All nodes; None also where Slurm does not count GPUs in its TRES: pyslurm cannot tell the free ones then."""
        with self._lock:
            said = self._ask("nodes", DEADLINE)
            found: list[dict[str, Any]] | None = None if said is None else said["nodes"]
            gpus = any(str(name).startswith("gpu") for node in found or () for name in node["configured_gres"] or ())
            return found if self._tracks_gpus or not gpus else None

    def close(self) -> None:
        """Ends the helper process."""
        with self._lock:
            if self._helper is not None:
                self._helper.close()
            self._helper = None

    def _ask(self, operation: str, deadline: float, **values: Any) -> dict[str, Any] | None:
        """One answer, or None: not connected, or it failed and rests now."""
        if self._helper is None:
            return None
        begin, said = time.monotonic(), {"error": "no answer"}
        try:
            said = self._helper.ask(operation, deadline, **values)
        except ProbeFailed as error:
            said = {"error": error.message}
        finally:
            self._gate.count("pyslurm", time.monotonic() - begin, failed="error" in said)
        if "error" not in said:
            return said
        self._give_up(str(said["error"])[:500], self._rest)
        self._rest = min(LONGEST_REST, 2 * self._rest)
        return None

    def _give_up(self, why: str, seconds: float | None = None) -> None:
        """Leaves it alone, for so long or for good."""
        if self._helper is not None:
            self._helper.close()
        self._helper = None
        again = "" if seconds is None else f"; pyslurm is tried again in {seconds:.0f} s"
        self._never = why if seconds is None else ""
        self._resting_until = time.monotonic() + (seconds or 0.0)
        self.words = f"squeue and sinfo are used: {why}{again}"
        log.info(self.words)


def _absent(wanted: bool) -> str:
    why = "pyslurm is not installed" if wanted else "slurm_pyslurm is off"
    return f"squeue and sinfo are used: {why}"


def _release(version: str) -> tuple[int, int]:
    match = _RELEASE.match(version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def row_of(job: Mapping[str, Any]) -> QueueRow:
    """A job of the helper's answer as squeue shows it.

    Task 0 of an array has no ``array_task_id`` (pyslurm 25.11 takes 0 for none): what has an ``array_id`` and neither
    that nor tasks that wait together is task 0. It takes 128 off an exit code above that, too; the job's own exit
    record is the better one anyway.
    """
    array, task, waiting = job["array_id"], job["array_task_id"], job["array_tasks_waiting"]
    indices = arrays.expand(waiting) if waiting else [task or 0] if array is not None else None
    return QueueRow(
        job_id=str(job["id"] if array is None else array),
        indices=None if indices is None else tuple(indices),
        state=bare(job["state"]),
        submitted=_moment(job["submit_time"]),
        start=_moment(job["start_time"]),
        end=_moment(job["end_time"]),
        nodes=job["allocated_nodes"] or "",
        partition=job["partition"] or "",
        priority=job["priority"],
        restarts=job["requeue_count"] or 0,
        tres=_tres(job),
        code=job["exit_code"],
        signal=job["exit_code_signal"],
        reason="" if job["state_reason"] in {None, "None"} else job["state_reason"],
        name=job["name"] or "",
        nice=job["nice"],
        throttle=(job["array_tasks_parallel"] or 0) if waiting else None,
    )


def _tres(job: Mapping[str, Any]) -> str:
    memory = None if job["memory"] is None else f"{job['memory']}M"  # of all nodes, in MiB
    gpus = {f"gres/{name}": number for name, number in job["gpus"].items()}
    counts = {"cpu": job["cpus"], "mem": memory, "node": job["num_nodes"], **gpus}
    return ",".join(f"{name}={count}" for name, count in counts.items() if count is not None)


def _moment(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None
