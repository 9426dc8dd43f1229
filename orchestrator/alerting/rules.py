"""When something wants a person's choice: from plain values to what is to be raised. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.plaintext import clean
from orchestrator.states import Reason
from orchestrator.why import Why

Severity = Literal["info", "warning", "critical"]
Budget = Literal["gpu_hours", "wall_time"]
Rule = Literal["failed", "nonfinite", "no_progress", "pending", "idle_gpu", "budget"]
IGNORE, STOP, RERUN = "ignore", "stop", "rerun"
AGAIN: dict[str, Any] = {"auto_start": True}
MOST_ALONE = 5  # alerts of one topic that wait at a time; what comes then joins in one
# Waiting that somebody has asked for, or that ends when other runs do, which have alerts of their own.
ON_PURPOSE = frozenset({Reason.HELD, Reason.DEPENDENCY, Reason.SWEEP_PARALLEL, Reason.RETRYING, Reason.STOPPING})
FIRST = ". The first: "
UNSEEN = 300.0  # seconds for which a GPU may stay unseen and still have been idle all the time


@dataclass(frozen=True)
class Thresholds:
    """From when on the rules raise something. 0 or False: never."""

    failed: bool = True
    nonfinite: bool = True
    no_progress_seconds: float = 1800.0
    pending_seconds: float = 86_400.0
    idle_gpu_percent: float = 5.0
    idle_gpu_seconds: float = 1800.0


@dataclass(frozen=True)
class Seen:
    """A run as the rules look at it. ``ended``: how many of its attempts have."""

    id: str
    name: str
    attempt: int = 1
    ended: int = 0
    reason: str | None = None
    error: str | None = None
    sweep_id: str | None = None
    plan_id: str | None = None
    started_at: float | None = None
    resources: Mapping[str, Any] | None = None
    created_by: str = ""

    def words(self) -> str:
        """Which run, for people."""
        return f"Run {self.id} ({self.name[:80]})"


@dataclass(frozen=True)
class Raised:
    """An alert to be made, unless there is one of that ``key`` already.

    ``topic``: what it has in common with others, of which many become one.
    """

    rule: str
    key: str
    severity: Severity
    message: str
    choices: tuple[str, ...]
    run_id: str | None = None
    plan_id: str | None = None
    topic: str | None = None
    proposal: dict[str, Any] | None = None


def key(rule: str, run: Seen) -> str:
    """Names a condition: of one attempt, of one time of waiting, or of the run's end."""
    if rule == "failed":
        return f"run:{run.id}:failed"
    return f"run:{run.id}:{run.ended if rule == 'pending' else run.attempt}:{rule}"


def failed(run: Seen, why: Why) -> Raised | None:
    """A run that has failed for good. None where it could never start: its parent's end has been told already."""
    if run.reason == Reason.PARENT_FAILED:
        return None
    words = f"has failed: {why.summary} {why.action}"
    return _raised("failed", run, "warning", words, (IGNORE, RERUN), why, why.rerun or AGAIN)


def nonfinite(run: Seen, metrics: Sequence[tuple[str, float | None, float]]) -> Raised | None:
    """A metric that became NaN or infinite in this attempt.

    ``metrics``: name, last value (None: not finite) and when it grew, of those that have ever been so. Counts go on
    over attempts: of a later attempt only what is not finite now is its own.
    """
    began = run.started_at or 0.0
    mine = [name for name, last, at in metrics if at >= began and (run.attempt <= 1 or last is None)]
    if not mine or run.reason == Reason.STOPPING:
        return None
    still = any(last is None for name, last, _ in metrics if name in mine)
    names = ", ".join(mine[:5]) + (f" and {len(mine) - 5} more" if len(mine) > 5 else "")
    words = f"has a metric that became NaN or infinite: {names}."
    return _raised("nonfinite", run, "critical" if still else "warning", words, (IGNORE, STOP))


def no_progress(run: Seen, rows_at: float | None, log_at: float, since: float, now: float, limit: float) -> bool | None:
    """Whether a run that has written metrics in this attempt writes nothing more, its log included: False where it
    does, None where that cannot be said.

    ``rows_at``, ``log_at``: when its metrics and its log grew last; ``since``: before that nobody has looked, or it
    could not go on.
    """
    if not limit or rows_at is None or rows_at < (run.started_at or 0.0):
        return None
    grown = max(rows_at, log_at)
    if now - grown < limit:
        return False
    ours = run.reason not in {Reason.STOPPING, Reason.SUSPENDED} and now - since >= limit
    return True if ours else None


def stuck(run: Seen, quiet: float) -> Raised:
    """For a run of which ``no_progress`` holds."""
    words = f"runs, but neither its metrics nor its log have grown for {span(quiet)}. See the end of its log."
    return _raised("no_progress", run, "warning", words, (IGNORE, STOP))


