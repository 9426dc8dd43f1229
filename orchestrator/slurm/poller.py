"""When to ask squeue, and what it said last. One squeue a cycle; sacct only for what squeue no longer knows."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from orchestrator.errors import SchedulerUnavailable
from orchestrator.slurm import accounting, queue
from orchestrator.slurm.accounting import AccountRow
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.phases import Phase
from orchestrator.slurm.pyslurmreads import PyslurmReads
from orchestrator.slurm.queue import QueueRow

log = logging.getLogger(__name__)
Key = tuple[str, int | None]
GROWTH = 1.5
YOUNG = 20.0
SACCT_SPACING = 5.0
SACCT_BATCH = 500
LONGEST_OUTAGE_PAUSE = 15.0


def in_thread(question: Callable[[], bool]) -> "Future[bool]":
    """Asks in a thread that ends with its answer, and holds up nobody's end."""
    answer: Future[bool] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="slurm-ping", daemon=True).start()
    return answer


@dataclass(frozen=True)
class Snapshot:
    """What one squeue said. ``at``: monotonic, when it was asked."""

    at: float
    rows: dict[Key, QueueRow]
    known_names: frozenset[str]


@dataclass
class Cadence:
    """How long until the next look: the site's floor while something is about to change, longer while nothing is."""

    floor: float
    ceiling: float
    interval: float = 0.0
    due: float = 0.0
    hurry_until: float = 0.0
    looked_at: float = 0.0

    def hurry(self, seconds: float = YOUNG) -> None:
        """Something is about to change: the floor for so long."""
        now = time.monotonic()
        self.hurry_until = max(self.hurry_until, now + seconds)
        self.due = min(self.due, max(now, self.looked_at + self.floor))

    def looked(self, *, changed: bool) -> None:
        """Sets when the next look is due."""
        now = self.looked_at = time.monotonic()
        eager = changed or now < self.hurry_until
        slower = max(self.floor, min(self.ceiling, max(self.interval, self.floor) * GROWTH))
        self.interval = self.floor if eager else slower
        self.due = now + self.interval

    def failed(self) -> None:
        """The scheduler gave no answer: the next try a while later."""
        self.interval = max(self.floor, min(LONGEST_OUTAGE_PAUSE, max(self.interval, self.floor) * 2))
        self.looked_at = time.monotonic()
        self.due = self.looked_at + self.interval


