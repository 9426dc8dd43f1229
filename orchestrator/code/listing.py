"""Which files and links are the code of a workdir: what git tracks or does not ignore, else whatever lies there."""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from orchestrator.code.files import as_text, open_folder
from orchestrator.code.git import Git, Repository, Trouble, nearest_marked
from orchestrator.code.tree import Code, Entry, entry_at
from orchestrator.errors import BadInput

LISTING_DEADLINE = 60.0
NESTED_LIMIT = 8  # repositories within repositories

# What is passed over outside a repository, at any depth. Inside one, .gitignore says it.
SKIPPED_FOLDERS = frozenset(
    {".git", "__pycache__", "node_modules", ".venv", "venv", "wandb", ".tox", ".nox", ".ipynb_checkpoints"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache"}
)
SKIPPED_SUFFIXES = (".pyc", ".pyo")


def code_of(place: str, destination: str, limit_files: int) -> Code:
    """Lists the code of a workdir. Both paths are real ones."""
    at = time.time_ns()
    try:
        marked = nearest_marked(place)
        repository = None if marked is None else Git(LISTING_DEADLINE).find(marked)
        if repository is None:
            top, found = place, list(islice(_entries(place, _walked(place, destination)), limit_files + 1))
        else:
            top, found = repository.top, _tracked(repository, destination, limit_files)
    except (Trouble, OSError, ValueError) as error:
        raise BadInput("snapshot", f"The code of {place} cannot be listed: {error}.") from None
    own = os.fsencode(os.path.relpath(destination, top)) + b"/"  # snapshots of snapshots would grow for ever
    entries = sorted((entry for entry in found if not entry.path.startswith(own)), key=lambda entry: entry.path)
    return Code(top, _links_kept(top, entries), repository is not None, at)


def _tracked(repository: Repository, destination: str, limit_files: int, depth: int = 0) -> list[Entry]:
    """The entries of a repository and of those within it: submodules, and clones that nobody ignored."""
    git = Git(LISTING_DEADLINE)
    command = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if Path(destination).is_relative_to(repository.top):
        command += ["--", f":(exclude,top,literal){os.path.relpath(destination, repository.top)}"]
    with git.apart(repository) as ask:
        listing = ask(*command, limit=(limit_files + 1) * 1024)
    if listing.cut:
        raise Trouble(f"there are more than {limit_files} files; name in .gitignore what is no code")
    names = dict.fromkeys(name.rstrip(b"/") for name in listing.out.split(b"\0")[:-1])  # a conflict lists one thrice
    found = []
    for entry in _entries(repository.top, names):
        if not stat.S_ISDIR(entry.mode):
            found.append(entry)
            continue
        nested = os.path.join(repository.top, os.fsdecode(entry.path))
        if not os.path.lexists(os.path.join(nested, ".git")):
            continue  # a submodule that nobody checked out
        within = git.find(nested)
        if within is None or within.top != nested or depth == NESTED_LIMIT:
            raise Trouble(f"the repository within it at {as_text(entry.path)} is not readable")
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
        folders[:] = [name for name in folders if name not in skipped and os.path.join(folder, name) != own]
        links = [name for name in folders if Path(os.fsdecode(folder), os.fsdecode(name)).is_symlink()]
        for name in [*links, *(name for name in files if not name.endswith(suffixes))]:
            yield os.path.relpath(os.path.join(folder, name), root)


def _entries(top: str, names: Iterable[bytes]) -> Iterator[Entry]:
    """What of these is there, with folders, without FIFOs, sockets and devices."""
    with open_folder(os.fsencode(top)) as root:
        for name in names:
            if (entry := entry_at(root, name)) is not None:
                yield entry


def _links_kept(top: str, entries: list[Entry]) -> list[Entry]:
    """Relative links that would lead to nothing in the copy become absolute ones to what they lead to now."""
    paths = {entry.path for entry in entries}
    for entry in entries:
        folder = os.path.dirname(entry.path)
        while folder and folder not in paths:
            paths.add(folder)
            folder = os.path.dirname(folder)
    return [_link_kept(os.fsencode(top), entry, paths | {b"."}) if entry.link else entry for entry in entries]


def _link_kept(top: bytes, entry: Entry, paths: set[bytes]) -> Entry:
    target = os.path.normpath(os.path.join(os.path.dirname(entry.path), entry.link))
    if entry.link.startswith(b"/") or target in paths:
        return entry
    link = os.path.normpath(os.path.join(top, target))
    return replace(entry, link=link, size=len(link))
