"""One attempt under Slurm, from its directory and what Slurm says: evidence, and nothing decided.

An attempt that is told of as over is closed first, so that no requeue can begin another behind our back; one that never
began is withdrawn. Where a job was faster, it is not over.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.executors.base import Watched
from orchestrator.rundir import AttemptDir, RunDir
from orchestrator.slurm.accounting import AccountRow
from orchestrator.slurm.phases import PROVISIONAL, Phase
from orchestrator.slurm.queue import QueueRow
from orchestrator.states import Evidence, ExitRecord, SchedulerEnd

BELIEVED_AFTER = 3.0  # seconds that a state must last which may yet become a requeue
ACCOUNTS_LAG = 15.0  # sacct's own delay; 5 s were seen after a burst
BEATS = 3
# BOOT_TIME is in whole seconds, of another machine's clock. In doubt the job was forgotten: to submit it again is safe
# (the attempt is withdrawn), to call it cancelled would lose a run.
CLOCKS_APART = 5.0


class Look:
    """Remembers since when something was so. ``eager``: a job has ended and Slurm has yet to say how."""

    def __init__(
        self, runs_dir: Path, lost_after: float, heartbeat: float, booted_at: Callable[[], float | None]
    ) -> None:
        self._runs_dir = runs_dir
        self._lost_after = lost_after
        self._heartbeat = heartbeat
        self._ask_boot = booted_at
        self._booted: tuple[float | None] | None = None
        self._since: dict[tuple[str, str], float] = {}
        self.eager = False

    def begin(self) -> None:
        """Another look."""
        self.eager = False
        self._booted = None

    def _booted_at(self) -> float | None:
        """When the controller started, asked at most once a look: a whole array may be gone."""
        if self._booted is None:
            self._booted = (self._ask_boot(),)
        return self._booted[0]

    def requeued(self, item: Watched) -> Evidence | None:
        """Its job has begun the next attempt: that comes first, whatever else is seen."""
        number = RunDir(self._runs_dir, item.run_id).latest(item.attempt)
        if number == item.attempt:
            return None
        self._forget(item, "state", "missing")
        before = RunDir(self._runs_dir, item.run_id).attempt(item.attempt)
        return Evidence(number, claimed=True, alive=True, previous=before.exit())

    def waits(self, item: Watched) -> None:
        """squeue shows the job in its line."""
        self._forget(item, "missing", "state")

    def between(self, item: Watched) -> Evidence | None:
        """Between two squeues: the directory alone. A clean end needs no second opinion."""
        number, attempt = self._attempt(item)
        record = attempt.exit()
        if record is not None:
            self.eager = True
            return self._over(item, number, attempt, record, None, None) if _enough(item, record) else None
        started = attempt.started()
        return None if started is None else _alive(number, started, None)

    def known(self, item: Watched, row: QueueRow, shown: dict[str, Any]) -> Evidence:
        """squeue shows the job."""
        self._forget(item, "missing")
        number, attempt = self._attempt(item)
        if row.state not in PROVISIONAL:
            self._forget(item, "state")
        record = attempt.exit()
        if record is not None and _enough(item, record):
            return self._over(item, number, attempt, record, None, shown)
        if row.phase is Phase.PENDING:
            return Evidence(number, waiting=True, scheduler=shown, previous=record)
        if row.phase is Phase.ENDED and self._believed(item, row.state):
            told = SchedulerEnd(row.state, row.code, row.signal, row.start, row.end, self._said(item, attempt))
            return self._over(item, number, attempt, record, told, shown)
        started = attempt.started()
        self.eager |= record is not None or row.phase in {Phase.ENDING, Phase.ENDED}
        return _alive(number, started or {}, shown, suspended=row.state in {"SUSPENDED", "STOPPED"})

    def unknown(self, item: Watched, account: AccountRow | None, *, kin: bool, keeps_accounts: bool) -> Evidence:
        """squeue answered, and does not know the job. ``kin``: it knows other tasks of the same array."""
        missing = self._age(item, "missing")
        number, attempt = self._attempt(item)
        record = attempt.exit()
        lag = ACCOUNTS_LAG if keeps_accounts else 0.0
        if account is not None and self._believed(item, account.state):
            told = SchedulerEnd(
                account.state, account.code, account.signal, account.start, account.end, self._said(item, attempt)
            )
            return self._over(item, number, attempt, record, told, None)
        if record is not None:
            if _enough(item, record) or missing >= lag:
                return self._over(item, number, attempt, record, None, None)
            return Evidence(number, claimed=True)
        if attempt.claim() is None:
            return self._never_began(item, number, attempt, missing, kin=kin, lag=lag)
        return self._vanished(number, attempt, missing)

    def ask_to_stop(self, item: Watched) -> None:
        """For a job that Slurm has forgotten while its processes live."""
        _, attempt = self._attempt(item)
        if attempt.claim() is not None and attempt.exit() is None:
            attempt.ask_to_stop()

    # -- what it means ---------------------------------------------------------------------------------------------

    def _attempt(self, item: Watched) -> tuple[int, AttemptDir]:
        run_dir = RunDir(self._runs_dir, item.run_id)
        number = run_dir.latest(item.attempt)
        return number, run_dir.attempt(number)

    def _over(
        self,
        item: Watched,
        number: int,
        attempt: AttemptDir,
        record: ExitRecord | None,
        told: SchedulerEnd | None,
        shown: dict[str, Any] | None,
    ) -> Evidence:
        """It is over, unless a job is faster than we in beginning (again)."""
        began = attempt.claim() is not None
        if not (attempt.close() if began else attempt.withdraw()):
            return Evidence(number + began, claimed=True, alive=True)
        self._forget(item, "missing", "state")
        started = attempt.started() or {}
        gpus = tuple(started.get("gpus") or ())
        at = started.get("started_at")
        return Evidence(
            number, claimed=began, started_at=at, alive=False, exit=record, ended=told, gpus=gpus, scheduler=shown
        )

    def _never_began(
        self, item: Watched, number: int, attempt: AttemptDir, missing: float, *, kin: bool, lag: float
    ) -> Evidence:
        """Unknown to squeue and sacct, and it never executed: cancelled while it waited, or forgotten."""
        if not item.stopping and missing < max(lag, 2 * BELIEVED_AFTER):
            return Evidence(number)
        submitted = float((item.job.data if item.job else {}).get("at", 0.0))
        booted = None if kin or item.stopping else self._booted_at()
        if not attempt.withdraw():
            return Evidence(number, claimed=True, alive=True)
        self._forget(item, "missing", "state")
        if not item.stopping and (kin or (booted is not None and booted < submitted - CLOCKS_APART)):
            told = SchedulerEnd("CANCELLED", said="The job was cancelled in Slurm (scancel) while it waited.")
            return Evidence(number, alive=False, ended=told)
        words = "Slurm's controller restarted and has forgotten the job, which had not started: it is submitted again."
        return Evidence(number, forgotten=words)

    def _vanished(self, number: int, attempt: AttemptDir, missing: float) -> Evidence:
        """It began, Slurm knows nothing of it, and there is no exit record: its heartbeat is the second source."""
        beat = attempt.beat()
        if beat is not None and time.time() - beat < max(BEATS * self._heartbeat, self._lost_after):
            orphaned = missing > BELIEVED_AFTER
            started = attempt.started() or {}
            return Evidence(number, claimed=True, alive=True, orphaned=orphaned, started_at=started.get("started_at"))
        if missing < self._lost_after:
            return Evidence(number, claimed=True)
        if not attempt.close():
            return Evidence(number + 1, claimed=True, alive=True)
        return Evidence(number, claimed=True, alive=False)

    def _believed(self, item: Watched, state: str) -> bool:
        """Whether an end is no mere moment before a requeue."""
        return state not in PROVISIONAL or self._age(item, "state") >= BELIEVED_AFTER

    def _said(self, item: Watched, attempt: AttemptDir) -> str:
        """What the batch script wrote, where job.py never came to write anything."""
        data = item.job.data if item.job is not None else {}
        if attempt.claim() is not None or "submission" not in data:
            return ""
        index = data.get("index")
        path: Path = (
            self._runs_dir / ".submissions" / data["submission"] / ("job.out" if index is None else f"{index}.out")
        )
        try:
            return path.read_text(errors="replace")[-500:].strip()
        except OSError:
            return ""

    def _age(self, item: Watched, what: str) -> float:
        now = time.monotonic()
        return now - self._since.setdefault((item.run_id, what), now)

    def _forget(self, item: Watched, *what: str) -> None:
        for one in what:
            self._since.pop((item.run_id, one), None)


def _enough(item: Watched, record: ExitRecord) -> bool:
    """Whether it is a clean end, which needs no scheduler's word; while somebody stops the run, that tells more."""
    return not item.stopping and record.code == 0 and not record.stopped and not record.timed_out


def _alive(number: int, started: dict[str, Any], shown: dict[str, Any] | None, *, suspended: bool = False) -> Evidence:
    return Evidence(
        number,
        claimed=bool(started),
        started_at=started.get("started_at"),
        alive=True,
        suspended=suspended,
        gpus=tuple(started.get("gpus") or ()),
        scheduler=shown,
    )
