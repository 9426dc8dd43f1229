"""Real git repositories, and what the product says of them and copies of them."""

import os
import shutil
import subprocess
from pathlib import Path

from orchestrator.code.provenance import GitReader, Provenance
from orchestrator.code.snapshot import Snapshot, snapshot

GIT = shutil.which("git") or "git"
MEBI = 2**20
OURS = ["user.name=A", "user.email=a@example.org", "init.defaultBranch=main", "protocol.file.allow=always"]


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    """What a real git answers, with a configuration of the tests' own."""
    flags = [part for setting in OURS for part in ("-c", setting)]
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run([GIT, *flags, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def made(folder: Path) -> Path:
    """A repository with one commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "--template=")
    (folder / "train.py").write_text("print('one')\n")
    (folder / "src").mkdir()
    (folder / "src" / "model.py").write_text("LAYERS = 2\n")
    (folder / ".gitignore").write_text("*.ckpt\nout/\n")
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    """Commits all there is."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "change")
    return git(folder, "rev-parse", "HEAD")


def with_submodule(tmp_path: Path) -> Path:
    """A repository with another one as its submodule, at lib."""
    made(tmp_path / "library")
    outer = made(tmp_path / "outer")
    git(outer, "submodule", "--quiet", "add", str(tmp_path / "library"), "lib")
    commit(outer)
    return outer


def read(workdir: Path, **options: float) -> Provenance:
    """What a new reader is told."""
    found = GitReader(**options).read(workdir)  # type: ignore[arg-type]
    assert found is not None
    return found


def take(workdir: Path, limit_bytes: int = 10 * MEBI, limit_files: int = 1000) -> Snapshot:
    """A snapshot, kept beside the workdir."""
    return snapshot(workdir, workdir.parent / "snapshots", limit_bytes, limit_files)


def names(root: Path) -> set[str]:
    """The files and links under a folder."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


def copies(folder: Path) -> list[str]:
    """The snapshots that were kept beside a workdir, by their names."""
    return [path.name for path in (folder / "snapshots").iterdir() if path.name != ".seen"]
