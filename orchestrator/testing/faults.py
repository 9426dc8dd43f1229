"""What goes wrong on purpose. Held by the controller, set through ``EmulatedSlurm.faults``."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Faults:
    """Each field is one trouble; the defaults are none."""

    lose_answers: int = 0
    """So many sbatch to come are carried out, and their clients hear nothing."""
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds by which a command's answer is late."""
    full_queue: bool = False
    """The queue is full: sbatch waits, tries again, gives up."""
    accounting_lag: float = 0.0
    """Seconds until sacct knows of a change."""
    database_down: bool = False
    """slurmdbd does not answer; all else works."""
    hung: bool = False
    """The controller answers nobody; what it was asked is done when it goes on."""
    drop_jobs: bool = False
    """While hung: what it was asked is not done at all."""

    @classmethod
    def load(cls, path: Path) -> "Faults":
        """Those that were written down; none at first. A controller that starts does not hang."""
        found = cls(**json.loads(path.read_text())) if path.exists() else cls()
        found.hung = False
        return found

    def change(self, values: dict[str, Any]) -> None:
        """Sets some of them. AttributeError for one that does not exist."""
        for name, value in values.items():
            getattr(self, name)
            setattr(self, name, value)
