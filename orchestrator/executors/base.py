"""The executor protocol. Executors know dataclasses and run directories, never database rows.

A submission is committed as an intent before ``submit`` is called; its name is unique. After a crash, or when
an answer is lost, ``find(name)`` looks for what became of it, and only what was not found is submitted again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from orchestrator.environments.model import Environment
from orchestrator.resources import Container, Resources
from orchestrator.slurm.options import Ask
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
    signal: str | None = None
    launch: str | None = None
    nice: int = 0
    container: Container | None = None
    environment: Environment | None = None
    params: Mapping[str, str] = field(default_factory=dict)

    def ask(self) -> Ask:
        """What decides the #SBATCH lines."""
        return Ask(self.resources, self.signal, self.launch, self.nice)


@dataclass(frozen=True)
class SubmissionSpec:
    """What goes out together: the tasks ask for the same."""

    name: str
    tasks: Sequence[Task]
    throttle: int | None = None


@dataclass(frozen=True)
class JobHandle:
    """What an executor answers and is asked about later. ``data`` is its own, JSON."""

    executor: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a submission was not accepted. ``final``: trying again cannot help; ``too_many``: fewer at once might;
    ``withdrawn``: its attempts were taken back, so that a job which appears all the same finds nothing to do."""

    message: str
    final: bool
    too_many: bool = False
    withdrawn: bool = False


@dataclass(frozen=True)
class Watched:
    """One attempt to look at."""

    run_id: str
    attempt: int
    job: JobHandle | None
    stopping: bool = False


@dataclass(frozen=True)
class Told:
    """What came of a wish, in words. ``refused``: it will not be; asking again cannot help."""

    words: str
    refused: bool = False


Action = Literal["hold", "release", "requeue", "priority"]


class Executor(Protocol):
    """Executes submissions. Every method may block, none may lose a job."""

    name: str

    def looks_at_waiting(self) -> bool:
        """Whether the next ``observe`` will tell of jobs that wait in the executor's own line, too."""
        ...

    def next_look(self) -> float:
        """Seconds until it wants to look again, if nothing else happens."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing can be handed over just now, or None."""
        ...

    def submit(self, spec: SubmissionSpec) -> dict[str, JobHandle] | Refusal:
        """Hands the submission over; each run's job. What goes wrong is a Refusal.

        Raises SchedulerUnavailable when no answer came: it may have been carried out, ``find`` tells.
        """
        ...

    def find(self, spec: SubmissionSpec) -> dict[str, JobHandle]:
        """The jobs of a submission whose answer was lost. A run that is not in it can never execute in it any more.

        Raises SchedulerUnavailable when it cannot be told now.
        """
        ...

    def observe(self, watched: Sequence[Watched]) -> dict[str, Evidence]:
        """One look at all of them, by run id. What could not be looked at is left out."""
        ...

    def cancel(self, stopping: Sequence[tuple[Watched, float]]) -> dict[str, str]:
        """Asks these jobs to end (again), each with the seconds since that was first wished.

        Answers what was done, by run id, for the runs' events; nothing new is left out.
        """
        ...

    def steer(self, action: Action, items: Sequence[tuple[Watched, int]]) -> dict[str, Told]:
        """Asks for the action, each with the run's priority; what was done, by run id."""
        ...

    def confirms(self, action: Action, watched: Watched, priority: int) -> Told | None:
        """What has become of the action by its last look (with ``priority`` the run's as it is wished now); None while
        nothing is to be seen of it."""
        ...

    def throttle(self, wanted: Mapping[str, int]) -> list[str]:
        """Lets at most so many tasks of each submission's array run at once (0: no limit), where its last look shows
        otherwise; those it was newly asked of."""
        ...

    def strays(self, watched: Sequence[Watched]) -> list[tuple[str, int | None]]:
        """Jobs that look like ours and are not watched: submission and array index."""
        ...

    def end_strays(self, keys: Sequence[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
        """Ends them; those it was newly asked of."""
        ...

    def close(self) -> None:
        """Lets go of what it has in hand; jobs go on."""
        ...
