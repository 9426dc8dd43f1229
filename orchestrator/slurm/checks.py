"""What a run asks for, held against what the cluster has: a 422 now rather than a job that waits for ever."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.resources import Resources
from orchestrator.slurm.facts import Facts, Partition

Nodes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Limits:
    """The most that a job which asks for the same otherwise can be given. None: no limit, or none is known.

    ``partitions``: those it goes to; ``mem_bytes``: of each node; ``longer``: other partitions that would take it and
    give it more time (seconds; None: no limit), the least first.
    """

    partitions: str = ""
    time_seconds: float | None = None
    mem_bytes: int | None = None
    longer: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True)
class Bounds:
    """What there is to be had on this cluster. ``nodes``: sinfo's, by name; without any, no limit is known."""

    facts: Facts = field(default_factory=Facts)
    nodes: Nodes = field(default_factory=dict)

    def of(self, resources: Mapping[str, Any]) -> Limits:
        """For a run that asked for these resources (as its row has them)."""
        asked = Resources.model_validate(resources)
        partitions = self._partitions(asked)
        if partitions is None:
            return Limits()
        present = _longest(partitions) if partitions else None
        longer = () if present is None else tuple(self._longer(asked, partitions, present))
        names = ", ".join(one.name for one in partitions)
        return Limits(names, present, self._memory(asked, partitions), longer)

    def memory(self, resources: Mapping[str, Any]) -> int | None:
        """``Limits.mem_bytes`` alone."""
        asked = Resources.model_validate(resources)
        partitions = self._partitions(asked)
        return None if partitions is None else self._memory(asked, partitions)

    def _partitions(self, asked: Resources) -> list[Partition] | None:
        """Those that it goes to; none where nothing is known of any, None where the cluster has them no more."""
        try:
            return _partitions(asked, self.facts)
        except BadInput:
            return None

    def _memory(self, asked: Resources, partitions: Sequence[Partition]) -> int | None:
        return _largest_memory(asked, _nodes_of(partitions, self.nodes))

    def _longer(
        self, asked: Resources, partitions: Sequence[Partition], present: float
    ) -> list[tuple[str, float | None]]:
        found = []
        for one in self.facts.partitions:
            more = one.max_seconds is None or one.max_seconds > present
            if more and one.up and one not in partitions and self._takes(asked, one.name):
                found.append((one.name, one.max_seconds))
        return sorted(found, key=lambda place: place[1] or math.inf)

    def _takes(self, asked: Resources, partition: str) -> bool:
        """Whether another partition has what was asked for, but for the time."""
        if not _nodes_of([one for one in self.facts.partitions if one.name == partition], self.nodes):
            return False
        try:
            check_resources(asked.model_copy(update={"partition": partition, "time": None}), self.facts, self.nodes)
        except BadInput:
            return False
        return True


def _longest(partitions: Sequence[Partition]) -> float | None:
    """The longest of their time limits in seconds, None where one has none."""
    limits = [one.max_seconds for one in partitions]
    return None if None in limits else max(limit for limit in limits if limit is not None)


def _nodes_of(partitions: Sequence[Partition], nodes: Nodes) -> list[Mapping[str, Any]]:
    names = {one.name for one in partitions}
    return [node for node in nodes.values() if not names or names & set(node.get("partitions", ()))]


def _largest_memory(asked: Resources, nodes: Sequence[Mapping[str, Any]]) -> int | None:
    """The most memory (bytes) that as many nodes as asked for have, of those with the GPUs and CPUs asked for."""
    fit = [
        node
        for node in nodes
        if _gpus(node, asked.gpu_type) >= (asked.gpus or 0) and int(node.get("cpus_total", 0)) >= (asked.cpus or 0)
    ]
    sizes = sorted((int(node.get("memory_mb", 0)) for node in fit or nodes), reverse=True)
    most = sizes[min(asked.node_count, len(sizes)) - 1] if sizes else 0
    return most * 2**20 or None


