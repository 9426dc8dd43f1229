"""A plan's budget: reserved before, settled after, warned of, and ended when it is used up."""

import time
from typing import Any

import pytest
from sqlmodel import Session, col, select

from orchestrator.access import Identity
from orchestrator.admission import Admission, gpu_seconds, spent
from orchestrator.db import Database
from orchestrator.drafts import Draft
from orchestrator.errors import BadInput, OutsidePlan
from orchestrator.models import Alert, Event, Plan, Run
from orchestrator.plankeeper import PlanKeeper
from orchestrator.planning.bounds import Bounds, Budget
from orchestrator.shapes import RunCreate
from orchestrator.terms import Terms

ME = Identity("me", frozenset({"admin"}))
HALF = {"gpus": 1, "time": 30}


def plan(database: Database, **budget: Any) -> None:
    bounds = Bounds(commands=["true"], budget=Budget(**budget)).public()
    made = Plan(id="p", title="t", goal="g", status="executing", executed_at=time.time(), bounds=bounds)
    database.write(lambda session: session.add(made))


def draft(resources: dict[str, Any], lease: int = 0) -> Draft:
    columns = {"executor": "slurm" if not lease else "local", "resources": resources, "lease_gpus": lease}
    terms = Terms(columns["executor"], lease, False, 1, columns)  # type: ignore[arg-type]
    return Draft(RunCreate(name="x", command="true"), terms, "/")


def stored(session: Session, number: int, reserved: float = 0.0, **columns: Any) -> None:
    run = {"id": f"r{number}", "name": "x", "command": "true", "plan_id": "p", "created_at": time.time(), **columns}
    session.add(Run(reserved_gpu_seconds=reserved, **run))


def admitted(database: Database, *drafts: Draft) -> list[dict[str, Any]]:
    def write(session: Session) -> list[dict[str, Any]]:
        admission, of = Admission(session, ME), session.exec(select(Plan)).one()
        made = [admission.admit(of, one) for one in drafts]
        admission.settle()
        return made

    return database.write(write)


@pytest.mark.parametrize(
    ("columns", "seconds"),
    [
        ({"resources": {"gpus": 2, "time": "1:00:00"}}, 7200.0),
        ({"resources": {"gpus": 2, "nodes": 3, "time": 10}}, 3600.0),
        ({"resources": {"time": 10}, "lease_gpus": 1}, 600.0),
        ({"resources": {"time": 10}}, 0.0),
        ({"resources": {}}, 0.0),
        ({"resources": {"gpus": 1, "time": 0.5}}, 60.0),
        ({"resources": {"gpus": 1}}, None),
        ({"resources": {}, "lease_gpus": 1}, None),
    ],
)
def test_gpus_times_time_is_reserved(columns: dict[str, Any], seconds: float | None) -> None:
    assert gpu_seconds(columns, 1) == seconds


