"""What a machine is taken for: sinfo's real answers and failures, and what follows from them."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.detect import (
    LABELS,
    TYPES,
    Probe,
    classify,
    count_gres,
    detect,
    probe_gpus,
    probe_sinfo,
    read_sinfo,
)
from orchestrator.executors.gpus import Gpu, GpuReading
from orchestrator.slurm.gate import Gate, slurm_environment

# What Slurm 26.05.5 printed on the lab's two nodes, in the columns that the module asks for (NodeList, Partition,
# StateComplete, Gres, GresUsed, CPUsState, Memory, Features); 22.05, 24.11 and 25.11 printed the same.
TWO_NODES = """\
n1|gpu*|mixed|gpu:h100:4|gpu:h100:3(IDX:0-2)|8/8/0/16|64000|h100|
n1|debug|mixed|gpu:h100:4|gpu:h100:3(IDX:0-2)|8/8/0/16|64000|h100|
n1|long|mixed|gpu:h100:4|gpu:h100:3(IDX:0-2)|8/8/0/16|64000|h100|
n2|gpu*|mixed|gpu:h100:4|gpu:h100:2(IDX:0-1)|3/13/0/16|64000|h100|
n2|long|mixed|gpu:h100:4|gpu:h100:2(IDX:0-1)|3/13/0/16|64000|h100|
"""
# One row per node in the forms that other sites' nodes have.
FORMS = """\
c1|cpu|idle|(null)|gpu:0|0/64/0/64|64000|h100|
c2|cpu|down*|N/A|N/A|0/0/64/64|64000|h100|
g1|gpu*|mixed+drain|gpu:a100:2(S:0-1),gpu:v100:1|gpu:a100:1(IDX:1),gpu:v100:0(IDX:N/A)|3/0/13/16|64000|h100|
g2|gpu*|allocated|gpu:4|gpu:4(IDX:0-3)|16/0/0/16|64000|h100|
g3|gpu*|idle|gpu:2(S:0-1)|gpu:0(IDX:N/A)|0/16/0/16|64000|h100|
g4|gpu*|idle|gpu:1g.10gb:7(S:0),shard:h100:64|gpu:1g.10gb:3(IDX:0,2,4),shard:h100:0(0/64)|0/16/0/16|64000|h100|
"""
REFUSED = "slurm_load_partitions: Unable to contact slurm controller (connect failure)"  # rc 1, after 9 s
UNCONFIGURED = (
    "sinfo: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
    "sinfo: fatal: Could not establish a configuration source\n"
)
GPU = Gpu(0, "GPU-a", "NVIDIA H100", 81920, 10)
MIG = [
    Gpu(0, "GPU-a", "NVIDIA A100", 81920, 10),
    Gpu(0, "MIG-1", "NVIDIA A100 MIG 1g.10gb", 9728, 1, parent="GPU-a", mig_index=0),
    Gpu(0, "MIG-2", "NVIDIA A100 MIG 1g.10gb", 9728, 1, parent="GPU-a", mig_index=1),
]
ABSENT = Probe("absent", "sinfo is not installed.")
NO_GPU = Probe("absent", "There is no NVIDIA driver here.")


def nodes(output: str) -> dict[str, dict[str, Any]]:
    probe = read_sinfo(0, output, "")
    assert probe.state == "found"
    found: dict[str, dict[str, Any]] = probe.data["nodes"]
    return found


# -- sinfo's answer ----------------------------------------------------------------------------------------------------


def node(cpus: str, free: int, partitions: list[str]) -> dict[str, Any]:
    return {
        "state": "mixed",
        "gres": "gpu:h100:4",
        "gpus": 4,
        "gpus_free": free,
        "gpu_types": {"h100": 4},
        "cpus": cpus,
        "cpus_total": 16,
        "memory_mb": 64000,
        "features": ["h100"],
        "partitions": partitions,
    }


def test_a_node_in_several_partitions_is_counted_once() -> None:
    probe = read_sinfo(0, TWO_NODES, "")
    assert probe.data == {
        "nodes": {
            "n1": node("8/8/0/16", 1, ["gpu", "debug", "long"]),
            "n2": node("3/13/0/16", 2, ["gpu", "long"]),
        },
        "partitions": ["debug", "gpu", "long"],
        "gres_types": ["h100"],
    }


def test_every_form_of_gres_is_counted() -> None:
    counted = {name: (node["gpus"], node["gpus_free"]) for name, node in nodes(FORMS).items()}
    assert counted == {"c1": (0, 0), "c2": (0, 0), "g1": (3, 2), "g2": (4, 0), "g3": (2, 2), "g4": (7, 4)}


def test_the_types_of_gpus_are_told() -> None:
    # "gpu:2(S:0-1)" has none.
    assert read_sinfo(0, FORMS, "").data["gres_types"] == ["1g.10gb", "a100", "v100"]


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:h100:4", 4),
        ("gpu:h100:3(IDX:0-2)", 3),
        ("gpu:a100:2(S:0-1),gpu:v100:1", 3),
        ("gpu:2", 2),
        ("gpu:2(S:0-1)", 2),
        ("gpu:0", 0),
        ("gpu:h100:0(IDX:N/A)", 0),
        ("gpu:h100:3(IDX:0-1,3)", 3),
        ("gpu:a100:2(IDX:0,2),gpu:v100:1(IDX:1)", 3),
        ("gpu:a100:4(S:0,1),gpu:v100:2(S:1)", 6),
        ("shard:64", 0),
        ("shard:h100:64(S:0-1),gpu:h100:4,nic:2", 4),
        ("gpumem:80", 0),
        ("mps:100", 0),
        ("(null)", 0),
        ("N/A", 0),
        ("", 0),
        ("gpu", 0),
        ("gpu:", 0),
        ("gpu:many", 0),
    ],
)
def test_gpus_are_counted_in_a_gres(text: str, gpus: int) -> None:
    assert count_gres(text) == gpus


def test_a_cluster_without_nodes_is_one_all_the_same() -> None:
    probe = read_sinfo(0, "", "")
    assert (probe.state, probe.data) == ("found", {"nodes": {}, "partitions": [], "gres_types": []})


def test_lines_that_are_no_rows_are_passed_over() -> None:
    assert set(nodes(f"sinfo: some warning\n\n{TWO_NODES}|\n")) == {"n1", "n2"}


@pytest.mark.parametrize(
    ("code", "errors", "state", "words"),
    [
        (1, REFUSED, "broken", "connect failure"),
        (1, "slurm_load_partitions: Socket timed out on send/recv operation", "broken", "timed out"),
        (1, "slurm_load_partitions: Zero Bytes were transmitted or received", "broken", "exit code 1"),
        (127, "sinfo: error while loading shared libraries: libslurmfull.so", "broken", "libslurmfull.so"),
        (-11, "", "broken", "exit code -11"),
        (1, UNCONFIGURED, "absent", "no Slurm configuration"),
        (1, "sinfo: fatal: Could not establish a configuration source", "absent", "no Slurm configuration"),
        (1, "sinfo: error: s_p_parse_file: unable to status file /etc/slurm/slurm.conf: No such file or directory, "
            "retrying in 1sec up to 60sec", "absent", "slurm.conf is missing"),
    ],
)  # fmt: skip
def test_what_a_failure_means(code: int, errors: str, state: str, words: str) -> None:
    probe = read_sinfo(code, "", errors + "\n")
    assert (probe.state, words in probe.says, probe.data) == (state, True, {})


def test_a_failure_with_much_to_say_is_told_briefly() -> None:
    assert len(read_sinfo(1, "", "x" * 10_000).says) < 700


# -- running it --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on PATH; nothing of Slurm is in the environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SINFO_", "SBATCH_", "SQUEUE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def fake(folder: Path, body: str, name: str = "sinfo") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_without_sinfo_slurm_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe_sinfo(Gate(60), 5) == Probe("absent", "sinfo is not installed.")


def test_sinfo_is_asked_for_the_columns_that_are_read(bin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(TWO_NODES)
    fake(bin_folder, f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/answer')
    assert probe_sinfo(Gate(60), 5) == read_sinfo(0, TWO_NODES, "")
    asked = (tmp_path / "asked").read_text().split()
    columns = [column.split(":")[0] for column in asked[-1].split(",")]
    assert columns == [
        *("NodeList", "Partition", "StateComplete", "Gres", "GresUsed", "CPUsState", "Memory", "Features")
    ]
    assert {"-h", "-N", "-O"} <= set(asked)  # no header, a row per node, these columns


@pytest.mark.parametrize("configured", [True, False])
def test_a_controller_that_refuses_is_broken_slurm(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    if configured:
        monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    fake(bin_folder, f"echo '{REFUSED}' >&2; exit 1")
    probe = probe_sinfo(Gate(60), 5)
    assert (probe.state, REFUSED in probe.says) == ("broken", True)


@pytest.mark.parametrize("configured", [True, False])
def test_a_sinfo_that_hangs_costs_the_deadline_and_is_broken_slurm(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    if configured:
        monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    fake(bin_folder, "exec sleep 600")
    begin = time.monotonic()
    probe = probe_sinfo(Gate(60), 0.2)
    assert time.monotonic() - begin < 10
    assert (probe.state, "within 0.2 s" in probe.says) == ("broken", True)


def test_a_sinfo_that_hangs_in_a_child_of_its_own_costs_the_deadline_too(bin_folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fake(bin_folder, f"(read x < {tmp_path}/fifo) & wait")  # the child keeps sinfo's output open
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        begin = time.monotonic()
        probe = probe_sinfo(Gate(60), 0.2)
        assert time.monotonic() - begin < 10
        assert probe.state == "broken"
    finally:
        os.write(fifo, b"end\n")  # and ends here
        os.close(fifo)


def test_a_sinfo_without_a_configuration_is_no_slurm(bin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "errors").write_text(UNCONFIGURED)
    fake(bin_folder, f"cat {tmp_path}/errors >&2; exit 1")
    assert probe_sinfo(Gate(60), 5).state == "absent"


@pytest.mark.parametrize("content", ["#!/no/such/interpreter\n", "\x7fELF broken"])
def test_a_sinfo_that_cannot_be_run_is_broken(bin_folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("PATH", str(bin_folder))  # or the next sinfo on PATH is taken, as the kernel does it
    (bin_folder / "sinfo").write_text(content)
    (bin_folder / "sinfo").chmod(0o755)
    probe = probe_sinfo(Gate(60), 5)
    assert (probe.state, "cannot be run" in probe.says) == ("broken", True)


def test_a_file_that_may_not_be_executed_is_no_sinfo(bin_folder: Path) -> None:
    (bin_folder / "sinfo").write_text("#!/bin/sh\nexit 0\n")
    assert probe_sinfo(Gate(60), 5).state == "absent"


@pytest.mark.parametrize(("code", "state"), [(0, "found"), (1, "broken")])
def test_bytes_that_are_no_utf_8_are_no_crash(bin_folder: Path, code: int, state: str) -> None:
    fake(bin_folder, f"printf 'n\\351|gpu|idle|gpu:1|gpu:0|1\\n'; printf '\\377\\n' >&2; exit {code}")
    assert probe_sinfo(Gate(60), 5).state == state


def test_variables_that_change_sinfos_answer_do_not_reach_it(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SINFO_FORMAT", "SINFO_PARTITION", "SLURM_CLUSTERS", "SLURM_JOB_ID", "SBATCH_PARTITION", "SQUEUE_ALL"):
        monkeypatch.setenv(name, "stray")
    monkeypatch.setenv("SLURM_CONF", "/site/slurm.conf")
    monkeypatch.setenv("HARMLESS", "kept")
    fake(bin_folder, f"env > {tmp_path}/env")
    assert probe_sinfo(Gate(60), 5).state == "found"
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert "stray" not in seen.values()
    assert {name for name in seen if name.startswith(("SLURM_", "SINFO_", "SBATCH_", "SQUEUE_"))} == {
        "SLURM_CONF",
        "SLURM_TIME_FORMAT",
        "SLURM_BITSTR_LEN",
    }
    assert (seen["SLURM_CONF"], seen["HARMLESS"]) == ("/site/slurm.conf", "kept")


def test_the_servers_own_secrets_do_not_reach_a_slurm_command() -> None:
    env = {"ORC_DATABASE_URL": "postgresql://orc:secret@host/orc", "ORC_TOKEN": "secret", "PATH": "/usr/bin"}
    assert "secret" not in repr(slurm_environment(env))
    assert slurm_environment(env)["PATH"] == "/usr/bin"


# -- GPUs --------------------------------------------------------------------------------------------------------------


def test_gpus_that_are_read_are_found() -> None:
    probe, gpus = probe_gpus(lambda: GpuReading((GPU,), "nvml", driver="550.1"), None)
    assert (probe.state, gpus, probe.data["driver"]) == ("found", [GPU], "550.1")


@pytest.mark.parametrize("visible", ["1", "GPU-b", "1,GPU-b"])
def test_gpus_that_are_hidden_are_told_of(visible: str) -> None:
    other = Gpu(1, "GPU-b", "NVIDIA H100", 81920, 10)
    probe, gpus = probe_gpus(lambda: GpuReading((GPU, other), "nvml"), visible)
    assert gpus == [other]
    assert f"1 more are hidden by CUDA_VISIBLE_DEVICES={visible}" in probe.says


@pytest.mark.parametrize(
    ("reading", "visible", "state", "words"),
    [
        (GpuReading((), "none", "NVML is not here."), None, "absent", "NVML is not here."),
        (GpuReading((), "none"), None, "absent", "no NVIDIA driver"),
        (GpuReading((), "nvml", "NVML: Driver/library version mismatch"), None, "broken", "version mismatch"),
        (GpuReading((), "nvidia-smi", "no answer within 5 s"), None, "broken", "no answer within 5 s"),
        (GpuReading((), "nvml"), None, "absent", "shows no GPU"),
        (GpuReading((GPU,), "nvml"), "", "absent", "shows no GPU"),
        (GpuReading((GPU,), "nvml"), "-1", "absent", "shows no GPU"),
    ],
)
def test_no_gpus_are_told_of_in_words(reading: GpuReading, visible: str | None, state: str, words: str) -> None:
    probe, gpus = probe_gpus(lambda: reading, visible)
    assert (probe.state, gpus, words in probe.says) == (state, [], True)


# -- what it all means -------------------------------------------------------------------------------------------------

BROKEN_SINFO = Probe("broken", "sinfo failed (exit code 1).")
BROKEN_GPU = Probe("broken", "NVML: Driver/library version mismatch")
HAS_GPU = Probe("found", "nvml shows 1 GPU(s).")
FOUND_SINFO = read_sinfo(0, TWO_NODES, "")


@pytest.mark.parametrize(
    ("sinfo", "gpu", "gpus", "kind", "status", "counts"),
    [
        (FOUND_SINFO, NO_GPU, [], "slurm", "healthy", (2, 8)),
        (FOUND_SINFO, HAS_GPU, [GPU], "slurm", "healthy", (2, 8)),
        (FOUND_SINFO, BROKEN_GPU, [], "slurm", "healthy", (2, 8)),
        (BROKEN_SINFO, NO_GPU, [], "slurm", "degraded", (0, 0)),
        (BROKEN_SINFO, HAS_GPU, [GPU], "slurm", "degraded", (0, 0)),  # nothing falls back by itself
        (BROKEN_SINFO, BROKEN_GPU, [], "slurm", "degraded", (0, 0)),
        (ABSENT, HAS_GPU, [GPU], "local_gpu", "healthy", (1, 1)),
        (ABSENT, HAS_GPU, MIG, "local_gpu", "healthy", (1, 2)),  # the GPU that is divided is no unit itself
        (ABSENT, NO_GPU, [], "cpu_only", "healthy", (1, 0)),
        (ABSENT, BROKEN_GPU, [], "cpu_only", "degraded", (1, 0)),
    ],
)
def test_what_the_probes_saw_says_what_the_machine_is(
    sinfo: Probe, gpu: Probe, gpus: list[Gpu], kind: str, status: str, counts: tuple[int, int]
) -> None:
    found = classify(sinfo, gpu, gpus)
    assert (found.type, found.status, (found.node_count, found.gpu_count)) == (kind, status, counts)
    assert found.head_node == socket.gethostname()
    assert 0 < found.confidence <= 1
    assert found.details["probes"]["sinfo"]["says"] == sinfo.says
    assert found.details["probes"]["gpus"]["state"] == gpu.state
    assert [told["uuid"] for told in found.details["gpus"]] == [known.uuid for known in gpus]


def test_what_is_broken_is_told_in_words() -> None:
    both = classify(BROKEN_SINFO, BROKEN_GPU, [])
    assert (BROKEN_SINFO.says in both.notes, BROKEN_GPU.says in both.notes) == (True, True)
    driver = classify(ABSENT, BROKEN_GPU, [])
    assert "driver of this machine is broken" in driver.notes
    assert BROKEN_GPU.says in driver.notes


def test_what_is_certain_is_told_with_more_confidence_than_what_is_guessed() -> None:
    certain, guessed = classify(FOUND_SINFO, NO_GPU, []), classify(BROKEN_SINFO, NO_GPU, [])
    assert certain.confidence > guessed.confidence > classify(ABSENT, BROKEN_GPU, []).confidence


def test_a_cluster_tells_its_nodes_and_partitions() -> None:
    found = classify(FOUND_SINFO, NO_GPU, [])
    assert found.notes == "2 node(s) in 3 partition(s)."
    assert found.details["nodes"]["n1"]["gpus_free"] == 1
    assert found.details["partitions"] == ["debug", "gpu", "long"]


def test_every_type_has_a_label_and_words() -> None:
    assert set(LABELS) == {*TYPES, "unknown"}


def test_both_probes_run_at_the_same_time_and_tell_how_long_they_took(bin_folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "meeting")
    (tmp_path / "answer").write_text(TWO_NODES)
    fake(bin_folder, f"echo here > {tmp_path}/meeting; cat {tmp_path}/answer")  # waits until the other probe reads

    def read() -> GpuReading:
        assert (tmp_path / "meeting").read_text() == "here\n"
        return GpuReading((GPU,), "nvml")

    found = detect(Gate(60), 30, read, None)
    assert (found.type, found.gpu_count) == ("slurm", 8)
    assert [told["uuid"] for told in found.details["gpus"]] == ["GPU-a"]
    assert all(probe["seconds"] > 0 for probe in found.details["probes"].values())
