"""Git, asked with a deadline and so that nothing of the repository runs.

A workdir may hold anything: a cloned repository whose .git/config or .gitattributes names commands (filter drivers,
external diffs, fsmonitor, hooks, ssh commands). So git reads a repository's own configuration only where nothing but
refs and settings are read (``rev-parse``, ``symbolic-ref``, ``config --list``). All that looks at files or objects
runs in a git directory of our own (``Git.apart``): its configuration is ours, objects and index are the repository's.
A driver or promisor remote that no configuration defines is one that git cannot run, in whatever version.

What follows from that: files behind a filter (git-lfs) are compared as they are on disk, so one that was touched shows
as changed. Settings that decide what counts as changed or ignored (core.autocrlf, core.excludesFile, …) are taken over.

Needs git >= 2.13 (``--absolute-git-dir``). Sources: git-config(1), gitattributes(5), git(1) "Environment variables".
"""

import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from orchestrator.code.files import as_text, regular_file
from orchestrator.proc import reap

CONFIG_LIMIT = 1_000_000
ERROR_LIMIT = 4096
INDEX_LIMIT = 2**30  # some 100 bytes a file: ten million files

_FLAGS = [
    *("--no-pager", "-c", "core.pager=cat", "-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null"),
    *("-c", "core.sshCommand=false", "-c", "credential.helper=", "-c", "safe.bareRepository=explicit"),
]
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "",  # no transport, whatever protocol.*.allow says
    "GIT_ASKPASS": "",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
}
# Settings of the repository and of the user that say what is changed or ignored; none of them names a command.
_SETTINGS = ("autocrlf", "checkstat", "eol", "filemode", "ignorecase", "symlinks", "trustctime")


class Trouble(Exception):
    """Git did not answer; the message says why, for people (``Provenance.problem``)."""


@dataclass(frozen=True)
class Answer:
    """What git wrote. ``cut``: there was more."""

    out: bytes
    err: str
    code: int
    cut: bool


class _Ask(Protocol):
    def __call__(self, *arguments: str, limit: int) -> Answer: ...


@dataclass(frozen=True)
class Repository:
    """A repository and what its own configuration says. ``head``: the full name of the branch, "" when detached."""

    top: str
    git_dir: str
    common_dir: str
    head: str = ""
    commit: str | None = None
    config: dict[str, str] = field(default_factory=dict)

    @property
    def object_format(self) -> str:
        return "sha256" if self.config.get("extensions.objectformat", "").lower() == "sha256" else "sha1"


class Git:
    """Calls of git, each with a deadline in seconds."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def find(self, folder: str) -> Repository | None:
        """The repository that ``folder`` is in, or None. Raises Trouble where git refuses to read it."""
        ask: _Ask = partial(self._ask, ["-C", folder], {})
        answer = ask("rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir", limit=65_536)
        if answer.code and "not a git repository (or any" in answer.err:
            return None
        if answer.code:
            raise Trouble(_refusal(answer, folder))
        lines = os.fsdecode(answer.out).split("\n")
        if len(lines) != 4:
            raise Trouble(f"not readable: the path of the repository at {folder!r} holds a line break")
        found = Repository(lines[0], lines[1], os.path.join(folder, lines[2]))
        _refuse_elsewhere(found, folder)
        head = _expect(ask("symbolic-ref", "-q", "HEAD", limit=65_536), 0, 1).out.rstrip(b"\n")
        # --verify without ^{commit}: no object is looked at, so none is fetched from a promisor remote.
        commit = _expect(ask("rev-parse", "-q", "--verify", "HEAD", limit=65_536), 0, 1).out.strip().decode("ascii")
        config = _expect(ask("config", "-z", "--list", limit=CONFIG_LIMIT), 0)
        return replace(found, head=os.fsdecode(head), commit=commit or None, config=_config(config))

    @contextmanager
    def apart(self, repository: Repository) -> Iterator[_Ask]:
        """Git on the repository's files, objects and a copy of its index, with a configuration of our own."""
        with tempfile.TemporaryDirectory(prefix="orc-git-") as folder:
            _fill(Path(folder), repository)
            environment = {
                "GIT_DIR": folder,
                "GIT_WORK_TREE": repository.top,
                "GIT_OBJECT_DIRECTORY": os.path.join(repository.common_dir, "objects"),
                "GIT_CONFIG_NOSYSTEM": "1",
                "HOME": folder,  # the user's own configuration may define drivers too; GIT_CONFIG_GLOBAL needs 2.32
                "XDG_CONFIG_HOME": folder,
            }
            flags = ["-C", repository.top, *_settings(repository.config)]

            def ask(*arguments: str, limit: int) -> Answer:
                answer = self._ask(flags, environment, *arguments, limit=limit)
                return answer if answer.cut else _expect(answer, 0)

            yield ask

    def _ask(self, flags: Sequence[str], environment: dict[str, str], *arguments: str, limit: int) -> Answer:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", *_FLAGS, *flags, *arguments]
        return _run(command, {**inherited, **_ENVIRONMENT, **environment}, self._deadline, limit, arguments[0])


