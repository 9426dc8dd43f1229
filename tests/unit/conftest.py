"""What unit tests have in common."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.db import Database
from orchestrator.migrate import migrate


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty database with today's tables: copied for each test, as migrating takes its time."""
    path = tmp_path_factory.mktemp("migrated") / "a.db"
    made = Database(f"sqlite:///{path}")
    migrate(made)
    made.close()
    return path


@pytest.fixture
def database(tmp_path: Path, migrated: Path) -> Iterator[Database]:
    """An empty database with today's tables."""
    made = Database(f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    yield made
    made.close()
