"""What the watch raises, and once, over a real database; time is what the test says."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, col, select

from orchestrator import journal
from orchestrator.alerting import alerts, rules
from orchestrator.alerting.outbox import Recipients
from orchestrator.alerting.rules import Thresholds
from orchestrator.alerting.watch import AlertWatch
from orchestrator.db import Database
from orchestrator.errors import StorageFull
from orchestrator.executors.gpus import Gpu, GpuReading
from orchestrator.explaining import Explainer
from orchestrator.journal import SERVICE, record
from orchestrator.models import Alert, Event, Metric, OutboxMessage, Run
from orchestrator.rundir import RunDir
from orchestrator.slurm.checks import Bounds
from orchestrator.states import Move, Reason, RunStatus
from orchestrator.why import Why
from tests.support.usage import stored

NOW = time.time() + 1
HOUR = 3600.0


@pytest.fixture(autouse=True)
def this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may run long after it was collected, and what is made in it has the time of then."""
    monkeypatch.setitem(globals(), "NOW", time.time() + 1)


class Probe:
    """GPUs as the test says; counts how often they are asked."""

    def __init__(self, *loads: int | None) -> None:
        self.loads = loads
        self.asked = 0

    def read(self) -> GpuReading:
        self.asked += 1
        gpus = (Gpu(index, f"GPU-{index}", "x", 1, 0, load) for index, load in enumerate(self.loads))
        return GpuReading(tuple(gpus), "nvml")


Watch = Callable[..., AlertWatch]
Shown = Callable[[], dict[str, dict[str, Any]]]


@pytest.fixture
def watch(database: Database, tmp_path: Path) -> Watch:
    """Makes a watch, as a server that starts does."""

    def make(
        probe: Probe | None = None, spacing: float = 10_000.0, shown: Shown = dict, **thresholds: Any
    ) -> AlertWatch:
        explainer = Explainer(tmp_path / "runs", lambda: None, Bounds)
        limits = Thresholds(**thresholds)
        return AlertWatch(database, tmp_path / "runs", limits, explainer, shown, probe or Probe(), spacing)

    return make


def run(run_id: str = "r1", status: str = "running", **fields: Any) -> Run:
    told = {"attempt": 1, "created_at": NOW - HOUR, "started_at": NOW - HOUR, "queued_at": NOW - HOUR}
    return Run(**{"id": run_id, "name": "train", "command": "true", "status": status, **told, **fields})


def fail(database: Database, *run_ids: str, reason: Reason = Reason.NONZERO_EXIT) -> None:
    """These runs fail, as the loop would say."""

    def write(session: Session) -> None:
        for found in session.exec(select(Run).where(col(Run.id).in_(run_ids)).order_by(col(Run.seq))):
            journal.move(session, found, Move(RunStatus.FAILED, reason, "It broke."))

    database.write(write)


def found(database: Database, **columns: Any) -> list[Alert]:
    with database.read() as session:
        rows = session.exec(select(Alert).order_by(col(Alert.seq))).all()
    return [row for row in rows if all(getattr(row, name) == value for name, value in columns.items())]


def members(database: Database, alert: Alert) -> list[str]:
    with database.read() as session:
        return list(alerts.shown(session, [alert])[0]["run_ids"])


def change(database: Database, run_id: str, **fields: Any) -> None:
    def write(session: Session) -> None:
        row = session.exec(select(Run).where(col(Run.id) == run_id)).one()
        for name, value in fields.items():
            setattr(row, name, value)
        session.add(row)

    database.write(write)


def log_of(tmp_path: Path, run_id: str, at: float) -> None:
    log = RunDir(tmp_path / "runs", run_id).attempt(1).log
    log.parent.mkdir(parents=True)
    log.write_text("step 1\n")
    os.utime(log, (at, at))


# -- failed ------------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_has_one_alert_however_often_it_is_looked_at(database: Database, watch: Watch) -> None:
    stored(database, run(plan_id="p", chat_session_id="chat"))
    made = watch()
    made.look(NOW)
    assert found(database) == []
    fail(database, "r1", reason=Reason.OUT_OF_MEMORY)
    for moment in range(3):
        made.look(NOW + moment)
    (alert,) = found(database)
    assert (alert.rule, alert.run_id, alert.plan_id, alert.session_id) == ("failed", "r1", "p", "chat")
    assert (alert.choices, alert.status) == (["ignore", "rerun"], "pending")
    assert "It broke." in alert.message