@dataclass
class Poller:
    """Asks for one user's jobs. ``trouble``: why the last look failed, None when it did not."""

    gate: Gate
    user: str
    cadence: Cadence
    pyslurm: PyslurmReads | None = None
    trouble: str | None = None
    last: Snapshot | None = None
    keeps_accounts: bool | None = None
    start_ping: Callable[[Callable[[], bool]], "Future[bool]"] = in_thread
    _ping: "Future[bool] | None" = None
    _asked: dict[str, float] = field(default_factory=dict)
    _ended: dict[Key, AccountRow] = field(default_factory=dict)
    _tasks: dict[str, tuple[float, dict[Key, QueueRow]]] = field(default_factory=dict)

    def look(self, own: Mapping[Key, str] | None = None) -> Snapshot | None:
        """A fresh snapshot when one is due and Slurm answers, else None. ``own``: the job ids of what is watched."""
        if time.monotonic() < self.cadence.due:
            return None
        if self.trouble is not None and not self._back():
            return None
        at = time.monotonic()
        try:
            rows = self._rows()
        except SchedulerUnavailable as error:
            self.away(error.message)
            self.cadence.failed()
            return None
        fresh = Snapshot(at, queue.by_task(rows, own), frozenset(row.name for row in rows))
        self.trouble = None
        self.cadence.looked(changed=self._changed(fresh))
        self.last = fresh
        return fresh

    def _rows(self) -> list[QueueRow]:
        """All jobs of the user: by pyslurm where that answers, else by squeue. Raises SchedulerUnavailable."""
        rows = self.pyslurm.jobs() if self.pyslurm is not None else None
        if rows is not None:
            return rows
        answer = self.gate.run(queue.command(self.user))
        if answer.code != 0:
            raise SchedulerUnavailable(f"squeue: {answer.errors.strip()[:500]}")
        return queue.parse(answer.output)

    def away(self, message: str) -> None:
        """The scheduler gave no answer: nothing that was seen before counts until it does."""
        if self.trouble is None:
            log.warning("Slurm gives no answer: %s", message)
            self.cadence.failed()
        self.trouble = message

    def _back(self) -> bool:
        """Whether the controller answers again: asked beside the loop, which has other runs to look after. One that
        hangs lets scontrol wait for seconds."""
        if self._ping is None:
            self._ping = self.start_ping(self.gate.controller_up)
        if not self._ping.done():
            return False
        up, self._ping = self._ping.result(), None
        if not up:
            self.cadence.failed()
        return up

    def named(self, name: str) -> list[QueueRow]:
        """The jobs of one name, asked for now. Raises SchedulerUnavailable."""
        try:
            answer = self.gate.run(queue.command(self.user, names=[name]))
            if answer.code != 0:
                raise SchedulerUnavailable(f"squeue: {answer.errors.strip()[:500]}")
        except SchedulerUnavailable as error:
            self.away(error.message)
            raise
        return [row for row in queue.parse(answer.output) if row.name == name]

    def task_row(self, key: Key, merged: QueueRow) -> QueueRow | None:
        """One task of a row in which squeue shows several that wait for different reasons. Asked once a look."""
        assert self.last is not None
        if self._tasks.get(merged.job_id, (0.0, {}))[0] != self.last.at:
            try:
                answer = self.gate.run(queue.command(self.user, tasks=True, job_ids=[merged.job_id]))
            except SchedulerUnavailable as error:
                self.away(error.message)
                return None
            self._tasks = {job: told for job, told in self._tasks.items() if told[0] == self.last.at}
            self._tasks[merged.job_id] = (self.last.at, queue.by_task(queue.parse(answer.output)))
        return self._tasks[merged.job_id][1].get(key)

    def _changed(self, fresh: Snapshot) -> bool:
        before = self.last.rows if self.last is not None else {}
        if before.keys() != fresh.rows.keys():
            return True
        return any(row.state != before[key].state for key, row in fresh.rows.items())

    # -- what squeue no longer knows -------------------------------------------------------------------------------

    def ended(self, missing: Iterable[tuple[Key, str]]) -> Callable[[Key], AccountRow | None]:
        """What sacct says of jobs that squeue does not know: by name and index, never by the id alone.

        Asked at most every few seconds for the same job; nothing where the cluster keeps no accounts.
        """
        now, keys = time.monotonic(), dict(missing)
        wanted = {key: job_id for key, job_id in keys.items() if key not in self._ended}
        due = sorted({job for job in wanted.values() if now - self._asked.get(job, -SACCT_SPACING) >= SACCT_SPACING})
        if due and self.keeps_accounts is not False:
            for start in range(0, len(due), SACCT_BATCH):
                self._ask(due[start : start + SACCT_BATCH])
            self._asked = {job: at for job, at in self._asked.items() if now - at < SACCT_SPACING}
            self._asked |= dict.fromkeys(due, now)
        self._ended = {key: row for key, row in self._ended.items() if key in wanted or key in keys}
        return self._ended.get

    def _ask(self, job_ids: list[str]) -> None:
        try:
            answer = self.gate.run(accounting.command(job_ids))
        except SchedulerUnavailable as error:
            log.warning("sacct gave no answer: %s", error.message)
            return
        if answer.code != 0:
            if accounting.disabled(answer.errors):
                self.keeps_accounts = False
            else:
                log.warning("sacct failed: %s", answer.errors.strip()[:500])
            return
        self.keeps_accounts = True
        for row in accounting.parse(answer.output):
            if row.phase is Phase.ENDED:
                for index in row.indices if row.indices is not None else (None,):
                    self._ended[row.name, index] = row

    def forget(self, keys: Iterable[Key]) -> None:
        """These are over."""
        for key in keys:
            self._ended.pop(key, None)
