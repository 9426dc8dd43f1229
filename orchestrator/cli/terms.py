"""What a run asks for, as options of the commands that make runs: one place for ``orc run`` and ``orc sweep``."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from orchestrator.cli.common import key_values, usage
from orchestrator.cli.values import parse_value

NUMBERS = {"gpus", "cpus", "nodes", "tasks_per_node", "exclusive"}
RETRIED = ["PREEMPTED", "NODE_FAIL", "TIMEOUT", "SIGNAL", "OUT_OF_MEMORY"]

Words = list[str] | None
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs to lease (without: one on a GPU machine).")]
Cpus = Annotated[int | None, typer.Option(min=1, help="CPUs that it counts for.")]
Workdir = Annotated[Path | None, typer.Option(help="Where it runs (without: here).")]
Time = Annotated[str | None, typer.Option(help='Time limit: "8:00:00", or minutes.')]
Resource = Annotated[
    Words, typer.Option("--resource", "-R", help="NAME=VALUE: mem=16G, partition=gpu, nodes=2, slurm.switches=1, …")
]


def resources_of(gpus: int | None, cpus: int | None, time: str | None, resource: Words) -> dict[str, Any]:
    """``resources`` as the options name them: what was said, and nothing else."""
    named = {"gpus": gpus, "cpus": cpus, "time": time}
    resources: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    for name, text in key_values(resource or [], "--resource").items():
        group, dot, option = name.partition(".")
        if dot and group == "slurm":
            resources.setdefault("slurm", {})[option] = parse_value(text)
        else:
            resources[name] = parse_value(text) if name in NUMBERS else text
    return resources


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The options: each field is one, with its name."""

    gpus: Gpus = None
    cpus: Cpus = None
    time: Time = None
    resource: Resource = None
    env: Annotated[Words, typer.Option("--env", "-e", help="NAME=VALUE for the run.")] = None
    tag: Annotated[Words, typer.Option(help="A tag; may be said again.")] = None
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0
    profile: Annotated[str | None, typer.Option(help="A profile of the site's or yours (orc profiles).")] = None
    executor: Annotated[str | None, typer.Option(help="local or slurm (without: slurm where there is one).")] = None
    retry: Annotated[
        int | None, typer.Option(min=0, help="Retries after preemption, node failure, time limit, signals.")
    ] = None
    retry_on: Annotated[
        Words, typer.Option(help="Retries after these instead, reasons or exit codes: PREEMPTED,NODE_FAIL,75.")
    ] = None
    signal: Annotated[str | None, typer.Option(help="USR1@300: that signal so many seconds before its time limit.")] = (
        None
    )
    launch: Annotated[
        str | None, typer.Option(help="On several nodes (-R nodes=2): torchrun (once a node) or env (every task).")
    ] = None
    container: Annotated[str | None, typer.Option(help="The image that it runs in.")] = None
    engine: Annotated[str | None, typer.Option(help="The container's: apptainer (the default) or pyxis.")] = None
    bind: Annotated[Words, typer.Option(help="/data or /data:/inside:ro for the container; may be said again.")] = None
    module: Annotated[Words, typer.Option(help="A module to load, such as cuda/12.4; may be said again.")] = None
    setup: Annotated[str | None, typer.Option(help="A bash script to source before the command.")] = None
    auto_env: Annotated[bool, typer.Option("--auto-env", help="Activate the environment found in the workdir.")] = False
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Keep the code as it is now for every attempt.")] = False

    def body(self) -> dict[str, Any]:
        """As fields of a request: only what was said, so that a profile may say the rest."""
        said: dict[str, Any] = {
            "resources": resources_of(self.gpus, self.cpus, self.time, self.resource),
            "env": key_values(self.env or [], "--env"),
            "tags": self.tag,
            "priority": self.priority,
            "profile": self.profile,
            "executor": self.executor,
            "retry": self._retry(),
            "signal": self.signal,
            "launch": self.launch,
            "container": self._container(),
            "environment": self._environment(),
            "snapshot": self.snapshot,
        }
        return {name: value for name, value in said.items() if value}

    def _retry(self) -> dict[str, Any] | None:
        if self.retry is None and not self.retry_on:
            return None
        words = [word.strip() for text in self.retry_on or () for word in text.split(",")]
        said: dict[str, Any] = {"on": [word.upper() for word in words if not word.isdecimal()] if words else RETRIED}
        if codes := [int(word) for word in words if word.isdecimal()]:
            said["exit_codes"] = codes
        return said if self.retry is None else said | {"max": self.retry}

    def _container(self) -> dict[str, Any] | None:
        said = {"image": self.container, "engine": self.engine, "binds": self.bind}
        if self.container is None and any(said.values()):
            usage("--engine and --bind are for a container: name its image with --container IMAGE")
        return {name: value for name, value in said.items() if value}

    def _environment(self) -> dict[str, Any] | str | None:
        said = {name: value for name, value in (("modules", self.module), ("setup", self.setup)) if value}
        if said and self.auto_env:
            usage("--auto-env applies what it finds, --module and --setup what they name: give one or the other")
        return "auto" if self.auto_env else said


def with_terms(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of ``Terms`` in place of its parameter ``terms``."""
    own = inspect.signature(command).parameters
    hints = get_type_hints(Terms, include_extras=True)
    named = [field.name for field in fields(Terms)]
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Terms)
    ]

    @wraps(command)
    def with_options(**given: Any) -> None:
        terms = Terms(**{name: given.pop(name) for name in named})
        command(terms=terms, **given)

    rest = (
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, parameter in own.items() if name != "terms"
    )
    with_options.__signature__ = inspect.Signature([*rest, *options])  # type: ignore[attr-defined]  # typer reads it; mypy knows none
    return with_options
