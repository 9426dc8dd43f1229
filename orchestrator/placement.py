"""Which queued runs may start now. Queries only; the reconciler acts.

The statements are made once: building one costs more than running it, and each pass runs them all.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Boolean, Float, bindparam, exists, literal_column
from sqlalchemy import select as sql_select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from orchestrator.models import Dependency, Run, Submission, Sweep
from orchestrator.states import LIVE, Reason, RunStatus
from orchestrator.views import Glance

WINDOW = 200
SLURM_WINDOW = 4000
SETTLED = 3.0  # seconds within which a run has gone to Slurm, where all is well: nothing need be said of its waiting

_Parent = aliased(Run)
_QUEUED = col(Run.status) == RunStatus.QUEUED
_UNMET = exists(
    select(Dependency.run_id)
    .join(_Parent, col(Dependency.parent_id) == _Parent.id)
    .where(col(Dependency.run_id) == col(Run.id), col(_Parent.status) != RunStatus.FINISHED)
    .correlate(Run)
)
_MAY_START = ~col(Run.held) & (col(Run.not_before) <= bindparam("now", type_=Float))
_WITH_ROOM = col(Run.sweep_id).is_(None) | col(Run.sweep_id).not_in(bindparam("full_sweeps", expanding=True))
_HANDED_OVER = col(Run.status).in_(LIVE) | (_QUEUED & col(Run.submission_id).is_not(None))


_GLANCED: tuple[Any, ...] = (
    *(Run.id, Run.status, Run.reason, Run.executor, Run.attempt, Run.job, Run.stop_requested_at, Run.wishes),
    *(Run.sweep_id, Run.history),
    *(Run.reported, Run.priority, Run.lease_gpus, Run.gpus, Run.gpu_retries, Run.started_at, Run.wandb_dir),
)


def _handed_over(*, waiting: bool) -> Any:
    stopping = _QUEUED & col(Run.submission_id).is_not(None) & col(Run.stop_requested_at).is_not(None)
    among = _HANDED_OVER if waiting else col(Run.status).in_(LIVE) | stopping
    return sql_select(*_GLANCED).where(among, col(Run.executor) == bindparam("executor"), col(Run.job).is_not(None))


_WATCHED = {waiting: _handed_over(waiting=waiting) for waiting in (False, True)}
INTENTS = select(Submission).where(col(Submission.state) == "intent")

_GPU = (col(Run.lease_gpus) > literal_column("0")).label("gpu")  # a bound 0 would be another expression to PostgreSQL
_WAITING = (
    sql_select(col(Run.executor), _GPU, func.count())
    .where(_QUEUED, col(Run.submission_id).is_(None))
    .group_by(col(Run.executor), _GPU)
)
_LIMITED = select(Sweep.id, Sweep.parallel).where(
    col(Sweep.parallel).is_not(None),
    col(Sweep.id).in_(select(Run.sweep_id).where(_QUEUED, col(Run.sweep_id).is_not(None))),
)
_BUSY = sql_select(col(Run.sweep_id), func.count()).where(_HANDED_OVER).group_by(col(Run.sweep_id))
_CPUS = sql_select(func.coalesce(func.sum(col(Run.cpus)), 0)).where(
    _HANDED_OVER, col(Run.executor) == "local", col(Run.lease_gpus) == 0
)
_HERE = col(Run.executor) == "local"
_UNEXPLAINED = (
    sql_select(
        *(col(Run.id), col(Run.sweep_id), col(Run.lease_gpus), col(Run.reason), _UNMET),
        *(col(Run.executor), col(Run.held), col(Run.not_before)),
    )
    .where(_QUEUED, col(Run.submission_id).is_(None))
    .where(
        (
            col(Run.reason).is_(None)
            & (_HERE | _UNMET | col(Run.held) | (col(Run.queued_at) < bindparam("settled", type_=Float)))
        )
        | ((col(Run.reason) == Reason.DEPENDENCY) & ~_UNMET)
        | ((col(Run.reason) == Reason.HELD) & ~col(Run.held))
        | (col(Run.held) & (col(Run.reason) != Reason.HELD))
        | ((col(Run.reason) == Reason.CLUSTER_DEGRADED) & bindparam("slurm_well", type_=Boolean))
        | ((col(Run.reason) == Reason.SLURM_WAIT) & ~bindparam("slurm_well", type_=Boolean))
        | ((col(Run.reason) == Reason.SWEEP_PARALLEL) & _WITH_ROOM)
    )
    .limit(WINDOW)
)
_ORPHANS = (
    select(Run, _Parent)
    .join(Dependency, col(Dependency.run_id) == col(Run.id))
    .join(_Parent, col(Dependency.parent_id) == _Parent.id)
    .where(_QUEUED, col(_Parent.status).in_([RunStatus.FAILED, RunStatus.STOPPED]))
    .limit(WINDOW)
)


def _candidates(*, gpu: bool) -> SelectOfScalar[Run]:
    return (
        select(Run)
        .where(
            _QUEUED,
            col(Run.executor) == "local",
            col(Run.submission_id).is_(None),
            col(Run.stop_requested_at).is_(None),
            _MAY_START,
            col(Run.lease_gpus) > 0 if gpu else col(Run.lease_gpus) == 0,
            ~_UNMET,
            _WITH_ROOM,
        )
        .order_by(col(Run.priority).desc(), col(Run.queued_at), col(Run.seq))
        .limit(WINDOW)
    )


_CANDIDATES = {gpu: _candidates(gpu=gpu) for gpu in (False, True)}
_FOR_SLURM = (
    select(Run)
    .where(
        _QUEUED,
        col(Run.executor) == "slurm",
        col(Run.submission_id).is_(None),
        col(Run.stop_requested_at).is_(None),
        _MAY_START,
        ~_UNMET,
        _WITH_ROOM,
        col(Run.ask_key).not_in(bindparam("held_back", expanding=True)),
    )
    .order_by(col(Run.priority).desc(), col(Run.queued_at), col(Run.seq))
    .limit(SLURM_WINDOW)
)


@dataclass(frozen=True)
class Waiting:
    """How many queued runs wait: here without and with GPUs, and to be submitted to Slurm."""

    cpu: int
    gpu: int
    slurm: int = 0

    def __bool__(self) -> bool:
        return bool(self.cpu or self.gpu or self.slurm)


@dataclass
class Room:
    """How many more runs of each sweep with a ``parallel`` may start. Used up as runs are picked."""

    left: dict[str, int] = field(default_factory=dict)

    def take(self, run: Run) -> bool:
        """Whether the run's sweep has room; uses it."""
        if run.sweep_id not in self.left:
            return True
        if self.left[run.sweep_id] <= 0:
            return False
        self.left[run.sweep_id] -= 1
        return True

    def full(self) -> list[str]:
        """Sweeps that have no room."""
        return [sweep_id for sweep_id, left in self.left.items() if left <= 0]


