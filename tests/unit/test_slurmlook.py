"""One attempt under Slurm: real run directories, squeue's and sacct's word beside them, and the evidence of both."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.executors.base import JobHandle, Watched
from orchestrator.executors.slurmlook import ACCOUNTS_LAG, BEATS, BELIEVED_AFTER, Look
from orchestrator.proc import host_name
from orchestrator.rundir import AttemptDir, RunDir
from orchestrator.slurm.accounting import AccountRow
from orchestrator.slurm.phases import PROVISIONAL
from orchestrator.slurm.queue import QueueRow
from orchestrator.states import Evidence, ExitRecord

HEARTBEAT = 30.0
LOST_AFTER = 180.0
SHOWN = {"job_id": "15", "state": "RUNNING"}
CLEAN = {"attempt": 1, "code": 0, "signal": None, "started_at": 50.0, "ended_at": 100.0}
FAILED = CLEAN | {"code": 3}
GPUS = [{"index": 2, "node": "n1"}]


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Scene:
    """A run of one attempt, and who looks at it."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.booted: float | None = None
        self.boots_asked = 0
        self.run_dir = RunDir(folder, "run")
        self.run_dir.prepare("true")
        self.first.prepare({"scheduler": "slurm"}, {})
        self.look = Look(folder, LOST_AFTER, HEARTBEAT, self._booted_at)
        self.submission = folder / ".submissions" / "orc-s1"
        self.submission.mkdir(parents=True)

    def _booted_at(self) -> float | None:
        self.boots_asked += 1
        return self.booted

    @property
    def first(self) -> AttemptDir:
        return self.run_dir.attempt(1)

    def item(self, stopping: bool = False, index: int | None = None) -> Watched:
        data = {"submission": "orc-s1", "job_id": "15", "index": index, "at": 500.0}
        return Watched("run", 1, JobHandle("slurm", data), stopping)

    def claim(self, number: int = 1, beat_ago: float = 0.0) -> None:
        """As job.py does it."""
        folder = self.run_dir.attempt(number).path
        folder.mkdir(exist_ok=True)
        (folder / "claim").write_text(
            f"pid=7\nstart_ticks=1\nboot=b\nhost={host_name()}\nat=40.0\njob_id=15\nrestart=0\n"
        )
        at = time.time() - beat_ago
        os.utime(folder / "claim", (at, at))

    def start(self, number: int = 1) -> None:
        self.claim(number)
        record = {"attempt": number, "started_at": 50.0, "gpus": GPUS}
        (self.run_dir.attempt(number).path / "started.json").write_text(json.dumps(record))

    def end(self, record: dict[str, Any], number: int = 1) -> None:
        self.start(number)
        (self.run_dir.attempt(number).path / "exit.json").write_text(json.dumps(record))

    def requeue(self) -> None:
        """Its job was started again, and went on to the next attempt."""
        (self.first.path / "next").write_text("by=job\njob_id=15\nrestart=1\n")
        self.run_dir.attempt(2).path.mkdir(exist_ok=True)

    def known(self, state: str, **told: Any) -> Evidence:
        return self.look.known(self.item(**told), row(state), SHOWN)

    def unknown(
        self, account: AccountRow | None = None, *, kin: bool = False, keeps: bool = False, **told: Any
    ) -> Evidence:
        return self.look.unknown(self.item(**told), account, kin=kin, keeps_accounts=keeps)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, Clock(monkeypatch))


def row(state: str, code: int = 0, signal: int = 0, start: float | None = 60.0, end: float | None = 110.0) -> QueueRow:
    return QueueRow("15", None, state, 10.0, start, end, "n1", "gpu", 1, 0, "cpu=1", code, signal, "", "orc-s1")


def account(state: str, code: int = 0, signal: int = 0) -> AccountRow:
    return AccountRow("15", None, state, code, signal, 10.0, 60.0, 110.0, 50.0, "n1", "gpu", "cpu=1", "orc-s1")


def closed(attempt: AttemptDir) -> bool:
    """No requeue of its job can begin another attempt."""
    return (attempt.path / "next").exists() and "by=service" in (attempt.path / "next").read_text()


# -- between two squeues -----------------------------------------------------------------------------------------------


def test_between_looks_nothing_that_began_is_nothing(scene: Scene) -> None:
    assert scene.look.between(scene.item()) is None
    scene.claim()
    assert scene.look.between(scene.item()) is None
    assert not scene.look.eager


