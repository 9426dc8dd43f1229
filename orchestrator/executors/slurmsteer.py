"""Ending and steering jobs in Slurm: many at once, each order believed only when squeue shows it, a refusal told in
Slurm's own words."""

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.base import Action, Told, Watched
from orchestrator.slurm import arrays
from orchestrator.slurm.phases import Phase
from orchestrator.slurm.poller import Key, Poller
from orchestrator.slurm.queue import QueueRow

log = logging.getLogger(__name__)
ASK_AGAIN = 10.0
IDS_PER_CALL = 500
STRAY_AFTER = 60.0  # seconds that a job may take from its exit record to its end in Slurm: a busy controller's
# "Access/permission denied for job 8", "3_0-1: Requested operation is presently disabled" (22.05 to 26.05)
_REFUSED = re.compile(r"(?P<why>.+?) for job (?P<job>\d+(?:_\S+)?)|(?P<array>\d+(?:_\S+)?): (?P<words>.+)")
NOT_REQUEUED = "presently disabled"  # JobRequeue=0, --no-requeue


class Steer:
    """Remembers what it has asked for, and when."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._asked: dict[Key, float] = {}
        self._sent: dict[Key, float] = {}
        self._throttled: dict[str, tuple[int, float]] = {}
        self._strays: dict[Key, float] = {}

    # -- ending ----------------------------------------------------------------------------------------------------

    def cancel(self, keys: Mapping[Key, str]) -> dict[str, str]:
        """One scancel for all jobs (with their runs' ids) that squeue shows; asked again until squeue confirms."""
        now = time.monotonic()
        due = {
            key: run_id
            for key, run_id in keys.items()
            if key in self._rows() and now - self._asked.get(key, -ASK_AGAIN) >= ASK_AGAIN
        }
        done, _ = self._send(["scancel"], due)
        self._asked |= dict.fromkeys(done, now)
        return {due[key]: "scancel sent." for key in done}

    def forget(self, key: Key) -> None:
        """Its job is over."""
        self._asked.pop(key, None)

    def strays(self, known: set[Key]) -> list[Key]:
        """Jobs with a name such as ours that go on though nothing is watched under it.

        One that waits has been requeued. One that runs may only be ending: its run is over as soon as its record says
        so, and Slurm, which hears of the end later, would take our scancel for it.
        """
        now, rows = time.monotonic(), self._rows()
        self._asked = {key: at for key, at in self._asked.items() if key in rows}
        self._sent = {key: at for key, at in self._sent.items() if key in rows}
        alive = {
            key: row
            for key, row in rows.items()
            if row.phase in {Phase.PENDING, Phase.ALLOCATED} and key[0].startswith("orc-") and key not in known
        }
        self._strays = {key: self._strays.get(key, now) for key in alive}
        return [
            key for key, row in alive.items() if row.phase is Phase.PENDING or now - self._strays[key] >= STRAY_AFTER
        ]

    def end_strays(self, keys: Sequence[Key]) -> list[Key]:
        """One scancel for jobs that nobody should have any more; asked again until squeue confirms."""
        now = time.monotonic()
        due = [key for key in keys if now - self._asked.get(key, -ASK_AGAIN) >= ASK_AGAIN]
        new = [key for key in due if key not in self._asked]
        self._asked |= dict.fromkeys(self._send(["scancel"], due)[0], now)
        return new

    # -- hold, release, requeue, priority --------------------------------------------------------------------------

    def steer(self, action: Action, items: Sequence[tuple[Watched, Key, int]]) -> dict[str, Told]:
        """One scontrol for all whose job squeue shows (one for each priority); what Slurm said, by run id."""
        groups: dict[int, dict[Key, str]] = {}
        for item, key, priority in items:
            row = self._row(key)
            if row is None or (action == "priority" and _held(row)):
                continue  # another Nice of a held job would release it: after the release, then
            if action == "requeue" and row.phase is Phase.PENDING:
                continue  # it has been: a second order would reach, and end, the attempt that follows
            groups.setdefault(priority if action == "priority" else 0, {})[key] = item.run_id
        said: dict[str, Told] = {}
        for priority, due in groups.items():
            words = ["update", f"Nice={niceness(priority)}"] if action == "priority" else [action]
            now = time.monotonic()
            done, refused = self._send(["scontrol", *words], due)
            self._sent |= dict.fromkeys(done, now)
            sent = f"scontrol {' '.join(words)} sent."
            said |= {due[key]: Told(refused[key], refused=True) if key in refused else Told(sent) for key in done}
            if action == "requeue":
                said |= self._instead_of_requeue(due, refused)
        self._poller.cadence.hurry()
        return said

    def _instead_of_requeue(self, due: Mapping[Key, str], refused: Mapping[Key, str]) -> dict[str, Told]:
        """Jobs that Slurm does not requeue are cancelled: their runs are submitted again when they have ended."""
        disabled = {key: due[key] for key, words in refused.items() if NOT_REQUEUED in words}
        told = self.cancel(disabled)
        return {
            run_id: Told(f"Slurm does not requeue it ({refused[key]}): it is cancelled, and submitted again.")
            for key, run_id in disabled.items()
            if run_id in told
        }

    def confirms(self, action: Action, key: Key, priority: int) -> Told | None:
        """By the last squeue, if that was asked after the last order: what has become of it, ``refused`` where it came
        too late; None while it does not show. A requeue is confirmed by its job's next attempt."""
        last, row = self._poller.last, self._row(key)
        if last is None or row is None or action == "requeue" or self._sent.get(key, -1.0) >= last.at:
            return None
        if row.phase is not Phase.PENDING:
            return Told("Too late: the job waits no more.", refused=True)
        if action == "priority":
            return Told("Confirmed.") if row.nice == niceness(priority) else None
        return Told("Confirmed.") if _held(row) == (action == "hold") else None

    # -- how many at once ------------------------------------------------------------------------------------------

    def throttle(self, wanted: Mapping[str, int]) -> list[str]:
        """By ArrayTaskThrottle, which squeue shows where tasks wait together; asked again until it does."""
        now = time.monotonic()
        shown = {row.name: row for row in self._rows().values() if row.name in wanted and row.throttle is not None}
        self._throttled = {name: last for name, last in self._throttled.items() if name in shown}
        asked: list[str] = []
        for name, row in shown.items():
            last, at = self._throttled.get(name, (None, -ASK_AGAIN))
            if row.throttle == wanted[name] or (last == wanted[name] and now - at < ASK_AGAIN):
                continue
            if self._run(["scontrol", "update", f"JobId={row.job_id}", f"ArrayTaskThrottle={wanted[name]}"]) is None:
                break
            asked += [name] * (last != wanted[name])
            self._throttled[name] = (wanted[name], now)
        if asked:
            self._poller.cadence.hurry()
        return asked

    # -- commands --------------------------------------------------------------------------------------------------

    def _rows(self) -> Mapping[Key, QueueRow]:
        return self._poller.last.rows if self._poller.last is not None and self._poller.trouble is None else {}

    def _row(self, key: Key) -> QueueRow | None:
        """A job's row; its own where squeue shows tasks of several reasons in one."""
        row = self._rows().get(key)
        return self._poller.task_row(key, row) if row is not None and row.mixed else row

    def _send(self, command: list[str], keys: Iterable[Key]) -> tuple[list[Key], dict[Key, str]]:
        """The command for these jobs, many at once: those it was sent for, and those that Slurm refused, with why."""
        rows = self._rows()
        # Those that wait go first: where a task ends, the next of its array would begin.
        targets = sorted(
            (key for key in keys if rows[key].phase is not Phase.ENDED),
            key=lambda key: rows[key].phase is not Phase.PENDING,
        )
        done: list[Key] = []
        refused: dict[Key, str] = {}
        for start in range(0, len(targets), IDS_PER_CALL):
            part = {(rows[key].job_id, key[1]): key for key in targets[start : start + IDS_PER_CALL]}
            errors = self._run(_with_ids(command, job_ids(part)))
            if errors is None:
                break
            done += part.values()
            refused |= {part[job]: words for job, words in refusals(errors).items() if job in part}
        return done, refused

    def _run(self, command: list[str]) -> str | None:
        """What Slurm had to say against it, "" for nothing; None where it gave no answer."""
        try:
            answer = self._poller.gate.run(command)
        except SchedulerUnavailable as error:
            self._poller.away(error.message)
            return None
        if answer.code == 0:
            return ""
        log.info("%s: %s", " ".join(command[:3]), answer.errors.strip()[:500])
        return answer.errors


def niceness(priority: int) -> int:
    """Slurm's Nice of a priority: what is below zero, which is all that a user may set."""
    return max(0, -priority)


def _held(row: QueueRow) -> bool:
    return row.phase is Phase.PENDING and any(word in row.reason.lower() for word in ("held", "hold"))


def refusals(errors: str) -> dict[tuple[str, int | None], str]:
    """Which jobs and array tasks a command was refused for, in Slurm's words."""
    found: dict[tuple[str, int | None], str] = {}
    for line in errors.splitlines():
        match = _REFUSED.fullmatch(line.strip())
        if match is None:
            continue
        job, _, tasks = (match["job"] or match["array"]).partition("_")
        try:
            indices: list[int | None] = [*arrays.expand(tasks.strip("[]"))] if tasks else [None]
        except ValueError:
            continue
        found |= {(job, index): match["why"] or match["words"] for index in indices}
    return found


def _with_ids(command: list[str], ids: list[str]) -> list[str]:
    if command[0] == "scancel":
        return [*command, *ids]
    joined = ",".join(ids)
    return [*command, f"JobId={joined}"] if command[1] == "update" else [*command, joined]


def job_ids(parts: Iterable[tuple[str, int | None]]) -> list[str]:
    """``7`` and ``18_[1-3,9]`` of single jobs and array tasks."""
    single: list[str] = []
    tasks: dict[str, list[int]] = {}
    for job, index in parts:
        if index is None:
            single.append(job)
        else:
            tasks.setdefault(job, []).append(index)
    return single + [f"{job}_[{arrays.compress(found)}]" for job, found in tasks.items()]
