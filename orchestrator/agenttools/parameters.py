"""The parameters of the tools, typed and described once.

What a run asks for is checked by the service, whose words then come back; here stands what a model has to know of it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.agenttools.shortening import Json
from orchestrator.strict import Strict

# An id goes into a path: nothing else does.
_ID = r"^[A-Za-z0-9_\-]{1,64}$"
RunId = Annotated[str, Field(pattern=_ID, description="The run's id, as runs or create_run tells it.")]
SweepId = Annotated[str, Field(pattern=_ID, description="The sweep's id, as sweeps or create_sweep tells it.")]
PlanId = Annotated[str, Field(pattern=_ID, description="The plan's id, as plans or save_plan tells it.")]
AlertId = Annotated[str, Field(pattern=_ID, description="The alert's id, as alerts tells it.")]

OfRun = Annotated[str | None, Field(pattern=_ID, description="Only of this run.")]
OfSweep = Annotated[str | None, Field(pattern=_ID, description="Only of this sweep.")]
OfPlan = Annotated[str | None, Field(pattern=_ID, description="Only of this plan.")]

Limit = Annotated[int, Field(ge=1, le=50, description="At most so many, newest first.")]
Before = Annotated[int | None, Field(ge=1, description="The cursor that the page before named; without: the newest.")]
Offset = Annotated[
    int, Field(ge=0, description="Where in the text to begin, in characters, as the part before named it.")
]
Markdown = Annotated[str, Field(max_length=1_000_000, description="The whole plan, as markdown.")]
Key = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=255,
        description="A key of your own making. A repeat of the same call under it within 24 hours gets the first "
        "answer and makes nothing new. Without one, calling again makes a new thing.",
    ),
]

RunStatus = Literal["ready", "queued", "launching", "running", "finished", "failed", "stopped"]
PlanStatus = Literal["draft", "approved", "executing", "completed", "archived"]


class Resources(BaseModel):
    """What a run is given. What is left out is its plan's, then the site's."""

    model_config = ConfigDict(extra="allow")

    gpus: int | None = Field(default=None, description="GPUs per node.")
    cpus: int | None = Field(default=None, description="CPU cores per node.")
    mem: str | None = Field(default=None, description='Memory per node: "16G", "500M".')
    time: str | int | None = Field(default=None, description='Time limit: "1-00:00:00", "2:00:00", or minutes.')
    nodes: int | None = Field(default=None, description="Nodes, under Slurm.")


class Asked(Strict):
    """What runs ask for, besides their command."""

    workdir: str | None = Field(default=None, description="Where it runs: an absolute path.")
    resources: Resources | None = None
    env: dict[str, str] | None = Field(default=None, description="Environment variables.")
    executor: Literal["local", "slurm"] | None = Field(
        default=None, description="Without: as the machine was detected."
    )
    profile: str | None = Field(default=None, description="A profile that the site names.")
    more: dict[str, Any] | None = Field(
        default=None,
        description="Further fields as POST /runs takes them: environment, retry, signal, launch, container, snapshot, "
        "priority, gpuwrap_config.",
    )

    def body(self) -> Json:
        """What was given, as the service takes it."""
        found: Json = self.model_dump(mode="json", exclude_unset=True, exclude={"more"})
        return {**(self.more or {}), **{name: value for name, value in found.items() if value is not None}}


class RunAsked(Asked):
    """A run: a command in bash, and what it asks for."""

    name: str = Field(description="What people call it.")
    command: str = Field(description="Shell text, run in a fresh bash in workdir.")
    plan_id: str | None = Field(default=None, description="The approved plan that it belongs to.")
    sweep_id: str | None = Field(default=None, description="The sweep that it belongs to.")
    sweep_params: dict[str, Any] | None = Field(default=None, description="Which configuration it is, by parameter.")
    depends_on: list[str] | None = Field(default=None, description="Ids of runs that must finish first.")
    tags: list[str] | None = None
    auto_start: bool = Field(default=True, description="Queue it at once.")

    def body(self) -> Json:
        """With auto_start always said: the service's own default is another."""
        return super().body() | {"auto_start": self.auto_start}


class SweepAsked(Asked):
    """A sweep: one run per configuration of a grid."""

    name: str = Field(description="What people call it.")
    base_command: str = Field(description="Shell text; --NAME=VALUE is appended for each parameter.")
    parameters: dict[str, list[Any]] = Field(description='The grid: {"lr": [0.1, 0.01], "seed": [1, 2]}.')
    plan_id: str | None = Field(default=None, description="The approved plan that it belongs to.")
    goal: str | None = Field(default=None, description="What it is to find out.")
    max_runs: int | None = Field(default=None, description="Refuse a grid that is larger.")
    parallel: int | None = Field(default=None, description="Keep so many going at once.")
    tags: list[str] | None = None
    auto_start: bool = Field(default=True, description="Queue its runs at once.")

    def body(self) -> Json:
        """With auto_start always said: the service's own default is another."""
        return super().body() | {"auto_start": self.auto_start}


class ExecutionAsked(Asked):
    """How a plan is executed, where that differs from what the plan itself says."""

    command: str | None = Field(default=None, description="With {lr} for a value of the plan's table.")
    parallel: int | None = Field(default=None, description="Keep so many runs going at once.")
    auto_start: bool | None = Field(default=None, description="Queue its runs at once (without: yes).")
