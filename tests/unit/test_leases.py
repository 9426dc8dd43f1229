"""The shared folder: locks, notes, tickets, turns, and what other users may put there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.executors.gpus import Gpu, GpuReading
from orchestrator.executors.leases import LeaseFolder, LeaseFolderError, TicketFile
from orchestrator.executors.line import LeasePolicy, Line, overview
from orchestrator.executors.sharedfiles import read_shared
from orchestrator.executors.turns import Request
from orchestrator.proc import ProcessId

GPUS = tuple(Gpu(index, f"GPU-{index}", "A100", 40_000, 10) for index in range(4))


class Reader:
    """A machine of four GPUs."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus or GPUS

    def read(self) -> GpuReading:
        return GpuReading(self.gpus, "test")


def line(folder: Path, name: str = "a", **policy: Any) -> Line:
    given = {"memory_threshold_mib": 1000, "reserve_after": 60.0, **policy}
    return Line(LeaseFolder(folder), Reader(), LeasePolicy(**given), name)


def want(name: str, gpus: int = 1, since: float | None = None) -> Request:
    return Request(name, gpus, time.time() if since is None else since, label=f"for {name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "leases"


def test_what_is_leased_is_locked_noted_and_free_again_when_released(folder: Path) -> None:
    ours, others = line(folder), line(folder, "b")
    lease = ours.acquire([want("x", 3)]).leases["x"]
    assert [gpu.index for gpu in lease.gpus] == [0, 1, 2]
    assert lease.visible_devices() == {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1,GPU-2"}
    waiting = others.acquire([want("y", 2)])
    assert (waiting.leases, "leased by" in waiting.explain()) == ({}, True)
    shown = overview(ours.look())
    assert [gpu["state"] for gpu in shown["gpus"]] == ["leased", "leased", "leased", "free"]
    assert (shown["gpus"][0]["holder"]["what"], shown["waiting"][0]["request"]) == ("for x", "y")
    lease.release()
    assert [gpu.index for gpu in others.acquire([want("y", 2)]).leases["y"].gpus] == [0, 1]


def test_a_lease_lasts_until_the_last_process_that_inherited_it_ends(folder: Path) -> None:
    lease = line(folder).acquire([want("x", 4)]).leases["x"]
    with subprocess.Popen(["sleep", "60"], pass_fds=lease.fds()) as child:
        holder = ProcessId.of(child.pid)
        assert holder is not None
        lease.hand_over(holder)
        outcome = line(folder, "b").acquire([want("y")])
        assert (outcome.leases, {one.pid for one in outcome.holders}) == ({}, {child.pid})
        child.kill()
    assert line(folder, "b").acquire([want("y")]).leases


def test_a_lease_that_was_handed_over_takes_no_note_away(folder: Path) -> None:
    lease = line(folder).acquire([want("x")]).leases["x"]
    me = ProcessId.of(os.getpid())
    assert me is not None
    lease.hand_over(me)
    lease.release()
    assert LeaseFolder(folder).note_path("GPU-0").exists()


def test_stale_notes_of_ours_are_tidied_up(folder: Path) -> None:
    ours = line(folder)
    ours.acquire([want("x")]).leases["x"].close()
    assert list(folder.glob("lease.*"))
    ours.tidy()
    assert not list(folder.glob("lease.*"))


def test_the_ticket_of_a_dead_process_does_not_count(folder: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path;"
        "from tests.unit.test_leases import line, want;"
        "lease = line(Path(sys.argv[1]), 'dead').acquire([want('x', 4), want('y', 4, since=0.0)]);"
        "os._exit(0)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=root, check=True)
    assert list(folder.glob("ticket.*"))
    assert line(folder, reserve_after=0.0).acquire([want("z", 4)]).leases
    assert not list(folder.glob("ticket.*dead"))


def test_a_process_that_does_not_take_its_turn_is_passed_by(folder: Path) -> None:
    LeaseFolder(folder).ensure()
    stopped = TicketFile(LeaseFolder(folder), "stopped")
    stopped.write([want("s", 4, since=1.0)])
    ours = line(folder)
    request = want("x", 4)
    assert not ours.acquire([request]).leases
    deadline = time.monotonic() + 10
    while not (outcome := ours.acquire([request])).leases:
        assert time.monotonic() < deadline
        assert outcome.recheck_in is not None
    stopped.leave()


def test_a_gpu_directory_that_a_cleaner_took_away_is_no_second_lease(folder: Path) -> None:
    shared = LeaseFolder(folder)
    shared.ensure()
    fd = shared.lock("GPU-0")
    assert fd is not None
    (folder / "gpu-GPU-0").rmdir()
    again = shared.lock("GPU-0")
    assert again is not None  # the directory is a new one; the driver's processes and job.py's tree still tell
    assert shared.leased("GPU-0")


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_folder_with_another_mode_is_mended_by_its_owner(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    LeaseFolder(folder).ensure()
    assert oct(folder.stat().st_mode & 0o7777) == "0o1777"


def test_a_link_a_file_a_colon_or_a_network_disk_is_no_lease_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir(mode=0o1777)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file", "a:b"):
        with pytest.raises(LeaseFolderError):
            LeaseFolder(tmp_path / name).ensure()
    monkeypatch.setattr("orchestrator.executors.leases.kind_of", lambda _path: "nfs4")
    with pytest.raises(LeaseFolderError, match="network"):
        LeaseFolder(tmp_path / "x").ensure()


HOSTILE = {
    f"lease.GPU-0.{os.geteuid()}": ["", "[]", "{}", "nonsense", '{"pid": []}', "[" * 100_000],
    f"ticket.{os.geteuid()}.evil": ["", "{}", "[1]", '[{"gpus": 1e999}]', "[" * 50_000, '{"a"'],
    f"served.{os.geteuid()}": ["", "x", "nan", "-1e18", "1e18", "inf"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in HOSTILE.items() for text in texts])
def test_nonsense_in_the_shared_folder_keeps_nobody_from_a_gpu(folder: Path, name: str, text: str) -> None:
    LeaseFolder(folder).ensure()
    (folder / name).write_text(text)
    ours = line(folder)
    assert ours.acquire([want("x", 4)]).leases
    assert len(overview(ours.look())["gpus"]) == 4


@pytest.mark.parametrize("name", ["lease.GPU-0.0", "ticket.0.evil", "served.0", "lease.x.21001"])
def test_pipes_links_and_files_of_another_name_are_left_unopened(folder: Path, name: str) -> None:
    LeaseFolder(folder).ensure()
    os.mkfifo(folder / name)
    (folder / f"{name}.link.0").symlink_to("/dev/zero")
    assert read_shared(folder / name) is None
    assert line(folder).acquire([want("x", 4)]).leases


def test_a_served_file_is_never_in_the_future(folder: Path) -> None:
    shared = LeaseFolder(folder)
    shared.ensure()
    (folder / f"served.{os.geteuid()}").write_text("1e18")
    assert shared.served()[os.geteuid()] <= time.time()


def test_a_note_that_cannot_be_written_costs_no_lease(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = line(folder)
    LeaseFolder(folder).ensure()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    lease = ours.acquire([want("x", 4)]).leases["x"]
    assert not list(folder.glob(".*"))
    lease.release()
    assert ours.acquire([want("y", 4)]).leases


def test_a_ticket_that_cannot_be_written_gives_the_gpus_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = line(folder), line(folder, "b")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(TicketFile, "write", full)
        with pytest.raises(LeaseFolderError, match="No space"):
            ours.acquire([want("x", 4)])
    assert others.acquire([want("y", 4)]).leases


def test_a_ticket_tells_what_is_wanted(folder: Path) -> None:
    LeaseFolder(folder).ensure()
    ticket = TicketFile(LeaseFolder(folder), "t")
    ticket.write([want("x", 2, since=5.0), want("y", 1, since=6.0)])
    (found,) = LeaseFolder(folder).tickets(None)
    assert [(request.id, request.gpus, request.since) for request in found.requests] == [("x", 2, 5.0), ("y", 1, 6.0)]
    ticket.write([])
    assert json.dumps([str(path) for path in folder.glob("ticket.*")]) == "[]"
