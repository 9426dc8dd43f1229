"""sinfo: partitions and nodes. https://slurm.schedmd.com/sinfo.html"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.testing import times
from orchestrator.testing.arguments import Arguments, UsageError, options_table, parse
from orchestrator.testing.cluster import Partition
from orchestrator.testing.commands.base import Answer, Call, Layout, long_format, short_format, usage, words_of
from orchestrator.testing.commands.nodeview import NodeView, view
from orchestrator.testing.hostlist import compress_hosts, expand_hosts
from orchestrator.testing.queue import Queue

OPTIONS = options_table(
    "-a/--all -d/--dead -e/--exact -h/--noheader -i/--iterate= -l/--long -M/--clusters= -n/--nodes= --noconvert "
    "-N/--Node -o/--format= -O/--Format= -p/--partition= -r/--responding -R/--list-reasons -s/--summarize -S/--sort= "
    "-t/--states= -T/--reservation -v/--verbose -V/--version --federation --future --hide --local --help --usage"
)
_DEFAULTS = {
    "plain": "%#P %.5a %.10l %.6D %.6t %N",
    "long": "%#P %.5a %.10l %.10s %.4r %.8h %.10g %.6D %.11T %N",
    "Node": "%#N %.6D %#P %6t",
    "summarize": "%#P %.5a %.10l %.16F %N",
    "reasons": "%20E %12u %19H %N",
}
_TABLE = """
N nodelist NODELIST
n nodehost HOSTNAMES
P partition PARTITION
R partitionname PARTITION
D nodes NODES
t statecompact STATE
T statelong STATE
- statecomplete STATECOMPLETE
C cpusstate CPUS(A/I/O/T)
c cpus CPUS
m memory MEMORY
e freemem FREE_MEM
- allocmem ALLOCMEM
O cpusload CPU_LOAD
G gres GRES
- gresused GRES_USED
f features AVAIL_FEATURES
b features_act ACTIVE_FEATURES
E reason REASON
H timestamp TIMESTAMP
u user USER
w weight WEIGHT
a available AVAIL
l time TIMELIMIT
L defaulttime DEFAULTTIME
F nodeaiot NODES(A/I/O/T)
A nodeai NODES(A/I)
d disk TMP_DISK
s size JOB_SIZE
r root ROOT
h oversubscribe OVERSUBS
g groups GROUPS
o nodeaddr NODE_ADDR
v version VERSION
X sockets SOCKETS
Y cores CORES
Z threads THREADS
z socketcorethread S:C:T
p prioritytier PRIO_TIER
M preemptmode PREEMPT_MODE
- cluster CLUSTER
"""
_ROWS = [line.split(maxsplit=2) for line in _TABLE.strip().splitlines()]
LETTERS = {letter: name for letter, name, _ in _ROWS if letter != "-"}
HEADINGS = {letter: heading for letter, _, heading in _ROWS if letter != "-"}
LONG_NAMES = {name: (name, heading) for _, name, heading in _ROWS}


@dataclass(frozen=True)
class Row:
    """Nodes of one partition that are shown in one line."""

    partition: Partition
    nodes: Sequence[NodeView]

    @property
    def first(self) -> NodeView:
        """Stands for all."""
        return self.nodes[0]


def run(call: Call, queue: Queue) -> Answer:
    """Answers one sinfo."""
    try:
        given = parse("sinfo", OPTIONS, call.argv, interleaved=True)
    except UsageError as error:
        raise usage("sinfo", error) from None
    if "version" in given:
        return Answer(queue.profile.banner + "\n")
    layout, warnings = _layout(given, call.environment, queue)
    rows = _rows(given, queue, layout)
    lines = [] if "noheader" in given else [layout.heading()]
    if "long" in given and lines:
        lines.insert(0, time.strftime("%a %b %d %H:%M:%S %Y\n", time.localtime(call.now)))
    lines += [layout.line(_values(row, queue, call)) for row in rows]
    return Answer("".join(lines), warnings)


def _layout(given: Arguments, environment: Mapping[str, str], queue: Queue) -> tuple[Layout, str]:
    if "Format" in given:
        layout, unknown = long_format(given.get("Format"), LONG_NAMES)
        return layout, "".join(f"sinfo: error: Invalid job format specification: {name}\n\n" for name in unknown)
    kind = next((name for name in ("Node", "summarize", "long") if name in given), "plain")
    text = given.get("format") or environment.get("SINFO_FORMAT", "")
    text = text or _DEFAULTS["reasons" if "list-reasons" in given else kind]
    nodes = max([8, *(len(node.name) for node in queue.cluster.nodes)]) + 2
    names = max([9, *(len(partition.name) + 1 for partition in queue.cluster.partitions)])
    right = "." if kind == "Node" else ""
    return short_format(text.replace("%#N", f"%{nodes}N").replace("%#P", f"%{right}{names}P"), HEADINGS), ""


def _rows(given: Arguments, queue: Queue, layout: Layout) -> list[Row]:
    views = view(queue)
    if given.get("nodes"):
        views = {name: views[name] for name in expand_hosts(given.get("nodes")) if name in views}
    if given.get("states"):
        states = {word.lower() for word in words_of(given.get("states"))}
        views = {name: one for name, one in views.items() if _state_words(one) & states}
    if "list-reasons" in given:
        return [Row(queue.cluster.partitions[0], [one]) for one in views.values() if one.state.reason]
    partitions = [
        partition
        for partition in queue.cluster.partitions
        if not given.get("partition") or partition.name in words_of(given.get("partition"))
    ]
    by_partition = {
        partition.name: [views[node.name] for node in queue.cluster.nodes_of(partition) if node.name in views]
        for partition in partitions
    }
    if "Node" in given:
        return [Row(one, [node]) for node in views.values() for one in partitions if node in by_partition[one.name]]
    return [Row(one, group) for one in partitions for group in _groups(by_partition[one.name], layout)]


def _state_words(one: NodeView) -> set[str]:
    words = {one.long.rstrip("*"), one.compact.rstrip("*"), *one.complete.split("+")}
    return words | ({"alloc", "allocated"} if one.cpus else set())


def _groups(nodes: Sequence[NodeView], layout: Layout) -> list[list[NodeView]]:
    """Nodes that look alike share a line; where no state is shown they all do."""
    fields = {LETTERS.get(column.field, column.field) for column in layout.columns}
    keys = [_VALUES_OF_NODE[name] for name in sorted(fields & set(_VALUES_OF_NODE)) if name not in _SUMMED]
    groups: dict[tuple[str, ...], list[NodeView]] = {}
    for node in nodes:
        groups.setdefault(tuple(key(node) for key in keys), []).append(node)
    return list(groups.values())


_SUMMED = {"nodelist", "nodehost", "nodeaddr"}
_VALUES_OF_NODE: dict[str, Callable[[NodeView], str]] = {
    "statecompact": lambda one: one.compact,
    "statelong": lambda one: one.long,
    "statecomplete": lambda one: one.complete,
    "cpusstate": lambda one: one.cpus_aiot,
    "cpus": lambda one: str(one.node.cpus),
    "memory": lambda one: str(one.node.memory_mb),
    "freemem": lambda one: str(one.node.memory_mb - one.memory),
    "allocmem": lambda one: str(one.memory),
    "cpusload": lambda one: f"{float(one.cpus):.2f}",
    "gres": lambda one: one.node.gres or "(null)",
    "gresused": lambda one: one.gres_used,
    "features": lambda one: ",".join(one.node.features) or "(null)",
    "features_act": lambda one: ",".join(one.node.features) or "(null)",
    "reason": lambda one: one.state.reason or "none",
    "user": lambda one: one.state.reason_user or "Unknown",
    "weight": lambda _one: "1",
    "disk": lambda _one: "0",
    "sockets": lambda one: str(one.node.cpus),
    "cores": lambda _one: "1",
    "threads": lambda _one: "1",
    "socketcorethread": lambda one: f"{one.node.cpus}:1:1",
}


def _values(row: Row, queue: Queue, call: Call) -> Callable[[str], str]:
    def value(field: str) -> str:
        name = LETTERS.get(field, field)
        if name in _VALUES_OF_NODE:
            return _VALUES_OF_NODE[name](row.first)
        return _row_value(name, row, queue, call)

    return value


def _row_value(name: str, row: Row, queue: Queue, call: Call) -> str:
    partition, names = row.partition, [one.node.name for one in row.nodes]
    limit = partition.max_time_minutes
    values: dict[str, Callable[[], str]] = {
        "nodelist": lambda: compress_hosts(names),
        "nodehost": lambda: compress_hosts(names),
        "nodeaddr": lambda: compress_hosts(names),
        "partition": lambda: partition.name + "*" * (partition == queue.cluster.default_partition),
        "partitionname": lambda: partition.name,
        "nodes": lambda: str(len(names)),
        "timestamp": lambda: times.stamp(row.first.state.reason_time, call.environment),
        "available": lambda: "up",
        "time": lambda: "infinite" if limit is None else times.short(limit * 60),
        "defaulttime": lambda: _default_time(partition),
        "nodeaiot": lambda: "/".join(map(str, _aiot(row.nodes))),
        "nodeai": lambda: "/".join(map(str, _aiot(row.nodes)[:2])),
        "size": lambda: f"1-{partition.max_nodes or 'infinite'}",
        "root": lambda: "no",
        "oversubscribe": lambda: "NO",
        "groups": lambda: "all",
        "version": lambda: queue.profile.version,
        "prioritytier": lambda: str(partition.priority_tier),
        "preemptmode": lambda: "REQUEUE" if partition.preempt else "OFF",
        "cluster": lambda: queue.cluster.name,
    }
    return values[name]() if name in values else ""


def _default_time(partition: Partition) -> str:
    minutes = partition.default_time_minutes
    return "n/a" if minutes is None else times.short(minutes * 60)


def _aiot(nodes: Sequence[NodeView]) -> list[int]:
    other = sum(one.state.down or one.state.drain for one in nodes)
    allocated = sum(bool(one.cpus) and not (one.state.down or one.state.drain) for one in nodes)
    return [allocated, len(nodes) - allocated - other, other, len(nodes)]
