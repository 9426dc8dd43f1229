"""What people wish of runs that an executor has: hold, release, requeue, another priority. Wishes are recorded first,
carried out many at once, and believed only when the executor's own look confirms them."""

import time
from collections.abc import Mapping, Sequence, Set
from typing import Any

from sqlmodel import Session, col, select

from orchestrator import runs
from orchestrator.db import Database
from orchestrator.executors.base import Action, Executor, Told
from orchestrator.journal import SERVICE, change, record
from orchestrator.models import Submission, Sweep
from orchestrator.views import Glance, watched_of

ASK_AGAIN = 10.0
ACTIONS: tuple[Action, ...] = ("hold", "release", "requeue", "priority")


class Steering:
    """Remembers what it has asked for, and when."""

    def __init__(self, db: Database, executors: dict[str, Executor]) -> None:
        self._db = db
        self._executors = executors
        self._asked: dict[str, dict[tuple[str, str, int], float]] = {}  # by executor: each has a look of its own

    def carry_out(self, name: str, live: Sequence[Glance], moved: Set[str] = frozenset()) -> None:
        """Every wish of these runs that is not confirmed yet. ``moved``: those whose wishes may be fulfilled by a move
        of this very look, so that they are asked for by the next."""
        wishing = [run for run in live if run.wishes and run.stop_requested_at is None]
        waited = {run.id for run in wishing}
        self._asked[name] = {asked: at for asked, at in self._asked.get(name, {}).items() if asked[0] in waited}
        for action in ACTIONS:
            wanted = [run for run in wishing if action in run.wishes and run.id not in moved]
            if wanted:
                self._one(name, action, wanted)

    def _one(self, name: str, action: Action, wanted: Sequence[Glance]) -> None:
        executor, asked, now = self._executors[name], self._asked[name], time.monotonic()
        seen = {run.id: told for run in wanted if (told := executor.confirms(action, watched_of(run), run.priority))}
        due = [
            run
            for run in wanted
            if run.id not in seen and now - asked.get((run.id, action, run.priority), -ASK_AGAIN) >= ASK_AGAIN
        ]
        said = executor.steer(action, [(watched_of(run), run.priority) for run in due]) if due else {}
        asked |= {(run.id, action, run.priority): now for run in due if run.id in said}
        refused = {run_id: told for run_id, told in said.items() if told.refused}
        self._settle(action, {run.id: run.priority for run in wanted}, seen | refused)
        for run in wanted:
            if run.id in seen or run.id in refused:
                asked.pop((run.id, action, run.priority), None)
        sent = {run_id: told.words for run_id, told in said.items() if not told.refused}
        if sent:
            self._db.write(
                lambda session: [
                    record(session, SERVICE, f"run.{action}", f"run:{run}", text) for run, text in sent.items()
                ]
            )

    def _settle(self, action: Action, priorities: Mapping[str, int], settled: Mapping[str, Told]) -> None:
        """These wishes are fulfilled, or will never be, unless another has come meanwhile."""
        if not settled:
            return

        def write(session: Session) -> None:
            for run_id, told in settled.items():
                run = runs.get(session, run_id)
                if action not in run.wishes or (action == "priority" and run.priority != priorities[run_id]):
                    continue
                fields: dict[str, Any] = {"wishes": {name: at for name, at in run.wishes.items() if name != action}}
                if action == "hold" and told.refused:
                    fields["held"] = False
                change(session, run, SERVICE, f"run.{action}", f"run:{run_id}", fields, told.words)

        self._db.write(write)

    # -- how many of a sweep at once ---------------------------------------------------------------------------------

    def throttle(self, name: str, live: Sequence[Glance]) -> None:
        """A sweep's ``parallel``, changed since its array went out, becomes the array's %N.

        Where one array holds all that Slurm has of the sweep; else the service holds back what is not submitted yet.
        """
        arrays = _whole_arrays(live)
        if not arrays:
            return
        with self._db.read() as session:
            limits = dict(session.exec(select(Sweep.id, Sweep.parallel).where(col(Sweep.id).in_(arrays))).all())
            names = select(Submission).where(col(Submission.id).in_(arrays.values()))
            wanted = _throttles({known.id: known for known in session.exec(names)}, arrays, limits)
        asked = self._executors[name].throttle(wanted)
        if not asked:
            return

        def write(session: Session) -> None:
            for sweep, submission in arrays.items():
                found = session.get(Submission, submission) if submission in asked else None
                if found is not None:
                    found.throttle = wanted[submission] or None
                    session.add(found)
                    words = (
                        f"Array {submission} is told to run {wanted[submission] or 'any number of'} task(s) at once."
                    )
                    record(session, SERVICE, "sweep.throttled", f"sweep:{sweep}", words)

        self._db.write(write)

    # -- what nobody should have any more --------------------------------------------------------------------------

    def end_strays(self, name: str, live: Sequence[Glance]) -> None:
        """Jobs of ours that go on though their run has ended, or has them no more: told to end, with an event.

        Only what this database has submitted: another server of the same user may have jobs of such names too.
        """
        strays = self._executors[name].strays([watched_of(run) for run in live])
        if not strays:
            return
        with self._db.read() as session:
            ours = select(Submission).where(col(Submission.id).in_({submission for submission, _ in strays}))
            known = {found.id: found for found in session.exec(ours)}
        mine = [key for key in strays if key[0] in known and known[key[0]].state != "intent"]
        ended = self._executors[name].end_strays(mine)
        if not ended:
            return

        def write(session: Session) -> None:
            for submission, index in ended:
                run_id = known[submission].run_ids[index or 0]
                words = f"Its job {submission} goes on, though the run does not have it any more: it is cancelled."
                record(session, SERVICE, "run.stray_job", f"run:{run_id}", words)

        self._db.write(write)


def _whole_arrays(live: Sequence[Glance]) -> dict[str, str]:
    """The sweeps of which an executor has one array and nothing else, with its submission."""
    found: dict[str, set[str]] = {}
    for run in live:
        if run.sweep_id is not None and run.job is not None:
            array = run.job["submission"] if run.job.get("index") is not None else ""
            found.setdefault(run.sweep_id, set()).add(array)
    return {sweep: name for sweep, names in found.items() if len(names) == 1 and (name := next(iter(names)))}


def _throttles(
    known: Mapping[str, Submission], arrays: Mapping[str, str], limits: Mapping[str, int | None]
) -> dict[str, int]:
    """The %N of each array that has one, or should: 0 for none."""
    wanted: dict[str, int] = {}
    for sweep, name in arrays.items():
        limit, size = limits.get(sweep), len(known[name].run_ids)
        if limit is not None and limit < size:
            wanted[name] = limit
        elif known[name].throttle is not None:
            wanted[name] = 0
    return wanted
