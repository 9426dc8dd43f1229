"""What this machine is: a Slurm cluster, a GPU machine, a plain one. Each probe has a deadline and its own words."""

import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.gpus import Gpu, GpuReading
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.pyslurmreads import PyslurmReads

ClusterType = Literal["slurm", "local_gpu", "cpu_only"]
TYPES: tuple[ClusterType, ...] = ("slurm", "local_gpu", "cpu_only")

LABELS = {
    "slurm": ("Slurm cluster", "Runs are sbatch jobs; the scheduler hands out GPUs (--gres)."),
    "local_gpu": ("GPU workstation", "Runs are processes here; gpuwrap leases GPUs to them (CUDA_VISIBLE_DEVICES)."),
    "cpu_only": ("CPU machine", "Runs are processes here; there are no GPUs."),
    "unknown": ("Unknown", "Nothing has been detected yet: POST /cluster/detect."),
}


@dataclass(frozen=True)
class Probe:
    """What one probe saw. ``state``: "found", "absent" or "broken"; ``says``: in words."""

    state: Literal["found", "absent", "broken"]
    says: str
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Detected:
    """The detector's answer, as stored."""

    type: ClusterType
    status: Literal["healthy", "degraded"]
    confidence: float
    notes: str
    head_node: str
    node_count: int
    gpu_count: int
    details: dict[str, Any]


SINFO_FIELDS = ("NodeList", "Partition", "StateComplete", "Gres", "GresUsed", "CPUsState", "Memory", "Features")


def probe_sinfo(gate: Gate, deadline: float, pyslurm: PyslurmReads | None = None) -> Probe:
    """Slurm's nodes, from pyslurm where that answers, else from sinfo: absent, without a configuration (no Slurm),
    answering, or configured and silent (degraded)."""
    nodes = pyslurm.nodes() if pyslurm is not None else None
    if nodes:
        return Probe("found", "pyslurm answers; sinfo was not needed.", data=pyslurm_nodes(nodes))
    if shutil.which("sinfo") is None:
        return Probe("absent", "sinfo is not installed.")
    try:
        answer = gate.run(["sinfo", "-h", "-N", "-a", "-O", ",".join(f"{field}:|" for field in SINFO_FIELDS)], deadline)
    except SchedulerUnavailable as error:
        return Probe("broken", error.message)
    return read_sinfo(answer.code, answer.output, answer.errors)


def read_sinfo(code: int, output: str, errors: str) -> Probe:
    """What sinfo's answer means (texts seen on Slurm 22.05 to 26.05)."""
    if code != 0:
        text = errors.strip()
        if any(sign in text for sign in ("resolve_ctls_from_dns_srv", "Could not establish a configuration source")):
            return Probe("absent", "sinfo is installed, but this machine has no Slurm configuration.")
        if "No such file" in text and "slurm.conf" in text:
            return Probe("absent", "sinfo is installed, but its slurm.conf is missing.")
        return Probe("broken", f"sinfo failed (exit code {code}): {text[:500]}")
    return Probe("found", "sinfo answers.", data=_nodes(output))


def _nodes(output: str) -> dict[str, Any]:
    """Nodes once each (sinfo -N prints one row per node and partition), partitions, GPUs and how many are free."""
    nodes: dict[str, dict[str, Any]] = {}
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < len(SINFO_FIELDS):
            continue
        name, partition = cells[0], cells[1].rstrip("*")
        if name not in nodes:
            nodes[name] = _node(*cells[2:8])
        nodes[name]["partitions"].append(partition)
    return _summed(nodes)


