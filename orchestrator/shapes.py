"""The bodies of requests. Unknown fields are refused, the seed's own that mean nothing here are passed over."""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.environments.model import EnvironmentAsked
from orchestrator.resources import Container, Resources, TimeLimit
from orchestrator.strict import Strict

MAX_DEPTH = 100
LARGEST = 1_000_000_000
SEED_FIELDS = {"tmux_pane", "tmux_window", "model_provider", "model_id"}


def _named(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


Name = Annotated[str, Field(max_length=500), AfterValidator(_named)]
Command = Annotated[str, AfterValidator(_named)]
Short = Annotated[str, Field(max_length=500)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


def clean(value: Any, where: str = "", depth: int = 0, *, finite: bool = True) -> None:
    """Refuses what no file, database or JSON can hold: NUL characters, halves of surrogate pairs, numbers without a
    value, numbers of more than 64 bits, and nesting that nobody reads."""
    place = where or "the body"
    if depth > MAX_DEPTH:
        raise ValueError(f"{place[:200]} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        _clean_text(value, place)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if finite and not -(2**63) <= value < 2**63:
            raise ValueError(f"{place} is a number of more than 64 bits")
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            raise ValueError(f"{place} is not a number (NaN or Infinity)")
    elif isinstance(value, dict):
        for key, item in value.items():
            _clean_text(key, f"a key of {place}")
            clean(item, f"{where}.{key}" if where else str(key), depth + 1, finite=finite)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            clean(item, f"{where}[{position}]", depth + 1, finite=finite)


def _clean_text(value: str, place: str) -> None:
    if "\0" in value:
        raise ValueError(f"{place} holds a NUL character; leave it out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} is not valid Unicode (half of a surrogate pair)") from None


class Body(Strict):
    """What every request body has in common."""

    finite: ClassVar[bool] = True
    not_null: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, data: Any) -> Any:
        clean(data, finite=cls.finite)
        if not isinstance(data, dict):
            return data
        for name in cls.not_null & data.keys():
            if data[name] is None:
                raise ValueError(f"{name} must not be null: leave it out to keep what it is")
        return {key: value for key, value in data.items() if key not in SEED_FIELDS}


class GpuwrapConfig(Body):
    """How a run gets GPUs on a shared machine. ``retries`` -1: without end."""

    enabled: bool | None = None
    retries: int = Field(default=-1, ge=-1, le=LARGEST)
    retry_delay_seconds: float = Field(default=5.0, gt=0, le=600)


RetryReason = Literal[
    "PREEMPTED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY", "NONZERO_EXIT", "SIGNAL", "LOST", "BAD_ENVIRONMENT"
]


class Retry(Body):
    """When a failed attempt is followed by another, on every executor.

    ``max``: retries, not attempts. ``exit_codes``: these alone, besides the reasons in ``on``. ``memory_factor``: after
    OUT_OF_MEMORY the next attempt asks for so much more (where ``resources.mem`` is set).
    """

    max: int = Field(default=1, ge=0, le=1000)
    on: list[RetryReason] = Field(default=["PREEMPTED", "NODE_FAIL"], max_length=10)
    exit_codes: list[Annotated[int, Field(ge=1, le=255)]] = Field(default_factory=list, max_length=255)
    memory_factor: float = Field(default=2.0, ge=1.0, le=16.0)
    delay_seconds: float = Field(default=0.0, ge=0, le=86_400)


class RunTerms(Body):
    """What a run asks for, besides its command.

    ``signal``: "USR1@120" gives the command SIGUSR1 120 seconds before its time limit. ``launch``: how a run of several
    nodes starts on them. ``snapshot``: the code is kept as it is now, and every attempt runs that.
    """

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}$")] | None = None
    environment: EnvironmentAsked | None = None
    retry: Retry | None = None
    signal: Annotated[str, Field(pattern=r"^USR[12]@[1-9][0-9]{0,4}$")] | None = None
    launch: Literal["torchrun", "env"] | None = None
    container: Container | None = None
    snapshot: bool = False
    resources: Resources = Resources()
    executor: Literal["local", "slurm"] | None = None
    env: dict[EnvName, str] = Field(default_factory=dict, max_length=1000)
    tags: list[Short] = Field(default_factory=list, max_length=100)
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)
    gpuwrap_config: GpuwrapConfig | None = None


