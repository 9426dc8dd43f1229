"""Why a run waits, failed or is slow, on Slurm and here alike: category, evidence quoted, what to do. Pure.

Where another amount of resources would help, and can be had, ``rerun`` is a body that POST /runs/{id}/rerun takes.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orchestrator.resources import MAX_BYTES, MAX_SECONDS, parse_memory, parse_time
from orchestrator.slurm import pending
from orchestrator.slurm.checks import Limits, clock
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
_ID = re.compile(r"\bRUN\b")  # in the commands that are named
# How Python ends the traceback of what nobody caught, and CUDA's or a shell's words do not.
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Timeout)(?::|$)")
BUSY_ENOUGH = 0.5
IDLE = 0.1
LONGEST = 300  # characters of an exception's line
WARMING_UP = 300.0  # seconds in which a run may well wait for its data
MIB = 2**20


@dataclass(frozen=True)
class Known:
    """What is known besides the run itself. ``now``: epoch seconds.

    ``limits``: what the cluster can give it; ``said``: the last words of who would not take it (sbatch);
    ``cpu_seconds``: CPU time that the attempt which is going on has used, None where its processes are elsewhere.
    """

    limits: Limits = field(default_factory=Limits)
    said: str | None = None
    cpu_seconds: float | None = None
    now: float = math.inf


@dataclass(frozen=True)
class Why:
    """``category`` for programs, ``summary`` and ``action`` for people, ``evidence`` as it was found; ``said``: the
    program's own last words, from its log, which go to nobody but who asks."""

    category: str
    summary: str
    action: str
    evidence: list[dict[str, Any]] = field(default_factory=list)
    rerun: dict[str, Any] | None = None
    said: str | None = None

    def public(self) -> dict[str, Any]:
        """As the wire shows it."""
        return asdict(self)


def explain(run: Mapping[str, Any], log_tail: str, trouble: str | None, known: Known | None = None) -> Why:
    """What is to be said of a run, as the wire shows it (``runs.public``). ``trouble``: why Slurm gives no answer."""
    found = _explained(run, log_tail, trouble, known)
    return replace(found, action=_ID.sub(str(run["id"]), found.action))


def _explained(run: Mapping[str, Any], log_tail: str, trouble: str | None, known: Known | None) -> Why:
    status, known = RunStatus(run["status"]), known or Known()
    if status is RunStatus.QUEUED:
        return _waits(run, trouble, known)
    if status is RunStatus.FAILED:
        return _failed(run, log_tail, known.limits)
    if status is RunStatus.STOPPED:
        return Why("stopped", run["error"] or "It was stopped on request.", "Run it again: orc rerun RUN.", _end(run))
    if status is RunStatus.FINISHED:
        return _used(run) or Why("finished", "It finished.", "Nothing.", _end(run))
    if status is RunStatus.READY:
        return Why("not_started", "Nobody has started it.", "Start it: POST /runs/RUN/start.")
    return _goes_on(run, known)


# -- waiting -------------------------------------------------------------------------------------------------------

_HERE: dict[str, tuple[str, str, str]] = {
    Reason.CPU_WAIT: ("resources", "The CPUs that runs get here are in use.", "Nothing: it starts when one is free."),
    Reason.GPU_WAIT: ("resources", "The GPUs are in use.", "See who has them: orc gpu ls."),
    Reason.DEPENDENCY: ("dependency", "It waits for other runs (depends_on).", "Nothing: it starts when they finish."),
    Reason.SWEEP_PARALLEL: ("limit", "As many runs of its sweep go on as `parallel` allows.", "Raise `parallel`."),
    Reason.HELD: ("hold", "It is held.", "Release it: orc release RUN."),
    Reason.SUBMIT_LIMIT: ("limit", "Slurm takes no more jobs of yours for now.", "Nothing: it is tried again."),
    Reason.SUBMIT_FAILED: ("site", "It could not be handed over.", "Nothing: it is tried again. See its events."),
    Reason.RETRYING: ("retry", "It failed, and its retry policy runs it again.", "Nothing."),
    Reason.FORGOTTEN: ("retry", "Slurm has forgotten its job; it is submitted again.", "Nothing."),
    Reason.STOPPING: ("stopping", "It is being stopped.", "Nothing."),
}


def _waits(run: Mapping[str, Any], trouble: str | None, known: Known) -> Why:
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
        summary = f"{found.summary} {_when(run, scheduler, known.now)}".strip()
        return Why(found.category, summary, found.action, evidence, _smaller(run, scheduler.get("reason")))
    said = known.said or run["error"]
    if run["reason"] in {Reason.SUBMIT_LIMIT, Reason.SUBMIT_FAILED} and said:
        evidence.append({"source": "sbatch" if run["executor"] == "slurm" else "executor", "says": said})
    category, summary, action = _HERE.get(run["reason"] or "", ("queue", "It has only just been queued.", "Nothing."))
    return Why(category, summary, action, evidence)


