"""Every test here runs unchanged against the emulator, a real Slurm with slurmdbd, and a real one without.

One cluster and one server of each kind serve all of its tests; each kind is a group of its own for xdist, so that what
a test does to its cluster is seen by no other at the same time.
"""

from collections.abc import Iterator

import pytest

from tests.support.service import RealServer
from tests.support.sites import Site, Slurm, site

KINDS = ("emulated", "real-with-accounting", "real-without-accounting")


@pytest.fixture(
    scope="session", params=[pytest.param(kind, marks=pytest.mark.xdist_group(f"slurm-{kind}")) for kind in KINDS]
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The cluster with its server."""
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    with site(request.param, folder) as made:
        yield made


@pytest.fixture
def orc(place: Site) -> RealServer:
    """The server."""
    return place.orc


@pytest.fixture
def slurm(place: Site) -> Slurm:
    """The cluster."""
    return place.slurm
