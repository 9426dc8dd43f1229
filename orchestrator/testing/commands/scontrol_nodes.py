"""``scontrol show node`` and ``show partition``. Pure."""

from collections.abc import Sequence

from orchestrator.testing import times
from orchestrator.testing.arguments import Arguments
from orchestrator.testing.cluster import Node, Partition
from orchestrator.testing.commands.base import Answer, Call, Failed
from orchestrator.testing.commands.nodeview import NodeView, view
from orchestrator.testing.commands.records import NULL, Lines, render
from orchestrator.testing.hostlist import compress_hosts, expand_hosts
from orchestrator.testing.memory import show_node_memory
from orchestrator.testing.queue import Queue


def show_nodes(given: Arguments, name: str, call: Call, queue: Queue) -> Answer:
    views = view(queue)
    names = expand_hosts(name) if name else list(views)
    for one in names:
        if one not in views:
            raise Failed(f"Node {one} not found")
    return render([_node_lines(views[one], call, queue, "details" in given) for one in names], given)


def _node_lines(one: NodeView, call: Call, queue: Queue, details: bool) -> Lines:
    node, state = one.node, one.state
    features = ",".join(node.features) or NULL
    partitions = [item.name for item in queue.cluster.partitions if node in queue.cluster.nodes_of(item)]
    gres_details = [["GresDrain=N/A"], [f"GresUsed={one.gres_used}"]] if details else []
    reason = []
    if state.reason:
        when = times.stamp(state.reason_time, call.environment)
        reason = [[f"Reason={state.reason} [{state.reason_user}@{when}]"]]
    booted = times.stamp(queue.state.booted, call.environment)
    return [
        [f"NodeName={node.name}", "Arch=x86_64", "CoresPerSocket=1 "],
        [f"CPUAlloc={one.cpus}", f"CPUEfctv={node.cpus}", f"CPUTot={node.cpus}", f"CPULoad={one.cpus:.2f}"],
        [f"AvailableFeatures={features}"],
        [f"ActiveFeatures={features}"],
        [f"Gres={node.gres or NULL}"],
        *gres_details,
        ["NodeAddr=127.0.0.1", f"NodeHostName={node.name}", f"Version={queue.profile.version}"],
        ["OS=Linux "],
        [f"RealMemory={node.memory_mb}", f"AllocMem={one.memory}", f"FreeMem={node.memory_mb - one.memory}"],
        [f"Sockets={node.cpus}", "Boards=1"],
        [f"State={one.complete.upper()}", "ThreadsPerCore=1", "TmpDisk=0", "Weight=1", "Owner=N/A", "MCS_label=N/A"],
        [f"Partitions={','.join(partitions)} "],
        [f"BootTime={booted}", f"SlurmdStartTime={booted}"],
        [f"CfgTRES={node_tres([node])}"],
        [f"AllocTRES={_held_tres(one)}"],
        ["CurrentWatts=0", "AveWatts=0"],
        *reason,
    ]


def node_tres(nodes: Sequence[Node], *, count: bool = False) -> str:
    """``cpu=16,mem=62.50G,billing=16,gres/gpu=4,gres/gpu:h100=4``."""
    cpus = sum(node.cpus for node in nodes)
    parts = [f"cpu={cpus}", f"mem={show_node_memory(sum(node.memory_mb for node in nodes))}"]
    parts += [f"node={len(nodes)}"] * count
    return ",".join([*parts, f"billing={cpus}", *_gres_tres(nodes)])


def _gres_tres(nodes: Sequence[Node]) -> list[str]:
    from orchestrator.testing.gres import parse_gres

    totals: dict[str, int] = {}
    for node in nodes:
        for gres in parse_gres(node.gres):
            for key in dict.fromkeys((gres.name, gres.key)):
                totals[key] = totals.get(key, 0) + gres.count
    return [f"gres/{key}={number}" for key, number in sorted(totals.items())]


def _held_tres(one: NodeView) -> str:
    if not one.cpus:
        return ""
    gpus: dict[str, int] = {}
    for key, numbers in one.gres.items():
        for name in dict.fromkeys((key.partition(":")[0], key)):
            gpus[name] = gpus.get(name, 0) + len(numbers)
    parts = [f"cpu={one.cpus}", f"mem={show_node_memory(one.memory)}"]
    return ",".join(parts + [f"gres/{name}={number}" for name, number in sorted(gpus.items())])


def show_partitions(given: Arguments, name: str, _call: Call, queue: Queue) -> Answer:
    found = [one for one in queue.cluster.partitions if name in {"", one.name}]
    if not found:
        raise Failed(f"Partition {name} not found")
    return render([_partition_lines(one, queue) for one in found], given)


def _partition_lines(one: Partition, queue: Queue) -> Lines:
    nodes = queue.cluster.nodes_of(one)
    default = "NONE" if one.default_time_minutes is None else times.long(one.default_time_minutes * 60)
    most = "UNLIMITED" if one.max_time_minutes is None else times.long(one.max_time_minutes * 60)
    preempt = "REQUEUE" if one.preempt else "OFF"
    return [
        [f"PartitionName={one.name}"],
        ["AllowGroups=ALL", "AllowAccounts=ALL", "AllowQos=ALL"],
        ["AllocNodes=ALL", f"Default={'YES' if one == queue.cluster.default_partition else 'NO'}", "QoS=N/A"],
        [f"DefaultTime={default}", "DisableRootJobs=NO", "ExclusiveUser=NO", "GraceTime=0", "Hidden=NO"],
        [f"MaxNodes={one.max_nodes or 'UNLIMITED'}", f"MaxTime={most}", "MinNodes=0", "LLN=NO"],
        ["MaxCPUsPerNode=UNLIMITED"],
        [f"Nodes={compress_hosts([node.name for node in nodes])}"],
        ["PriorityJobFactor=1", f"PriorityTier={one.priority_tier}", "RootOnly=NO", "ReqResv=NO", "OverSubscribe=NO"],
        ["OverTimeLimit=NONE", f"PreemptMode={preempt}"],
        ["State=UP", f"TotalCPUs={sum(node.cpus for node in nodes)}", f"TotalNodes={len(nodes)}"],
        ["SelectTypeParameters=NONE"],
        ["JobDefaults=(null)"],
        ["DefMemPerNode=UNLIMITED", "MaxMemPerNode=UNLIMITED"],
        [f"TRES={node_tres(nodes, count=True)}"],
    ]
