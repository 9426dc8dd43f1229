"""What an approved plan allows, and where something asked for departs from it. Pure.

Terms are flat: ``{"resources.gpus": 1, "env.DATA": "/data", "workdir": "/home/me"}``, so that what differs has a name.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orchestrator import grid as grids
from orchestrator.planning import template
from orchestrator.resources import parse_memory, parse_time

Flat = dict[str, Any]
# Of these a run may ask for less than the plan says.
AT_MOST = frozenset(
    {"resources.gpus", "resources.cpus", "resources.mem", "resources.time", "resources.nodes"}
    | {"resources.tasks_per_node", "retry.max", "priority", "parallel"}
)
# Left out, these are more than any number, not less.
UNLIMITED = frozenset({"resources.time", "resources.mem", "parallel"})
# Left out of the plan, these are one.
ONE_OF = {"resources.cpus": 1.0, "resources.nodes": 1.0, "resources.tasks_per_node": 1.0}
NESTED = ("resources", "env", "retry")


@dataclass(frozen=True)
class Budget:
    """What all runs of a plan together may use; None: no limit. ``wall_seconds`` counts from its execution on."""

    gpu_hours: float | None = None
    runs: int | None = None
    wall_seconds: float | None = None


@dataclass(frozen=True)
class Bounds:
    """What was approved: the grid, the commands (templates), the terms, the budget.

    ``exact``: commands that were allowed later as they are, whatever braces are in them.
    ``defaults``: what of a run's body the plan says, for what runs leave out. ``also``: values of a term that were
    allowed later (None: without). ``runs``: how many who needs a plan may make where the budget does not say.
    """

    grid: dict[str, list[Any]] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    exact: list[str] = field(default_factory=list)
    terms: Flat = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    also: dict[str, list[Any]] = field(default_factory=dict)
    runs: int | None = None
    budget: Budget = field(default_factory=Budget)

    def public(self) -> dict[str, Any]:
        """As JSON, stored and shown."""
        return asdict(self)

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Bounds":
        """Back from JSON."""
        return cls(**{**stored, "budget": Budget(**stored["budget"])})

    def body(self) -> dict[str, Any]:
        """What a run that leaves something out gets, as the fields of a request's body. Where it goes is decided by
        what the machine is, unless the plan says it."""
        terms = {name: value for name, value in self.terms.items() if name not in {"executor", "parallel"}}
        return {**self.defaults, **nest(terms)}


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
    found = _terms(bounds, asked.terms)
    told = {name: _as_planned(bounds.grid.get(name, ()), value) for name, value in (asked.params or {}).items()}
    others = [Difference(f"parameters.{name}", None, value) for name, value in told.items() if name not in bounds.grid]
    seen = _recognised(bounds, asked.command, told)
    if seen is None:
        return [*_unknown(bounds, asked.command, told), *others, *found], told
    wanted = bounds.grid if seen else {name: values for name, values in bounds.grid.items() if name in told}
    params = told | seen
    return [*_parameters(wanted, params), *others, *found], params


def _as_planned(values: Sequence[Any], value: Any) -> Any:
    """The plan's own value where the program would be given the same text."""
    return next((planned for planned in values if _same(planned, value)), value)


def _same(first: Any, second: Any) -> bool:
    return (first is None) == (second is None) and grids.value_text(first) == grids.value_text(second)


def _recognised(bounds: Bounds, command: str, told: Mapping[str, Any]) -> dict[str, Any] | None:
    if command in bounds.exact:
        return {}
    for text in bounds.commands:
        seen = template.recognise(text, bounds.grid, command, told)
        if seen is not None:
            return seen
    return None


def _unknown(bounds: Bounds, command: str, told: Mapping[str, Any]) -> list[Difference]:
    """What of a command is not the plan's: a parameter's value, where that can be told, else all of it."""
    for text in bounds.commands:
        seen = template.guess(text, bounds.grid, command)
        if seen is not None and all(name not in told or _same(told[name], value) for name, value in seen.items()):
            found = _parameters({name: bounds.grid[name] for name in seen}, seen)
            if found:
                return found
    return [Difference("command", shown(bounds.commands), command)]