def _when(run: Mapping[str, Any], scheduler: Mapping[str, Any], now: float) -> str:
    """When it starts, as far as Slurm says; of a begin time squeue shows that very time. "" where it says nothing."""
    begins, start = scheduler.get("reason") == "BeginTime", scheduler.get("expected_start")
    if start is not None and start > now:
        return f"It begins {_moment(start, now)}." if begins else f"Slurm expects it to start {_moment(start, now)}."
    asked = run["resources"].get("begin")
    return f"It asked to begin at: {asked}." if begins and asked else ""


def _moment(at: float, now: float) -> str:
    """``at 2026-05-04 14:30 (in 1 h 5 min)``, in the time zone of this machine."""
    minutes = math.ceil((at - now) / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (rest, "min")) if count]
    return f"at {time.strftime('%Y-%m-%d %H:%M', time.localtime(at))} (in {' '.join(parts[:2])})"


def _smaller(run: Mapping[str, Any], reason: str | None) -> dict[str, Any] | None:
    """What to ask for where Slurm never gives what was asked."""
    if reason == "PartitionNodeLimit" and (run["resources"].get("nodes") or 1) > 1:
        return _rerun(run, nodes=1)
    return None


# -- failed --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _More:
    """Whether asking for more helps: what to do, and a body to run it again with, where there is one."""

    action: str
    rerun: dict[str, Any] | None
    evidence: list[dict[str, Any]] = field(default_factory=list)


def _failed(run: Mapping[str, Any], log_tail: str, limits: Limits) -> Why:
    reason, evidence = run["reason"], _end(run)
    if reason == Reason.OUT_OF_MEMORY:
        more = _more_memory(run, limits, "Ask for more memory.")
        return Why("memory", run["error"] or "Memory.", more.action, evidence + more.evidence, more.rerun)
    if reason == Reason.TIMEOUT:
        more = _more_time(run, limits)
        return Why("time", run["error"] or "Time.", more.action, evidence + more.evidence, more.rerun)
    if reason != Reason.BAD_ENVIRONMENT:  # of that one the activation itself has said what is wrong
        told = _by_log(run, log_tail, limits, evidence)
        if told is not None:
            return told
    category, action = _FAILURES.get(reason or "", ("program", "See the end of its log: orc logs RUN."))
    tail = log_tail.strip().splitlines()[-5:]
    quoted = [*evidence, {"source": "log", "quote": "\n".join(tail)}] if tail else evidence
    again = _rerun(run) if category in {"site", "preempted"} else None
    return Why(category, run["error"] or str(reason), action, quoted, again, _last_words(log_tail))


def _last_words(log_tail: str) -> str | None:
    """The last line by which Python told of an exception, else the log's last."""
    lines = [line.strip()[:LONGEST] for line in log_tail.splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if _EXCEPTION.match(line)), None)
    return told or (lines[-1] if lines else None)


def _by_log(run: Mapping[str, Any], log_tail: str, limits: Limits, evidence: list[dict[str, Any]]) -> Why | None:
    """By the first of the signs that the end of the log has."""
    for sign, category, summary, action in LOG_SIGNS:
        line = next((line for line in log_tail.splitlines() if sign in line), None)
        if line is not None:
            quoted = [*evidence, {"source": "log", "quote": line[-500:]}]
            if category != "memory":
                return Why(category, summary, action, quoted)
            more = _more_memory(run, limits, action)
            return Why(category, summary, more.action, evidence + more.evidence + quoted[-1:], more.rerun)
    return None


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


def _more_memory(run: Mapping[str, Any], limits: Limits, action: str) -> _More:
    """Twice as much as it asked for, or half as much again as it used, as far as a node gives that."""
    resources, peak = run["resources"], run["peak_memory_bytes"] or 0
    asked = parse_memory(resources["mem"]) if resources.get("mem") else 0
    size = min(max(2 * asked, math.ceil(1.5 * peak)), MAX_BYTES)
    if not size:
        return _More(action, None)
    most = limits.mem_bytes
    if most is None or size <= most:
        return _More(action, _rerun(run, mem=f"{math.ceil(size / MIB)}M"))
    quote = {"source": "cluster", "partition": limits.partitions or None, "largest_memory": f"{most // MIB}M"}
    if most > (asked or peak):
        return _More(action, _rerun(run, mem=f"{most // MIB}M"), [quote])
    words = f"No node that it may have gives more than {most // MIB}M: make it use less, or name another partition."
    return _More(words, None, [quote])