def waits_long(run: Seen, since: float, now: float, limit: float) -> bool:
    """Whether a queued run waits for longer than it should, and not because somebody wants it to."""
    return bool(limit) and run.reason not in ON_PURPOSE and now - since >= limit


def pending(run: Seen, waited: float, why: Why) -> Raised:
    """For a run of which ``waits_long`` holds, in the words of ``why``."""
    words = f"has been queued for {span(waited)}. {why.summary} {why.action}"
    choices = (IGNORE, STOP, RERUN) if why.rerun else (IGNORE, STOP)
    return _raised("pending", run, "warning", words, choices, why, why.rerun)


def idle_gpu(run: Seen, gpus: int, idle: float, percent: float) -> Raised:
    """A run whose GPUs have all done next to nothing for ``idle`` seconds."""
    words = f"holds {gpus} GPU(s), and none of them was used to {percent:g} % within the last {span(idle)}."
    return _raised("idle_gpu", run, "warning", words, (IGNORE, STOP))


def budget_alert(plan_id: str, title: str, what: Budget, used: float, limit: float, share: float) -> Raised | None:
    """A plan's budget that is nearly used up (from ``share`` on) or wholly. ``wall_time`` in seconds."""
    if not share or limit <= 0 or used < min(share, 1.0) * limit:
        return None
    over = used >= limit
    unit, scale = ("GPU-hours", 1.0) if what == "gpu_hours" else ("hours of its time", 3600.0)
    words = f"Plan {plan_id} ({title[:80]}) has used {used / scale:.1f} of {limit / scale:.1f} {unit}."
    name = f"plan:{plan_id}:budget:{what}:{limit:g}:{'over' if over else 'near'}"
    return Raised("budget", name, "critical" if over else "warning", clean(words), (IGNORE,), plan_id=plan_id)


def _raised(
    rule: str,
    run: Seen,
    severity: Severity,
    words: str,
    choices: tuple[str, ...],
    why: Why | None = None,
    proposal: dict[str, Any] | None = None,
) -> Raised:
    asked = hashlib.sha256(json.dumps(run.resources or {}, sort_keys=True).encode()).hexdigest()[:8]
    state = f"{run.reason or ''}:{why.category}" if why is not None else ""
    topic = f"{_company(run)}:{rule}:{state}:{asked}"
    message = clean(f"{run.words()} {words}")
    return Raised(rule, key(rule, run), severity, message, choices, run.id, None, topic, proposal)


def _company(run: Seen) -> str:
    """With which others a run is told of, where many are in the same state: its sweep's, its plan's, or those that
    the same one made."""
    if run.sweep_id is not None:
        return f"sweep:{run.sweep_id}"
    return f"plan:{run.plan_id}" if run.plan_id is not None else f"by:{run.created_by}"


def of_several(first: Raised, count: int) -> Raised:
    """One alert about several runs. They ask for the same: what helps the first may help all."""
    assert first.topic is not None
    message = counted(first.topic, first.message, count)
    return replace(first, key=f"{first.topic}:{first.key}", message=message)


def counted(topic: str, message: str, count: int) -> str:
    """The words of an alert about several runs, with how many they are by now."""
    where = {"sweep": "of one sweep", "plan": "of one plan"}.get(topic.partition(":")[0], "without a sweep")
    who = f"{count} runs {where} are" if count > 1 else f"Another run {where} is"
    return f"{who} in the same state{FIRST}{message.split(FIRST, 1)[-1]}"


def worth_telling(before: int, count: int) -> bool:
    """Whether so many more are told of again: at 10, 100, 1000, …"""
    return before > 0 and len(str(count)) > len(str(before))


def span(seconds: float) -> str:
    """A length of time: ``35 min``, ``26 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


class IdleGpus:
    """Since when the GPUs of runs have all been idle, look by look. ``busy``: those that the last look saw at work."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], tuple[float, float]] = {}  # since when, and when that was seen last
        self.busy: list[tuple[str, int]] = []

    def look(
        self,
        loads: Mapping[str, int | None],
        held: Mapping[tuple[str, int], Sequence[str]],
        percent: float,
        now: float,
    ) -> dict[tuple[str, int], float]:
        """For how long each attempt's GPUs have been seen idle, of those that are. ``held``: the UUIDs that it holds.

        A GPU that does not tell (MIG) counts as busy; a look that saw none of them tells nothing, and what was not
        seen for long is counted anew.
        """
        self._idle = {attempt: moments for attempt, moments in self._idle.items() if attempt in held}
        self.busy = []
        for attempt, uuids in held.items():
            if not any(uuid in loads for uuid in uuids):
                continue
            seen = [loads.get(uuid) for uuid in uuids]
            if all(load is not None and load < percent for load in seen):
                since, last = self._idle.get(attempt, (now, now))
                self._idle[attempt] = (since if 0 <= now - last <= UNSEEN else now, now)
            else:
                self._idle.pop(attempt, None)
                self.busy.append(attempt)
        return {attempt: last - since for attempt, (since, last) in self._idle.items()}
