"""From the queue to an executor: intents without an answer are looked up until they are settled, whatever else goes
well; refusals hold back; which runs go out together, and how many of a sweep."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import insert
from sqlmodel import Session

from orchestrator import ids, runs
from orchestrator.db import Database
from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.base import JobHandle, Refusal, SubmissionSpec
from orchestrator.handover import Batch, Handover
from orchestrator.models import Run, Sweep
from orchestrator.slurmqueue import SlurmQueue
from orchestrator.states import Reason, RunStatus

Answer = dict[str, JobHandle] | Refusal


class Scheduler:
    """An executor that answers what it is told to. ``known``: submissions that it has carried out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False
        self.answer: Callable[[SubmissionSpec], Answer] = self._accept
        self.submitted: list[SubmissionSpec] = []
        self.submitted_at = 0.0
        self.looked_up: list[str] = []
        self.known: set[str] = set()
        self.unknown: set[str] = set()  # runs that it has not carried out, of submissions that it knows

    def _accept(self, spec: SubmissionSpec) -> Answer:
        job = {"submission": spec.name, "job_id": "7", "index": None}
        return {task.run_id: JobHandle(self.name, job) for task in spec.tasks}

    def submit(self, spec: SubmissionSpec) -> Answer:
        self.submitted.append(spec)
        self.submitted_at = time.time()
        if self.away:
            raise SchedulerUnavailable("no answer")
        return self.answer(spec)

    def find(self, spec: SubmissionSpec) -> dict[str, JobHandle]:
        self.looked_up.append(spec.name)
        if self.away:
            raise SchedulerUnavailable("no answer")
        found = self._accept(spec) if spec.name in self.known else {}
        assert isinstance(found, dict)
        return {run_id: handle for run_id, handle in found.items() if run_id not in self.unknown}


class NoGpus:
    """Nothing is leased."""

    def held(self, run_id: str) -> list[dict[str, Any]] | None:
        return None

    def forget(self, run_ids: Sequence[str]) -> None:
        pass


