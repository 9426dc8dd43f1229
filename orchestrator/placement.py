"""Which queued runs may start now. Queries only; the reconciler acts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, exists
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from orchestrator.models import Dependency, Run, Sweep
from orchestrator.states import LIVE, Reason, RunStatus

WINDOW = 200
_FAILED = (RunStatus.FAILED, RunStatus.STOPPED)


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


def handed_over() -> SelectOfScalar[Run]:
    """Runs that an executor has, or may have."""
    return select(Run).where(
        col(Run.status).in_(LIVE) | ((col(Run.status) == RunStatus.QUEUED) & col(Run.submission_id).is_not(None))
    )


def room(session: Session) -> Room:
    """The room of every sweep that has a ``parallel`` and runs that wait."""
    waiting = select(Run.sweep_id).where(col(Run.status) == RunStatus.QUEUED, col(Run.sweep_id).is_not(None))
    limited = session.exec(
        select(Sweep.id, Sweep.parallel).where(col(Sweep.parallel).is_not(None), col(Sweep.id).in_(waiting))
    ).all()
    if not limited:
        return Room()
    busy = handed_over().with_only_columns(col(Run.sweep_id), func.count()).group_by(col(Run.sweep_id))
    taken = {row[0]: row[1] for row in session.connection().execute(busy)}
    return Room({sweep_id: (parallel or 0) - taken.get(sweep_id, 0) for sweep_id, parallel in limited})


def candidates(session: Session, *, gpu: bool, full_sweeps: Sequence[str], executor: str = "local") -> list[Run]:
    """Queued runs whose dependencies are met and whose sweep has room: by priority, then in order of arrival."""
    query = (
        _waiting(executor)
        .where(~_unmet(), col(Run.lease_gpus) > 0 if gpu else col(Run.lease_gpus) == 0)
        .order_by(col(Run.priority).desc(), col(Run.queued_at), col(Run.seq))
        .limit(WINDOW)
    )
    if full_sweeps:
        query = query.where(col(Run.sweep_id).is_(None) | col(Run.sweep_id).not_in(full_sweeps))
    return list(session.exec(query))


def cpus_taken(session: Session) -> int:
    """CPUs held by local runs without GPUs."""
    query = handed_over().where(col(Run.executor) == "local", col(Run.lease_gpus) == 0)
    return session.connection().execute(query.with_only_columns(func.coalesce(func.sum(col(Run.cpus)), 0))).scalar_one()


def orphans_of_failure(session: Session) -> list[tuple[Run, Run]]:
    """Queued runs with a parent that failed or was stopped, with that parent."""
    parent = aliased(Run)
    query = (
        select(Run, parent)
        .join(Dependency, col(Dependency.run_id) == col(Run.id))
        .join(parent, col(Dependency.parent_id) == parent.id)
        .where(col(Run.status) == RunStatus.QUEUED, parent.status.in_(_FAILED))  # type: ignore[attr-defined]
        .limit(WINDOW)
    )
    return [(run, failed) for run, failed in session.exec(query)]


def unexplained(session: Session, full_sweeps: Sequence[str]) -> list[tuple[str, Reason]]:
    """Queued runs that have no reason yet (or one that no longer holds), with what they wait for."""
    unmet = _unmet()
    stale = [Reason.DEPENDENCY, Reason.SWEEP_PARALLEL]
    query = (
        select(Run.id, Run.sweep_id, Run.lease_gpus, Run.reason, unmet)  # type: ignore[call-overload]
        .where(col(Run.status) == RunStatus.QUEUED, col(Run.submission_id).is_(None))
        .where(col(Run.reason).is_(None) | (col(Run.reason).in_(stale) & ~unmet))
        .limit(WINDOW)
    )
    found = []
    for run_id, sweep_id, gpus, reason, waits in session.connection().execute(query):
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


def _waiting(executor: str) -> SelectOfScalar[Run]:
    return select(Run).where(
        col(Run.status) == RunStatus.QUEUED,
        col(Run.executor) == executor,
        col(Run.submission_id).is_(None),
        col(Run.stop_requested_at).is_(None),
    )


def _unmet() -> ColumnElement[bool]:
    parent = aliased(Run)
    return exists(
        select(Dependency.run_id)
        .join(parent, col(Dependency.parent_id) == parent.id)
        .where(col(Dependency.run_id) == col(Run.id), parent.status != RunStatus.FINISHED)
        .correlate(Run)
    )
