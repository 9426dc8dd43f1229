"""The copy of a workdir's code: what it is like, and that there is one for all runs of the same code."""

import errno
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest

from orchestrator.code import tree
from orchestrator.code.snapshot import Snapshot
from orchestrator.errors import BadInput, StorageFull
from tests.support.repositories import MEBI, copies, git, names, take

# The copy


def test_the_copy_is_the_code_as_it_is_on_disk(repository: Path) -> None:
    (repository / "train.py").write_text("print('edited')\n")
    (repository / "run.sh").write_text("true")
    (repository / "run.sh").chmod(0o755)
    (repository / "src" / "model.py").unlink()
    (repository / "src" / "new.py").touch()
    (repository / "last.ckpt").touch()
    copy = take(repository / "src")
    assert names(copy.root) == {".gitignore", "train.py", "run.sh", "src/new.py"}
    assert copy.workdir == copy.root / "src"
    assert (copy.root / "train.py").read_text() == "print('edited')\n"
    assert (copy.files, copy.size) == (4, sum((copy.root / name).stat().st_size for name in names(copy.root)))
    assert copy.root.name == copy.digest


def test_files_of_the_copy_are_read_only_and_folders_are_not(repository: Path) -> None:
    (repository / "train.py").chmod(0o750)
    copy = take(repository)
    assert stat.S_IMODE((copy.root / "train.py").stat().st_mode) == 0o550
    assert stat.S_IMODE((copy.root / "src").stat().st_mode) & 0o200
    assert stat.S_IMODE(copy.root.stat().st_mode) == 0o700


def test_a_workdir_without_code_is_there_in_the_copy(repository: Path) -> None:
    (repository / "out" / "today").mkdir(parents=True)
    (repository / "out" / "today" / "log").touch()
    copy = take(repository / "out" / "today")
    assert copy.workdir == copy.root / "out" / "today"
    assert list(copy.workdir.iterdir()) == []


def test_too_many_bytes_are_refused_with_the_largest(repository: Path) -> None:
    (repository / "data.bin").write_bytes(bytes(3 * MEBI))
    with pytest.raises(BadInput) as raised:
        take(repository, limit_bytes=2 * MEBI)
    assert raised.value.field == "snapshot"
    for part in ("3.0 MiB", "2.0 MiB", "data.bin", ".gitignore", str(repository)):
        assert part in raised.value.message
    assert not (repository.parent / "snapshots").exists()


def test_too_many_files_are_refused_with_the_fullest_folder(repository: Path) -> None:
    (repository / "images").mkdir()
    for number in range(30):
        (repository / "images" / f"{number}.png").touch()
    with pytest.raises(BadInput, match=r"33 files of .* at most 20 files .* images \(30 files\)"):
        take(repository, limit_files=20)
    shutil.rmtree(repository / ".git")
    with pytest.raises(BadInput, match=r"more than 20 files .*git init"):
        take(repository, limit_files=20)


def test_a_workdir_that_is_no_folder_is_refused(repository: Path) -> None:
    with pytest.raises(BadInput) as raised:
        take(repository / "train.py")
    assert raised.value.field == "workdir"


# One copy for all


def test_five_thousand_files_are_copied_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "SETTLED_NS", -(10**12))  # as if the files were old
    work = tmp_path / "work"
    for folder in range(50):
        (work / str(folder)).mkdir(parents=True)
        for number in range(100):
            (work / str(folder) / f"{number}.py").write_text(f"{folder} {number}")
    git(work, "init", "-q")
    first = take(work, limit_files=5000)
    assert first.files == 5000

    def never(*_: object) -> None:
        raise AssertionError("contents were read again")

    monkeypatch.setattr(tree, "_hashed", never)
    assert take(work, limit_files=5000) == first
    assert copies(tmp_path) == [first.digest]


def test_young_files_are_read_again_but_not_copied_again(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "SETTLED_NS", 10**12)
    first = take(repository)
    inode = (first.root / "train.py").stat().st_ino
    reads = Mock(side_effect=tree._hashed)
    monkeypatch.setattr(tree, "_hashed", reads)
    assert take(repository) == first
    assert reads.call_count == first.files
    assert (first.root / "train.py").stat().st_ino == inode


def test_the_same_code_elsewhere_shares_the_copy(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(repository), "clone")
    assert take(tmp_path / "clone").root == take(repository).root


def test_an_edit_that_keeps_size_and_time_is_seen(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "SETTLED_NS", -(10**12))
    first = take(repository)
    before = (repository / "train.py").stat()
    (repository / "train.py").write_text("print('two')\n")
    os.utime(repository / "train.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    second = take(repository)
    assert second.digest != first.digest
    assert (first.root / "train.py").read_text() == "print('one')\n"
    assert (second.root / "train.py").read_text() == "print('two')\n"


def test_the_mode_is_part_of_the_code(repository: Path) -> None:
    first = take(repository)
    (repository / "train.py").chmod(0o755)
    assert take(repository).digest != first.digest


def test_outputs_of_runs_in_the_copy_do_not_spoil_it(repository: Path) -> None:
    first = take(repository)
    (first.workdir / "checkpoint").touch()
    assert take(repository) == first


@pytest.mark.parametrize("damage", ["gone", "cut", "link"])
def test_a_copy_that_is_not_whole_is_left_and_another_made(repository: Path, damage: str) -> None:
    first = take(repository)
    (first.root / "train.py").unlink()
    if damage == "cut":
        (first.root / "train.py").touch()
    elif damage == "link":
        (first.root / "train.py").symlink_to("src/model.py")
    second = take(repository)
    assert second.root.name == f"{first.digest}.2"
    assert (second.root / "train.py").read_text() == "print('one')\n"
    assert take(repository) == second


@pytest.fixture(params=["threads", "processes"])
def rivals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Without the lock, threads meet as processes do: at the rename."""
    if request.param == "processes":
        monkeypatch.setattr("orchestrator.code.snapshot._MAKING", nullcontext())
    return str(request.param)


def test_two_that_copy_the_same_at_once_share_one(rivals: str, repository: Path) -> None:
    for number in range(200):
        (repository / f"{number}.py").write_text(str(number))
    barrier = Barrier(4)

    def ask(_: int) -> Snapshot:
        barrier.wait(10)
        return take(repository)

    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(ask, range(4)))
    assert len(found) == 1
    assert copies(repository.parent) == [found.pop().digest]


def test_a_full_disk_leaves_nothing_behind(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull):
        take(repository)
    assert copies(repository.parent) == []


def test_copies_of_a_server_that_died_are_taken_away(repository: Path) -> None:
    folder = repository.parent / "snapshots"
    for name, age in ((".making.old", 1), (".making.new", None)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, None if age is None else (age, age))
    copy = take(repository)
    assert sorted(copies(repository.parent)) == sorted([".making.new", copy.digest])
