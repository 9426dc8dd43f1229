"""Hostile text in sweeps, environments and options; and refusals that touch nobody else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.looking import calls, degraded, show
from tests.support.service import RealServer
from tests.support.sites import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
NASTY = "quotes ' \" and $(touch {made}) `touch {made}` $HOME \\ %j %a é 漢 🦊 | ; & \t*"


def refused(orc: RealServer, resources: dict[str, Any], **fields: Any) -> str:
    wait_until(lambda: not degraded(orc), "Slurm answers: else nothing is held against it", 60)
    before = calls(orc, "sbatch")
    body = {"name": "t", "command": "true", "auto_start": True, "resources": resources, **fields}
    status, detail = orc.refused("POST", "/runs", body)
    assert status == 422
    assert calls(orc, "sbatch") == before
    return json.dumps(detail)


def test_what_is_refused_never_reaches_sbatch(orc: RealServer) -> None:
    assert "0..4" in refused(orc, {"gpus": 5})
    assert "normal" in refused(orc, {"partition": "normal,nowhere"})
    assert "gpus" in refused(orc, {"gpu_type": "a100"})
    assert "evenly" in refused(orc, {"cpus": 3, "tasks_per_node": 2})


@pytest.mark.parametrize("name", ["mail-user\n", "mail-user=x --uid", "Mail", "-p", "", "mail user"])
def test_no_name_of_an_option_can_be_another_line_or_option(orc: RealServer, name: str) -> None:
    refused(orc, {"slurm": {name: "x"}})


def test_what_sbatch_takes_for_an_option_of_ours_never_reaches_it(orc: RealServer, slurm: Slurm, files: Path) -> None:
    script = files / "abbreviated.sh"
    script.write_text("#!/bin/sh\n#SBATCH --job-nam=abbreviated\n#SBATCH --begi=now+1hour\n#SBATCH --outpu=/dev/null\n")
    job = slurm.run("sbatch", "--parsable", str(script)).stdout.strip().partition(";")[0]
    assert show(slurm, job, "%j %T") == "abbreviated PENDING"  # so it must be our own word that stops it
    slurm.run("scancel", job)
    for short, name in [("job-nam", "job-name"), ("begi", "begin"), ("outpu", "output"), ("export-fil", "export-file")]:
        assert name in refused(orc, {"slurm": {short: "x"}})  # all that there are: tests/unit/test_slurm_options.py


def test_lines_of_sbatch_in_a_command_are_only_comments(orc: RealServer, files: Path) -> None:
    lines = (
        f"#SBATCH --partition=low\n#SBATCH --output={files}/stolen\n#SBATCH --array=0-3\necho $SLURM_ARRAY_TASK_ID end"
    )
    run = orc.over(orc.run(lines)["id"])
    assert (run["status"], orc.log(run["id"])) == ("finished", "end\n")
    assert run["scheduler"]["partition"] == "normal"
    assert not list(files.iterdir())


def test_hostile_names_and_environment_of_a_sweep_do_no_harm(orc: RealServer, files: Path) -> None:
    nasty = NASTY.format(made=files / "made") + "\n#SBATCH --partition=low\nlast"
    body = {"name": nasty, "base_command": 'printf %s "$NASTY"; true', "parameters": {"i": [1, 2]}}
    made = orc.post("/sweeps", {**body, "env": {"NASTY": nasty}, "tags": [nasty], "auto_start": True})
    for run_id in made["run_ids"]:
        over = orc.over(run_id)
        assert (over["status"], orc.log(run_id)) == ("finished", nasty)
        assert over["scheduler"]["partition"] == "normal"
    assert not list(files.iterdir())


def test_hostile_values_of_a_sweep_arrive_word_for_word(orc: RealServer, files: Path) -> None:
    values = [NASTY.format(made=files / "made"), "a\nb", "-x", "--", "'"]
    body = {"name": "t", "base_command": "printf '%s\\n'", "parameters": {"v": values}, "auto_start": True}
    made = orc.post("/sweeps", body)
    over = [orc.over(run_id) for run_id in made["run_ids"]]
    assert [orc.log(run["id"]) for run in over] == [f"--v={value}\n" for value in values]
    assert not list(files.iterdir())


def test_what_sbatch_refuses_for_good_fails_with_its_own_words(orc: RealServer) -> None:
    asked = [{"constraint": "nosuchfeature"}, {"constraint": "fast", "nodelist": "n4"}]
    over = [orc.over(orc.run("true", resources=resources)["id"]) for resources in asked]
    assert {(run["status"], run["reason"]) for run in over} == {("failed", "SUBMIT_REJECTED")}
    assert "Invalid feature specification" in over[0]["error"]
    assert "sbatch: error:" in over[1]["error"]


def test_a_refused_run_leaves_the_others_of_its_moment_alone(orc: RealServer) -> None:
    good = [orc.run("true", resources={"cpus": 1}) for _ in range(2)]
    bad = orc.run("true", resources={"cpus": 1, "constraint": "nosuchfeature"})
    assert {orc.over(run["id"])["status"] for run in good} == {"finished"}
    assert orc.over(bad["id"])["status"] == "failed"