def shown(commands: list[str]) -> Any:
    """The commands of a plan in a difference: the one, or all."""
    return commands[0] if len(commands) == 1 else commands or None


def _parameters(grid: Mapping[str, list[Any]], params: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(f"parameters.{name}", values, params.get(name))
        for name, values in grid.items()
        if not any(_same(planned, params.get(name)) for planned in values)
    ]


def _terms(bounds: Bounds, asked: Flat) -> list[Difference]:
    allowed = {name: value for name, value in bounds.terms.items() if name != "parallel"}  # of sweeps, not of runs
    return [
        Difference(name, allowed.get(name), asked.get(name))
        for name in sorted({*allowed, *asked})
        if not within(bounds, name, asked.get(name))
    ]


def within(bounds: Bounds, name: str, asked: Any) -> bool:
    """Whether the plan allows a term to be that (None: left out)."""
    allowed, also = bounds.terms.get(name), bounds.also.get(name, ())
    if name not in AT_MOST:
        return bool(allowed == asked) or asked in also
    if name in UNLIMITED and (None in also or (asked is None and allowed is None)):
        return True
    if asked is None:
        return name not in UNLIMITED
    most = ONE_OF.get(name, 0.0) if allowed is None else _amount(name, allowed)
    return _amount(name, asked) <= max([most, *(_amount(name, value) for value in also if value is not None)])


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
            _add(body.setdefault("exact_commands", []), difference.asked)
        elif part == "template":
            _add(body.setdefault("commands", []), difference.asked)
        elif part == "parameters":
            _add(body.setdefault("parameters", {}).setdefault(name, []), difference.asked)
        elif part == "budget":
            body.setdefault("budget", {})[name] = difference.asked
        else:
            body.setdefault("terms", {})[difference.field] = difference.asked
    return body


def _add(values: list[Any], value: Any) -> None:
    if value not in values:
        values.append(value)


@dataclass(frozen=True)
class Allowed:
    """What an amendment adds: templates, commands as they are, values of parameters, terms (None: without)."""

    commands: Sequence[str] = ()
    exact: Sequence[str] = ()
    parameters: Mapping[str, list[Any]] = field(default_factory=dict)
    terms: Mapping[str, Any] = field(default_factory=dict)


def amended(bounds: Bounds, allowed: Allowed, budget: Mapping[str, Any]) -> Bounds:
    """The bounds with more allowed, and another budget."""
    grid = {name: list(values) for name, values in bounds.grid.items()}
    for name, values in allowed.parameters.items():
        before = grid.get(name, [None])  # of a new parameter: runs without it are still within the plan
        grid[name] = before + [value for value in values if not any(_same(planned, value) for planned in before)]
    more = [command for command in allowed.commands if command not in bounds.commands]
    exact = [command for command in allowed.exact if command not in bounds.exact]
    also = {name: list(values) for name, values in bounds.also.items()}
    for name, value in allowed.terms.items():
        if not within(bounds, name, value):
            _add(also.setdefault(name, []), value)
    spending = Budget(**{**asdict(bounds.budget), **budget})
    commands, exact = bounds.commands + more, bounds.exact + exact
    return replace(bounds, grid=grid, commands=commands, exact=exact, also=also, budget=spending)


def changes(before: Bounds, after: Bounds) -> list[Difference]:
    """What an amendment changes: what is new, and budgets as they were and become (``plan``, ``asked``)."""
    found = [
        Difference(f"budget.{name}", getattr(before.budget, name), value)
        for name, value in asdict(after.budget).items()
        if value != getattr(before.budget, name)
    ]
    found += [Difference("template", None, text) for text in after.commands[len(before.commands) :]]
    found += [Difference("command", None, text) for text in after.exact[len(before.exact) :]]
    for part, old, new in (("parameters.", before.grid, after.grid), ("", before.also, after.also)):
        for name, values in new.items():
            known = old.get(name, [None] if part else ())  # a new parameter may be left out as before
            more = values[len(known) :]
            found += [Difference(f"{part}{name}", old.get(name) or before.terms.get(name), value) for value in more]
    return found


def size(bounds: Bounds) -> int:
    """How many configurations the grid has; 0 without one."""
    return grids.size(bounds.grid) if bounds.grid else 0
