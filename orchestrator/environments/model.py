"""What a run may ask for as its environment."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from orchestrator.environments.text import is_one_line
from orchestrator.strict import Strict

CondaTool = Literal["conda", "mamba", "micromamba"]
LEVELS_UP = 3  # parents of the workdir that may be its project's root
CONDA_NAME = re.compile(r"(?!-|\.+$)[^\s:#/]+")  # conda's own forbidden characters: conda/base/constants.py


def _one_line(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if not is_one_line(value):
        raise ValueError("must be one line of text, without control characters")
    return value


def _conda_name_or_path(value: str) -> str:
    if not is_path(value) and CONDA_NAME.fullmatch(value) is None:
        raise ValueError(
            'the name of a conda environment has no space, ":" or "#" and begins with no "-"; a path has a "/"'
        )
    return value


def is_path(value: str) -> bool:
    """Whether conda takes the value for a path and not for a name (``conda activate``)."""
    return "/" in value or value == "~"


Line = Annotated[str, Field(max_length=4096), AfterValidator(_one_line)]
# No "-" in front: Lmod unloads what `module load -name` names.
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_/][A-Za-z0-9_./+@:=,~-]*$", max_length=500)]


class Environment(Strict):
    """What is applied before a run's command, in this order: modules; a virtualenv or a conda environment; a script.

    Paths are absolute, relative to the workdir, or begin with ``~/``; nothing else in them is expanded. Nothing is ever
    installed. At most one of ``venv``, ``conda`` and ``uv``.
    """

    model_config = ConfigDict(frozen=True)

    modules: list[ModuleName] = Field(
        default_factory=list,
        max_length=100,
        description='What `module load` takes, such as "cuda/12.4"; in this order.',
    )
    venv: Line | None = Field(default=None, description="A virtualenv's directory.")
    conda: Annotated[Line, AfterValidator(_conda_name_or_path)] | None = Field(
        default=None, description="A conda environment's name, or its path (with a slash)."
    )
    conda_tool: CondaTool = "conda"
    uv: bool = Field(default=False, description="The `.venv` beside the uv.lock of the workdir or the nearest above.")
    setup: Line | None = Field(
        default=None, description="A bash script that is sourced last; it must end with status 0."
    )

    @model_validator(mode="after")
    def _one_python(self) -> "Environment":
        given = [name for name in ("venv", "conda", "uv") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give at most one of venv, conda and uv")
        return self


def _auto_or_given(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        raise ValueError('an environment is "auto", or an object such as {"venv": "/path"} or {"conda": "name"}')
    return value


def _kind(value: Any) -> str:
    return "auto" if isinstance(value, str) else "given"


# A body's `environment`: what was found in the workdir when the run is created, or what is written out. The tags keep
# the complaints to those of the form that was meant.
EnvironmentAsked = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[Environment, Tag("given")],
    Discriminator(_kind),
    BeforeValidator(_auto_or_given),
]
