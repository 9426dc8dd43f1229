"""Who starts next, who waits and why, who must go: one pass over the queue. Pure: state in, decisions out.

First in, first out within a partition, as slurmctld's main scheduler: the first job that finds no room keeps the
later ones of its partition waiting (``Priority``). There is no backfill.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.testing.arrays import JobRef
from orchestrator.testing.cluster import Cluster, Node, Partition
from orchestrator.testing.dependencies import judge
from orchestrator.testing.hostlist import compress_hosts
from orchestrator.testing.model import Job, NodeState, Request, Share
from orchestrator.testing.placement import empty, free_resources, place, shape, suitable, usable, use

NODES_DOWN = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"


@dataclass(frozen=True)
class Start:
    """The job, or one task of the array, starts on these shares."""

    job_id: int
    task: int | None
    partition: str
    shares: list[Share]


@dataclass(frozen=True)
class Wait:
    """The job waits. ``detail`` is what squeue shows in the reason's place, if it says more."""

    job_id: int
    reason: str
    detail: str = ""
    dependency: str = ""


@dataclass(frozen=True)
class Preempt:
    """The job gives its nodes to one of a higher tier."""

    job_id: int


Decision = Start | Wait | Preempt


def decide(
    cluster: Cluster,
    jobs: Mapping[int, Job],
    nodes: Mapping[str, NodeState],
    now: int,
    known: Callable[[JobRef], Sequence[Job]],
) -> list[Decision]:
    """What one pass of the scheduler decides about the jobs that wait."""
    waiting = [job for job in jobs.values() if job.state == "PENDING" and not job.completing]
    if not waiting:
        return []
    return list(_Pass(cluster, jobs, nodes, now, known).run(waiting))