def test_between_looks_a_start_record_tells_of_a_run(scene: Scene) -> None:
    scene.start()
    assert scene.look.between(scene.item()) == Evidence(1, claimed=True, started_at=50.0, alive=True, gpus=tuple(GPUS))


def test_between_looks_a_clean_end_needs_no_second_opinion(scene: Scene) -> None:
    scene.end(CLEAN)
    seen = scene.look.between(scene.item())
    assert seen is not None
    assert (seen.exit, seen.alive, seen.started_at, seen.ended) == (scene.first.exit(), False, 50.0, None)
    assert closed(scene.first)


@pytest.mark.parametrize("told", [{"code": 3}, {"code": None, "signal": 9}, {"stopped": True}, {"timed_out": True}])
def test_between_looks_any_other_end_waits_for_slurms_word(scene: Scene, told: dict[str, Any]) -> None:
    scene.end(CLEAN | told)
    assert scene.look.between(scene.item()) is None
    assert scene.look.eager
    assert not (scene.first.path / "next").exists()  # a requeue may follow


# -- squeue shows it ---------------------------------------------------------------------------------------------------


def test_a_waiting_job_waits(scene: Scene) -> None:
    assert scene.known("PENDING") == Evidence(1, waiting=True, scheduler=SHOWN)
    assert not scene.look.eager


def test_a_job_that_waits_after_an_exit_is_requeued_and_the_end_of_before_is_told(scene: Scene) -> None:
    scene.end(FAILED)
    seen = scene.known("PENDING")
    assert (seen.waiting, seen.exit, seen.previous) == (True, None, scene.first.exit())
    assert not (scene.first.path / "next").exists()  # the requeued job is to go on


def test_a_running_job_is_alive_and_says_what_it_has(scene: Scene) -> None:
    assert scene.known("RUNNING") == Evidence(1, alive=True, scheduler=SHOWN)
    scene.start()
    assert scene.known("RUNNING") == Evidence(
        1, claimed=True, started_at=50.0, alive=True, gpus=tuple(GPUS), scheduler=SHOWN
    )


@pytest.mark.parametrize(("state", "suspended"), [("SUSPENDED", True), ("STOPPED", True), ("CONFIGURING", False)])
def test_a_suspended_job_is_told_so(scene: Scene, state: str, suspended: bool) -> None:
    scene.start()
    seen = scene.known(state)
    assert (seen.alive, seen.suspended) == (True, suspended)


def test_a_word_that_nobody_knows_moves_nothing(scene: Scene) -> None:
    scene.start()
    assert scene.known("MADE_UP").alive
    scene.clock.now += 1000
    assert scene.known("MADE_UP").alive


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "COMPLETED", "NODE_FAIL"])
def test_a_clean_end_is_an_end_whatever_squeue_shows(scene: Scene, state: str) -> None:
    scene.end(CLEAN)
    seen = scene.known(state)
    assert (seen.exit, seen.alive, seen.ended, seen.scheduler) == (scene.first.exit(), False, None, SHOWN)
    assert closed(scene.first)


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_nonzero_exit_waits_until_slurm_has_ended_the_job(scene: Scene, state: str) -> None:
    scene.end(FAILED)
    seen = scene.known(state)
    assert (seen.exit, seen.alive, scene.look.eager) == (None, True, True)
    assert not (scene.first.path / "next").exists()
    seen = scene.known("FAILED")
    assert seen.exit == scene.first.exit()
    assert seen.ended is not None
    assert (seen.ended.state, seen.alive) == ("FAILED", False)
    assert closed(scene.first)


def test_a_completing_job_is_not_over_and_is_looked_at_soon(scene: Scene) -> None:
    scene.start()
    assert (scene.known("COMPLETING").alive, scene.look.eager) == (True, True)


def test_slurms_word_is_told_beside_the_record(scene: Scene) -> None:
    scene.end(FAILED | {"code": None, "signal": 9})
    seen = scene.look.known(scene.item(), row("TIMEOUT", 0, 15), SHOWN)
    assert seen.ended is not None
    assert (seen.ended.state, seen.ended.code, seen.ended.signal) == ("TIMEOUT", 0, 15)
    assert (seen.ended.started_at, seen.ended.ended_at) == (60.0, 110.0)
    assert seen.exit == ExitRecord(None, 9, 100.0, started_at=50.0)


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "COMPLETED"])
def test_an_end_without_a_record_is_slurms_word(scene: Scene, state: str) -> None:
    scene.start()
    seen = scene.known(state)
    assert seen.ended is not None
    assert (seen.ended.state, seen.exit, seen.alive, seen.claimed) == (state, None, False, True)


