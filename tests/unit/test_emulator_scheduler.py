"""The emulator's decisions: where a job fits, who starts, who waits and why. Pure."""

from typing import Any

import pytest

from orchestrator.testing import Cluster, Job, Node, Partition
from orchestrator.testing.arrays import JobRef
from orchestrator.testing.dependencies import BadDependency, judge, parse_dependency
from orchestrator.testing.model import NodeState, Request, Share
from orchestrator.testing.placement import empty, place
from orchestrator.testing.scheduler import NODES_DOWN, Decision, Preempt, Start, Wait, decide

NOW = 1_700_000_000
NODES = tuple(Node(f"n{number}", gres="gpu:a100:4", features=("fast",)) for number in (1, 2))
NORMAL = Partition("normal", default=True)


def request(**values: Any) -> Request:
    return Request(**{"partitions": ["normal"], "memory_per_cpu": 500, "time_limit": 60, **values})


def job(job_id: int, asked: Request | None = None, **values: Any) -> Job:
    return Job(job_id, asked or request(), "alice", 1000, "users", 1000, NOW, **values)


def running(job_id: int, shares: list[Share], **values: Any) -> Job:
    return job(job_id, state="RUNNING", shares=shares, partition="normal", start_time=NOW, **values)


def decisions(*jobs: Job, down: str = "", **settings: Any) -> list[Decision]:
    partitions = settings.pop("partitions", (NORMAL,))
    cluster = Cluster(NODES, partitions, **settings)
    states = {node.name: NodeState(node.name, down=node.name in down.split()) for node in NODES}
    known = {one.job_id: one for one in jobs}
    return decide(cluster, known, states, NOW, lambda ref: [known[ref.job_id]] if ref.job_id in known else [])


def shares_of(asked: Request) -> list[tuple[str, int, int, list[int]]] | None:
    found = place(asked, NODES, {node.name: empty(node) for node in NODES})
    if found is None:
        return None
    return [(one.node, one.tasks, one.cpus, one.gres.get("gpu:a100", [])) for one in found]


# -- placement ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "shares"),
    [
        (request(), [("n1", 1, 1, [])]),
        (request(cpus_per_task=8), [("n1", 1, 8, [])]),
        (request(gres="gpu:2"), [("n1", 1, 1, [0, 1])]),
        (request(tasks=12), [("n1", 8, 8, []), ("n2", 4, 4, [])]),
        (request(nodes_min=2, nodes_max=2, tasks=4), [("n1", 3, 3, []), ("n2", 1, 1, [])]),
        (request(tasks=3, tasks_per_node=2, nodes_min=2, nodes_max=2), [("n1", 2, 2, []), ("n2", 2, 2, [])]),
        (request(gpus="5"), [("n1", 1, 1, [0, 1, 2, 3]), ("n2", 1, 1, [0])]),
        (request(gpus_per_task="1", tasks=2), [("n1", 2, 2, [0, 1])]),
        (request(exclusive=True), [("n1", 1, 8, [0, 1, 2, 3])]),
        (request(required_nodes=["n2"]), [("n2", 1, 1, [])]),
        (request(excluded_nodes=["n1"]), [("n2", 1, 1, [])]),
        (request(cpus_per_task=9), None),
        (request(gres="gpu:v100:1"), None),
        (request(memory_per_node=20000), None),
        (request(features="slow"), None),
        (request(nodes_min=3), None),
    ],
)
def test_placement(asked: Request, shares: list[tuple[str, int, int, list[int]]] | None) -> None:
    assert shares_of(asked) == shares


# -- who starts --------------------------------------------------------------------------------------------------------


def test_a_job_takes_the_lowest_free_gpus() -> None:
    first = running(1, [Share("n1", 1, 500, {"gpu:a100": [0, 2]})])
    (found,) = decisions(first, job(2, request(gres="gpu:2")))
    assert isinstance(found, Start)
    assert found.shares[0].gres == {"gpu:a100": [1, 3]}


def test_priority_then_id() -> None:
    found = decisions(job(1), job(2, priority=5), job(3))
    assert [one.job_id for one in found] == [2, 1, 3]


def test_the_first_without_room_keeps_later_ones_of_its_partition_waiting() -> None:
    full = [running(number, [Share(f"n{number}", 8, 4000)]) for number in (1, 2)]
    found = decisions(*full, job(3, request(cpus_per_task=4)), job(4))
    assert found == [Wait(3, "Resources"), Wait(4, "Priority")]


def test_as_many_array_tasks_as_the_throttle_lets() -> None:
    found = decisions(job(1, array_job_id=1, waiting_tasks=[0, 1, 2, 3], array_throttle=2))
    assert [(type(one).__name__, getattr(one, "task", None)) for one in found] == [
        ("Start", 0),
        ("Start", 1),
        ("Wait", None),
    ]
    assert isinstance(found[-1], Wait)
    assert found[-1].reason == "JobArrayTaskLimit"


