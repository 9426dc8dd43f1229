"""The software environment of a run: modules, a virtualenv or conda environment, a setup script.

Detecting looks and runs nothing; it is shown, and applied only where a run asks for it ("auto", or by name).
Applying is bash text: after ``slurm_templates/wrapper.sh`` has made ``conda`` and ``module`` work, before the command.
"""

import os
import re
import shlex
import shutil
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

CondaTool = Literal["conda", "mamba", "micromamba"]
TOOLS: tuple[CondaTool, ...] = ("conda", "mamba", "micromamba")
EXIT_CODE = 78  # EX_CONFIG of sysexits.h: the command was not started, for its environment could not be had
LONGEST_READ = 64 * 2**10
LEVELS_UP = 3
VENVS = (".venv", "venv", "env")
PREFIXES = (".conda", "conda", "env", "envs", ".venv", "venv")
ENDS_OF_PROJECT = (
    (".git", "uv.lock"),
    ("pyproject.toml", "setup.py", "pixi.toml", "environment.yml", "environment.yaml"),
)
# Where wrapper.sh looks for conda, too.
CONDA_HOMES = ("miniforge3", "mambaforge", "miniconda3", "anaconda3", "conda")
_CONDA_NAME = re.compile(r"(?!-|\.+$)[^\s:#/]+")  # conda's own forbidden characters: conda/base/constants.py


# -- what a run asks for -----------------------------------------------------------------------------------------------


def _one_line(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if not _is_one_line(value):
        raise ValueError("must be one line of text, without control characters")
    return value


def _is_one_line(text: str) -> bool:
    return not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in text)


def _conda_name_or_path(value: str) -> str:
    if not _is_path(value) and _CONDA_NAME.fullmatch(value) is None:
        raise ValueError(
            'the name of a conda environment has no space, ":" or "#" and begins with no "-"; a path has a "/"'
        )
    return value


def _is_path(value: str) -> bool:
    """Whether conda takes the value for a path and not for a name (``conda activate``)."""
    return "/" in value or value == "~"


Line = Annotated[str, Field(max_length=4096), AfterValidator(_one_line)]
# No "-" in front: Lmod unloads what `module load -name` names.
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_/][A-Za-z0-9_./+@:=,~-]*$", max_length=500)]