class Scene:
    """A database, a Slurm and a local executor, and the handover between."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.slurm, self.local = Scheduler("slurm"), Scheduler("local")
        executors: Any = {"slurm": self.slurm, "local": self.local}
        self.handover = Handover(db, executors, NoGpus())
        self.queue = SlurmQueue(db, lambda: 1000)
        self.handover.recover()

    def run(self, executor: str = "slurm", ask: str = "a", sweep: str | None = None) -> str:
        """A queued run."""
        made = Run(id=ids.run_id(), name="r", command="true", status="queued", executor=executor, ask_key=ask)
        made.sweep_id, made.queued_at = sweep, 1.0
        run_id = made.id
        self.db.write(lambda session: session.add(made))
        return run_id

    def sweep(self, parallel: int | None, count: int) -> list[str]:
        """A sweep of queued runs that all ask for the same."""
        made = Sweep(id=ids.run_id(), name="s", parallel=parallel)
        sweep_id = made.id
        self.db.write(lambda session: session.add(made))
        return [self.run(sweep=sweep_id) for _ in range(count)]

    def get(self, run_id: str) -> Run:
        with self.db.read() as session:
            return runs.get(session, run_id)

    def hand_over(self, *groups: Sequence[str]) -> None:
        self.handover.carry_out([Batch([self.get(run_id) for run_id in group]) for group in groups])

    def batches(self) -> list[tuple[int, int | None]]:
        """How many runs each submission would have, and its throttle."""
        found = self.queue.batches(self.handover.held_back(), self.handover.most)
        return [(len(batch.runs), batch.throttle) for batch in found]


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


def test_a_run_is_launched_when_it_is_handed_over_whenever_the_answer_is_written(scene: Scene) -> None:
    here = scene.run("local")
    scene.hand_over([here])
    launched = scene.get(here).launched_at
    assert launched is not None
    assert launched <= scene.local.submitted_at


# -- answers that did not come -----------------------------------------------------------------------------------------


def test_a_lost_answer_is_looked_up_though_others_were_handed_over_well_meanwhile(scene: Scene) -> None:
    lost, here = scene.run(), scene.run("local")
    scene.slurm.away = True
    scene.hand_over([lost])
    scene.hand_over([here])
    scene.handover.recover()  # it still gives no answer
    scene.slurm.away, scene.slurm.known = False, {scene.slurm.submitted[0].name}
    scene.handover.recover()
    assert scene.get(lost).job is not None
    assert scene.get(lost).reason == Reason.SLURM_WAIT
    assert not scene.handover.holding


def test_what_was_never_carried_out_waits_again_under_the_next_attempts_number(scene: Scene) -> None:
    lost = scene.run()
    scene.slurm.away = True
    scene.hand_over([lost])
    scene.slurm.away = False
    scene.handover.recover()
    found = scene.get(lost)
    assert (found.status, found.submission_id, found.attempt) == (RunStatus.QUEUED, None, 1)


@pytest.mark.parametrize("dies_after", [0, 1])  # so many writes
def test_a_submission_carried_out_in_part_is_settled_whenever_the_server_dies(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    done, lost = scene.run(), scene.run()
    scene.slurm.away = True
    scene.hand_over([done, lost])
    write, left = scene.db.write, iter(range(dies_after))

    def dying(change: Callable[[Session], None]) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(change)

    monkeypatch.setattr(scene.db, "write", dying)
    scene.slurm.away, scene.slurm.known, scene.slurm.unknown = False, {scene.slurm.submitted[0].name}, {lost}
    with contextlib.suppress(KeyboardInterrupt):
        scene.handover.recover()
    monkeypatch.undo()
    executors: Any = {"slurm": scene.slurm, "local": scene.local}
    after = Handover(scene.db, executors, NoGpus())
    after.recover()
    assert (scene.get(done).attempt, scene.get(done).job is not None) == (1, True)
    assert (scene.get(lost).submission_id, scene.get(lost).job) == (None, None)
    assert not after.holding


def test_after_the_first_silence_nothing_more_is_sent_and_what_was_not_sent_needs_no_looking_up(scene: Scene) -> None:
    sent, *others = (scene.run(ask=name) for name in "abc")
    here = scene.run("local")
    scene.slurm.away = True
    scene.hand_over([sent], [others[0]], [others[1]], [here])
    assert len(scene.slurm.submitted) == 1
    assert len(scene.local.submitted) == 1
    for run_id in others:
        found = scene.get(run_id)
        assert (found.submission_id, found.attempt, found.reason) == (None, 0, Reason.CLUSTER_DEGRADED)
    scene.handover.recover()
    assert len(scene.slurm.looked_up) == 1


def test_during_an_outage_one_intent_of_many_is_looked_up(scene: Scene) -> None:
    scene.slurm.away = True
    for name in "abc":
        scene.hand_over([scene.run(ask=name)])
    scene.handover.recover()
    assert len(scene.slurm.looked_up) == 1


def test_intents_of_a_server_that_died_are_looked_up_by_the_next(scene: Scene) -> None:
    run_id = scene.run()

    def crash(_spec: SubmissionSpec) -> Answer:
        raise KeyboardInterrupt

    scene.slurm.answer = crash
    with pytest.raises(KeyboardInterrupt):
        scene.hand_over([run_id])
    after = Scene(scene.db)
    assert after.slurm.looked_up == [scene.slurm.submitted[0].name]
    assert after.get(run_id).submission_id is None


# -- refusals ----------------------------------------------------------------------------------------------------------


def refuse(**fields: Any) -> Callable[[SubmissionSpec], Answer]:
    return lambda _spec: Refusal("sbatch: no", **{"final": False, **fields})


def test_a_refusal_for_good_fails_the_runs_in_slurms_words(scene: Scene) -> None:
    run_id = scene.run()
    scene.slurm.answer = refuse(final=True)
    scene.hand_over([run_id])
    assert (scene.get(run_id).status, scene.get(run_id).error) == (RunStatus.FAILED, "sbatch: no")


def test_too_many_at_once_are_tried_with_half_as_many(scene: Scene) -> None:
    run_ids = [scene.run() for _ in range(8)]
    scene.slurm.answer = refuse(too_many=True)
    scene.hand_over(run_ids)
    assert scene.batches() == [(4, None), (4, None)]
    assert {scene.get(run_id).attempt for run_id in run_ids} == {0}


def test_a_single_one_refused_waits_a_while_and_its_like_with_it(scene: Scene) -> None:
    run_id, like, other = scene.run(), scene.run(), scene.run(ask="b")
    scene.slurm.answer = refuse(too_many=True)
    scene.hand_over([run_id])
    assert scene.get(run_id).reason == Reason.SUBMIT_LIMIT
    assert scene.handover.held_back() == ["a"]
    found = scene.queue.batches(scene.handover.held_back(), scene.handover.most)
    assert [run.id for batch in found for run in batch.runs] == [other]
    assert scene.handover.holding
    assert like not in {run.id for batch in found for run in batch.runs}


def test_a_full_queue_holds_back_under_the_next_attempts_number_as_the_old_one_was_withdrawn(scene: Scene) -> None:
    run_ids = [scene.run() for _ in range(4)]
    scene.slurm.answer = refuse(too_many=True, withdrawn=True)
    scene.hand_over(run_ids)
    assert {scene.get(run_id).attempt for run_id in run_ids} == {1}
    assert {scene.get(run_id).reason for run_id in run_ids} == {Reason.SUBMIT_LIMIT}
    assert scene.handover.held_back() == ["a"]


# -- together ----------------------------------------------------------------------------------------------------------


def test_runs_that_ask_for_the_same_go_out_together_and_others_apart(scene: Scene) -> None:
    for ask in "aabbb":
        scene.run(ask=ask)
    assert sorted(scene.batches()) == [(2, None), (3, None)]


def test_a_sweep_with_a_parallel_is_one_array_with_that_throttle(scene: Scene) -> None:
    scene.sweep(parallel=2, count=10)
    assert scene.batches() == [(10, 2)]


def test_where_one_array_cannot_hold_a_sweep_no_more_than_its_parallel_go_out(scene: Scene) -> None:
    scene.sweep(parallel=2, count=10)
    found = scene.queue.batches([], lambda _ask: 4)
    assert [(len(batch.runs), batch.throttle) for batch in found] == [(2, None)]


def test_a_sweep_of_which_a_part_is_out_already_is_held_back_to_its_parallel(scene: Scene) -> None:
    run_ids = scene.sweep(parallel=3, count=10)
    scene.hand_over(run_ids[:1])
    assert scene.batches() == [(2, None)]


def test_a_group_larger_than_the_largest_array_is_several(scene: Scene) -> None:
    queue = SlurmQueue(scene.db, lambda: 4)
    for _ in range(10):
        scene.run()
    assert [len(batch.runs) for batch in queue.batches([], lambda _ask: None)] == [4, 4, 2]


def test_thousands_held_back_do_not_stand_before_others(scene: Scene) -> None:
    def many(session: Session) -> None:
        like = Run(id="", name="r", command="true", status="queued", executor="slurm", ask_key="a", queued_at=0.5)
        row = like.model_dump(exclude={"id", "seq"})
        session.execute(insert(Run), [row | {"id": ids.run_id()} for _ in range(4500)])

    scene.db.write(many)
    other = scene.run(ask="b")
    found = scene.queue.batches(["a"], lambda _ask: None)
    assert [run.id for batch in found for run in batch.runs] == [other]