@pytest.mark.parametrize(
    ("asked", "values", "reason"),
    [
        (request(), {"held": "user"}, "JobHeldUser"),
        (request(), {"held": "admin"}, "JobHeldAdmin"),
        (request(begin=NOW + 60), {}, "BeginTime"),
        (request(licenses={"matlab": 3}), {}, "Licenses"),
        (request(nodes_min=3), {}, "PartitionNodeLimit"),
        (request(cpus_per_task=100), {}, "PartitionConfig"),
        (request(time_limit=None), {}, "PartitionTimeLimit"),
    ],
)
def test_why_a_job_may_not_start(asked: Request, values: dict[str, Any], reason: str) -> None:
    limited = Partition("normal", default=True, max_time_minutes=120)
    (found,) = decisions(job(1, asked, **values), partitions=(limited,), licenses={"matlab": 2})
    assert isinstance(found, Wait)
    assert found.reason == reason


def test_licenses_are_shared() -> None:
    asked = request(licenses={"matlab": 2})
    found = decisions(
        running(
            1,
            [Share("n1", 1, 500)],
        ),
        job(2, asked),
        job(3, asked),
        licenses={"matlab": 2},
    )
    assert [type(one).__name__ for one in found] == ["Start", "Wait"]


def test_nodes_that_are_away() -> None:
    named, both = job(1, request(required_nodes=["n2"])), job(2, request(nodes_min=2, nodes_max=2, tasks=2))
    found = decisions(named, both, job(3), down="n2")
    assert found[0] == Wait(1, "ReqNodeNotAvail", "ReqNodeNotAvail, UnavailableNodes:n2")
    assert found[1] == Wait(2, "Resources", NODES_DOWN)
    assert isinstance(found[2], Start)


# -- preemption --------------------------------------------------------------------------------------------------------

TIERS = (NORMAL, Partition("low", priority_tier=0, preempt="requeue"))


def low(job_id: int, node: str, start: int) -> Job:
    found = running(job_id, [Share(node, 8, 4000)])
    found.partition, found.start_time = "low", start
    return found


def test_the_youngest_of_a_lower_tier_goes() -> None:
    found = decisions(low(1, "n1", NOW - 10), low(2, "n2", NOW - 5), job(3), partitions=TIERS)
    assert found == [Preempt(2), Wait(3, "Resources")]


def test_nobody_else_goes_while_one_is_leaving() -> None:
    leaving = low(2, "n2", NOW - 5)
    leaving.state, leaving.completing = "PREEMPTED", True
    assert decisions(low(1, "n1", NOW - 10), leaving, job(3), partitions=TIERS) == [Wait(3, "Resources")]


def test_equals_stay() -> None:
    full = [running(number, [Share(f"n{number}", 8, 4000)]) for number in (1, 2)]
    assert decisions(*full, job(3), partitions=TIERS) == [Wait(3, "Resources")]


# -- dependencies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "state", "outcome", "shown"),
    [
        ("afterok:1", "RUNNING", "unfulfilled", "afterok:1(unfulfilled)"),
        ("afterok:1", "COMPLETED", "satisfied", ""),
        ("afterok:1", "FAILED", "failed", "afterok:1(failed)"),
        ("afterany:1", "FAILED", "satisfied", ""),
        ("afternotok:1", "COMPLETED", "failed", "afternotok:1(failed)"),
        ("afternotok:1", "FAILED", "satisfied", ""),
        ("after:1", "RUNNING", "unfulfilled", "after:1(unfulfilled)"),
        ("afterok:1,afterany:1", "FAILED", "failed", "afterok:1(failed)"),
        ("afterok:1?afterany:1", "FAILED", "satisfied", ""),
        ("afterok:999", "RUNNING", "satisfied", ""),
    ],
)
def test_dependencies(text: str, state: str, outcome: str, shown: str) -> None:
    other = job(1, state=state)

    def known(ref: JobRef) -> list[Job]:
        return [other] if ref.job_id == 1 else []

    assert judge(job(2, request(dependency=text)), known, [other]) == (outcome, shown)


def test_singleton_waits_for_earlier_jobs_of_its_name() -> None:
    mine = job(2, request(dependency="singleton", name="a"))
    assert judge(mine, lambda _: [], [job(1, request(name="a"))])[0] == "unfulfilled"
    assert judge(mine, lambda _: [], [job(1, request(name="b"))])[0] == "satisfied"


@pytest.mark.parametrize("text", ["foo:1", "afterok", "afterok:x"])
def test_what_is_no_dependency(text: str) -> None:
    with pytest.raises(BadDependency):
        parse_dependency(text)