def _more_time(run: Mapping[str, Any], limits: Limits) -> _More:
    """Twice the time, as far as its partition gives that; another partition's where its own gives no more at all."""
    action = "Ask for more time, or save checkpoints on a signal before the end (`signal`)."
    had = _time_had(run)
    if not had:
        return _More(action, None)
    wanted = math.ceil(2 * had / 60)
    most = int((limits.time_seconds or MAX_SECONDS) // 60)
    if wanted <= most:
        return _More(action, _rerun(run, time=wanted))
    quote = {"source": "cluster", "partition": limits.partitions or None, "time_limit": clock(most * 60)}
    if most * 60 > had:
        return _More(action, _rerun(run, time=most), [quote])
    words = f"{limits.partitions or 'Every run'} has a limit of {clock(most * 60)}, which it reached"
    checkpoints = "save checkpoints on a signal before the end (`signal`), and go on from there."
    if not limits.longer:
        return _More(f"{words}: {checkpoints}", None, [quote])
    name, longest = _roomiest(limits, wanted)
    time_there = min(wanted, int((longest or MAX_SECONDS) // 60))
    there = f"Run it in {name}, which gives {clock(longest) if longest is not None else 'any time'}; or {checkpoints}"
    return _More(f"{words}. {there}", _rerun(run, time=time_there, partition=name), [quote])


def _time_had(run: Mapping[str, Any]) -> float:
    """Seconds: its time limit, or how long it ran before it reached one that it had not asked for; 0 for neither."""
    asked = run["resources"].get("time")
    if asked is not None:
        return parse_time(asked)
    began, ended = run.get("started_at"), run.get("ended_at")
    return float(ended - began if began is not None and ended is not None else run["elapsed_seconds"])


def _roomiest(limits: Limits, minutes: int) -> tuple[str, float | None]:
    """Of the partitions with more time the first that gives as much as is wanted, else the one that gives most."""
    enough = (place for place in limits.longer if place[1] is None or place[1] >= minutes * 60)
    return next(enough, limits.longer[-1])


def _rerun(run: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"auto_start": True, "resources": {**run["resources"], **changes}}


# -- going on, and over --------------------------------------------------------------------------------------------


def _goes_on(run: Mapping[str, Any], known: Known) -> Why:
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
    odd = _without_gpus(run, evidence) or _slow(run, known, evidence)
    return odd or Why("running", "It runs.", "Nothing.", evidence)


def _without_gpus(run: Mapping[str, Any], evidence: list[dict[str, Any]]) -> Why | None:
    """A run that asked Slurm for GPUs and was told of none.

    Source: measured with Slurm 22.05. What slurmctld starts in its first seconds, before a node has told it of its
    devices, gets GPUs by their number alone; and when it ends they stay taken, through DOWN and RESUME too.
    """
    asked = run["resources"].get("gpus")
    if not asked or run["gpus"] or not run.get("scheduler"):
        return None
    words = f"It runs, asked for {asked} GPU(s), and Slurm named none to it (SLURM_JOB_GPUS, CUDA_VISIBLE_DEVICES)."
    action = (
        "It may see no GPU, or all of its node's, others' too: see orc logs RUN. Slurm does so with what it starts "
        "just after its controller was restarted, and such GPUs stay taken until an administrator calls `scontrol "
        "reconfigure`. Stop it and run it again, unless this cluster never numbers its GPUs."
    )
    return Why("no_gpus", words, action, evidence)


def _slow(run: Mapping[str, Any], known: Known, evidence: list[dict[str, Any]]) -> Why | None:
    """A run that hardly uses its CPUs: it waits for something, or hangs.

    This rests on one fact: the CPU time of its processes, all those that have ended included, against the CPUs that it
    was given, since it started. It is known where the processes are on this machine, not of those on other nodes. A GPU
    may well be busy meanwhile, so it is told what was seen, and not that anything is wrong. In its first minutes a run
    may wait for its data.
    """
    used, began = known.cpu_seconds, run.get("started_at")
    elapsed = known.now - began if began is not None else 0.0
    cpus = run["resources"].get("cpus") or 1
    if (
        used is None
        or (run["resources"].get("nodes") or 1) > 1
        or elapsed < WARMING_UP
        or used >= IDLE * cpus * elapsed
    ):
        return None
    quote = {"source": "processes", "cpu_seconds": round(used, 1), "seconds": round(elapsed), "cpus": cpus}
    words = f"It runs, and has used {used / (cpus * elapsed):.1%} of the time of its {cpus} CPU(s) so far."
    action = "If its GPUs do not do the work: it waits for a disk, the network or a lock, or hangs. See orc logs RUN."
    return Why("slow", words, action, [*evidence, quote])


def _used(run: Mapping[str, Any]) -> Why | None:
    """A run that asked for far more CPUs than it used."""
    given, used = run["cpu_seconds_given"], run["cpu_seconds"]
    cpus = run["resources"].get("cpus") or 1
    if used is None or cpus < 2 or run["elapsed_seconds"] < 60 or used >= BUSY_ENOUGH * given:
        return None
    tasks = run["resources"].get("tasks_per_node") or 1
    enough = tasks * max(1, math.ceil(cpus * used / given / tasks))  # they must be shared evenly
    if enough >= cpus:
        return None
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
