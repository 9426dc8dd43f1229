"""The emulated controller's queue, with nodes that only take notes: how jobs change, what accounting is told."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing import Cluster, Job, Node, Partition, operations
from orchestrator.testing.admission import QueueFull
from orchestrator.testing.arrays import ArraySpec, JobRef
from orchestrator.testing.endings import Ending
from orchestrator.testing.ledger import Ledger, read_rows
from orchestrator.testing.model import Request
from orchestrator.testing.queue import Queue
from orchestrator.testing.state import State, Who
from orchestrator.testing.submission import Refused, Submission

NOW = 1_700_000_000
ALICE = Who("alice", 1000, "users", 1000)
ROOT = Who("root", 0, "root", 0)


class Notes:
    """A Runner that starts nothing."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.destroyed: list[str] = []

    def start(self, job: Job) -> str:
        return f"launch-{job.job_id}-{job.restarts}"

    def keep(self, job_id: int, script: str) -> str:
        return ""

    def tell(self, launch: str, *words: str) -> None:
        self.told.append((launch, *words))

    def forget(self, launch: str) -> None:
        pass

    def destroy(self, launch: str) -> None:
        self.destroyed.append(launch)


class Scene:
    """A queue on one node of 8 CPUs and two GPUs, its notes, its accounting."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        node = Node("n1", gres="gpu:2")
        cluster = Cluster((node, Node("n2")), (Partition("normal", default=True),), **settings)
        self.notes = Notes()
        self.path = folder / "accounting.jsonl"
        self.queue = Queue(cluster, State(), Ledger(self.path, enabled=cluster.accounting), self.notes)

    def submit(self, *, array: ArraySpec | None = None, hold: bool = False, **values: Any) -> Job:
        job = self.queue.submit(Submission(Request(**values), array, hold), ALICE, NOW)
        self.queue.schedule(NOW)
        return job

    def end(self, job: Job, status: int = 0, at: int = NOW + 5) -> None:
        self.queue.ended(job, Ending(status, at), at)

    def rows(self) -> list[tuple[int, str]]:
        return [(job.job_id, job.state) for job in read_rows(self.path, 9e9)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, requeue_exit=(99,), requeue_delay=1)


def test_a_job_runs_and_ends(scene: Scene) -> None:
    job = scene.submit()
    assert (job.state, job.nodes, job.partition) == ("RUNNING", ["n1"], "normal")
    scene.end(job, 3 << 8)
    assert (job.state, job.reason, job.end_time) == ("FAILED", "NonZeroExitCode", NOW + 5)
    assert scene.rows() == [(1, "FAILED")]


def test_started_tasks_get_ids_and_the_last_keeps_the_arrays(scene: Scene) -> None:
    array = scene.submit(array=ArraySpec((1, 2, 3)))
    assert {job.job_id: job.array_task_id for job in scene.queue.jobs.values()} == {1: 3, 2: 1, 3: 2}
    assert (array.request.array_count, array.request.array_min, array.request.array_max) == (3, 1, 3)


def test_waiting_tasks_leave_no_accounting(scene: Scene) -> None:
    scene.submit(array=ArraySpec((1, 2, 3)), hold=True)
    assert scene.rows() == []


def test_a_waiting_task_that_is_cancelled_leaves_no_record(scene: Scene) -> None:
    array = scene.submit(array=ArraySpec((1, 2, 3)), hold=True)
    scene.queue.cancel_task(array, 2, ALICE, NOW)
    assert array.waiting_tasks == [1, 3]
    assert scene.rows() == []
    scene.queue.cancel(array, ALICE, NOW)
    assert scene.rows() == [(1, "CANCELLED")]


def test_cancelling_gives_the_processes_time(scene: Scene) -> None:
    job = scene.submit()
    scene.queue.cancel(job, ALICE, NOW + 2)
    assert (job.state, job.shown_state, job.end_time) == ("CANCELLED", "COMPLETING", NOW + 2)
    assert scene.notes.told == [(job.launch, "terminate", "30.0", "")]
    scene.end(job, 15)
    assert (job.state, job.shown_state, job.end_time, job.cancelled_by) == ("CANCELLED", "CANCELLED", NOW + 2, 1000)


def test_a_completing_job_keeps_its_resources(scene: Scene) -> None:
    job = scene.submit(gres="gpu:2")
    scene.queue.cancel(job, ALICE, NOW)
    later = scene.submit(gres="gpu:2")
    assert later.reason == "Resources"
    scene.end(job, 15)
    scene.queue.schedule(NOW)
    assert later.state == "RUNNING"


def test_the_exit_code_that_asks_for_a_requeue(scene: Scene) -> None:
    job = scene.submit()
    scene.end(job, 99 << 8)
    assert (job.state, job.reason, job.restarts, job.status) == ("PENDING", "BeginTime", 1, 99 << 8)
    assert job.request.begin == NOW + 6
    assert scene.rows() == [(1, "REQUEUED"), (1, "PENDING")]
    scene.queue.schedule(NOW + 6)
    assert (job.state, job.launch) == ("RUNNING", "launch-1-1")


def test_a_finished_job_can_be_requeued(scene: Scene) -> None:
    job = scene.submit()
    scene.end(job)
    operations.requeue(scene.queue, job, ALICE, NOW + 60)
    assert (job.state, job.restarts, job.submit_time) == ("PENDING", 1, NOW + 60)


def test_a_running_job_is_requeued_when_its_processes_have_gone(scene: Scene) -> None:
    job = scene.submit()
    operations.requeue(scene.queue, job, ALICE, NOW + 2, hold_it=True)
    assert job.shown_state == "COMPLETING"
    scene.end(job, 15)
    assert (job.state, job.reason, job.status) == ("PENDING", "JobHeldUser", 0)
    with pytest.raises(operations.Denied, match="Job is pending execution"):
        operations.requeue(scene.queue, job, ALICE, NOW + 9)


def test_cancelled_while_it_was_being_requeued(scene: Scene) -> None:
    job = scene.submit()
    operations.requeue(scene.queue, job, ALICE, NOW)
    scene.queue.cancel(job, ALICE, NOW)
    scene.end(job, 15)
    assert job.state == "CANCELLED"


def test_a_node_that_fails(scene: Scene) -> None:
    kept, gone = scene.submit(), scene.submit(requeue=False)
    operations.fail_node(scene.queue, scene.queue.state.nodes["n1"], NOW + 3)
    assert sorted(scene.notes.destroyed) == ["launch-1-0", "launch-2-0"]
    assert (kept.state, kept.restarts) == ("PENDING", 1)
    assert (gone.state, gone.reason) == ("NODE_FAIL", "NodeDown")
    assert scene.rows() == [(1, "NODE_FAIL"), (2, "NODE_FAIL"), (1, "PENDING")]


def test_the_time_limit_and_its_warning(scene: Scene) -> None:
    job = scene.submit(time_limit=1, time_given=True, signal="B:USR1@20")
    scene.queue.tick(NOW + 39)
    assert scene.notes.told == []
    scene.queue.tick(NOW + 40)
    scene.queue.tick(NOW + 41)
    assert scene.notes.told == [(job.launch, "signal", "USR1", "batch")]
    scene.queue.tick(NOW + 60)
    assert (job.state, job.reason, job.completing) == ("TIMEOUT", "TimeLimit", True)
    assert scene.notes.told[-1] == (job.launch, "terminate", "30.0", "DUE TO TIME LIMIT")


def test_a_suspended_job_does_not_age(scene: Scene) -> None:
    job = scene.submit(time_limit=1, time_given=True)
    operations.suspend(scene.queue, job, ALICE, NOW + 30)
    scene.queue.tick(NOW + 600)
    assert job.state == "SUSPENDED"
    operations.resume(scene.queue, job, ALICE, NOW + 630)
    scene.queue.tick(NOW + 659)
    assert job.state == "RUNNING"
    scene.queue.tick(NOW + 660)
    assert job.state == "TIMEOUT"


def test_a_pretend_job_takes_its_time(scene: Scene) -> None:
    job = scene.submit(pretend={"duration": "30", "state": "OUT_OF_MEMORY", "rss": "2G"})
    assert job.launch == ""
    assert scene.queue.next_moment(NOW + 29.5) == NOW + 30
    scene.queue.tick(NOW + 30)
    assert (job.state, job.steps[0].max_rss) == ("OUT_OF_MEMORY", 2 << 30)


def test_finished_jobs_are_forgotten(scene: Scene) -> None:
    scene.end(scene.submit(), at=NOW)
    scene.queue.tick(NOW + 300)
    assert list(scene.queue.jobs) == [1]
    scene.queue.tick(NOW + 301)
    assert list(scene.queue.jobs) == []


def test_holding_as_a_user_and_as_root(scene: Scene) -> None:
    job = scene.submit(cpus_per_task=9)
    operations.hold(scene.queue, job, ALICE, NOW)
    assert (job.reason, job.priority) == ("JobHeldUser", 0)
    operations.hold(scene.queue, job, ROOT, NOW)
    assert job.reason == "JobHeldAdmin"
    operations.release(scene.queue, job, ROOT, NOW)
    assert (job.held, job.priority > 0) == ("", True)


def test_what_no_node_could_ever_run_is_refused_and_leaves_a_record(scene: Scene) -> None:
    with pytest.raises(Refused, match="Requested node configuration is not available"):
        scene.submit(gres="gpu:3")
    (job,) = scene.queue.jobs.values()
    assert (job.state, job.reason) == ("FAILED", "BadConstraints")
    assert scene.submit(cpus_per_task=100).reason == "PartitionConfig"
    assert scene.submit(nodes_min=9).reason == "PartitionNodeLimit"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"partitions": ["nope"]}, "Invalid partition name specified"),
        ({"gres": "foo:1"}, "Invalid generic resource"),
        ({"features": "slow"}, "Invalid feature specification"),
        ({"licenses": {"matlab": 1}}, "Invalid license specification"),
        ({"required_nodes": ["nX"]}, "Invalid node name specified"),
        ({"dependency": "foo:1"}, "Job dependency problem"),
        ({"reservation": "r"}, "Requested reservation is invalid"),
        ({"qos": "none"}, "Invalid qos specification"),
        ({"account": "none"}, "Invalid account or account/partition combination specified"),
        ({"memory_per_node": 1 << 20}, "Memory specification can not be satisfied"),
    ],
)
def test_refusals(tmp_path: Path, values: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        Scene(tmp_path, accounts=("research",)).submit(**values)


def test_without_accounting_any_account_will_do(tmp_path: Path) -> None:
    scene = Scene(tmp_path, accounting=False)
    assert scene.submit(account="none", qos="none").state == "RUNNING"
    assert scene.rows() == []


def test_limits_of_numbers(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_submit_jobs=3, max_job_count=10, max_array_size=10)
    with pytest.raises(Refused, match=r"job submit limit, user's size and/or time limits"):
        scene.submit(array=ArraySpec((1, 2, 3, 4)))
    with pytest.raises(Refused, match="Invalid job array specification"):
        scene.submit(array=ArraySpec((10,)))
    with pytest.raises(QueueFull):
        Scene(tmp_path, max_job_count=3).submit(array=ArraySpec((1, 2, 3, 4)))


def test_finding_by_the_ids_that_users_write(scene: Scene) -> None:
    scene.submit(array=ArraySpec((1, 2, 3), throttle=1))
    alone = scene.submit()

    def ids(ref: JobRef) -> list[int]:
        return sorted(job.job_id for job in scene.queue.find(ref))

    assert ids(JobRef(1)) == [1, 2]
    assert ids(JobRef(2)) == [2]
    assert ids(JobRef(1, (1,))) == [2]
    assert ids(JobRef(1, (2, 3))) == [1]
    assert ids(JobRef(alone.job_id)) == [alone.job_id]
    assert ids(JobRef(99)) == []


def test_the_state_survives_json(scene: Scene) -> None:
    scene.submit(array=ArraySpec((1, 2, 3), throttle=1))
    again = State.from_json(scene.queue.state.to_json())
    assert again == scene.queue.state
