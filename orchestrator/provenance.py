"""Which code a run was submitted with: what git says of its workdir, and a copy of the code to run it with again.

A workdir may hold anything: a cloned repository whose .git/config or .gitattributes names commands (filter drivers,
external diffs, fsmonitor, hooks, ssh commands). So git reads a repository's own configuration only where nothing but
refs and settings are read (``rev-parse``, ``symbolic-ref``, ``config --list``). All that looks at files or objects
runs in a git directory of our own (``_Git.apart``): its configuration is ours, objects and index are the repository's.
A driver or promisor remote that no configuration defines is one that git cannot run, in whatever version.

What follows from that: files behind a filter (git-lfs) are compared as they are on disk, so one that was touched shows
as changed. Settings that decide what counts as changed or ignored (core.autocrlf, core.excludesFile, …) are taken over.

Needs git >= 2.13 (``--absolute-git-dir``). Sources: git-config(1), gitattributes(5), git(1) "Environment variables".
"""

import errno
import hashlib
import json
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Protocol

from orchestrator.errors import BadInput, StorageError, StorageFull
from orchestrator.home import write_private

DIFF_LIMIT = 1_000_000  # bytes of a diff
NAMES_LIMIT = 100_000  # bytes of the names of untracked files
CONFIG_LIMIT = 1_000_000
ERROR_LIMIT = 4096
INDEX_LIMIT = 2**30  # some 100 bytes a file: ten million files
CACHED = 16  # repositories; each holds at most a diff and names
LISTING_DEADLINE = 60.0
NESTED_LIMIT = 8  # repositories within repositories

