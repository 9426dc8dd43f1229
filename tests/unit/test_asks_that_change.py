"""What a run asks for may change before it goes out (again): it then goes out with its like, and as it asks now."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlmodel import Session

from orchestrator import runs, wishes
from orchestrator.access import Identity
from orchestrator.db import Database
from orchestrator.executors.base import JobHandle, SubmissionSpec, Watched
from orchestrator.gpuqueue import Turn
from orchestrator.models import Run, Submission
from orchestrator.reconciler import Reconciler
from orchestrator.resources import Resources
from orchestrator.slurm.checks import Bounds
from orchestrator.slurm.facts import Facts, Partition
from orchestrator.slurm.options import Ask
from orchestrator.slurmqueue import SlurmQueue
from orchestrator.states import Evidence, SchedulerEnd
from tests.support.waiting import wait_until

ON_MEMORY = {"max": 5, "on": ["OUT_OF_MEMORY"], "exit_codes": [], "memory_factor": 2.0, "delay_seconds": 0.0}


class Slurm:
    """An executor whose jobs have all run out of memory, and that keeps what is handed to it."""

    name = "slurm"
    trouble = None

    def __init__(self) -> None:
        self.specs: list[SubmissionSpec] = []

    def observe(self, watched: list[Watched]) -> dict[str, Evidence]:
        end = SchedulerEnd("OUT_OF_MEMORY", ended_at=time.time())
        return {item.run_id: Evidence(item.attempt, claimed=True, alive=False, ended=end) for item in watched}

    def submit(self, spec: SubmissionSpec) -> dict[str, JobHandle]:
        self.specs.append(spec)
        handles = {task.run_id: {"submission": spec.name, "job_id": "9", "index": None} for task in spec.tasks}
        return {run_id: JobHandle(self.name, data) for run_id, data in handles.items()}

    def looks_at_waiting(self) -> bool:
        return not self.specs  # those that were handed over wait for ever

    def next_look(self) -> float:
        return 1.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Whatever else it is asked to do, it has done nothing."""
        return lambda *_, **__: {} if name in {"cancel", "steer"} else []


def reconciler(database: Database, slurm: Slurm, bounds: Bounds | None = None) -> Reconciler:
    nothing = lambda *_, **__: None  # noqa: E731
    gpus = SimpleNamespace(contention=nothing, held=nothing, forget=nothing, tidy=nothing, release_unused=nothing)
    gpus.take = lambda _: Turn()
    collector = SimpleNamespace(watch=nothing, finish=nothing)
    queue = SlurmQueue(database, lambda: 1000)
    return Reconciler(
        database,
        cast(Any, {"slurm": slurm}),
        1,
        cast(Any, gpus),
        queue,
        cast(Any, collector),
        bounds=lambda: bounds or Bounds(),
    )


def run(run_id: str, mem: str, **columns: Any) -> Run:
    told = {"name": run_id, "command": "true", "status": "queued", "executor": "slurm", "queued_at": 1.0, "attempt": 1}
    asked = {"resources": {"mem": mem}, "ask_key": Ask(Resources(mem=mem)).key()}
    return Run(**{**told, **asked, "id": run_id, "avoid_gpus": [], **columns})


def running(run_id: str, mem: str) -> Run:
    job = {"submission": f"orc-{run_id}", "job_id": "8", "index": None}
    more = {"status": "running", "submission_id": f"orc-{run_id}", "started_at": 1.0, "job": job, "retry": ON_MEMORY}
    return run(run_id, mem, **more)


def stored(database: Database, *found: Run) -> None:
    def write(session: Session) -> None:
        session.add_all(found)
        session.add_all(
            Submission(id=one.submission_id, executor="slurm", run_ids=[one.id], state="submitted")
            for one in found
            if one.submission_id
        )

    database.write(write)


def stored_run(database: Database, run_id: str) -> Run:
    with database.read() as session:
        return runs.get(session, run_id)


def handed_over(database: Database, count: int) -> list[list[tuple[str, int | None, int]]]:
    """Passes until so many runs went out: of each batch run, memory (MiB) and niceness."""
    slurm = Slurm()
    loop = reconciler(database, slurm)
    wait_until(lambda: loop.once() and sum(len(spec.tasks) for spec in slurm.specs) >= count, "the submissions")
    return sorted(
        [(task.run_id, (task.resources.mem_bytes or 0) // 2**20, task.nice) for task in spec.tasks]
        for spec in slurm.specs
    )


def test_runs_that_ask_for_the_same_go_out_together(database: Database) -> None:
    stored(database, run("a", "100M"), run("b", "100M"))
    assert handed_over(database, 2) == [[("a", 100, 0), ("b", 100, 0)]]


def test_a_run_that_is_tried_again_with_more_memory_shares_no_batch_with_one_that_asks_for_less(
    database: Database,
) -> None:
    stored(database, running("again", "100M"), run("fresh", "100M"), run("large", "200M"))
    assert handed_over(database, 3) == [[("again", 200, 0), ("large", 200, 0)], [("fresh", 100, 0)]]


def test_a_run_whose_priority_changed_before_it_went_out_has_that_niceness(database: Database) -> None:
    stored(database, run("a", "100M"), run("b", "100M"), run("c", "100M", status="ready"), run("d", "100M"))
    me = Identity("me", frozenset({"admin"}))
    for run_id, priority in (("b", -7), ("c", -7), ("d", 7)):
        database.write(lambda session: wishes.prioritise(session, run_id, priority, me))  # noqa: B023  (called at once)
    database.write(lambda session: wishes.queue(session, "c", me, allow_queued=False))
    assert handed_over(database, 4) == [[("b", 100, 7), ("c", 100, 7)], [("d", 100, 0), ("a", 100, 0)]]


def bounds(mib: int) -> Bounds:
    partition = Partition("normal", True, True, 1, None, None, None, 1)
    node = {"partitions": ["normal"], "cpus_total": 4, "memory_mb": mib}
    return Bounds(Facts(partitions=(partition,)), {"n1": node})


@pytest.mark.parametrize(("mib", "more"), [(150, "150M"), (1000, "200M")])
def test_a_retry_asks_for_no_more_memory_than_a_node_of_its_partition_has(
    database: Database, mib: int, more: str
) -> None:
    stored(database, running("a", "100M"))
    reconciler(database, Slurm(), bounds(mib)).once()
    again = stored_run(database, "a")
    assert (again.status, again.reason, again.resources) == ("queued", "RETRYING", {"mem": more})
    assert again.ask_key == Ask(Resources(mem=more)).key()


def test_a_run_that_had_all_the_memory_of_a_node_fails_for_want_of_it(database: Database) -> None:
    stored(database, running("a", "100M"))
    reconciler(database, Slurm(), bounds(100)).once()
    over = stored_run(database, "a")
    assert (over.status, over.reason, over.attempt, over.resources) == ("failed", "OUT_OF_MEMORY", 1, {"mem": "100M"})
    assert "no node that it may have gives more" in (over.error or "")
    assert [line["reason"] for line in over.history] == ["OUT_OF_MEMORY"]
