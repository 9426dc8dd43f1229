"""The tables. Times are epoch seconds; JSON columns hold what has no query of its own."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

# SQLite gives an autoincrement only to INTEGER; PostgreSQL's should be 64 bits wide.
BigId = BigInteger().with_variant(Integer, "sqlite")


class Run(SQLModel, table=True):
    """One tracked command. ``seq`` orders them; ``id`` is what the wire shows."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_queue", "status", "executor", "lease_gpus", "priority", "queued_at"),
        Index("ix_runs_listing", "is_archived", "seq"),
        Index("ix_runs_status", "status", "seq"),
    )

    seq: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    id: str = Field(unique=True, index=True)
    name: str
    command: str = Field(sa_column=Column(Text, nullable=False))
    workdir: str | None = None
    status: str = "ready"
    reason: str | None = None
    error: str | None = Field(default=None, sa_column=Column(Text))
    is_archived: bool = False

    sweep_id: str | None = Field(default=None, index=True)
    sweep_params: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    plan_id: str | None = Field(default=None, index=True)
    parent_run_id: str | None = None
    origin_alert_id: str | None = None
    chat_session_id: str | None = None
    depends_on: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    tags: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    priority: int = 0
    created_by: str = ""

    executor: str = "local"
    profile: str | None = None
    environment: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    retry: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    signal_before_end: str | None = None
    launch: str | None = None
    container: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    snapshot: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    git: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    ask_key: str = ""
    resources: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    env: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    gpuwrap_config: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    lease_gpus: int = 0
    hide_gpus: bool = False
    cpus: int = 1

    attempt: int = 0
    retries: int = 0
    not_before: float = 0.0
    held: bool = False
    wishes: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    history: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    scheduler: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    submission_id: str | None = None
    job: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    gpus: list[dict[str, Any]] | None = Field(default=None, sa_column=Column(JSON))
    gpu_waits: int = 0
    gpu_retries: int = 0
    avoid_gpus: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    reported: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))

    created_at: float = 0.0
    queued_at: float | None = None
    launched_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    stop_requested_at: float | None = None
    stopped_at: float | None = None

    exit_code: int | None = None
    signal: int | None = None
    peak_memory_bytes: int | None = Field(default=None, sa_column=Column(BigInteger))
    elapsed_seconds: float = 0.0
    gpu_seconds: float = 0.0
    reserved_gpu_seconds: float = 0.0
    admitted_under: float | None = None  # the approved_at of its plan: it counts while that is the present approval
    cpu_seconds_given: float = 0.0
    cpu_seconds: float | None = None
    run_dir: str | None = None
    wandb_dir: str | None = None


class Dependency(SQLModel, table=True):
    """``run_id`` waits until ``parent_id`` has finished."""

    __tablename__ = "dependencies"

    run_id: str = Field(primary_key=True)
    parent_id: str = Field(primary_key=True, index=True)


class Submission(SQLModel, table=True):
    """What is handed to an executor in one go: committed as an intent before, with the answer after."""

    __tablename__ = "submissions"

    id: str = Field(primary_key=True)
    executor: str
    run_ids: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    state: str = Field(default="intent", index=True)
    throttle: int | None = None
    job: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    created_at: float = 0.0
    submitted_at: float | None = None


class Sweep(SQLModel, table=True):
    """A set of runs. Its progress, and what of its status follows from it, is computed from the runs."""

    __tablename__ = "sweeps"

    seq: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    id: str = Field(unique=True, index=True)
    name: str
    base_command: str = Field(default="", sa_column=Column(Text, nullable=False))
    workdir: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    status: str = "pending"
    goal: str | None = Field(default=None, sa_column=Column(Text))
    is_wild: bool = False
    is_archived: bool = False
    max_runs: int | None = None
    parallel: int | None = None
    ui_config: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    creation_context: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    template: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    chat_session_id: str | None = None
    plan_id: str | None = Field(default=None, index=True)
    created_by: str = ""
    created_at: float = 0.0


class Plan(SQLModel, table=True):
    """An experiment plan, as an agent wrote it and a person approved it."""

    __tablename__ = "plans"

    seq: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    id: str = Field(unique=True, index=True)
    title: str
    goal: str = Field(sa_column=Column(Text, nullable=False))
    session_id: str | None = Field(default=None, index=True)
    sections: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    raw_markdown: str = Field(default="", sa_column=Column(Text, nullable=False))
    status: str = Field(default="draft", index=True)
    created_by: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    approved_at: float | None = None
    approved_by: str | None = None
    parsed: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    bounds: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    approved_hash: str | None = None
    amendments: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    executed_at: float | None = None
    executed_by: str | None = None
    sweep_id: str | None = None
    completed_at: float | None = None


