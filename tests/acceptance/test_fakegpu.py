"""The simulated NVIDIA driver, seen by the real pynvml and by a shell."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakegpu import FakeGpu, FakeGpus, Fault

pytestmark = pytest.mark.acceptance

A = "GPU-aaaaaaaa-0000-0000-0000-000000000000"
B = "GPU-bbbbbbbb-0000-0000-0000-000000000000"
M0 = "MIG-00000000-0000-0000-0000-000000000000"
M1 = "MIG-11111111-0000-0000-0000-000000000000"
MIB = 1024 * 1024
PLAIN = [
    FakeGpu(index=0, uuid=A, memory_total_mib=40960, memory_used_mib=10, utilization=37),
    FakeGpu(index=1, uuid=B, name="NVIDIA GeForce RTX 4090", memory_total_mib=24576),
]
MIG = [
    FakeGpu(index=0, uuid=A, memory_used_mib=5),
    FakeGpu(index=0, uuid=M0, name="NVIDIA A100-SXM4-80GB MIG 1g.10gb", memory_total_mib=9728, parent=A),
    FakeGpu(index=1, uuid=M1, name="NVIDIA A100-SXM4-80GB MIG 2g.20gb", memory_total_mib=19968, parent=A),
]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return shared / "fakegpu"


@pytest.fixture
def gpus(driver: Path, tmp_path: Path) -> FakeGpus:
    fake = FakeGpus.build(driver, tmp_path / "state")
    fake.write(PLAIN)
    return fake


@pytest.fixture
def pid() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def run(gpus: FakeGpus, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **gpus.env()}
    return subprocess.run(argv, check=False, env=env, capture_output=True, text=True, timeout=30)


def nvml(gpus: FakeGpus, expression: str, *, init: str = "n.nvmlInit()") -> Any:
    """The value of an expression, or the name of the exception, in a Python that uses the real pynvml."""
    code = f"""
