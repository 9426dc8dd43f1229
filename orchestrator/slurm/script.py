"""The sbatch script: #SBATCH lines from submitit, each one asked for; the body from slurm_templates."""

import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from orchestrator.data import shipped
from orchestrator.slurm.options import Ask, Options, options

TEMPLATE = "job.sh.j2"


@dataclass(frozen=True)
class JobSpec:
    """One submission as sbatch sees it. ``tasks``: how many runs; ``throttle``: the array's %N."""

    name: str
    ask: Ask
    tasks: int
    folder: Path
    throttle: int | None = None

    @property
    def array(self) -> bool:
        """Several runs go out as one job array."""
        return self.tasks > 1


def sbatch_options(spec: JobSpec) -> Options:
    """Every option of this job: what was asked for, and what the service needs to find it again."""
    found: Options = {
        "job-name": spec.name,
        "comment": spec.name,
        "output": f"{str(spec.folder).replace('%', '%%')}/{'%a' if spec.array else 'job'}.out",
        "open-mode": "append",
    }
    if spec.array:
        limit = f"%{spec.throttle}" if spec.throttle is not None and spec.throttle < spec.tasks else ""
        found["array"] = f"0-{spec.tasks - 1}{limit}"
    return found | options(spec.ask)


def render(spec: JobSpec, templates: "Templates") -> str:
    """The whole script."""
    from orchestrator.slurm.sbatch import ScriptExecutor  # submitit takes 0.1 s to import: not for every `orc`

    body = templates.render(TEMPLATE, python=sys.executable, folder=str(spec.folder))
    return ScriptExecutor(spec.folder, sbatch_options(spec)).script(body)


class Templates:
    """The script templates: a site's or user's folder overrides ours by a file of the same name."""

    def __init__(self, *folders: Path) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([str(folder) for folder in (*folders, shipped("slurm_templates"))]),
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # noqa: S701  (shell, not HTML: every value passes through `quote`)
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["quote"] = lambda value: shlex.quote(str(value))

    def render(self, name: str, **values: Any) -> str:
        """One template with its values."""
        return self._environment.get_template(name).render(**values)


@cache
def shipped_templates() -> Templates:
    """Ours alone."""
    return Templates()
