"""Time limits, and the signal before them. The runs have begun long before (``long_runs``): these tests come last."""

import pytest

from tests.support.service import Json, RealServer

pytestmark = pytest.mark.acceptance
LATEST = 150.0  # a minute's limit, half a minute until slurmctld looks, KillWait, and another attempt's start


def test_a_run_at_its_time_limit_fails_as_such(orc: RealServer, long_runs: dict[str, str]) -> None:
    run = orc.over(long_runs["limit"], LATEST)
    assert (run["status"], run["reason"]) == ("failed", "TIMEOUT")
    assert run["elapsed_seconds"] >= 55
    assert orc.log(run["id"]).startswith("begun\n")


def test_a_command_that_ignores_term_ends_at_its_time_limit_too(orc: RealServer, long_runs: dict[str, str]) -> None:
    run = orc.over(long_runs["ignores"], LATEST)
    assert (run["status"], run["reason"]) == ("failed", "TIMEOUT")


def test_the_shell_that_traps_it_gets_the_signal_before_its_limit(orc: RealServer, long_runs: dict[str, str]) -> None:
    run = orc.over(long_runs["trap"], LATEST)
    assert _warned(orc, run) == "warned\n"


def test_a_child_of_a_plain_shell_gets_the_signal_and_the_shell_goes_on(
    orc: RealServer, long_runs: dict[str, str]
) -> None:
    run = orc.over(long_runs["child"], LATEST)
    assert _warned(orc, run) == "plain\nwarned\nafter\n"


def _warned(orc: RealServer, run: Json) -> str:
    assert (run["status"], run["exit_code"]) == ("finished", 0)
    # slurmctld may be up to a minute early with it (sbatch(1), --signal).
    assert run["elapsed_seconds"] < 55
    return orc.log(run["id"])


def test_a_command_that_does_not_catch_the_signal_is_not_ended_by_it(
    orc: RealServer, long_runs: dict[str, str]
) -> None:
    run = orc.over(long_runs["uncaught"], LATEST)
    assert (run["reason"], run["elapsed_seconds"] >= 55) == ("TIMEOUT", True)


def test_no_signal_comes_that_nobody_asked_for(orc: RealServer, long_runs: dict[str, str]) -> None:
    run = orc.over(long_runs["unasked"], LATEST)
    assert run["reason"] == "TIMEOUT"
    assert "warned" not in orc.log(run["id"])


def test_a_time_limit_is_followed_by_a_retry_where_asked(orc: RealServer, long_runs: dict[str, str]) -> None:
    run = orc.over(long_runs["retried"], LATEST)
    assert (run["status"], run["attempt"]) == ("finished", 2)
    assert run["history"][0]["reason"] == "TIMEOUT"


def test_a_signal_without_a_time_limit_is_refused(orc: RealServer) -> None:
    status, detail = orc.refused("POST", "/runs", {"name": "t", "command": "true", "signal": "USR1@30"})
    assert (status, "resources.time" in str(detail)) == (422, True)
