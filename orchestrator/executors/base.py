"""The executor protocol. Executors know dataclasses and run directories, never database rows.

A submission is committed as an intent before ``submit`` is called; its name is unique. After a crash, or when
an answer is lost, ``find(name)`` looks for what became of it, and only what was not found is submitted again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.resources import Resources
from orchestrator.states import Evidence


@dataclass(frozen=True)
class Task:
    """One run's attempt, as an executor needs it."""

    run_id: str
    attempt: int
    command: str
    workdir: str | None
    resources: Resources
    env: dict[str, str]
    sweep_id: str | None = None
    gpus: int = 0
    hide_gpus: bool = False


@dataclass(frozen=True)
class SubmissionSpec:
    """What goes out together: the tasks ask for the same."""

    name: str
    tasks: Sequence[Task]


@dataclass(frozen=True)
class JobHandle:
    """What an executor answers and is asked about later. ``data`` is its own, JSON."""

    executor: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a submission was not accepted; ``final`` means that trying again cannot help."""

    message: str
    final: bool


@dataclass(frozen=True)
class Watched:
    """One attempt to look at."""

    run_id: str
    attempt: int
    job: JobHandle | None


class Executor(Protocol):
    """Executes submissions. Every method may block, none may lose a job."""

    name: str

    def submit(self, spec: SubmissionSpec) -> JobHandle | Refusal:
        """Hands the submission over. Raises nothing: what goes wrong is a Refusal."""
        ...

    def find(self, spec: SubmissionSpec) -> JobHandle | None:
        """The job of a submission whose answer was lost. None: there is none, and it can never execute any more."""
        ...

    def observe(self, watched: Sequence[Watched]) -> dict[str, Evidence]:
        """One look at all of them, by run id. What could not be looked at is left out."""
        ...

    def cancel(self, watched: Watched, seconds_since_asked: float) -> str | None:
        """Asks the job to end (again); answers what it did, for the run's events, or None for nothing new."""
        ...

    def close(self) -> None:
        """Lets go of what it has in hand; jobs go on."""
        ...