class Token(SQLModel, table=True):
    """Who may do what. Only the token's SHA-256 is kept; names are never used again."""

    __tablename__ = "tokens"

    name: str = Field(primary_key=True)
    hash: str = Field(unique=True)
    scopes: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    require_plan: bool = False
    created_at: float = 0.0
    created_by: str = ""
    rotated_at: float | None = None
    expires_at: float | None = None
    revoked_at: float | None = None


class Event(SQLModel, table=True):
    """One line of the append-only journal. ``id`` orders them for every reader."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    at: float
    actor: str
    kind: str
    subject: str = Field(index=True)
    message: str = Field(default="", sa_column=Column(Text, nullable=False))
    before: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    after: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))


class Metric(SQLModel, table=True):
    """One metric of one run: its last, min and max, and its series thinned (see ``orchestrator.thinning``)."""

    __tablename__ = "metrics"

    run_id: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    count: int = 0
    last: float | None = None
    last_step: float | None = None
    min: float | None = None
    max: float | None = None
    nonfinite: int = 0
    series: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    updated_at: float = 0.0


class MetricSource(SQLModel, table=True):
    """How far a run's metrics file has been read (bytes), so that each row counts once."""

    __tablename__ = "metric_sources"

    run_id: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    offset: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    rows: int = 0
    bad_rows: int = 0


class Alert(SQLModel, table=True):
    """Something that wants a person's choice.

    ``rule``: which of the service's rules made it ("": somebody did); ``key``: of one condition there is one alert;
    ``topic``: what alerts have in common that may become one; ``proposal``: a body for POST /runs/{id}/rerun.
    """

    __tablename__ = "alerts"

    seq: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    id: str = Field(unique=True, index=True)
    run_id: str | None = Field(default=None, index=True)
    plan_id: str | None = Field(default=None, index=True)
    rule: str = ""
    key: str | None = Field(default=None, unique=True, index=True)
    topic: str | None = Field(default=None, index=True)
    timestamp: float
    severity: str = "warning"
    message: str = Field(sa_column=Column(Text, nullable=False))
    choices: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    proposal: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    status: str = "pending"
    response: str | None = None
    responded_at: float | None = None
    outcome: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    session_id: str | None = None
    auto_session: bool = False


class AlertRun(SQLModel, table=True):
    """A run of an alert about several. ``key``: the condition that it is in, which has no alert of its own."""

    __tablename__ = "alert_runs"

    key: str = Field(primary_key=True)
    alert_id: str = Field(index=True)
    run_id: str


class WatchedUntil(SQLModel, table=True):
    """Up to which event failures have been looked for: one row."""

    __tablename__ = "watched_until"

    id: int = Field(default=1, primary_key=True)
    event_id: int = Field(default=0, sa_column=Column(BigId, nullable=False))


class OutboxMessage(SQLModel, table=True):
    """Word of an alert, for one target: a row while it waits. ``next_at``: when it is tried (again).

    ``channel`` names the target without telling its address, which may hold a secret.
    """

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_due", "channel", "next_at"),)

    seq: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    id: str = Field(unique=True, index=True)
    alert_id: str = Field(index=True)
    channel: str
    payload: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_at: float = 0.0
    attempts: int = 0
    next_at: float = 0.0
    error: str | None = Field(default=None, sa_column=Column(Text))


class Cluster(SQLModel, table=True):
    """What the machine is: one row."""

    __tablename__ = "cluster"

    id: int = Field(default=1, primary_key=True)
    type: str = "unknown"
    status: str = "unknown"
    source: str = "unset"
    head_node: str | None = None
    node_count: int | None = None
    gpu_count: int | None = None
    notes: str | None = Field(default=None, sa_column=Column(Text))
    confidence: float | None = None
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    preferred_type: str | None = None
    by_hand: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    last_detected_at: float | None = None
    updated_at: float | None = None


class IdempotentAnswer(SQLModel, table=True):
    """The first answer to a POST with an Idempotency-Key, kept for 24 h, in the transaction that created."""

    __tablename__ = "idempotent_answers"
    __table_args__ = (UniqueConstraint("actor", "route", "key"),)

    id: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    actor: str
    route: str
    key: str
    body_hash: str
    status: int
    answer: str = Field(sa_column=Column(Text, nullable=False))
    created_at: float = Field(index=True)


class ServerLease(SQLModel, table=True):
    """Which server serves this database: one row, renewed while it lives."""

    __tablename__ = "server_lease"

    id: int = Field(default=1, primary_key=True)
    token: str
    host: str
    pid: int
    boot_id: str
    start_ticks: int
    url: str = ""
    renewed_at: float
