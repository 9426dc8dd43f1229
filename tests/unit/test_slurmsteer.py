"""Orders to jobs in Slurm: many at once, believed when a later squeue shows them; refusals are told, not repeated."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.executors.base import JobHandle, Told, Watched
from orchestrator.executors.slurmsteer import ASK_AGAIN, Steer, job_ids, refusals
from orchestrator.slurm.gate import Answer
from orchestrator.slurm.poller import Cadence, Key, Poller, Snapshot
from orchestrator.slurm.queue import QueueRow

# What Slurm 22.05 printed for a list of jobs.
REFUSED = """\
Requested operation is presently disabled for job 1
3_0-1: Requested operation is presently disabled
Job is pending execution for job 4
Invalid job id specified for job 9999
slurm_suspend error: Invalid job id specified
"""


class FakeGate:
    """Takes every order, or answers what it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.answer = Answer(0, "", "")

    def run(self, argv: Sequence[str], deadline: float | None = None) -> Answer:
        self.calls.append(list(argv))
        return self.answer


class Scene:
    """A squeue that shows what it is told to, at a time that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.gate = FakeGate()
        gate: Any = self.gate
        self.poller = Poller(gate, "alice", Cadence(2, 30))
        self.steer = Steer(self.poller)

    def show(self, *rows: QueueRow) -> None:
        """squeue, a moment later."""
        self.now += 1
        keyed: dict[Key, QueueRow] = {
            (row.name, index): row for row in rows for index in (row.indices if row.indices is not None else (None,))
        }
        self.poller.last = Snapshot(self.now, keyed, frozenset())


def row(name: str = "orc-1", state: str = "PENDING", job: str = "1", nice: int = 0, reason: str = "") -> QueueRow:
    return QueueRow(job, None, state, 1.0, 2.0, None, "", "gpu", 1, 0, "cpu=1", 0, 0, reason, name, nice=nice)


def item(run_id: str = "r1", name: str = "orc-1", priority: int = 0) -> tuple[Watched, Key, int]:
    handle = JobHandle("slurm", {"submission": name, "index": None, "job_id": "1"})
    return Watched(run_id, 1, handle), (name, None), priority


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_many_jobs_are_one_command_and_tasks_of_an_array_one_word() -> None:
    assert job_ids([("7", None), ("18", 1), ("18", 2), ("18", 9)]) == ["7", "18_[1-2,9]"]


def test_refusals_are_read_job_by_job_and_task_by_task() -> None:
    disabled = "Requested operation is presently disabled"
    assert refusals(REFUSED) == {
        ("1", None): disabled,
        ("3", 0): disabled,
        ("3", 1): disabled,
        ("4", None): "Job is pending execution",
        ("9999", None): "Invalid job id specified",
    }


def test_a_hold_is_confirmed_by_a_squeue_that_was_asked_after_it(scene: Scene) -> None:
    scene.show(row())
    assert scene.steer.confirms("hold", ("orc-1", None), 0) is None
    assert scene.steer.steer("hold", [item()]) == {"r1": Told("scontrol hold sent.")}
    scene.show(row(reason="JobHeldUser"))
    assert scene.steer.confirms("hold", ("orc-1", None), 0) == Told("Confirmed.")


def test_a_release_is_not_confirmed_by_a_squeue_from_before_the_hold(scene: Scene) -> None:
    scene.show(row())
    scene.steer.steer("hold", [item()])
    assert scene.steer.confirms("release", ("orc-1", None), 0) is None
    scene.show(row(reason="JobHeldUser"))
    assert scene.steer.confirms("release", ("orc-1", None), 0) is None
    scene.steer.steer("release", [item()])
    scene.show(row(reason="Priority"))
    assert scene.steer.confirms("release", ("orc-1", None), 0) == Told("Confirmed.")


def test_a_hold_of_a_job_that_has_begun_came_too_late(scene: Scene) -> None:
    scene.show(row(state="RUNNING"))
    told = scene.steer.confirms("hold", ("orc-1", None), 0)
    assert told is not None
    assert told.refused


def test_a_priority_is_confirmed_by_the_niceness_that_squeue_shows(scene: Scene) -> None:
    scene.show(row(nice=0))
    scene.steer.steer("priority", [item(priority=-30)])
    assert scene.gate.calls == [["scontrol", "update", "Nice=30", "JobId=1"]]
    scene.show(row(nice=0))
    assert scene.steer.confirms("priority", ("orc-1", None), -30) is None
    scene.show(row(nice=30))
    assert scene.steer.confirms("priority", ("orc-1", None), -30) == Told("Confirmed.")


def test_the_niceness_of_a_held_job_waits_for_its_release(scene: Scene) -> None:
    scene.show(row(reason="JobHeldUser"))
    assert scene.steer.steer("priority", [item(priority=-30)]) == {}
    assert scene.gate.calls == []  # Slurm would let the job go
    scene.show(row(reason="Priority"))
    assert "r1" in scene.steer.steer("priority", [item(priority=-30)])


def test_what_slurm_refuses_is_told_in_its_own_words(scene: Scene) -> None:
    scene.show(row())
    scene.gate.answer = Answer(1, "", "Access/permission denied for job 1\n")
    assert scene.steer.steer("hold", [item()]) == {"r1": Told("Access/permission denied", refused=True)}


def test_a_refusal_of_one_job_leaves_the_others_their_order(scene: Scene) -> None:
    scene.show(row(), row("orc-2", job="2"))
    scene.gate.answer = Answer(1, "", "Access/permission denied for job 1\n")
    said = scene.steer.steer("hold", [item(), item("r2", "orc-2")])
    assert (said["r1"].refused, said["r2"].refused) == (True, False)


def test_a_job_that_slurm_does_not_requeue_is_cancelled_to_be_submitted_again(scene: Scene) -> None:
    scene.show(row(state="RUNNING"))
    scene.gate.answer = Answer(1, "", "Requested operation is presently disabled for job 1\n")
    said = scene.steer.steer("requeue", [item()])
    assert scene.gate.calls == [["scontrol", "requeue", "1"], ["scancel", "1"]]
    assert not said["r1"].refused
    assert "presently disabled" in said["r1"].words


def test_a_cancel_is_sent_again_only_after_a_while(scene: Scene) -> None:
    scene.show(row(state="RUNNING"))
    assert scene.steer.cancel({("orc-1", None): "r1"}) == {"r1": "scancel sent."}
    assert scene.steer.cancel({("orc-1", None): "r1"}) == {}
    scene.now += ASK_AGAIN
    assert scene.steer.cancel({("orc-1", None): "r1"}) == {"r1": "scancel sent."}


def test_nothing_is_ordered_while_slurm_gives_no_answer(scene: Scene) -> None:
    scene.show(row())
    scene.poller.trouble = "away"
    assert scene.steer.steer("hold", [item()]) == {}
    assert scene.steer.cancel({("orc-1", None): "r1"}) == {}
    assert scene.gate.calls == []


def test_a_job_that_waits_is_not_requeued_once_more(scene: Scene) -> None:
    scene.show(row(state="PENDING"))
    assert scene.steer.steer("requeue", [item()]) == {}
    assert scene.gate.calls == []
