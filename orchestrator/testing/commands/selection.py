"""Which jobs a command is about: users, names, partitions, states. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.testing.commands.jobview import COMPACT_STATES
from orchestrator.testing.model import Job

STATES = {compact: name for name, compact in COMPACT_STATES.items()}
SQUEUE_DEFAULT = frozenset({"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED"})


class BadState(ValueError):
    """No such job state."""


def state_names(text: str) -> frozenset[str] | None:
    """Reads ``pd,RUNNING``; None for ``all``. BadState."""
    names = set()
    for word in text.upper().split(","):
        name = STATES.get(word, word)
        if name == "ALL":
            return None
        if name not in COMPACT_STATES:
            raise BadState(word)
        names.add(name)
    return frozenset(names)


@dataclass(frozen=True)
class Selection:
    """Each empty field selects everything."""

    users: Sequence[str] = ()
    names: Sequence[str] = ()
    partitions: Sequence[str] = ()
    accounts: Sequence[str] = ()
    qos: Sequence[str] = ()
    nodes: Sequence[str] = ()
    states: frozenset[str] | None = None

    def wants(self, job: Job) -> bool:
        """Whether the job is one of them."""
        request = job.request
        return (
            _among(self.users, job.user, str(job.uid))
            and _among(self.names, request.name)
            and (not self.partitions or bool(set(self.partitions) & set(job.partition.split(","))))
            and _among(self.accounts, request.account)
            and _among(self.qos, request.qos)
            and (not self.nodes or bool(set(self.nodes) & set(job.nodes)))
            and (self.states is None or bool({job.shown_state, job.state} & self.states))
        )


def _among(wanted: Sequence[str], *values: str) -> bool:
    return not wanted or any(value in wanted for value in values)
