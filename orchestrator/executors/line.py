"""Standing in line for GPUs: look at the machine, say what is wanted, take what it is one's turn to take."""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from orchestrator.executors.gpus import Gpu, GpuReading, busy_because, leasable
from orchestrator.executors.leases import Lease, LeaseFolder, LeaseFolderError, Note, TicketFile
from orchestrator.executors.sharedfiles import user_name
from orchestrator.executors.turns import Grant, Request, Ticket, schedule
from orchestrator.proc import ProcessId

OFFER_PATIENCE = 0.5  # seconds that a GPU may wait for a process whose turn it is, before others pass it by
OFFER_RECHECK = 0.3
OFFER_MEMORY = 60.0  # after so long such a process is given another chance
SETTLE_RECHECK = 0.2  # a driver frees memory a moment after the process has ended
SETTLE_SECONDS = 5.0
TICKET_DEPTH = 64  # of one user's waiting runs, so many are considered at a time


class Reader(Protocol):
    """Reads the GPUs."""

    def read(self) -> GpuReading:
        """One look; raises nothing."""
        ...


@dataclass(frozen=True)
class LeasePolicy:
    """What is free, and what CUDA_VISIBLE_DEVICES holds."""

    memory_threshold_mib: int
    reserve_after: float
    gpu_ids: str = "uuid"
    visible: str | None = None


@dataclass(frozen=True)
class GpuState:
    """One GPU as seen in one look. ``busy``: why it is not free though nobody leased it."""

    gpu: Gpu
    leased: bool
    busy: str | None
    note: Note | None

    @property
    def free(self) -> bool:
        """Nobody leased it and nothing foreign is on it."""
        return not self.leased and self.busy is None

    def words(self) -> str:
        """Why it cannot be had, for the run's events."""
        if self.leased:
            who = f"{self.note.user} for {self.note.label or self.note.request}" if self.note else "somebody"
            return f"GPU {self.gpu.index}: leased by {who}"
        return f"GPU {self.gpu.index}: {self.busy or 'free, but in turn for another'}"


@dataclass
class Outcome:
    """What one try gave. ``recheck_in``: look again so soon (seconds), None: when something wakes us."""

    leases: dict[str, Lease] = field(default_factory=dict)
    states: list[GpuState] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    holders: list[ProcessId] = field(default_factory=list)
    trouble: str | None = None
    recheck_in: float | None = None

    def explain(self) -> str:
        """Why nothing more was had, in words."""
        if self.trouble:
            return self.trouble
        others = sum(len(ticket.requests) for ticket in self.tickets)
        line = f" {others} other request(s) wait." if others else ""
        return "; ".join(state.words() for state in self.states) + "." + line


