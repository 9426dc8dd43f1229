"""Runs while the controller, slurmdbd or our own server is away, and what was lost then."""

from pathlib import Path

import pytest

from tests.contract.looking import (
    begun,
    controller_away,
    database_away,
    degraded,
    executing,
    in_slurm,
    job_of,
    mark,
    marks,
    said,
    show,
    until_file,
)
from tests.support.service import Json, RealServer
from tests.support.sites import Site, Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def well(orc: RealServer) -> None:
    wait_until(lambda: not degraded(orc), "Slurm answers again", 90)


def kill_and_start(slurm: Slurm) -> None:
    slurm.kill_controller()
    slurm.start_controller()


def test_running_runs_keep_their_state_while_the_controller_is_away(orc: RealServer, slurm: Slurm, files: Path) -> None:
    run_ids = [str(orc.run(until_file(files / name))["id"]) for name in ("go", "later")]
    begun(orc, run_ids)
    with controller_away(slurm):
        wait_until(lambda: degraded(orc), "degraded", 60)
        assert [orc.status(run_id) for run_id in run_ids] == ["running", "running"]
        (files / "go").touch()
        ended = orc.over(run_ids[0])  # one that ends well needs no word of Slurm's
        assert (ended["status"], ended["exit_code"], orc.status(run_ids[1])) == ("finished", 0, "running")
    (files / "later").touch()
    assert orc.over(run_ids[1], 90)["status"] == "finished"
    well(orc)


def test_a_failure_while_the_controller_is_away_is_told_when_it_is_back(
    orc: RealServer, slurm: Slurm, files: Path
) -> None:
    run = orc.until(orc.run(f"{until_file(files / 'go')}; exit 5")["id"], "running")
    with controller_away(slurm):
        (files / "go").touch()
        wait_until((Path(run["run_dir"]) / "attempts/1/exit.json").exists, "the exit record")
    over = orc.over(run["id"], 90)
    assert (over["status"], over["reason"], over["exit_code"]) == ("failed", "NONZERO_EXIT", 5)
    well(orc)


def test_submissions_wait_for_the_controller_and_go_out_when_it_is_back(
    orc: RealServer, slurm: Slurm, files: Path
) -> None:
    with controller_away(slurm):
        run_ids = [str(orc.run(mark(files / "marks"))["id"]) for _ in range(2)]
        for run_id in run_ids:
            wait_until(lambda: orc.get(f"/runs/{run_id}")["reason"] == "CLUSTER_DEGRADED", "CLUSTER_DEGRADED", 60)  # noqa: B023
        assert degraded(orc)
    assert {orc.over(run_id, 90)["status"] for run_id in run_ids} == {"finished"}
    assert len(marks(files / "marks")) == 2
    well(orc)


def test_a_running_job_that_the_controller_forgot_ends_well_and_executes_once(
    orc: RealServer, slurm: Slurm, files: Path, settled: None
) -> None:
    run = executing(orc, orc.run(f"{mark(files / 'marks')}; {until_file(files / 'go')}")["id"], files / "marks")
    slurm.kill_controller()
    (files / "go").touch()  # now: one that knows it not ends it as soon as its node has registered
    wait_until((Path(run["run_dir"]) / "attempts/1/exit.json").exists, "the exit record")
    slurm.start_controller()
    well(orc)
    over = orc.over(run["id"], 60)
    assert (over["status"], over["exit_code"], over["attempt"]) == ("finished", 0, 1)
    assert marks(files / "marks") == [f"{run['id']} 1"]


def test_runs_that_end_while_the_server_is_dead_are_judged_when_it_is_back(orc: RealServer, files: Path) -> None:
    commands = {"finished": "true", "failed": "exit 3"}
    runs = {status: orc.run(f"{until_file(files / 'go')}; {command}") for status, command in commands.items()}
    stays = orc.run(until_file(files / "later"))
    found = begun(orc, [run["id"] for run in (*runs.values(), stays)])
    orc.kill()
    try:
        (files / "go").touch()
        for run in found[:2]:
            wait_until((Path(run["run_dir"]) / "attempts/1/exit.json").exists, "the exit record")
    finally:
        orc.start()
    for status, run in runs.items():
        over: Json = orc.over(run["id"], 60)
        record = Path(over["run_dir"]) / "attempts/1/exit.json"
        assert over["status"] == status
        assert over["ended_at"] <= record.stat().st_mtime + 0.1
    assert orc.status(stays["id"]) == "running"
    (files / "later").touch()
    assert orc.over(stays["id"])["status"] == "finished"


def test_a_run_stopped_just_before_the_server_died_is_stopped_all_the_same(orc: RealServer) -> None:
    run = orc.until(orc.run("sleep 600")["id"], "running")
    orc.post(f"/runs/{run['id']}/stop")
    orc.kill()
    orc.start()
    assert orc.over(run["id"], 60)["status"] == "stopped"


def test_nothing_is_lost_while_slurmdbd_is_away(orc: RealServer, place: Site, files: Path) -> None:
    if not place.slurm.accounting:
        pytest.skip("this cluster has no slurmdbd")
    begins = orc.until(orc.run(f"{until_file(files / 'go')}; exit 4")["id"], "running")
    with database_away(place.slurm):
        (files / "go").touch()
        over = orc.over(begins["id"])
        assert (over["reason"], over["exit_code"]) == ("NONZERO_EXIT", 4)
        during = orc.over(orc.run("true")["id"])
        assert during["status"] == "finished"
        assert not degraded(orc)
        stopping = orc.until(orc.run("sleep 600")["id"], "running")
        orc.post(f"/runs/{stopping['id']}/stop")
        assert orc.over(stopping["id"])["status"] == "stopped"


def test_a_wish_made_while_the_controller_is_away_is_carried_out_later(orc: RealServer, slurm: Slurm) -> None:
    run = in_slurm(orc, orc.run("true", resources={"begin": "now+1hour"})["id"], "PENDING")
    with controller_away(slurm):
        orc.post(f"/runs/{run['id']}/hold")
        wait_until(lambda: degraded(orc), "degraded", 60)
        assert not said(orc, run["id"], "run.hold", "Confirmed")
    wait_until(lambda: "JobHeld" in show(slurm, job_of(run), "%r"), "held in Slurm", 90)