def _run(command: list[str], environment: dict[str, str], deadline: float, limit: int, what: str) -> Answer:
    """Runs a command to its end, to ``limit`` bytes of output or to ``deadline`` seconds. Raises Trouble when late."""
    until = time.monotonic() + deadline
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd="/",  # a change to a folder on a hung disk would hang us, not git
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Trouble("git is not installed, or not on the server's PATH") from None
    try:
        out, err, cut = _drain(process, until, limit)
        if not cut:
            process.wait(max(0.0, until - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise Trouble(f"git {what} gave no answer within {deadline:g} s and was ended") from None
    finally:
        _end(process)
    return Answer(out, err.decode("utf-8", "replace").strip(), process.returncode or 0, cut)


def _drain(process: "subprocess.Popen[bytes]", until: float, limit: int) -> tuple[bytes, bytes, bool]:
    """Both outputs up to their limits. Raises TimeoutError after ``until``."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, err)
        while selector.get_map() and len(out) <= limit:
            ready = selector.select(max(0.0, until - time.monotonic()))
            if not ready or time.monotonic() > until:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, 65_536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.data is out or len(err) < ERROR_LIMIT:
                    key.data.extend(chunk)
    return bytes(out[:limit]), bytes(err[:ERROR_LIMIT]), len(out) > limit


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process with its whole group, unless it was waited for: then the number may be another's."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        reap(process)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _expect(answer: Answer, *codes: int) -> Answer:
    if answer.cut:
        raise Trouble("git's answer is too long")
    if answer.code not in codes:
        raise Trouble(_first_line(answer))
    return answer


def _first_line(answer: Answer) -> str:
    ending = f"status {answer.code}" if answer.code >= 0 else f"signal {-answer.code}"
    return answer.err.split("\n", 1)[0][:500] or f"git ended with {ending}"


def _refusal(answer: Answer, folder: str) -> str:
    if "dubious ownership" in answer.err or "unsafe repository" in answer.err:  # 2.35.3 and later; 2.35.2
        place = as_text(os.fsencode(folder))
        return f"not readable: owned by another user: {place} (git-config(1), safe.directory, says how to trust it)"
    return f"not readable: {_first_line(answer)}"


def _refuse_elsewhere(repository: Repository, folder: str) -> None:
    """core.worktree may name any folder, "/" too: only that which has the .git itself is taken for the toplevel."""
    top, mark = Path(repository.top), Path(repository.top, ".git")
    inside = Path(folder).is_relative_to(top)
    if not inside or not (mark.is_file() or (mark.is_dir() and mark.samefile(repository.git_dir))):
        raise Trouble(f"not readable: core.worktree of the repository at {folder!r} names another folder")


def _config(answer: Answer) -> dict[str, str]:
    """Settings by name. The last of several counts, as in git; of URLs the first, from which git fetches."""
    found: dict[str, str] = {}
    for item in answer.out.split(b"\0"):
        name, given, value = os.fsdecode(item).partition("\n")
        if not (name.endswith(".url") and name in found):
            found[name] = value if given else "true"
    return found


def _settings(config: dict[str, str]) -> list[str]:
    """What is taken over of the repository's and the user's settings, as flags."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    excludes = config.get("core.excludesfile") or str(home / "git" / "ignore")
    chosen = {name: config[name] for name in (f"core.{part}" for part in _SETTINGS) if name in config}
    chosen |= {"core.excludesfile": os.path.expanduser(excludes), "core.quotepath": "false"}
    chosen["core.bigfilethreshold"] = "32m"  # larger ones are compared by their hashes, without memory for a diff
    return [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]


def _fill(folder: Path, repository: Repository) -> None:
    """Makes ``folder`` a git directory: HEAD and index are copies, info/ (exclude, attributes) is a link."""
    version = "1\n[extensions]\n\tobjectformat = sha256" if repository.object_format == "sha256" else "0"
    (folder / "config").write_text(f"[core]\n\trepositoryformatversion = {version}\n")
    (folder / "HEAD").write_bytes(os.fsencode(repository.commit or f"ref: {repository.head}") + b"\n")
    (folder / "refs").mkdir()
    (folder / "info").symlink_to(Path(repository.common_dir, "info"))
    for shared in Path(repository.git_dir).glob("sharedindex.*"):  # of a split index
        (folder / shared.name).symlink_to(shared)
    with regular_file(os.path.join(repository.git_dir, "index")) as source:
        if source is None:
            return
        if os.fstat(source).st_size > INDEX_LIMIT:
            raise Trouble("not readable: the index is larger than 1 GiB")
        with os.fdopen(os.dup(source), "rb") as read, (folder / "index").open("wb") as written:
            shutil.copyfileobj(read, written)
        # Git looks into files that are as young as the index ("racily clean"): the copy must not seem younger.
        times = os.fstat(source)
        os.utime(folder / "index", ns=(times.st_atime_ns, times.st_mtime_ns))


def nearest_marked(folder: str) -> str | None:
    """The nearest folder from ``folder`` upwards with a .git in it: a guess without git, which decides."""
    path = Path(folder)
    return next((str(place) for place in (path, *path.parents) if os.path.lexists(place / ".git")), None)
