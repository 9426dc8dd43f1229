"""What to write into a plan's Compute Setup and Estimated Effort, from facts. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.slurm.checks import clock

MIB = 2**20
MORE_MEMORY, MORE_TIME = 1.3, 1.5
MEMORY_STEP, TIME_STEP = 256 * MIB, 300


@dataclass(frozen=True)
class Like:
    """Runs that finished in the same workdir: how many, and the most that one used (bytes, seconds; None: unknown)."""

    count: int = 0
    peak_memory: int | None = None
    elapsed: float | None = None
    gpus: int | None = None

    def resources(self) -> dict[str, Any]:
        """What to ask for, with a margin."""
        found: dict[str, Any] = {}
        if self.gpus:
            found["gpus"] = self.gpus
        if self.peak_memory:
            size = math.ceil(self.peak_memory * MORE_MEMORY / MEMORY_STEP) * MEMORY_STEP
            found["mem"] = f"{size // MIB}M"
        if self.elapsed:
            found["time"] = clock(math.ceil(self.elapsed * MORE_TIME / TIME_STEP) * TIME_STEP)
        return found


@dataclass(frozen=True)
class Seen:
    """The machine as it is now. ``strangers``: other users who hold its GPUs; ``environment``: what was found."""

    type: str
    status: str
    gpu_count: int
    node_count: int
    cpus: int
    gpus_free: int | None = None
    strangers: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)


def parallel(seen: Seen, each: int) -> dict[str, Any]:
    """How many runs at once. ``each``: the GPUs of one run."""
    if seen.type == "slurm":
        free = "" if seen.gpus_free is None else f" {seen.gpus_free} GPU(s) are free now."
        return {"at_once": None, "why": f"Slurm decides: submit all of them; they go out as arrays.{free}"}
    if seen.type == "local_gpu":
        most = max(1, seen.gpu_count // max(1, each))
        return {"at_once": most, "why": f"{seen.gpu_count} GPU(s), {max(1, each)} for each run; more wait their turn."}
    return {"at_once": seen.cpus, "why": f"Runs get {seen.cpus} CPU(s) here, one each unless they ask for more."}


def pinning(seen: Seen) -> dict[str, Any]:
    """How a run is kept to its GPUs."""
    if seen.type == "slurm":
        return {"by": "--gres", "why": "Slurm gives the GPUs of `resources.gpus` (--gres=gpu:N) and hides the others."}
    if seen.type == "local_gpu":
        return {"by": "CUDA_VISIBLE_DEVICES", "why": "gpuwrap leases the GPUs and sets it; do not set it yourself."}
    return {"by": None, "why": "There is no GPU: leave out every GPU flag."}


def gpuwrap(seen: Seen) -> dict[str, Any]:
    """Whether to ask for it, and why."""
    if seen.type == "slurm":
        return {"config": {"enabled": False}, "word": "disabled", "why": "The scheduler allocates GPUs."}
    if seen.type == "local_gpu" and seen.strangers:
        who = ", ".join(sorted(set(seen.strangers))[:5])
        return {"config": {"enabled": True}, "word": "enabled", "why": f"The GPUs are shared: {who} use(s) them too."}
    if seen.type == "local_gpu":
        return {"config": {"enabled": True}, "word": "enabled", "why": "Nobody else is there now; it costs nothing."}
    return {"config": None, "word": "not applicable", "why": "There are no GPUs."}


def soonest(choices: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of what `sbatch --test-only` said the one that starts first; of equals the one with more time."""
    known = [choice for choice in choices if choice["expected_start"] is not None]
    return min(known, key=lambda choice: (choice["expected_start"], -choice["seconds"]), default=None)


def compute_setup(seen: Seen, resources: Mapping[str, Any]) -> str:
    """The section's text, as the seed's structure has it."""
    lines = [
        f"- Cluster type: {seen.type}",
        f"- GPU count: {resources.get('gpus') or 0 if seen.type != 'local_gpu' else seen.gpu_count}",
        f"- gpuwrap: {gpuwrap(seen)['word']}",
        f"- Environment: {_environment(seen.environment)}",
    ]
    if resources.get("partition"):
        lines.append(f"- Partition: {resources['partition']}")
    return "\n".join(lines)


def estimated_effort(seen: Seen, like: Like, resources: Mapping[str, Any], at_once: int | None) -> str:
    """The section's text; what only the plan knows stays to be filled in."""
    each = "<time of a run>"
    if like.elapsed:
        each = f"about {clock(math.ceil(like.elapsed))} each, by {like.count} run(s) like it"
    beside = f", {at_once} at once" if at_once else ""
    asked = ", ".join(f"{name} {value}" for name, value in resources.items()) or "the default"
    where = f"{asked} for each run; type {seen.type}"
    return f"- **Runs**: <number of runs>\n- **Time**: {each}{beside}\n- **Resources**: {where}"


def run_block(seen: Seen, workdir: str, resources: Mapping[str, Any]) -> str:
    """The plan's block (TOML), but for its command."""
    lines = [f"workdir = {_toml(workdir)}"]
    if seen.environment:
        lines.append(f"environment = {_toml(seen.environment)}")
    if seen.type == "slurm":
        lines.append("gpuwrap_config = {enabled = false}")
    asked = {name: value for name, value in resources.items() if value is not None}
    if asked:
        lines += ["", "[resources]", *(f"{name} = {_toml(value)}" for name, value in asked.items())]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """A value on one line: but for tables TOML writes it as JSON does."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _environment(found: Mapping[str, Any]) -> str:
    for name in ("venv", "conda", "uv"):
        if found.get(name):
            return f"{name} ({found[name]})" if found[name] is not True else "venv (uv's .venv)"
    return "system"
