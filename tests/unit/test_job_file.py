"""job.py stands alone: one file, the standard library, an old Python, no import that a start does not need."""

import ast
import subprocess
import sys
from pathlib import Path

from orchestrator import job

SOURCE = Path(str(job.__file__)).read_text()


def test_it_is_written_for_python_3_6() -> None:
    ast.parse(SOURCE, feature_version=(3, 6))


def test_it_imports_four_modules_of_the_standard_library_at_its_start() -> None:
    top = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name.name for node in top for name in node.names} == {"os", "signal", "sys", "time"}


def test_it_runs_without_site_and_without_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(job.__file__), "/nonexistent", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr
