"""Moves of a run, as they are stored: what was seen late is dated when it was."""

import time
from functools import partial

import pytest
from sqlmodel import Session

from orchestrator import ids, runs
from orchestrator.db import Database
from orchestrator.journal import move
from orchestrator.models import Run
from orchestrator.states import Move, RunStatus


def make(session: Session, run_id: str, made: Move) -> None:
    move(session, runs.get(session, run_id), made)


def moved(database: Database, *moves: Move) -> Run:
    """A queued run after these moves."""
    run_id = ids.run_id()
    queued = Run(id=run_id, name="r", command="true", status="queued", executor="slurm", queued_at=time.time())
    database.write(lambda session: session.add(queued))
    for made in moves:
        database.write(partial(make, run_id=run_id, made=made))
    with database.read() as session:
        return runs.get(session, run_id)


def test_a_run_is_launched_when_that_is_seen(database: Database) -> None:
    before = time.time()
    run = moved(database, Move(RunStatus.LAUNCHING), Move(RunStatus.RUNNING))
    assert run.launched_at is not None
    assert run.started_at is not None
    assert before <= run.launched_at <= run.started_at <= time.time()


@pytest.mark.parametrize(
    "moves",
    [
        [Move(RunStatus.LAUNCHING), Move(RunStatus.RUNNING, fields={"started_at": 5.0})],
        [Move(RunStatus.LAUNCHING), Move(RunStatus.FINISHED, fields={"started_at": 5.0, "ended_at": 6.0})],
        [Move(RunStatus.FINISHED, fields={"started_at": 5.0, "ended_at": 6.0})],
    ],
)
def test_no_run_begins_before_it_was_launched_however_late_either_was_seen(
    database: Database, moves: list[Move]
) -> None:
    run = moved(database, *moves)
    assert (run.launched_at, run.started_at) == (5.0, 5.0)
