"""What environment is found in a workdir, whatever stands there."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.environments.detection import detect
from orchestrator.environments.files import LONGEST_READ
from orchestrator.environments.model import Environment
from tests.support.environments import HOSTILE, applied, like_venv, make_venv

# What is found


@pytest.fixture(scope="session")
def real_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Any virtualenv, for what only looks at one."""
    return make_venv(tmp_path_factory.mktemp("venv") / "made")


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


# Whatever stands there

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
    begin = time.thread_time()
    found = detect(work)
    assert time.thread_time() - begin < 2
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
    begin = time.thread_time()
    detect(work)
    assert time.thread_time() - begin < 2


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