def waiting(session: Session) -> Waiting:
    """Whether anything waits at all."""
    counts = {(row[0], bool(row[1])): row[2] for row in session.connection().execute(_WAITING)}
    return Waiting(counts.get(("local", False), 0), counts.get(("local", True), 0), counts.get(("slurm", False), 0))


def watched(session: Session, executor: str, *, waiting: bool) -> list[Glance]:
    """Runs that an executor has; without ``waiting`` only those that have left its line, or are to leave it.

    Plain rows: with thousands in Slurm's line, objects cost more than all the rest of a pass.
    """
    rows = session.connection().execute(_WATCHED[waiting], {"executor": executor}).all()
    return cast(list[Glance], [row for row in rows if row.job is not None])


def room(session: Session) -> Room:
    """The room of every sweep that has a ``parallel`` and runs that wait."""
    limited = session.exec(_LIMITED).all()
    if not limited:
        return Room()
    taken = {row[0]: row[1] for row in session.connection().execute(_BUSY)}
    return Room({sweep_id: (parallel or 0) - taken.get(sweep_id, 0) for sweep_id, parallel in limited})


def candidates(session: Session, *, gpu: bool, full_sweeps: Sequence[str]) -> list[Run]:
    """Queued runs whose dependencies are met and whose sweep has room: by priority, then in order of arrival."""
    return list(session.exec(_CANDIDATES[gpu], params={"full_sweeps": list(full_sweeps), "now": time.time()}))


def for_slurm(session: Session, full_sweeps: Sequence[str], held_back: Sequence[str]) -> list[Run]:
    """The same, of those that go to Slurm, but for asks that the cluster has refused a while ago."""
    given = {"full_sweeps": list(full_sweeps), "now": time.time(), "held_back": list(held_back)}
    return list(session.exec(_FOR_SLURM, params=given))


def unfinished(session: Session, sweep_id: str) -> int:
    """How many of a sweep's runs are queued or handed over."""
    found = session.exec(
        select(func.count()).where(col(Run.sweep_id) == sweep_id, col(Run.status).in_([RunStatus.QUEUED, *LIVE]))
    )
    return int(found.one())


def cpus_taken(session: Session) -> int:
    """CPUs held by local runs without GPUs."""
    return int(session.connection().execute(_CPUS).scalar_one())


def orphans_of_failure(session: Session) -> list[tuple[Run, Run]]:
    """Queued runs with a parent that failed or was stopped, with that parent."""
    return [(run, failed) for run, failed in session.exec(_ORPHANS)]


def unexplained(session: Session, full_sweeps: Sequence[str], *, slurm_well: bool) -> list[tuple[str, Reason]]:
    """Queued runs that have no reason yet (or one that no longer holds), with what they wait for."""
    found = []
    given = {"full_sweeps": list(full_sweeps), "slurm_well": slurm_well, "settled": time.time() - SETTLED}
    for run_id, sweep_id, gpus, reason, waits, executor, held, not_before in session.connection().execute(
        _UNEXPLAINED, given
    ):
        if held:
            now = Reason.HELD
        elif not_before > time.time():
            now = Reason.RETRYING
        elif executor == "slurm" and not waits and sweep_id not in full_sweeps:
            now = Reason.SLURM_WAIT if slurm_well else Reason.CLUSTER_DEGRADED
        else:
            now = _reason(sweep_id, gpus, waits, full_sweeps)
        if now != reason:
            found.append((run_id, now))
    return found


def _reason(sweep_id: str | None, gpus: int, waits: bool, full_sweeps: Sequence[str]) -> Reason:
    if waits:
        return Reason.DEPENDENCY
    if sweep_id in full_sweeps:
        return Reason.SWEEP_PARALLEL
    return Reason.GPU_WAIT if gpus else Reason.CPU_WAIT
