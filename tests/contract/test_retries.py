"""The runs' own policy: which ends are followed by another attempt, and when not."""

from pathlib import Path
from typing import Any

import pytest

from tests.contract.looking import mark, marks, said, until_file
from tests.support.service import Json, RealServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def end_of(orc: RealServer, command: str, **policy: Any) -> Json:
    return orc.over(orc.run(command, retry=policy)["id"], 60)


def test_an_exit_code_of_the_policy_is_tried_again_until_it_goes_well(orc: RealServer) -> None:
    run = end_of(orc, "echo $ORC_ATTEMPT; [ $ORC_ATTEMPT = 3 ] || exit 7", max=3, exit_codes=[7])
    assert (run["status"], run["attempt"], run["retries"]) == ("finished", 3, 2)
    assert [past["exit_code"] for past in run["history"]] == [7, 7, 0]
    assert (Path(run["run_dir"]) / "attempts/2/output.log").read_text() == "2\n"


def test_a_retry_is_another_job(orc: RealServer) -> None:
    run = end_of(orc, "[ $ORC_ATTEMPT = 2 ] || exit 7", max=1, exit_codes=[7])
    assert len({past["job_id"] for past in run["history"]}) == 2


def test_another_exit_code_is_not_tried_again(orc: RealServer) -> None:
    run = end_of(orc, "exit 8", max=3, exit_codes=[7])
    assert (run["status"], run["reason"], run["attempt"]) == ("failed", "NONZERO_EXIT", 1)


def test_any_exit_code_is_tried_again_where_the_policy_says_so(orc: RealServer) -> None:
    run = end_of(orc, "[ $ORC_ATTEMPT = 2 ] || exit 8", max=1, on=["NONZERO_EXIT"])
    assert (run["status"], run["attempt"]) == ("finished", 2)


def test_a_signal_is_tried_again_where_the_policy_says_so(orc: RealServer) -> None:
    run = end_of(orc, "[ $ORC_ATTEMPT = 2 ] || exec bash -c 'kill -SEGV $$'", max=1, on=["SIGNAL"])
    assert (run["status"], run["attempt"]) == ("finished", 2)
    assert run["history"][0]["reason"] == "SIGNAL"


def test_a_success_is_not_tried_again(orc: RealServer, files: Path) -> None:
    run = end_of(orc, mark(files / "marks"), max=3, on=["NONZERO_EXIT", "SIGNAL", "LOST"])
    assert (run["status"], run["attempt"], len(marks(files / "marks"))) == ("finished", 1, 1)


def test_retries_end_after_so_many(orc: RealServer, files: Path) -> None:
    run = end_of(orc, f"{mark(files / 'marks')}; exit 7", max=2, exit_codes=[7])
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "NONZERO_EXIT", 7)
    assert (run["attempt"], run["retries"]) == (3, 2)
    assert marks(files / "marks") == [f"{run['id']} {attempt}" for attempt in (1, 2, 3)]


def test_a_retry_waits_as_long_as_asked(orc: RealServer) -> None:
    run = orc.run("[ $ORC_ATTEMPT = 2 ] || exit 7", retry={"max": 1, "exit_codes": [7], "delay_seconds": 3})
    first, second = orc.over(run["id"], 60)["history"]
    waited = [event["after"] for event in orc.events(run["id"]) if (event["after"] or {}).get("reason") == "RETRYING"]
    assert {change.get("status", "queued") for change in waited} == {"queued"}  # told where it was another before
    assert second["started_at"] - first["ended_at"] >= 3


def test_a_run_stopped_while_it_waits_for_its_retry_does_not_begin_again(orc: RealServer, files: Path) -> None:
    policy = {"max": 1, "exit_codes": [7], "delay_seconds": 600}
    run = orc.run(f"{mark(files / 'marks')}; exit 7", retry=policy)
    wait_until(lambda: orc.get(f"/runs/{run['id']}")["reason"] == "RETRYING", "the reason RETRYING")
    orc.post(f"/runs/{run['id']}/stop")
    over = orc.over(run["id"])
    assert (over["status"], over["reason"]) == ("stopped", "CANCELLED")
    assert len(marks(files / "marks")) == 1


def test_a_stop_is_not_followed_by_a_retry(orc: RealServer) -> None:
    run = orc.run("sleep 600", retry={"max": 3, "on": ["SIGNAL", "NONZERO_EXIT", "LOST"]})
    orc.until(run["id"], "running")
    orc.post(f"/runs/{run['id']}/stop")
    over = orc.over(run["id"])
    assert (over["status"], over["attempt"]) == ("stopped", 1)
    assert said(orc, run["id"], "run.stopped")


@pytest.mark.parametrize("again", ["requeued", "retried"])
def test_a_run_with_a_snapshot_runs_the_code_it_was_submitted_with(orc: RealServer, files: Path, again: str) -> None:
    (files / "code.txt").write_text("old\n")
    edited, code = files.with_name(f"{files.name}-edited"), 99 if again == "requeued" else 7
    run = orc.run(
        f"cat code.txt; [ $ORC_ATTEMPT = 2 ] || {{ {until_file(edited)}; exit {code}; }}",
        workdir=str(files),
        snapshot=True,
        retry={"max": 1, "exit_codes": [7]},
    )
    orc.until(run["id"], "running")
    (files / "code.txt").write_text("new\n")
    edited.touch()
    over = orc.over(run["id"], 60)
    assert (over["status"], over["attempt"], orc.log(run["id"])) == ("finished", 2, "old\n")
