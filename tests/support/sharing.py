"""How tests are shared out among the workers of a parallel run."""

import re

from xdist.scheduler.loadscope import LoadScopeScheduling

KIND = re.compile(r"tests/contract/[^\[]*\[(emulated|real-with(?:out)?-accounting)")


class ByCluster(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Contract tests of one kind of cluster stay on one worker, which has that cluster; others go where there is room.

    (xdist_group marks would do the same, but xdist 3.8 no longer gets them across under pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        kind = KIND.search(nodeid)
        return kind[1] if kind else nodeid
