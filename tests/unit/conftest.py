"""What unit tests have in common."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.db import Database
from orchestrator.migrate import migrate


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database with today's tables."""
    made = Database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(made)
    yield made
    made.close()
