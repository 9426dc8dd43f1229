"""A node as sinfo and scontrol show it. Pure."""

from dataclasses import dataclass, field

from orchestrator.testing.cluster import Node
from orchestrator.testing.gres import used_text
from orchestrator.testing.model import Job, NodeState
from orchestrator.testing.queue import Queue

_COMPACT = {
    "idle": "idle",
    "mixed": "mix",
    "allocated": "alloc",
    "completing": "comp",
    "down": "down",
    "drained": "drain",
    "draining": "drng",
}


@dataclass
class NodeView:
    """A node, its state, and what of it is taken."""

    node: Node
    state: NodeState
    mixed_drain: bool
    cpus: int = 0
    memory: int = 0
    gres: dict[str, list[int]] = field(default_factory=dict)
    completing: bool = False

    def add(self, job: Job) -> None:
        """Counts the job's share."""
        for share in job.shares:
            if share.node == self.node.name:
                self.completing = self.completing or job.completing
                self.cpus += share.cpus
                self.memory += share.memory
                for key, numbers in share.gres.items():
                    self.gres[key] = sorted(self.gres.get(key, []) + numbers)

    @property
    def base(self) -> str:
        """``idle``, ``mixed``, ``allocated``."""
        if not self.cpus:
            return "idle"
        return "allocated" if self.cpus >= self.node.cpus else "mixed"

    @property
    def away(self) -> str:
        """The star of a node that does not answer."""
        return "" if self.state.responding else "*"

    @property
    def long(self) -> str:
        """sinfo's %T."""
        if self.state.down:
            return "down" + self.away
        if self.state.drain:
            return ("draining" if self.cpus else "drained") + self.away
        return ("completing" if self.completing and not self.cpus else self.base) + self.away

    @property
    def compact(self) -> str:
        """sinfo's %t."""
        return _COMPACT[self.long.rstrip("*")] + self.away

    @property
    def complete(self) -> str:
        """sinfo's StateComplete, lower case: ``mixed+drain``, ``down+not_responding``."""
        base = "down" if self.state.down else self.base
        if self.state.drain and not self.state.down and base == "mixed" and not self.mixed_drain:
            base = "allocated"
        flags = [
            name
            for name, on in (
                ("drain", self.state.drain),
                ("completing", self.completing),
                ("not_responding", not self.state.responding),
            )
            if on
        ]
        return "+".join([base, *flags])

    @property
    def cpus_aiot(self) -> str:
        """Allocated, idle, other, total."""
        total = self.node.cpus
        if self.state.down or self.state.drain:
            return f"{self.cpus}/0/{total - self.cpus}/{total}"
        return f"{self.cpus}/{total - self.cpus}/0/{total}"

    @property
    def gres_used(self) -> str:
        """``gpu:a100:2(IDX:0-1)``."""
        return used_text(self.node.gres, self.gres)


def view(queue: Queue) -> dict[str, NodeView]:
    """Every node, in the cluster's order."""
    views = {
        node.name: NodeView(node, queue.state.nodes[node.name], queue.profile.mixed_drain)
        for node in queue.cluster.nodes
    }
    for job in queue.jobs.values():
        if job.holds_resources:
            for name in job.nodes:
                views[name].add(job)
    return views
