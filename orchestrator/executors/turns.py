"""Who gets which GPU next: a pure function over what every waiter can see, so that all come to the same answer.

Between users: turns; who was served longest ago comes first, whatever the number of their runs. Within a user:
priority, then arrival, with backfill. A run that has waited longer than ``reserve_after`` is not overtaken any
more: GPUs are set aside for it as they free, in its user's turn.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """A run (or command) that waits for GPUs. ``allowed`` None: any of the machine's; ``since`` in epoch seconds."""

    id: str
    gpus: int
    since: float
    priority: int = 0
    allowed: frozenset[str] | None = None
    avoid: frozenset[str] = frozenset()
    label: str = ""

    def usable(self, uuids: Sequence[str]) -> list[str]:
        """Those of ``uuids`` that it may have, the ones to avoid last."""
        mine = [uuid for uuid in uuids if self.allowed is None or uuid in self.allowed]
        return sorted(mine, key=lambda uuid: uuid in self.avoid)


@dataclass(frozen=True)
class Ticket:
    """What one waiting process wants for its user."""

    key: str
    uid: int
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Grant:
    """These GPUs are for this request."""

    ticket: str
    request: str
    uuids: tuple[str, ...]
    in_turn: bool = True  # False: beside GPUs set aside for its user, whose turn it does not use up


@dataclass
class Decision:
    """Who may take what now, and what is set aside for whom."""

    grants: list[Grant] = field(default_factory=list)
    reserved: dict[str, str] = field(default_factory=dict)


@dataclass
class _Line:
    """One user's waiting requests, in the user's order."""

    uid: int
    waiting: list[tuple[str, Request]]


def schedule(
    free: Sequence[str],
    leased: Collection[str],
    tickets: Sequence[Ticket],
    served: Mapping[int, float],
    now: float,
    reserve_after: float,
) -> Decision:
    """Shares out the ``free`` GPUs (UUIDs, in the machine's order).

    ``leased`` are those that will be free again some day; GPUs that a foreign process holds are in neither.
    ``served`` says when each user (uid) last got something (epoch seconds).
    """
    decision, remaining = Decision(), list(free)
    lines = _lines(tickets, served)
    while (grant := _next_grant(lines, remaining, leased, decision, now, reserve_after)) is not None:
        decision.grants.append(grant)
        remaining = [uuid for uuid in remaining if uuid not in grant.uuids]
    return decision


def _lines(tickets: Sequence[Ticket], served: Mapping[int, float]) -> list[_Line]:
    waiting: dict[int, list[tuple[str, Request]]] = {}
    for ticket in tickets:
        waiting.setdefault(ticket.uid, []).extend((ticket.key, request) for request in ticket.requests)
    for entries in waiting.values():
        entries.sort(key=lambda entry: (-entry[1].priority, entry[1].since, entry[1].id))
    lines = [_Line(uid, entries) for uid, entries in waiting.items() if entries]
    return sorted(lines, key=lambda line: (served.get(line.uid, 0.0), min(r.since for _, r in line.waiting), line.uid))


def _next_grant(
    lines: list[_Line],
    remaining: list[str],
    leased: Collection[str],
    decision: Decision,
    now: float,
    reserve_after: float,
) -> Grant | None:
    """The next grant in turn; its user goes to the end of the turns. Makes reservations on the way."""
    open_gpus = [uuid for uuid in remaining if uuid not in decision.reserved]
    some_day = [*leased, *(uuid for grant in decision.grants for uuid in grant.uuids), *decision.reserved]
    for line in lines:
        set_aside = False
        for position, (ticket, request) in enumerate(line.waiting):
            usable = request.usable(open_gpus)
            if len(usable) >= request.gpus:
                del line.waiting[position]
                lines.remove(line)
                lines.append(line)
                return Grant(ticket, request.id, tuple(usable[: request.gpus]), in_turn=not set_aside)
            within_reach = len(usable) + len(request.usable(some_day)) >= request.gpus
            if now - request.since > reserve_after and within_reach:
                set_aside = True
                held = set(decision.reserved.values())
                if request.id not in held:
                    decision.reserved |= dict.fromkeys(usable, request.id)
                    open_gpus = [uuid for uuid in open_gpus if uuid not in decision.reserved]
    return None
