"""What an approved plan allows, and where something asked for departs from it. Pure.

Terms are flat: ``{"resources.gpus": 1, "env.DATA": "/data", "workdir": "/home/me"}``, so that what differs has a name.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator import grid as grids
from orchestrator.planning import template
from orchestrator.resources import parse_memory, parse_time

Flat = dict[str, Any]
# Of these a run may ask for less than the plan says.
AT_MOST = frozenset(
    {"resources.gpus", "resources.cpus", "resources.mem", "resources.time", "resources.nodes"}
    | {"resources.tasks_per_node", "retry.max", "priority"}
)
NESTED = ("resources", "env", "retry")


@dataclass(frozen=True)
class Budget:
    """What all runs of a plan together may use; None: no limit. ``wall_seconds`` counts from its execution on."""

    gpu_hours: float | None = None
    runs: int | None = None
    wall_seconds: float | None = None


@dataclass(frozen=True)
class Bounds:
    """What was approved: the grid, the commands (templates), the terms, the budget."""

    grid: dict[str, list[Any]] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    terms: Flat = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)

    def public(self) -> dict[str, Any]:
        """As JSON, stored and shown."""
        return asdict(self)

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Bounds":
        """Back from JSON."""
        return cls(**{**stored, "budget": Budget(**stored["budget"])})


@dataclass(frozen=True)
class Difference:
    """One departure: what the plan says (None: nothing) and what was asked for."""

    field: str
    plan: Any
    asked: Any

    def public(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What a run would be. ``params``: its configuration, as far as it said one."""

    command: str
    terms: Flat
    params: Mapping[str, Any] | None = None


def digest(*parts: Any) -> str:
    """A hash over JSON values, the same for equal ones."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def flatten(columns: Mapping[str, Any], workdir: str) -> Flat:
    """A run's terms, flat: from its columns (``orchestrator.terms``). What is at its default is left out."""
    found: Flat = {"workdir": workdir, "executor": columns["executor"]}
    for name in NESTED:
        for key, value in (columns.get(name) or {}).items():
            if key == "slurm":
                found |= {f"resources.slurm.{option}": said for option, said in value.items()}
            else:
                found[f"{name}.{key}"] = value
    gpus = max(columns.get("lease_gpus") or 0, found.get("resources.gpus") or 0)
    wrap = columns.get("gpuwrap_config") or {}
    found |= {
        "resources.gpus": gpus or None,
        "signal": columns.get("signal_before_end"),
        "launch": columns.get("launch"),
        "container": columns.get("container"),
        "environment": columns.get("environment"),
        "snapshot": bool(columns.get("snapshot")) or None,
        "gpuwrap_config.enabled": False if wrap.get("enabled") is False else None,
        "priority": columns.get("priority") or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def nest(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Flat terms as the fields of a request's body."""
    found: dict[str, Any] = {}
    for name, value in terms.items():
        at, *path = name.split(".", 2) if name.startswith("resources.slurm.") else name.split(".", 1)
        place = found
        for part in path:
            place = place.setdefault(at, {})
            at = part
        place[at] = value
    return found


def differences(bounds: Bounds, asked: Asked) -> tuple[list[Difference], dict[str, Any]]:
    """Where it departs, and its configuration as far as it can be told from its command and what it said itself.

    A command with a place for some parameters needs to be told the others; one without any is the same for all.
    """
    found = _terms(bounds.terms, asked.terms)
    params = dict(asked.params or {})
    seen = _configuration(bounds, asked.command, params)
    if seen is None:
        return [Difference("command", shown(bounds.commands), asked.command), *found], params
    wanted = bounds.grid if seen else {name: values for name, values in bounds.grid.items() if name in params}
    params |= seen
    unknown = [
        Difference(f"parameters.{name}", None, value) for name, value in params.items() if name not in bounds.grid
    ]
    return [*found, *_parameters(wanted, params), *unknown], params


def shown(commands: list[str]) -> Any:
    """The commands of a plan in a difference: the one, or all."""
    return commands[0] if len(commands) == 1 else commands or None


def _configuration(bounds: Bounds, command: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values in the command, by the first template that fits it and what the run said itself. Values that the grid
    does not have are told as what they are, where no template fits with its own."""
    for read in (template.recognise, template.guess):
        for text in bounds.commands:
            seen = read(text, bounds.grid, command)
            if seen is not None and all(params.get(name, value) == value for name, value in seen.items()):
                return seen
    return None


def _parameters(grid: Mapping[str, list[Any]], params: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(f"parameters.{name}", values, params.get(name))
        for name, values in grid.items()
        if params.get(name) not in values
    ]


def _terms(allowed: Flat, asked: Flat) -> list[Difference]:
    return [
        Difference(name, allowed.get(name), asked.get(name))
        for name in sorted({*allowed, *asked})
        if not _within(name, allowed.get(name), asked.get(name))
    ]


def _within(name: str, allowed: Any, asked: Any) -> bool:
    if name not in AT_MOST:
        return bool(allowed == asked)
    return asked is None or _amount(name, asked) <= (0 if allowed is None else _amount(name, allowed))


def _amount(name: str, value: Any) -> float:
    if name == "resources.mem":
        return parse_memory(value)
    return parse_time(value) if name == "resources.time" else float(value)


def amendment(found: Iterable[Difference]) -> dict[str, Any]:
    """The body of POST /plans/{id}/amendments that allows just that."""
    body: dict[str, Any] = {}
    for difference in found:
        part, _, name = difference.field.partition(".")
        if part == "command":
            body["command"] = difference.asked
        elif part == "parameters":
            body.setdefault("parameters", {})[name] = [difference.asked]
        elif part == "budget":
            body.setdefault("budget", {})[name] = difference.asked
        else:
            body.setdefault("terms", {})[difference.field] = difference.asked
    return body


def amended(
    bounds: Bounds,
    command: str | None,
    parameters: Mapping[str, list[Any]],
    terms: Mapping[str, Any],
    budget: Mapping[str, Any],
) -> Bounds:
    """The bounds with more allowed: another command, more values, other terms (None: none), another budget."""
    grid = {name: list(values) for name, values in bounds.grid.items()}
    for name, values in parameters.items():
        before = grid.get(name, [None])  # of a new parameter: runs without it are still within the plan
        grid[name] = before + [value for value in values if value not in before]
    commands = [*bounds.commands, *([command] if command is not None and command not in bounds.commands else [])]
    kept = {name: value for name, value in {**bounds.terms, **terms}.items() if value is not None}
    return Bounds(grid, commands, kept, Budget(**{**asdict(bounds.budget), **budget}))


def size(bounds: Bounds) -> int:
    """How many configurations the grid has; 0 without one."""
    return grids.size(bounds.grid) if bounds.grid else 0
