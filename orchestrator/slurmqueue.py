"""Which queued runs go to Slurm now, and together: those that ask for the same, as one job array.

Runs that arrive one after another are waited for a moment, so that a thousand POSTs cost a handful of sbatch calls.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence

from orchestrator import placement
from orchestrator.db import Database
from orchestrator.handover import Batch
from orchestrator.models import Run

QUIET = 0.3
LONGEST_WAIT = 2.0
RUNS_PER_JOB = 2000  # more take their time to write, and the loop has other things to do


class SlurmQueue:
    """Remembers what waited when it last looked."""

    def __init__(self, db: Database, max_array_size: Callable[[], int]) -> None:
        self._db = db
        self._max_array_size = max_array_size
        self._first = 0.0
        self._changed = 0.0
        self._count = 0

    def settled(self, waiting: int) -> float:
        """Seconds until those that wait are handed over; 0 when now."""
        now = time.monotonic()
        if waiting == 0:
            self._count = 0
            return 0.0
        if self._count == 0:
            self._first = now
        if waiting != self._count:
            self._count, self._changed = waiting, now
        return max(0.0, min(self._changed + QUIET, self._first + LONGEST_WAIT) - now)

    def batches(self, held_back: Sequence[str], most: Callable[[str], int | None]) -> list[Batch]:
        """The submissions to make now. ``held_back``: asks that are not to be tried; ``most``: how many runs of an ask
        the cluster takes at once, where that is known."""
        self._count = 0
        with self._db.read() as session:
            room = placement.room(session)
            waiting = placement.for_slurm(session, room.full(), held_back)
            limit = min(RUNS_PER_JOB, self._max_array_size())

            def size(run: Run) -> int:
                return min(limit, most(run.ask_key) or limit)

            whole = {
                sweep: room.left[sweep]
                for sweep, members in _by_sweep(waiting).items()
                if sweep in room.left
                and _one_array(members, room.left[sweep], size(members[0]))
                and placement.unfinished(session, sweep) == len(members)
            }
        return [
            Batch(part, throttle=whole.get(part[0].sweep_id or ""))
            for group in _groups(run for run in waiting if run.sweep_id in whole or room.take(run))
            for part in _parts(group, size(group[0]))
        ]


def _by_sweep(waiting: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in waiting:
        if run.sweep_id is not None:
            found.setdefault(run.sweep_id, []).append(run)
    return found


def _one_array(members: Sequence[Run], parallel: int, limit: int) -> bool:
    """Whether one array can hold the sweep, so that its %N keeps ``parallel``."""
    return parallel < len(members) <= limit and len({run.ask_key for run in members}) == 1


def _groups(waiting: Iterable[Run]) -> list[list[Run]]:
    """Runs that may share an array: the same ask, and the same sweep, so that a sweep's tasks stand together."""
    found: dict[tuple[str, str | None], list[Run]] = {}
    for run in waiting:
        found.setdefault((run.ask_key, run.sweep_id), []).append(run)
    return list(found.values())


def _parts(group: Sequence[Run], size: int) -> list[list[Run]]:
    parts = iter(group)
    return list(iter(lambda: list(itertools.islice(parts, size)), []))
