"""What this machine is: a Slurm cluster, a GPU machine, a plain one. Each probe has a deadline and its own words."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.executors.gpus import Gpu, GpuReading

ClusterType = Literal["slurm", "local_gpu", "cpu_only"]
TYPES: tuple[ClusterType, ...] = ("slurm", "local_gpu", "cpu_only")
# Input variables would change what the commands answer; SLURM_CONF alone says where the cluster is. ORC_ variables may
# hold secrets of the server.
SCRUBBED = ("ORC_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_", "SLURM_")

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


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a Slurm command: without the variables that would change its answer."""
    return {name: value for name, value in environ.items() if name == "SLURM_CONF" or not name.startswith(SCRUBBED)} | {
        "SLURM_TIME_FORMAT": "%s",
        "SLURM_BITSTR_LEN": "0",
    }


def probe_sinfo(deadline: float) -> Probe:
    """Slurm's sinfo: absent, without a configuration (no Slurm), answering, or configured and silent (degraded)."""
    if shutil.which("sinfo") is None:
        return Probe("absent", "sinfo is not installed.")
    command = ["sinfo", "-h", "-N", "-O", "NodeList:|,Partition:|,StateComplete:|,Gres:|,GresUsed:|,CPUsState:"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline,
            check=False,
            env=slurm_environment(os.environ),
        )
    except subprocess.TimeoutExpired:
        return Probe(
            "broken", f"sinfo gave no answer within {deadline:g} s: the controller hangs or cannot be reached."
        )
    except OSError as error:
        return Probe("broken", f"sinfo could not be run: {error}.")
    return read_sinfo(done.returncode, done.stdout, done.stderr)


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
    partitions: set[str] = set()
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 6:
            continue
        name, partition, state, gres, used, cpus = cells[:6]
        partitions.add(partition.rstrip("*"))
        nodes[name] = {
            "state": state,
            "gres": gres,
            "gpus": count_gres(gres),
            "gpus_free": count_gres(gres) - count_gres(used),
            "cpus": cpus,
        }
    types = sorted(
        {
            part.split(":")[1]
            for n in nodes.values()
            for part in map(_bare, _gpu_parts(n["gres"]))
            if part.count(":") > 1
        }
    )
    return {"nodes": nodes, "partitions": sorted(partitions), "gres_types": types}


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


def detect(deadline: float, read_gpus: Callable[[], GpuReading], visible: str | None) -> Detected:
    """Runs every probe, at the same time, and says what the machine is."""
    with ThreadPoolExecutor(2) as pool:
        slurm = pool.submit(_timed, lambda: (probe_sinfo(deadline), []))
        local = pool.submit(_timed, lambda: probe_gpus(read_gpus, visible))
        sinfo, _ = slurm.result()
        gpu, gpus = local.result()
    return classify(sinfo, gpu, gpus)


def _timed(probe: Callable[[], tuple[Probe, list[Gpu]]]) -> tuple[Probe, list[Gpu]]:
    begin = time.monotonic()
    found, gpus = probe()
    return Probe(found.state, found.says, round(time.monotonic() - begin, 4), found.data), gpus
