"""A run's software environment: what may be asked for, what its bash text does in a real bash, what is found."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.environments import (
    EXIT_CODE,
    LONGEST_READ,
    Environment,
    EnvironmentAsked,
    activation_script,
    conda_name,
    detect,
)

WRAPPER = Path(__file__).parents[2] / "slurm_templates" / "wrapper.sh"
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


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and a PATH without any conda."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
    for name in ("CONDA_EXE", "MAMBA_EXE", "MAMBA_ROOT_PREFIX", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A workdir."""
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def real_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Any virtualenv, for what only looks at one."""
    return make_venv(tmp_path_factory.mktemp("venv") / "made")


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


# -- what may be asked for ---------------------------------------------------------------------------------------------


class Asked(BaseModel):
    """A body that may ask."""

    environment: EnvironmentAsked | None = None


def test_an_environment_is_auto_or_written_out_or_none() -> None:
    assert Asked.model_validate({}).environment is None
    assert Asked.model_validate({"environment": "auto"}).environment == "auto"
    given = Asked.model_validate({"environment": {"venv": ".venv", "modules": ["cuda/12.4"]}}).environment
    assert given == Environment(venv=".venv", modules=["cuda/12.4"])
    assert Asked(environment=Environment(uv=True)).model_dump(exclude_defaults=True) == {"environment": {"uv": True}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("Auto", "'auto'"),
        ({"venv": "a", "conda": "b"}, "venv and conda exclude each other"),
        ({"uv": True, "conda": "b"}, "conda and uv exclude each other"),
        ({"venv": "a", "conda": "b", "uv": True}, "at most one of venv, conda and uv"),
        ({"venv": " "}, "must not be empty"),
        ({"conda": "a b"}, 'begins with no "-"'),
        ({"conda": "-h"}, 'begins with no "-"'),
        ({"conda": ".."}, 'begins with no "-"'),
        ({"conda_tool": "pixi"}, "'micromamba'"),
        ({"pip": "x"}, "Extra inputs"),
        (["auto"], "valid dictionary"),
    ],
)
def test_what_cannot_be_is_refused_once_and_in_words(value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate({"environment": value})
    [error] = caught.value.errors()
    assert words in error["msg"]


@pytest.mark.parametrize("char", ["\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\ud800", "\x7f", "\t"])
@pytest.mark.parametrize("field", ["venv", "conda", "setup", "modules"])
def test_no_value_holds_a_control_character(field: str, char: str) -> None:
    value = f"/a{char}b"
    with pytest.raises(ValidationError):
        Environment.model_validate({field: [value] if field == "modules" else value})


@pytest.mark.parametrize(
    "name",
    ["cuda/12.4", "GCCcore/12.3.0", "Python/3.11.3-GCCcore-12.3.0", "openmpi@4.1:", "foo+bar~baz", "/site/modules/x"],
)
def test_modules_are_named_as_sites_name_them(name: str) -> None:
    assert Environment(modules=[name]).modules == [name]


@pytest.mark.parametrize("name", ["-cuda", "--purge", "", "a b", "a;b", "$(x)", "a'b", "ä", "cuda\n"])
def test_what_is_no_module_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Environment(modules=[name])


def test_an_environment_has_a_schema_and_stays_as_it_is() -> None:
    assert TypeAdapter(EnvironmentAsked).json_schema()["oneOf"]
    with pytest.raises(ValidationError, match="frozen"):
        Environment().venv = "x"  # type: ignore[misc]


# -- applying it -------------------------------------------------------------------------------------------------------


def test_nothing_asked_for_is_no_text() -> None:
    assert activation_script(Environment(), "/work") == ""


def test_a_workdir_must_be_absolute() -> None:
    with pytest.raises(ValueError, match="not absolute"):
        activation_script(Environment(venv=".venv"), "work")


def test_a_virtualenv_is_on_for_the_command(work: Path) -> None:
    make_venv(work / ".venv")
    for venv in (".venv", str(work / ".venv"), "../work/.venv"):
        done = applied(Environment(venv=venv), work, "python -c 'import sys; print(sys.prefix)'; echo $VIRTUAL_ENV")
        assert done.stdout.split() == [str(work / ".venv")] * 2, done.stderr
        assert (done.returncode, done.stderr) == (0, "")


def test_a_virtualenv_in_the_home_directory(work: Path, home: Path) -> None:
    make_venv(home / "my venv")
    done = applied(Environment(venv="~/my venv"), work, "echo $VIRTUAL_ENV")
    assert done.stdout.strip() == str(home / "my venv")


def test_modules_come_first_then_conda_then_the_script(work: Path) -> None:
    (work / "setup.sh").write_text("echo setup:$CONDA_PREFIX\n")
    asked = Environment(modules=["cuda/12.4", "gcc/12"], conda="torch", setup="setup.sh")
    done = applied(asked, work)
    assert done.stdout.split() == ["module:cuda/12.4", "module:gcc/12", "conda:torch", "setup:torch", "ran"]


def test_nothing_of_the_script_is_left_behind(work: Path) -> None:
    make_venv(work / ".venv")
    (work / "uv.lock").touch()
    (work / "setup.sh").write_text("declare -A kept=([a]=1)\nalso=2\n")
    asked = Environment(modules=["cuda"], uv=True, setup="setup.sh")
    done = applied(asked, work, 'compgen -A function -A variable __orc; echo "${kept[a]} $also"; echo "$-"')
    assert done.stdout.splitlines()[1:] == ["1 2", "hBc"], done.stderr


def test_the_script_may_be_read_by_a_strict_shell(work: Path) -> None:
    make_venv(work / ".venv")
    (work / "setup.sh").write_text("true\n")
    asked = Environment(modules=["cuda"], venv=".venv", setup="setup.sh")
    assert applied(asked, work, before="set -euo pipefail" + MODULE).returncode == 0


def test_what_is_not_there_is_refused_with_what_would_be_right(work: Path) -> None:
    assert refused(applied(Environment(venv="no/venv"), work), f"{work}/no/venv", "python3 -m venv --clear")
    assert refused(applied(Environment(uv=True), work), "no uv.lock", "uv sync")
    assert refused(applied(Environment(modules=["missing/1"]), work), "module load missing/1", "module avail")
    assert refused(applied(Environment(conda="missing"), work), "EnvironmentNameNotFound", "conda env list")
    assert refused(applied(Environment(setup="no.sh"), work), "no.sh", str(work))


def test_without_conda_and_modules_the_wrappers_own_words_stand_before_ours(work: Path) -> None:
    before = WRAPPER.read_text().replace('. "$ORC_RUN_DIR/command.sh"', "")
    assert refused(applied(Environment(modules=["cuda"]), work, before=before), "module")
    assert refused(applied(Environment(conda="x"), work, before=before), "conda")
    assert refused(applied(Environment(conda="x", conda_tool="mamba"), work, before=before), "mamba could not")


def test_the_wrappers_conda_serves(work: Path, home: Path) -> None:
    executable(home / "miniforge3/etc/profile.d/conda.sh", CONDA)
    before = WRAPPER.read_text().replace('. "$ORC_RUN_DIR/command.sh"', "")
    for tool in ("conda", "mamba"):
        done = applied(Environment.model_validate({"conda": "x", "conda_tool": tool}), work, before=before)
        assert done.stdout.split() == ["conda:x", "ran"]


def test_the_second_module_that_is_not_there_is_the_one_that_is_named(work: Path) -> None:
    done = applied(Environment(modules=["gcc", "missing"]), work)
    assert refused(done, "module load missing")
    assert "module:gcc" in done.stdout


@pytest.mark.parametrize(
    ("loaded", "code"), [("a/1:cuda/12.4", 0), ("cuda", 0), ("cudax/1", EXIT_CODE), ("", EXIT_CODE)]
)
def test_modules_3_which_always_answers_0_is_not_believed(work: Path, loaded: str, code: int) -> None:
    before = f"module() {{ LOADEDMODULES={loaded}; }}; MODULE_VERSION=3.2.10"
    assert applied(Environment(modules=["cuda"]), work, before=before).returncode == code


def test_a_virtualenv_whose_python_is_gone_is_refused(work: Path) -> None:
    python = make_venv(work / "venv") / "bin/python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.0")
    assert refused(applied(Environment(venv="venv"), work), "broken", "python3 -m venv --clear")


def test_a_virtualenv_that_was_moved_is_refused_and_not_another_python_used(work: Path) -> None:
    make_venv(work / "venv").rename(work / "moved")
    assert refused(applied(Environment(venv="moved"), work), "made at another path")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_words_and_nothing_else(work: Path, name: str) -> None:
    venv = like_venv(work / name / "venv")
    script = work / name / "setup"
    script.write_text("echo sourced\n")
    asked = Environment(venv=f"{name}/venv", setup=f"{name}/setup")
    done = applied(asked, work, "command -v python; echo ran")
    assert done.stdout.splitlines() == ["sourced", str(venv / "bin/python"), "ran"], done.stderr
    done = applied(Environment(conda=f"{name}/env"), work)
    assert done.stdout.splitlines() == [f"conda:{work}/{name}/env", "ran"]
    for absent in ({"venv": f"{name}/missing"}, {"setup": f"{name}/missing"}, {"conda": f"{name}/missing"}):
        assert refused(applied(Environment.model_validate(absent), work), "missing")
    assert not list(work.rglob("hacked"))
    assert not (work.parent / "hacked").exists()


@pytest.mark.parametrize("name", ["$(touch${IFS}hacked)", "it's", '"x"', "é✓", "a;b", "*", "~", "~x", "$HOME"])
def test_hostile_conda_names_reach_conda_as_they_are(work: Path, home: Path, name: str) -> None:
    done = applied(Environment(conda=name), work)
    assert done.stdout.splitlines() == [f"conda:{home if name == '~' else name}".rstrip("/"), "ran"] or name == "~"
    assert refused(applied(Environment(conda=name + "missing"), work))
    assert not (work / "hacked").exists()


def test_a_hostile_workdir_is_one_word(tmp_path: Path) -> None:
    work = tmp_path / "-a '$(touch hacked)' \n b"
    work.mkdir()
    venv = like_venv(work / "venv")
    (work / "uv.lock").touch()
    like_venv(work / ".venv")
    assert applied(Environment(venv="venv"), work, "command -v python").stdout == f"{venv}/bin/python\n"
    assert applied(Environment(uv=True), work, "command -v python").stdout == f"{work}/.venv/bin/python\n"
    assert refused(applied(Environment(venv="other"), work))
    assert refused(applied(Environment(setup="other"), work))
    assert list(work.rglob("hacked")) == []


def test_uv_is_found_above_the_workdir(work: Path) -> None:
    (work / "uv.lock").touch()
    below = work / "a/b/c"
    below.mkdir(parents=True)
    assert refused(applied(Environment(uv=True), below), f"no virtualenv at {work}/.venv", "uv sync")
    make_venv(work / ".venv")
    assert applied(Environment(uv=True), below, "echo $VIRTUAL_ENV").stdout.strip() == f"{work}/.venv"
    (below / "d").mkdir()
    assert refused(applied(Environment(uv=True), below / "d"), "no uv.lock")


def test_a_setup_script_that_fails_is_refused(work: Path) -> None:
    (work / "setup.sh").write_text("echo half\nreturn 3\n")
    done = applied(Environment(setup="setup.sh"), work)
    assert refused(done, "setup.sh", "end it with: true")
    assert done.stdout.split() == ["half"]


def test_the_setup_scripts_own_set_e_holds(work: Path) -> None:
    (work / "setup.sh").write_text("set -e\nfalse\necho on\n")
    done = applied(Environment(setup="setup.sh"), work)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("kind", ["directory", "fifo", "loop"])
def test_a_setup_script_that_is_no_file_is_refused_at_once(work: Path, kind: str) -> None:
    path = work / "setup.sh"
    if kind == "loop":
        path.symlink_to(path)
    else:
        (Path.mkdir if kind == "directory" else os.mkfifo)(path)
    assert refused(applied(Environment(setup="setup.sh"), work), "is no file")


@pytest.mark.parametrize("place", ["PATH", "HOME", "MAMBA_EXE"])
@pytest.mark.parametrize("tool", ["mamba", "micromamba"])
def test_mamba_and_micromamba_are_made_to_work_by_their_own_hook(
    work: Path, home: Path, monkeypatch: pytest.MonkeyPatch, place: str, tool: str
) -> None:
    folder = home / ".local/bin" if place == "HOME" else home / "it's $(touch hacked)"
    exe = executable(folder / tool, HOOK.replace("NAME", tool))
    if place == "PATH":
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    elif place == "MAMBA_EXE":
        monkeypatch.setenv("MAMBA_EXE", str(exe))
    asked = Environment.model_validate({"conda": "x", "conda_tool": tool})
    assert applied(asked, work).stdout.split() == [f"{tool}:x", "ran"]
    asked = Environment.model_validate({"conda": "missing", "conda_tool": tool})
    assert refused(applied(asked, work), f"{tool} could not activate missing")


def test_a_mamba_without_a_hook_leaves_it_to_conda(work: Path, home: Path) -> None:
    executable(home / ".local/bin/mamba", "#!/bin/sh\necho usage >&2\nexit 2\n")
    done = applied(Environment(conda="x", conda_tool="mamba"), work)
    assert (done.stdout.split(), done.stderr) == (["conda:x", "ran"], "")


def test_a_micromamba_that_is_not_there_is_refused(work: Path) -> None:
    assert refused(applied(Environment(conda="x", conda_tool="micromamba"), work), "micromamba is not on")


# -- finding it --------------------------------------------------------------------------------------------------------


def test_a_directory_without_anything_has_none(work: Path) -> None:
    assert detect(work).model_dump() == {"environment": None, "evidence": [], "activation": [], "notes": []}


@pytest.mark.parametrize("kind", ["absent", "file", "loop", "fifo", "long"])
def test_a_workdir_that_is_none_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 5000 if kind == "long" else "x")
    if kind == "loop":
        path.symlink_to(path)
    elif kind in {"file", "fifo"}:
        (Path.touch if kind == "file" else os.mkfifo)(path)
    found = detect(path)
    assert found.environment is None
    assert "is not a directory" in found.notes[0]


@pytest.mark.parametrize("name", [".venv", "venv", "env"])
def test_a_virtualenv_is_found_and_its_activation_works(work: Path, real_venv: Path, name: str) -> None:
    (work / name).symlink_to(real_venv)
    found = detect(work)
    assert found.environment == Environment(venv=str(work / name))
    assert found.evidence[0].file == str(work / name / "pyvenv.cfg")
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in found.evidence[0].says
    done = subprocess.run(
        ["/bin/bash", "-c", "\n".join([*found.activation, "echo $VIRTUAL_ENV"])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(real_venv)
    assert applied(found.environment, work).stdout.split() == ["ran"]


def test_the_first_of_several_is_chosen_and_the_others_are_told(work: Path) -> None:
    for name in ("env", "venv", ".venv"):
        like_venv(work / name)
    found = detect(work)
    assert found.environment == Environment(venv=str(work / ".venv"))
    assert [note for note in found.notes if "not chosen" in note] == [
        f"Also found, and not chosen: source {work}/{name}/bin/activate" for name in ("venv", "env")
    ]


def test_a_uv_project_is_one(work: Path) -> None:
    (work / "uv.lock").touch()
    (work / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.uv]\n')
    found = detect(work)
    assert found.environment is None
    assert f"cd {work} && uv sync" in found.notes[0]
    venv = like_venv(work / ".venv")
    (venv / "pyvenv.cfg").write_text("uv = 0.9.1\nversion_info = 3.12.1\n")
    found = detect(work / ".")
    assert found.environment == Environment(uv=True)
    assert "of Python 3.12.1, made by uv 0.9.1" in [seen.says for seen in found.evidence][1]
    assert applied(found.environment, work).stdout.split() == ["ran"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [("python", "its python is gone, or out of reach (/nowhere/python3)"), ("activate", "it has no bin/activate")],
)
def test_a_broken_virtualenv_is_told_and_not_chosen(work: Path, damage: str, words: str) -> None:
    file = like_venv(work / ".venv") / "bin" / damage
    file.unlink()
    if damage == "python":
        file.symlink_to("/nowhere/python3")
    found = detect(work)
    assert found.environment is None
    assert words in found.notes[0]
    assert f"python3 -m venv --clear {work}/.venv" in found.notes[0]


def test_a_project_above_is_looked_through_up_to_its_root(work: Path) -> None:
    below = work / "a/b"
    below.mkdir(parents=True)
    like_venv(work / ".venv")
    assert detect(below).environment is None  # no sign of a project: whose would it be?
    (work / ".git").mkdir()
    assert detect(below).environment == Environment(venv=str(work / ".venv"))
    like_venv(work / "a/venv")
    assert detect(below).environment == Environment(venv=str(work / "a/venv"))
    (work / "a/uv.lock").touch()
    (work / "a/venv").rename(work / "a/elsewhere")
    assert detect(below).environment is None
    assert detect(work / "a/b/../..").environment == Environment(venv=str(work / ".venv"))


def test_what_stands_too_far_up_at_home_or_where_all_may_write_is_nobodys_project(work: Path, home: Path) -> None:
    for top in (work, home):
        like_venv(top / ".venv")
        (top / ".git").mkdir()
        (top / "1/2/3/4").mkdir(parents=True)
    assert detect(work / "1/2/3").environment == Environment(venv=str(work / ".venv"))
    assert detect(work / "1/2/3/4").environment is None
    assert detect(home / "1").environment is None
    assert detect(home).environment is not None
    work.chmod(0o1777)
    assert detect(work / "1").environment is None


def test_requirements_without_a_virtualenv_come_with_what_to_do(tmp_path: Path) -> None:
    work = tmp_path / "my work"
    work.mkdir()
    (work / "requirements.txt").write_text("numpy\n")
    found = detect(work)
    assert [seen.says for seen in found.evidence] == ["packages for pip"]
    assert found.notes == [
        "requirements.txt found, but no virtualenv: make one with "
        f"cd '{work}' && python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"
    ]
    like_venv(work / ".venv")
    assert detect(work).notes == []


def test_what_a_project_says_is_shown(work: Path) -> None:
    (work / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["x"]\n[project]\nname = "demo" # so\nrequires-python = ">=3.11"\n'
        "[tool.poetry.dependencies]\n[ tool . pixi ]\n[tool.poetry]\n"
    )
    (work / "setup.py").touch()
    (work / ".python-version").write_text("3.12.1\n")
    for name in (".envrc", "setup.sh", "env.sh"):
        (work / name).write_text("touch hacked\n")
    found = detect(work)
    says = {Path(seen.file).name: seen.says for seen in found.evidence}
    assert says["pyproject.toml"] == "the project demo, needs Python >=3.11, uses poetry and pixi"
    assert says[".python-version"] == "Python 3.12.1"
    assert all("never chosen" in says[name] for name in (".envrc", "setup.sh", "env.sh"))
    assert found.environment is None
    assert "pixi run" in found.notes[0]
    assert not (work / "hacked").exists()


def test_poetry_and_plain_projects_come_with_what_to_do(work: Path) -> None:
    (work / "pyproject.toml").write_text("[tool.poetry]\nname = 'x'\n")
    assert "poetry env info --path" in detect(work).notes[0]
    (work / "pyproject.toml").write_text("[project]\n")
    assert "pip install -e ." in detect(work).notes[0]


# -- conda -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("name: torch\nchannels:\n  - x\n", "torch"),
        ("# name: no\nchannels: [a]\nname:   torch   # yes\r\ndependencies:\n", "torch"),
        ('name: "torch-2"', "torch-2"),
        ("name: 'torch'\n", "torch"),
        ('"name": torch\n', "torch"),
        ("name : torch\n", "torch"),
        ("name: é✓\n", "é✓"),
        ("name:\n  torch\n", None),
        ("name: |\n  torch\n", None),
        ("name: two words\n", None),
        ("name: &anchor\n", None),
        ("name: ../../x\n", None),
        ("name: -h\n", None),
        ("name: ..\n", None),
        ("name: ''\n", None),
        ("dependencies:\n  name: x\n", None),
        ("names: x\n", None),
        ("name:" + " " * 60_000 + "a b", None),
        ("", None),
    ],
)
def test_the_name_of_an_environment_file(text: str, name: str | None) -> None:
    begin = time.perf_counter()
    assert conda_name(text) == name
    assert time.perf_counter() - begin < 1


def test_a_named_environment_that_was_made_is_chosen_by_its_path(work: Path, home: Path) -> None:
    (work / "environment.yml").write_text("name: torch\n")
    found = detect(work)
    assert found.environment is None
    assert "names the conda environment torch, which was not found" in found.notes[0]
    assert "neither conda, mamba nor micromamba" in found.notes[0]
    executable(home / "miniforge3/bin/conda", "#!/bin/sh\n")
    found = detect(work)
    assert f"installed here: conda ({home}/miniforge3/bin/conda)" in found.notes[0]
    assert f"conda env create -f {work}/environment.yml" in found.notes[0]
    prefix = conda_prefix(home / "miniforge3/envs/torch")
    found = detect(work)
    assert found.environment == Environment(conda=str(prefix))
    assert found.activation == [f"conda activate {prefix}"]
    assert applied(found.environment, work).stdout.split() == [f"conda:{prefix}", "ran"]


def test_an_environment_in_condas_own_list_is_found(work: Path, home: Path, tmp_path: Path) -> None:
    prefix = conda_prefix(tmp_path / "scratch/torch")
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"relative/torch\n/gone/torch\n{prefix}\n")
    (work / "environment.yaml").write_text("name: torch\n")
    found = detect(work)
    assert found.environment is None
    assert "is a conda environment, but neither conda" in found.notes[0]
    executable(home / ".local/bin/micromamba", HOOK.replace("NAME", "micromamba"))
    found = detect(work)
    assert found.environment == Environment(conda=str(prefix), conda_tool="micromamba")
    assert found.activation == ['eval "$(micromamba shell hook --shell bash)"', f"micromamba activate {prefix}"]
    assert applied(found.environment, work).stdout.split() == [f"micromamba:{prefix}", "ran"]


@pytest.mark.parametrize("variable", ["CONDA_EXE", "MAMBA_EXE", "MAMBA_ROOT_PREFIX", "PATH"])
def test_where_conda_said_that_it_is_it_is_looked_for(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    base = tmp_path / "base"
    name = "mamba" if variable == "MAMBA_EXE" else "conda"
    exe = executable(base / "bin" / name, "#!/bin/sh\n")
    values = {"PATH": f"{exe.parent}:{os.environ['PATH']}", "MAMBA_ROOT_PREFIX": str(base)}
    monkeypatch.setenv(variable, values.get(variable, str(exe)))
    if variable == "MAMBA_ROOT_PREFIX":
        monkeypatch.setenv("CONDA_EXE", str(executable(tmp_path / "other/bin/conda", "")))
    conda_prefix(base / "envs/torch")
    (work / "environment.yml").write_text("name: torch\n")
    chosen = detect(work).environment
    assert chosen is not None
    assert (chosen.conda, chosen.conda_tool) == (str(base / "envs/torch"), name)


@pytest.mark.parametrize("name", [".conda", "env", "envs"])
def test_a_conda_environment_in_the_workdir_is_found(work: Path, home: Path, name: str) -> None:
    executable(home / "miniconda3/bin/conda", "#!/bin/sh\n")
    conda_prefix(work / name)
    assert detect(work).environment == Environment(conda=str(work / name))
    like_venv(work / ".venv")
    found = detect(work)
    assert found.environment == Environment(venv=str(work / ".venv"))
    assert f"Also found, and not chosen: conda activate {work}/{name}" in found.notes


# -- whatever stands there ---------------------------------------------------------------------------------------------

LOOKED_AT = [
    "uv.lock",
    "environment.yml",
    "pyproject.toml",
    "requirements.txt",
    ".python-version",
    "setup.sh",
    "setup.py",
]


def fill(work: Path, kind: str) -> None:
    """Everything that is looked at, as something that it should not be."""
    for name in [*LOOKED_AT, ".venv", "venv", "env/pyvenv.cfg", ".conda/conda-meta", "environment.yaml"]:
        path = work / name
        path.parent.mkdir(exist_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "endless":
            path.symlink_to("/dev/zero")
        elif kind == "binary":
            path.write_bytes(bytes(range(256)) * 10)
        elif kind == "not text":
            path.write_bytes(b"name: \xff\xfe\n[project]\nname = '\xff'\n")


@pytest.mark.parametrize("kind", ["fifo", "loop", "directory", "endless", "binary", "not text"])
def test_files_that_are_something_else_hurt_nobody(work: Path, kind: str) -> None:
    fill(work, kind)
    begin = time.perf_counter()
    found = detect(work)
    assert time.perf_counter() - begin < 2
    assert found.environment is None
    found.model_dump_json()


def test_a_file_from_windows_is_read(work: Path) -> None:
    (work / "environment.yml").write_bytes(b"\xef\xbb\xbfname: torch\r\nchannels: []\r\n")
    assert detect(work).evidence[0].says == "names the conda environment torch"


def test_no_more_than_the_beginning_of_a_file_is_read(work: Path) -> None:
    (work / "environment.yml").write_text("#" + "x" * LONGEST_READ + "\nname: late\n")
    with (work / "pyproject.toml").open("w") as file:
        file.truncate(2**40)
    (work / ".python-version").write_text("9" * 10**6)
    found = detect(work)
    assert found.evidence[0].says == "a conda environment without a name"
    assert max(len(seen.says) for seen in found.evidence) < 200


@pytest.mark.parametrize(
    "line", ["a." * 32_000 + "a = 1", "[" + "a." * 32_000 + "a]", "[" * 60_000, " " * 60_000 + "x"]
)
def test_lines_made_to_take_long_do_not(work: Path, line: str) -> None:
    for name in LOOKED_AT:
        (work / name).write_text(line)
    (work / "venv").mkdir()
    (work / "venv/pyvenv.cfg").write_text(line)
    begin = time.perf_counter()
    detect(work)
    assert time.perf_counter() - begin < 2


def test_what_a_file_says_is_shown_without_its_escapes(work: Path) -> None:
    (work / "pyproject.toml").write_text('[project]\nname = "\x1b[31m\u2028red"\n')
    assert detect(work).evidence[0].says == "the project �[31m�red"


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"\xff"), "a\x1bb"])
def test_a_path_that_is_not_a_line_of_text_is_told_and_not_chosen(tmp_path: Path, name: str) -> None:
    work = tmp_path / name
    work.mkdir()
    like_venv(work / ".venv")
    found = detect(work)
    assert found.environment is None
    assert "not one line of text" in found.notes[0]
    found.model_dump_json()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_directories_are_found_and_applied(tmp_path: Path, name: str) -> None:
    work = tmp_path / name
    work.mkdir()
    venv = like_venv(work / ".venv")
    found = detect(work)
    assert found.environment == Environment(venv=str(venv))
    assert applied(found.environment, work, "command -v python").stdout == f"{venv}/bin/python\n"
    assert shlex.split(found.activation[0]) == ["source", f"{venv}/bin/activate"]
    assert not list(tmp_path.rglob("hacked"))


@pytest.fixture
def as_another(run_folder: Path) -> Iterator[Path]:
    """A workdir of another user, as whom the test goes on where root runs it: root may read everything."""
    path = run_folder / "environments"
    path.mkdir()
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(path, 65534, 65534)
            os.seteuid(65534)
        yield path
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(path)


def test_what_may_not_be_read_hurts_nobody(as_another: Path) -> None:
    for name in LOOKED_AT:
        (as_another / name).touch(mode=0)
    (as_another / ".venv").mkdir(mode=0)
    like_venv(as_another / "venv")
    (as_another / "venv/pyvenv.cfg").chmod(0)
    (as_another / "locked").mkdir(mode=0)
    found = detect(as_another)
    assert found.environment == Environment(venv=str(as_another / "venv"))
    assert detect(as_another / "locked").environment is not None  # by its parents: uv.lock says that here is a project
    assert "is not a directory" in detect(as_another / "locked/below").notes[0]
    (as_another / "venv/bin/activate").chmod(0)
    found = detect(as_another)
    assert found.environment is None
    assert any("no bin/activate that can be read" in note for note in found.notes)
    (as_another / "locked").chmod(0o700)
    (as_another / ".venv").chmod(0o700)