def test_a_server_that_starts_tells_of_what_failed_while_there_was_none_and_once(
    database: Database, watch: Watch
) -> None:
    watch().look(NOW)
    stored(database, run("first"), run("second"))

    def long_ago(session: Session) -> None:
        for found in session.exec(select(Run)).all():
            found.status = "failed"
            session.add(found)
            record(session, SERVICE, "run.failed", f"run:{found.id}").at = NOW - 50 * HOUR

    database.write(long_ago)
    watch()  # killed before its first look
    for _ in range(2):
        watch().look(NOW)
    assert [alert.run_id for alert in found(database)] == ["first", "second"]


def test_failures_while_the_rule_was_off_are_not_told_of_later(database: Database, watch: Watch) -> None:
    stored(database, run())
    fail(database, "r1")
    watch(failed=False).look(NOW)
    watch().look(NOW)
    assert found(database) == []


def test_a_look_that_could_not_be_stored_is_made_again(
    database: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(database, run())
    made = watch()
    fail(database, "r1")
    with monkeypatch.context() as full:

        def no_room(_session: Session, _found: Any) -> None:
            raise StorageFull("The disk is full.")

        full.setattr(alerts, "raise_all", no_room)
        with pytest.raises(StorageFull):
            made.look(NOW)
    made.look(NOW)
    assert len(found(database)) == 1


def test_failures_come_to_be_told_of_some_at_a_time(
    database: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.alerting.watch.AT_ONCE", 2)
    stored(database, *(run(f"r{number}") for number in range(3)))
    fail(database, "r0", "r1", "r2")
    made = watch()
    assert made.look(NOW)
    assert len(found(database)) == 2
    assert not watch().look(NOW)  # the next server goes on from there
    assert len(found(database)) == 3


def test_a_run_that_cannot_be_explained_keeps_no_other_from_being_told_of(
    database: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    explain = Explainer.why

    def defective(self: Explainer, of: dict[str, Any], said: str | None = None) -> Any:
        if of["id"] == "r1":
            raise KeyError("x")
        return explain(self, of, said)

    monkeypatch.setattr(Explainer, "why", defective)
    stored(database, run("r1"), run("r2"))
    fail(database, "r1", "r2")
    watch().look(NOW)
    one, two = sorted(found(database), key=lambda alert: alert.run_id or "")
    assert (one.run_id, two.run_id) == ("r1", "r2")
    assert "It broke. Why cannot be said: see the server's log." in one.message
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("as_what", ["fifo", "folder"])
def test_a_log_that_is_no_file_holds_up_nobody(database: Database, watch: Watch, tmp_path: Path, as_what: str) -> None:
    stored(database, run())
    fail(database, "r1")
    log = RunDir(tmp_path / "runs", "r1").attempt(1).log
    log.parent.mkdir(parents=True)
    os.mkfifo(log) if as_what == "fifo" else log.mkdir()
    watch().look(NOW)
    (alert,) = found(database)
    assert "It broke. Its files cannot be read (It is no regular file)." in alert.message


def test_the_servers_end_does_not_wait_for_a_file_that_gives_no_answer(
    database: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, released, asked = threading.Event(), threading.Event(), list[str]()

    def hang(_self: Explainer, of: dict[str, Any]) -> Why:
        asked.append(of["id"])
        hanging.set()
        released.wait(60)
        return Why("x", "x", "x")

    monkeypatch.setattr(Explainer, "why", hang)
    monkeypatch.setattr("orchestrator.alerting.watch.ENDS_WITHIN", 0.1)
    stored(database, run("r1"), run("r2"))
    fail(database, "r1", "r2")
    made = watch(spacing=0.01)
    made.start()
    assert hanging.wait(30)
    made.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "alert-watch"]
    released.set()
    thread.join(30)
    assert asked == ["r1"]  # the other was not begun
    assert found(database) == []  # both are the next server's


def test_a_rule_that_is_switched_off_raises_nothing(database: Database, watch: Watch) -> None:
    stored(database, run(), run("r2", "queued"), run("r3"))
    stored_metric(database, "r3", nonfinite=1, last=None, updated_at=NOW - HOUR / 2)
    fail(database, "r1")
    off = {"no_progress_seconds": 0.0, "pending_seconds": 0.0, "idle_gpu_seconds": 0.0}
    watch(failed=False, nonfinite=False, **off).look(NOW + 10**6)
    assert found(database) == []


def test_many_failures_of_a_sweep_are_one_alert_and_one_message(database: Database, watch: Watch) -> None:
    database.writer.info[Recipients] = Recipients(("webhook:a",))
    names = [f"r{number:03}" for number in range(500)]
    stored(database, *(run(name, sweep_id="s") for name in names))
    made = watch()
    fail(database, *names)
    made.look(NOW)
    (alert,) = found(database)
    assert (alert.run_id, alert.choices) == ("r000", ["ignore", "rerun"])
    assert alert.message.startswith("500 runs of one sweep")
    assert sorted(members(database, alert)) == names
    with database.read() as session:
        assert len(session.exec(select(OutboxMessage)).all()) == 1
    watch().look(NOW)
    assert len(found(database)) == 1


def test_few_failures_of_a_sweep_are_alerts_of_their_own(database: Database, watch: Watch) -> None:
    stored(database, *(run(f"r{number}", sweep_id="s") for number in range(5)))
    fail(database, *(f"r{number}" for number in range(5)))
    watch().look(NOW)
    assert len(found(database)) == 5


def test_many_failures_without_a_sweep_are_one_alert_and_one_message(database: Database, watch: Watch) -> None:
    database.writer.info[Recipients] = Recipients(("webhook:a",))
    names = [f"r{number:03}" for number in range(500)]
    stored(database, *(run(name) for name in names))
    made = watch()
    fail(database, *names)
    made.look(NOW)
    (alert,) = found(database)
    assert alert.message.startswith("500 runs without a sweep")
    assert sorted(members(database, alert)) == names
    with database.read() as session:
        assert len(session.exec(select(OutboxMessage)).all()) == 1


def test_failures_that_come_one_by_one_are_told_of_when_they_are_many(database: Database, watch: Watch) -> None:
    database.writer.info[Recipients] = Recipients(("webhook:a",))
    names = [f"r{number:03}" for number in range(rules.MOST_ALONE + 12)]
    stored(database, *(run(name, sweep_id="s") for name in names))
    made = watch()
    for name in names:
        fail(database, name)
        made.look(NOW)
    with database.read() as session:
        told = [str(message.payload["alert"]["message"]) for message in session.exec(select(OutboxMessage))]
    assert len(told) == rules.MOST_ALONE + 2
    assert told[-2].startswith("Another run of one sweep is in the same state")
    assert told[-1].startswith("10 runs of one sweep are in the same state")


def test_failures_that_come_one_by_one_join_after_a_few(database: Database, watch: Watch) -> None:
    names = [f"r{number:02}" for number in range(20)]
    stored(database, *(run(name, sweep_id="s") for name in names))
    made = watch()
    for name in names:
        fail(database, name)
        made.look(NOW)
    assert len(found(database)) == 6
    assert len(members(database, found(database)[-1])) == 15
    assert found(database)[-1].message.startswith("15 runs")


def test_failures_of_different_kinds_stay_apart(database: Database, watch: Watch) -> None:
    names = [f"r{number}" for number in range(12)]
    stored(database, *(run(name, sweep_id="s") for name in names))
    fail(database, *names[:6], reason=Reason.TIMEOUT)
    fail(database, *names[6:], reason=Reason.SIGNAL)
    watch().look(NOW)
    assert [len(members(database, alert)) for alert in found(database)] == [6, 6]


# -- what goes on ------------------------------------------------------------------------------------------------------


def stored_metric(database: Database, run_id: str, key: str = "loss", **fields: Any) -> None:
    def write(session: Session) -> None:
        row = session.get(Metric, (run_id, key)) or Metric(run_id=run_id, key=key, count=1)
        for name, value in fields.items():
            setattr(row, name, value)
        session.add(row)

    database.write(write)


def test_a_metric_that_becomes_nan_is_told_of_once_an_attempt(database: Database, watch: Watch) -> None:
    stored(database, run())
    stored_metric(database, "r1", last=0.5, updated_at=NOW)
    made = watch()
    made.look(NOW)
    assert found(database) == []
    stored_metric(database, "r1", last=None, nonfinite=1, updated_at=NOW)
    for _ in range(2):
        made.look(NOW)
    assert [alert.rule for alert in found(database)] == ["nonfinite"]
    change(database, "r1", attempt=2, started_at=NOW + 1)
    made.look(NOW + 2)  # the attempt is over: so is its alert
    assert [(alert.status, alert.response) for alert in found(database)] == [("resolved", None)]
    stored_metric(database, "r1", nonfinite=2, updated_at=NOW + 3)
    made.look(NOW + 4)
    assert [alert.status for alert in found(database)] == ["resolved", "pending"]


def test_no_progress_is_counted_from_the_watchs_start(database: Database, watch: Watch, tmp_path: Path) -> None:
    stored(database, run("quiet"), run("logging"), run("without"))
    for name in ("quiet", "logging"):
        stored_metric(database, name, last=1.0, updated_at=NOW - HOUR / 2)
        log_of(tmp_path, name, NOW - HOUR / 2)
    made = watch(no_progress_seconds=600.0)
    made.look(NOW + 590)
    assert found(database) == []
    os.utime(RunDir(tmp_path / "runs", "logging").attempt(1).log, (NOW + 500, NOW + 500))
    for moment in (610, 650):
        made.look(NOW + moment)
    assert [(alert.rule, alert.run_id) for alert in found(database)] == [("no_progress", "quiet")]


def test_a_run_that_was_suspended_has_time_to_go_on(database: Database, watch: Watch) -> None:
    stored(database, run(reason="SUSPENDED"))
    stored_metric(database, "r1", last=1.0, updated_at=NOW)
    made = watch(no_progress_seconds=600.0)
    made.look(NOW + 5000)
    change(database, "r1", reason=None)
    made.look(NOW + 5500)
    assert found(database) == []
    made.look(NOW + 5700)
    assert [alert.rule for alert in found(database)] == ["no_progress"]


def test_a_machine_that_slept_is_no_run_that_stood_still(database: Database, watch: Watch) -> None:
    held: dict[str, Any] = {"lease_gpus": 1, "gpus": [{"index": 0, "uuid": "GPU-0"}]}
    stored(database, run(**held))
    stored_metric(database, "r1", last=1.0, updated_at=NOW)
    made = watch(Probe(0), spacing=10.0, no_progress_seconds=600.0, idle_gpu_seconds=600.0)
    for moment in (10, 40, 70, 8 * HOUR, 8 * HOUR + 40):
        made.look(NOW + moment)
    assert found(database) == []
    for moment in range(70, 700, 40):
        made.look(NOW + 8 * HOUR + moment)
    assert sorted(alert.rule for alert in found(database)) == ["idle_gpu", "no_progress"]


def test_a_clock_that_was_set_back_is_begun_anew_with(database: Database, watch: Watch) -> None:
    stored(database, run(started_at=NOW - 3 * HOUR, lease_gpus=1, gpus=[{"index": 0, "uuid": "GPU-0"}]))
    probe = Probe(0)
    made = watch(probe, spacing=10.0, idle_gpu_seconds=100.0)
    made.look(NOW + 10)
    for moment in range(0, 160, 40):
        made.look(NOW - 2 * HOUR + moment)
    assert probe.asked == 5
    assert [alert.rule for alert in found(database)] == ["idle_gpu"]


def test_progress_resolves_its_alert_and_the_next_stall_is_another(
    database: Database, watch: Watch, tmp_path: Path
) -> None:
    stored(database, run())
    stored_metric(database, "r1", last=1.0, updated_at=NOW)
    made = watch(no_progress_seconds=600.0)
    made.look(NOW + 700)
    assert [alert.status for alert in found(database)] == ["pending"]
    log_of(tmp_path, "r1", NOW + 800)
    for moment in (900, 910):
        made.look(NOW + moment)
    assert [(alert.status, alert.response) for alert in found(database)] == [("resolved", None)]
    for moment in (1500, 1600):
        made.look(NOW + moment)
    assert [alert.status for alert in found(database)] == ["resolved", "pending"]


def test_a_stall_that_was_answered_is_told_of_again_only_after_progress(database: Database, watch: Watch) -> None:
    stored(database, run())
    stored_metric(database, "r1", last=1.0, updated_at=NOW)
    made = watch(no_progress_seconds=600.0)
    made.look(NOW + 700)

    def ignore(session: Session) -> None:
        (alert,) = session.exec(select(Alert)).all()
        alert.status, alert.response = "resolved", "ignore"
        session.add(alert)

    database.write(ignore)
    for moment in (1400, 2100):
        made.look(NOW + moment)
    watch(no_progress_seconds=600.0).look(NOW + 3000)
    assert len(found(database)) == 1
    stored_metric(database, "r1", updated_at=NOW + 3000)
    made.look(NOW + 3100)
    made.look(NOW + 3700)
    assert [alert.response for alert in found(database)] == ["ignore", None]


def test_gpus_that_are_used_again_resolve_their_alert_and_may_be_idle_again(database: Database, watch: Watch) -> None:
    stored(database, run(lease_gpus=1, gpus=[{"index": 0, "uuid": "GPU-0"}]))
    probe = Probe(0)
    made = watch(probe, idle_gpu_seconds=100.0)
    for load, first in ((0, 0), (80, 200), (0, 400)):
        probe.loads = (load,)
        for moment in range(first, first + 160, 40):
            made.look(NOW + moment)
    assert [(alert.rule, alert.status) for alert in found(database)] == [
        ("idle_gpu", "resolved"),
        ("idle_gpu", "pending"),
    ]


def test_gpus_that_stay_idle_are_told_of_and_seldom_asked(database: Database, watch: Watch) -> None:
    held: dict[str, Any] = {"lease_gpus": 2, "gpus": [{"index": 0, "uuid": "GPU-0"}, {"index": 1, "uuid": "GPU-1"}]}
    stored(database, run("here", **held), run("there", executor="slurm", **held), run("without"))
    probe = Probe(0, 3)
    made = watch(probe, idle_gpu_seconds=100.0)
    for moment in range(0, 96, 5):
        made.look(NOW + moment)
    assert (probe.asked, found(database)) == (4, [])
    made.look(NOW + 125)
    assert [(alert.rule, alert.run_id) for alert in found(database)] == [("idle_gpu", "here")]


def test_gpus_of_which_one_works_are_not_idle(database: Database, watch: Watch) -> None:
    stored(database, run(lease_gpus=2, gpus=[{"uuid": "GPU-0"}, {"uuid": "GPU-1"}]))
    made = watch(Probe(0, 80), idle_gpu_seconds=100.0)
    for moment in (0, 60, 120, 180):
        made.look(NOW + moment)
    assert found(database) == []


def test_no_gpu_is_asked_while_no_run_holds_one(database: Database, watch: Watch) -> None:
    stored(database, run())
    probe = Probe(0)
    watch(probe).look(NOW)
    assert probe.asked == 0


# -- what waits --------------------------------------------------------------------------------------------------------


def test_waiting_too_long_is_told_in_the_words_of_why(database: Database, watch: Watch) -> None:
    stored(database, run("r1", "queued", reason="GPU_WAIT"), run("held", "queued", reason="HELD", held=True))
    made = watch(pending_seconds=2 * HOUR)
    made.look(NOW)
    assert found(database) == []
    for moment in (HOUR + 1, HOUR + 10):
        made.look(NOW + moment)
    (alert,) = found(database)
    assert (alert.rule, alert.run_id, alert.choices) == ("pending", "r1", ["ignore", "stop"])
    assert "The GPUs are in use." in alert.message


def test_a_run_that_was_put_back_waits_from_then_on(database: Database, watch: Watch) -> None:
    stored(database, run("r1", "queued", attempt=2, history=[{"attempt": 1, "ended_at": NOW}]))
    made = watch(pending_seconds=600.0)
    made.look(NOW + 500)
    assert found(database) == []
    made.look(NOW + 700)
    assert len(found(database)) == 1


def steered(database: Database, run_id: str, at: float, **fields: Any) -> None:
    """The loop, or somebody, changes what a run waits for."""

    def write(session: Session) -> None:
        row = session.exec(select(Run).where(col(Run.id) == run_id)).one()
        journal.change(session, row, SERVICE, "run.queued", f"run:{run_id}", fields)
        next(event for event in session.new if isinstance(event, Event)).at = at

    database.write(write)


@pytest.mark.parametrize("reason", sorted(rules.ON_PURPOSE - {Reason.STOPPING}))
def test_a_wait_that_somebody_wanted_counts_from_its_end_on_over_restarts(
    database: Database, watch: Watch, reason: Reason
) -> None:
    stored(database, run("r1", "queued", reason=str(reason), queued_at=NOW - 100 * HOUR))
    made = watch(pending_seconds=600.0)
    made.look(NOW)
    steered(database, "r1", NOW, reason="CPU_WAIT")
    for look in (made.look, made.look, watch(pending_seconds=600.0).look):
        look(NOW + 500)
    assert found(database) == []
    made.look(NOW + 650)
    (alert,) = found(database)
    assert "has been queued for 11 min." in alert.message


def test_a_run_that_was_released_has_time_to_start(database: Database, watch: Watch) -> None:
    stored(database, run("r1", "queued", reason="SLURM_WAIT", held=True, queued_at=NOW - HOUR, executor="slurm"))
    steered(database, "r1", NOW, held=False)
    made = watch(pending_seconds=600.0)
    made.look(NOW + 500)
    assert found(database) == []
    made.look(NOW + 650)
    assert len(found(database)) == 1


def test_a_run_that_its_user_has_slurm_keep_has_time_afterwards(database: Database, watch: Watch) -> None:
    stored(database, run("r1", "queued", reason="SLURM_WAIT", executor="slurm", queued_at=NOW - HOUR))
    said = {"r1": {"state": "PENDING", "reason": "BeginTime"}}
    made = watch(pending_seconds=600.0, shown=lambda: said)
    made.look(NOW)
    said["r1"] = {"state": "PENDING", "reason": "Priority"}
    made.look(NOW + 500)
    assert found(database) == []
    made.look(NOW + 650)
    assert len(found(database)) == 1


def test_waiting_is_told_of_once_whatever_the_number_of_its_attempt(database: Database, watch: Watch) -> None:
    stored(database, run("r1", "queued", attempt=0))
    made = watch(pending_seconds=600.0)
    made.look(NOW)
    change(database, "r1", attempt=3)  # handed over and taken back
    made.look(NOW)
    assert [alert.status for alert in found(database)] == ["pending"]


def test_a_sweep_that_waits_is_one_alert_that_is_over_when_none_waits(database: Database, watch: Watch) -> None:
    names = [f"r{number}" for number in range(8)]
    stored(database, *(run(name, "queued", sweep_id="s", reason="GPU_WAIT") for name in names))
    made = watch(pending_seconds=600.0)
    made.look(NOW)
    (alert,) = found(database)
    assert alert.message.startswith("8 runs")
    for name in names[1:]:
        change(database, name, status="running")
    made.look(NOW)
    assert found(database)[0].status == "pending"
    change(database, "r0", status="stopped")
    made.look(NOW)
    (alert,) = found(database)
    assert (alert.status, alert.response, alert.responded_at) == ("resolved", None, None)
    assert alert.outcome == {"moot": "What it tells of is over."}
    with database.read() as session:
        last = session.exec(select(Event).order_by(col(Event.id).desc()).limit(1)).one()
    assert (last.kind, last.actor, last.subject) == ("alert.resolved", "service", f"alert:{alert.id}")


def test_a_look_that_finds_nothing_writes_nothing(database: Database, watch: Watch) -> None:
    stored(database, run(), run("r2", "queued"))
    made, before = watch(), database.writer.commits
    made.look(NOW)
    assert database.writer.commits == before