class _Pass:
    """One pass; holds what is left of the nodes while it goes through the queue."""

    def __init__(
        self,
        cluster: Cluster,
        jobs: Mapping[int, Job],
        nodes: Mapping[str, NodeState],
        now: int,
        known: Callable[[JobRef], Sequence[Job]],
    ) -> None:
        self.cluster, self.jobs, self.nodes, self.now, self.known = cluster, jobs, nodes, now, known
        self.free = free_resources(cluster, jobs.values())
        self.licenses = dict(cluster.licenses)
        self.blocked: set[str] = set()
        self.leaving = {job.job_id for job in jobs.values() if job.completing}
        self.limits: dict[tuple[object, ...], str] = {}
        self.running_tasks: dict[int, int] = {}
        for job in jobs.values():
            if job.holds_resources:
                self._take_licenses(job.request)
                self.running_tasks[job.array_job_id] = self.running_tasks.get(job.array_job_id, 0) + 1

    def run(self, waiting: Iterable[Job]) -> Iterator[Decision]:
        for job in sorted(waiting, key=self._order):
            gate = self._gate(job)
            if gate is None:
                yield from self._try(job)
            else:
                yield gate

    def _order(self, job: Job) -> tuple[int, int, int]:
        tiers = [partition.priority_tier for partition in self._partitions(job)]
        return (-max(tiers, default=0), -job.priority, job.job_id)

    def _partitions(self, job: Job) -> list[Partition]:
        found = (self.cluster.partition(name) for name in job.request.partitions)
        return [partition for partition in found if partition is not None]

    def _take_licenses(self, request: Request) -> None:
        for name, number in request.licenses.items():
            self.licenses[name] = self.licenses.get(name, 0) - number

    # -- may it start at all ---------------------------------------------------------------------------------------

    def _gate(self, job: Job) -> Wait | None:
        """Why the job may not start whatever is free."""
        if job.held:
            return Wait(job.job_id, "JobHeldUser" if job.held == "user" else "JobHeldAdmin", dependency=job.dependency)
        outcome, shown = judge(job, self.known, self.jobs.values())
        if outcome == "failed":
            return Wait(job.job_id, "DependencyNeverSatisfied", dependency=shown)
        if outcome == "unfulfilled":
            return Wait(job.job_id, "Dependency", dependency=shown)
        if job.request.begin > self.now:
            return Wait(job.job_id, "BeginTime")
        refused = [self._partition_limit(job.request, partition) for partition in self._partitions(job)]
        if all(refused):
            return Wait(job.job_id, refused[0])
        if any(self.licenses.get(name, 0) < number for name, number in job.request.licenses.items()):
            return Wait(job.job_id, "Licenses")
        return None

    def _partition_limit(self, request: Request, partition: Partition) -> str:
        """The partition's limit that keeps the job out for good, or nothing. Looked up: queues hold many alike."""
        key = (partition.name, *shape(request))
        if key not in self.limits:
            self.limits[key] = self._find_limit(request, partition)
        return self.limits[key]

    def _find_limit(self, request: Request, partition: Partition) -> str:
        nodes = self.cluster.nodes_of(partition)
        if partition.max_time_minutes is not None and (
            request.time_limit is None or request.time_limit > partition.max_time_minutes
        ):
            return "PartitionTimeLimit"
        if request.nodes_min > min(partition.max_nodes or len(nodes), len(nodes)):
            return "PartitionNodeLimit"
        if place(request, nodes, {node.name: empty(node) for node in nodes}) is None:
            return "PartitionConfig"
        return ""

    # -- is there room ---------------------------------------------------------------------------------------------

    def _try(self, job: Job) -> Iterator[Decision]:
        """Starts as many of the record's tasks as there is room for."""
        tasks: list[int | None] = list(job.waiting_tasks) or [None]
        for task in tasks:
            running = self.running_tasks.get(job.array_job_id, 0)
            if job.array_throttle and running >= job.array_throttle:
                yield Wait(job.job_id, "JobArrayTaskLimit")
                return
            start = self._room(job, task)
            if start is None:
                yield from self._no_room(job)
                return
            yield start
            self.running_tasks[job.array_job_id] = running + 1

    def _room(self, job: Job, task: int | None) -> Start | None:
        if any(self.licenses.get(name, 0) < number for name, number in job.request.licenses.items()):
            return None
        for partition in self._partitions(job):
            if partition.name in self.blocked or self._partition_limit(job.request, partition):
                continue
            shares = place(job.request, self._usable(partition), self.free)
            if shares is not None:
                for share in shares:
                    use(self.free[share.node], share)
                self._take_licenses(job.request)
                return Start(job.job_id, task, partition.name, shares)
        return None

    def _usable(self, partition: Partition) -> list[Node]:
        return [node for node in self.cluster.nodes_of(partition) if usable(self.nodes[node.name])]

    def _no_room(self, job: Job) -> Iterator[Decision]:
        """Why, and who is preempted. The partitions are closed to whoever comes later."""
        if any(self.licenses.get(name, 0) < number for name, number in job.request.licenses.items()):
            yield Wait(job.job_id, "Licenses")
            return
        open_ones = [partition for partition in self._partitions(job) if partition.name not in self.blocked]
        if not open_ones:
            yield Wait(job.job_id, "Priority")
            return
        for partition in open_ones:
            yield from self._preempt(job, partition)
        wait = self._missing(job, open_ones)
        yield wait
        if not wait.detail:  # what waits for a node that is away keeps nobody waiting
            self.blocked.update(partition.name for partition in open_ones)

    def _missing(self, job: Job, partitions: Sequence[Partition]) -> Wait:
        """Resources in use, or nodes that are not there."""
        request = job.request
        absent = [name for name in request.required_nodes if not usable(self.nodes[name])]
        if absent:
            return Wait(job.job_id, "ReqNodeNotAvail", f"ReqNodeNotAvail, UnavailableNodes:{compress_hosts(absent)}")
        for partition in partitions:
            nodes = suitable(request, self._usable(partition))
            if place(request, nodes, {node.name: empty(node) for node in nodes}) is not None:
                return Wait(job.job_id, "Resources")
        return Wait(job.job_id, "Resources", NODES_DOWN)

    # -- who must go -----------------------------------------------------------------------------------------------

    def _preempt(self, job: Job, partition: Partition) -> Iterator[Preempt]:
        """The fewest of the youngest jobs of lower tiers without which there is room."""
        if self._room_without(job, partition, ()):
            return  # those who leave already are enough
        victims = [other for other in self.jobs.values() if self._may_preempt(partition, other)]
        victims.sort(key=lambda other: -other.start_time)
        chosen: list[Job] = []
        for victim in victims:
            chosen.append(victim)
            if self._room_without(job, partition, chosen):
                break
        else:
            return
        for victim in list(chosen):
            rest = [other for other in chosen if other is not victim]
            if self._room_without(job, partition, rest):
                chosen = rest
        for victim in chosen:
            self.leaving.add(victim.job_id)
            yield Preempt(victim.job_id)

    def _may_preempt(self, partition: Partition, other: Job) -> bool:
        if other.state != "RUNNING" or other.completing or other.job_id in self.leaving:
            return False
        its = self.cluster.partition(other.partition)
        return its is not None and its.preempt is not None and its.priority_tier < partition.priority_tier

    def _room_without(self, job: Job, partition: Partition, victims: Sequence[Job]) -> bool:
        gone = {victim.job_id for victim in victims} | self.leaving
        free = free_resources(self.cluster, (other for other in self.jobs.values() if other.job_id not in gone))
        return place(job.request, self._usable(partition), free) is not None
