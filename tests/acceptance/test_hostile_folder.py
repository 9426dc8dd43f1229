"""Another user of the machine puts things into the shared folder: nobody is kept from a GPU, nobody hangs."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakegpu import FakeGpu, FakeGpus
from tests.support.service import InProcess, in_process

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.geteuid() != 0, reason="Only root can act as several users."),
]
NOBODY = 65534


@pytest.fixture
def service(
    shared_folder: Path, fake_gpus: FakeGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InProcess]:
    fake_gpus.write([FakeGpu(index=i, uuid=f"GPU-{i}", name="A100") for i in range(2)])
    for name, value in fake_gpus.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ORC_GPU_LEASE_DIR", str(shared_folder / "leases"))
    with in_process(tmp_path / "home") as made:
        made.post("/cluster/detect")
        assert made.over(made.run("true")["id"])["status"] == "finished"
        yield made


def test_pipes_nonsense_and_names_of_others_keep_nobody_from_a_gpu(service: InProcess, shared_folder: Path) -> None:
    script = f"""
        cd {shared_folder}/leases
        mkfifo lease.x.{NOBODY} served.{NOBODY} ticket.{NOBODY}.a lease.y.0
        for uuid in GPU-0 GPU-1; do echo '{{"pid": 1}}' > lease.$uuid.0; done
        printf '[{{"id": "x", "gpus": 1e999, "since": 0}}]' > ticket.{NOBODY}.b
        printf '\\377\\376' > ticket.{NOBODY}.c
        ln -s /dev/zero lease.z.{NOBODY}
        echo 1e18 > served.0
    """
    subprocess.run(["bash", "-ec", script], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=False)
    assert (shared_folder / "leases" / f"served.{NOBODY}").exists()
    for count in (1, 2):
        over = service.over(service.run("true", resources={"gpus": count})["id"])
        assert (over["status"], len(over["gpus"])) == ("finished", count)
    assert service.system.reconciler.trouble is None
