"""What git says of a workdir, and the copy of its code, on real repositories: kind, odd and hostile ones."""

import errno
import hashlib
import os
import selectors
import shutil
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest

from orchestrator import provenance
from orchestrator.errors import BadInput, StorageFull
from orchestrator.provenance import GitReader, Provenance, Snapshot, snapshot, without_credentials

GIT = shutil.which("git") or "git"
MEBI = 2**20
OURS = ["user.name=A", "user.email=a@example.org", "init.defaultBranch=main", "protocol.file.allow=always"]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the configuration of whoever runs it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return home


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    return made(tmp_path / "repository")


@pytest.fixture
def fake_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a script named git first on PATH. Its folder is given back."""

    def fake(script: str) -> Path:
        folder = tmp_path / "fake"
        folder.mkdir()
        (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return folder

    return fake


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    flags = [part for setting in OURS for part in ("-c", setting)]
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run([GIT, *flags, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "--template=")
    (folder / "train.py").write_text("print('one')\n")
    (folder / "src").mkdir()
    (folder / "src" / "model.py").write_text("LAYERS = 2\n")
    (folder / ".gitignore").write_text("*.ckpt\nout/\n")
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "change")
    return git(folder, "rev-parse", "HEAD")


def read(workdir: Path, **options: float) -> Provenance:
    found = GitReader(**options).read(workdir)  # type: ignore[arg-type]
    assert found is not None
    return found


def take(workdir: Path, limit_bytes: int = 10 * MEBI, limit_files: int = 1000) -> Snapshot:
    return snapshot(workdir, workdir.parent / "snapshots", limit_bytes, limit_files)


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


def logging(folder: Path) -> str:
    """A fake git that notes each call and then does it."""
    return f'echo "$@" >> {folder}/calls\nexec {GIT} "$@"'


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


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


def with_submodule(tmp_path: Path) -> Path:
    made(tmp_path / "library")
    outer = made(tmp_path / "outer")
    git(outer, "submodule", "--quiet", "add", str(tmp_path / "library"), "lib")
    commit(outer)
    return outer


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
    found = read(repository, deadline=1)
    assert found.problem == "git rev-parse gave no answer within 1 s and was ended"
    assert os.read(fd, 100) == b"here\n"
    with selectors.DefaultSelector() as selector:  # the end of the FIFO comes when its last writer has gone
        selector.register(fd, selectors.EVENT_READ)
        assert selector.select(10)
    assert os.read(fd, 100) == b""
    os.close(fd)


def test_what_was_found_before_the_deadline_is_kept(repository: Path, fake_git: Callable[[str], Path]) -> None:
    fake_git(f'case "$*" in *ls-files*) exec sleep 600;; esac\nexec {GIT} "$@"')
    (repository / "train.py").write_text("print('two')\n")
    found = read(repository, deadline=1.0)
    assert "git ls-files gave no answer within 1 s" in found.problem
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


# Read once


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


def test_a_workdir_that_is_no_folder_is_refused(repository: Path) -> None:
    with pytest.raises(BadInput) as raised:
        take(repository / "train.py")
    assert raised.value.field == "workdir"


# One copy for all


def copies(folder: Path) -> list[str]:
    return [path.name for path in (folder / "snapshots").iterdir() if path.name != ".seen"]


def test_five_thousand_files_are_copied_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SETTLED_NS", -(10**12))  # as if the files were old
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

    monkeypatch.setattr(provenance, "_hashed", never)
    assert take(work, limit_files=5000) == first
    assert copies(tmp_path) == [first.digest]


def test_young_files_are_read_again_but_not_copied_again(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SETTLED_NS", 10**12)
    first = take(repository)
    inode = (first.root / "train.py").stat().st_ino
    reads = Mock(side_effect=provenance._hashed)
    monkeypatch.setattr(provenance, "_hashed", reads)
    assert take(repository) == first
    assert reads.call_count == first.files
    assert (first.root / "train.py").stat().st_ino == inode


def test_the_same_code_elsewhere_shares_the_copy(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(repository), "clone")
    assert take(tmp_path / "clone").root == take(repository).root


def test_an_edit_that_keeps_size_and_time_is_seen(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SETTLED_NS", -(10**12))
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
        monkeypatch.setattr(provenance, "_MAKING", nullcontext())
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
