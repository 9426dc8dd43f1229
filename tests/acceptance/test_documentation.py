"""Every command that the documentation shows is run as it stands."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import end_runs

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]
ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FILE = re.compile(r"^````markdown (\S+)\n(.*?)^````$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def script(page: Path) -> str:
    """The page's commands as one bash script, after the files that it shows."""
    parts = [f"cat > {name} <<'END'\n{text}END" for name, text in FILE.findall(page.read_text())]
    for kind, text in BLOCK.findall(page.read_text()):
        if kind == "python":
            parts.append(f"python3 - <<'END'\n{text}END")
        else:
            parts += [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return "\n".join(parts)


@pytest.mark.parametrize("page", [page for page in PAGES if script(page)], ids=lambda page: page.name)
def test_the_commands_of_a_page_succeed(page: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ORC_")}
    path = f"{Path(sys.executable).parent}:{clean['PATH']}"
    environment = {**clean, "PATH": path, "ORC_HOME": str(home), "ORC_GPU_LEASE_DIR": str(tmp_path / "leases")}
    try:
        done = subprocess.run(
            ["bash", "-exc", script(page)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    finally:
        if (pid := _pid(home)) is not None:
            os.kill(pid, signal.SIGTERM)
        end_runs(home / "runs")


def _pid(home: Path) -> int | None:
    found = re.search(r'"pid": (\d+)', (home / "server.json").read_text()) if (home / "server.json").exists() else None
    return int(found[1]) if found else None


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_example_of_the_emulator_is_a_test_that_passes(tmp_path: Path) -> None:
    example = ROOT / "docs" / "examples" / "test_with_an_emulated_slurm.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(example)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
