"""What a cluster consists of, and its settings: what slurm.conf would say. Plain data that goes to JSON and back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict

UNLIMITED = None


@dataclass(frozen=True)
class Node:
    """One compute node. ``gres`` as in slurm.conf: ``gpu:a100:4`` or ``gpu:a100:2,gpu:v100:2``."""

    name: str
    cpus: int = 8
    memory_mb: int = 16000
    gres: str = ""
    features: Sequence[str] = ()


@dataclass(frozen=True)
class Partition:
    """One partition. ``nodes`` None is all of them; ``preempt="requeue"``: higher tiers may take its jobs' nodes."""

    name: str
    default: bool = False
    nodes: Sequence[str] | None = None
    max_time_minutes: int | None = UNLIMITED
    default_time_minutes: int | None = UNLIMITED
    max_nodes: int | None = UNLIMITED
    priority_tier: int = 1
    preempt: Literal["requeue"] | None = None


class Settings(TypedDict, total=False):
    """The settings of a ``Cluster`` that have defaults, as keywords. See there."""

    name: str
    version: str
    accounting: bool
    accounts: Sequence[str]
    qos: Sequence[str]
    licenses: Mapping[str, int]
    min_job_age: int
    max_array_size: int
    max_job_count: int
    max_submit_jobs: int | None
    requeue_exit: Sequence[int]
    job_requeue: bool
    def_mem_per_cpu: int
    kill_wait: float
    requeue_delay: float
    save_seconds: float
    answer_wait: float
    retry_wait: float
    connect_wait: float
    contain_processes: bool


@dataclass(frozen=True)
class Cluster:
    """Everything that slurm.conf would say, and how long emulated waits take."""

    nodes: tuple[Node, ...]
    partitions: tuple[Partition, ...]
    name: str = "emulated"
    version: str = "24.11.5"
    accounting: bool = True
    accounts: Sequence[str] = ()
    """With accounting: the accounts that a job may name; none named means that any will do."""
    qos: Sequence[str] = ("normal",)
    licenses: Mapping[str, int] = field(default_factory=dict)
    min_job_age: int = 300
    max_array_size: int = 1001
    max_job_count: int = 10_000
    max_submit_jobs: int | None = UNLIMITED
    """Jobs and array tasks that one user may have in the queue (a QOS's MaxSubmitJobsPerUser)."""
    requeue_exit: Sequence[int] = ()
    job_requeue: bool = True
    def_mem_per_cpu: int = 500
    """DefMemPerCPU: what a job gets that asks for no memory."""
    kill_wait: float = 30.0
    requeue_delay: float = 1.0
    """How long a requeued job waits in PENDING (BeginTime). Really the credential's lifetime plus 1 s: 121 s."""
    save_seconds: float = 1.0
    """How often the controller saves its state. Really 5 s."""
    answer_wait: float = 0.2
    """How long a client waits before it says ``Socket timed out``. Really MessageTimeout: 10 s."""
    retry_wait: float = 0.2
    """How long sbatch waits before it tries a full queue again, four times over. Really up to two minutes in all."""
    connect_wait: float = 0.2
    """How long a client tries to reach a controller that is down. Really 9 s."""
    contain_processes: bool = True
    """A job's end takes every process it started along, as with proctrack/cgroup."""

    @property
    def preempts(self) -> bool:
        """Whether any partition's jobs may be preempted (PreemptType=preempt/partition_prio)."""
        return any(partition.preempt for partition in self.partitions)

    def partition(self, name: str) -> Partition | None:
        """The partition of that name."""
        return next((partition for partition in self.partitions if partition.name == name), None)

    @property
    def default_partition(self) -> Partition:
        """Where a job goes that names none."""
        return next((partition for partition in self.partitions if partition.default), self.partitions[0])

    def nodes_of(self, partition: Partition) -> list[Node]:
        """Its nodes, in the cluster's order."""
        return [node for node in self.nodes if partition.nodes is None or node.name in partition.nodes]

    def to_json(self) -> dict[str, Any]:
        """For ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Cluster":
        """What ``to_json`` gave."""
        values = dict(data)
        values["nodes"] = tuple(Node(**node) for node in data["nodes"])
        values["partitions"] = tuple(Partition(**partition) for partition in data["partitions"])
        return cls(**values)
