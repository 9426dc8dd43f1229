"""Why a run waits, failed or is slow, on Slurm and here alike: category, evidence quoted, what to do. Pure.

Where another amount of resources would help, ``rerun`` is a body that POST /runs/{id}/rerun takes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.resources import parse_memory, parse_time
from orchestrator.slurm import pending
from orchestrator.states import Reason, RunStatus

LOG_SIGNS = (
    ("CUDA out of memory", "gpu_memory", "The GPU's memory was not enough.", "Smaller batches, or a GPU with more."),
    ("CUDA_ERROR_OUT_OF_MEMORY", "gpu_memory", "The GPU's memory was not enough.", "Smaller batches, or another GPU."),
    ("No space left on device", "disk", "A disk is full.", "Make room, or write elsewhere."),
    ("Disk quota exceeded", "disk", "Your quota is used up.", "Make room, or write elsewhere."),
    (
        "ModuleNotFoundError",
        "environment",
        "A Python package is missing.",
        "Name the run's environment (`environment`).",
    ),
    ("command not found", "environment", "A program is not on PATH.", "Name the run's environment, or a full path."),
    ("NCCL error", "network", "The nodes or GPUs could not talk to each other.", "Run it again; exclude the node."),
    ("Permission denied", "permission", "Something may not be read or written.", "See which path the log names."),
    ("MemoryError", "memory", "Python had no memory left.", "Ask for more (resources.mem)."),
    ("Bus error", "memory", "Shared memory or a mapped file ran out.", "More memory, or fewer data workers."),
)
BUSY_ENOUGH = 0.5
MIB = 2**20


@dataclass(frozen=True)
class Why:
    """``category`` for programs, ``summary`` and ``action`` for people, ``evidence`` as it was found."""

    category: str
    summary: str
    action: str
    evidence: list[dict[str, Any]] = field(default_factory=list)
    rerun: dict[str, Any] | None = None

    def public(self) -> dict[str, Any]:
        """As the wire shows it."""
        return asdict(self)


def explain(run: Mapping[str, Any], log_tail: str, trouble: str | None) -> Why:
    """What is to be said of a run, as the wire shows it (``runs.public``). ``trouble``: why Slurm gives no answer."""
    status = RunStatus(run["status"])
    if status is RunStatus.QUEUED:
        return _waits(run, trouble)
    if status is RunStatus.FAILED:
        return _failed(run, log_tail)
    if status is RunStatus.STOPPED:
        return Why("stopped", run["error"] or "It was stopped on request.", "Run it again: orc rerun RUN.", _end(run))
    if status is RunStatus.FINISHED:
        return _used(run) or Why("finished", "It finished.", "Nothing.", _end(run))
    if status is RunStatus.READY:
        return Why("not_started", "Nobody has started it.", "Start it: POST /runs/{id}/start.")
    return _goes_on(run)


# -- waiting -------------------------------------------------------------------------------------------------------

_HERE: dict[str, tuple[str, str, str]] = {
    Reason.CPU_WAIT: ("resources", "The CPUs that runs get here are in use.", "Nothing: it starts when one is free."),
    Reason.GPU_WAIT: ("resources", "The GPUs are in use.", "See who has them: orc gpu who."),
    Reason.DEPENDENCY: ("dependency", "It waits for other runs (depends_on).", "Nothing: it starts when they finish."),
    Reason.SWEEP_PARALLEL: ("limit", "As many runs of its sweep go on as `parallel` allows.", "Raise `parallel`."),
    Reason.HELD: ("hold", "It is held.", "Release it: orc release RUN."),
    Reason.SUBMIT_LIMIT: ("limit", "Slurm takes no more jobs of yours for now.", "Nothing: it is tried again."),
    Reason.SUBMIT_FAILED: ("site", "It could not be handed over.", "Nothing: it is tried again. See its events."),
    Reason.RETRYING: ("retry", "It failed, and its retry policy runs it again.", "Nothing."),
    Reason.FORGOTTEN: ("retry", "Slurm has forgotten its job; it is submitted again.", "Nothing."),
    Reason.STOPPING: ("stopping", "It is being stopped.", "Nothing."),
}


def _waits(run: Mapping[str, Any], trouble: str | None) -> Why:
    scheduler = run.get("scheduler") or {}
    evidence = [{"source": "run", "reason": run["reason"]}]
    if trouble is not None and run["executor"] == "slurm":
        evidence.append({"source": "slurm", "says": trouble})
        words = "Slurm gives no answer; runs keep their state, and submissions wait."
        return Why("cluster_degraded", words, "Nothing: it goes on when Slurm answers.", evidence)
    if scheduler.get("state") is not None and run["reason"] != Reason.STOPPING:
        found = pending.explain(scheduler.get("reason") or "None")
        facts = ("job_id", "array_index", "state", "reason", "partition", "priority", "expected_start")
        evidence.append({"source": "squeue", **{name: scheduler.get(name) for name in facts}})
        return Why(found.category, found.summary, found.action, evidence, _smaller(run, scheduler.get("reason")))
    category, summary, action = _HERE.get(run["reason"] or "", ("queue", "It has only just been queued.", "Nothing."))
    return Why(category, summary, action, evidence)


def _smaller(run: Mapping[str, Any], reason: str | None) -> dict[str, Any] | None:
    """What to ask for where Slurm never gives what was asked."""
    if reason == "PartitionNodeLimit" and (run["resources"].get("nodes") or 1) > 1:
        return _rerun(run, nodes=1)
    return None


# -- failed --------------------------------------------------------------------------------------------------------


def _failed(run: Mapping[str, Any], log_tail: str) -> Why:
    reason, evidence = run["reason"], _end(run)
    if reason == Reason.OUT_OF_MEMORY:
        more = _more_memory(run)
        return Why("memory", run["error"] or "Memory.", "Ask for more memory.", evidence, _rerun(run, mem=more))
    if reason == Reason.TIMEOUT:
        more_time = _more_time(run)
        action = "Ask for more time, or save checkpoints on a signal before the end (`signal`)."
        return Why("time", run["error"] or "Time.", action, evidence, _rerun(run, time=more_time))
    for sign, category, summary, action in LOG_SIGNS:
        line = next((line for line in log_tail.splitlines() if sign in line), None)
        if line is not None:
            quoted = [*evidence, {"source": "log", "quote": line[-500:]}]
            rerun = _rerun(run, mem=_more_memory(run)) if category == "memory" else None
            return Why(category, summary, action, quoted, rerun)
    category, action = _FAILURES.get(reason or "", ("program", "See the end of its log: orc logs RUN."))
    tail = log_tail.strip().splitlines()[-5:]
    quoted = [*evidence, {"source": "log", "quote": "\n".join(tail)}] if tail else evidence
    again = _rerun(run) if category in {"site", "preempted"} else None
    return Why(category, run["error"] or str(reason), action, quoted, again)


_FAILURES: dict[str, tuple[str, str]] = {
    Reason.NODE_FAIL: ("site", "Run it again; `retry` does so by itself."),
    Reason.PREEMPTED: ("preempted", 'Run it again; {"retry": {"on": ["PREEMPTED"]}} does so by itself.'),
    Reason.LOST: ("site", "Run it again. Was the machine restarted, or the process killed?"),
    Reason.SUBMIT_REJECTED: ("request", "Slurm's own words say what it does not accept."),
    Reason.BAD_WORKDIR: ("request", "Its workdir must be there where it runs: on the compute nodes too."),
    Reason.BAD_ENVIRONMENT: ("environment", "See its log: what of the environment is not there."),
    Reason.PARENT_FAILED: ("dependency", "Run the one again that it depends on, then this."),
    Reason.GPU_BUSY: ("resources", "Ask again later, or without a limit of retries."),
    Reason.SIGNAL: ("program", "A signal ended it: a crash (SEGV, ABRT) or somebody's kill."),
}


def _more_memory(run: Mapping[str, Any]) -> str | None:
    asked, peak = run["resources"].get("mem"), run["peak_memory_bytes"]
    size = max(2 * parse_memory(asked) if asked else 0, math.ceil(1.5 * (peak or 0)))
    return f"{math.ceil(size / MIB)}M" if size else None


def _more_time(run: Mapping[str, Any]) -> int | None:
    """Minutes."""
    asked = run["resources"].get("time")
    if asked is not None:
        return math.ceil(2 * parse_time(asked) / 60)
    elapsed = run["elapsed_seconds"]
    return math.ceil(2 * elapsed / 60) if elapsed else None


def _rerun(run: Mapping[str, Any], **changes: Any) -> dict[str, Any] | None:
    if None in changes.values():
        return None
    return {"auto_start": True, "resources": {**run["resources"], **changes}}


# -- going on, and over --------------------------------------------------------------------------------------------


def _goes_on(run: Mapping[str, Any]) -> Why:
    scheduler = run.get("scheduler") or {}
    evidence = [{"source": "run", "status": run["status"], "reason": run["reason"], "gpus": run["gpus"]}]
    if scheduler:
        evidence.append({"source": "slurm", **{name: scheduler.get(name) for name in ("job_id", "state", "nodes")}})
    words = {
        Reason.SUSPENDED: ("suspended", "Slurm has suspended it for others.", "Nothing: it goes on by itself."),
        Reason.ORPHANED: (
            "orphaned",
            "Who watched it is gone (job.py, or Slurm's knowledge of it); its processes go on.",
            "Nothing; stop it if that is not wanted.",
        ),
        Reason.STOPPING: ("stopping", "It is being stopped.", "Nothing."),
    }
    if run["reason"] in words:
        return Why(*words[run["reason"]], evidence=evidence)
    if run["status"] == RunStatus.LAUNCHING:
        return Why("launching", "It has its allocation and has not said yet that it began.", "Nothing.", evidence)
    return Why("running", "It runs.", "Nothing.", evidence)


def _used(run: Mapping[str, Any]) -> Why | None:
    """A run that asked for far more CPUs than it used."""
    given, used = run["cpu_seconds_given"], run["cpu_seconds"]
    cpus = run["resources"].get("cpus") or 1
    if used is None or cpus < 2 or run["elapsed_seconds"] < 60 or used >= BUSY_ENOUGH * given:
        return None
    enough = max(1, math.ceil(cpus * used / given))
    quote = {"source": "usage", "cpu_seconds": used, "cpu_seconds_given": given}
    words = f"It finished, and used {used / given:.0%} of the CPU time that it was given."
    return Why("idle_cpus", words, f"{enough} CPU(s) would have done.", [*_end(run), quote], _rerun(run, cpus=enough))


def _end(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    facts = {name: run[name] for name in ("status", "reason", "exit_code", "signal", "peak_memory_bytes")}
    scheduler = run.get("scheduler") or {}
    found: list[dict[str, Any]] = [{"source": "run", **facts, "error": run["error"]}]
    if scheduler.get("state"):
        found.append({"source": "slurm", "state": scheduler["state"], "nodes": scheduler.get("nodes")})
    return found
