"""The built wheel works the same outside the checkout, in an environment that holds nothing else."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.elsewhere import Installation
from tests.support.service import end_runs

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


def run(installation: Installation, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "ORC_HOME": str(home / "orc")}
    return subprocess.run(
        [installation.orc, *words], env=environment, cwd=home, capture_output=True, text=True, timeout=90, check=False
    )


def test_the_wheel_carries_templates_config_and_migrations(installation: Installation, tmp_path: Path) -> None:
    done = run(installation, tmp_path, "run", "--wait", "--", "bash", "-c", "echo works; type -t conda || true")
    try:
        assert (done.returncode, done.stdout) == (0, "works\n")
        (found,) = json.loads(run(installation, tmp_path, "ls", "--json").stdout)
        wrapper = (Path(found["run_dir"]) / "wrapper.sh").read_text()
        assert "conda()" in wrapper
        settings = {f["topic"]: f["words"] for f in json.loads(run(installation, tmp_path, "doctor", "--json").stdout)}
        assert "site-packages/orchestrator/_data/config/default.toml" in settings["setting port"]
        assert settings["migrations"].startswith("the database is at 0004")
        assert "plan" in run(installation, tmp_path, "skill", "list").stdout
    finally:
        os.kill(json.loads((tmp_path / "orc" / "server.json").read_text())["pid"], 15)
        end_runs(tmp_path / "orc" / "runs")


def test_the_wheel_brings_no_top_level_names_but_its_own(installation: Installation) -> None:
    (wheel,) = (installation.folder / "wheels").glob("*.whl")
    listed = subprocess.run(["unzip", "-Z1", str(wheel)], capture_output=True, text=True, check=True).stdout.split()
    assert {name.split("/")[0].split("-")[0] for name in listed} == {"orchestrator", "api", "hpc_orchestrator"}
