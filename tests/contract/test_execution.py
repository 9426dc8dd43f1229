"""What executes, with what around it, and how its end is told."""

import json
from pathlib import Path

import pytest

from tests.support.service import RealServer
from tests.support.sites import Site, Slurm

pytestmark = pytest.mark.acceptance


def test_a_run_executes_and_its_log_is_the_commands_output_alone(orc: RealServer) -> None:
    run = orc.over(orc.run("echo out; echo err >&2")["id"])
    assert (run["status"], run["exit_code"], run["reason"]) == ("finished", 0, None)
    assert orc.log(run["id"]) == "out\nerr\n"


def test_an_exit_code_is_the_commands_own_also_above_127(orc: RealServer) -> None:
    runs = {code: orc.run(f"exit {code}") for code in (1, 3, 127, 137, 255)}
    over = {code: orc.over(run["id"]) for code, run in runs.items()}
    assert {code: (run["status"], run["reason"], run["exit_code"]) for code, run in over.items()} == {
        code: ("failed", "NONZERO_EXIT", code) for code in runs
    }


def test_a_signal_that_ends_the_command_is_told(orc: RealServer) -> None:
    run = orc.over(orc.run("exec bash -c 'kill -SEGV $$'")["id"])
    assert (run["status"], run["reason"], run["signal"]) == ("failed", "SIGNAL", 11)


def test_a_run_gets_as_many_gpus_as_it_asks_for_and_no_more(orc: RealServer) -> None:
    run = orc.over(orc.run("echo $CUDA_VISIBLE_DEVICES", resources={"gpus": 3, "gpu_type": "a100"})["id"])
    assert len(orc.log(run["id"]).strip().split(",")) == 3
    assert [gpu["index"] for gpu in run["gpus"]] == [int(index) for index in orc.log(run["id"]).strip().split(",")]


def test_runs_that_ask_for_the_same_go_out_as_one_array(orc: RealServer, slurm: Slurm) -> None:
    asked = {"name": "t", "resources": {"cpus": 1, "mem": "100M"}, "auto_start": True}
    bodies = [{**asked, "command": f"echo {number}"} for number in range(8)]
    runs = orc.post("/runs/bulk", {"runs": bodies})
    over = [orc.over(run["id"]) for run in runs]
    assert [orc.log(run["id"]) for run in runs] == [f"{number}\n" for number in range(8)]
    assert len({run["scheduler"]["job_id"] for run in over}) == 1
    assert sorted(run["scheduler"]["array_index"] for run in over) == list(range(8))


def test_the_allocation_is_seen_by_the_command(orc: RealServer) -> None:
    run = orc.over(orc.run("echo $SLURM_JOB_ID $SLURM_CPUS_PER_TASK", resources={"cpus": 2, "mem": "64M"})["id"])
    assert orc.log(run["id"]) == f"{run['scheduler']['job_id']} 2\n"


def test_nothing_of_the_servers_environment_reaches_the_command(orc: RealServer) -> None:
    run = orc.over(orc.run("env -0 | tr '\\0' '\\n' | grep ^ORC_ | cut -d= -f1 | sort")["id"])
    assert orc.log(run["id"]).split() == [
        *("ORC_ARTIFACTS_DIR", "ORC_ATTEMPT", "ORC_METRICS_FILE", "ORC_RUN_DIR", "ORC_RUN_ID")
    ]


def test_metrics_and_artifacts_come_from_the_compute_node(orc: RealServer) -> None:
    row = json.dumps({"step": 1, "loss": 0.5})
    run = orc.over(orc.run(f"echo '{row}' >> $ORC_METRICS_FILE; echo x > $ORC_ARTIFACTS_DIR/a.txt")["id"])
    assert orc.counted(run["id"], "loss", 1)["metrics"]["loss"] == 0.5
    assert [artifact["name"] for artifact in orc.get(f"/runs/{run['id']}/artifacts")] == ["a.txt"]


def test_a_workdir_that_is_gone_by_then_is_told(orc: RealServer, place: Site) -> None:
    folder = place.folder / "gone"
    folder.mkdir()
    held = orc.run("true", workdir=str(folder), resources={"slurm": {"hold": True}})
    orc.until(held["id"], "queued")
    folder.rmdir()
    orc.post(f"/runs/{held['id']}/release")
    run = orc.over(held["id"])
    assert (run["status"], run["reason"]) == ("failed", "BAD_WORKDIR")


def test_the_exit_record_lies_in_the_run_directory(orc: RealServer) -> None:
    run = orc.over(orc.run("exit 7")["id"])
    record = json.loads((Path(run["run_dir"]) / "attempts/1/exit.json").read_text())
    assert record["code"] == 7


def test_cpus_come_with_each_gpu_where_asked(orc: RealServer) -> None:
    run = orc.run("echo $SLURM_CPUS_ON_NODE $SLURM_CPUS_PER_GPU", resources={"gpus": 2, "slurm": {"cpus-per-gpu": 3}})
    assert orc.over(run["id"])["status"] == "finished"
    assert orc.log(run["id"]) == "6 3\n"


def test_an_environment_that_cannot_be_set_up_is_no_exit_of_the_command(orc: RealServer, files: Path) -> None:
    asked = {"workdir": str(files), "environment": {"venv": ".venv"}}
    run = orc.over(orc.run("exit 78", **asked)["id"])
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "BAD_ENVIRONMENT", 78)
    assert f"no virtualenv at {files}/.venv" in run["error"]
    assert orc.get(f"/runs/{run['id']}/why")["category"] == "environment"
    other = orc.over(orc.run("exit 78")["id"])
    assert (other["reason"], other["exit_code"]) == ("NONZERO_EXIT", 78)
