"""What the GPUs hold: NVML through pynvml in a helper process, nvidia-smi where NVML cannot be loaded."""

import csv
import io
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from orchestrator.errors import ProbeFailed
from orchestrator.worker import Worker

SMI_GPUS = "index,uuid,name,memory.total,memory.used,utilization.gpu"
SMI_APPS = "gpu_uuid,pid,used_memory"


@dataclass(frozen=True)
class GpuProcess:
    """A compute process on a GPU. ``owner`` None: not to be found out (another namespace), so foreign."""

    pid: int
    memory_mib: int | None
    owner: str | None
    name: str | None


@dataclass(frozen=True)
class Gpu:
    """One unit that can be leased: a GPU, or a MIG device (``parent``: its GPU's UUID). Memory in MiB."""

    index: int
    uuid: str
    name: str
    memory_total_mib: int
    memory_used_mib: int
    utilization: int | None = None
    processes: tuple[GpuProcess, ...] = ()
    parent: str | None = None
    mig_index: int | None = None

    def brief(self) -> dict[str, Any]:
        """For the wire: which one it is."""
        return {"index": self.index, "uuid": self.uuid} | ({"mig_index": self.mig_index} if self.parent else {})

    def public(self) -> dict[str, Any]:
        """For the wire: all of it."""
        return asdict(self)


@dataclass(frozen=True)
class GpuReading:
    """One look at the GPUs. ``source``: "nvml", "nvidia-smi" or "none"; ``trouble``: what went wrong, in words."""

    gpus: tuple[Gpu, ...]
    source: str
    trouble: str | None = None
    driver: str | None = None
    notes: tuple[str, ...] = field(default=())

    def visible(self, value: str | None) -> "tuple[Gpu, ...]":
        """Those that CUDA_VISIBLE_DEVICES (``value``; None: unset) lets this server use."""
        if value is None:
            return self.gpus
        return tuple(gpu for gpu in self.gpus if any(_names(part.strip(), gpu) for part in value.split(",")))


def _names(part: str, gpu: Gpu) -> bool:
    if part.isdigit():
        return int(part) == gpu.index
    return bool(part) and (gpu.uuid.startswith(part) or (gpu.parent or "").startswith(part))


class GpuReader:
    """Reads the GPUs; broken, hanging or crashing drivers cost a deadline, never the caller."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._worker = Worker("orchestrator.gpuprobe")

    def read(self) -> GpuReading:
        """One look. Raises nothing: trouble is in the reading."""
        try:
            answer = self._worker.ask("read", self._deadline)
        except ProbeFailed as error:
            return GpuReading((), "nvml", f"NVML: {error.message}")
        if answer.get("loaded"):
            gpus = tuple(_gpu(item) for item in answer["gpus"])
            return GpuReading(gpus, "nvml", answer.get("trouble"), answer.get("driver"), tuple(answer.get("notes", ())))
        return self._by_smi(str(answer.get("trouble")))

    def _by_smi(self, nvml_trouble: str) -> GpuReading:
        try:
            rows = _smi(f"--query-gpu={SMI_GPUS}", self._deadline)
            apps = _smi(f"--query-compute-apps={SMI_APPS}", self._deadline)
        except FileNotFoundError:
            return GpuReading((), "none", nvml_trouble)
        except (OSError, subprocess.SubprocessError, ProbeFailed) as error:
            return GpuReading((), "nvidia-smi", f"{nvml_trouble} nvidia-smi: {_words(error)}")
        return GpuReading(parse_smi(rows, apps), "nvidia-smi", None, notes=(nvml_trouble,))

    def close(self) -> None:
        """Ends the helper process."""
        self._worker.close()


def _words(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {error.timeout:g} s"
    return str(error)


def _smi(query: str, deadline: float) -> str:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline, check=False)
    if done.returncode != 0:
        raise ProbeFailed(f"exit code {done.returncode}: {(done.stdout + done.stderr).strip()[:500]}")
    return done.stdout


def parse_smi(gpus: str, apps: str) -> tuple[Gpu, ...]:
    """GPUs and processes from nvidia-smi's CSV (``noheader,nounits``: MiB and percent)."""
    processes: dict[str, list[GpuProcess]] = {}
    for uuid, pid, memory in _rows(apps, 3):
        processes.setdefault(uuid, []).append(process_of(int(pid), _number(memory)))
    return tuple(
        Gpu(
            int(index),
            uuid,
            name,
            _number(total) or 0,
            _number(used) or 0,
            _number(load),
            tuple(processes.get(uuid, ())),
        )
        for index, uuid, name, total, used, load in _rows(gpus, 6)
    )


def _rows(text: str, columns: int) -> list[list[str]]:
    rows = (row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if len(row) == columns)
    return [[cell.strip() for cell in row] for row in rows]


def _number(text: str) -> int | None:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def process_of(pid: int, memory_mib: int | None) -> GpuProcess:
    """Whose it is; a PID that is not to be seen here (another namespace) has no owner."""
    try:
        process = psutil.Process(pid)
        return GpuProcess(pid, memory_mib, process.username(), process.name())
    except psutil.Error:
        return GpuProcess(pid, memory_mib, None, None)


def _gpu(item: dict[str, Any]) -> Gpu:
    processes = tuple(process_of(pid, memory) for pid, memory in item.pop("processes"))
    return Gpu(**item, processes=processes)


def own_visible_devices() -> str | None:
    """The CUDA_VISIBLE_DEVICES that this process was started under, None when unset."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def busy_because(gpu: Gpu, threshold_mib: int) -> str | None:
    """Why an unleased GPU is not free, in words; None when it is free."""
    if gpu.processes:
        who = ", ".join(f"{p.owner or 'unknown owner'} (pid {p.pid}, {p.name or '?'})" for p in gpu.processes)
        return f"a process outside any lease computes on it: {who}"
    if gpu.memory_used_mib > threshold_mib:
        return f"{gpu.memory_used_mib} MiB of its memory are in use (threshold {threshold_mib} MiB)"
    return None


def leasable(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Without the parents of MIG devices, which are never leased themselves."""
    parents = {gpu.parent for gpu in gpus if gpu.parent}
    return [gpu for gpu in gpus if gpu.uuid not in parents]