def pyslurm_nodes(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same from pyslurm's nodes."""
    nodes: dict[str, dict[str, Any]] = {}
    for node in found:
        gres = ",".join(f"{name}:{count}" for name, count in (node["configured_gres"] or {}).items())
        state, total, used = str(node["state"]).lower(), node["total_cpus"], node["allocated_cpus"]
        idle = 0 if any(word in state for word in ("drain", "down", "fail")) else total - used
        nodes[node["name"]] = {
            "state": state,
            "gres": gres,
            "gpus": count_gres(gres),
            "gpus_free": count_gres(gres) - int((node["allocated_tres"] or {}).get("gres/gpu", 0)),
            "gpu_types": gpu_types(gres),
            "cpus": f"{used}/{idle}/{total - used - idle}/{total}",
            "cpus_total": total,
            "memory_mb": node["real_memory"] or 0,
            "features": list(node["available_features"] or ()),
            "partitions": list(node["partitions"] or ()),
        }
    return _summed(nodes)


def _summed(nodes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    partitions = sorted({name for node in nodes.values() for name in node["partitions"]})
    types = sorted({kind for node in nodes.values() for kind in node["gpu_types"]})
    return {"nodes": nodes, "partitions": partitions, "gres_types": types}


def _node(state: str, gres: str, used: str, cpus: str, memory: str, features: str) -> dict[str, Any]:
    return {
        "state": state,
        "gres": gres,
        "gpus": count_gres(gres),
        "gpus_free": count_gres(gres) - count_gres(used),
        "gpu_types": gpu_types(gres),
        "cpus": cpus,
        "cpus_total": _last_number(cpus),
        "memory_mb": int(memory) if memory.isdigit() else 0,
        "features": [] if features == "(null)" else features.split(","),
        "partitions": [],
    }


def _last_number(text: str) -> int:
    """CPUs in all, of sinfo's allocated/idle/other/total."""
    last = text.rsplit("/", 1)[-1]
    return int(last) if last.isdigit() else 0


def gpu_types(text: str) -> dict[str, int]:
    """How many GPUs of each type: ``gpu:a100:4(S:0-1)`` has four a100."""
    found: dict[str, int] = {}
    for part in map(_bare, _gpu_parts(text)):
        words = part.split(":")
        if len(words) == 3 and words[2].isdigit():
            found[words[1]] = found.get(words[1], 0) + int(words[2])
    return found


def count_gres(text: str) -> int:
    """GPUs in ``gpu:a100:4(S:0-1),gpu:2`` and the like."""
    counts = [_bare(part).rsplit(":", 1)[-1] for part in _gpu_parts(text)]
    return sum(int(count) for count in counts if count.isdigit())


def _bare(part: str) -> str:
    """A GRES without what stands in parentheses."""
    return part.split("(", maxsplit=1)[0]


def _gpu_parts(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text + ","):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part for part in parts if part.split(":")[0] == "gpu" and ":" in part]


def probe_gpus(read: Callable[[], GpuReading], visible: str | None) -> tuple[Probe, list[Gpu]]:
    """The GPUs that this server may use, through NVML or nvidia-smi."""
    reading = read()
    gpus = list(reading.visible(visible))
    data: dict[str, Any] = {"source": reading.source, "driver": reading.driver, "notes": list(reading.notes)}
    if gpus:
        hidden = len(reading.gpus) - len(gpus)
        limit = f"; {hidden} more are hidden by CUDA_VISIBLE_DEVICES={visible}" if hidden else ""
        return Probe("found", f"{reading.source} shows {len(gpus)} GPU(s){limit}.", data=data), gpus
    if reading.source == "none":
        return Probe("absent", reading.trouble or "There is no NVIDIA driver here.", data=data), []
    if reading.trouble:
        return Probe("broken", reading.trouble, data=data), []
    return Probe("absent", f"{reading.source} answers and shows no GPU that may be used here.", data=data), []


def classify(sinfo: Probe, gpu: Probe, gpus: list[Gpu]) -> Detected:
    """From what the probes saw to what the machine is."""
    probes = {"sinfo": asdict(sinfo), "gpus": asdict(gpu)}
    details: dict[str, Any] = {"probes": probes, "gpus": [g.public() for g in gpus]}
    here = socket.gethostname()
    broken = f" {gpu.says}" if gpu.state == "broken" else ""
    if sinfo.state == "broken":
        return Detected("slurm", "degraded", 0.8, sinfo.says + broken, here, 0, 0, details)
    if sinfo.state == "found":
        nodes = sinfo.data["nodes"]
        details |= sinfo.data
        total = sum(node["gpus"] for node in nodes.values())
        notes = f"{len(nodes)} node(s) in {len(sinfo.data['partitions'])} partition(s)."
        return Detected("slurm", "healthy", 1.0, notes, here, len(nodes), total, details)
    if gpu.state == "broken":
        notes = f"The GPU driver of this machine is broken: {gpu.says}"
        return Detected("cpu_only", "degraded", 0.5, notes, here, 1, 0, details)
    if gpus:
        units = len({g.uuid for g in gpus} - {g.parent for g in gpus if g.parent})
        return Detected("local_gpu", "healthy", 1.0, gpu.says, here, 1, units, details)
    return Detected("cpu_only", "healthy", 0.9, gpu.says, here, 1, 0, details)


def detect(
    gate: Gate,
    deadline: float,
    read_gpus: Callable[[], GpuReading],
    visible: str | None,
    pyslurm: PyslurmReads | None = None,
) -> Detected:
    """Runs every probe, at the same time, and says what the machine is."""
    with ThreadPoolExecutor(2) as pool:
        slurm = pool.submit(_timed, lambda: (probe_sinfo(gate, deadline, pyslurm), []))
        local = pool.submit(_timed, lambda: probe_gpus(read_gpus, visible))
        sinfo, _ = slurm.result()
        gpu, gpus = local.result()
    return classify(sinfo, gpu, gpus)


def _timed(probe: Callable[[], tuple[Probe, list[Gpu]]]) -> tuple[Probe, list[Gpu]]:
    begin = time.monotonic()
    found, gpus = probe()
    return Probe(found.state, found.says, round(time.monotonic() - begin, 4), found.data), gpus
