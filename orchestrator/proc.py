"""Processes of this machine, told apart for good: a PID with its start time and the machine's boot.

Source: proc(5). Linux only.
"""

import os
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@cache
def boot_id() -> str:
    """This boot of the kernel; PIDs and start times of another boot mean nothing here."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def host_name() -> str:
    """This machine's name, as job.py writes it too."""
    return socket.gethostname()


@dataclass(frozen=True)
class ProcessId:
    """One process for good. ``start_ticks``: clock ticks since boot (field 22 of /proc/PID/stat)."""

    pid: int
    start_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The process that has this PID now, or None."""
        stat = read_stat(pid)
        return None if stat is None else cls(pid, stat.start_ticks, boot_id())

    @classmethod
    def load(cls, data: dict[str, Any]) -> "ProcessId":
        """From what ``dump`` made."""
        return cls(int(data["pid"]), int(data["start_ticks"]), str(data["boot"]))

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def alive(self) -> bool:
        """Whether this very process runs still; a zombie does not."""
        if self.boot != boot_id():
            return False
        stat = read_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.state not in "ZX"


@dataclass(frozen=True)
class Stat:
    """What is used of /proc/PID/stat. ``cpu_ticks``: its own CPU time and that of children it has waited for."""

    pid: int
    state: str
    parent: int
    session: int
    start_ticks: int
    cpu_ticks: int = 0


def read_stat(pid: int) -> Stat | None:
    """One process, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("utf-8", "replace")
    except OSError:  # gone, or not ours to look at (/proc with hidepid)
        return None
    # The name stands in parentheses and may hold anything, a parenthesis too: fields count from the last.
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]), sum(map(int, fields[11:15])))


def all_processes() -> list[Stat]:
    """Every process that this user may see."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208  (names, not paths)
    return [stat for stat in map(read_stat, pids) if stat is not None]


_UNREAPED: "list[subprocess.Popen[bytes]]" = []


def reap(killed: "subprocess.Popen[bytes]") -> None:
    """Waits a second for a child that was killed. One that hangs in the kernel is looked at again at later calls."""
    for earlier in list(_UNREAPED):
        if earlier.poll() is not None:
            with suppress(ValueError):  # another thread saw it too
                _UNREAPED.remove(earlier)
    try:
        killed.wait(timeout=1)
    except subprocess.TimeoutExpired:
        _UNREAPED.append(killed)


def descendants(roots: Iterable[int], processes: Iterable[Stat]) -> set[int]:
    """The PIDs below ``roots`` (not themselves)."""
    children: dict[int, list[int]] = {}
    for stat in processes:
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def cpu_seconds(root: ProcessId) -> float | None:
    """CPU time that a process and all below it have used, those that have ended included; None where it is gone."""
    if not root.alive():
        return None
    processes = all_processes()
    tree = {root.pid} | descendants([root.pid], processes)
    return sum(stat.cpu_ticks for stat in processes if stat.pid in tree) / os.sysconf("SC_CLK_TCK")


def marked(variable: str, value: str) -> list[ProcessId]:
    """Living processes that carry ``variable=value`` in their first environment, and all that they started.

    How a run's processes are found when job.py is dead: they inherit ORC_RUN_ID. Only processes of the
    same user can be read (and only they can be a run's).
    """
    needle = f"{variable}={value}".encode()
    processes = [stat for stat in all_processes() if stat.state not in "ZX"]
    roots = {stat.pid for stat in processes if needle in _environment(stat.pid)}
    pids = roots | descendants(roots, processes)
    return [ProcessId(stat.pid, stat.start_ticks, boot_id()) for stat in processes if stat.pid in pids]


def session_of(leader: ProcessId) -> list[ProcessId]:
    """The living processes of the session that ``leader`` made (setsid), itself included.

    The kernel gives a PID to nobody while it names a session: only a leader with another start time is another's.
    """
    processes = all_processes()
    if any(stat.pid == leader.pid and stat.start_ticks != leader.start_ticks for stat in processes):
        return []
    mine = (stat for stat in processes if stat.session == leader.pid and stat.state not in "ZX")
    return [ProcessId(stat.pid, stat.start_ticks, boot_id()) for stat in mine]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def listener_uid(host: str, port: int) -> int | None:
    """Who listens on a TCP port of this machine: the socket's owner in /proc/net/tcp, or None when nobody does.

    The kernel gives a connection to the most exact listener; one on all IPv6 addresses takes IPv4 too.
    """
    owners = {
        **_listeners("/proc/net/tcp", socket.AF_INET, port),
        **_listeners("/proc/net/tcp6", socket.AF_INET6, port),
    }
    exact = [host, "::"] if ":" in host else [host, f"::ffff:{host}", "0.0.0.0", "::"]  # noqa: S104  (compared, not bound)
    return next((owners[address] for address in exact if address in owners), None)


def _listeners(table: str, family: socket.AddressFamily, port: int) -> dict[str, int]:
    """The owners of the listening sockets of one port, by address."""
    try:
        lines = Path(table).read_text().splitlines()[1:]
    except FileNotFoundError:
        return {}
    found = {}
    for fields in (line.split() for line in lines):
        address, _, local_port = fields[1].rpartition(":")
        if fields[3] == "0A" and int(local_port, 16) == port:
            found[_address(address, family)] = int(fields[7])
    return found


def _address(text: str, family: socket.AddressFamily) -> str:
    """The kernel writes addresses as host-order 32-bit words."""
    words = (bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    return socket.inet_ntop(family, b"".join(words))
