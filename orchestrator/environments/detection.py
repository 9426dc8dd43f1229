"""Detecting what environment the files of a workdir speak of. Looks, and runs nothing."""

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.environments.conda import conda_name, find_prefix, installed, tools_here
from orchestrator.environments.files import is_dir, is_file, status_of, text_of
from orchestrator.environments.model import LEVELS_UP, CondaTool, Environment
from orchestrator.environments.text import plain, word

VENVS = (".venv", "venv", "env")
PREFIXES = (".conda", "conda", "env", "envs", ".venv", "venv")
ENDS_OF_PROJECT = (
    (".git", "uv.lock"),
    ("pyproject.toml", "setup.py", "pixi.toml", "environment.yml", "environment.yaml"),
)


class Evidence(BaseModel):
    """One thing that was seen. ``file``: its path; ``says``: what it tells, in words."""

    model_config = ConfigDict(frozen=True)

    file: str
    says: str


class Found(BaseModel):
    """What detecting saw.

    ``environment``: the choice, or None; ``activation``: the lines that a person would paste for it; ``notes``: what is
    broken, what else there is, how to make what is missing.
    """

    model_config = ConfigDict(frozen=True)

    environment: Environment | None = None
    evidence: list[Evidence] = Field(default_factory=list)
    activation: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


@dataclass
class _Look:
    """What has been seen so far. ``advice`` is given only where nothing is found; ``offers`` are best first."""

    tools: dict[CondaTool, Path]
    offers: list[tuple[Environment, list[str]]] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def saw(self, file: Path, says: str) -> None:
        self.evidence.append(Evidence(file=plain(str(file), 4096), says=says))

    def offer(self, lines: list[str], **fields: Any) -> None:
        try:
            self.offers.append((Environment(**fields), lines))
        except ValidationError:  # a path with a line break, or that is no text
            self.notes.append(f"{plain(' '.join(lines), 4096)} would apply, but its path is not one line of text.")

    def offer_prefix(self, prefix: Path) -> None:
        """Offers a conda environment by its path: two installations may have one name each."""
        tool = next(iter(self.tools), None)
        if tool is None:
            self.notes.append(f"{word(prefix)} is a conda environment, but {installed(self.tools)}")
            return
        hook = [f'eval "$({tool} shell hook --shell bash)"'] if tool == "micromamba" else []
        self.offer([*hook, f"{tool} activate {word(prefix)}"], conda=str(prefix), conda_tool=tool)

    def found(self) -> Found:
        """The answer: the first offer, and words for the others."""
        environment, lines = self.offers[0] if self.offers else (None, [])
        others = [f"Also found, and not chosen: {'; '.join(lines)}" for _, lines in self.offers[1:]]
        advice = [] if self.offers else self.advice
        return Found(
            environment=environment, evidence=self.evidence, activation=lines, notes=self.notes + others + advice
        )


def detect(workdir: Path) -> Found:
    """What environment the files of a workdir and of its project speak of. Nearer comes first; within a directory uv,
    a virtualenv, a conda prefix, then the environment that environment.yml names, if it has been made.

    Runs nothing and raises nothing: looks by name in the workdir and at most ``LEVELS_UP`` parents, reads at most
    ``LONGEST_READ`` bytes of a file. Modules are never chosen, nor setup scripts.
    """
    workdir = Path(os.path.abspath(workdir))  # noqa: PTH100 — not resolved: people know the path they gave
    if not is_dir(workdir):
        return Found(notes=[f"{word(workdir)} is not a directory that can be looked into."])
    look = _Look(tools_here())
    for place in _places(workdir):
        _look_at_venvs(place, look)
        _look_at_prefixes(place, look)
        _look_at_conda_files(place, look)
        _look_at_project(place, look)
        _look_at_scripts(place, look)
    return look.found()


def _places(workdir: Path) -> list[Path]:
    """The workdir and its parents up to the project's root; the workdir alone where no root is close.

    Never the home directory, nor one that every user may write to (/tmp): what stands there is nobody's project.
    """
    levels = [workdir]
    for parent in workdir.parents[:LEVELS_UP]:
        status = status_of(parent)
        if parent in {Path.home(), Path("/")} or status is None or status.st_mode & stat.S_IWOTH:
            break
        levels.append(parent)
    for markers in ENDS_OF_PROJECT:
        for number, level in enumerate(levels, 1):
            if any(status_of(level / marker) for marker in markers):
                return levels[:number]
    return [workdir]


def _look_at_venvs(place: Path, look: _Look) -> None:
    locked = is_file(place / "uv.lock")
    if locked:
        look.saw(place / "uv.lock", "a uv project")
    for path in (place / name for name in VENVS):
        if not is_file(path / "pyvenv.cfg"):
            continue
        look.saw(path / "pyvenv.cfg", _virtualenv_says(path))
        remedy = "uv sync" if locked and path.name == ".venv" else f"python3 -m venv --clear {word(path)}"
        trouble = _trouble(path)
        if trouble:
            look.notes.append(f"The virtualenv {word(path)} is broken: {trouble}. Make it anew: {remedy}")
            continue
        lines = [f"source {word(path / 'bin/activate')}"]
        if locked and path.name == ".venv":
            look.offer(lines, uv=True)
        else:
            look.offer(lines, venv=str(path))
    if locked:
        look.advice.append(f"uv.lock found, but no environment: make it with cd {word(place)} && uv sync")