class Environment(BaseModel):
    """What is applied before a run's command, in this order: modules; a virtualenv or a conda environment; a script.

    Paths are absolute, relative to the workdir, or begin with ``~/``; nothing else in them is expanded. Nothing is ever
    installed. At most one of ``venv``, ``conda`` and ``uv``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modules: list[ModuleName] = Field(
        default_factory=list,
        max_length=100,
        description='What `module load` takes, such as "cuda/12.4"; in this order.',
    )
    venv: Line | None = Field(default=None, description="A virtualenv's directory.")
    conda: Annotated[Line, AfterValidator(_conda_name_or_path)] | None = Field(
        default=None, description="A conda environment's name, or its path (with a slash)."
    )
    conda_tool: CondaTool = "conda"
    uv: bool = Field(default=False, description="The `.venv` beside the uv.lock of the workdir or the nearest above.")
    setup: Line | None = Field(
        default=None, description="A bash script that is sourced last; it must end with status 0."
    )

    @model_validator(mode="after")
    def _one_python(self) -> "Environment":
        given = [name for name in ("venv", "conda", "uv") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give at most one of venv, conda and uv")
        return self


def _kind(value: Any) -> str:
    return "auto" if isinstance(value, str) else "given"


# A body's `environment`: what was found in the workdir when the run is created, or what is written out. The tags keep
# the complaints to those of the form that was meant.
EnvironmentAsked = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[Environment, Tag("given")], Discriminator(_kind)
]


# -- applying it -------------------------------------------------------------------------------------------------------

# Values come in as arguments only. What is sourced is sourced outside of functions: in one, `declare` would be local.
_FUNCTIONS = r"""__orc_refuse() { printf 'orc: environment: %s\n' "$1" >&2; exit @EXIT_CODE@; }
__orc_module() {
  module load "$1" || __orc_refuse "module load $1 failed on $HOSTNAME; 'module avail' tells the names"
  case ${MODULE_VERSION-} in
    3.*) case ":${LOADEDMODULES-}:" in *":$1:"* | *":$1/"*) ;; *) # Modules 3 fails with status 0
      __orc_refuse "module load $1 loaded nothing on $HOSTNAME; 'module avail' tells the names" ;; esac ;;
  esac
}
__orc_uv_root() {
  local dir=$1 level
  for level in @LEVELS@; do
    [ -f "$dir/uv.lock" ] && printf '%s' "$dir" && return
    dir=$(dirname "$dir")
  done
  __orc_refuse "no uv.lock in $1 or close above on $HOSTNAME; make one there with 'uv sync', or give the path as venv"
}
__orc_venv_there() {
  local path
  path=$(printf %q "$1")
  [ -f "$1/bin/activate" ] && [ -r "$1/bin/activate" ] ||
    __orc_refuse "no virtualenv at $path on $HOSTNAME (bin/activate cannot be read); make it with: $2"
  [ -x "$1/bin/python" ] ||
    __orc_refuse "the virtualenv $path is broken: its python is not on $HOSTNAME; make it anew with: $2"
}
__orc_venv_on() {
  [ "$(dirname "$(type -P python)")" -ef "$1/bin" ] ||
    __orc_refuse "the virtualenv $(printf %q "$1") was made at another path, or moved; make it anew with: $2"
}
__orc_hook() { # the tool's own `activate` for this shell; status 1 where there is none
  local exe hook
  [ "$(type -t "$1")" = function ] && return
  for exe in "$(type -P "$1")" "${MAMBA_EXE-}" "$HOME"/{.local,.,micromamba,miniforge3,mambaforge}/bin/"$1"; do
    [ "${exe##*/}" = "$1" ] && [ -x "$exe" ] && hook=$("$exe" shell hook --shell bash 2>/dev/null) && eval "$hook" &&
      [ "$(type -t "$1")" = function ] && return
  done
  return 1
}
"""
_FUNCTION_NAMES = re.findall(r"^(\w+)\(\)", _FUNCTIONS, re.MULTILINE)


def activation_script(environment: Environment, workdir: str) -> str:
    """Bash text that applies the environment, to be sourced before the command; "" where there is nothing to apply.

    ``workdir`` is absolute (ValueError). What is not there is told on standard error, with what would be right, and
    ends the shell with ``EXIT_CODE``. So does a setup script whose last status is not 0; its own ``exit`` and
    ``set -e`` end the shell as they do anywhere. Modules 3 answers 0 whatever happens (envmodules/modules issue 110):
    there, LOADEDMODULES tells.
    """
    if not workdir.startswith("/"):
        raise ValueError(f"the workdir {workdir!r} is not absolute")
    lines = [f"__orc_module {shlex.quote(name)}" for name in environment.modules]
    if environment.uv:
        lines += [f"__orc_uv=$(__orc_uv_root {shlex.quote(workdir)}) || exit"]
        lines += [*_virtualenv('"$__orc_uv"/.venv', "uv sync"), "unset __orc_uv"]
    if environment.venv is not None:
        path = _path(environment.venv, workdir)
        lines += _virtualenv(path, f"python3 -m venv --clear {path}")
    if environment.conda is not None:
        lines += _conda(environment.conda, environment.conda_tool, workdir)
    if environment.setup is not None:
        lines += _setup(environment.setup, workdir)
    if not lines:
        return ""
    functions = _FUNCTIONS.replace("@EXIT_CODE@", str(EXIT_CODE)).replace("@LEVELS@", " ".join("0123"[: LEVELS_UP + 1]))
    head = f"# The run's environment, applied before its command. Exit code {EXIT_CODE}: it could not be had.\n"
    return "\n".join([head + functions + lines[0], *lines[1:], f"unset -f {' '.join(_FUNCTION_NAMES)}", ""])


def _virtualenv(path: str, remedy: str) -> list[str]:
    """The lines for a virtualenv whose path is ``path``, as shell text."""
    remedy = shlex.quote(remedy)
    return [f"__orc_venv_there {path} {remedy}", f". {path}/bin/activate", f"__orc_venv_on {path} {remedy}"]


def _conda(conda: str, tool: CondaTool, workdir: str) -> list[str]:
    target = _path(conda, workdir) if _is_path(conda) else shlex.quote(conda)
    activate = f"{tool} activate {target}"
    if tool == "micromamba":
        missing = "'micromamba is not on '\"$HOSTNAME\"': put it into ~/.local/bin, or name another conda_tool'"
        activate = f"__orc_hook micromamba || __orc_refuse {missing}\n{activate}"
    if tool == "mamba":
        # mamba 1 has no such hook, and a shell without rc files may not find mamba. Its environments are conda's, too.
        activate = f"if __orc_hook mamba; then {activate}; else conda activate {target}; fi"
    words = f"{tool} could not activate {conda}; '{tool} env list' tells what there is. Host: "
    return [f'{activate} || __orc_refuse {shlex.quote(words)}"$HOSTNAME"']


def _setup(setup: str, workdir: str) -> list[str]:
    path, words = _path(setup, workdir), f"the setup script {setup}"
    missing = shlex.quote(f"{words} is not there, is no file or may not be read. Workdir: {workdir}; host: ")
    failed = shlex.quote(f"{words} ended with a status other than 0; where that is no failure, end it with: true")
    return [
        f'[ -f {path} ] && [ -r {path} ] || __orc_refuse {missing}"$HOSTNAME"',
        f". {path}",  # not `. … ||`, in which the script's own `set -e` would do nothing
        f"[ $? = 0 ] || __orc_refuse {failed}",
    ]


def _path(value: str, workdir: str) -> str:
    """A path as shell text: absolute, so that it is neither an option nor looked for on PATH."""
    if value == "~" or value.startswith("~/"):
        return '"$HOME"' + shlex.quote(value[1:] or "/")
    return shlex.quote(os.path.join(workdir, value))  # noqa: PTH118 — pathlib would tidy "." away, and it is text


# -- finding it --------------------------------------------------------------------------------------------------------


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
        self.evidence.append(Evidence(file=_plain(str(file), 4096), says=says))

    def offer(self, lines: list[str], **fields: Any) -> None:
        try:
            self.offers.append((Environment(**fields), lines))
        except ValidationError:  # a path with a line break, or that is no text
            self.notes.append(f"{_plain(' '.join(lines), 4096)} would apply, but its path is not one line of text.")

    def offer_prefix(self, prefix: Path) -> None:
        """Offers a conda environment by its path: two installations may have one name each."""
        tool = next(iter(self.tools), None)
        if tool is None:
            self.notes.append(f"{_word(prefix)} is a conda environment, but {_installed(self.tools)}")
            return
        hook = [f'eval "$({tool} shell hook --shell bash)"'] if tool == "micromamba" else []
        self.offer([*hook, f"{tool} activate {_word(prefix)}"], conda=str(prefix), conda_tool=tool)

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
    if not _is_dir(workdir):
        return Found(notes=[f"{_word(workdir)} is not a directory that can be looked into."])
    look = _Look(_tools())
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
        status = _status(parent)
        if parent in {Path.home(), Path("/")} or status is None or status.st_mode & stat.S_IWOTH:
            break
        levels.append(parent)
    for markers in ENDS_OF_PROJECT:
        for number, level in enumerate(levels, 1):
            if any(_status(level / marker) for marker in markers):
                return levels[:number]
    return [workdir]


def _look_at_venvs(place: Path, look: _Look) -> None:
    locked = _is_file(place / "uv.lock")
    if locked:
        look.saw(place / "uv.lock", "a uv project")
    for path in (place / name for name in VENVS):
        if not _is_file(path / "pyvenv.cfg"):
            continue
        look.saw(path / "pyvenv.cfg", _virtualenv_says(path))
        remedy = "uv sync" if locked and path.name == ".venv" else f"python3 -m venv --clear {_word(path)}"
        trouble = _trouble(path)
        if trouble:
            look.notes.append(f"The virtualenv {_word(path)} is broken: {trouble}. Make it anew: {remedy}")
            continue
        lines = [f"source {_word(path / 'bin/activate')}"]
        if locked and path.name == ".venv":
            look.offer(lines, uv=True)
        else:
            look.offer(lines, venv=str(path))
    if locked:
        look.advice.append(f"uv.lock found, but no environment: make it with cd {_word(place)} && uv sync")


def _virtualenv_says(path: Path) -> str:
    lines = (_text(path / "pyvenv.cfg") or "").splitlines()
    keys = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    version = keys.get("version") or keys.get("version_info")
    maker = f", made by uv {keys['uv']}" if "uv" in keys else ""
    return "a virtualenv" + _plain(f" of Python {version}" if version else "") + _plain(maker)


def _trouble(venv: Path) -> str:
    """What keeps a virtualenv from working, "" for nothing."""
    python = venv / "bin/python"
    if not _is_file(python):
        return f"its python is gone, or out of reach ({_word(Path(os.path.realpath(python)))})"
    if not os.access(python, os.X_OK):
        return "its python may not be executed"
    return "" if _text(venv / "bin/activate") is not None else "it has no bin/activate that can be read"


def _look_at_prefixes(place: Path, look: _Look) -> None:
    for prefix in (place / name for name in PREFIXES):
        if _is_dir(prefix / "conda-meta"):
            look.saw(prefix / "conda-meta", "a conda environment")
            look.offer_prefix(prefix)


def _look_at_conda_files(place: Path, look: _Look) -> None:
    for file in (place / "environment.yml", place / "environment.yaml"):
        if not _is_file(file):
            continue
        name = conda_name(_text(file) or "")
        look.saw(file, f"names the conda environment {name}" if name else "a conda environment without a name")
        prefix = _find_prefix(name) if name else None
        if prefix is not None:
            look.saw(prefix / "conda-meta", f"the conda environment {name}")
            look.offer_prefix(prefix)
        elif name:
            tool = next(iter(look.tools), "conda")
            make = f"{tool}{'' if tool == 'micromamba' else ' env'} create -f {_word(file)}"
            look.notes.append(
                f"{file.name} names the conda environment {name}, which was not found; "
                f"{_installed(look.tools)} Make it with: {make}"
            )


def conda_name(text: str) -> str | None:
    """The ``name:`` of an environment.yml, by its line; None where there is none that ``conda activate`` would take."""
    value = r"""("[^"\\]*"|'[^']*'|[^\s#"'|>&*!{\[%@`]\S*)"""
    match = re.search(rf"^(?:name|\"name\"|'name')[ \t]*:[ \t]+{value}[ \t]*(?:[ \t]#.*)?\r?$", text, re.MULTILINE)
    name = match[1].strip("\"'") if match else ""
    return name if _CONDA_NAME.fullmatch(name) and _is_one_line(name) and len(name) <= 200 else None


