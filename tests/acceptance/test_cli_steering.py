"""why, usage, script, profiles, env, hold, release, requeue, priority: on the command line."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_cli import ORC, Orc

pytestmark = pytest.mark.acceptance


@pytest.fixture
def orc(tmp_path: Path) -> Iterator[Orc]:
    made = Orc(tmp_path / "home")
    yield made
    made.close()


def made(orc: Orc, command: str, *words: str) -> dict[str, Any]:
    """What a command that makes something made."""
    done = orc(command, "--json", *words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_runs_are_held_released_prioritised_and_explained(orc: Orc, tmp_path: Path) -> None:
    profiles = tmp_path / "home" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "small.toml").write_text('description = "one CPU"\n[resources]\ncpus = 1\n')
    run_id = made(
        orc, "run", "--profile", "small", "--cpus", "4", "-R", "mem=100M", "--retry", "1", "--", "sleep", "60"
    )["id"]
    second = made(orc, "run", "--cpus", "4", "--", "true")["id"]
    assert orc("hold", second).returncode == 0
    assert json.loads(orc("why", second, "--json").stdout)["category"] == "hold"
    assert "What to do: Release it" in orc("why", second).stdout
    assert orc("priority", second, "--to", "3").returncode == 0
    assert orc("release", second).returncode == 0
    assert orc("requeue", second).returncode == 2  # it has not begun
    assert orc("stop", run_id).returncode == 0
    assert orc("wait", second).returncode == 0
    assert orc.json("usage", "--by", "status", "--days", "1")["total"]["runs"] == 2
    assert "GPU HOURS" in orc("usage", "--by", "day").stdout
    assert "command.sh" in orc("script", second).stdout
    assert "one CPU" in orc("profiles").stdout
    assert "nothing found" in orc("env", str(tmp_path)).stdout
    assert "command.sh" in orc("run", "--dry-run", "--", "true").stdout
    sweep = made(orc, "sweep", "a=1,2", "--", "true")
    assert orc("hold", sweep["id"]).returncode == 0


def test_a_run_is_run_again_with_what_would_help(orc: Orc) -> None:
    run_id = made(orc, "run", "--time", "0:01", "--", "sleep", "3")["id"]
    assert orc("wait", run_id).returncode == 1
    assert f"orc rerun {run_id} --fix" in orc("why", run_id).stdout
    again = made(orc, "rerun", run_id, "--fix", "-R", "mem=100M")
    assert again["resources"] == {"time": 1, "mem": "100M"}  # twice a second, in minutes; and what was said besides
    assert orc("wait", again["id"]).returncode == 0
    assert "used of asked" in orc("show", again["id"]).stdout
    refused = orc("rerun", again["id"], "--fix")
    assert refused.returncode == 2
    assert "proposes no change" in refused.stderr


def emulated(tmp_path: Path, words: str, nodes: int) -> subprocess.CompletedProcess[str]:
    """A script of sh in an emulated cluster."""
    home = tmp_path / "home"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ORC_")}
    done = subprocess.run(
        [ORC, "emulate-slurm", "--nodes", str(nodes), "--gpus", "2", "--", "sh", "-c", words],
        env={**clean, "ORC_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    Orc(home).close()
    assert done.returncode == 0, done.stderr
    return done


def test_runs_go_to_an_emulated_slurm_from_the_command_line(tmp_path: Path) -> None:
    words = f"{ORC} run --wait --gpus 1 -R mem=100M -- printenv CUDA_VISIBLE_DEVICES; {ORC} run --dry-run -- true"
    done = emulated(tmp_path, words, 1)
    assert "0\n" in done.stdout
    assert "#SBATCH --job-name=" in done.stdout
    assert "Expected to start" in done.stderr


def test_several_nodes_a_signal_and_a_container_are_asked_for_on_the_command_line(tmp_path: Path) -> None:
    asked = "-R nodes=2 --launch torchrun --signal USR1@60 --time 5 --container x.sif --bind /data --module cuda/12.4"
    done = emulated(tmp_path, f"{ORC} run --dry-run {asked} -- true", 2)
    lines, parts = done.stdout.split("# ---- launch.sh", 1)
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --signal=B:USR1@60"} <= set(lines.split("\n"))
    launcher, activation = parts.split("# ---- environment.sh", 1)
    assert "exec srun" in launcher
    assert "--bind /data" in launcher
    assert "__orc_module cuda/12.4" in activation
    assert "Expected to start" in done.stderr


def test_when_a_run_starts_is_printed_as_people_read_it(tmp_path: Path) -> None:
    words = (
        f"id=$({ORC} run -R begin=now+1hour -R mem=100M -- true); "
        f"until {ORC} why $id | grep expected_start=; do sleep 0.1; done; {ORC} why $id; {ORC} stop $id"
    )
    out = emulated(tmp_path, words, 1).stdout
    (shown,) = set(re.findall(r"expected_start=(\S+)", out))
    at = time.mktime(time.strptime(shown, "%Y-%m-%dT%H:%M:%S"))
    assert 3000 < at - time.time() <= 3601
    assert f"It begins at {shown[:10]} {shown[11:16]} (in " in out


def test_an_emulated_slurm_after_another_has_a_server_of_its_own(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ORC_")}
    environment = {**clean, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [
        *ORC.split(),
        "emulate-slurm",
        "--",
        "sh",
        "-c",
        f"{ORC} run --wait --gpus 1 -R mem=100M -- echo $ORC_HOME",
    ]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".orc").exists()
    assert not list(tmp_path.glob("*.sock"))


def test_the_doctor_says_how_slurm_is_read_and_why(tmp_path: Path) -> None:
    out = emulated(tmp_path, f"{ORC} doctor --json", 1).stdout
    (reads,) = [finding["words"] for finding in json.loads(out) if finding["topic"] == "slurm reads"]
    there = importlib.util.find_spec("pyslurm") is not None
    assert reads.startswith("squeue and sinfo are used: ")
    assert ("pyslurm is not installed" in reads) is not there
