"""Used against asked: shares of what was asked for or given, and none where there is nothing to hold them against."""

import pytest

from orchestrator.efficiency import Used, shares

HALF = Used(cpu_seconds=30.0, cpu_seconds_given=60.0, peak_memory_bytes=512 * 2**20, elapsed_seconds=30.0)


def test_shares_of_what_was_asked_for() -> None:
    assert shares(HALF, {"mem": "1G", "time": 1}, None) == {"cpu": 0.5, "memory": 0.5, "time": 0.5}


def test_memory_that_the_cluster_gave_unasked_counts_by_node() -> None:
    assert shares(HALF, {}, {"tres": "cpu=2,mem=2G,node=2,billing=2"})["memory"] == 0.5


def test_what_was_asked_for_goes_before_what_was_given() -> None:
    assert shares(HALF, {"mem": "2G"}, {"tres": "cpu=2,mem=8G,node=1"})["memory"] == 0.25


@pytest.mark.parametrize("scheduler", [None, {}, {"tres": None}, {"tres": "N/A"}])
def test_without_a_limit_there_is_no_share(scheduler: dict[str, str | None] | None) -> None:
    assert shares(HALF, {}, scheduler) == {"cpu": 0.5, "memory": None, "time": None}


def test_what_was_not_measured_has_no_share() -> None:
    nothing = Used(None, 0.0, None, None)
    assert shares(nothing, {"mem": "1G", "time": 1}, None) == {"cpu": None, "memory": None, "time": None}


def test_more_than_was_asked_for_is_more_than_one() -> None:
    assert shares(Used(90.0, 60.0, 2**30, 90.0), {"mem": "512M", "time": 1}, None) == {
        "cpu": 1.5,
        "memory": 2.0,
        "time": 1.5,
    }
