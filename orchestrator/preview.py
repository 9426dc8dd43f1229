"""What would be handed over, shown before or after: the script, and when Slurm expects it to start."""

import re
import tempfile
import time
from typing import Any

from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.base import SubmissionSpec, Task
from orchestrator.models import Run
from orchestrator.rundir import wrapper_text
from orchestrator.views import task_of
from orchestrator.wiring import System

_START = re.compile(r"to start at (\S+)")


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


def dry_run(system: System, run: Run) -> dict[str, Any]:
    """The script, and what ``sbatch --test-only`` says of it: when it would start, or why it never will."""
    script = script_of(system, run)
    if run.executor != "slurm":
        return {"script": script}
    return {"script": script, **expected(system, script)}


def expected(system: System, script: str) -> dict[str, Any]:
    """``expected_start`` (epoch seconds, None where Slurm does not say) and sbatch's own words."""
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