import json, os, pynvml as n
A, B, M0, M1 = {(A, B, M0, M1)!r}
h = n.nvmlDeviceGetHandleByUUID
def pids(found):
    return [[p.pid, p.usedGpuMemory // {MIB}, p.gpuInstanceId] for p in found]
try:
    {init}
    out = {expression}
except Exception as error:
    out = type(error).__name__
print(json.dumps(out))
"""
    done = run(gpus, sys.executable, "-c", code)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def test_devices(gpus: FakeGpus) -> None:
    assert nvml(gpus, "n.nvmlDeviceGetCount()") == 2
    getters = "Index UUID Name MinorNumber ComputeMode"
    each = f"[getattr(n, 'nvmlDeviceGet' + name)(d) for name in {getters!r}.split()]"
    load = "n.nvmlDeviceGetUtilizationRates(d).gpu, n.nvmlDeviceGetPciInfo(d).busId"
    assert nvml(gpus, f"[[*{each}, {load}] for d in map(n.nvmlDeviceGetHandleByIndex, range(2))]") == [
        [0, A, "NVIDIA A100-SXM4-80GB", 0, 0, 37, "00000000:01:00.0"],
        [1, B, "NVIDIA GeForce RTX 4090", 1, 0, 0, "00000000:02:00.0"],
    ]
    assert nvml(gpus, "n.nvmlDeviceGetMigMode(h(A))") == [0, 0]
    assert nvml(gpus, "n.nvmlDeviceGetMigMode(h(B))") == "NVMLError_NotSupported"
    assert nvml(gpus, "h('GPU-none')") == "NVMLError_NotFound"
    assert nvml(gpus, "n.nvmlDeviceGetHandleByIndex(2)") == "NVMLError_InvalidArgument"
    ended = "n.nvmlInit(); n.nvmlShutdown()"
    assert nvml(gpus, "n.nvmlDeviceGetCount()", init=ended) == "NVMLError_Uninitialized"
    assert nvml(gpus, "n.nvmlSystemGetDriverVersion()") == "550.54.15"
    assert nvml(gpus, "n.nvmlSystemGetCudaDriverVersion_v2()") == 12040


def test_memory_in_both_versions(gpus: FakeGpus, pid: int) -> None:
    gpus.start_process(A, pid, 1000)
    old = "(lambda m: [m.total, m.free, m.used])(n.nvmlDeviceGetMemoryInfo(h(A)))"
    new = "(lambda m: [m.total, m.reserved, m.free, m.used])(n.nvmlDeviceGetMemoryInfo(h(A), n.nvmlMemory_v2))"
    assert nvml(gpus, old) == [40960 * MIB, (40960 - 1562) * MIB, 1562 * MIB]
    assert nvml(gpus, new) == [40960 * MIB, 552 * MIB, (40960 - 1562) * MIB, 1010 * MIB]


def test_processes(gpus: FakeGpus, pid: int) -> None:
    compute = "pids(n.nvmlDeviceGetComputeRunningProcesses(h(A)))"
    assert nvml(gpus, compute) == []
    gpus.start_process(A, pid, 512)
    gpus.start_process(A, os.getpid(), 64, "graphics")
    gpus.start_process(A, 4_200_001, 7)  # dead
    gpus.start_process(A, 4_200_002, 9, ghost=True)
    expected = [[pid, 512, 0xFFFFFFFF], [4_200_002, 9, 0xFFFFFFFF]]
    assert nvml(gpus, compute) == expected
    assert nvml(gpus, "pids(n.nvmlDeviceGetComputeRunningProcesses_v2(h(A)))") == expected
    assert nvml(gpus, "pids(n.nvmlDeviceGetGraphicsRunningProcesses(h(A)))") == [[os.getpid(), 64, 0xFFFFFFFF]]
    assert nvml(gpus, "pids(n.nvmlDeviceGetComputeRunningProcesses(h(B)))") == []
    gpus.end_process(A, 4_200_002)
    os.kill(pid, signal.SIGKILL)  # stays a zombie here
    deadline = time.monotonic() + 10
    while nvml(gpus, compute) != []:
        assert time.monotonic() < deadline


def test_the_two_call_protocol(gpus: FakeGpus) -> None:
    for pid in (4_200_001, 4_200_002, 4_200_003):
        gpus.start_process(A, pid, 1, ghost=True)
    call = """(lambda f, c, room: [[f(h(A), n.byref(c), None), c.value], (setattr(c, 'value', 2),
        f(h(A), n.byref(c), room), c.value)[1:], (f(h(A), n.byref(c), room), c.value, room[2].pid)])(
        n.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3, n.c_uint(0), (n.c_nvmlProcessInfo_v3_t * 3)())"""
    assert nvml(gpus, " ".join(call.split())) == [[7, 3], [7, 3], [0, 3, 4_200_003]]


def test_a_shell_command_registers_itself(gpus: FakeGpus) -> None:
    query = "nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory --format=csv,noheader,nounits"
    done = run(gpus, "sh", "-c", f': > "$FAKE_GPU_STATE/processes/{B}/$$"; echo $$; {query}')
    pid, line = done.stdout.splitlines()
    assert line == f"{B}, {pid}, 100"
    assert run(gpus, *query.split()).stdout == ""


def test_the_state_is_read_at_every_query(gpus: FakeGpus, tmp_path: Path) -> None:
    (tmp_path / "next").write_text(f"0\t{B}\tNVIDIA T4\t16384\t0\t5\n")
    swap = f"os.rename({str(tmp_path / 'next')!r}, os.environ['FAKE_GPU_STATE'] + '/gpus')"
    assert nvml(gpus, f"[h(A) and n.nvmlDeviceGetCount(), {swap}, n.nvmlDeviceGetCount()]") == [2, None, 1]


def test_mig(gpus: FakeGpus, pid: int) -> None:
    gpus.write(MIG)
    gpus.start_process(M1, pid, 300)
    assert nvml(gpus, "[n.nvmlDeviceGetCount(), n.nvmlDeviceGetMigMode(h(A))]") == [1, [1, 1]]
    each = "n.nvmlDeviceGetMigDeviceHandleByIndex(h(A), i)"
    assert nvml(gpus, "n.nvmlDeviceGetMaxMigDeviceCount(h(A))") == 7
    assert nvml(gpus, f"[n.nvmlDeviceGetUUID({each}) for i in range(2)]") == [M0, M1]
    assert nvml(gpus, f"[{each} for i in range(3)]") == "NVMLError_NotFound"
    assert nvml(gpus, "n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(h(M1)))") == A
    assert nvml(gpus, "[n.nvmlDeviceIsMigDeviceHandle(h(u)).value for u in (A, M1)]") == [0, 1]
    assert nvml(gpus, "[pids(n.nvmlDeviceGetComputeRunningProcesses(h(u))) for u in (A, M0, M1)]") == [
        [[pid, 300, 2]],
        [],
        [[pid, 300, 2]],
    ]
    used = "n.nvmlDeviceGetMemoryInfo(h(u), n.nvmlMemory_v2).used"
    assert nvml(gpus, f"[{used} for u in (A, M0, M1)]") == [305 * MIB, 0, 300 * MIB]
    assert nvml(gpus, "n.nvmlDeviceGetUtilizationRates(h(M0))") == "NVMLError_NotSupported"
    assert run(gpus, "nvidia-smi", "-L").stdout.splitlines() == [
        f"GPU 0: NVIDIA A100-SXM4-80GB (UUID: {A})",
        f"  MIG 1g.10gb     Device  0: (UUID: {M0})",
        f"  MIG 2g.20gb     Device  1: (UUID: {M1})",
    ]


@pytest.mark.parametrize(
    ("fault", "init", "query", "smi_code", "smi_text"),
    [
        (
            "not-loaded",
            "NVMLError_DriverNotLoaded",
            "NVMLError_DriverNotLoaded",
            9,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
            "Make sure that the latest NVIDIA driver is installed and running.",
        ),
        (
            "mismatch",
            "NVMLError_LibRmVersionMismatch",
            "NVMLError_LibRmVersionMismatch",
            18,
            "Failed to initialize NVML: Driver/library version mismatch",
        ),
        ("unknown", None, "NVMLError_Unknown", 255, "Unknown Error"),
        ("lost", None, "NVMLError_GpuIsLost", 15, "GPU is lost"),
    ],
)
def test_faults(gpus: FakeGpus, fault: Fault, init: str | None, query: str, smi_code: int, smi_text: str) -> None:
    gpus.fault(fault)
    assert nvml(gpus, "None") == init
    assert nvml(gpus, "h(A)") == query
    smi = run(gpus, "nvidia-smi", "-L")
    assert smi.returncode == smi_code
    assert smi_text in smi.stdout
    gpus.fault(None)
    assert nvml(gpus, "n.nvmlDeviceGetUUID(h(A))") == A
    assert run(gpus, "nvidia-smi", "-L").returncode == 0


def test_an_old_driver(gpus: FakeGpus, pid: int) -> None:
    gpus.start_process(A, pid, 100)
    gpus.fault("old-driver")
    assert nvml(gpus, "n.nvmlDeviceGetComputeRunningProcesses(h(A))") == "NVMLLibraryMismatchError"
    assert nvml(gpus, "pids(n.nvmlDeviceGetComputeRunningProcesses_v2(h(A)))") == [[pid, 100, 0xFFFFFFFF]]
    assert nvml(gpus, "n.nvmlDeviceGetMemoryInfo(h(A), n.nvmlMemory_v2)") == "NVMLError_FunctionNotFound"
    assert nvml(gpus, "n.nvmlDeviceGetMemoryInfo(h(A)).total") == 40960 * MIB


def test_a_hanging_and_a_crashing_driver(gpus: FakeGpus) -> None:
    code = "import pynvml; pynvml.nvmlInit(); print('up', flush=True); pynvml.nvmlDeviceGetCount()"
    python = (sys.executable, "-c", code)
    stuck: list[tuple[Fault, tuple[str, ...], str]] = [
        ("hang", python, "up\n"),
        ("hang-init", python, ""),
        ("hang", ("nvidia-smi",), ""),
    ]
    for fault, argv, said in stuck:
        gpus.fault(fault)
        env = {**os.environ, **gpus.env()}
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert (process.stdout.readline() if said else "") == said
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
            assert process.stdout.read() == ""
    gpus.fault("crash")
    assert run(gpus, *python).returncode == -signal.SIGABRT


def test_nvidia_smi(gpus: FakeGpus, pid: int) -> None:
    gpus.start_process(A, pid, 500)
    plain = "--format=csv,noheader,nounits"
    assert run(
        gpus, "nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.used", plain
    ).stdout.splitlines() == [
        f"0, {A}, NVIDIA A100-SXM4-80GB, 40960, 510",
        f"1, {B}, NVIDIA GeForce RTX 4090, 24576, 0",
    ]
    every = "--query-gpu=mig.mode.current,utilization.gpu,driver_version,index"
    assert run(gpus, "nvidia-smi", every, plain).stdout.splitlines() == [
        "Disabled, 37, 550.54.15, 0",
        "[N/A], 0, 550.54.15, 1",
    ]
    assert run(gpus, "nvidia-smi", "--query-gpu=memory.used", "--format=csv").stdout.splitlines() == [
        "memory.used [MiB]",
        "510 MiB",
        "0 MiB",
    ]
    assert "Driver Version: 550.54.15" in run(gpus, "nvidia-smi").stdout
    assert run(gpus, "nvidia-smi", "--query-gpu=shoe.size", plain).returncode == 2


def test_several_builders_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: FakeGpus.build(tmp_path / "new"), range(3)))
    assert len({fake.driver for fake in built}) == 1
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [built[0].driver.name, "state"]
