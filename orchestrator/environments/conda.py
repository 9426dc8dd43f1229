"""Where conda, mamba and micromamba are, and where the environment of a name is. Nothing of them is run."""

import os
import re
import shutil
from pathlib import Path

from orchestrator.environments.files import is_dir, is_file, text_of
from orchestrator.environments.model import CONDA_NAME, CondaTool
from orchestrator.environments.text import is_one_line, word

TOOLS: tuple[CondaTool, ...] = ("conda", "mamba", "micromamba")
# Where wrapper.sh looks for conda, too.
CONDA_HOMES = ("miniforge3", "mambaforge", "miniconda3", "anaconda3", "conda")


def conda_name(text: str) -> str | None:
    """The ``name:`` of an environment.yml, by its line; None where there is none that ``conda activate`` would take."""
    value = r"""("[^"\\]*"|'[^']*'|[^\s#"'|>&*!{\[%@`]\S*)"""
    match = re.search(rf"^(?:name|\"name\"|'name')[ \t]*:[ \t]+{value}[ \t]*(?:[ \t]#.*)?\r?$", text, re.MULTILINE)
    name = match[1].strip("\"'") if match else ""
    return name if CONDA_NAME.fullmatch(name) and is_one_line(name) and len(name) <= 200 else None


def tools_here() -> dict[CondaTool, Path]:
    """Which of conda, mamba and micromamba are installed, and where: PATH, what their own set-up left, usual places."""
    found: dict[CondaTool, Path] = {}
    for tool in TOOLS:
        told = [os.environ.get("CONDA_EXE"), os.environ.get("MAMBA_EXE"), shutil.which(tool)]
        usual = [base / "bin" / tool for base in _bases()] + [Path.home() / ".local/bin" / tool]
        paths = [path for path in map(Path, filter(None, told)) if path.name == tool] + usual
        for path in paths:
            if is_file(path) and os.access(path, os.X_OK):
                found[tool] = path
                break
    return found


def find_prefix(name: str) -> Path | None:
    """Where a conda environment of this name is: below the installations, the root prefixes, or in conda's own list."""
    home, told = Path.home(), [os.environ.get(variable) for variable in ("CONDA_EXE", "MAMBA_EXE")]
    roots = [Path(path).parent.parent for path in [*told, shutil.which("conda")] if path]
    roots += [Path(path) for path in [os.environ.get("MAMBA_ROOT_PREFIX")] if path]
    roots += [*_bases(), home / "micromamba", home / ".local/share/mamba", home / ".conda"]
    listed = [Path(line) for line in (text_of(home / ".conda/environments.txt") or "").splitlines()]
    candidates = [root / "envs" / name for root in roots] + [path for path in listed if path.name == name]
    return next((path for path in candidates if path.is_absolute() and is_dir(path / "conda-meta")), None)


def _bases() -> list[Path]:
    home = Path.home()
    return [home / name for name in CONDA_HOMES] + [Path("/opt") / name for name in CONDA_HOMES]


def installed(tools: dict[CondaTool, Path]) -> str:
    """Which of them are installed, in words."""
    if not tools:
        return "neither conda, mamba nor micromamba was found on this machine (a module may bring one)."
    return f"installed here: {', '.join(f'{tool} ({word(path)})' for tool, path in tools.items())}."