class RunCreate(RunTerms):
    """POST /runs."""

    name: Name
    command: Command
    workdir: str | None = None
    sweep_id: str | None = None
    parent_run_id: str | None = None
    origin_alert_id: str | None = None
    chat_session_id: str | None = None
    plan_id: str | None = None
    sweep_params: dict[str, Any] | None = None
    depends_on: list[str] = Field(default_factory=list, max_length=1000)
    auto_start: bool = False
    dry_run: bool = False


class RunsCreate(Body):
    """POST /runs/bulk: all of them, or none."""

    runs: list[RunCreate] = Field(min_length=1, max_length=10_000)


class RunsWait(Body):
    """POST /runs/wait. ``timeout``: seconds; what is not over by then is told as it is."""

    ids: list[str] = Field(min_length=1, max_length=10_000)
    until: Literal["any", "all"] = "all"
    timeout: float = Field(default=60.0, ge=0, le=3600)


class RunUpdate(Body):
    """PUT /runs/{id}."""

    name: Name | None = None
    command: Command | None = None
    workdir: str | None = None


class RunRerun(Body):
    """POST /runs/{id}/rerun."""

    command: Command | None = None
    auto_start: bool = False
    origin_alert_id: str | None = None
    gpuwrap_config: GpuwrapConfig | None = None
    resources: Resources | None = None


class Priority(Body):
    """POST /runs/{id}/priority. Higher goes first; below zero is niceness in Slurm."""

    priority: int = Field(ge=-1_000_000, le=1_000_000)


class EnvironmentDetect(Body):
    """POST /environment/detect."""

    workdir: str | None = None


class RunReport(Body):
    """POST /runs/{id}/status, from a job-side helper."""

    status: Literal["launching", "running", "finished", "failed", "stopped"]
    exit_code: int | None = Field(default=None, ge=-255, le=255)
    error: str | None = Field(default=None, max_length=10_000)
    wandb_dir: str | None = None


class MetricRows(Body):
    """POST /runs/{id}/metrics. NaN and Infinity are values here."""

    finite: ClassVar[bool] = False

    rows: list[dict[str, Any]] = Field(max_length=10_000)


class AlertCreate(Body):
    """POST /runs/{id}/alerts."""

    message: Annotated[str, Field(max_length=20_000), AfterValidator(_named)]
    choices: list[Short] = Field(min_length=1, max_length=50)
    severity: Literal["info", "warning", "critical"] = "warning"


class AlertResponse(Body):
    """POST /alerts/{id}/respond."""

    choice: str


SweepWord = Literal["draft", "pending", "running", "completed", "failed", "canceled"]


class SweepWild(Body):
    """POST /sweeps/wild: an empty tracking sweep."""

    name: Name = "Wild sweep"
    goal: str = Field(default="", max_length=100_000)
    chat_session_id: str | None = None
    plan_id: str | None = None


class SweepCreate(RunTerms):
    """POST /sweeps: one run per configuration of ``parameters``."""

    name: Name
    base_command: Command
    workdir: str | None = None
    parameters: dict[str, list[Any]]
    max_runs: int | None = Field(default=None, ge=1, le=LARGEST)
    auto_start: bool = False
    goal: str | None = Field(default=None, max_length=100_000)
    status: Literal["draft", "pending", "running"] | None = None
    chat_session_id: str | None = None
    ui_config: dict[str, Any] | None = None
    creation_context: dict[str, Any] | None = None
    plan_id: str | None = None
    parallel: int | None = Field(default=None, ge=1, le=LARGEST)


class SweepUpdate(Body):
    """PUT /sweeps/{id}."""

    not_null: ClassVar[frozenset[str]] = frozenset({"name", "base_command", "parameters", "status"})

    name: Name | None = None
    base_command: Command | None = None
    workdir: str | None = None
    parameters: dict[str, list[Any]] | None = None
    max_runs: int | None = Field(default=None, ge=1, le=LARGEST)
    goal: str | None = Field(default=None, max_length=100_000)
    status: SweepWord | None = None
    ui_config: dict[str, Any] | None = None
    parallel: int | None = Field(default=None, ge=1, le=LARGEST)


class PlanCreate(Body):
    """POST /plans. ``title`` and ``goal`` are needed where the markdown does not say them."""

    title: Name | None = None
    goal: str | None = Field(default=None, max_length=100_000)
    session_id: str | None = None
    sections: dict[str, Any] | None = None
    raw_markdown: str = Field(default="", max_length=1_000_000)


