"""gpuwrap on one machine with simulated GPUs: the real pynvml, real processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.fakegpu import FakeGpu, FakeGpus
from tests.support.service import InProcess, in_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
FOUR = [FakeGpu(index=i, uuid=f"GPU-{i}{i}{i}{i}", name="NVIDIA A100-SXM4-40GB") for i in range(4)]
BUSY = "echo CUDA error: all CUDA-capable devices are busy or unavailable"
FOREIGN_PID = 4_194_305  # above the kernel's largest: nobody's here


class Start(Protocol):
    def __call__(self, **settings: Any) -> AbstractContextManager[InProcess]: ...


@pytest.fixture
def start(tmp_path: Path, fake_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a service that sees the simulated GPUs."""
    fake_gpus.write(FOUR)
    for name, value in fake_gpus.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ORC_GPU_LEASE_DIR", str(tmp_path / "leases"))
    return lambda **settings: in_process(tmp_path / "home", **settings)


@pytest.fixture
def gpus(start: Start) -> Iterator[InProcess]:
    with start() as found:
        found.post("/cluster/detect")
        yield found


def devices(service: InProcess, **fields: Any) -> str:
    """What a run sees as CUDA_VISIBLE_DEVICES; "unset" without one."""
    run = service.run("echo ${CUDA_VISIBLE_DEVICES-unset}", **fields)
    assert service.over(run["id"])["status"] == "finished"
    return service.log(run["id"]).strip()


def hold(service: InProcess, tmp_path: Path, gpus: int, **fields: Any) -> tuple[str, Path]:
    """A run that holds GPUs until a file is there."""
    go = tmp_path / f"go-{os.urandom(4).hex()}"
    run = service.run(f"until [ -e {go} ]; do sleep 0.02; done", resources={"gpus": gpus}, **fields)
    service.until(run["id"], "running")
    return run["id"], go


def test_the_cluster_is_a_gpu_machine_with_its_gpus_and_their_processes(gpus: InProcess, fake_gpus: FakeGpus) -> None:
    fake_gpus.start_process("GPU-1111", os.getpid(), 300)
    cluster = gpus.post("/cluster/detect")["cluster"]
    assert (cluster["type"], cluster["status"], cluster["gpu_count"]) == ("local_gpu", "healthy", 4)
    shown = cluster["details"]["gpus"][1]
    assert (shown["index"], shown["uuid"], shown["memory_used_mib"] >= 300) == (1, "GPU-1111", True)
    (process,) = shown["processes"]
    assert (process["pid"], process["memory_mib"]) == (os.getpid(), 300)
    assert process["owner"] is not None


def test_a_run_gets_one_gpu_unless_it_says_otherwise(gpus: InProcess) -> None:
    assert devices(gpus) == "GPU-0000"
    assert devices(gpus, resources={"gpus": 3}) == "GPU-0000,GPU-1111,GPU-2222"
    assert devices(gpus, resources={"gpus": 0}) == ""
    assert devices(gpus, gpuwrap_config={"enabled": False}, env={"CUDA_VISIBLE_DEVICES": "7"}) == "7"
    assert devices(gpus, gpuwrap_config={"enabled": False}) == "unset"
    assert devices(gpus, gpuwrap_config={"enabled": False}, resources={"gpus": 0}) == ""
    gpus.post("/cluster/detect", {"preferred_type": "cpu_only"})
    assert devices(gpus) == "unset"


def test_indices_are_given_where_wanted(start: Start) -> None:
    with start(gpu_ids="index") as service:
        run = service.run("echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER", resources={"gpus": 2})
        service.over(run["id"])
        assert service.log(run["id"]) == "0,1 PCI_BUS_ID\n"


