"""What is handed over, shown before or after: the script, what belongs to it, and when Slurm expects it to start."""

import re
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.environments.activation import activation_script
from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.base import SubmissionSpec, Task
from orchestrator.models import Run
from orchestrator.rundir import RunDir, wrapper_text
from orchestrator.states import RunStatus
from orchestrator.views import task_of
from orchestrator.wiring import System

_START = re.compile(r"to start at (\S+)")


def shown(system: System, run: Run) -> dict[str, Any]:
    """``script``; ``launcher`` and ``activation``, bash text, where the run has them; and before it is handed over
    what ``sbatch --test-only`` says of the script: when it would start, or why it never will (``expected``)."""
    script = script_of(system, run)
    waits = run.submission_id is None and not RunStatus(run.status).terminal
    asked = expected(system, script) if run.executor == "slurm" and waits else {}
    return {"script": script, **_parts(system, run), **asked}


def script_of(system: System, run: Run) -> str:
    """The script of a run: as it was submitted, where it was, else as it would be."""
    if run.executor != "slurm":
        return wrapper_text()
    if run.submission_id is not None:
        path = system.settings.runs_dir / ".submissions" / run.submission_id / "job.sh"
        try:
            return path.read_text()
        except FileNotFoundError:
            pass  # its intent is there, and its files are not yet
    return system.slurm.script(_spec(task_of(run)))


def _parts(system: System, run: Run) -> dict[str, str]:
    """What the script's job sources: as it was written for the run, where it was, else as it would be."""
    run_dir = RunDir(system.settings.runs_dir, run.id)
    if run.submission_id is not None and run_dir.wrapper.exists():
        found = {"launcher": _text(run_dir.launcher), "activation": _text(run_dir.environment)}
    else:
        task = task_of(run)
        workdir = task.workdir or str(run_dir.path)
        activation = activation_script(task.environment, workdir) if task.environment is not None else ""
        found = {"launcher": system.preparer.launcher(task), "activation": activation}
    return {name: text for name, text in found.items() if text}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def expected(system: System, script: str) -> dict[str, Any]:
    """``expected_start`` (epoch seconds, None where Slurm does not say) and sbatch's own words."""
    if system.slurm.trouble is not None:  # it would hang as long as the last one that asked
        return {"expected_start": None, "sbatch": system.slurm.trouble}
    with tempfile.NamedTemporaryFile("w", suffix=".sh", prefix="orc-test-only-") as file:
        file.write(script)
        file.flush()
        try:
            answer = system.gate.run(["sbatch", "--test-only", file.name])
        except SchedulerUnavailable as error:
            return {"expected_start": None, "sbatch": error.message}
    words = (answer.errors or answer.output).strip()
    match = _START.search(words)
    return {"expected_start": _moment(match[1]) if match and answer.code == 0 else None, "sbatch": words[:2000]}


def _moment(text: str) -> float | None:
    """Epoch seconds, as SLURM_TIME_FORMAT asks for, or local time where a version does not heed it."""
    if text.isdigit():
        return float(text)
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def _spec(task: Task) -> SubmissionSpec:
    return SubmissionSpec("orc-preview", [task])
