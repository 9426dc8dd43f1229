"""Where the tasks of a step run, and what each finds in its environment. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.testing.arguments import Arguments
from orchestrator.testing.gres import parse_gpus, parse_gres, take
from orchestrator.testing.hostlist import compress_hosts, expand_hosts
from orchestrator.testing.launch import gpu_variables, per_node
from orchestrator.testing.model import Share


@dataclass(frozen=True)
class Task:
    """One task of a step: where it runs."""

    rank: int
    local_rank: int
    node_rank: int
    share: Share


@dataclass(frozen=True)
class Step:
    """What the tasks have in common."""

    step_id: str
    tasks: Sequence[Task]

    @property
    def nodes(self) -> list[str]:
        """In the order of their ranks."""
        return list(dict.fromkeys(task.share.node for task in self.tasks))

    @property
    def counts(self) -> list[int]:
        """Tasks of each node."""
        return [sum(task.share.node == node for task in self.tasks) for node in self.nodes]


class Refused(Exception):
    """srun's own error."""


def lay_out(given: Arguments, environment: Mapping[str, str], shares: Sequence[Share]) -> list[Task]:
    """The tasks and their nodes, as many as asked for here, or else by sbatch. Refused when there is no room."""
    if "nodelist" in given:
        wanted = expand_hosts(given.get("nodelist"))
        shares = [share for share in shares if share.node in wanted]
    number = _number(given.get("nodes").partition("-")[0])
    if number is not None:
        shares = shares[:number] if number <= len(shares) else []
    if not shares:
        raise Refused("Requested node configuration is not available")
    per = _number(given.get("ntasks-per-node"))
    total = _number(given.get("ntasks"))
    if total is None and per is None:
        total = _number(environment.get("SLURM_NTASKS", "")) or len(shares)
    if total is None:
        total = (per or 1) * len(shares)
    cpus = _number(given.get("cpus-per-task")) or 1
    if total * cpus > sum(share.cpus for share in shares) and "overcommit" not in given:
        raise Refused("More processors requested than permitted")
    return _deal(total, per, [_of_step(given, share) for share in shares])


def _of_step(given: Arguments, share: Share) -> Share:
    """What the step may use of the node's GPUs."""
    gpus = given.get("gpus-per-node") or given.get("gpus")
    text = given.get("gres")
    if not gpus and not text:
        return share
    held = take(share.gres, parse_gpus(gpus) + ([] if text == "none" else parse_gres(text)))
    if held is None:
        raise Refused("Invalid generic resource (gres) specification")
    return Share(share.node, share.cpus, share.memory, held, share.tasks)


def _deal(total: int, per: int | None, shares: Sequence[Share]) -> list[Task]:
    """Blocks of tasks, one node after the other; each node gets one at least."""
    if total < len(shares):
        shares = shares[:total]
    counts = [1] * len(shares)
    for position, share in enumerate(shares):
        room = (per or max(share.tasks, -(-total // len(shares)))) - 1
        counts[position] += max(min(room, total - sum(counts)), 0)
    counts[-1] += total - sum(counts)
    tasks: list[Task] = []
    for node_rank, (share, count) in enumerate(zip(shares, counts, strict=True)):
        tasks += [Task(len(tasks) + local, local, node_rank, share) for local in range(count)]
    return tasks


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def task_variables(step: Step, task: Task, given: Arguments) -> dict[str, str]:
    """What distinguishes a step's task from the batch script."""
    nodes = compress_hosts(step.nodes)
    found = {
        "SLURM_PROCID": str(task.rank),
        "SLURM_LOCALID": str(task.local_rank),
        "SLURM_NODEID": str(task.node_rank),
        "SLURMD_NODENAME": task.share.node,
        "SLURM_TOPOLOGY_ADDR": task.share.node,
        "SLURM_NTASKS": str(len(step.tasks)),
        "SLURM_NPROCS": str(len(step.tasks)),
        "SLURM_NNODES": str(len(step.nodes)),
        "SLURM_TASKS_PER_NODE": per_node(step.counts),
        "SLURM_STEP_ID": step.step_id,
        "SLURM_STEPID": step.step_id,
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_NUM_NODES": str(len(step.nodes)),
        "SLURM_STEP_NUM_TASKS": str(len(step.tasks)),
        "SLURM_STEP_TASKS_PER_NODE": per_node(step.counts),
        "SLURM_CPUS_ON_NODE": str(task.share.cpus),
        "SLURM_GTIDS": ",".join(str(one.rank) for one in step.tasks if one.node_rank == task.node_rank),
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_DISTRIBUTION": "block",
        "SLURM_UMASK": "0022",
        "HOSTNAME": task.share.node,
    }
    if "label" in given:
        found["SLURM_LABELIO"] = "1"
    gpus = gpu_variables(task.share)
    if gpus:
        found |= {**gpus, "SLURM_STEP_GPUS": gpus["SLURM_JOB_GPUS"]}
    return found