@pytest.mark.parametrize("state", sorted(PROVISIONAL))
def test_an_end_that_may_become_a_requeue_is_believed_only_after_a_while(scene: Scene, state: str) -> None:
    scene.start()
    for _ in range(2):
        seen = scene.known(state)
        assert (seen.alive, seen.ended, scene.look.eager) == (True, None, True)
        scene.clock.now += BELIEVED_AFTER * 0.4
    assert not (scene.first.path / "next").exists()
    scene.clock.now += BELIEVED_AFTER * 0.3
    seen = scene.known(state)
    assert seen.ended is not None
    assert (seen.ended.state, seen.alive) == (state, False)
    assert closed(scene.first)


def test_a_requeue_that_was_seen_begins_the_while_anew(scene: Scene) -> None:
    scene.start()
    scene.known("NODE_FAIL")
    scene.clock.now += 2
    scene.known("PENDING")
    scene.clock.now += 2
    assert scene.known("NODE_FAIL").ended is None


def test_a_job_that_ran_between_two_node_failures_begins_the_while_anew(scene: Scene) -> None:
    scene.start()
    scene.known("NODE_FAIL")
    scene.clock.now += 2
    scene.known("RUNNING")
    scene.clock.now += 3600
    assert scene.known("NODE_FAIL").ended is None


def test_a_requeued_jobs_next_attempt_begins_the_while_anew(scene: Scene) -> None:
    scene.start()
    scene.known("NODE_FAIL")
    scene.requeue()
    scene.look.requeued(scene.item())
    scene.start(2)
    scene.clock.now += 3600
    second = Watched("run", 2, scene.item().job)
    assert scene.look.known(second, row("NODE_FAIL"), SHOWN).ended is None


def test_what_the_batch_script_wrote_is_told_where_job_py_never_began(scene: Scene) -> None:
    (scene.submission / "job.out").write_text("x" * 1000 + "/usr/bin/python3: not found\n")
    seen = scene.known("FAILED")
    assert seen.ended is not None
    assert seen.ended.said.endswith("python3: not found")
    assert len(seen.ended.said) <= 500
    assert (seen.claimed, scene.first.claim() is not None) == (False, True)  # withdrawn: nobody executes it any more


def test_a_task_of_an_array_has_a_file_of_its_own(scene: Scene) -> None:
    (scene.submission / "4.out").write_text("task four")
    seen = scene.known("FAILED", index=4)
    assert seen.ended is not None
    assert seen.ended.said == "task four"


def test_what_a_run_itself_wrote_is_not_taken_for_the_batch_scripts_words(scene: Scene) -> None:
    (scene.submission / "job.out").write_text("a warning")
    scene.start()
    seen = scene.known("FAILED")
    assert seen.ended is not None
    assert seen.ended.said == ""


# -- a job that was faster ---------------------------------------------------------------------------------------------


def test_a_requeued_job_is_told_first_with_how_the_attempt_before_ended(scene: Scene) -> None:
    assert scene.look.requeued(scene.item()) is None
    scene.end(FAILED)
    scene.requeue()
    seen = scene.look.requeued(scene.item())
    assert seen == Evidence(2, claimed=True, alive=True, previous=scene.first.exit())


def test_several_requeues_lead_to_the_last_attempt(scene: Scene) -> None:
    scene.requeue()
    (scene.run_dir.attempt(2).path / "next").write_text("by=job\njob_id=15\nrestart=2\n")
    seen = scene.look.requeued(scene.item())
    assert seen is not None
    assert (seen.attempt, seen.previous) == (3, None)


def test_a_requeued_job_that_was_faster_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.end(FAILED)
    close = AttemptDir.close

    def beaten(self: AttemptDir) -> bool:
        scene.requeue()
        return close(self)

    monkeypatch.setattr(AttemptDir, "close", beaten)
    assert scene.known("FAILED") == Evidence(2, claimed=True, alive=True)


