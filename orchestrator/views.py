"""A run as those see it who know no database rows: its executor, and ``decide``."""

from orchestrator.executors.base import JobHandle, Task, Watched
from orchestrator.models import Run
from orchestrator.resources import Resources
from orchestrator.states import RunStatus, RunView


def task_of(run: Run) -> Task:
    """A run as its executor needs it."""
    return Task(
        run_id=run.id,
        attempt=run.attempt,
        command=run.command,
        workdir=run.workdir,
        resources=Resources.model_validate(run.resources),
        env=run.env,
        sweep_id=run.sweep_id,
        gpus=run.lease_gpus,
        hide_gpus=run.hide_gpus,
    )


def watched_of(run: Run) -> Watched:
    """A run as its executor is asked about it."""
    return Watched(run.id, run.attempt, JobHandle(run.executor, run.job) if run.job is not None else None)


def view_of(run: Run) -> RunView:
    """A run as ``decide`` sees it."""
    return RunView(RunStatus(run.status), run.attempt, run.stop_requested_at is not None, run.reason, run.reported)