def check_resources(asked: Resources, facts: Facts, nodes: Nodes) -> None:
    """Raises BadInput for what this cluster can never give. ``nodes``: sinfo's, by name."""
    partitions = _partitions(asked, facts)
    if asked.account is not None and facts.accounts is not None and asked.account not in facts.accounts:
        raise BadInput("resources.account", f"{asked.account!r} is not an account of yours.", facts.accounts)
    if asked.qos is not None and facts.qos is not None and asked.qos not in facts.qos:
        raise BadInput("resources.qos", f"{asked.qos!r} is not a QOS of yours.", facts.qos)
    _licenses(asked, facts)
    if partitions:
        _time(asked, partitions)
        _node_count(asked, partitions)
    here = _nodes_of(partitions, nodes)
    if here:
        _per_node(asked, here, ", ".join(one.name for one in partitions))


def _partitions(asked: Resources, facts: Facts) -> list[Partition]:
    if not facts.partitions:
        return []
    if asked.partition is None:
        default = facts.default_partition()
        if default is None:
            names = [one.name for one in facts.partitions]
            raise BadInput("resources.partition", "This cluster has no default partition: name one.", names)
        return [default]
    found = []
    for name in asked.partition.split(","):
        one = facts.partition(name)
        if one is None:
            names = [partition.name for partition in facts.partitions]
            raise BadInput("resources.partition", f"There is no partition {name!r} on this cluster.", names)
        found.append(one)
    return found


def _licenses(asked: Resources, facts: Facts) -> None:
    for part in (asked.licenses or "").replace("|", ",").split(","):
        name = part.split(":")[0]
        if name and name not in facts.licenses and name.split("@")[0] not in facts.licenses:
            raise BadInput("resources.licenses", f"There is no license {name!r} on this cluster.", facts.licenses)


def _time(asked: Resources, partitions: Sequence[Partition]) -> None:
    longest, wanted = _longest(partitions), asked.time_seconds
    if longest is not None and wanted is not None and wanted > longest:
        names = ", ".join(one.name for one in partitions)
        raise BadInput(
            "resources.time",
            f"{clock(wanted)} is above the limit of {names}, {clock(longest)}: Slurm would take the job and never "
            "run it.",
            [f"up to {clock(longest)}"],
        )


def _node_count(asked: Resources, partitions: Sequence[Partition]) -> None:
    most = max(min(one.nodes, one.max_nodes or one.nodes) for one in partitions)
    if asked.node_count > most:
        names = ", ".join(one.name for one in partitions)
        raise BadInput(
            "resources.nodes", f"{names} gives a job at most {most} node(s), not {asked.nodes}.", [f"1..{most}"]
        )


def _per_node(asked: Resources, nodes: Sequence[Mapping[str, Any]], where: str) -> None:
    """What one node must have, in one node: GPUs of the type, CPUs, memory, features."""
    types = sorted({name for node in nodes for name in node.get("gpu_types", {})})
    if asked.gpu_type is not None and asked.gpu_type not in types:
        raise BadInput("resources.gpu_type", f"{where} has no GPUs of type {asked.gpu_type!r}.", types)
    gpus = [_gpus(node, asked.gpu_type) for node in nodes]
    if (asked.gpus or 0) > max(gpus):
        kind = f" of type {asked.gpu_type}" if asked.gpu_type else ""
        raise BadInput("resources.gpus", f"No node of {where} has {asked.gpus} GPU(s){kind}.", [f"0..{max(gpus)}"])
    most = max(int(node.get("cpus_total", 0)) for node in nodes)
    if asked.cpus is not None and most and asked.cpus > most:
        raise BadInput("resources.cpus", f"No node of {where} has {asked.cpus} CPUs.", [f"1..{most}"])
    memory = max(int(node.get("memory_mb", 0)) for node in nodes)
    if asked.mem_bytes is not None and memory and asked.mem_bytes > memory * 2**20:
        wanted = math.ceil(asked.mem_bytes / 2**20)
        raise BadInput("resources.mem", f"No node of {where} has {wanted} MiB of memory.", [f"up to {memory}M"])


def _gpus(node: Mapping[str, Any], kind: str | None) -> int:
    return int(node.get("gpus", 0)) if kind is None else int(node.get("gpu_types", {}).get(kind, 0))


def clock(seconds: float) -> str:
    """A time limit as Slurm writes it, in whole minutes."""
    minutes = math.ceil(seconds / 60)
    days, rest = divmod(minutes, 1440)
    clock = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{clock}" if days else clock
