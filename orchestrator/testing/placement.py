"""Which nodes a job can have: CPUs, memory, GRES, features. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.testing.cluster import Cluster, Node
from orchestrator.testing.gres import Gres, count, indices, matches, parse_gpus, parse_gres, take
from orchestrator.testing.model import Job, NodeState, Request, Share


@dataclass
class Free:
    """What is left of a node."""

    cpus: int
    memory: int
    gres: dict[str, list[int]] = field(default_factory=dict)
    idle: bool = True


def empty(node: Node) -> Free:
    """A node that nothing runs on."""
    return Free(node.cpus, node.memory_mb, indices(node.gres))


def free_resources(cluster: Cluster, jobs: Iterable[Job]) -> dict[str, Free]:
    """What the jobs leave of each node."""
    free = {node.name: empty(node) for node in cluster.nodes}
    for job in jobs:
        for share in job.shares if job.holds_resources else ():
            use(free[share.node], share)
    return free


def use(free: Free, share: Share) -> None:
    """Takes a share away."""
    free.cpus -= share.cpus
    free.memory -= share.memory
    free.idle = False
    for key, numbers in share.gres.items():
        free.gres[key] = [number for number in free.gres.get(key, ()) if number not in numbers]


def shape(request: Request) -> tuple[object, ...]:
    """What of a request decides where it fits: requests of equal shape fit alike."""
    sizes = (request.nodes_min, request.nodes_max, request.tasks, request.tasks_per_node)
    cpus = (request.cpus_per_task, request.cpus_per_gpu)
    amounts = (request.memory_per_node, request.memory_per_cpu, request.gres, request.gpus, request.gpus_per_task)
    names = (request.features, tuple(request.required_nodes), tuple(request.excluded_nodes), request.exclusive)
    return (*sizes, *cpus, *amounts, *names, request.time_limit)


def suitable(request: Request, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that the request does not rule out by name or feature."""
    required = set(request.required_nodes)
    exact = required and len(required) >= (request.nodes_max or request.nodes_min)
    return [
        node
        for node in nodes
        if node.name not in request.excluded_nodes
        and (not exact or node.name in required)
        and has_features(node, request.features)
    ]


def has_features(node: Node, wanted: str) -> bool:
    """Whether the node satisfies ``a&b``, ``a|b``, ``[a|b]``."""
    if not wanted:
        return True
    alternatives = wanted.strip("[]").split("|")
    return any(all(name.partition("*")[0] in node.features for name in one.split("&")) for one in alternatives)


def features_in(wanted: str) -> set[str]:
    """The names in such an expression."""
    for sign in "[]&|,":
        wanted = wanted.replace(sign, " ")
    return {word.partition("*")[0] for word in wanted.split()}


def usable(node: NodeState) -> bool:
    """Whether jobs may start there."""
    return not node.down and not node.drain and node.responding


def place(request: Request, nodes: Sequence[Node], free: Mapping[str, Free]) -> list[Share] | None:
    """Shares of as few nodes as can do it, or None. ``nodes`` are those it may have."""
    candidates = {}
    for node in suitable(request, nodes):
        tasks = _capacity(request, node, free[node.name])
        if tasks:
            candidates[node.name] = tasks
    if not set(request.required_nodes) <= set(candidates):
        return None
    most = min(request.nodes_max or len(candidates), len(candidates))
    for number in range(request.nodes_min, most + 1):
        chosen = _choose(request, candidates, free, number)
        shares = _share_out(request, [node for node in nodes if node.name in chosen], candidates, free)
        if shares is not None:
            return shares
    return None


def _capacity(request: Request, node: Node, free: Free) -> int:
    """How many tasks the node can take now, 0 for none."""
    if request.exclusive and not free.idle:
        return 0
    memory = _memory_per_node(request, node)
    if memory > free.memory or take(free.gres, parse_gres(request.gres)) is None:
        return 0
    if cpus_of(request, 1, sum(one.count for one in parse_gres(request.gres) if one.name == "gpu")) > free.cpus:
        return 0
    tasks = free.cpus // request.cpus_per_task
    if request.memory_per_cpu and not memory:
        tasks = min(tasks, free.memory // (request.memory_per_cpu * request.cpus_per_task))
    for gres in parse_gpus(request.gpus_per_task):
        tasks = min(tasks, _free_of(free, gres) // gres.count)
    if request.tasks_per_node:
        return request.tasks_per_node if tasks >= request.tasks_per_node else 0
    return max(tasks, 0)


def cpus_of(request: Request, tasks: int, gpus: int) -> int:
    """The CPUs of so many tasks and GPUs on one node: those of the tasks or those of the GPUs, whichever are more."""
    return max(tasks * request.cpus_per_task, gpus * request.cpus_per_gpu)


def _memory_per_node(request: Request, node: Node) -> int:
    if request.memory_per_node:
        return request.memory_per_node
    return 0 if request.memory_per_cpu else node.memory_mb


def _free_of(free: Free, gres: Gres) -> int:
    return sum(len(numbers) for key, numbers in free.gres.items() if matches(key, gres))


def _choose(request: Request, candidates: Mapping[str, int], free: Mapping[str, Free], number: int) -> set[str]:
    """The nodes that serve best: the required ones, then those with room, in the cluster's order."""
    enough = math.ceil(request.tasks / number)
    wanted = parse_gpus(request.gpus)
    gpus = {name: sum(_free_of(free[name], gres) for gres in wanted) for name in candidates}
    order = sorted(
        candidates,
        key=lambda name: (name not in request.required_nodes, -gpus[name], -min(candidates[name], enough)),
    )
    return set(order[:number])


def _share_out(
    request: Request, nodes: Sequence[Node], capacity: Mapping[str, int], free: Mapping[str, Free]
) -> list[Share] | None:
    """Tasks and GPUs over the chosen nodes, or None when they do not fit."""
    counts = _tasks(request, [capacity[node.name] for node in nodes])
    if counts is None:
        return None
    left = {gres.key: gres.count for gres in parse_gpus(request.gpus)}
    shares = []
    for position, (node, tasks) in enumerate(zip(nodes, counts, strict=True)):
        wanted = parse_gres(request.gres)
        wanted += [Gres(one.name, one.type, one.count * tasks) for one in parse_gpus(request.gpus_per_task)]
        for gres in parse_gpus(request.gpus):
            others = len(nodes) - position - 1
            here = min(left[gres.key] - (others if left[gres.key] > others else 0), _free_of(free[node.name], gres))
            left[gres.key] -= here
            wanted += [Gres(gres.name, gres.type, here)] * bool(here)
        held = free[node.name].gres if request.exclusive else take(free[node.name].gres, wanted)
        if held is None:
            return None
        cpus = node.cpus if request.exclusive else cpus_of(request, tasks, count(held))
        if cpus > free[node.name].cpus:
            return None
        memory = _memory_per_node(request, node) or request.memory_per_cpu * cpus
        shares.append(Share(node.name, cpus, memory, held, tasks))
    return None if any(left.values()) else shares


def _tasks(request: Request, capacities: Sequence[int]) -> list[int] | None:
    """How many tasks each node gets: one each first, then node by node."""
    if request.tasks_per_node:
        return list(capacities) if sum(capacities) >= request.tasks else None
    counts = [1] * len(capacities)
    for position, capacity in enumerate(capacities):
        counts[position] += min(capacity - 1, max(request.tasks - sum(counts), 0))
    return counts if sum(counts) >= request.tasks else None
