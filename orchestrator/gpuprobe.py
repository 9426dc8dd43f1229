"""The helper process that talks to NVML (``python -m orchestrator.gpuprobe``): a driver may hang or crash it.

Answers lines of JSON on standard output; see ``orchestrator.worker``. Memory in MiB.
"""

import json
import sys
from typing import Any

import pynvml

MIB = 2**20


def read() -> dict[str, Any]:
    """Every GPU and MIG device with its compute processes, or why there are none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"loaded": False, "trouble": init_trouble(error)}
    notes: list[str] = []
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        gpus: list[dict[str, Any]] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(describe(handle, index, notes))
            gpus += mig_devices(handle, index, gpus[-1]["uuid"], notes)
    except pynvml.NVMLError as error:
        return {"loaded": True, "gpus": [], "trouble": f"NVML answers, but the GPUs cannot be read: {error}."}
    finally:
        pynvml.nvmlShutdown()
    return {"loaded": True, "gpus": gpus, "driver": driver, "notes": sorted(set(notes))}


def init_trouble(error: Exception) -> str:
    """Why NVML could not be started, and what to do about it."""
    code = getattr(error, "value", None)
    advice = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "No NVIDIA driver library (libnvidia-ml.so.1) is installed.",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed but its kernel module is not loaded "
        "(`modprobe nvidia` as root, or reboot after a kernel update).",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "The NVIDIA driver library and the loaded kernel module are of "
        "different versions: the driver was updated without a reboot. Reboot the machine.",
        pynvml.NVML_ERROR_NO_PERMISSION: "This user may not open the NVIDIA devices (/dev/nvidia*).",
    }
    return advice.get(code, f"NVML could not be started: {error}.")


def describe(handle: Any, index: int, notes: list[str]) -> dict[str, Any]:
    """One device."""
    memory = memory_of(handle, notes)
    return {
        "index": index,
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
        "memory_total_mib": memory.total // MIB,
        "memory_used_mib": memory.used // MIB,
        "utilization": utilization(handle),
        "processes": [(p.pid, p.usedGpuMemory // MIB if p.usedGpuMemory else None) for p in processes(handle, notes)],
    }


def memory_of(handle: Any, notes: list[str]) -> Any:
    """Version 2 leaves the driver's own reserve out of ``used``; an old driver has version 1 only."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLLibraryMismatchError, pynvml.NVMLError_NotSupported):
        notes.append("An old driver: memory in use includes what the driver keeps for itself.")
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def processes(handle: Any, notes: list[str]) -> list[Any]:
    """Compute processes; on a driver that lacks today's call, the older ones."""
    for call in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2"):
        try:
            return list(getattr(pynvml, call)(handle))
        except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLLibraryMismatchError):
            continue
    notes.append("The driver does not tell which processes compute: memory in use alone decides what is free.")
    return []


def utilization(handle: Any) -> int | None:
    """Percent, or None where the device does not tell (MIG)."""
    try:
        return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None


def mig_devices(handle: Any, index: int, parent: str, notes: list[str]) -> list[dict[str, Any]]:
    """The MIG devices of one GPU; none where MIG is off or unknown."""
    try:
        enabled, _ = pynvml.nvmlDeviceGetMigMode(handle)
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if enabled else 0
    except pynvml.NVMLError:
        return []
    found = []
    for number in range(count):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except pynvml.NVMLError_NotFound:
            continue
        found.append(describe(device, index, notes) | {"parent": parent, "mig_index": number})
    return found


def main() -> None:
    """Answers until the input ends."""
    for line in sys.stdin:
        if json.loads(line).get("op") == "read":
            sys.stdout.write(json.dumps(read()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
