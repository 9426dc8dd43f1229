"""What runs have used, summed: by UTC day, what is going on included, what nobody started left out."""

import time
from typing import Any

from orchestrator import usage
from orchestrator.db import Database
from orchestrator.models import Run
from tests.support.usage import EXPECTED_DAYS, days, ended, stored

BEGAN = 7200.0  # seconds ago


def going_on(number: int = 1, **columns: Any) -> Run:
    told = {"status": "running", "started_at": time.time() - BEGAN, "elapsed_seconds": 0.0, "gpu_seconds": 0.0}
    return ended(number, **{**told, "cpu_seconds_given": 0.0, "cpu_seconds": None, **columns})


def totals(database: Database, by: usage.By = "status", **wanted: Any) -> dict[str, Any]:
    with database.read() as session:
        return usage.totals(session, by, usage.Wanted(**wanted))


def total(database: Database, **wanted: Any) -> tuple[int, float, float, float, float]:
    """Runs, and whole hours: elapsed, of GPUs, of CPUs given and used."""
    found = totals(database, **wanted)["total"]
    return (found["runs"], *(round(found[name], 1) for name in usage.NAMES))


def test_a_run_counts_to_the_utc_day_on_which_it_was_made_whatever_the_hour(database: Database) -> None:
    assert days(database) == EXPECTED_DAYS


def test_runs_that_nobody_has_started_are_no_runs_in_the_sums(database: Database) -> None:
    stored(database, ended(1), ended(2, status="ready", elapsed_seconds=0.0))
    assert [(row["key"], row["runs"]) for row in totals(database)["rows"]] == [("finished", 1)]
    assert totals(database)["total"]["runs"] == 1


def test_a_run_that_is_going_on_counts_what_it_has_been_given_so_far(database: Database) -> None:
    stored(database, going_on(resources={"gpus": 2, "nodes": 3}, cpus=4))
    assert total(database) == (1, 2.0, 2.0 * 6, 2.0 * 12, 0.0)


def test_what_its_ended_attempts_were_given_counts_besides(database: Database) -> None:
    before: dict[str, Any] = {
        "elapsed_seconds": 3600.0,
        "gpu_seconds": 7200.0,
        "cpu_seconds_given": 10_800.0,
        "cpu_seconds": 1800.0,
    }
    stored(database, going_on(resources={"gpus": 1}, cpus=1, **before))
    assert total(database) == (1, 3.0, 4.0, 5.0, 0.5)


def test_what_slurm_has_given_goes_before_what_was_asked_for(database: Database) -> None:
    tres = "cpu=16,mem=1G,node=2,gres/gpu=8"
    stored(database, going_on(resources={"gpus": 1, "nodes": 2}, cpus=1, scheduler={"tres": tres}))
    assert total(database) == (1, 2.0, 16.0, 32.0, 0.0)


def test_gpus_that_were_leased_count_as_many_as_they_are(database: Database) -> None:
    stored(database, going_on(gpus=[{"index": 0}, {"index": 1}], cpus=1))
    assert total(database) == (1, 2.0, 4.0, 2.0, 0.0)


def test_an_attempt_that_has_not_begun_has_been_given_nothing(database: Database) -> None:
    stored(database, going_on(1, status="launching", started_at=None), going_on(2, status="queued", started_at=None))
    assert total(database) == (2, 0.0, 0.0, 0.0, 0.0)


def test_only_the_wanted_runs_that_go_on_count(database: Database) -> None:
    stored(database, going_on(1, sweep_id="a", cpus=1), going_on(2, sweep_id="b", cpus=1, created_at=50.0))
    assert total(database, sweep_id="a") == (1, 2.0, 0.0, 2.0, 0.0)
    assert total(database, since=10.0) == (1, 2.0, 0.0, 2.0, 0.0)
    assert total(database, until=10.0, plan_id="p") == (0, 0.0, 0.0, 0.0, 0.0)
    assert [(row["key"], row["runs"]) for row in totals(database, "sweep")["rows"]] == [("a", 1), ("b", 1)]
