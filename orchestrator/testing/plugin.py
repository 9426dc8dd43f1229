"""pytest fixtures: ``pytest_plugins = ["orchestrator.testing.plugin"]`` in a conftest.py.

``emulated_slurm`` is a cluster of two nodes with four GPUs each, for one test, its commands first on PATH.
``slurm_emulator`` makes clusters of any kind, which end with the test.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

import pytest

from orchestrator.testing.cluster import Node, Partition, Settings
from orchestrator.testing.emulated import EmulatedSlurm
from orchestrator.testing.factory import ONE_PARTITION, TWO_NODES, SlurmEmulator


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
