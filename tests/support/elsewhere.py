"""The built wheel, installed outside the checkout in an environment that every user of the machine can execute."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Installation:
    """Where it is."""

    folder: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "env" / "bin" / "python")

    @property
    def orc(self) -> str:
        """Its orc command."""
        return str(self.folder / "env" / "bin" / "orc")


def open_to_all(path: Path) -> bool:
    """Whether every user may execute this file: each folder above it can be passed."""
    real = path.resolve()
    if not real.exists():
        return False
    return all(stat.S_IMODE(part.stat().st_mode) & 0o001 for part in [real, *real.parents])


def shared_python() -> str | None:
    """A Python 3.11 or later that every user may execute, or None."""
    own = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (own, Path("/usr/bin/python3"), Path("/usr/local/bin/python3")):
        if open_to_all(candidate) and _recent(candidate):
            return str(candidate)
    return None


def _recent(python: Path) -> bool:
    check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([str(python), "-c", check], capture_output=True, check=False).returncode == 0


def install(folder: Path) -> Installation | None:
    """Builds the wheel and installs it, once per folder; None where no Python is open to all users."""
    python = shared_python()
    if python is None:
        return None
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Installation(folder)
        if not (folder / "done").exists():
            _build(folder, python)
            (folder / "done").touch()
    return made


def _build(folder: Path, python: str) -> None:
    before = os.umask(0o022)
    try:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        wheels = folder / "wheels"
        _run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(ROOT)])
        (wheel,) = wheels.glob("hpc_orchestrator-*.whl")
        _run([python, "-m", "venv", str(folder / "env")])
        inside = [str(folder / "env/bin/python"), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        _run([*inside, "-c", str(ROOT / "constraints.txt"), f"{wheel}[postgres]"])
    finally:
        os.umask(before)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def remove(folder: Path) -> None:
    """Takes it away."""
    shutil.rmtree(folder, ignore_errors=True)
