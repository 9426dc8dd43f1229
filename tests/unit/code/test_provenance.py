"""What git says of a workdir, on real repositories, and that it is not asked too often."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from orchestrator.code import provenance
from orchestrator.code.provenance import GitReader, Provenance, without_credentials
from tests.support.repositories import GIT, commit, git, read, take, with_submodule

# What git says


def test_a_clean_workdir_has_its_commit_and_branch(repository: Path) -> None:
    found = read(repository / "src")
    head = git(repository, "rev-parse", "HEAD")
    assert found == Provenance(str(repository), commit=head, branch="main", dirty=False)


def test_a_folder_in_no_repository_has_none(tmp_path: Path) -> None:
    assert GitReader().read(tmp_path) is None
    assert GitReader().read(tmp_path / "not" / "there") is None
    (tmp_path / ".git").mkdir()
    assert GitReader().read(tmp_path) is None


def test_changes_are_in_the_diff_staged_or_not(repository: Path) -> None:
    (repository / "train.py").write_text("print('two')\n")
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    git(repository, "add", "train.py")
    found = read(repository / "src")
    assert found.dirty
    assert "+print('two')" in found.diff
    assert "+LAYERS = 3" in found.diff
    assert not found.truncated


def test_the_diff_makes_the_same_code_of_the_commit_again(repository: Path, tmp_path: Path) -> None:
    (repository / "train.py").write_text("print('zwei') # größer\n")
    (repository / "src" / "model.py").unlink()
    (repository / "new.py").write_text("1")
    git(repository, "add", "new.py")
    (tmp_path / "patch").write_text(read(repository).diff)
    git(repository, "reset", "-q", "--hard")
    git(repository, "apply", str(tmp_path / "patch"))
    assert (repository / "train.py").read_text() == "print('zwei') # größer\n"
    assert (repository / "new.py").read_text() == "1"
    assert not (repository / "src" / "model.py").exists()


def test_untracked_files_are_named_and_ignored_ones_are_not(repository: Path, own_home: Path) -> None:
    (own_home / ".config" / "git").mkdir(parents=True)
    (own_home / ".config" / "git" / "ignore").write_text("*.swp\n")
    (repository / ".git" / "info").mkdir()
    (repository / ".git" / "info" / "exclude").write_text("mine.txt\n")
    for name in ("new.py", "last.ckpt", "a.swp", "mine.txt"):
        (repository / name).touch()
    found = read(repository)
    assert found.untracked == ("new.py",)
    assert found.dirty is False


def test_the_users_own_excludes_file_counts(repository: Path, own_home: Path) -> None:
    (own_home / ".gitconfig").write_text("[core]\n\texcludesFile = ~/my-ignore\n")
    (own_home / "my-ignore").write_text("notes\n")
    (repository / "notes").touch()
    assert read(repository).untracked == ()


def test_the_names_of_untracked_files_may_be_anything(repository: Path) -> None:
    odd = [b"line\nbreak", b'quo"te', "größe".encode(), b"latin-\xe9", b"-flag", b" "]
    for name in odd:
        Path(os.fsdecode(os.fsencode(repository) + b"/" + name)).touch()
    assert set(read(repository).untracked) == {"line\nbreak", 'quo"te', "größe", "latin-\\xe9", "-flag", " "}


def test_more_names_than_the_limit_are_cut(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "NAMES_LIMIT", 20)
    for number in range(10):
        (repository / f"file-{number}").touch()
    found = read(repository)
    assert found.untracked == ("file-0", "file-1")
    assert found.untracked_truncated


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    found = read(repository)
    assert found.branch is None
    assert found.commit == git(repository, "rev-parse", "HEAD")
    assert found.problem == ""


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_a_repository_without_commits_has_its_branch_and_what_is_staged(tmp_path: Path, kind: str) -> None:
    git(tmp_path, "init", "-q", f"--object-format={kind}", "new")
    empty = read(tmp_path / "new")
    assert (empty.commit, empty.branch, empty.dirty, empty.problem) == (None, "main", False, "")
    (tmp_path / "new" / "a.py").write_text("one\n")
    git(tmp_path / "new", "add", "-A")
    assert "+one" in read(tmp_path / "new").diff


def test_a_repository_with_sha256_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    git(tmp_path, "init", "-q", "--object-format=sha256", "new")
    (folder / "a.py").write_text("one\n")
    head = commit(folder)
    (folder / "a.py").write_text("two\n")
    found = read(folder)
    assert (found.commit, found.dirty, found.problem) == (head, True, "")
    assert "+two" in found.diff


def test_a_linked_worktree_and_a_split_index_are_read(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    git(tmp_path / "side", "update-index", "--split-index")
    (tmp_path / "side" / "train.py").write_text("print('side')\n")
    found = read(tmp_path / "side" / "src")
    assert (found.toplevel, found.branch, found.dirty, found.problem) == (str(tmp_path / "side"), "side", True, "")
    assert "side" not in read(repository).diff


def test_a_file_that_was_touched_only_is_no_change(repository: Path) -> None:
    os.utime(repository / "train.py", (1, 1))
    found = read(repository)
    assert found.dirty is False
    assert found.diff == ""


def test_a_change_in_the_second_of_the_commit_is_seen(repository: Path) -> None:
    git(repository, "config", "core.trustctime", "false")
    os.utime(repository / "train.py", (10**9, 10**9))
    git(repository, "update-index", "--refresh")
    (repository / "train.py").write_text("print('two')\n")
    for path in (repository / "train.py", repository / ".git" / "index"):
        os.utime(path, (10**9, 10**9))
    assert read(repository).dirty


def test_line_ends_that_the_repository_converts_are_no_change(repository: Path) -> None:
    git(repository, "config", "core.autocrlf", "true")
    (repository / "train.py").write_bytes(b"print('one')\r\n")
    assert read(repository).dirty is False


def test_a_repository_is_left_as_it_was(repository: Path) -> None:
    os.utime(repository / "train.py", (1, 1))
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    read(repository)
    take(repository)
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_a_binary_change_is_named_and_not_copied(repository: Path) -> None:
    (repository / "weights").write_bytes(bytes(range(256)) * 100)
    commit(repository)
    (repository / "weights").write_bytes(bytes(range(255, -1, -1)) * 100)
    found = read(repository)
    assert "Binary files a/weights and b/weights differ" in found.diff
    assert len(found.diff) < 1000


def test_text_that_no_database_takes_is_replaced(repository: Path) -> None:
    (repository / "train.py").write_bytes(b"caf\xe9\n" + b"x\n" * 8000 + b"nul\0\n")
    diff = read(repository).diff
    assert "caf\ufffd" in diff
    assert "nul\ufffd" in diff
    diff.encode()


def test_a_huge_diff_is_cut_at_a_line(repository: Path) -> None:
    (repository / "train.py").write_text("x = 'ö'\n" * 400_000)
    found = read(repository)
    assert found.truncated
    assert found.dirty
    assert 900_000 < len(found.diff.encode()) <= 1_000_000
    assert found.diff.endswith("+x = 'ö'\n")


def test_another_commit_of_a_submodule_is_a_change_and_changes_within_are_not(tmp_path: Path) -> None:
    outer = with_submodule(tmp_path)
    (outer / "lib" / "train.py").write_text("print('edited')\n")
    assert read(outer).dirty is False
    head = commit(outer / "lib")
    found = read(outer)
    assert f"+Subproject commit {head}" in found.diff
    assert read(outer / "lib").toplevel == str(outer / "lib")


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://me:ghp_secret@github.com/me/x.git", "https://github.com/me/x.git"),
        ("https://ghp_secret@github.com/me/x.git", "https://github.com/me/x.git"),
        ("https://host:8443/me/x?private_token=secret#secret", "https://host:8443/me/x"),
        ("https://me:secret/with/slash@host/x", "https://host/x"),
        ("https://me:secret@with@signs@host/x", "https://host/x"),
        ("https://host/@scope/x", "https://host/@scope/x"),
        ("ssh://git:secret@host:22/x", "ssh://git@host:22/x"),
        ("ssh://git@[::1]:22/x", "ssh://git@[::1]:22/x"),
        ("git@github.com:me/x.git", "git@github.com:me/x.git"),
        ("me:secret@host:x", "host:x"),
        ("/srv/git/x@y", "/srv/git/x@y"),
        ("../x", "../x"),
        ("file:///srv/a#b", "file:///srv/a#b"),
        ("ext::ssh -i secret host", "ext::"),
        ("hg::https://me:secret@host/x", "hg::https://host/x"),
    ],
)
def test_a_url_is_told_without_credentials(url: str, clean: str) -> None:
    assert without_credentials(url) == clean


def test_the_remote_is_that_of_the_branch_then_origin_then_any(repository: Path) -> None:
    assert read(repository).remote is None
    git(repository, "config", "remote.any.url", "https://t@host/any")
    assert read(repository).remote == "https://host/any"
    git(repository, "config", "remote.origin.url", "https://t@host/origin")
    git(repository, "config", "--add", "remote.origin.url", "https://t@host/second")
    assert read(repository).remote == "https://host/origin"
    git(repository, "config", "remote.fork.url", "https://t@host/fork")
    git(repository, "config", "branch.main.remote", "fork")
    assert read(repository).remote == "https://host/fork"


# Read once


def logging(folder: Path) -> str:
    """A fake git that notes each call and then does it."""
    return f'echo "$@" >> {folder}/calls\nexec {GIT} "$@"'


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


class Clock:
    """Time as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_sweep_from_one_workdir_reads_once(repository: Path, fake_git: Callable[[str], Path]) -> None:
    folder, clock = fake_git("true"), Clock()
    (folder / "git").write_text(f"#!/bin/sh\n{logging(folder)}\n")
    reader = GitReader(ttl=3, clock=clock)
    first = reader.read(repository)
    once = calls(folder)
    assert all(reader.read(repository / "src") is first for _ in range(100))
    assert calls(folder) == once
    clock.now = 3.1
    assert reader.read(repository) == first
    assert calls(folder) == 2 * once


def test_a_commit_and_a_checkout_show_at_once(repository: Path) -> None:
    reader = GitReader(clock=Clock())
    assert reader.read(repository) == read(repository)
    (repository / "train.py").write_text("print('two')\n")
    commit(repository)
    assert reader.read(repository) == read(repository)
    git(repository, "symbolic-ref", "HEAD", "refs/heads/side")  # as checkout -b, with the index left alone
    assert reader.read(repository) == read(repository)


def test_threads_that_ask_at_once_share_a_reading(repository: Path, fake_git: Callable[[str], Path]) -> None:
    folder = fake_git("true")
    (folder / "git").write_text(f"#!/bin/sh\n{logging(folder)}\n")
    read(repository)
    once = calls(folder)
    reader, barrier = GitReader(clock=Clock()), Barrier(8)

    def ask(_: int) -> Provenance | None:
        barrier.wait(10)
        return reader.read(repository)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1
    assert calls(folder) == 2 * once


def test_only_so_many_repositories_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "CACHED", 2)
    reader = GitReader(clock=Clock())
    for number in range(4):
        git(tmp_path, "init", "-q", str(number))
        reader.read(tmp_path / str(number))
        assert len(reader._known) <= 2
