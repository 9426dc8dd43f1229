"""Virtualenvs and conda environments, real and alike, and bash that applies them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from orchestrator.environments.activation import EXIT_CODE, activation_script
from orchestrator.environments.model import Environment

HOSTILE = [
    "$(touch hacked)",
    "`touch hacked`",
    "it's",
    'say "hi"',
    "a b",
    "é ✓ 日本",
    "-rf",
    ";touch hacked;",
    "a\\b",
    "*",
]
CONDA = """
conda() {
  [ "$1" = activate ] || return 2
  case $2 in *missing*) echo "EnvironmentNameNotFound: $2" >&2; return 1;; esac
  printf 'conda:%s\\n' "$2"
  export CONDA_PREFIX=$2
}
"""
MODULE = """
module() {
  case $2 in *missing*) echo "unknown: $2" >&2; return 1;; esac
  printf 'module:%s\\n' "$2"
}
"""
HOOK = """#!/bin/sh
[ "$1 $2 $3 $4" = "shell hook --shell bash" ] || { echo "run micromamba shell init" >&2; exit 1; }
cat <<'END'
NAME() { case $2 in *missing*) return 1;; esac; printf 'NAME:%s\\n' "$2"; }
END
"""


def make_venv(path: Path) -> Path:
    """A real virtualenv."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True, timeout=60)
    return path


def like_venv(path: Path) -> Path:
    """What looks like one, for a hundredth of the time."""
    (path / "bin").mkdir(parents=True)
    (path / "bin/python").symlink_to("/bin/true")
    (path / "bin/activate").write_bytes(os.fsencode(f"PATH={shlex.quote(str(path / 'bin'))}:$PATH\n"))
    (path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    return path


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def conda_prefix(path: Path) -> Path:
    (path / "conda-meta").mkdir(parents=True)
    return path


def applied(
    environment: Environment, work: Path, command: str = "echo ran", *, before: str = CONDA + MODULE
) -> "subprocess.CompletedProcess[str]":
    """Plain bash reads the script as the wrapper would, then the command."""
    script = work.parent / "activation.sh"
    script.write_text(activation_script(environment, str(work)))
    text = f"{before}\n. {shlex.quote(str(script))}\n{command}\n"
    argv = ["/bin/bash", "--noprofile", "--norc", "-c", text]
    return subprocess.run(argv, cwd=work, capture_output=True, text=True, timeout=30, check=False)


def refused(done: "subprocess.CompletedProcess[str]", *words: str) -> bool:
    """Nothing ran, the exit code is the documented one, and the words say why."""
    assert (done.returncode, "ran" in done.stdout.split()) == (EXIT_CODE, False), done.stderr
    assert "orc: environment: " in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    return True
