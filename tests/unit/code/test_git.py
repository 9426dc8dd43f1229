"""Git on hostile, damaged and odd repositories: nothing of theirs runs, nothing hangs, and what is wrong is told."""

import os
import selectors
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.code.provenance import GitReader
from orchestrator.errors import BadInput
from tests.support.repositories import GIT, git, made, names, read, take, with_submodule
from tests.support.waiting import DEADLINES

# What must never run

PROCESS = "filter.evil.process"
HOSTILE = {
    "external diff": ({"diff.external": "!"}, ""),
    "diff driver": ({"diff.evil.command": "!"}, "* diff=evil"),
    "textconv": ({"diff.evil.textconv": "!"}, "* diff=evil"),
    "fsmonitor": ({"core.fsmonitor": "!"}, ""),
    "clean filter": ({"filter.evil.clean": "!"}, "* filter=evil"),
    "process filter": ({PROCESS: "!"}, "* filter=evil"),
    "required filter": ({PROCESS: "!", "filter.evil.required": "true"}, "* filter=evil"),
    "name with =": ({"filter.a=b.clean": "!"}, "* filter=a=b"),
    "hook": ({"core.hooksPath": "@"}, ""),
    "pager": ({"core.pager": "!", "pager.diff": "!", "pager.rev-parse": "!", "pager.ls-files": "!"}, ""),
    "ssh command": ({"core.sshCommand": "!", "remote.origin.promisor": "true"}, ""),
    "upload pack": ({"remote.origin.uploadpack": "!", "remote.origin.promisor": "true"}, ""),
    "alternate refs": ({"core.alternateRefsCommand": "!"}, ""),
    "credential helper": ({"credential.helper": "!!"}, ""),
}
# Git itself has no reason to run these where its output is no terminal and it fetches nothing.
WITHOUT_CONTROL = {"pager", "alternate refs", "credential helper"}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there when a hostile command ran."""
    return tmp_path / "ran"


@pytest.fixture
def evil(tmp_path: Path, marker: Path) -> Path:
    """A hostile command, and a folder of hooks that are the same."""
    folder = tmp_path / "evil"
    folder.mkdir()
    for name in ("command", "post-index-change", "reference-transaction", "post-checkout"):
        (folder / name).write_text(f"#!/bin/sh\n: > '{marker}'\n")
        (folder / name).chmod(0o755)
    return folder


def poison(folder: Path, evil: Path, name: str) -> None:
    settings, attributes = HOSTILE[name]
    for key, value in settings.items():
        command = {"!": str(evil / "command"), "@": str(evil), "!!": f"!{evil / 'command'}"}.get(value, value)
        git(folder, "config", key, command)
    if attributes:
        (folder / ".gitattributes").write_text(attributes + "\n")
    if "remote.origin.promisor" in settings:
        url = "ssh://example.invalid/x" if "core.sshCommand" in settings else str(folder)
        git(folder, "config", "remote.origin.url", url)
        git(folder, "config", "extensions.partialClone", "origin")
        git(folder, "config", "core.repositoryFormatVersion", "1")
        blob = git(folder, "rev-parse", "HEAD:train.py")
        (folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    (folder / "train.py").write_text("print('changed')\n")
    os.utime(folder / "src" / "model.py", (1, 1))  # git looks into it, and writes the index


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_repository_runs_nothing(repository: Path, evil: Path, marker: Path, name: str) -> None:
    poison(repository, evil, name)
    found = read(repository)
    copy = take(repository)
    assert not marker.exists()
    assert (copy.workdir / "train.py").read_text() == "print('changed')\n"
    assert found.branch == "main"
    if "remote.origin.promisor" in HOSTILE[name][0]:
        assert found.problem  # git 2.39 says "unable to read", or crashes where two files changed
    else:
        assert "+print('changed')" in found.diff
        assert found.problem == ""


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in WITHOUT_CONTROL])
def test_the_same_repository_runs_it_under_plain_git(repository: Path, evil: Path, marker: Path, name: str) -> None:
    poison(repository, evil, name)
    git(repository, "diff", "HEAD", check=False)
    git(repository, "status", check=False)
    assert marker.exists()


def test_filters_in_included_and_in_the_users_files_do_not_run(
    repository: Path, evil: Path, marker: Path, own_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").write_text(f'[filter "a"]\n\tclean = {evil / "command"}\n')
    (own_home / ".gitconfig").write_text(f'[filter "b"]\n\tprocess = {evil / "command"}\n')
    git(repository, "config", "include.path", str(tmp_path / "more"))
    (repository / ".git" / "info").mkdir()
    (repository / ".git" / "info" / "attributes").write_text("*.py filter=a\n.gitignore filter=b\n")
    (repository / "train.py").write_text("print('changed')\n")
    (repository / ".gitignore").write_text("out/\n")
    assert "+print('changed')" in read(repository).diff
    take(repository)
    assert not marker.exists()


def test_a_hostile_submodule_runs_nothing(tmp_path: Path, evil: Path, marker: Path) -> None:
    outer = with_submodule(tmp_path)
    for name in ("fsmonitor", "clean filter", "hook"):
        poison(outer / "lib", evil, name)
    (outer / ".gitmodules").write_text((outer / ".gitmodules").read_text() + "\tignore = none\n")
    assert read(outer).problem == ""
    assert "lib/train.py" in names(take(outer).root)
    assert not marker.exists()
    git(outer, "status")
    assert marker.exists()


def test_a_bare_repository_within_the_files_is_not_taken_for_one(repository: Path, evil: Path, marker: Path) -> None:
    git(repository, "init", "-q", "--bare", "bait")
    git(repository / "bait", "config", "core.fsmonitor", str(evil / "command"))
    git(repository / "bait", "config", "core.worktree", str(repository))
    git(repository / "bait", "config", "core.bare", "false")
    assert read(repository / "bait").toplevel == str(repository)
    assert not marker.exists()


def test_the_servers_own_git_variables_do_not_reach_git(
    repository: Path, tmp_path: Path, evil: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(evil / "command"))
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    (repository / "train.py").write_text("print('two')\n")
    found = read(repository)
    assert (found.toplevel, found.problem) == (str(repository), "")
    assert not marker.exists()
    assert not (tmp_path / "trace").exists()


# What goes wrong


def test_a_repository_of_another_user_is_not_read(repository: Path, fake_git: Callable[[str], Path]) -> None:
    fake_git(f'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {GIT} "$@"')
    found = read(repository)
    assert found.problem.startswith(f"not readable: owned by another user: {repository}")
    assert (found.toplevel, found.commit, found.diff) == (str(repository), None, "")
    with pytest.raises(BadInput, match="owned by another user"):
        take(repository)


def test_a_repository_whose_files_are_elsewhere_is_not_read(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for elsewhere in (tmp_path, Path("/")):
        git(repository, "config", "core.worktree", str(elsewhere))
        found = read(repository)
        assert "core.worktree" in found.problem
        assert found.untracked == ()
        with pytest.raises(BadInput, match=r"core\.worktree"):
            take(repository)


def test_a_git_that_hangs_is_ended_with_its_children(
    repository: Path, tmp_path: Path, fake_git: Callable[[str], Path]
) -> None:
    os.mkfifo(tmp_path / "alive")
    fd = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    fake_git(f"exec 9>'{tmp_path}/alive'\necho here >&9\nsleep 600 &\nsleep 600")
    said = b""
    for deadline in DEADLINES:
        found = read(repository, deadline=deadline)
        assert found.problem == f"git rev-parse gave no answer within {deadline:g} s and was ended"
        with suppress(BlockingIOError):
            said = os.read(fd, 100)
        if said:
            break
    assert said == b"here\n"
    with selectors.DefaultSelector() as selector:  # the end of the FIFO comes when its last writer has gone
        selector.register(fd, selectors.EVENT_READ)
        assert selector.select(10)
    assert os.read(fd, 100) == b""
    os.close(fd)


def test_what_was_found_before_the_deadline_is_kept(repository: Path, fake_git: Callable[[str], Path]) -> None:
    fake_git(f'case "$*" in *ls-files*) exec sleep 600;; esac\nexec {GIT} "$@"')
    (repository / "train.py").write_text("print('two')\n")
    for deadline in DEADLINES:
        found = read(repository, deadline=deadline)
        if "ls-files" in found.problem:
            break
    assert f"git ls-files gave no answer within {deadline:g} s" in found.problem
    assert "+print('two')" in found.diff
    assert found.branch == "main"


@pytest.mark.parametrize("script", ["exec yes", "exec yes >&2", "yes & yes >&2"])
def test_a_git_that_writes_without_end_is_cut(repository: Path, fake_git: Callable[[str], Path], script: str) -> None:
    fake_git(script)
    assert read(repository, deadline=0.5).problem


def test_git_that_is_not_installed_is_told(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read(repository).problem == "git is not installed, or not on the server's PATH"
    assert GitReader().read(tmp_path) is None


def test_a_damaged_repository_is_told(repository: Path) -> None:
    (repository / ".git" / "index").write_bytes(b"nonsense")
    found = read(repository)
    assert found.commit == git(repository, "rev-parse", "HEAD")
    assert "index" in found.problem


def test_fifos_in_place_of_gits_files_do_not_hang(repository: Path) -> None:
    (repository / ".git" / "index").unlink()
    os.mkfifo(repository / ".git" / "index")
    read(repository, deadline=0.5)
    (repository / ".git" / "HEAD").unlink()
    os.mkfifo(repository / ".git" / "HEAD")
    assert read(repository, deadline=0.5).problem


def test_a_path_that_cannot_be_is_told() -> None:
    assert "null byte" in read(Path("a\0b")).problem
