"""From what a run asks for to sbatch's options: each one asked for, none by habit."""

import difflib
import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.errors import BadInput
from orchestrator.resources import Resources
from orchestrator.slurm.longoptions import LONG_OPTIONS

Options = dict[str, str | bool]
# What the service itself says, or what would make the job another kind of thing.
ALWAYS_PROTECTED = frozenset(
    (
        *("array", "autocomplete", "chdir", "cluster", "clusters", "comment", "error", "export", "export-file"),
        *("external", "get-user-env", "gid", "help", "input", "job-name", "open-mode", "output", "parsable", "quiet"),
        *("test-only", "uid", "usage", "verbose", "version", "wait", "wrap"),
    )
)
_ALIKE = (
    *("nodes", "mem", "time", "partition", "account", "qos", "constraint", "exclude", "nodelist", "reservation"),
    *("exclusive", "begin", "licenses"),
)
# Those with a field of their own: two ways of saying a thing could contradict each other.
NAMED = {
    "cpus-per-task": "cpus",
    "gres": "gpus and gpu_type",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "ntasks-per-node": "tasks_per_node",
    "tasks-per-node": "tasks_per_node",  # the same option to sbatch
    "nodefile": "nodelist",
    "signal": "signal (beside resources)",
    "dependency": "depends_on (beside resources)",
    "nice": "priority (beside resources)",
    **dict(zip(_ALIKE, _ALIKE, strict=True)),
}
# Of difflib's ratio: one letter wrong, missing or too many in a name of ten. Options of plugins are not that close.
CLOSE = 0.9


@dataclass(frozen=True)
class Ask:
    """All that decides a job's #SBATCH lines besides its name: runs with equal asks may share an array.

    ``signal``: as "USR1@120"; ``launch``: "torchrun" (one task a node) or "env" (one per process) for several nodes.
    """

    resources: Resources
    signal: str | None = None
    launch: str | None = None
    nice: int = 0

    def key(self) -> str:
        """Equal for equal asks."""
        return hashlib.sha256(json.dumps(options(self), sort_keys=True).encode()).hexdigest()[:16]


def options(ask: Ask) -> Options:
    """sbatch's long options and their values; True for a bare one."""
    asked = ask.resources
    found: Options = {}
    tasks = 1 if ask.launch == "torchrun" else asked.tasks_per_node
    if asked.nodes is not None:
        found["nodes"] = str(asked.nodes)
    if tasks is not None:
        found["ntasks-per-node"] = str(tasks)
    if asked.cpus is not None:
        found["cpus-per-task"] = str(asked.cpus // (tasks or 1))
    if asked.gpus:
        found["gres"] = f"gpu:{asked.gpu_type}:{asked.gpus}" if asked.gpu_type else f"gpu:{asked.gpus}"
    if asked.mem_bytes is not None:
        found["mem"] = f"{max(1, math.ceil(asked.mem_bytes / 2**20))}M"
    if asked.time_seconds is not None:
        found["time"] = str(max(1, math.ceil(asked.time_seconds / 60)))  # Slurm's own unit: it rounds up as well
    found |= _named(asked)
    if ask.signal is not None:
        found["signal"] = f"B:{ask.signal}"  # to job.py alone, which hands it to the command itself
    if ask.nice > 0:
        found["nice"] = str(ask.nice)
    for name, value in (asked.slurm or {}).items():
        if value is not False:
            found[name] = value if value is True else str(value)
    return found


def _named(asked: Resources) -> Options:
    names = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "reservation", "begin", "licenses")
    found: Options = {name: str(getattr(asked, name)) for name in names if getattr(asked, name) is not None}
    if asked.exclusive is not None and asked.exclusive is not False:
        found["exclusive"] = asked.exclusive
    return found


def check(ask: Ask, protected: Collection[str] = ()) -> None:
    """Raises BadInput for what contradicts itself, and for options that are not a run's to set.

    ``protected``: the site's own, besides ALWAYS_PROTECTED.
    """
    asked = ask.resources
    for name in asked.slurm or {}:
        _check_name(name, ALWAYS_PROTECTED.union(protected))
    tasks = asked.tasks_per_node or 1
    if asked.cpus is not None and asked.cpus % tasks:
        raise BadInput(
            "resources.cpus", f"{asked.cpus} CPUs per node cannot be shared evenly by {tasks} tasks per node."
        )
    if asked.gpu_type is not None and not asked.gpus:
        raise BadInput("resources.gpu_type", "names a type, but resources.gpus asks for none.")
    if asked.node_count > 1 and ask.launch is None:
        raise BadInput(
            "launch",
            f"{asked.nodes} nodes need a way to start on all of them: torchrun (one task per node, MASTER_ADDR) or env "
            "(a process per task, RANK and WORLD_SIZE).",
            ["torchrun", "env"],
        )


def _check_name(name: str, protected: frozenset[str]) -> None:
    """Raises BadInput unless it is, written out, an option that a run may set.

    A name that nobody knows passes: of a newer Slurm or a site's plugin (SPANK). Where there is no such option sbatch
    says so itself.
    """
    where, known = f"resources.slurm.{name}", LONG_OPTIONS | protected
    if name in NAMED:
        raise BadInput(where, f"--{name} has a field of its own: {NAMED[name]}.")
    if name in protected:
        raise BadInput(where, f"--{name} is protected: these are not a run's to set: {', '.join(sorted(protected))}.")
    if name in known:
        return
    if meant := sorted(option for option in known if option.startswith(name)):
        words = " or ".join(f"--{option}" for option in meant)
        raise BadInput(where, f"--{name} is short for {words}: options are written out here.", meant)
    if meant := difflib.get_close_matches(name, known, cutoff=CLOSE):
        raise BadInput(where, f"sbatch has no option --{name}.", meant)
