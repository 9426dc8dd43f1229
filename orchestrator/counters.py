"""The service's counters in Prometheus' text form (exposition format 0.0.4)."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlmodel import Session

from orchestrator.cluster import summary


def text(session: Session, commands: Mapping[str, Mapping[str, Any]], passes: int, trouble: str | None) -> str:
    """All of them."""
    runs = {name: count for name, count in summary(session).items() if name != "total"}
    parts = [
        _metric("orc_runs", "gauge", "Runs by status, archived ones left out.", "status", runs.items()),
        _metric("orc_passes_total", "counter", "Passes of the reconciler.", "", [("", passes)]),
        _metric("orc_slurm_up", "gauge", "Whether Slurm answered when last asked.", "", [("", int(trouble is None))]),
    ]
    for field, kind, words in (
        ("calls", "counter", "Slurm commands run."),
        ("failures", "counter", "Slurm commands that failed or gave no answer."),
        ("seconds", "counter", "Seconds spent in Slurm commands."),
        ("last_hour", "gauge", "Slurm commands run within the last hour."),
    ):
        name = f"orc_slurm_command_{field}{'_total' if kind == 'counter' else ''}"
        rows = ((command, tally[field]) for command, tally in commands.items())
        parts.append(_metric(name, kind, words, "command", rows))
    return "".join(parts)


def _metric(name: str, kind: str, words: str, label: str, rows: Iterable[tuple[str, float]]) -> str:
    lines = [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
    lines += [f'{name}{{{label}="{key}"}} {value}' if label else f"{name} {value}" for key, value in rows]
    return "\n".join(lines) + "\n"