# What is passed over outside a repository, at any depth. Inside one, .gitignore says it.
SKIPPED_FOLDERS = frozenset(
    {".git", "__pycache__", "node_modules", ".venv", "venv", "wandb", ".tox", ".nox", ".ipynb_checkpoints"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache"}
)
SKIPPED_SUFFIXES = (".pyc", ".pyo")

# Time stamps are trusted as a sign of "unchanged" once they are this old, as git's "racily clean" entries:
# a second write within one tick of the file system's clock (1 s on some network file systems) leaves them as they are.
SETTLED_NS = 2_000_000_000
ABANDONED_SECONDS = 86_400.0  # a copy half made, of a server that died

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
_EMPTY_TREE = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
# Without --binary: one changed checkpoint would take the whole limit and hide the code after it. With --full-index
# the line "Binary files differ" still names both contents.
_DIFF = [
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--full-index"),
    *("--submodule=short", "--ignore-submodules=dirty", "--src-prefix=a/", "--dst-prefix=b/"),
]


class _Trouble(Exception):
    """Git did not answer; the message is for Provenance.problem."""


@dataclass(frozen=True)
class Provenance:
    """What git says of the repository that holds a workdir. None where it could not be found out: see ``problem``.

    ``commit``: None before the first one. ``branch``: None when HEAD is detached. ``dirty``: tracked files differ from
    the commit. ``remote``: the URL of the branch's remote, else of origin, else of the first, without credentials.
    ``diff``: of the whole repository against HEAD, staged or not, text only; ``truncated`` when it was cut.
    ``untracked``: names from the toplevel on, not ignored; ``untracked_truncated`` when there are more.
    Bytes that are not UTF-8 stand as ``\\xNN`` in names and as U+FFFD in the diff: all of it can be stored as JSON.
    """

    toplevel: str
    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    remote: str | None = None
    diff: str = ""
    truncated: bool = False
    untracked: tuple[str, ...] = ()
    untracked_truncated: bool = False
    problem: str = ""


class GitReader:
    """Reads the provenance of workdirs, each repository at most once in ``ttl`` seconds.

    The runs of a sweep are submitted from one workdir within seconds, and a set of git's calls costs some 25 ms (more
    on a network disk). An answer is used again for the same toplevel, HEAD and index while it is younger than ``ttl``:
    a commit, a checkout or ``git add`` shows at once, an edit within ``ttl`` after a read may not (a snapshot always
    has it). Threads that ask for the same at once share one reading. ``deadline``: seconds for each call of git.
    """

    def __init__(
        self,
        deadline: float = 10.0,
        ttl: float = 3.0,
        diff_limit: int = DIFF_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._git = _Git(deadline)
        self._ttl = ttl
        self._diff_limit = diff_limit
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[object, ...], tuple[float, Future[Provenance | None]]] = OrderedDict()

    def read(self, workdir: Path) -> Provenance | None:
        """What git says, or None where ``workdir`` is in no repository. Never raises for what is wrong there."""
        try:
            top = _marked(os.path.realpath(workdir))
            return None if top is None else self._shared(top, (top, *_marks(top)))
        except (OSError, ValueError) as error:
            return Provenance(_text(os.fsencode(workdir)), problem=str(error))

    def _shared(self, top: str, key: tuple[object, ...]) -> Provenance | None:
        with self._lock:
            self._forget()
            known = self._known.get(key)
            if known is None:
                answer: Future[Provenance | None] = Future()
                self._known[key] = (self._clock() + self._ttl, answer)
        if known is not None:
            return known[1].result()
        try:
            answer.set_result(self._read(top))
        except BaseException as error:  # those who wait must not wait for ever
            answer.set_exception(error)
        return answer.result()

    def _forget(self) -> None:
        now = self._clock()
        for key in [key for key, (until, answer) in self._known.items() if until <= now and answer.done()]:
            del self._known[key]
        while len(self._known) >= CACHED:
            self._known.popitem(last=False)

    def _read(self, top: str) -> Provenance | None:
        """All that can be had: what was found before a trouble is kept."""
        found: Provenance | None = Provenance(_text(os.fsencode(top)))
        try:
            for found in self._steps(top):  # noqa: B007  (the last one is the result)
                pass
        except (_Trouble, OSError, ValueError) as error:
            assert found is not None
            return replace(found, problem=str(error))
        return found

    def _steps(self, marked: str) -> Iterator[Provenance | None]:
        """Ever more of the answer."""
        repository = self._git.find(marked)
        if repository is None:
            yield None
            return
        found = Provenance(_text(os.fsencode(repository.top)))
        yield (found := replace(found, commit=repository.commit, branch=_branch(repository)))
        yield (found := replace(found, remote=_remote(repository)))
        with self._git.apart(repository) as ask:
            base = repository.commit or _EMPTY_TREE[repository.object_format]
            diff = ask(*_DIFF, base, "--", limit=self._diff_limit)
            found = replace(found, dirty=bool(diff.out), diff=_lines(diff), truncated=diff.cut)
            yield found
            others = ask("ls-files", "-z", "--others", "--exclude-standard", limit=NAMES_LIMIT)
            names = tuple(_text(name) for name in others.out.split(b"\0")[:-1])
            yield replace(found, untracked=names, untracked_truncated=others.cut)


@dataclass(frozen=True)
class _Answer:
    """What git wrote. ``cut``: there was more."""

    out: bytes
    err: str
    code: int
    cut: bool


class _Ask(Protocol):
    def __call__(self, *arguments: str, limit: int) -> _Answer: ...


@dataclass(frozen=True)
class _Repository:
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


class _Git:
    """Calls of git, each with a deadline in seconds."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def find(self, folder: str) -> _Repository | None:
        """The repository that ``folder`` is in, or None. Raises _Trouble where git refuses to read it."""
        ask: _Ask = partial(self._ask, ["-C", folder], {})
        answer = ask("rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir", limit=65_536)
        if answer.code and "not a git repository (or any" in answer.err:
            return None
        if answer.code:
            raise _Trouble(_refusal(answer, folder))
        lines = os.fsdecode(answer.out).split("\n")
        if len(lines) != 4:
            raise _Trouble(f"not readable: the path of the repository at {folder!r} holds a line break")
        found = _Repository(lines[0], lines[1], os.path.join(folder, lines[2]))  # noqa: PTH118  (may be not UTF-8)
        _refuse_elsewhere(found, folder)
        head = _expect(ask("symbolic-ref", "-q", "HEAD", limit=65_536), 0, 1).out.rstrip(b"\n")
        # --verify without ^{commit}: no object is looked at, so none is fetched from a promisor remote.
        commit = _expect(ask("rev-parse", "-q", "--verify", "HEAD", limit=65_536), 0, 1).out.strip().decode("ascii")
        config = _expect(ask("config", "-z", "--list", limit=CONFIG_LIMIT), 0)
        return replace(found, head=os.fsdecode(head), commit=commit or None, config=_config(config))

    @contextmanager
    def apart(self, repository: _Repository) -> Iterator[_Ask]:
        """Git on the repository's files, objects and a copy of its index, with a configuration of our own."""
        with tempfile.TemporaryDirectory(prefix="orc-git-") as folder:
            _fill(Path(folder), repository)
            environment = {
                "GIT_DIR": folder,
                "GIT_WORK_TREE": repository.top,
                "GIT_OBJECT_DIRECTORY": os.path.join(repository.common_dir, "objects"),  # noqa: PTH118
                "GIT_CONFIG_NOSYSTEM": "1",
                "HOME": folder,  # the user's own configuration may define drivers too; GIT_CONFIG_GLOBAL needs 2.32
                "XDG_CONFIG_HOME": folder,
            }
            flags = ["-C", repository.top, *_settings(repository.config)]

            def ask(*arguments: str, limit: int) -> _Answer:
                answer = self._ask(flags, environment, *arguments, limit=limit)
                return answer if answer.cut else _expect(answer, 0)

            yield ask

    def _ask(self, flags: Sequence[str], environment: dict[str, str], *arguments: str, limit: int) -> _Answer:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", *_FLAGS, *flags, *arguments]
        return _run(command, {**inherited, **_ENVIRONMENT, **environment}, self._deadline, limit, arguments[0])


def _run(command: list[str], environment: dict[str, str], deadline: float, limit: int, what: str) -> _Answer:
    """Runs a command to its end, to ``limit`` bytes of output or to ``deadline`` seconds. Raises _Trouble when late."""
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
        raise _Trouble("git is not installed, or not on the server's PATH") from None
    try:
        out, err, cut = _drain(process, until, limit)
        if not cut:
            process.wait(max(0.0, until - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise _Trouble(f"git {what} gave no answer within {deadline:g} s and was ended") from None
    finally:
        _end(process)
    return _Answer(out, err.decode("utf-8", "replace").strip(), process.returncode or 0, cut)


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
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel cannot be waited for
            process.wait(timeout=1)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _expect(answer: _Answer, *codes: int) -> _Answer:
    if answer.cut:
        raise _Trouble("git's answer is too long")
    if answer.code not in codes:
        raise _Trouble(_first_line(answer))
    return answer


def _first_line(answer: _Answer) -> str:
    ending = f"status {answer.code}" if answer.code >= 0 else f"signal {-answer.code}"
    return answer.err.split("\n", 1)[0][:500] or f"git ended with {ending}"


def _refusal(answer: _Answer, folder: str) -> str:
    if "dubious ownership" in answer.err or "unsafe repository" in answer.err:  # 2.35.3 and later; 2.35.2
        place = _text(os.fsencode(folder))
        return f"not readable: owned by another user: {place} (git-config(1), safe.directory, says how to trust it)"
    return f"not readable: {_first_line(answer)}"


def _refuse_elsewhere(repository: _Repository, folder: str) -> None:
    """core.worktree may name any folder, "/" too: only that which has the .git itself is taken for the toplevel."""
    top, mark = Path(repository.top), Path(repository.top, ".git")
    inside = Path(folder).is_relative_to(top)
    if not inside or not (mark.is_file() or (mark.is_dir() and mark.samefile(repository.git_dir))):
        raise _Trouble(f"not readable: core.worktree of the repository at {folder!r} names another folder")


def _config(answer: _Answer) -> dict[str, str]:
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
    chosen |= {"core.excludesfile": os.path.expanduser(excludes), "core.quotepath": "false"}  # noqa: PTH111
    chosen["core.bigfilethreshold"] = "32m"  # larger ones are compared by their hashes, without memory for a diff
    return [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]


def _fill(folder: Path, repository: _Repository) -> None:
    """Makes ``folder`` a git directory: HEAD and index are copies, info/ (exclude, attributes) is a link."""
    version = "1\n[extensions]\n\tobjectformat = sha256" if repository.object_format == "sha256" else "0"
    (folder / "config").write_text(f"[core]\n\trepositoryformatversion = {version}\n")
    (folder / "HEAD").write_bytes(os.fsencode(repository.commit or f"ref: {repository.head}") + b"\n")
    (folder / "refs").mkdir()
    (folder / "info").symlink_to(Path(repository.common_dir, "info"))
    for shared in Path(repository.git_dir).glob("sharedindex.*"):  # of a split index
        (folder / shared.name).symlink_to(shared)
    with _regular(os.path.join(repository.git_dir, "index")) as source:  # noqa: PTH118
        if source is None:
            return
        if os.fstat(source).st_size > INDEX_LIMIT:
            raise _Trouble("not readable: the index is larger than 1 GiB")
        with os.fdopen(os.dup(source), "rb") as read, (folder / "index").open("wb") as written:
            shutil.copyfileobj(read, written)
        # Git looks into files that are as young as the index ("racily clean"): the copy must not seem younger.
        times = os.fstat(source)
        os.utime(folder / "index", ns=(times.st_atime_ns, times.st_mtime_ns))


@contextmanager
def _regular(path: str | bytes, folder: int | None = None, flags: int = 0) -> Iterator[int | None]:
    """An open file, or None for what is not there or no file (opening a FIFO would wait for ever)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        yield None
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def _marked(folder: str) -> str | None:
    """The nearest folder from ``folder`` upwards with a .git in it: a guess without git, which decides."""
    path = Path(folder)
    return next((str(place) for place in (path, *path.parents) if os.path.lexists(place / ".git")), None)


def _marks(top: str) -> tuple[bytes, int]:
    """What changes with HEAD and index, read without git: (HEAD's text, the index's time in ns)."""
    mark = Path(top, ".git")
    try:
        if not mark.is_dir():  # of a linked worktree or a submodule: "gitdir: PATH"
            mark = Path(top, os.fsdecode(_start_of(mark).partition(b"gitdir:")[2].strip()))
        return _start_of(mark / "HEAD"), (mark / "index").stat().st_mtime_ns
    except OSError:  # no index yet, or another user's: git will say
        return b"", 0


def _start_of(path: Path) -> bytes:
    with _regular(str(path)) as fd:
        return b"" if fd is None else os.read(fd, 4096)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _lines(diff: _Answer) -> str:
    """The diff as text that a database takes; a cut one ends with a whole line."""
    end = diff.out.rfind(b"\n") + 1 if diff.cut else 0
    return diff.out[: end or None].decode("utf-8", "replace").replace("\0", "\ufffd")


def _branch(repository: _Repository) -> str | None:
    return _text(os.fsencode(repository.head.removeprefix("refs/heads/"))) or None


def _remote(repository: _Repository) -> str | None:
    config, branch = repository.config, repository.head.removeprefix("refs/heads/")
    names = [f"remote.{config.get(f'branch.{branch}.remote')}.url", "remote.origin.url"]
    names += [name for name in config if name.startswith("remote.") and name.endswith(".url")]
    url = next((config[name] for name in names if config.get(name)), None)
    return None if url is None else _text(os.fsencode(without_credentials(url)))[:2000]


def without_credentials(url: str) -> str:
    """A remote's URL (git-clone(1), "Git URLs") without user, password and query; the user of SSH is no secret."""
    if helper := re.match(r"([A-Za-z0-9+-]+)::", url):  # gitremote-helpers(7); what ext runs may hold anything
        rest = "" if helper[1] == "ext" else without_credentials(url[helper.end() :])
        return helper[0] + rest
    scheme, found, rest = url.partition("://")
    if not found:
        return _scp_style(url)
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    user, _, host = authority.rpartition("@")
    if scheme != "file":
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    if "@" in path and not re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", host):  # a password with a slash in it
        return f"{scheme}://{path.rpartition('@')[2]}"
    name = user.partition(":")[0] if "ssh" in scheme else ""
    return f"{scheme}://{name + '@' if name else ''}{host}{path}"


def _scp_style(url: str) -> str:
    front, slash, path = url.partition("/")
    user, at, host = front.rpartition("@")
    return f"{host}{slash}{path}" if ":" in user else f"{user}{at}{host}{slash}{path}"


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code. ``workdir``: where in ``root`` the run starts. ``size``: bytes of ``files`` files and links.

    Other runs share it (see ``snapshot``).
    """

    root: Path
    workdir: Path
    digest: str
    files: int
    size: int


def snapshot(workdir: Path, destination: Path, limit_bytes: int, limit_files: int) -> Snapshot:
    """Copies the code of ``workdir`` to ``destination``/DIGEST, or finds the copy that is there already.

    In a git repository: all tracked files of it as they are on disk, and untracked ones that are not ignored; those of
    submodules and of repositories within it too. Elsewhere: the files of ``workdir`` but SKIPPED_FOLDERS and
    SKIPPED_SUFFIXES. Links stay links and are never followed; one that leads to what is not copied is written as an
    absolute one and leads where it led. Empty folders, FIFOs, sockets and devices are left out.

    The digest (SHA-256, 40 hex digits) covers paths, modes and contents, so all runs of unchanged code share one copy.
    While paths, sizes, modes, inodes and times are those of last time, contents are not read again. Files are
    read-only: a run that would overwrite the code of its neighbours fails instead. Folders can be written: a run finds
    its relative outputs and checkpoints again after a requeue, as it would in its workdir. A copy that lost files all
    the same (by a run, by a power cut) is left to the runs that use it; the next run gets DIGEST.2.

    Raises BadInput for too much code or what cannot be read, StorageFull and StorageError for ``destination``.
    """
    place = os.path.realpath(workdir)
    if not Path(place).is_dir():
        raise BadInput("workdir", f"{workdir} is not a folder.")
    code = _code_of(place, os.path.realpath(destination), limit_files)
    _refuse_too_much(code, limit_bytes, limit_files)
    try:
        with _MAKING:
            digest, root = _Store(destination).hold(code)
        inside = root / Path(place).relative_to(code.top)
        inside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"No space for the snapshot of {code.top} in {destination}.") from None
        raise StorageError(f"The snapshot of {code.top} could not be made in {destination}: {error}.") from None
    return Snapshot(root, inside, digest, len(code.entries), code.size)


# One copy at a time: of the runs of a sweep that are submitted at once, the first copies and the others find it.
_MAKING = threading.Lock()


@dataclass(frozen=True)
class _Entry:
    """A file or link of the code. ``mode``: st_mode without write permissions. ``marks``: times and inode."""

    path: bytes
    mode: int
    size: int
    marks: tuple[int, ...]
    link: bytes = b""


@dataclass(frozen=True)
class _Code:
    """The code under ``top``, sorted by path. ``at``: when it was listed, ns since the epoch."""

    top: str
    entries: list[_Entry]
    git: bool
    at: int

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    def signature(self) -> str:
        """What stays the same while nobody touches the code."""
        return hashlib.sha256(repr((self.top, self.entries)).encode()).hexdigest()

    def settled(self) -> bool:
        """Whether the same signature will mean the same contents."""
        return all(self.at - entry.marks[1] > SETTLED_NS for entry in self.entries)

    def digest(self, target: int | None = None) -> str:
        """Reads all contents, and copies them into the folder ``target``. What has gone meanwhile is left out."""
        whole = hashlib.sha256(b"orc snapshot 1\0")
        with _folder(os.fsencode(self.top)) as top:
            for entry in self.entries:
                part = _pour_link(entry, target) if stat.S_ISLNK(entry.mode) else _pour(top, entry, target)
                if part is not None:
                    whole.update(f"{entry.mode:o} {part} ".encode() + entry.path + b"\0")
        return whole.hexdigest()[:40]


class _Store:
    """The snapshots under one folder. ``.seen/``: for each toplevel, its last signature and snapshot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, code: _Code) -> tuple[str, Path]:
        """The digest and a whole copy of the code, made where there is none."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = self._folder / ".seen" / hashlib.sha256(os.fsencode(code.top)).hexdigest()[:20]
        signature = code.signature()
        digest = _recall(seen, signature) or code.digest()
        root = self._free_or_whole(digest, code)
        if not root.exists():
            digest, root = self._make(code)
        if code.settled():
            seen.parent.mkdir(exist_ok=True)
            write_private(seen, json.dumps({"signature": signature, "digest": digest}))
        return digest, root

    def _free_or_whole(self, digest: str, code: _Code) -> Path:
        names = (f"{digest}.{number}" if number > 1 else digest for number in count(1))
        roots = (self._folder / name for name in names)
        return next(root for root in roots if not root.exists() or _whole(root, code))

    def _make(self, code: _Code) -> tuple[str, Path]:
        """Copies under a temporary name. Another process may be first with the same: then its copy is taken."""
        self._sweep()
        temporary = Path(tempfile.mkdtemp(prefix=".making.", dir=self._folder))  # 0700: as private as any workdir
        try:
            with _folder(os.fsencode(temporary)) as target:
                digest = code.digest(target)  # of what was copied, whatever was read before
            while not _renamed(temporary, root := self._free_or_whole(digest, code)) and not _whole(root, code):
                pass
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return digest, root

    def _sweep(self) -> None:
        for path in self._folder.glob(".making.*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _recall(seen: Path, signature: str) -> str | None:
    try:
        found = json.loads(seen.read_bytes())
        known = found["digest"] if found["signature"] == signature else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if isinstance(known, str) and re.fullmatch(r"[0-9a-f]{40}", known) else None


def _renamed(temporary: Path, root: Path) -> bool:
    try:
        temporary.rename(root)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _whole(root: Path, code: _Code) -> bool:
    """Whether a copy still has all its files, by kind and size: a power cut leaves empty ones, a run may take some."""
    with _folder(os.fsencode(root)) as top:
        copies = (_entry_at(top, entry.path) for entry in code.entries)
        return all(
            copy is not None and (copy.mode, copy.size, copy.link) == (entry.mode, entry.size, entry.link)
            for copy, entry in zip(copies, code.entries, strict=True)
        )


def _code_of(place: str, destination: str, limit_files: int) -> _Code:
    """Lists the code of a workdir. Both paths are real ones."""
    at = time.time_ns()
    try:
        marked = _marked(place)
        repository = None if marked is None else _Git(LISTING_DEADLINE).find(marked)
        if repository is None:
            top, found = place, list(islice(_entries(place, _walked(place, destination)), limit_files + 1))
        else:
            top, found = repository.top, _tracked(repository, destination, limit_files)
    except (_Trouble, OSError, ValueError) as error:
        raise BadInput("snapshot", f"The code of {place} cannot be listed: {error}.") from None
    own = os.fsencode(os.path.relpath(destination, top)) + b"/"  # snapshots of snapshots would grow for ever
    entries = sorted((entry for entry in found if not entry.path.startswith(own)), key=lambda entry: entry.path)
    return _Code(top, _links_kept(top, entries), repository is not None, at)


def _tracked(repository: _Repository, destination: str, limit_files: int, depth: int = 0) -> list[_Entry]:
    """The entries of a repository and of those within it: submodules, and clones that nobody ignored."""
    git = _Git(LISTING_DEADLINE)
    command = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if Path(destination).is_relative_to(repository.top):
        command += ["--", f":(exclude,top,literal){os.path.relpath(destination, repository.top)}"]
    with git.apart(repository) as ask:
        listing = ask(*command, limit=(limit_files + 1) * 1024)
    if listing.cut:
        raise _Trouble(f"there are more than {limit_files} files; name in .gitignore what is no code")
    names = dict.fromkeys(name.rstrip(b"/") for name in listing.out.split(b"\0")[:-1])  # a conflict lists one thrice
    found = []
    for entry in _entries(repository.top, names):
        if not stat.S_ISDIR(entry.mode):
            found.append(entry)
            continue
        nested = os.path.join(repository.top, os.fsdecode(entry.path))  # noqa: PTH118
        if not os.path.lexists(os.path.join(nested, ".git")):  # noqa: PTH118
            continue  # a submodule that nobody checked out
        within = git.find(nested)
        if within is None or within.top != nested or depth == NESTED_LIMIT:
            raise _Trouble(f"the repository within it at {_text(entry.path)} is not readable")
        inner = _tracked(within, destination, limit_files, depth + 1)
        found += [replace(each, path=entry.path + b"/" + each.path) for each in inner]
    return found


def _walked(top: str, destination: str) -> Iterator[bytes]:
    """The files and links under a folder, by their paths from it on, without those of ``destination``."""

    def give_up(error: OSError) -> None:
        raise error

    root = os.fsencode(top)
    skipped = {os.fsencode(name) for name in SKIPPED_FOLDERS}
    suffixes = tuple(os.fsencode(suffix) for suffix in SKIPPED_SUFFIXES)
    for folder, folders, files in os.walk(root, onerror=give_up):
        own = os.fsencode(destination)
        folders[:] = [name for name in folders if name not in skipped and os.path.join(folder, name) != own]  # noqa: PTH118
        links = [name for name in folders if Path(os.fsdecode(folder), os.fsdecode(name)).is_symlink()]
        for name in [*links, *(name for name in files if not name.endswith(suffixes))]:
            yield os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118


def _entries(top: str, names: Iterable[bytes]) -> Iterator[_Entry]:
    """What of these is there, with folders, without FIFOs, sockets and devices."""
    with _folder(os.fsencode(top)) as root:
        for name in names:
            if (entry := _entry_at(root, name)) is not None:
                yield entry


def _entry_at(root: int, path: bytes) -> _Entry | None:
    with _parent(root, path) as (folder, name):
        if folder is None:
            return None
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            link = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(found.st_mode) else b""
        except FileNotFoundError:
            return None
    marks = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    if link:
        return _Entry(path, stat.S_IFLNK, len(link), marks, link)
    regular = stat.S_ISREG(found.st_mode)
    if not regular and not stat.S_ISDIR(found.st_mode):
        return None
    return _Entry(path, stat.S_IFMT(found.st_mode) | (found.st_mode & 0o555), found.st_size if regular else 0, marks)


@contextmanager
def _folder(path: bytes) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _parent(root: int, path: bytes, make: bool = False) -> Iterator[tuple[int | None, bytes]]:
    """The open folder of a path under ``root``, and the name in it. None where there is none, or behind a link.

    Opened step by step, each without following links: an index may name ../../x, and a folder of the workdir may
    be a link by now.
    """
    *folders, name = path.split(b"/")
    fd = os.dup(root) if _decent(path) else None
    try:
        for step in folders:
            outer, fd = fd, None if fd is None else _step(fd, step, make)
            if outer is not None:
                os.close(outer)
        yield fd, name
    finally:
        if fd is not None:
            os.close(fd)


def _decent(path: bytes) -> bool:
    return not any(step in (b"", b".", b"..") or step.lower() == b".git" for step in path.split(b"/"))


def _step(folder: int, name: bytes, make: bool) -> int | None:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def _links_kept(top: str, entries: list[_Entry]) -> list[_Entry]:
    """Relative links that would lead to nothing in the copy become absolute ones to what they lead to now."""
    paths = {entry.path for entry in entries}
    for entry in entries:
        folder = os.path.dirname(entry.path)  # noqa: PTH120
        while folder and folder not in paths:
            paths.add(folder)
            folder = os.path.dirname(folder)  # noqa: PTH120
    return [_link_kept(os.fsencode(top), entry, paths | {b"."}) if entry.link else entry for entry in entries]


def _link_kept(top: bytes, entry: _Entry, paths: set[bytes]) -> _Entry:
    target = os.path.normpath(os.path.join(os.path.dirname(entry.path), entry.link))  # noqa: PTH118, PTH120
    if entry.link.startswith(b"/") or target in paths:
        return entry
    link = os.path.normpath(os.path.join(top, target))  # noqa: PTH118
    return replace(entry, link=link, size=len(link))


def _pour_link(entry: _Entry, target: int | None) -> str:
    if target is not None:
        with _parent(target, entry.path, make=True) as (folder, name):
            os.symlink(entry.link, name, dir_fd=folder)
    return hashlib.sha256(entry.link).hexdigest()


def _pour(top: int, entry: _Entry, target: int | None) -> str | None:
    """Hashes a file, and copies it into the folder ``target``. A log that grows ends where it ended when listed."""
    with _parent(top, entry.path) as (folder, name):
        if folder is None:
            return None
        try:
            with _regular(name, folder, os.O_NOFOLLOW) as source:
                if source is None:
                    return None
                if target is None:
                    return _hashed(source, entry.size)
                with _created(target, entry) as copy:
                    return _hashed(source, entry.size, copy)
        except PermissionError:
            raise BadInput("snapshot", f"{_text(entry.path)} is part of the code and cannot be read.") from None


@contextmanager
def _created(target: int, entry: _Entry) -> Iterator[int]:
    with _parent(target, entry.path, make=True) as (folder, name):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        yield fd
        os.utime(fd, ns=(entry.marks[0], entry.marks[0]))
        os.fchmod(fd, stat.S_IMODE(entry.mode))
    finally:
        os.close(fd)


def _hashed(source: int, size: int, copy: int | None = None) -> str:
    found, left = hashlib.sha256(), size
    while left and (chunk := os.read(source, min(left, 2**20))):
        found.update(chunk)
        left -= len(chunk)
        rest = memoryview(chunk)
        while copy is not None and rest:
            rest = rest[os.write(copy, rest) :]
    return found.hexdigest()


def _refuse_too_much(code: _Code, limit_bytes: int, limit_files: int) -> None:
    """Raises BadInput for more than the limits, naming what is largest."""
    files, size = str(len(code.entries)), code.size
    if len(code.entries) <= limit_files and size <= limit_bytes:
        return
    largest = sorted(code.entries, key=lambda entry: -entry.size)[:5]
    offenders = ", ".join(f"{_text(entry.path)} ({_human(entry.size)})" for entry in largest)
    counts = Counter(os.path.dirname(entry.path) for entry in code.entries)  # noqa: PTH120
    fullest = ", ".join(f"{_text(folder) or '.'} ({number} files)" for folder, number in counts.most_common(3))
    advice = "Name in .gitignore what is no code, or move it out of the repository"
    if not code.git:
        files = files if len(code.entries) <= limit_files else f"more than {limit_files}"  # nobody counted further
        advice = "Move data elsewhere, or make it a git repository (git init) and name in .gitignore what is no code"
    raise BadInput(
        "snapshot",
        f"The code under {code.top} is {files} files of {_human(size)}; "
        f"at most {limit_files} files of {_human(limit_bytes)} are copied. "
        f"The largest: {offenders}. The fullest folders: {fullest}. {advice}, and submit again.",
    )


def _human(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
