"""The same on a machine with an NVIDIA GPU: the real NVML, a real CUDA program (``make test-gpu``)."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import RealServer, real_server
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

# Takes 512 MiB on the first visible device through the driver's own library, says so, and holds it until told.
CUDA = """
import ctypes, os, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
def check(code):
    if code:
        raise SystemExit(f"CUDA error {code}")
check(cuda.cuInit(0))
count = ctypes.c_int()
check(cuda.cuDeviceGetCount(ctypes.byref(count)))
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(512 << 20)))
check(cuda.cuMemsetD8_v2(memory, 1, ctypes.c_size_t(512 << 20)))
print("devices", count.value, flush=True)
while len(sys.argv) > 1 and not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
"""


def gpus_here() -> list[str]:
    """The UUIDs that nvidia-smi shows."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split() if done.returncode == 0 else []


@pytest.fixture(scope="module")
def uuids() -> list[str]:
    found = gpus_here()
    if not found:
        pytest.skip("No NVIDIA GPU here.")
    return found


@pytest.fixture
def gpu_server(uuids: list[str], tmp_path: Path) -> Iterator[RealServer]:
    with real_server(tmp_path / "home", {"ORC_GPU_LEASE_DIR": str(tmp_path / "leases")}) as server:
        server.post("/cluster/detect")
        yield server


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "cuda.py"
    path.write_text(CUDA)
    return f"{sys.executable} {path}"


def shown(server: RealServer) -> list[dict[str, Any]]:
    return list(server.post("/cluster/detect")["cluster"]["details"]["gpus"])


def test_the_real_gpus_are_detected(gpu_server: RealServer, uuids: list[str]) -> None:
    cluster = gpu_server.get("/cluster")["cluster"]
    print(cluster["notes"], cluster["details"]["probes"]["gpus"])
    assert (cluster["type"], cluster["status"]) == ("local_gpu", "healthy")
    assert {gpu["uuid"] for gpu in shown(gpu_server) if not gpu["parent"]} == set(uuids)
    assert cluster["details"]["probes"]["gpus"]["data"]["source"] == "nvml"


def test_a_cuda_program_runs_on_exactly_its_gpu(gpu_server: RealServer, uuids: list[str], program: str) -> None:
    over = gpu_server.over(gpu_server.run(program)["id"], 120)
    assert over["status"] == "finished", gpu_server.log(over["id"])
    assert gpu_server.log(over["id"]) == "devices 1\n"
    assert over["gpus"][0]["uuid"] in uuids


def test_a_foreign_cuda_program_is_respected(
    gpu_server: RealServer, uuids: list[str], program: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with subprocess.Popen([*program.split(), str(go)], stdout=subprocess.PIPE, text=True) as foreign:
        assert foreign.stdout is not None
        assert foreign.stdout.readline().startswith("devices")
        busy = [gpu for gpu in shown(gpu_server) if gpu["processes"]]
        assert len(busy) == 1
        assert busy[0]["memory_used_mib"] >= 512
        run = gpu_server.run("true", resources={"gpus": len(uuids)}, gpuwrap_config={"retry_delay_seconds": 0.5})
        wait_until(lambda: gpu_server.get(f"/runs/{run['id']}")["reason"] == "GPU_WAIT")
        go.touch()
    assert gpu_server.over(run["id"], 60)["status"] == "finished"


def test_runs_take_turns_on_the_real_gpu(gpu_server: RealServer, uuids: list[str], program: str) -> None:
    runs = [gpu_server.run(program, resources={"gpus": len(uuids)}) for _ in range(5)]
    over = sorted((gpu_server.over(run["id"], 200) for run in runs), key=lambda run: run["started_at"])
    assert [run["status"] for run in over] == ["finished"] * 5
    for first, second in itertools.pairwise(over):
        assert first["ended_at"] <= second["started_at"]
    print("gaps (s):", [round(b["started_at"] - a["ended_at"], 3) for a, b in itertools.pairwise(over)])


def test_gpu_exec_holds_a_real_gpu_without_a_server(uuids: list[str], program: str, tmp_path: Path) -> None:
    orc = Path(sys.executable).with_name("orc")
    command = [str(orc), "gpu", "exec", "--timeout", "60", "--", *program.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "devices 1\n"), done.stderr
