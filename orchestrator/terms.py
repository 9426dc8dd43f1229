"""What a run asks for, held against what the machine has: decided once, when the run is made."""

from dataclasses import dataclass
from typing import Any

from orchestrator.errors import BadInput, Conflict
from orchestrator.models import Cluster
from orchestrator.shapes import GpuwrapConfig, RunTerms


@dataclass(frozen=True)
class Terms:
    """The columns of a run that follow from what was asked. ``lease_gpus``: how many GPUs gpuwrap must lease."""

    executor: str
    lease_gpus: int
    hide_gpus: bool
    cpus: int
    columns: dict[str, Any]


def gpus_here(cluster: Cluster) -> int:
    """GPUs (or MIG devices) of this machine that may be leased."""
    gpus = cluster.details.get("gpus", [])
    parents = {gpu.get("parent") for gpu in gpus}
    return sum(gpu["uuid"] not in parents for gpu in gpus)


def settle(body: RunTerms, cluster: Cluster, local_cpus: int) -> Terms:
    """Where a run goes and what it holds there. Raises BadInput for what this machine cannot give."""
    executor = body.executor or ("slurm" if cluster.type == "slurm" else "local")
    if executor == "slurm":
        raise Conflict(
            'This version does not submit to Slurm yet. Name the executor ("executor": "local") to run on this '
            'machine, or set the cluster\'s type by hand (POST /cluster/detect {"preferred_type": "cpu_only"}).'
        )
    wrap = body.gpuwrap_config or GpuwrapConfig()
    lease, hide = _gpus(body, wrap, cluster)
    cpus = body.resources.cpus or 1
    if cpus > local_cpus:
        raise BadInput(
            "resources.cpus", f"This machine gives {local_cpus} CPU(s) to runs, not {cpus}.", [f"1..{local_cpus}"]
        )
    columns = {
        "executor": executor,
        "lease_gpus": lease,
        "hide_gpus": hide,
        "cpus": cpus,
        "resources": body.resources.model_dump(exclude_none=True),
        "env": dict(body.env),
        "tags": list(body.tags),
        "priority": body.priority,
        "gpuwrap_config": body.gpuwrap_config.model_dump() if body.gpuwrap_config else None,
    }
    return Terms(executor, lease, hide, cpus, columns)


def _gpus(body: RunTerms, wrap: GpuwrapConfig, cluster: Cluster) -> tuple[int, bool]:
    """How many GPUs to lease, and whether the others must be hidden from the run."""
    asked, here = body.resources.gpus, gpus_here(cluster)
    if cluster.type == "cpu_only":
        if asked:
            raise BadInput(
                "resources.gpus", f"There are no GPUs to use on this machine. {cluster.notes or ''}".strip(), [0]
            )
        return 0, False
    if wrap.enabled is False:
        return 0, False
    count = asked if asked is not None else 1 if cluster.type == "local_gpu" else 0
    if count > here:
        raise BadInput("resources.gpus", f"This machine has {here} GPU(s), not {count}.", [f"0..{here}"])
    return count, count == 0
