"""pytest fixtures: ``pytest_plugins = ["orchestrator.testing.plugin"]`` in a conftest.py.

``emulated_slurm`` is a cluster of two nodes with four GPUs each, for one test, its commands first on PATH.
``slurm_emulator`` makes clusters of any kind, which end with the test.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Unpack

import pytest

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


@pytest.fixture
def slurm_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmEmulator]:
    """A factory of emulated clusters."""
    with ExitStack() as stack:

        def make(
            nodes: Sequence[Node] = TWO_NODES,
            partitions: Sequence[Partition] = ONE_PARTITION,
            **settings: Unpack[Settings],
        ) -> EmulatedSlurm:
            folder: Path = tmp_path_factory.mktemp("slurm")
            return stack.enter_context(EmulatedSlurm(folder, nodes, partitions, **settings))

        yield make


@pytest.fixture
def emulated_slurm(slurm_emulator: SlurmEmulator, monkeypatch: pytest.MonkeyPatch) -> EmulatedSlurm:
    """An emulated cluster; the test's own process finds its commands."""
    slurm = slurm_emulator()
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return slurm


__all__ = ["SlurmEmulator", "emulated_slurm", "slurm_emulator"]
