"""Used against asked, as seff tells it: which share of its CPUs, memory and time an ended run has used. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.resources import parse_memory, parse_time
from orchestrator.slurm.queue import tres_text


@dataclass(frozen=True)
class Used:
    """What was used, of what: bytes and seconds; None for what is not known."""

    cpu_seconds: float | None
    cpu_seconds_given: float
    peak_memory_bytes: int | None
    elapsed_seconds: float | None


def shares(used: Used, resources: Mapping[str, Any], scheduler: Mapping[str, Any] | None) -> dict[str, float | None]:
    """``cpu`` over all attempts; ``memory`` (of one node) and ``time`` of the last one; None where there is no limit
    to hold it against, or nothing was measured."""
    memory = _memory_asked(resources, scheduler)
    limit = resources.get("time")
    return {
        "cpu": _share(used.cpu_seconds, used.cpu_seconds_given),
        "memory": _share(used.peak_memory_bytes, memory),
        "time": _share(used.elapsed_seconds, None if limit is None else parse_time(limit)),
    }


def _memory_asked(resources: Mapping[str, Any], scheduler: Mapping[str, Any] | None) -> float | None:
    """Bytes of one node: asked for, or given by the cluster's default."""
    if resources.get("mem") is not None:
        return float(parse_memory(resources["mem"]))
    tres = (scheduler or {}).get("tres") or ""
    given, nodes = tres_text(tres, "mem"), tres_text(tres, "node")
    return parse_memory(given) / max(1, int(nodes or 1)) if given else None


def _share(used: float | None, asked: float | None) -> float | None:
    return None if used is None or not asked else round(used / asked, 4)