def _tools() -> dict[CondaTool, Path]:
    """Which of conda, mamba and micromamba are installed, and where: PATH, what their own set-up left, usual places."""
    found: dict[CondaTool, Path] = {}
    for tool in TOOLS:
        told = [os.environ.get("CONDA_EXE"), os.environ.get("MAMBA_EXE"), shutil.which(tool)]
        usual = [base / "bin" / tool for base in _bases()] + [Path.home() / ".local/bin" / tool]
        paths = [path for path in map(Path, filter(None, told)) if path.name == tool] + usual
        for path in paths:
            if _is_file(path) and os.access(path, os.X_OK):
                found[tool] = path
                break
    return found


def _bases() -> list[Path]:
    home = Path.home()
    return [home / name for name in CONDA_HOMES] + [Path("/opt") / name for name in CONDA_HOMES]


def _find_prefix(name: str) -> Path | None:
    """Where a conda environment of this name is: below the installations, the root prefixes, or in conda's own list."""
    home, told = Path.home(), [os.environ.get(variable) for variable in ("CONDA_EXE", "MAMBA_EXE")]
    roots = [Path(path).parent.parent for path in [*told, shutil.which("conda")] if path]
    roots += [Path(path) for path in [os.environ.get("MAMBA_ROOT_PREFIX")] if path]
    roots += [*_bases(), home / "micromamba", home / ".local/share/mamba", home / ".conda"]
    listed = [Path(line) for line in (_text(home / ".conda/environments.txt") or "").splitlines()]
    candidates = [root / "envs" / name for root in roots] + [path for path in listed if path.name == name]
    return next((path for path in candidates if path.is_absolute() and _is_dir(path / "conda-meta")), None)