def test_a_job_that_begins_while_it_is_told_of_as_over_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    withdraw = AttemptDir.withdraw

    def beaten(self: AttemptDir) -> bool:
        scene.claim()
        return withdraw(self)

    monkeypatch.setattr(AttemptDir, "withdraw", beaten)
    seen = scene.known("CANCELLED")
    assert (seen.attempt, seen.alive, seen.claimed, seen.ended) == (1, True, True, None)


def test_a_closed_attempt_stays_closed_and_is_told_of_again(scene: Scene) -> None:
    scene.end(FAILED)
    assert scene.known("FAILED") == scene.known("FAILED")
    assert not scene.first.requeued()


# -- squeue does not show it -------------------------------------------------------------------------------------------


def test_what_squeue_forgot_and_ended_well_is_over(scene: Scene) -> None:
    scene.end(CLEAN)
    seen = scene.unknown(keeps=True)
    assert (seen.exit, seen.alive, seen.ended) == (scene.first.exit(), False, None)
    assert closed(scene.first)


def test_sacct_tells_how_it_ended(scene: Scene) -> None:
    scene.end(FAILED)
    seen = scene.unknown(account("OUT_OF_MEMORY", 0, 125), keeps=True)
    assert seen.ended is not None
    assert (seen.ended.state, seen.ended.signal, seen.ended.ended_at) == ("OUT_OF_MEMORY", 125, 110.0)
    assert (seen.exit, seen.alive) == (scene.first.exit(), False)


def test_a_nonzero_exit_waits_for_sacct_as_long_as_sacct_may_lag(scene: Scene) -> None:
    scene.end(FAILED)
    assert scene.unknown(keeps=True) == Evidence(1, claimed=True)
    scene.clock.now += ACCOUNTS_LAG - 1
    assert scene.unknown(keeps=True) == Evidence(1, claimed=True)
    scene.clock.now += 1
    seen = scene.unknown(keeps=True)
    assert (seen.exit, seen.alive, seen.ended) == (scene.first.exit(), False, None)


def test_without_accounts_there_is_nothing_to_wait_for(scene: Scene) -> None:
    scene.end(FAILED)
    assert scene.unknown(keeps=False).exit == scene.first.exit()


def test_sacct_may_tell_of_an_end_that_a_requeue_follows(scene: Scene) -> None:
    scene.start()
    assert scene.unknown(account("NODE_FAIL"), keeps=True).ended is None
    scene.clock.now += BELIEVED_AFTER
    seen = scene.unknown(account("NODE_FAIL"), keeps=True)
    assert seen.ended is not None
    assert seen.ended.state == "NODE_FAIL"


def test_a_job_that_is_shown_again_was_not_missing(scene: Scene) -> None:
    scene.end(FAILED)
    scene.unknown(keeps=True)
    scene.clock.now += ACCOUNTS_LAG
    scene.known("RUNNING")
    assert scene.unknown(keeps=True) == Evidence(1, claimed=True)


# -- vanished: it began, and nobody knows it ---------------------------------------------------------------------------


def test_a_vanished_job_with_a_fresh_heartbeat_lives_and_is_orphaned_after_a_while(scene: Scene) -> None:
    scene.start()
    assert scene.unknown() == Evidence(1, claimed=True, alive=True, started_at=50.0)
    scene.clock.now += BELIEVED_AFTER + 0.1
    assert scene.unknown() == Evidence(1, claimed=True, alive=True, orphaned=True, started_at=50.0)


def test_a_vanished_job_with_a_stale_heartbeat_is_lost_after_the_limit(scene: Scene) -> None:
    scene.claim(beat_ago=max(BEATS * HEARTBEAT, LOST_AFTER) + 5)
    assert scene.unknown() == Evidence(1, claimed=True)
    scene.clock.now += LOST_AFTER - 1
    assert scene.unknown() == Evidence(1, claimed=True)
    assert not (scene.first.path / "next").exists()
    scene.clock.now += 1
    assert scene.unknown() == Evidence(1, claimed=True, alive=False)
    assert closed(scene.first)


def test_a_heartbeat_within_three_beats_is_fresh_even_where_lost_after_is_shorter(tmp_path: Path, scene: Scene) -> None:
    scene.claim(beat_ago=2 * HEARTBEAT)
    look = Look(tmp_path, 1.0, HEARTBEAT, lambda: None)
    assert look.unknown(scene.item(), None, kin=False, keeps_accounts=False).alive


