"""What an emulated cluster can give at most: what is proposed can be had, and what cannot is not asked for again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import runs
from orchestrator.journal import move
from orchestrator.states import Move, Reason, RunStatus
from orchestrator.testing import EmulatedSlurm, Node, Partition
from tests.support.service import InProcess, in_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
HOUR = 60
MIB = 2**20


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcess]:
    """The service in the test's process, on a cluster of one node of 1000 MiB that takes two jobs at a time."""
    partitions = [
        Partition("normal", default=True, max_time_minutes=2 * HOUR),
        Partition("short", max_time_minutes=2),
        Partition("day", max_time_minutes=24 * HOUR),
    ]
    nodes = [Node("n1", cpus=4, memory_mb=1000)]
    with EmulatedSlurm(tmp_path / "slurm", nodes, partitions, max_submit_jobs=2) as slurm:
        for name, value in slurm.environment.items():
            monkeypatch.setenv(name, value)
        polls = {"slurm_poll_floor_seconds": 0.3, "slurm_poll_ceiling_seconds": 1.0}
        with in_process(tmp_path / "home", **polls) as found:
            yield found


def failed(service: InProcess, reason: Reason, resources: dict[str, Any], **columns: Any) -> str:
    """A run that failed so, without having to wait for it."""
    made = service.post("/runs", {"name": "x", "command": "true", "resources": resources})
    service.post(f"/runs/{made['id']}/hold")
    service.post(f"/runs/{made['id']}/start")
    over = Move(RunStatus.FAILED, reason, "It failed.", columns)
    service.system.db.write(lambda session: move(session, runs.get(session, made["id"]), over))
    return str(made["id"])


PROPOSED: list[tuple[Reason, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (Reason.TIMEOUT, {"time": 30}, {}, {"time": 60}),
    (Reason.TIMEOUT, {"time": 90}, {}, {"time": 120}),
    (Reason.TIMEOUT, {"time": 120, "cpus": 2}, {}, {"time": 240, "cpus": 2, "partition": "day"}),
    (Reason.TIMEOUT, {"time": 2, "partition": "short"}, {}, {"time": 4, "partition": "normal"}),
    (Reason.OUT_OF_MEMORY, {"mem": "300M"}, {}, {"mem": "600M"}),
    (Reason.OUT_OF_MEMORY, {"mem": "600M"}, {}, {"mem": "1000M"}),
    (Reason.OUT_OF_MEMORY, {}, {"peak_memory_bytes": 900 * MIB}, {"mem": "1000M"}),
]


def test_what_is_proposed_is_accepted(service: InProcess) -> None:
    for reason, asked, told, proposed in PROPOSED:
        run_id = failed(service, reason, asked, **told)
        body = service.get(f"/runs/{run_id}/why")["rerun"]
        assert body["resources"] == proposed
        again = service.http.post(f"/runs/{run_id}/rerun", json=body | {"auto_start": False})
        assert (again.status_code, again.json()["resources"]) == (200, proposed)


def test_nothing_is_proposed_where_there_is_no_more_to_be_had(service: InProcess) -> None:
    for reason, asked, words in (
        (Reason.TIMEOUT, {"time": 24 * HOUR, "partition": "day"}, "day has a limit of 1-00:00:00"),
        (Reason.OUT_OF_MEMORY, {"mem": "1000M"}, "No node that it may have gives more than 1000M"),
    ):
        said = service.get(f"/runs/{failed(service, reason, asked)}/why")
        assert said["rerun"] is None
        assert words in said["action"]


def test_a_run_that_runs_out_of_memory_is_tried_with_all_that_the_node_has_and_no_more(service: InProcess) -> None:
    templates = service.settings.home / "templates"
    templates.mkdir()
    (templates / "job.sh.j2").write_text("#EMULATE duration=0 state=OUT_OF_MEMORY\n")
    made = service.run("true", resources={"mem": "300M"}, retry={"max": 9, "on": ["OUT_OF_MEMORY"]})
    over = service.over(made["id"], 90)
    assert (over["status"], over["reason"], over["resources"]) == ("failed", "OUT_OF_MEMORY", {"mem": "1000M"})
    assert [past["reason"] for past in over["history"]] == ["OUT_OF_MEMORY"] * 3
    assert "no node that it may have gives more" in over["error"]


def test_a_run_that_sbatch_does_not_take_is_told_in_sbatchs_words(service: InProcess) -> None:
    for _ in range(2):
        service.run("true", resources={"begin": "now+1hour"})
    run_id = service.run("true", resources={"begin": "now+1hour", "cpus": 2})["id"]
    wait_until(lambda: service.get(f"/runs/{run_id}")["reason"] == "SUBMIT_LIMIT", "the refusal")
    said = service.get(f"/runs/{run_id}/why")
    assert said["category"] == "limit"
    assert said["evidence"][-1]["source"] == "sbatch"
    assert "job submit limit" in said["evidence"][-1]["says"]


def test_a_run_with_a_begin_time_is_told_when_that_is(service: InProcess) -> None:
    run_id = service.run("true", resources={"begin": "now+1hour"})["id"]

    def told() -> dict[str, Any] | None:
        said = dict(service.get(f"/runs/{run_id}/why"))
        return said if "It begins at" in said["summary"] else None

    said = wait_until(told, "its begin time")
    assert said["summary"].endswith((" (in 1 h).", " min)."))
    assert any(isinstance(item.get("expected_start"), float) for item in said["evidence"])