class Line:
    """One process's place in the line for this machine's GPUs."""

    def __init__(self, folder: LeaseFolder, reader: Reader, policy: LeasePolicy, name: str) -> None:
        self.folder = folder
        self._reader = reader
        self._policy = policy
        self._ticket = TicketFile(folder, name)
        self._offers: dict[str, tuple[float, frozenset[str]]] = {}
        self._seen_leased: dict[str, float] = {}

    def acquire(self, requests: Sequence[Request]) -> Outcome:
        """Says what is wanted and takes what may be taken now. Without requests: leaves the line."""
        requests = requests[:TICKET_DEPTH]
        if not requests:
            self._ticket.leave()
            return Outcome()
        reading = self._reader.read()
        if self._policy.visible is not None:  # so that others never wait for GPUs that this server cannot take
            mine = frozenset(gpu.uuid for gpu in reading.visible(self._policy.visible))
            requests = [replace(request, allowed=mine) for request in requests]
        outcome = Outcome()
        try:
            self.folder.ensure()
            with self.folder.turn():
                outcome = self._look(reading, reading.visible(self._policy.visible))
                self._take(requests, outcome)
        except OSError as error:
            for lease in outcome.leases.values():
                lease.release()
            raise LeaseFolderError(f"The folder of the GPU leases cannot be used: {error}.") from error
        outcome.recheck_in = self._recheck(outcome)
        return outcome

    def look(self) -> Outcome:
        """Every GPU, holder and waiter, without wanting any."""
        self.folder.ensure()
        reading = self._reader.read()
        with self.folder.turn():
            return self._look(reading, reading.gpus)

    def tidy(self) -> None:
        """Takes away our notes of GPUs that nobody holds: what wakes the waiters where job.py could not."""
        if self.folder.path.is_dir():
            with self.folder.turn():
                self.folder.drop_stale_notes()

    def leave(self) -> None:
        """Leaves the line."""
        self._ticket.leave()

    def _look(self, reading: GpuReading, gpus: Sequence[Gpu]) -> Outcome:
        self.folder.drop_stale_notes()
        notes: dict[str, Note] = {}
        for note in sorted(self.folder.notes(), key=lambda note: note.since):
            notes[note.uuid] = note
        states = []
        for gpu in leasable(gpus):
            leased = self.folder.leased(gpu.uuid)
            busy = busy_because(gpu, self._policy.memory_threshold_mib) if not leased else None
            states.append(GpuState(gpu, leased, busy, notes.get(gpu.uuid) if leased else None))
        holders = [state.note.process for state in states if state.note and state.note.process]
        tickets = self.folder.tickets(self._ticket)
        return Outcome(states=states, tickets=tickets, holders=holders, trouble=reading.trouble)

    def _take(self, requests: Sequence[Request], outcome: Outcome) -> None:
        own = Ticket(self._ticket.key, self.folder.uid, tuple(requests))
        patient = [ticket for ticket in outcome.tickets if not self._passed_by(ticket)]
        free = [state.gpu.uuid for state in outcome.states if state.free]
        leased = {state.gpu.uuid for state in outcome.states if state.leased}
        decision = schedule(
            free, leased, [own, *patient], self.folder.served(), time.time(), self._policy.reserve_after
        )
        by_id = {request.id: request for request in own.requests}
        gpus = {state.gpu.uuid: state.gpu for state in outcome.states}
        turn_used = False
        for grant in decision.grants:
            if grant.ticket == own.key and (lease := self._lease(grant, by_id[grant.request], gpus)) is not None:
                outcome.leases[grant.request] = lease
                turn_used |= grant.in_turn
        if turn_used:
            self.folder.mark_served()
        self._ticket.write([request for request in own.requests if request.id not in outcome.leases])
        self._note_offers([grant for grant in decision.grants if grant.ticket != own.key], outcome.tickets)

    def _lease(self, grant: Grant, request: Request, gpus: dict[str, Gpu]) -> Lease | None:
        """Locks the granted GPUs, all or none, and notes them as ours until they are handed over."""
        fds: dict[str, int] = {}
        with ExitStack() as undo:
            for uuid in grant.uuids:
                fd = self.folder.lock(uuid)
                if fd is None:
                    return None
                fds[uuid] = fd
                undo.callback(os.close, fd)
            undo.pop_all()
        me = ProcessId.of(os.getpid())
        assert me is not None
        for uuid in grant.uuids:
            self.folder.write_note(uuid, request, me)
        return Lease([gpus[uuid] for uuid in grant.uuids], self.folder, request, self._policy.gpu_ids, fds)

    # -- GPUs that others may take but do not --------------------------------------------------------------------------

    def _note_offers(self, grants: Sequence[Grant], tickets: Sequence[Ticket]) -> None:
        """Remembers since when GPUs wait for which other ticket. One that changed has taken something: forgotten."""
        now = time.monotonic()
        offered = {grant.ticket for grant in grants}
        for ticket in tickets:
            since, wants = self._offers.get(ticket.key, (now, _wants(ticket)))
            if wants != _wants(ticket) or (ticket.key not in offered and now - since <= OFFER_PATIENCE):
                self._offers.pop(ticket.key, None)
            if ticket.key in offered:
                self._offers.setdefault(ticket.key, (now, _wants(ticket)))
        gone = set(self._offers) - {ticket.key for ticket in tickets}
        for key in gone | {key for key, (since, _) in self._offers.items() if now - since > OFFER_MEMORY}:
            del self._offers[key]

    def _passed_by(self, ticket: Ticket) -> bool:
        """A process that does not take what it may (stopped, hanging) must not keep GPUs idle."""
        since, wants = self._offers.get(ticket.key, (time.monotonic(), frozenset()))
        return wants == _wants(ticket) and time.monotonic() - since > OFFER_PATIENCE

    def _recheck(self, outcome: Outcome) -> float | None:
        now = time.monotonic()
        settling = False
        for state in outcome.states:
            if state.leased:
                self._seen_leased[state.gpu.uuid] = now
            elif state.busy and now - self._seen_leased.get(state.gpu.uuid, -1e9) < SETTLE_SECONDS:
                settling = True
        if settling:
            return SETTLE_RECHECK
        return OFFER_RECHECK if self._offers else None


def _wants(ticket: Ticket) -> frozenset[str]:
    return frozenset(request.id for request in ticket.requests)


def overview(outcome: Outcome) -> dict[str, Any]:
    """What ``orc gpu ls`` shows: every GPU with its holder, and who waits."""
    gpus = []
    for state in outcome.states:
        note = state.note
        holder = None
        if note is not None:
            holder = {
                "user": note.user,
                "what": note.label,
                "request": note.request,
                "since": note.since,
                "pid": note.process.pid if note.process else None,
            }
        word = "leased" if state.leased else "busy" if state.busy else "free"
        gpus.append(state.gpu.public() | {"state": word, "why": state.busy, "holder": holder})
    waiting = [
        {
            "user": user_name(ticket.uid),
            "request": request.id,
            "what": request.label,
            "gpus": request.gpus,
            "since": request.since,
        }
        for ticket in outcome.tickets
        for request in ticket.requests
    ]
    return {"gpus": gpus, "waiting": waiting, "trouble": outcome.trouble}
