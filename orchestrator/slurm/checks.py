"""What a run asks for, held against what the cluster has: a 422 now rather than a job that waits for ever."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.resources import Resources
from orchestrator.slurm.facts import Facts, Partition


def check_resources(asked: Resources, facts: Facts, nodes: Mapping[str, Mapping[str, Any]]) -> None:
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
    here = [
        node
        for node in nodes.values()
        if not partitions or {one.name for one in partitions} & set(node.get("partitions", ()))
    ]
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
    limits = [one.max_seconds for one in partitions]
    wanted = asked.time_seconds
    if wanted is None or None in limits:
        return
    longest = max(limit for limit in limits if limit is not None)
    if wanted > longest:
        names = ", ".join(one.name for one in partitions)
        raise BadInput(
            "resources.time",
            f"{_clock(wanted)} is above the limit of {names}, {_clock(longest)}: Slurm would take the job and never "
            "run it.",
            [f"up to {_clock(longest)}"],
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


def _clock(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    days, rest = divmod(minutes, 1440)
    clock = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{clock}" if days else clock