class PlanUpdate(Body):
    """PATCH /plans/{id}: never the status, which has endpoints of its own."""

    not_null: ClassVar[frozenset[str]] = frozenset({"title", "raw_markdown"})

    title: Name | None = None
    sections: dict[str, Any] | None = None
    raw_markdown: str | None = Field(default=None, max_length=1_000_000)


class PlanBudget(Body):
    """What all runs of a plan together may use. ``wall_time`` in sbatch's forms, from the plan's execution on."""

    gpu_hours: float | None = Field(default=None, ge=0, le=1e9)
    runs: int | None = Field(default=None, ge=1, le=LARGEST)
    wall_time: TimeLimit | None = None


class PlanApproval(Body):
    """POST /plans/{id}/approve. ``budget`` goes before the plan's own.

    ``dry_run``: what would be frozen, and what is wrong, without doing it. ``approved_hash``: as that told it; where
    the plan or what it would allow has changed since, the answer is 409.
    """

    force: bool = False
    approved_hash: str | None = None
    budget: PlanBudget | None = None
    dry_run: bool = False


class PlanTerms(RunTerms):
    """How a plan runs: its command (``{lr}`` stands for a value of its table), where, and on what."""

    command: Command | None = None
    workdir: str | None = None
    parallel: int | None = Field(default=None, ge=1, le=LARGEST)


class PlanBlock(PlanTerms):
    """The block of a plan's markdown that says how it runs."""

    budget: PlanBudget | None = None


class PlanExecute(PlanTerms):
    """POST /plans/{id}/execute. What is left out is taken from the plan; without any command it is only marked."""

    auto_start: bool = True
    dry_run: bool = False


class PlanCheck(Body):
    """POST /plans/check: how a plan's markdown is read, without saving it."""

    raw_markdown: str = Field(max_length=1_000_000)


class PlanAmendment(Body):
    """POST /plans/{id}/amendments: more that an approved plan allows, or less of its budget.

    ``commands``: more of them, with places as the plan's own; ``exact_commands``: as they are, braces too;
    ``parameters``: values more; ``terms``: as in a refusal's ``diff``, by name ("resources.gpus"); null: without any.
    ``dry_run``: what that would change, without doing it; ``approved_hash``: as that told it, 409 where it changed.
    """

    commands: list[Command] = Field(default_factory=list, max_length=1000)
    exact_commands: list[Command] = Field(default_factory=list, max_length=1000)
    parameters: dict[str, list[Any]] = Field(default_factory=dict, max_length=1000)
    terms: dict[Short, Any] = Field(default_factory=dict, max_length=1000)
    budget: PlanBudget | None = None
    reason: str = Field(default="", max_length=10_000)
    approved_hash: str | None = None
    dry_run: bool = False


Scope = Literal["read", "plan", "run", "approve", "admin"]
Epoch = Annotated[float, Field(gt=0, lt=1e11)]


class SkillRender(Body):
    """POST /skills/{name}/render. ``show_token``: the token of this request stands in the text."""

    goal: str = Field(default="", max_length=20_000)
    show_token: bool = False


class TokenCreate(Body):
    """POST /tokens. ``expires_at``: epoch seconds, none: never. ``require_plan``: its runs need a plan that binds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_\-]{0,63}$")]
    scopes: list[Scope] = Field(default=["read"], max_length=5)
    require_plan: bool = False
    expires_at: Epoch | None = None


class TokenRotate(Body):
    """POST /tokens/{name}/rotate. Without ``expires_at`` it ends when the old one would have."""

    expires_at: Epoch | None = None


class ClusterDetect(Body):
    """POST /cluster/detect."""

    preferred_type: Literal["slurm", "local_gpu", "cpu_only"] | None = None


class ClusterSet(Body):
    """POST /cluster: fields by hand."""

    not_null: ClassVar[frozenset[str]] = frozenset({"type", "status", "source", "details"})

    type: Literal["slurm", "local_gpu", "cpu_only", "unknown"] | None = None
    status: Literal["healthy", "degraded", "offline", "unknown"] | None = None
    source: Literal["detected", "manual", "unset"] | None = None
    head_node: Short | None = None
    node_count: int | None = Field(default=None, ge=0, le=LARGEST)
    gpu_count: int | None = Field(default=None, ge=0, le=LARGEST)
    notes: str | None = Field(default=None, max_length=10_000)
    details: dict[str, Any] | None = None