def _installed(tools: dict[CondaTool, Path]) -> str:
    if not tools:
        return "neither conda, mamba nor micromamba was found on this machine (a module may bring one)."
    return f"installed here: {', '.join(f'{tool} ({_word(path)})' for tool, path in tools.items())}."


def _look_at_project(place: Path, look: _Look) -> None:
    """Files that say what is needed, and how to make an environment of it."""
    make = f"cd {_word(place)} && python3 -m venv .venv && .venv/bin/pip install"
    if _is_file(place / "requirements.txt"):
        look.saw(place / "requirements.txt", "packages for pip")
        look.advice.append(f"requirements.txt found, but no virtualenv: make one with {make} -r requirements.txt")
    packaged = _is_file(place / "setup.py")
    if packaged:
        look.saw(place / "setup.py", "a Python package")
    pyproject = _text(place / "pyproject.toml")
    tables = _tables(pyproject or "")
    if pyproject is not None:
        look.saw(place / "pyproject.toml", _project_says(tables))
    pixi = "tool.pixi" in tables or _is_file(place / "pixi.toml")
    if pixi:
        look.notes.append("A pixi project: let the command begin with `pixi run`.")
    elif "tool.poetry" in tables:
        look.notes.append(
            "Poetry may keep its virtualenv elsewhere: `poetry env info --path` tells; give that as venv."
        )
    elif (pyproject is not None or packaged) and not _is_file(place / "uv.lock"):
        look.advice.append(f"A Python project, but no virtualenv: make one with {make} -e .")
    version = (_text(place / ".python-version") or "").strip()
    if version:
        look.saw(place / ".python-version", f"Python {_plain(version.splitlines()[0])}")


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
    words = ["the project " + _plain(name) if name else "a project"]
    words += [f"needs Python {_plain(python)}"] if python else []
    words += [f"uses {' and '.join(tools)}"] if tools else []
    return ", ".join(words)


def _look_at_scripts(place: Path, look: _Look) -> None:
    for file in (place / name for name in (".envrc", "setup.sh", "env.sh")):
        if _is_file(file):
            look.saw(file, "may set up an environment; never chosen: give it as setup if it does")


# -- files, whatever they are ------------------------------------------------------------------------------------------


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # not there, not to be entered, a circle of links, a name too long
        return None


def _is_file(path: Path) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def _is_dir(path: Path) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _text(path: Path) -> str | None:
    """The beginning of a text file; None for what is none, or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)  # a pipe is not waited for
        with os.fdopen(fd, "rb") as file:
            data = file.read(LONGEST_READ) if stat.S_ISREG(os.fstat(fd).st_mode) else b"\0"
    except (OSError, ValueError):
        return None
    return None if b"\0" in data else data.decode("utf-8-sig", "replace")


def _plain(text: str, longest: int = 100) -> str:
    """Text of a file or a path, as it can be shown: no control characters, valid Unicode, not endless."""
    shown = "".join(char if _is_one_line(char) else "�" for char in text[:longest])
    return shown + "…" * (len(text) > longest)


def _word(path: Path) -> str:
    """A path as a word of a command line, to be shown."""
    return _plain(shlex.quote(str(path)), 5000)
