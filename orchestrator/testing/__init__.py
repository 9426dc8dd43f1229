"""A Slurm cluster to test against: the commands as executables, a controller, real jobs. See docs/emulator.md.

Nothing here needs more than Python's standard library, or anything else of this package.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.testing.cluster import Cluster, Node, Partition
    from orchestrator.testing.emulated import ControllerDown, EmulatedSlurm
    from orchestrator.testing.factory import SlurmEmulator
    from orchestrator.testing.model import Job

__all__ = ["Cluster", "ControllerDown", "EmulatedSlurm", "Job", "Node", "Partition", "SlurmEmulator"]
_HOMES = {"EmulatedSlurm": "emulated", "ControllerDown": "emulated", "Job": "model", "SlurmEmulator": "factory"}


def __getattr__(name: str) -> object:
    """Imported when asked for: the emulated commands start often, and need none of it."""
    if name not in __all__:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(f"orchestrator.testing.{_HOMES.get(name, 'cluster')}"), name)
