"""What every executor writes before a task starts: the run directory, the launch file, the environment."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from orchestrator import job as job_side
from orchestrator.environments.activation import activation_script
from orchestrator.executors.base import Task
from orchestrator.rundir import AttemptDir, RunDir
from orchestrator.slurm.script import Templates

FALLBACK_PATH = "/usr/local/bin:/usr/bin:/bin"


class Preparer:
    """Writes them under one folder of runs, with one set of templates."""

    def __init__(self, runs_dir: Path, env_pass: Sequence[str], templates: Templates) -> None:
        self._runs_dir = runs_dir
        self._env_pass = env_pass
        self._templates = templates
        self._passed: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def prepare(self, task: Task, settings: Mapping[str, str]) -> AttemptDir:
        """Makes the run's directory and its attempt's launch file. ``settings``: what the executor tells job.py.

        Raises OSError where that cannot be written.
        """
        run_dir = RunDir(self._runs_dir, task.run_id)
        workdir = task.workdir or str(run_dir.path)
        setup = activation_script(task.environment, workdir) if task.environment is not None else ""
        launcher = self.launcher(task)
        ranks = by_srun(task)
        run_dir.prepare(task.command, setup, launcher, job_text() if ranks else "")
        told = {"workdir": workdir, **settings} | ({"script": run_dir.launcher.name} if launcher else {})
        told |= {"ranks": "1"} if ranks else {}
        attempt = run_dir.attempt(task.attempt)
        attempt.prepare(told, self._environment(task, run_dir))
        return attempt

    def launcher(self, task: Task) -> str:
        """How the command starts where it is not simply bash: on several nodes, in a container. "" where it is."""
        if task.launch is None and task.container is None:
            return ""
        tasks = 1 if task.launch == "torchrun" else task.resources.tasks_per_node or 1
        return self._templates.render(
            "launch.sh.j2",
            launch=task.launch,
            container=task.container,
            mounts="".join(f"{bind}," for bind in mounts(task)),
            python=sys.executable,
            tasks_per_node=tasks,
            processes_per_node=task.resources.tasks_per_node or task.resources.gpus or 1,
            signal=(task.signal or "").partition("@")[0],
            gpus=bool(task.resources.gpus or task.gpus),
            workdir=task.workdir,
        )

    def _environment(self, task: Task, run_dir: RunDir) -> dict[str, str]:
        environ = dict(os.environ)
        if self._passed[0] != environ:  # it hardly ever changes, and thousands of runs may be prepared at once
            self._passed = (environ, passed_environment(environ, self._env_pass))
        env = self._passed[1] | task.env
        for name, value in run_dir.standard_env(task.run_id, task.sweep_id, task.attempt).items():
            if name.startswith("ORC_") or name not in task.env:  # which run it is, nobody sets but we
                env[name] = value
        env |= {parameter_variable(name): value for name, value in task.params.items()}
        if task.hide_gpus:
            env["CUDA_VISIBLE_DEVICES"] = ""
        return env


def parameter_variable(name: str) -> str:
    """The variable that holds a parameter of the run's configuration: ``ORC_PARAM_TRAIN_LR`` for train/lr."""
    return "ORC_PARAM_" + re.sub(r"[^A-Za-z0-9_]", "_", name).upper()


def by_srun(task: Task) -> bool:
    """Whether the command is started by an srun: it is then no child of job.py's."""
    return task.launch is not None or (task.container is not None and task.container.engine == "pyxis")


def mounts(task: Task) -> list[str]:
    """What a container of pyxis has of the node. The workdir is first: a bind of the user's to the same place wins."""
    if task.container is None:
        return []
    return ([f"{task.workdir}:{task.workdir}"] if task.workdir else []) + task.container.binds


@cache
def job_text() -> str:
    """job.py itself: each task of an srun runs beside one."""
    return Path(str(job_side.__file__)).read_text()


def passed_environment(environ: Mapping[str, str], patterns: Sequence[str]) -> dict[str, str]:
    """What a run gets of the server's environment: the names that match ``patterns``, without the server's own venv."""
    env = {name: value for name, value in environ.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    venv = environ.get("VIRTUAL_ENV")
    parts = env.get("PATH", FALLBACK_PATH).split(os.pathsep)
    env["PATH"] = os.pathsep.join(part for part in parts if part and (not venv or part != f"{venv}/bin"))
    return env
