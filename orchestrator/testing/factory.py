"""What a factory of emulated clusters looks like, and what it makes when it is told nothing."""

from collections.abc import Sequence
from typing import Protocol, Unpack

from orchestrator.testing.cluster import Node, Partition, Settings
from orchestrator.testing.emulated import EmulatedSlurm

TWO_NODES = (Node("n1", gres="gpu:a100:4"), Node("n2", gres="gpu:a100:4"))
ONE_PARTITION = (Partition("normal", default=True, default_time_minutes=60),)


class SlurmEmulator(Protocol):
    """What the fixture ``slurm_emulator`` gives: called as ``EmulatedSlurm`` is, but for the folder."""

    def __call__(
        self,
        nodes: Sequence[Node] = TWO_NODES,
        partitions: Sequence[Partition] = ONE_PARTITION,
        **settings: Unpack[Settings],
    ) -> EmulatedSlurm:
        """A cluster that runs until the test ends."""