def test_a_server_under_cuda_visible_devices_uses_only_those(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-3333")
    with start() as service:
        assert service.post("/cluster/detect")["cluster"]["gpu_count"] == 2
        assert devices(service, resources={"gpus": 2}) == "GPU-2222,GPU-3333"
        assert service.refused("POST", "/runs", {"name": "x", "command": "x", "resources": {"gpus": 3}})[0] == 422


def test_more_gpus_than_there_are_is_refused_with_the_number(gpus: InProcess) -> None:
    status, detail = gpus.refused("POST", "/runs", {"name": "x", "command": "x", "resources": {"gpus": 5}})
    assert status == 422
    assert (detail[0]["loc"], detail[0]["choices"]) == (["body", "resources", "gpus"], ["0..4"])


def test_gpus_in_foreign_use_or_with_memory_in_use_are_not_free(gpus: InProcess, fake_gpus: FakeGpus) -> None:
    fake_gpus.start_process("GPU-0000", FOREIGN_PID, 10, ghost=True)
    fake_gpus.write([FOUR[0], replace(FOUR[1], memory_used_mib=2000), *FOUR[2:]])
    assert devices(gpus, resources={"gpus": 2}) == "GPU-2222,GPU-3333"
    run = gpus.run("true", resources={"gpus": 3})
    wait_until(lambda: gpus.get(f"/runs/{run['id']}")["reason"] == "GPU_WAIT")
    words = " ".join(event["message"] for event in gpus.events(run["id"]))
    assert "unknown owner" in words
    assert "2000 MiB of its memory are in use" in words
    fake_gpus.end_process("GPU-0000", FOREIGN_PID)
    assert gpus.over(run["id"])["status"] == "finished"


def test_a_waiting_run_starts_when_gpus_are_released_and_its_events_tell(gpus: InProcess, tmp_path: Path) -> None:
    holder, go = hold(gpus, tmp_path, 4)
    run = gpus.run("true", gpuwrap_config={"retry_delay_seconds": 600})
    wait_until(lambda: gpus.get(f"/runs/{run['id']}")["reason"] == "GPU_WAIT")
    go.touch()
    over = gpus.over(run["id"])
    assert over["gpus"] == [{"index": 0, "uuid": "GPU-0000"}]
    kinds = [(event["kind"], event["message"]) for event in gpus.events(run["id"])]
    waits = [words for kind, words in kinds if kind == "run.waiting"]
    assert f"leased by root for run {holder}" in waits[0] or holder in waits[0]
    assert ("run.launching", "Leased GPU 0 (GPU-0000).") in kinds


def test_retries_count_fallback_polls_and_end_in_gpu_busy(gpus: InProcess, fake_gpus: FakeGpus) -> None:
    for gpu in FOUR:
        fake_gpus.start_process(gpu.uuid, FOREIGN_PID, 10, ghost=True)
    config = {"retries": 2, "retry_delay_seconds": 0.2}
    over = gpus.over(gpus.run("true", gpuwrap_config=config)["id"])
    assert (over["status"], over["reason"], over["attempt"]) == ("failed", "GPU_BUSY", 0)
    assert over["ended_at"] - over["queued_at"] >= 0.4
    at_once = gpus.over(gpus.run("true", gpuwrap_config={"retries": 0, "retry_delay_seconds": 600})["id"])
    assert at_once["reason"] == "GPU_BUSY"


def test_a_wait_without_end_is_the_default(gpus: InProcess, fake_gpus: FakeGpus) -> None:
    for gpu in FOUR:
        fake_gpus.start_process(gpu.uuid, FOREIGN_PID, 10, ghost=True)
    run = gpus.run("true", gpuwrap_config={"retry_delay_seconds": 0.05})
    passes = gpus.system.reconciler.passes
    wait_until(lambda: gpus.system.reconciler.passes > passes + 10)
    assert gpus.get(f"/runs/{run['id']}")["status"] == "queued"
    gpus.post(f"/runs/{run['id']}/stop")
    assert gpus.status(run["id"]) == "stopped"


def test_a_cuda_busy_start_is_tried_again_on_other_gpus(gpus: InProcess) -> None:
    command = f"echo $CUDA_VISIBLE_DEVICES; [ $ORC_ATTEMPT = 2 ] || {{ {BUSY}; exit 1; }}"
    over = gpus.over(gpus.run(command)["id"])
    assert (over["status"], over["attempt"], over["gpus"][0]["uuid"]) == ("finished", 2, "GPU-1111")
    assert gpus.get(f"/runs/{over['id']}/logs", attempt=1)["content"].startswith("GPU-0000\n")


def test_a_cuda_busy_program_is_not_tried_for_ever(gpus: InProcess) -> None:
    command = f"{BUSY}; exit 1"
    over = gpus.over(gpus.run(command)["id"])
    assert (over["status"], over["reason"], over["attempt"]) == ("failed", "NONZERO_EXIT", 4)


def test_an_out_of_memory_of_the_program_is_no_contention(gpus: InProcess) -> None:
    command = 'echo "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 90 GiB"; exit 1'
    over = gpus.over(gpus.run(command)["id"])
    assert (over["status"], over["attempt"]) == ("failed", 1)


def test_a_large_run_is_not_starved_by_small_ones(start: Start, tmp_path: Path) -> None:
    with start(gpu_reserve_after=0.3) as service:
        service.post("/cluster/detect")
        holders = [hold(service, tmp_path, 1) for _ in range(4)]
        large = service.run("true", resources={"gpus": 4})
        small = [service.run("sleep 0.1")["id"] for _ in range(20)]
        wait_until(lambda: service.get(f"/runs/{large['id']}")["reason"] == "GPU_WAIT")
        queued = service.get(f"/runs/{large['id']}")["queued_at"]
        wait_until(lambda: time.time() - queued > 0.4)
        for _, go in holders:
            go.touch()
        over = service.over(large["id"])
        runs = [service.over(run_id) for run_id in small]
        assert over["status"] == "finished"
        assert all(run["launched_at"] >= over["launched_at"] for run in runs)


def test_mig_devices_are_units_of_their_own_and_their_parent_is_never_leased(start: Start, fake_gpus: FakeGpus) -> None:
    parts = [
        FakeGpu(index=i, uuid=f"MIG-{i}{i}{i}{i}", name="NVIDIA A100 MIG 1g.5gb", parent="GPU-0000") for i in range(2)
    ]
    fake_gpus.write([FOUR[0], *parts, FOUR[1]])
    with start(gpu_ids="index") as service:
        cluster = service.post("/cluster/detect")["cluster"]
        assert cluster["gpu_count"] == 3
        assert devices(service, resources={"gpus": 3}) == "MIG-0000,MIG-1111,GPU-1111"


def test_a_broken_driver_is_told_in_words(gpus: InProcess, fake_gpus: FakeGpus) -> None:
    fake_gpus.fault("mismatch")
    cluster = gpus.post("/cluster/detect")["cluster"]
    assert (cluster["type"], cluster["status"]) == ("cpu_only", "degraded")
    assert "Reboot the machine" in cluster["notes"]


@pytest.mark.parametrize("fault", ["hang", "hang-init", "crash"])
def test_a_driver_that_hangs_or_crashes_costs_a_deadline_only(start: Start, fake_gpus: FakeGpus, fault: Any) -> None:
    fake_gpus.fault(fault)
    with start(probe_deadline_seconds=1.0) as service:
        cluster = service.post("/cluster/detect")["cluster"]
        assert cluster["status"] == "degraded"
        assert service.get("/cluster")["run_summary"]["total"] == 0
        fake_gpus.fault(None)
        wait_until(lambda: service.post("/cluster/detect")["cluster"]["gpu_count"] == 4, "the GPUs are found again")


def test_an_old_driver_works(start: Start, fake_gpus: FakeGpus) -> None:
    fake_gpus.fault("old-driver")
    with start() as service:
        assert service.post("/cluster/detect")["cluster"]["gpu_count"] == 4
        assert devices(service) == "GPU-0000"


def test_nvidia_smi_serves_where_nvml_cannot_be_loaded(
    start: Start, fake_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    fake_gpus.start_process("GPU-0000", os.getpid(), 300)
    with start() as service:
        cluster = service.post("/cluster/detect")["cluster"]
        assert cluster["details"]["probes"]["gpus"]["data"]["source"] == "nvidia-smi"
        assert cluster["details"]["gpus"][0]["processes"][0]["pid"] == os.getpid()
        assert devices(service) == "GPU-1111"


def orc(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("orc")), *words]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_gpu_exec_leases_without_a_server_and_gpu_ls_shows_holders_and_waiters(gpus: InProcess, tmp_path: Path) -> None:
    holder, go = hold(gpus, tmp_path, 3)
    script = (
        f"echo $CUDA_VISIBLE_DEVICES; {Path(sys.executable).with_name('orc')} gpu ls --json > {tmp_path}/ls; exit 7"
    )
    waiting = gpus.run("true", resources={"gpus": 2})
    wait_until(lambda: gpus.get(f"/runs/{waiting['id']}")["reason"] == "GPU_WAIT")
    done = orc("gpu", "exec", "--gpus", "1", "--", "bash", "-c", script)
    assert (done.returncode, done.stdout) == (7, "GPU-3333\n")
    shown = json.loads((tmp_path / "ls").read_text())
    assert [gpu["state"] for gpu in shown["gpus"]] == ["leased"] * 4
    assert holder in shown["gpus"][0]["holder"]["what"]
    assert shown["gpus"][3]["holder"]["what"].startswith("bash -c")
    assert [(item["request"], item["gpus"]) for item in shown["waiting"]] == [(waiting["id"], 2)]
    table = orc("gpu", "ls")
    assert table.returncode == 0
    assert "leased" in table.stdout
    go.touch()
    assert gpus.over(waiting["id"])["status"] == "finished"


def test_gpu_exec_gives_up_after_its_timeout_and_refuses_what_cannot_be(gpus: InProcess, tmp_path: Path) -> None:
    hold(gpus, tmp_path, 4)
    assert orc("gpu", "exec", "--timeout", "0.3", "--", "true").returncode == 1
    assert orc("gpu", "exec", "--gpus", "9", "--", "true").returncode == 2
    assert orc("gpu", "exec").returncode == 2


def test_a_run_that_leaves_its_gpus_idle_has_an_alert_that_stops_it(
    start: Start, fake_gpus: FakeGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.alerting.going.PROBE_SPACING", 0.05)
    fake_gpus.write([*(replace(gpu, utilization=0) for gpu in FOUR[:2]), replace(FOUR[2], utilization=90), FOUR[3]])
    with start(alert_look_seconds=0.1, alert_idle_gpu_seconds=0.3) as service:
        idle, _ = hold(service, tmp_path, 2)
        busy, _ = hold(service, tmp_path, 1)
        (alert,) = wait_until(lambda: service.get("/alerts"), "the alert")
        assert (alert["rule"], alert["run_id"], alert["choices"]) == ("idle_gpu", idle, ["ignore", "stop"])
        service.post(f"/alerts/{alert['id']}/respond", {"choice": "stop"})
        assert service.over(idle)["status"] == "stopped"
        assert [alert["run_id"] for alert in service.get("/alerts")] == [idle]
        assert service.get(f"/runs/{busy}")["gpus"] == [{"index": 2, "uuid": "GPU-2222"}]
