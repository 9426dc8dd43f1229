"""What the cluster allows: partitions, limits, accounts. Asked seldom, kept for a while, checked against before sbatch.

What Slurm accepts though it can never run (time above the partition's limit, too many nodes) is caught here.
"""

import re
import time
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import SchedulerUnavailable
from orchestrator.resources import parse_time
from orchestrator.slurm.gate import Gate

KEPT_SECONDS = 600.0
LICENSES = ("scontrol", "-o", "show", "licenses")
_PAIR = re.compile(r"(\w+)=(\S*)")


@dataclass(frozen=True)
class Partition:
    """One partition. ``max_seconds``/``default_seconds``: None for no limit; ``nodes``: how many it has."""

    name: str
    default: bool
    up: bool
    nodes: int
    max_nodes: int | None
    max_seconds: float | None
    default_seconds: float | None
    priority_tier: int


@dataclass(frozen=True)
class Facts:
    """``accounts`` and ``qos`` are None where the cluster does not enforce them (any name is accepted there)."""

    version: str = ""
    cluster: str = ""
    max_array_size: int = 1001
    min_job_age: float = 300.0
    kill_wait: float = 30.0
    accounting: bool = False
    partitions: tuple[Partition, ...] = ()
    accounts: tuple[str, ...] | None = None
    qos: tuple[str, ...] | None = None
    licenses: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def default_partition(self) -> Partition | None:
        """Where a job goes that names none."""
        return next((partition for partition in self.partitions if partition.default), None)

    def partition(self, name: str) -> Partition | None:
        """One by its name."""
        return next((partition for partition in self.partitions if partition.name == name), None)

    def public(self) -> dict[str, Any]:
        """For the cluster's details."""
        return {
            "version": self.version,
            "cluster": self.cluster,
            "max_array_size": self.max_array_size,
            "accounting": self.accounting,
            "partitions": [vars(partition) for partition in self.partitions],
            "accounts": self.accounts,
            "qos": self.qos,
            "licenses": self.licenses,
            "notes": self.notes,
        }


class FactsReader:
    """Asks for the facts and keeps them."""

    def __init__(self, gate: Gate, user: str) -> None:
        self._gate = gate
        self._user = user
        self._kept: Facts | None = None
        self._at = 0.0

    @property
    def kept(self) -> Facts:
        """What is known; nothing of a cluster that never answered. Asks nobody."""
        return self._kept or Facts()

    def read(self, *, fresh: bool = False) -> Facts:
        """What the cluster allows, asked again when it is old. Raises SchedulerUnavailable where it is not told now."""
        if self._kept is None or fresh or time.monotonic() - self._at >= KEPT_SECONDS:
            self._kept, self._at = self._ask(), time.monotonic()
        return self._kept

    def _ask(self) -> Facts:
        config = parse_config(self._output("scontrol", "show", "config"))
        accounting = "slurmdbd" in config.get("AccountingStorageType", "")
        enforced = config.get("AccountingStorageEnforce", "none").lower()
        accounts, qos, notes = self._associations(enforced) if accounting else (None, None, ())
        return Facts(
            version=config.get("SLURM_VERSION", ""),
            cluster=config.get("ClusterName", ""),
            max_array_size=_number(config.get("MaxArraySize", "")) or 1001,
            min_job_age=float(
                _number(config.get("MinJobAge", "").split()[0] if config.get("MinJobAge") else "") or 300
            ),
            kill_wait=float(_number(config.get("KillWait", "").partition(" ")[0]) or 30),
            accounting=accounting,
            partitions=tuple(parse_partitions(self._output("scontrol", "-o", "show", "partition"))),
            accounts=accounts,
            qos=qos,
            licenses=tuple(re.findall(r"LicenseName=(\S+)", self._gate.run(LICENSES).output)),
            notes=notes,
        )

    def _output(self, *argv: str) -> str:
        answer = self._gate.run(argv)
        if answer.code != 0:
            raise SchedulerUnavailable(f"{' '.join(argv)}: {answer.errors.strip()[:500]}")
        return answer.output

    def _associations(self, enforced: str) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None, tuple[str, ...]]:
        """The user's accounts and QOS; None where anything goes, or where slurmdbd does not say."""
        if "associations" not in enforced and "qos" not in enforced and "all" not in enforced:
            return None, None, ()
        command = ["sacctmgr", "-n", "-P", "show", "assoc", f"user={self._user}", "format=Account,QOS"]
        answer = self._gate.run(command)
        if answer.code != 0:
            return None, None, (f"slurmdbd does not say which accounts there are: {answer.errors.strip()[:200]}",)
        rows = [line.split("|") for line in answer.output.splitlines() if "|" in line]
        accounts = tuple(sorted({row[0] for row in rows if row[0]}))
        qos = tuple(sorted({name for row in rows for name in row[1].split(",") if name}))
        return accounts or None, (qos or None) if "qos" in enforced or "all" in enforced else None, ()


def version_of(gate: Gate) -> str:
    """The controller's version, "" where it does not say."""
    try:
        return parse_config(gate.run(["scontrol", "show", "config"]).output).get("SLURM_VERSION", "")
    except SchedulerUnavailable:
        return ""


def parse_config(output: str) -> dict[str, str]:
    """``scontrol show config`` as a mapping."""
    pairs = (line.partition("=") for line in output.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def parse_partitions(output: str) -> list[Partition]:
    """``scontrol -o show partition``: one line each."""
    found = []
    for line in output.splitlines():
        fields = dict(_PAIR.findall(line))
        if "PartitionName" in fields:
            found.append(
                Partition(
                    name=fields["PartitionName"],
                    default=fields.get("Default") == "YES",
                    up=fields.get("State") == "UP",
                    nodes=_number(fields.get("TotalNodes", "")) or 0,
                    max_nodes=_number(fields.get("MaxNodes", "")),
                    max_seconds=_seconds(fields.get("MaxTime", "")),
                    default_seconds=_seconds(fields.get("DefaultTime", "")),
                    priority_tier=_number(fields.get("PriorityTier", "")) or 0,
                )
            )
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _seconds(text: str) -> float | None:
    try:
        return parse_time(text)
    except ValueError:  # UNLIMITED, NONE
        return None
