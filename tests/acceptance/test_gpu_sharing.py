"""Two users, a server each, eight simulated GPUs: shared without a daemon and without root's help."""

import os
import random
import shlex
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.gpujournal import PROGRAM, idle_while_waiting, most_at_once, overlaps, read_journal
from tests.support.elsewhere import Installation
from tests.support.fakegpu import FakeGpu, FakeGpus
from tests.support.service import RealServer, end_runs
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="Only root can act as several users."),
    pytest.mark.timeout(300),
]
UIDS = (21001, 21002)
EIGHT = [FakeGpu(index=i, uuid=f"GPU-0000000{i}-aaaa-bbbb-cccc-00000000000{i}", name="NVIDIA H100") for i in range(8)]


class Machine:
    """The machine that the users share."""

    def __init__(self, folder: Path, gpus: FakeGpus, installation: Installation) -> None:
        self.folder = folder
        self.gpus = gpus
        self.journal = folder / "journal"
        self.journal.touch()
        self.journal.chmod(0o666)
        program = folder / "program.sh"
        program.write_text(PROGRAM)
        self.program = str(program)
        environment = {**gpus.env(), "ORC_GPU_LEASE_DIR": str(folder / "leases")}
        self.servers = [
            RealServer(folder / f"home-{uid}", environment, installation.python, uid).start() for uid in UIDS
        ]

    def run(self, server: RealServer, gpus: int, seconds: float, until: Path | None = None, **fields: Any) -> str:
        """A run that computes for so long, and until there is such a file, on so many GPUs."""
        env = {"JOURNAL": str(self.journal), "FAKE_GPU_STATE": self.gpus.env()["FAKE_GPU_STATE"]}
        command = f"bash {shlex.quote(self.program)} {seconds} {until or ''}"
        made = server.run(command, resources={"gpus": gpus}, env=env, **fields)
        return str(made["id"])

    def close(self) -> None:
        """Ends the servers and what they left."""
        for server in self.servers:
            server.stop()
            end_runs(server.home / "runs")


@pytest.fixture
def machine(shared_folder: Path, fake_gpus: FakeGpus, installation: Installation) -> Iterator[Machine]:
    fake_gpus.write(EIGHT)
    made = Machine(shared_folder, fake_gpus, installation)
    yield made
    made.close()


def all_over(machine: Machine, wanted: list[tuple[RealServer, str]], seconds: float) -> list[dict[str, Any]]:
    """Every run once all are over."""

    def look() -> list[dict[str, Any]] | None:
        found = {run["id"]: run for server in machine.servers for run in server.get("/runs", limit=1000)}
        runs = [found[run_id] for _, run_id in wanted]
        return runs if all(run["status"] in {"finished", "failed", "stopped"} for run in runs) else None

    return wait_until(look, "all runs over", seconds)


def submit(machine: Machine, counts: tuple[int, int], seed: int) -> list[tuple[RealServer, str]]:
    """So many runs of 1 to 4 GPUs for each user, sent at the same time."""
    chance = random.Random(seed)
    wanted = [(i, chance.randint(1, 4), chance.uniform(0.1, 0.4)) for i in (0, 1) for _ in range(counts[i])]

    def send(item: tuple[int, int, float]) -> tuple[RealServer, str]:
        server = machine.servers[item[0]]
        return server, machine.run(server, item[1], item[2])

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(send, wanted))


def test_200_runs_of_two_users_share_eight_gpus(machine: Machine) -> None:
    wanted = submit(machine, (100, 100), seed=1)
    runs = all_over(machine, wanted, 180)
    uses = read_journal(machine.journal)

    assert {run["status"] for run in runs} == {"finished"}, [run["error"] for run in runs if run["error"]][:3]
    assert sorted(use.run_id for use in uses) == sorted(run_id for _, run_id in wanted)
    assert overlaps(uses) == []
    held = {run["id"]: {gpu["uuid"] for gpu in run["gpus"]} for run in runs}
    assert {use.run_id: set(use.gpus) for use in uses} == held
    assert all(len(run["gpus"]) == run["resources"]["gpus"] for run in runs)
    assert most_at_once(uses) == 8
    assert idle_while_waiting(runs, 8) <= 1.0


def test_a_long_queue_of_one_user_does_not_hold_back_another(machine: Machine) -> None:
    first, second = machine.servers
    many = [(first, machine.run(first, 2, 0.2)) for _ in range(60)]
    few = [(second, machine.run(second, 2, 0.2)) for _ in range(15)]
    runs = all_over(machine, many + few, 120)
    launched = {run["id"]: run["launched_at"] for run in runs}
    begin, end = min(launched[i] for _, i in few), max(launched[i] for _, i in few)
    meanwhile = sum(begin < launched[i] < end for _, i in many)
    assert meanwhile <= 15 + 4, f"{meanwhile} runs of the first user started between the second's 15"


def test_the_same_holds_when_servers_and_jobs_are_killed(machine: Machine) -> None:
    first, second = machine.servers
    victim = machine.run(first, 1, 1.0, until=machine.folder / "go")
    first.until(victim, "running")
    wanted = submit(machine, (100, 100), seed=2)
    claim = next((first.home / "runs" / victim / "attempts" / "1").glob("claim")).read_text()
    job = int(claim.partition("pid=")[2].partition("\n")[0])
    os.kill(job, signal.SIGKILL)
    wait_until(lambda: first.get(f"/runs/{victim}")["reason"] == "ORPHANED", "the run is seen to be orphaned")
    assert first.status(victim) == "running"

    for server in (first, second):
        server.kill()
        server.start()
    assert first.status(victim) == "running"
    (machine.folder / "go").touch()
    runs = all_over(machine, [*wanted, (first, victim)], 180)
    lost = [run for run in runs if run["status"] != "finished"]
    assert [(run["id"], run["status"], run["reason"]) for run in lost] == [(victim, "failed", "LOST")]

    uses = read_journal(machine.journal)
    assert overlaps(uses) == []
    assert {use.run_id for use in uses} == {run["id"] for run in runs}


def test_an_orphaned_run_can_be_stopped_and_gives_its_gpus_back(machine: Machine) -> None:
    server = machine.servers[0]
    victim = machine.run(server, 8, 300.0)
    server.until(victim, "running")
    waiting = machine.run(machine.servers[1], 1, 0.1)
    claim = (server.home / "runs" / victim / "attempts" / "1" / "claim").read_text()
    os.kill(int(claim.partition("pid=")[2].partition("\n")[0]), signal.SIGKILL)
    wait_until(lambda: server.get(f"/runs/{victim}")["reason"] == "ORPHANED")
    assert machine.servers[1].status(waiting) == "queued"
    server.post(f"/runs/{victim}/stop")
    assert server.over(victim)["status"] == "stopped"
    assert machine.servers[1].over(waiting)["status"] == "finished"
