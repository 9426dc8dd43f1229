"""What a run asks for, held against what the machine has: decided once, when the run is made."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.models import Cluster, Run
from orchestrator.resources import SLURM_ONLY, Resources
from orchestrator.shapes import GpuwrapConfig, RunTerms
from orchestrator.slurm import checks, options
from orchestrator.slurm.facts import Facts
from orchestrator.slurm.options import Ask


@dataclass(frozen=True)
class Machine:
    """What there is: the cluster in force, what Slurm allows, and how many CPUs runs get here."""

    cluster: Cluster
    facts: Facts
    local_cpus: int
    protected: Collection[str] = ()


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


def settle(body: RunTerms, machine: Machine) -> Terms:
    """Where a run goes and what it holds there. Raises BadInput for what this machine cannot give."""
    executor = body.executor or ("slurm" if machine.cluster.type == "slurm" else "local")
    if body.signal is not None and body.resources.time is None:
        raise BadInput("signal", "comes a while before the time limit: set resources.time as well.")
    return _slurm(body, machine) if executor == "slurm" else _local(body, machine)


def rekeyed(run: Run, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes of a run's columns, with the ``ask_key`` after them: by it runs go out together."""
    if run.executor != "slurm" or not {"resources", "priority"} & set(changes):
        return changes
    resources = Resources.model_validate(changes.get("resources", run.resources))
    nice = max(0, -changes.get("priority", run.priority))
    return changes | {"ask_key": Ask(resources, run.signal_before_end, run.launch, nice).key()}


def _slurm(body: RunTerms, machine: Machine) -> Terms:
    if machine.cluster.type != "slurm":
        raise BadInput("executor", "There is no Slurm on this machine (POST /cluster/detect looks again).", ["local"])
    ask = Ask(body.resources, body.signal, body.launch, max(0, -body.priority))
    options.check(ask, frozenset(machine.protected))
    checks.check_resources(body.resources, machine.facts, machine.cluster.details.get("nodes", {}))
    return Terms("slurm", 0, False, body.resources.cpus or 1, _columns(body, "slurm") | {"ask_key": ask.key()})


def _local(body: RunTerms, machine: Machine) -> Terms:
    for name in SLURM_ONLY:
        if getattr(body.resources, name) is not None and not (name == "nodes" and body.resources.nodes == 1):
            raise BadInput(f"resources.{name}", "is Slurm's, and this run goes to this machine (executor local).")
    if body.launch is not None:
        raise BadInput("launch", "starts a run on several nodes: that is Slurm's (executor local has this machine).")
    if body.container is not None and body.container.engine == "pyxis":
        raise BadInput("container.engine", "pyxis is Slurm's; on this machine there is apptainer.", ["apptainer"])
    wrap = body.gpuwrap_config or GpuwrapConfig()
    lease, hide = _gpus(body, wrap, machine.cluster)
    cpus = body.resources.cpus or 1
    if cpus > machine.local_cpus:
        most = machine.local_cpus
        raise BadInput("resources.cpus", f"This machine gives {most} CPU(s) to runs, not {cpus}.", [f"1..{most}"])
    columns = _columns(body, "local") | {"lease_gpus": lease, "hide_gpus": hide, "cpus": cpus}
    return Terms("local", lease, hide, cpus, columns)


def _columns(body: RunTerms, executor: str) -> dict[str, Any]:
    return {
        "executor": executor,
        "profile": body.profile,
        "retry": body.retry.model_dump() if body.retry else None,
        "signal_before_end": body.signal,
        "launch": body.launch,
        "container": body.container.model_dump() if body.container else None,
        "resources": body.resources.model_dump(exclude_none=True),
        "env": dict(body.env),
        "tags": list(body.tags),
        "priority": body.priority,
        "gpuwrap_config": body.gpuwrap_config.model_dump() if body.gpuwrap_config else None,
    }


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
        return 0, asked == 0  # without a lease it sees what its environment says, but for one that wants none
    count = asked if asked is not None else 1 if cluster.type == "local_gpu" else 0
    if count > here:
        raise BadInput("resources.gpus", f"This machine has {here} GPU(s), not {count}.", [f"0..{here}"])
    return count, count == 0
