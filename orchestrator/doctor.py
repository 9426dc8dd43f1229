"""What is in force here, where it came from, and what is wrong with it. Looks only; changes nothing."""

import importlib.util
import os
import platform
import sqlite3
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import text

from orchestrator import __version__
from orchestrator import home as home_files
from orchestrator.alerting.targets import INSTALL, apprise_installed, targets_of
from orchestrator.db import Database, scalar_pragma
from orchestrator.detect import detect
from orchestrator.errors import OrcError
from orchestrator.executors.gpus import GpuReader, own_visible_devices
from orchestrator.executors.leases import LeaseFolder
from orchestrator.filesystems import is_network, kind_of
from orchestrator.migrate import revisions
from orchestrator.rundir import free_bytes
from orchestrator.settings import SECRET, Settings, provenance
from orchestrator.slurm.facts import version_of
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.pyslurmreads import PyslurmReads

Level = Literal["ok", "note", "warning", "error"]
LOW_SPACE = 2**30

# https://www.sqlite.org/wal.html ("The WAL-Reset Bug") and the release notes of the versions named.
WAL_RESET_FIXED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    topic: str
    level: Level
    words: str

    def public(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which one would ask."""
    found = [Finding("orc", "ok", f"{__version__}, Python {platform.python_version()} ({sys.executable})")]
    for part in (_home, _server, _database, _runs_dir, _gpu_leases, _machine, _extras, _alerts, _settings):
        try:
            found += part(settings)
        except (OrcError, OSError) as error:
            found.append(Finding(part.__name__.strip("_"), "error", str(error)))
    return found


def _home(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.is_dir():
        yield Finding("home", "note", f"{home} is not there yet; the first start makes it.")
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    open_to_others = mode & 0o077
    words = f"{home} ({kind_of(home)}), mode {mode:04o}"
    yield Finding(
        "home", "warning" if open_to_others else "ok", words + (": others can look in." if open_to_others else ".")
    )
    token = home / "token"
    if token.exists():
        mode = stat.S_IMODE(token.stat().st_mode)
        bad = mode & 0o077
        fix = f": others can read it; chmod 600 {token}, then make a new one." if bad else "."
        yield Finding("token", "error" if bad else "ok", f"{token}, mode {mode:04o}{fix}")


def _server(settings: Settings) -> Iterator[Finding]:
    said = home_files.read_server_file(settings.home)
    if said is None:
        yield Finding("server", "note", "none runs; `orc serve` starts one, other commands do so on demand.")
    else:
        yield Finding("server", "ok", f"process {said['pid']} on {said['host']}, {said['url']}, {said['socket']}")
    yield Finding("socket", "ok", str(home_files.socket_path(settings.home)))


def _database(settings: Settings) -> Iterator[Finding]:
    database = Database(settings.database_url)
    try:
        shown = database.url.render_as_string(hide_password=True)
        if database.path is None:
            with database.reader_engine.connect() as connection:
                version = connection.execute(text("SHOW server_version")).scalar()
            yield Finding("database", "ok", f"{shown}, PostgreSQL {version}")
        else:
            yield from _sqlite(database, shown)
        present, head = revisions(database)
        level: Level = "ok" if present == head else "note"
        yield Finding("migrations", level, f"the database is at {present}, this version at {head}")
    finally:
        database.close()


def _sqlite(database: Database, shown: str) -> Iterator[Finding]:
    assert database.path is not None
    kind = kind_of(database.path)
    journal, sync = scalar_pragma(database, "journal_mode"), scalar_pragma(database, "synchronous")
    yield Finding("database", "ok", f"{shown} ({kind}), journal_mode={journal}, synchronous={sync}")
    if is_network(kind):
        yield Finding(
            "database",
            "warning",
            f"SQLite lies on {kind}: no WAL there, and slower. Set ORC_DATABASE_URL to a file on a local disk "
            "(sqlite:////var/tmp/…) or to PostgreSQL.",
        )
    yield sqlite_faults(sqlite3.sqlite_version_info, wal=journal == "wal")
    free = free_bytes(database.path.parent)
    level: Level = "ok" if free > LOW_SPACE else "warning"
    yield Finding("disk", level, f"{free / 2**30:.1f} GiB free where the database is")


def sqlite_faults(version: tuple[int, ...], *, wal: bool) -> Finding:
    """What is known to be wrong in a version of SQLite, as far as it touches this use of it."""
    text_version = ".".join(map(str, version))
    fixed = (
        any(version[:2] == good[:2] and version >= good for good in WAL_RESET_FIXED) or version >= WAL_RESET_FIXED[0]
    )
    if fixed:
        return Finding("sqlite", "ok", f"{text_version}; no known fault that matters here")
    words = (
        f"{text_version} has the WAL-reset fault (fixed in 3.51.3, 3.50.7, 3.44.6): two connections that write or "
        "checkpoint at the same moment may damage the database. orc has one connection that does either"
    )
    return Finding("sqlite", "note", words + ("." if wal else ", and this database does not use WAL."))


def _runs_dir(settings: Settings) -> Iterator[Finding]:
    kind, free = kind_of(settings.runs_dir), None
    if settings.runs_dir.is_dir():
        free = free_bytes(settings.runs_dir)
    space = f", {free / 2**30:.1f} GiB free" if free is not None else ", not there yet"
    yield Finding(
        "runs", "warning" if free is not None and free < LOW_SPACE else "ok", f"{settings.runs_dir} ({kind}{space})"
    )


def _gpu_leases(settings: Settings) -> Iterator[Finding]:
    folder = LeaseFolder(settings.gpu_lease_dir)
    if not folder.path.exists():
        yield Finding("gpu leases", "note", f"{folder.path} is made when the first run waits for a GPU")
        return
    folder.ensure()
    owner = folder.owner()
    more = "" if owner == "root" else f"; made by {owner}, who could take it away under others (root would be better)"
    yield Finding("gpu leases", "ok" if owner == "root" else "note", f"{folder.path}{more}")


def _machine(settings: Settings) -> Iterator[Finding]:
    reader, gate = GpuReader(settings.probe_deadline_seconds), Gate(settings.probe_deadline_seconds)
    try:
        seen = detect(gate, settings.probe_deadline_seconds, reader.read, own_visible_devices())
    finally:
        reader.close()
    yield Finding("machine", "ok" if seen.status == "healthy" else "error", f"{seen.type}, {seen.status}. {seen.notes}")
    for name, probe in seen.details["probes"].items():
        level: Level = "error" if probe["state"] == "broken" else "ok" if probe["state"] == "found" else "note"
        yield Finding(f"probe {name}", level, f"{probe['says']} ({probe['seconds']:.2f} s)")
    if seen.type == "slurm":
        yield Finding("slurm reads", "ok", _slurm_reads(settings, gate))
    yield Finding("cpus", "ok", f"{settings.local_cpus} for runs without GPUs (ORC_LOCAL_CPUS)")


def _slurm_reads(settings: Settings, gate: Gate) -> str:
    """By pyslurm or by commands, and why: tried here as the server tries it."""
    pyslurm = PyslurmReads(gate, os.geteuid(), wanted=settings.slurm_pyslurm)
    try:
        pyslurm.connect(version_of(gate))
        return pyslurm.words
    finally:
        pyslurm.close()


def _extras(_settings_in_force: Settings) -> Iterator[Finding]:
    for module, use in (("psycopg", "PostgreSQL"), ("pyslurm", "faster reads of Slurm")):
        there = importlib.util.find_spec(module) is not None
        yield Finding(module, "ok" if there else "note", f"{'installed' if there else 'not installed'} ({use})")


def _alerts(settings: Settings) -> Iterator[Finding]:
    if settings.notify_apprise and not apprise_installed():
        words = f"notify_apprise names targets and apprise is not installed, so they get nothing: {INSTALL}"
        yield Finding("apprise", "error", words)
    count = len(targets_of(settings))
    words = (
        f"{count} target(s) get those of severity {settings.notify_severity} and above" if count else "nobody is told"
    )
    yield Finding("alerts", "ok" if count else "note", f"{words} (notify_webhooks, notify_apprise)")


def _settings(settings: Settings) -> Iterator[Finding]:
    for name, (value, origin) in provenance(settings).items():
        hidden = (name == "database_url" and "@" in str(value)) or (name in SECRET and value)
        shown = f"*** ({len(value)})" if hidden and isinstance(value, list) else "***" if hidden else value
        yield Finding(f"setting {name}", "ok", f"{shown} — {origin}")
    given = sorted(name for name in os.environ if name.startswith("ORC_") and name not in {"ORC_TOKEN"})
    yield Finding("environment", "ok", ", ".join(given) or "no ORC_ variables")
