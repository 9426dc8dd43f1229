"""sbatch, through submitit's SlurmExecutor: its #SBATCH lines, our body, our gate.

Left aside are its watcher, its pickles and its throttle (docs/slurm.md says why). The underscore methods are those that
submitit's own plugins override (submitit 1.5.4).
"""

import re
from pathlib import Path

import submitit

from orchestrator.errors import SchedulerUnavailable
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.options import Options

# Seen on 22.05 to 26.05. These pass by themselves: the runs wait. What is in neither list is final as well: sbatch
# answered, and it said no.
PASSING = (
    "job submit limit",
    "QOSMaxSubmitJob",
    "AssocMaxSubmitJob",
    "AssocGrpSubmitJobs",
    "MaxSubmitJob",
    "temporarily unable to accept job",
    "Resource temporarily unavailable",
    "Job cannot be submitted without the current version",
    "Slurmctld is currently not accepting",
    "Rate limit exceeded",
    "System call would block",
    "Unable to allocate memory",
    "No space left on device",
)
MANY = ("job submit limit", "SubmitJob", "temporarily unable to accept job")
_JOB_ID = re.compile(r"(\d+)(?:;\S*)?")


class ScriptExecutor(submitit.SlurmExecutor):  # type: ignore[misc]  # submitit has no types
    """Writes one script and submits it; nothing is pickled."""

    def __init__(self, folder: Path, asked: Options) -> None:
        super().__init__(folder)
        self._asked = asked
        self.update_parameters(use_srun=False, additional_parameters=_printable(asked))

    @classmethod
    def affinity(cls) -> int:
        """The cluster's detector decides whether there is Slurm here."""
        return 1

    def script(self, body: str) -> str:
        """The whole script: no #SBATCH line that nobody asked for (submitit adds time, signal, wckey, …)."""
        return str(self._make_submission_file_text(body, ""))

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        text = super()._make_submission_file_text("", uid)
        lines = (line for line in text.splitlines() if line.startswith("#SBATCH"))
        asked = dict.fromkeys(line for line in lines if line.split("--", 1)[1].split("=", 1)[0] in self._asked)
        asked.pop("#SBATCH --job-name=submitit", None)
        return "\n".join(["#!/bin/bash", *asked, "", command])

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", "--parsable", str(submission_file_path)]

    @staticmethod
    def _get_job_id_from_submission_command(string: str | bytes) -> str:
        """The last line that is ``id`` or ``id;cluster``, as --parsable prints it: a site's wrapper or a plugin of its
        controller's may print more. Raises SchedulerUnavailable where there is none."""
        text = string if isinstance(string, str) else string.decode("utf-8", "replace")
        found = [match for line in text.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
        if not found:
            # It ended with 0, so there may be a job: as with a lost answer, its name tells.
            raise SchedulerUnavailable(f"sbatch printed {text.strip()[:200]!r} and no job id: it is looked up by name.")
        return found[-1][1]

    def submit_script(self, path: Path, gate: Gate, deadline: float) -> "str | Rejection":
        """The job's id, or why sbatch said no. Raises SchedulerUnavailable when it gave no answer."""
        answer = gate.run(self._make_submission_command(path), deadline)
        if answer.code != 0:
            return Rejection(answer.errors.strip() or f"sbatch ended with {answer.code} and said nothing.")
        return self._get_job_id_from_submission_command(answer.output)


class Rejection(str):
    """What sbatch said instead of a job id."""

    __slots__ = ()

    @property
    def final(self) -> bool:
        """Whether trying again cannot help."""
        return not any(sign in self for sign in PASSING)

    @property
    def too_many(self) -> bool:
        """Whether fewer jobs at once might have been accepted."""
        return any(sign in self for sign in MANY)


def _printable(asked: Options) -> Options:
    """The last guard before the script: the shapes have refused such values long before."""
    for name, value in asked.items():
        if isinstance(value, str) and (set(value) & set("'\"\\") or not value.isprintable()):
            raise ValueError(f"--{name}: no #SBATCH line can hold {value!r}")
    return asked
