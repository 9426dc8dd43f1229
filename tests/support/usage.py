"""Runs of known lengths, and how they are summed up by day: alike on every database."""

from typing import Any

from sqlmodel import Session

from orchestrator import usage
from orchestrator.db import Database
from orchestrator.models import Run

DAY = 86_400.0
MIDNIGHT = 20_000 * DAY
WITHIN_A_DAY = (0.0, 1.0, DAY / 2, DAY / 2 + 1, DAY - 0.5)


def stored(database: Database, *runs: Run) -> None:
    """Puts the runs into a database."""

    def write(session: Session) -> None:
        session.add_all(runs)

    database.write(write)


def ended(number: int, **columns: Any) -> Run:
    """A run that had one GPU and two CPUs for an hour."""
    used = {"elapsed_seconds": 3600.0, "gpu_seconds": 3600.0, "cpu_seconds_given": 7200.0, "cpu_seconds": 1800.0}
    return Run(**{"id": f"r{number}", "name": "x", "command": "true", "status": "finished", **used, **columns})


def days(database: Database) -> list[tuple[int, int, float]]:
    """Day (its midnight), runs and GPU-hours of runs from all hours of one day, and of the midnight after it."""
    moments = [MIDNIGHT + seconds for seconds in (*WITHIN_A_DAY, DAY)]
    stored(database, *(ended(number, created_at=moment) for number, moment in enumerate(moments)))
    with database.read() as session:
        found = usage.totals(session, "day", usage.Wanted())
    return [(row["key"], row["runs"], row["gpu_hours"]) for row in found["rows"]]


EXPECTED_DAYS = [(int(MIDNIGHT), 5, 5.0), (int(MIDNIGHT + DAY), 1, 1.0)]
