"""Every test here runs unchanged against the emulator, a real Slurm with slurmdbd, and a real one without.

One cluster and one server of each kind serve all of its tests; each kind is a group of its own for xdist, so that what
a test does to its cluster is seen by no other at the same time.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.contract.looking import LONG, end_all, sbatch, start_long_runs
from tests.support.service import RealServer
from tests.support.sites import Site, Slurm, site
from tests.support.waiting import wait_until

KINDS = ("emulated", "real-with-accounting", "real-without-accounting")
COUNTER = itertools.count()
AGE = 8.0  # seconds; StateSaveLocation is at most five behind


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The runs that reach their time limits are looked at last."""

    def place_of(item: pytest.Item) -> int:
        spec: Sequence[str] = [kind for kind in KINDS if f"[{kind}" in item.name or f"-{kind}" in item.name]
        return KINDS.index(max(spec, key=len)) if spec else -1

    ours = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in ours:  # the first of each kind starts MariaDB, slurmdbd, slurmctld, four slurmds and the server
        item.add_marker(pytest.mark.timeout(300))
    ours.sort(key=lambda item: (place_of(item), item.path.name == "test_limits.py"))
    rest = iter(ours)
    items[:] = [next(rest) if item.path.parent == Path(__file__).parent else item for item in items]


@pytest.fixture(scope="session", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The cluster with its server."""
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    with site(request.param, folder) as made:
        yield made


@pytest.fixture(scope="session")
def long_runs(place: Site, request: pytest.FixtureRequest) -> dict[str, str]:
    """Runs that reach their time limit (a minute at least): begun before everything else, looked at last."""
    wanted = any(item.path.name == "test_limits.py" for item in request.session.items)
    return start_long_runs(place) if wanted else {}


@pytest.fixture(autouse=True)
def tidy(place: Site, long_runs: dict[str, str]) -> Iterator[None]:
    """What a test leaves of runs is ended, so that the next one has the cluster for itself."""
    yield
    end_all(place.orc, keep=LONG)


@pytest.fixture
def settled(long_runs: dict[str, str], orc: RealServer, slurm: Slurm) -> Iterator[None]:
    """A controller may be killed: it forgets its last five seconds, which must be none of other tests' runs.

    Afterwards no id is left to be used again: a slurmd that still has the process of a forgotten job refuses another of
    that id, and its node is drained.
    """
    for run_id in long_runs.values():
        wait_until(lambda: time.time() - (orc.get(f"/runs/{run_id}")["started_at"] or 0) > AGE, "the long runs' age")  # noqa: B023
    yield
    slurm.run("scancel", *(sbatch(slurm, "--hold", "--wrap", "true") for _ in range(8)))
    for line in slurm.run("sinfo", "-h", "-N", "-p", "normal", "-o", "%N %T").stdout.splitlines():
        node, state = line.split()
        if state.startswith(("drain", "down")):
            slurm.resume_node(node)


@pytest.fixture
def orc(place: Site) -> RealServer:
    """The server."""
    return place.orc


@pytest.fixture
def slurm(place: Site) -> Slurm:
    """The cluster."""
    return place.slurm


@pytest.fixture
def files(place: Site) -> Path:
    """A folder of this test's own that every node sees."""
    folder = place.folder / f"files-{next(COUNTER)}"
    folder.mkdir()
    return folder
