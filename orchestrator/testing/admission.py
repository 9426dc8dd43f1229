"""What slurmctld fills in and checks before it takes a job. Pure."""

from collections.abc import Iterable

from orchestrator.testing.cluster import Cluster, Node
from orchestrator.testing.dependencies import BadDependency, parse_dependency
from orchestrator.testing.gres import parse_gpus, parse_gres
from orchestrator.testing.model import Job, Request
from orchestrator.testing.placement import empty, features_in, place, suitable
from orchestrator.testing.submission import Refused, Submission, rejected

SUBMIT_LIMIT = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
UNAVAILABLE = "Requested node configuration is not available"


class QueueFull(Exception):
    """MaxJobCount is reached: sbatch waits and tries again."""


def complete(cluster: Cluster, submission: Submission, user: str) -> Request:
    """The defaults of the cluster and the partition, where nothing was asked."""
    request = submission.request
    if not request.partitions:
        request.partitions = [cluster.default_partition.name]
    if not request.account and cluster.accounting:
        request.account = cluster.accounts[0] if cluster.accounts else user
    if not request.time_given:
        partition = cluster.partition(request.partitions[0])
        if partition is not None:
            request.time_limit = partition.default_time_minutes or partition.max_time_minutes
    if not request.memory_per_node and not request.memory_per_cpu:
        request.memory_per_cpu = cluster.def_mem_per_cpu
    if not cluster.job_requeue:
        request.requeue = False
    return request


def check(cluster: Cluster, submission: Submission, jobs: Iterable[Job], uid: int) -> None:
    """Refused, with the text of the first rule that the job breaks; QueueFull."""
    request = submission.request
    for name in request.partitions:
        if cluster.partition(name) is None:
            raise rejected("Invalid partition name specified", f"sbatch: error: invalid partition specified: {name}")
    _check_names(cluster, request)
    _check_accounting(cluster, request)
    array = submission.array
    if array is not None and (not array.tasks or array.tasks[-1] >= cluster.max_array_size):
        raise rejected("Invalid job array specification")
    _check_counts(cluster, len(array.tasks) if array else 1, list(jobs), uid)


def _check_names(cluster: Cluster, request: Request) -> None:
    known = {node.name for node in cluster.nodes}
    gres = {one.name for node in cluster.nodes for one in parse_gres(node.gres)}
    if not set(request.required_nodes) | set(request.excluded_nodes) <= known:
        raise rejected("Invalid node name specified")
    if not {one.name for one in parse_gres(request.gres)} <= gres:
        raise rejected("Invalid generic resource (gres) specification")
    features = {feature for node in cluster.nodes for feature in node.features}
    if not features_in(request.features) <= features:
        raise rejected("Invalid feature specification")
    if any(number > cluster.licenses.get(name, 0) for name, number in request.licenses.items()):
        raise rejected("Invalid license specification")
    if request.reservation:
        raise rejected("Requested reservation is invalid")
    if request.dependency:
        try:
            parse_dependency(request.dependency)
        except BadDependency:
            raise rejected("Job dependency problem") from None


def _check_accounting(cluster: Cluster, request: Request) -> None:
    if not cluster.accounting:
        return
    if cluster.accounts and request.account not in cluster.accounts:
        raise rejected("Invalid account or account/partition combination specified")
    if request.qos not in cluster.qos:
        raise rejected("Invalid qos specification")


def _check_counts(cluster: Cluster, new: int, jobs: list[Job], uid: int) -> None:
    waiting = sum(len(job.waiting_tasks) or 1 for job in jobs if job.uid == uid and not job.finished)
    if cluster.max_submit_jobs is not None and waiting + new > cluster.max_submit_jobs:
        raise rejected(SUBMIT_LIMIT)
    if sum(len(job.waiting_tasks) or 1 for job in jobs) + new > cluster.max_job_count:
        raise QueueFull


def impossible(cluster: Cluster, request: Request) -> Refused | None:
    """Why no node could ever run it, in a way that slurmctld refuses at once; else None.

    Too many nodes or CPUs are accepted, and wait forever.
    """
    nodes = [node for name in request.partitions for node in _nodes_of(cluster, name)]
    free = {node.name: empty(node) for node in nodes}
    if place(request, nodes, free) is not None:
        return None
    fitting = suitable(request, nodes)
    if request.memory_per_node and all(request.memory_per_node > node.memory_mb for node in nodes):
        return rejected(UNAVAILABLE, "sbatch: error: Memory specification can not be satisfied")
    if not fitting or not any(_has_gres(node, request) for node in fitting):
        return rejected(UNAVAILABLE)
    total = sum(_count(node, "gpu") for node in fitting)
    if sum(one.count for one in parse_gpus(request.gpus)) > total:
        return rejected(UNAVAILABLE)
    return None


def _nodes_of(cluster: Cluster, partition: str) -> list[Node]:
    found = cluster.partition(partition)
    return cluster.nodes_of(found) if found else []


def _has_gres(node: Node, request: Request) -> bool:
    wanted = parse_gres(request.gres) + parse_gpus(request.gpus_per_task)
    wanted += [one for one in parse_gpus(request.gpus) if one.type and not one.count]
    has = parse_gres(node.gres)
    return all(
        sum(mine.count for mine in has if mine.name == one.name and one.type in {"", mine.type}) >= one.count
        for one in wanted
    )


def _count(node: Node, name: str) -> int:
    return sum(one.count for one in parse_gres(node.gres) if one.name == name)