def test_a_vanished_job_that_was_requeued_meanwhile_is_not_lost(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.claim(beat_ago=1000)
    close = AttemptDir.close

    def beaten(self: AttemptDir) -> bool:
        scene.requeue()
        return close(self)

    scene.unknown()
    scene.clock.now += LOST_AFTER
    monkeypatch.setattr(AttemptDir, "close", beaten)
    assert scene.unknown() == Evidence(2, claimed=True, alive=True)


# -- it never began ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keeps", "wait"), [(False, 2 * BELIEVED_AFTER), (True, ACCOUNTS_LAG)])
def test_a_job_that_never_began_is_given_time_before_it_is_forgotten(scene: Scene, keeps: bool, wait: float) -> None:
    assert scene.unknown(keeps=keeps) == Evidence(1)
    scene.clock.now += wait - 0.1
    assert scene.unknown(keeps=keeps) == Evidence(1)
    assert scene.first.claim() is None
    scene.clock.now += 0.1
    assert scene.unknown(keeps=keeps).forgotten
    claim = scene.first.claim()
    assert claim is not None
    assert claim.withdrawn


@pytest.mark.parametrize(
    ("kin", "booted", "cancelled"),
    [
        (True, None, True),  # Slurm knows the rest of its array
        (True, 900.0, True),
        (False, 100.0, True),  # the controller was there all the time
        (False, 900.0, False),  # it has started since
        (False, None, False),
    ],
)
def test_a_job_that_never_began_was_cancelled_or_forgotten(
    scene: Scene, kin: bool, booted: float | None, cancelled: bool
) -> None:
    scene.booted = booted
    scene.unknown(kin=kin)
    scene.clock.now += 2 * BELIEVED_AFTER
    seen = scene.unknown(kin=kin)
    assert (seen.ended is not None, seen.forgotten is not None) == (cancelled, not cancelled)
    if seen.ended is not None:
        assert (seen.ended.state, seen.alive) == ("CANCELLED", False)
        assert "scancel" in seen.ended.said
    assert scene.boots_asked == (0 if kin else 1)


def test_a_job_that_is_to_stop_and_never_began_is_withdrawn_at_once(scene: Scene) -> None:
    assert scene.unknown(stopping=True).forgotten
    assert scene.boots_asked == 0
    claim = scene.first.claim()
    assert claim is not None
    assert claim.withdrawn


def test_sacct_knows_of_a_job_that_was_cancelled_while_it_waited(scene: Scene) -> None:
    seen = scene.unknown(account("CANCELLED"), keeps=True)
    assert seen.ended is not None
    assert (seen.ended.state, seen.claimed, seen.alive) == ("CANCELLED", False, False)


def test_a_job_that_begins_while_it_is_being_withdrawn_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    withdraw = AttemptDir.withdraw

    def beaten(self: AttemptDir) -> bool:
        scene.claim()
        return withdraw(self)

    monkeypatch.setattr(AttemptDir, "withdraw", beaten)
    assert scene.unknown(stopping=True) == Evidence(1, claimed=True, alive=True)


# -- stopping, and looking soon ----------------------------------------------------------------------------------------


def test_a_forgotten_job_is_asked_to_stop_through_its_directory(scene: Scene) -> None:
    scene.look.ask_to_stop(scene.item())
    assert not (scene.first.path / "stop").exists()  # nobody is there to read it
    scene.claim()
    scene.look.ask_to_stop(scene.item())
    assert (scene.first.path / "stop").exists()


def test_a_job_that_has_ended_is_not_asked_to_stop(scene: Scene) -> None:
    scene.end(FAILED)
    scene.look.ask_to_stop(scene.item())
    assert not (scene.first.path / "stop").exists()


def test_the_attempt_of_a_requeued_job_is_the_one_that_is_asked_to_stop(scene: Scene) -> None:
    scene.requeue()
    scene.claim(2)
    scene.look.ask_to_stop(scene.item())
    assert (scene.run_dir.attempt(2).path / "stop").exists()


def test_one_job_that_waits_for_slurms_word_keeps_the_look_eager_whatever_the_others_do(
    scene: Scene, tmp_path: Path
) -> None:
    scene.end(FAILED)
    scene.known("COMPLETING")
    RunDir(tmp_path, "other").prepare("true")
    other = Watched(
        "other", 1, JobHandle("slurm", {"submission": "orc-s2", "job_id": "16", "index": None, "at": 500.0})
    )
    scene.look.known(other, row("RUNNING"), SHOWN)
    assert scene.look.eager
