"""A run as those see it who know no database rows: its executor, and ``decide``."""

from typing import Any, Protocol

from orchestrator import attempts
from orchestrator.environments.model import Environment
from orchestrator.executors.base import JobHandle, Task, Watched
from orchestrator.grid import value_text
from orchestrator.models import Run
from orchestrator.resources import Container, Resources
from orchestrator.states import RunStatus, RunView


def task_of(run: Run) -> Task:
    """A run as its executor needs it."""
    return Task(
        run_id=run.id,
        attempt=run.attempt,
        command=run.command,
        workdir=run.snapshot["workdir"] if run.snapshot is not None else run.workdir,
        resources=Resources.model_validate(run.resources),
        env=run.env,
        sweep_id=run.sweep_id,
        gpus=run.lease_gpus,
        hide_gpus=run.hide_gpus,
        signal=run.signal_before_end,
        launch=run.launch,
        nice=max(0, -run.priority),
        container=Container.model_validate(run.container) if run.container is not None else None,
        environment=Environment.model_validate(run.environment) if run.environment is not None else None,
        params={name: value_text(value) for name, value in (run.sweep_params or {}).items()},
    )


class Glance(Protocol):
    """What a look at an executing run needs of its row; ``Run`` itself has it too."""

    @property
    def id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def executor(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def job(self) -> dict[str, Any] | None: ...
    @property
    def sweep_id(self) -> str | None: ...
    @property
    def stop_requested_at(self) -> float | None: ...
    @property
    def history(self) -> list[dict[str, Any]]: ...
    @property
    def wishes(self) -> dict[str, Any]: ...
    @property
    def reported(self) -> dict[str, Any] | None: ...
    @property
    def priority(self) -> int: ...
    @property
    def lease_gpus(self) -> int: ...
    @property
    def gpus(self) -> list[dict[str, Any]] | None: ...
    @property
    def gpu_retries(self) -> int: ...
    @property
    def started_at(self) -> float | None: ...
    @property
    def wandb_dir(self) -> str | None: ...


def watched_of(run: Glance) -> Watched:
    """A run as its executor is asked about it."""
    job = JobHandle(run.executor, run.job) if run.job is not None else None
    return Watched(run.id, run.attempt, job, stopping=run.stop_requested_at is not None)


def view_of(run: Glance) -> RunView:
    """A run as ``decide`` sees it."""
    return RunView(
        RunStatus(run.status),
        run.attempt,
        run.stop_requested_at is not None,
        run.reason,
        run.reported,
        closed=attempts.is_closed(run.history, run.attempt),
    )