def test_what_is_reserved_by_one_is_not_there_for_the_next(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    assert [made["reserved_gpu_seconds"] for made in admitted(database, draft(HALF), draft(HALF))] == [1800.0, 1800.0]
    with pytest.raises(OutsidePlan) as caught:
        admitted(database, draft(HALF), draft(HALF), draft(HALF))
    assert caught.value.diff == [{"field": "budget.gpu_hours", "plan": 1.0, "asked": 1.5}]
    assert caught.value.amendment == {"budget": {"gpu_hours": 1.5}}


def test_what_runs_have_reserved_counts_until_they_end_with_what_they_used(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    for number in range(2):
        database.write(lambda session: stored(session, number, 1800.0, status="running"))  # noqa: B023
    with pytest.raises(OutsidePlan):
        admitted(database, draft(HALF))

    def ends(session: Session) -> None:
        run = session.exec(select(Run).where(Run.id == "r0")).one()
        run.status, run.gpu_seconds = "finished", 60.0

    database.write(ends)
    assert admitted(database, draft(HALF | {"time": 29}))
    with pytest.raises(OutsidePlan):
        admitted(database, draft(HALF))


def test_what_was_made_before_the_approval_or_put_away_unstarted_does_not_count(database: Database) -> None:
    plan(database, gpu_hours=1.0)

    def older(session: Session) -> None:
        session.exec(select(Plan)).one().approved_at = time.time() - 10
        stored(session, 0, 3600.0, status="running", created_at=time.time() - 60)
        stored(session, 1, 3600.0, status="ready", is_archived=True)

    database.write(older)
    assert admitted(database, draft(HALF), draft(HALF))


def test_earlier_attempts_count_with_what_they_used(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    database.write(lambda session: stored(session, 0, 1800.0, status="queued", gpu_seconds=1000.0))
    with database.read() as session:
        found = spent(session, session.exec(select(Plan)).one())
    assert (found.runs, found.gpu_seconds, found.reserved) == (1, 1000.0, 1800.0)


def test_a_run_without_a_time_limit_cannot_be_reserved_for(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    with pytest.raises(BadInput, match="required of each run"):
        admitted(database, draft({"gpus": 1}))
    assert admitted(database, draft({}))


def test_gpus_that_are_asked_for_in_slurms_own_words_cannot_be_counted(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    with pytest.raises(BadInput, match="uncounted"):
        admitted(database, draft({"time": 30, "slurm": {"gpus-per-task": 2}}))
    with pytest.raises(BadInput, match="uncounted"):
        admitted(database, draft({"gpus": 4, "time": 30, "slurm": {"ntasks": 16}}))
    for more in ({"exclusive": True}, {"nodelist": "n1,n2"}):
        with pytest.raises(BadInput, match="must say what it gets"):
            admitted(database, draft({"gpus": 1, "time": 30, **more}))


def test_nothing_starts_when_the_time_is_over(database: Database) -> None:
    plan(database, wall_seconds=60.0)

    def long_ago(session: Session) -> None:
        session.exec(select(Plan)).one().executed_at = time.time() - 61

    assert admitted(database, draft({}))
    database.write(long_ago)
    with pytest.raises(OutsidePlan) as caught:
        admitted(database, draft({}))
    assert caught.value.diff[0]["field"] == "budget.wall_time"  # type: ignore[index]


# -- what goes on ------------------------------------------------------------------------------------------------------


def going(database: Database, hours: float, **columns: Any) -> None:
    """A run that has held one GPU for so long, and another that waits."""
    began = {"status": "running", "started_at": time.time() - hours * 3600, "resources": {"gpus": 1}}

    def write(session: Session) -> None:
        stored(session, 0, 1800.0, **(began | columns))
        stored(session, 1, 1800.0, status="queued")
        stored(session, 2, 1800.0, status="ready")

    database.write(write)


def state(database: Database) -> tuple[list[tuple[str, bool]], list[str]]:
    with database.read() as session:
        runs = session.exec(select(Run).order_by(Run.id)).all()
        alerts = session.exec(select(Alert).order_by(Alert.id)).all()
        return [(run.status, run.stop_requested_at is not None) for run in runs], [alert.severity for alert in alerts]


UNTOUCHED = [("running", False), ("queued", False), ("ready", False)]
ENDED = [("running", True), ("stopped", False), ("ready", False)]


def test_within_its_budget_a_plan_is_left_alone(database: Database) -> None:
    plan(database, gpu_hours=2.0, wall_seconds=1e6)
    going(database, 0.5)
    PlanKeeper(database, 0.8).once()
    assert state(database) == (UNTOUCHED, [])


def test_a_budget_that_runs_out_is_warned_of_once(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    going(database, 0.9)
    for _ in range(3):
        PlanKeeper(database, 0.8).once()
    assert state(database) == (UNTOUCHED, ["warning"])


def standing(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        alerts = session.exec(select(Alert).order_by(col(Alert.seq))).all()
        return [(alert.severity, alert.status) for alert in alerts]


def test_a_warning_of_a_budget_is_over_when_the_budget_is_raised(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    going(database, 0.9)
    PlanKeeper(database, 0.8).once()
    assert standing(database) == [("warning", "pending")]

    def raise_it(session: Session) -> None:
        session.exec(select(Plan)).one().bounds = Bounds(budget=Budget(gpu_hours=10.0)).public()

    database.write(raise_it)
    PlanKeeper(database, 0.8).once()
    assert standing(database) == [("warning", "resolved")]


def test_a_warning_of_a_budget_is_over_when_it_is_used_up_which_waits_for_its_answer(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    going(database, 0.9)
    PlanKeeper(database, 0.8).once()

    def use(session: Session) -> None:
        for run in session.exec(select(Run)):
            run.started_at = run.started_at and run.started_at - 3600

    def end(session: Session) -> None:
        session.exec(select(Plan)).one().status = "completed"
        for run in session.exec(select(Run)):
            run.status, run.gpu_seconds = "finished", 3600.0

    database.write(use)
    PlanKeeper(database, 0.8).once()
    PlanKeeper(database, 0.8).once()
    assert standing(database) == [("warning", "resolved"), ("critical", "pending")]
    database.write(end)
    PlanKeeper(database, 0.8).once()
    assert standing(database) == [("warning", "resolved"), ("critical", "pending")]


def test_a_warning_of_a_budget_is_over_when_the_plan_ends_in_time(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    going(database, 0.9)
    PlanKeeper(database, 0.8).once()

    def end(session: Session) -> None:
        session.exec(select(Plan)).one().status = "completed"
        for run in session.exec(select(Run)):
            run.status, run.gpu_seconds = "finished", 1080.0

    database.write(end)
    PlanKeeper(database, 0.8).once()
    assert standing(database) == [("warning", "resolved")]


def test_when_it_is_used_up_its_runs_are_stopped_gracefully_and_told_why(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    going(database, 1.01)
    for _ in range(3):
        PlanKeeper(database, 0.8).once()
    assert state(database) == (ENDED, ["critical"])
    with database.read() as session:
        words = [event.message for event in session.exec(select(Event)) if event.kind.startswith("run.stop")]
    assert len(words) == 2
    assert all("used up: 1.01 of 1 GPU-hours" in text for text in words)


def test_what_ended_attempts_used_is_used(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    going(database, 0.4, gpu_seconds=2400.0)
    PlanKeeper(database, 0.8).once()
    assert state(database)[0] == ENDED


def test_when_its_time_is_over_its_runs_are_stopped(database: Database) -> None:
    plan(database, wall_seconds=60.0)
    going(database, 0.1, queued_at=time.time() - 61)
    PlanKeeper(database, 0.0).once()
    assert state(database) == (ENDED, [])


def test_a_completed_plans_runs_that_are_run_again_are_held_to_its_budget_too(database: Database) -> None:
    plan(database, gpu_hours=1.0)
    going(database, 1.01)

    def complete(session: Session) -> None:
        session.exec(select(Plan)).one().status = "completed"

    database.write(complete)
    PlanKeeper(database, 0.8).once()
    assert state(database) == (ENDED, ["critical"])


def test_a_plan_without_a_budget_has_none_to_keep(database: Database) -> None:
    plan(database)
    going(database, 1000.0)
    PlanKeeper(database, 0.8).once()
    assert state(database) == (UNTOUCHED, [])
