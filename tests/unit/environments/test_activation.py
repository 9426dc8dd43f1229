"""What the bash text of an environment does in a real bash."""

import os
from pathlib import Path

import pytest

from orchestrator.environments.activation import EXIT_CODE, REFUSED, activation_script
from orchestrator.environments.model import Environment
from tests.support.environments import CONDA, HOOK, HOSTILE, MODULE, applied, executable, like_venv, make_venv, refused

WRAPPER = Path(__file__).parents[3] / "slurm_templates" / "wrapper.sh"


def test_nothing_asked_for_is_no_text() -> None:
    assert activation_script(Environment(), "/anywhere") == ""


def test_a_workdir_must_be_absolute() -> None:
    with pytest.raises(ValueError, match="not absolute"):
        activation_script(Environment(venv=".venv"), "work")


def test_a_virtualenv_is_on_for_the_command(work: Path) -> None:
    make_venv(work / ".venv")
    for venv in (".venv", str(work / ".venv"), f"../{work.name}/.venv"):
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


@pytest.mark.parametrize("strictness", ["", "set -euo pipefail; set -o noclobber", "set -u; unset ORC_ATTEMPT"])
def test_a_refusal_leaves_its_words_in_the_attempts_directory_where_there_is_one(
    work: Path, monkeypatch: pytest.MonkeyPatch, strictness: str
) -> None:
    attempt = work.parent / "attempts" / "2"
    attempt.mkdir(parents=True)
    (attempt / REFUSED).touch()
    monkeypatch.setenv("ORC_RUN_DIR", str(work.parent))
    monkeypatch.setenv("ORC_ATTEMPT", "2")
    done = applied(Environment(modules=["missing"]), work, before=f"{strictness}\n{MODULE}")
    assert refused(done, "module load missing failed")
    assert (done.stderr.splitlines()[-1], len(done.stderr.splitlines())) == (told(done.stderr), 2)
    assert ("module load missing" in (attempt / REFUSED).read_text()) == ("ORC_ATTEMPT" not in strictness)


def told(errors: str) -> str:
    """The refusal's own line of what was written on standard error."""
    return next(line for line in errors.splitlines() if line.startswith("orc: environment: "))


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
