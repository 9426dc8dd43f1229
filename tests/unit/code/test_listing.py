"""Which files and links of a workdir are its code, and so in the copy."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from orchestrator.code.snapshot import snapshot
from orchestrator.errors import BadInput
from tests.support.repositories import MEBI, copies, git, made, names, take, with_submodule


def test_outside_a_repository_the_workdirs_own_files_are_copied(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for name in (
        "a.py",
        "b/c.py",
        "b/__pycache__/c.pyc",
        ".venv/x",
        "wandb/run/y",
        "node_modules/z",
        "d.pyc",
        ".git/x",
    ):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).touch()
    os.mkfifo(work / "fifo")
    (work / "empty").mkdir()
    copy = take(work)
    assert names(copy.root) == {"a.py", "b/c.py"}
    assert copy.workdir == copy.root
    assert take(work / "b").root != copy.root


@pytest.mark.parametrize("in_git", [True, False])
def test_odd_names_are_copied(tmp_path: Path, in_git: bool) -> None:
    work = tmp_path / "work"
    work.mkdir()
    odd = {b"line\nbreak", b'quo"te', "größe".encode(), b"latin-\xe9", b"-flag", b" ", b"\\", b"a:b"}
    for name in odd:
        Path(os.fsdecode(os.fsencode(work) + b"/" + name)).touch()
    if in_git:
        git(work, "init", "-q")
        git(work, "add", ":/line*")
    assert set(os.listdir(os.fsencode(take(work).root))) == odd


@pytest.mark.parametrize("in_git", [True, False])
def test_links_lead_where_they_led_and_are_not_followed(tmp_path: Path, in_git: bool) -> None:
    work = made(tmp_path / "work")
    if not in_git:
        shutil.rmtree(work / ".git")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "big").write_text("big")
    (work / "absolute").symlink_to(tmp_path / "data")
    (work / "src" / "relative").symlink_to("../../data")
    (work / "within").symlink_to("src/model.py")
    (work / "folder").symlink_to("src")
    (work / "broken").symlink_to("nowhere")
    root = take(work).root
    links = {name: str((root / name).readlink()) for name in names(root) if (root / name).is_symlink()}
    assert links == {
        "absolute": str(tmp_path / "data"),
        "src/relative": str(tmp_path / "data"),
        "within": "src/model.py",
        "folder": "src",
        "broken": str(work / "nowhere"),
    }
    assert (root / "src" / "relative" / "big").read_text() == "big"


def test_tracked_files_behind_a_link_are_not_followed(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository / "src")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "model.py").write_text("secret")
    (repository / "src").symlink_to(tmp_path / "private")
    copy = take(repository)
    assert names(copy.root) == {".gitignore", "train.py", "src"}
    assert (copy.root / "src").is_symlink()


def test_an_index_that_names_files_outside_copies_none(repository: Path) -> None:
    (repository / "aa").mkdir()
    (repository / "aa" / "secret").touch()
    git(repository, "add", "-A")
    (repository.parent / "secret").write_text("secret")
    index = repository / ".git" / "index"
    forged = index.read_bytes()[:-20].replace(b"aa/secret", b"../secret")
    index.write_bytes(forged + hashlib.sha1(forged).digest())
    assert "../secret" in git(repository, "ls-files").split("\n")
    copy = take(repository)
    assert names(copy.root) == {".gitignore", "train.py", "src/model.py", "aa/secret"}
    assert (copy.root / "aa" / "secret").read_text() == ""
    assert copies(repository.parent) == [copy.digest]


def test_submodules_and_clones_within_are_copied_without_their_git(tmp_path: Path) -> None:
    outer = with_submodule(tmp_path)
    clone = made(outer / "clone")
    (clone / "last.ckpt").touch()
    made(clone / "deeper")
    copy = take(outer)
    assert {"lib/train.py", "clone/src/model.py", "clone/deeper/train.py", ".gitmodules"} <= names(copy.root)
    assert not any(".git" in Path(name).parts or name.endswith(".ckpt") for name in names(copy.root))


def test_a_submodule_that_is_not_checked_out_is_passed_over_and_a_broken_one_refused(tmp_path: Path) -> None:
    outer = with_submodule(tmp_path)
    shutil.rmtree(outer / "lib")
    (outer / "lib").mkdir()
    assert names(take(outer).root) == {".gitignore", ".gitmodules", "train.py", "src/model.py"}
    (outer / "lib" / ".git").mkdir()
    with pytest.raises(BadInput, match="at lib is not readable"):
        take(outer)


def test_what_is_no_code_for_the_limits_does_not_count(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for number in range(20):
        os.mkfifo(work / f"fifo-{number}")
    for number in range(5):
        (work / f"z{number}.py").touch()
    assert take(work, limit_files=5).files == 5


@pytest.mark.parametrize("in_git", [True, False])
def test_snapshots_within_the_workdir_are_not_copied(tmp_path: Path, in_git: bool) -> None:
    work = made(tmp_path / "work")
    if not in_git:
        shutil.rmtree(work / ".git")
    old = work / "state" / "snapshots" / ("0" * 40)
    for folder in (work / "before", old, work / "after"):  # code is listed after the snapshots in whatever order
        folder.mkdir(parents=True)
        (folder / "a.py").touch()
    before = {".gitignore", "train.py", "src/model.py", "before/a.py", "after/a.py"}
    for number in range(100):
        (old / f"file-{number:040}").touch()
    found = [snapshot(work, work / "state" / "snapshots", MEBI, len(before)) for _ in range(3)]
    assert found == [found[0]] * 3
    assert names(found[0].root) == before
