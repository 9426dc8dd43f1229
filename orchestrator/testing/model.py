"""What changes while a cluster runs: jobs, their steps and shares, the nodes' states. Plain data, to JSON and back.

Times are whole seconds since the epoch, as in Slurm, 0 for "not known"; memory is MiB; time limits are minutes.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.testing.cluster import UNLIMITED

FINISHED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
)


@dataclass
class Request:
    """What sbatch asked for. Array tasks share theirs until one is changed."""

    name: str = "sbatch"
    account: str = ""
    qos: str = "normal"
    partitions: list[str] = field(default_factory=list)
    comment: str = ""
    wckey: str = ""
    time_limit: int | None = UNLIMITED
    time_given: bool = False
    nodes_min: int = 1
    nodes_max: int | None = UNLIMITED
    nodes_given: bool = False
    tasks: int = 1
    tasks_given: bool = False
    tasks_per_node: int = 0
    cpus_per_task: int = 1
    cpus_given: bool = False
    cpus_per_gpu: int = 0
    memory_per_node: int = 0
    memory_per_cpu: int = 0
    gres: str = ""
    gpus: str = ""
    gpus_per_node: str = ""
    """As given; ``gres`` says the same."""
    gpus_per_task: str = ""
    features: str = ""
    required_nodes: list[str] = field(default_factory=list)
    excluded_nodes: list[str] = field(default_factory=list)
    exclusive: bool = False
    reservation: str = ""
    licenses: dict[str, int] = field(default_factory=dict)
    dependency: str = ""
    begin: int = 0
    nice: int = 0
    requeue: bool = True
    no_kill: bool = False
    signal: str = ""
    """``[B:]NAME@seconds``; empty for none."""
    work_dir: str = "/"
    stdout: str = ""
    stderr: str = ""
    stdin: str = "/dev/null"
    open_mode: str = ""
    command: str = ""
    """The script's path as ``squeue %o`` shows it; empty for a script from --wrap or standard input."""
    arguments: list[str] = field(default_factory=list)
    submit_line: str = ""
    submit_host: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    script: str = ""
    """Where the copy lies that the controller keeps."""
    pretend: dict[str, str] | None = None
    """The words of the script's ``#EMULATE`` line: no process is started."""
    array_count: int = 0
    array_min: int = 0
    array_max: int = 0
    array_step: int = 1


@dataclass
class Share:
    """What a job holds of one node. ``gres`` maps ``gpu:a100`` (or ``gpu``) to indices."""

    node: str
    cpus: int
    memory: int
    gres: dict[str, list[int]] = field(default_factory=dict)
    tasks: int = 1


@dataclass
class Step:
    """One step of a job: the batch script, ``extern``, or one srun."""

    step_id: str
    name: str
    start: int
    nodes: str = ""
    tasks: int = 1
    end: int = 0
    state: str = "RUNNING"
    status: int = 0
    """As wait(2) gives it."""
    max_rss: int = 0
    cpu_seconds: float = 0.0


@dataclass
class Job:
    """One record of the controller: a job, a started array task, or all array tasks that wait."""

    job_id: int
    request: Request
    user: str
    uid: int
    group: str
    gid: int
    submit_time: int
    state: str = "PENDING"
    reason: str = "None"
    detail: str = ""
    """What stands behind the reason in squeue's %R, such as the unavailable nodes."""
    completing: bool = False
    held: Literal["", "user", "admin"] = ""
    priority: int = 1
    eligible_time: int = 0
    start_time: int = 0
    end_time: int = 0
    suspended_at: int = 0
    suspended_seconds: int = 0
    partition: str = ""
    array_job_id: int = 0
    array_task_id: int | None = None
    waiting_tasks: list[int] = field(default_factory=list)
    array_throttle: int = 0
    dependency: str = ""
    """What of the dependency is not yet satisfied, as squeue shows it."""
    restarts: int = 0
    status: int = 0
    derived_status: int = 0
    shares: list[Share] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    launch: str = ""
    pretend_end: float = 0.0
    next_step: int = 0
    database_index: int = 0
    after_kill: Literal["", "requeue", "requeuehold"] = ""
    """What becomes of the job when its processes have gone."""
    cancelled_by: int | None = None
    warned: bool = False
    """The signal of --signal was sent."""
    last_sched: int = 0

    @property
    def nodes(self) -> list[str]:
        """The nodes it holds, or held."""
        return [share.node for share in self.shares]

    @property
    def finished(self) -> bool:
        """Whether it ended and nothing of it is left on a node."""
        return self.state in FINISHED and not self.completing

    @property
    def holds_resources(self) -> bool:
        """Whether its share of the nodes is taken."""
        return self.completing or self.state in {"RUNNING", "SUSPENDED", "CONFIGURING"}

    @property
    def shown_state(self) -> str:
        """The state as squeue and scontrol name it."""
        return "COMPLETING" if self.completing else self.state

    @property
    def end_limit(self) -> int:
        """When its time limit ends it, 0 for never."""
        limit = self.request.time_limit
        return 0 if limit is None or not self.start_time else self.start_time + limit * 60 + self.suspended_seconds

    def own_request(self) -> Request:
        """Its request, no longer shared with other tasks, to be changed."""
        self.request = copy.copy(self.request)
        return self.request

    def to_json(self) -> dict[str, Any]:
        """For ``from_json``. Shallow where it can be: requests are large and shared."""
        data = dict(vars(self))
        data["request"] = vars(self.request)
        data["shares"] = [vars(share) for share in self.shares]
        data["steps"] = [vars(step) for step in self.steps]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], request: Request | None = None) -> "Job":
        """What ``to_json`` gave; with ``request`` in the place of the one in the data."""
        values = dict(data)
        values["request"] = request or Request(**values["request"])
        values["shares"] = [Share(**share) for share in values["shares"]]
        values["steps"] = [Step(**step) for step in values["steps"]]
        return cls(**values)


@dataclass
class NodeState:
    """What changes of a node."""

    name: str
    down: bool = False
    responding: bool = True
    drain: bool = False
    reason: str = ""
    reason_time: int = 0
    reason_user: str = ""
