"""Real processes, real users, the built wheel."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.elsewhere import Installation, install
from tests.support.fakegpu import FakeGpus


@pytest.fixture(scope="session")
def installation(run_folder: Path) -> Installation:
    """The wheel in an environment of its own, made once for all workers of a test run."""
    made = install(run_folder / "installed")
    if made is None:
        pytest.skip("No Python 3.11 that every user may execute (/usr/bin/python3): not tried with several users.")
    return made


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may pass and write into."""
    folder = Path(tempfile.mkdtemp(prefix="orc-shared-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fake_gpus(run_folder: Path, shared_folder: Path) -> FakeGpus:
    """A simulated driver with a state of its own."""
    return FakeGpus.build(run_folder / "driver", shared_folder / "gpus")