def _virtualenv_says(path: Path) -> str:
    lines = (text_of(path / "pyvenv.cfg") or "").splitlines()
    keys = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    version = keys.get("version") or keys.get("version_info")
    maker = f", made by uv {keys['uv']}" if "uv" in keys else ""
    return "a virtualenv" + plain(f" of Python {version}" if version else "") + plain(maker)


def _trouble(venv: Path) -> str:
    """What keeps a virtualenv from working, "" for nothing."""
    python = venv / "bin/python"
    if not is_file(python):
        return f"its python is gone, or out of reach ({word(Path(os.path.realpath(python)))})"
    if not os.access(python, os.X_OK):
        return "its python may not be executed"
    return "" if text_of(venv / "bin/activate") is not None else "it has no bin/activate that can be read"


def _look_at_prefixes(place: Path, look: _Look) -> None:
    for prefix in (place / name for name in PREFIXES):
        if is_dir(prefix / "conda-meta"):
            look.saw(prefix / "conda-meta", "a conda environment")
            look.offer_prefix(prefix)


def _look_at_conda_files(place: Path, look: _Look) -> None:
    for file in (place / "environment.yml", place / "environment.yaml"):
        if not is_file(file):
            continue
        name = conda_name(text_of(file) or "")
        look.saw(file, f"names the conda environment {name}" if name else "a conda environment without a name")
        prefix = find_prefix(name) if name else None
        if prefix is not None:
            look.saw(prefix / "conda-meta", f"the conda environment {name}")
            look.offer_prefix(prefix)
        elif name:
            tool = next(iter(look.tools), "conda")
            make = f"{tool}{'' if tool == 'micromamba' else ' env'} create -f {word(file)}"
            look.notes.append(
                f"{file.name} names the conda environment {name}, which was not found; "
                f"{installed(look.tools)} Make it with: {make}"
            )


def _look_at_project(place: Path, look: _Look) -> None:
    """Files that say what is needed, and how to make an environment of it."""
    make = f"cd {word(place)} && python3 -m venv .venv && .venv/bin/pip install"
    if is_file(place / "requirements.txt"):
        look.saw(place / "requirements.txt", "packages for pip")
        look.advice.append(f"requirements.txt found, but no virtualenv: make one with {make} -r requirements.txt")
    packaged = is_file(place / "setup.py")
    if packaged:
        look.saw(place / "setup.py", "a Python package")
    pyproject = text_of(place / "pyproject.toml")
    tables = _tables(pyproject or "")
    if pyproject is not None:
        look.saw(place / "pyproject.toml", _project_says(tables))
    pixi = "tool.pixi" in tables or is_file(place / "pixi.toml")
    if pixi:
        look.notes.append("A pixi project: let the command begin with `pixi run`.")
    elif "tool.poetry" in tables:
        look.notes.append(
            "Poetry may keep its virtualenv elsewhere: `poetry env info --path` tells; give that as venv."
        )
    elif (pyproject is not None or packaged) and not is_file(place / "uv.lock"):
        look.advice.append(f"A Python project, but no virtualenv: make one with {make} -e .")
    version = (text_of(place / ".python-version") or "").strip()
    if version:
        look.saw(place / ".python-version", f"Python {plain(version.splitlines()[0])}")


def _tables(text: str) -> dict[str, dict[str, str]]:
    """The tables of a pyproject.toml, by line: ``project`` with its strings, and two levels of ``tool.…``.

    Not with tomllib, which takes 17 seconds for a key of 32,000 parts (Python 3.11).
    """
    tables: dict[str, dict[str, str]] = {}
    table: dict[str, str] = {}
    for line in text.split("\n"):
        if header := re.match(r"\s*\[{1,2}\s*([\w-]+(?:\s*\.\s*[\w-]+)?)", line):
            table = tables.setdefault(re.sub(r"\s", "", header[1]), {})
        elif pair := re.match(r"""\s*([\w-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""", line):
            table.setdefault(pair[1], pair[2] or pair[3] or "")
    return tables


def _project_says(tables: dict[str, dict[str, str]]) -> str:
    project = tables.get("project") or {}
    name, python = project.get("name"), project.get("requires-python")
    tools = [tool for tool in ("uv", "poetry", "pixi") if f"tool.{tool}" in tables]
    words = ["the project " + plain(name) if name else "a project"]
    words += [f"needs Python {plain(python)}"] if python else []
    words += [f"uses {' and '.join(tools)}"] if tools else []
    return ", ".join(words)


def _look_at_scripts(place: Path, look: _Look) -> None:
    for file in (place / name for name in (".envrc", "setup.sh", "env.sh")):
        if is_file(file):
            look.saw(file, "may set up an environment; never chosen: give it as setup if it does")
