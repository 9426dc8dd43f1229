"""Fixtures for all tests. None of them sees the settings of whoever runs the tests."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.service import InProcess, RealServer, in_process, real_server

for name in [name for name in os.environ if name.startswith(("ORC_", "SLURM_", "CUDA_"))]:
    del os.environ[name]

# nohup and a shell's & ignore some signals, and every process of a test's would inherit that.
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on who else uses the machine.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")

SHARED = "TESTS_SHARED_FOLDER"


def pytest_configure(config: pytest.Config) -> None:
    """One folder for all workers of a test run, which every user of the machine may pass."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="orc-tests-")
        Path(folder).chmod(0o755)
        os.environ[SHARED] = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    """Takes it away."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[SHARED], ignore_errors=True)


@pytest.fixture(scope="session")
def run_folder() -> Path:
    """The folder that all workers of this test run share."""
    return Path(os.environ[SHARED])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[InProcess]:
    """The service inside the test's process, on a machine without GPUs, whatever this one has."""
    with in_process(tmp_path / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealServer]:
    """A real server process."""
    with real_server(tmp_path / "home") as found:
        yield found


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps the contract tests of one cluster together."""
    from tests.support.sharing import ByCluster  # xdist is there when this is called

    return ByCluster(config, log)
