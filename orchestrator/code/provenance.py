"""What git says of the repository that holds a workdir: commit, branch, remote, diff, untracked files."""

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.code.files import as_text, regular_file
from orchestrator.code.git import Answer, Git, Repository, Trouble, nearest_marked

DIFF_LIMIT = 1_000_000  # bytes of a diff
NAMES_LIMIT = 100_000  # bytes of the names of untracked files
CACHED = 16  # repositories; each holds at most a diff and names
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
        self._git = Git(deadline)
        self._ttl = ttl
        self._diff_limit = diff_limit
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[object, ...], tuple[float, Future[Provenance | None]]] = OrderedDict()

    def read(self, workdir: Path) -> Provenance | None:
        """What git says, or None where ``workdir`` is in no repository. Never raises for what is wrong there."""
        try:
            top = nearest_marked(os.path.realpath(workdir))
            return None if top is None else self._shared(top, (top, *_marks(top)))
        except (OSError, ValueError) as error:
            return Provenance(as_text(os.fsencode(workdir)), problem=str(error))

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
        found: Provenance | None = Provenance(as_text(os.fsencode(top)))
        try:
            for found in self._steps(top):  # noqa: B007  (the last one is the result)
                pass
        except (Trouble, OSError, ValueError) as error:
            assert found is not None
            return replace(found, problem=str(error))
        return found

    def _steps(self, marked: str) -> Iterator[Provenance | None]:
        """Ever more of the answer."""
        repository = self._git.find(marked)
        if repository is None:
            yield None
            return
        found = Provenance(as_text(os.fsencode(repository.top)))
        yield (found := replace(found, commit=repository.commit, branch=_branch(repository)))
        yield (found := replace(found, remote=_remote(repository)))
        with self._git.apart(repository) as ask:
            base = repository.commit or _EMPTY_TREE[repository.object_format]
            diff = ask(*_DIFF, base, "--", limit=self._diff_limit)
            found = replace(found, dirty=bool(diff.out), diff=_lines(diff), truncated=diff.cut)
            yield found
            others = ask("ls-files", "-z", "--others", "--exclude-standard", limit=NAMES_LIMIT)
            names = tuple(as_text(name) for name in others.out.split(b"\0")[:-1])
            yield replace(found, untracked=names, untracked_truncated=others.cut)


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
    with regular_file(str(path)) as fd:
        return b"" if fd is None else os.read(fd, 4096)


def _lines(diff: Answer) -> str:
    """The diff as text that a database takes; a cut one ends with a whole line."""
    end = diff.out.rfind(b"\n") + 1 if diff.cut else 0
    return diff.out[: end or None].decode("utf-8", "replace").replace("\0", "\ufffd")


def _branch(repository: Repository) -> str | None:
    return as_text(os.fsencode(repository.head.removeprefix("refs/heads/"))) or None


def _remote(repository: Repository) -> str | None:
    config, branch = repository.config, repository.head.removeprefix("refs/heads/")
    names = [f"remote.{config.get(f'branch.{branch}.remote')}.url", "remote.origin.url"]
    names += [name for name in config if name.startswith("remote.") and name.endswith(".url")]
    url = next((config[name] for name in names if config.get(name)), None)
    return None if url is None else as_text(os.fsencode(without_credentials(url)))[:2000]


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
