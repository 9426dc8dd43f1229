"""How a job ends: exit statuses, states, reasons. Pure."""

import math
import signal
from dataclasses import dataclass

from orchestrator.testing.memory import parse_bytes
from orchestrator.testing.model import Job
from orchestrator.testing.profiles import Profile

OUT_OF_MEMORY_STATUS = 125
LAUNCH_FAILURE = 4021
"""slurmd's ESLURMD_IO_SETUP error, shown as 0:53: the output file could not be opened."""


@dataclass(frozen=True)
class Ending:
    """What the supervisor reports. ``status`` as wait(2) gives it; ``max_rss`` in bytes."""

    status: int
    end: int
    max_rss: int = 0
    cpu_seconds: float = 0.0
    launch_failed: bool = False
    out_of_memory: bool = False


def code_and_signal(status: int) -> tuple[int, int]:
    """The two numbers of ``code:signal``."""
    return (status >> 8) & 0xFF if not status & 0x7F else 0, status & 0x7F


def shown_status(status: int) -> str:
    """``3:0``, ``0:9``, ``0:53``."""
    code, number = code_and_signal(status)
    return f"{code}:{number}"


def settle(job: Job, ending: Ending, profile: Profile) -> None:
    """Writes the ending into the job. A state that was decided before (CANCELLED, TIMEOUT…) stays."""
    job.status = LAUNCH_FAILURE if ending.launch_failed else ending.status
    if not job.completing:
        job.end_time = max(ending.end, job.start_time)
        job.state, job.reason = _natural(ending, profile)
    for step in job.steps:
        if not step.end:
            step.end = ending.end
            step.state, step.status = _step_ending(job, step.step_id, ending)
        if step.step_id == "batch":
            step.max_rss, step.cpu_seconds = ending.max_rss, ending.cpu_seconds


def _step_ending(job: Job, step_id: str, ending: Ending) -> tuple[str, int]:
    if step_id == "extern":
        return "COMPLETED", 0
    if ending.out_of_memory:
        return "OUT_OF_MEMORY", OUT_OF_MEMORY_STATUS
    if job.state in {"CANCELLED", "TIMEOUT", "PREEMPTED"} or ending.status & 0x7F:
        return "CANCELLED", ending.status
    return ("FAILED" if ending.status else "COMPLETED"), ending.status


def _natural(ending: Ending, profile: Profile) -> tuple[str, str]:
    if ending.launch_failed:
        return "FAILED", "JobLaunchFailure"
    if ending.out_of_memory:
        return "OUT_OF_MEMORY", "OutOfMemory"
    code, number = code_and_signal(ending.status)
    if number:
        killed = f"RaisedSignal:{number}({signal.strsignal(number)})" if profile.signal_reason else "JobLaunchFailure"
        return "FAILED", killed
    return ("FAILED", "NonZeroExitCode") if code else ("COMPLETED", "None")


def pretended(words: dict[str, str], now: int) -> Ending:
    """The ending of a job that has an ``#EMULATE`` line."""
    out_of_memory = words.get("state") == "OUT_OF_MEMORY"
    status = OUT_OF_MEMORY_STATUS if out_of_memory else int(words.get("exit", "0")) << 8
    if "signal" in words:
        status = int(words["signal"])
    rss = parse_bytes(words["rss"]) if "rss" in words else 0
    return Ending(status, now, rss, float(words.get("duration", "0")), out_of_memory=out_of_memory)


def refuse(job: Job, now: int) -> None:
    """The record that is left of a job that was refused for its constraints."""
    job.state, job.reason, job.status = "FAILED", "BadConstraints", 1
    job.start_time = job.end_time = now


def back_to_queue(job: Job, now: int, delay: float, *, hold: bool) -> None:
    """A new attempt of the same job: same id, a new accounting row."""
    job.own_request().begin = math.ceil(now + delay)
    job.state, job.reason, job.completing = "PENDING", "BeginTime", False
    job.after_kill, job.cancelled_by, job.launch = "", None, ""
    job.submit_time, job.start_time, job.end_time = now, 0, 0
    job.eligible_time = job.request.begin
    job.shares, job.steps, job.database_index = [], [], 0
    job.restarts += 1
    job.pretend_end = 0.0
    job.suspended_at = job.suspended_seconds = 0
    job.partition = ",".join(job.request.partitions)
    if hold:
        job.held, job.reason, job.priority = "user", "JobHeldUser", 0
