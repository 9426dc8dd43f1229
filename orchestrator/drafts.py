"""Runs before they are made: checked outside the writer, against the file system, the profiles and the machine."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.cluster import ClusterService
from orchestrator.code.snapshot import snapshot
from orchestrator.environments.detection import detect
from orchestrator.errors import BadInput
from orchestrator.models import Cluster
from orchestrator.profiles import Profiles
from orchestrator.settings import Settings
from orchestrator.shapes import RunCreate, RunTerms, RunUpdate
from orchestrator.slurm.facts import Facts
from orchestrator.terms import Machine, Terms, settle


@dataclass(frozen=True)
class Draft:
    """A run that has been checked outside the writer: the machine and the file system were asked."""

    body: RunCreate
    terms: Terms
    workdir: str
    sweep_params: dict[str, Any] | None = None


class RunChecks:
    """The slow checks before a run is made: the file system, the cluster."""

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterService,
        profiles: Profiles,
        code_of: Callable[[Path], dict[str, Any] | None] = lambda _: None,
    ) -> None:
        """``code_of``: what git says now of the code in a workdir (``CodeRecorder.of``)."""
        self._settings = settings
        self._cluster = cluster
        self._profiles = profiles
        self._code_of = code_of

    def draft(self, body: RunCreate) -> Draft:
        """A run that can be made. Raises BadInput for what cannot be."""
        self.command(body.command, "command")
        workdir = self.workdir(body.workdir)
        return Draft(body, self.terms(body, workdir, copies=not body.dry_run), workdir, body.sweep_params)

    def changes(self, body: RunUpdate) -> dict[str, Any]:
        """What a run's update changes, checked."""
        fields = body.model_dump(exclude_unset=True, exclude_none=True)
        if "command" in fields:
            self.command(fields["command"], "command")
        if "workdir" in fields:
            fields["workdir"] = self.workdir(fields["workdir"])
        return fields

    def command(self, text: str, field: str) -> None:
        """Raises BadInput for a command that is too long."""
        size, limit = len(text.encode()), self._settings.max_command_bytes
        if size > limit:
            raise BadInput(
                field,
                f"The command has {size} bytes and the limit is {limit} (max_command_bytes): put it into a script "
                "file and name that.",
            )

    def workdir(self, text: str | None) -> str:
        """The directory to run in, which must exist. Without one: where the server was started."""
        shown = repr(text)[:300]
        try:
            path = Path(text).expanduser() if text else self._settings.default_workdir
            there = path.is_dir()
        except (OSError, RuntimeError):  # too long a name, an unknown ~user
            raise BadInput("workdir", f"{shown} cannot be a directory on this machine.") from None
        if not path.is_absolute():
            raise BadInput("workdir", f"{shown} is not absolute: the server cannot know what it is relative to.")
        if not there:
            raise BadInput("workdir", f"{path} is not a directory on this machine.")
        if not os.access(path, os.X_OK):
            raise BadInput("workdir", f"{path} may not be entered by this user.")
        return str(path)

    def terms(self, body: RunTerms, workdir: str, *, copies: bool = True) -> Terms:
        """What it gets here; the machine is looked at again before it is said that it cannot give that.

        ``copies``: with the copy of its code, where it asks for one; without, what is only looked at leaves nothing.
        """
        asked = self._profiles.apply(body)
        try:
            terms = settle(asked, self._machine(self._cluster.known()))
        except BadInput:
            terms = settle(asked, self._looked_again())
        return replace(terms, columns=terms.columns | self._code(asked, workdir, copies=copies))

    def _code(self, asked: RunTerms, workdir: str, *, copies: bool) -> dict[str, Any]:
        """The environment that its workdir has, and the copy of its code with git's word of it, where asked for."""
        columns: dict[str, Any] = {"environment": _environment(asked, workdir)}
        if asked.snapshot and not copies:
            columns["snapshot"] = {"digest": None, "workdir": workdir, "files": None}
        elif asked.snapshot:
            most_bytes, most_files = self._settings.snapshot_max_bytes, self._settings.snapshot_max_files
            kept = snapshot(Path(workdir), self._settings.runs_dir / ".code", most_bytes, most_files)
            columns["snapshot"] = {"digest": kept.digest, "workdir": str(kept.workdir), "files": kept.files}
            columns["git"] = self._code_of(Path(workdir))
        return columns

    def _machine(self, cluster: Cluster) -> Machine:
        facts = self._cluster.limits() if cluster.type == "slurm" else Facts()
        return Machine(cluster, facts, self._settings.local_cpus, self._settings.slurm_protected_options)

    def _looked_again(self) -> Machine:
        """What there is by a fresh look. Where Slurm cannot be asked nothing is held against it: sbatch will judge."""
        if self._cluster.trouble is None:
            return self._machine(self._cluster.detect(fresh=True))
        settings = self._settings
        return Machine(Cluster(type="slurm"), Facts(), settings.local_cpus, settings.slurm_protected_options)

    def run_dir(self, run_id: str) -> str:
        """Where a run keeps its files."""
        return str(self._settings.runs_dir / run_id)


def _environment(asked: RunTerms, workdir: str) -> dict[str, Any] | None:
    if asked.environment is None:
        return None
    if asked.environment != "auto":
        return asked.environment.model_dump(exclude_defaults=True)
    found = detect(Path(workdir))
    if found.environment is None:
        words = " ".join(found.notes) or "There is no sign of one: no virtualenv, conda environment or uv project."
        raise BadInput("environment", f"No environment was found for {workdir}. {words}")
    return found.environment.model_dump(exclude_defaults=True)
