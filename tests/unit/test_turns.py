"""Who gets which GPU next: fair between users, the same answer everywhere, nobody waits for ever."""

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.executors.turns import Decision, Request, Ticket, schedule

NOW, PATIENCE = 1000.0, 100.0
OVERDUE, FRESH = NOW - PATIENCE - 1, NOW - 1
MACHINE = [f"GPU-{number}" for number in range(6)]


@dataclass(frozen=True)
class Case:
    """All that ``schedule`` is told."""

    free: list[str]
    leased: list[str]
    tickets: list[Ticket]
    served: dict[int, float] = field(default_factory=dict)

    def decide(self, tickets: Sequence[Ticket] | None = None) -> Decision:
        waiting = self.tickets if tickets is None else tickets
        return schedule(self.free, set(self.leased), waiting, self.served, NOW, PATIENCE)

    @property
    def requests(self) -> dict[str, tuple[int, Request]]:
        """Each request with its user."""
        return {request.id: (ticket.uid, request) for ticket in self.tickets for request in ticket.requests}


# A request is drawn as one number and read off these: drawing each field on its own takes ten times as long.
GPU_COUNTS = [1, 2, 3, 4]
SINCES = [FRESH, OVERDUE, OVERDUE - 5, NOW - PATIENCE, NOW, NOW + 5]
PRIORITIES = [0, 0, 0, 1, -1]
ALLOWED = [None, None, frozenset(MACHINE[:2]), frozenset(MACHINE[1:4]), frozenset(MACHINE[3:]), frozenset[str]()]
AVOIDED = [frozenset[str](), frozenset(MACHINE[:1]), frozenset(MACHINE[2:4])]
FIELDS = [range(4), GPU_COUNTS, SINCES, PRIORITIES, AVOIDED, ALLOWED]
numbers = st.integers(0, math.prod(map(len, FIELDS)) - 1)


def _case(states: list[str], uids: list[int], wanted: list[int], served: list[float], *, restricted: bool) -> Case:
    requests: dict[int, list[Request]] = {position: [] for position in range(4)}
    for name, number in enumerate(wanted):
        chosen: list[Any] = []
        rest = number
        for values in FIELDS:
            rest, place = divmod(rest, len(values))
            chosen.append(values[place])
        ticket, gpus, since, priority, avoid, allowed = chosen
        request = Request(f"r{name}", gpus, since, priority, allowed if restricted else None, avoid)
        requests[ticket].append(request)
    tickets = [Ticket(f"ticket{position}", uids[position], tuple(found)) for position, found in requests.items()]
    machine = list(zip(MACHINE, states, strict=False))
    free = [uuid for uuid, state in machine if state == "free"]
    leased = [uuid for uuid, state in machine if state == "leased"]
    return Case(free, leased, tickets, dict(zip((1, 2, 3), served, strict=False)))


def cases(*, restricted: bool = True) -> st.SearchStrategy[Case]:
    """Any state of a machine of up to six GPUs (each free, leased, or held by a foreign process) and who waits for it.

    ``restricted``: some requests may have some of the GPUs only.
    """
    return st.builds(
        _case,
        st.lists(st.sampled_from(["free", "free", "leased", "foreign"]), max_size=len(MACHINE)),
        st.lists(st.integers(1, 3), min_size=4, max_size=4),
        st.lists(numbers, max_size=10),
        st.lists(st.sampled_from([0.0, 1.0, 2.0]), max_size=3),
        restricted=st.just(restricted),
    )


def want(name: str, gpus: int = 1, **more: Any) -> Request:
    return Request(name, gpus, **{"since": FRESH, **more})


def one_user(*requests: Request) -> list[Ticket]:
    return [Ticket("t", 1, requests)]


def granted(decision: Decision) -> list[str]:
    return [grant.request for grant in decision.grants]


# -- what holds of every decision --------------------------------------------------------------------------------------


@given(cases())
@settings(max_examples=150)
def test_a_grant_is_what_was_asked_for_of_what_is_free_and_of_nothing_twice(case: Case) -> None:
    decision = case.decide()
    given_away = [uuid for grant in decision.grants for uuid in grant.uuids]
    assert len(given_away) == len(set(given_away))
    assert set(given_away) <= set(case.free)
    assert len(granted(decision)) == len(set(granted(decision)))
    keys = {request.id: ticket.key for ticket in case.tickets for request in ticket.requests}
    for grant in decision.grants:
        _, request = case.requests[grant.request]
        assert grant.ticket == keys[grant.request]
        assert len(grant.uuids) == request.gpus
        assert request.allowed is None or set(grant.uuids) <= request.allowed


@given(cases())
@settings(max_examples=150)
def test_gpus_are_set_aside_for_who_has_waited_long_and_can_have_them_one_day(case: Case) -> None:
    decision = case.decide()
    assert set(decision.reserved) <= set(case.free)
    assert not set(decision.reserved) & {uuid for grant in decision.grants for uuid in grant.uuids}
    for name, count in Counter(decision.reserved.values()).items():
        _, request = case.requests[name]
        assert name not in granted(decision)
        assert NOW - request.since > PATIENCE
        assert count < request.gpus  # else it would have been granted
        assert len(request.usable(case.free + case.leased)) >= request.gpus  # foreign GPUs may never come back
    for uuid, name in decision.reserved.items():
        allowed = case.requests[name][1].allowed
        assert allowed is None or uuid in allowed


@given(cases(restricted=False))
@settings(max_examples=150)
def test_nothing_that_fits_is_left_idle_unless_it_is_set_aside(case: Case) -> None:
    decision = case.decide()
    taken = {uuid for grant in decision.grants for uuid in grant.uuids}
    left = [uuid for uuid in case.free if uuid not in taken and uuid not in decision.reserved]
    waiting = [request for _, request in case.requests.values() if request.id not in granted(decision)]
    assert [request for request in waiting if request.gpus <= len(left)] == []


@given(cases())
@settings(max_examples=150)
def test_what_fits_waits_only_behind_a_long_waiting_request_of_the_same_user(case: Case) -> None:
    decision = case.decide()
    taken = {uuid for grant in decision.grants for uuid in grant.uuids}
    left = [uuid for uuid in case.free if uuid not in taken and uuid not in decision.reserved]
    holding = {case.requests[name][0] for name in decision.reserved.values()}
    for name, (uid, request) in case.requests.items():
        overdue = [
            other
            for other_uid, other in case.requests.values()
            if other_uid == uid and other.id not in granted(decision) and NOW - other.since > PATIENCE
        ]
        if name not in granted(decision) and len(request.usable(left)) >= request.gpus:
            assert uid in holding or overdue


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_the_order_in_which_tickets_are_read_does_not_matter(case: Case, shuffler: random.Random) -> None:
    tickets = [
        Ticket(ticket.key, ticket.uid, tuple(shuffler.sample(ticket.requests, len(ticket.requests))))
        for ticket in shuffler.sample(case.tickets, len(case.tickets))
    ]
    assert case.decide(tickets) == case.decide()


ELSEWHERE = """
import json, sys
from orchestrator.executors.turns import Request, Ticket, schedule
for free, leased, tickets, served in json.load(sys.stdin):
    made = [Ticket(t["key"], t["uid"], tuple(Request(**{**r, "avoid": frozenset(r["avoid"]),
            "allowed": None if r["allowed"] is None else frozenset(r["allowed"])}) for r in t["requests"]))
            for t in tickets]
    served = {int(uid): at for uid, at in served.items()}
    made = schedule(free, set(leased), made[::-1], served, float(sys.argv[1]), float(sys.argv[2]))
    print(json.dumps([[[g.ticket, g.request, g.uuids] for g in made.grants], made.reserved]))
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_every_process_comes_to_the_same_decision(hash_seed: str) -> None:
    dice = random.Random(7)
    most = math.prod(map(len, FIELDS))
    batch = [
        _case(
            dice.choices(["free", "leased"], k=6),
            dice.choices([1, 2, 3], k=4),
            [dice.randrange(most) for _ in range(dice.randrange(10))],
            dice.choices([0.0, 1.0, 2.0], k=3),
            restricted=True,
        )
        for _ in range(200)
    ]
    told = [[case.free, case.leased, [_as_json(ticket) for ticket in case.tickets], case.served] for case in batch]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(NOW), str(PATIENCE)],
        input=json.dumps(told),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for case, line in zip(batch, done.stdout.splitlines(), strict=True):
        decision = case.decide()
        grants = [[grant.ticket, grant.request, list(grant.uuids)] for grant in decision.grants]
        assert json.loads(line) == [grants, decision.reserved]


def _as_json(ticket: Ticket) -> dict[str, Any]:
    data = asdict(ticket)
    for request in data["requests"]:
        request["avoid"] = sorted(request["avoid"])
        request["allowed"] = None if request["allowed"] is None else sorted(request["allowed"])
    return data


# -- between users -----------------------------------------------------------------------------------------------------


def test_a_user_with_200_requests_does_not_hold_back_one_with_1() -> None:
    many = Ticket("a", 1, tuple(want(f"a{number:03}", since=1.0 + number) for number in range(200)))
    one = Ticket("b", 2, (want("b", since=999.0),))
    decision = Case(MACHINE[:2], [], [many, one]).decide()
    assert granted(decision) == ["a000", "b"]
    # And with one GPU at a time, it is next after whoever was served last.
    assert granted(Case(MACHINE[:1], [], [many, one], {1: 900.0}).decide()) == ["b"]


def test_who_was_served_longest_ago_comes_first() -> None:
    tickets = [Ticket(f"t{uid}", uid, (want(f"r{uid}"),)) for uid in (1, 2, 3)]
    assert granted(Case(MACHINE[:1], [], tickets, {1: 3.0, 2: 1.0, 3: 2.0}).decide()) == ["r2"]
    assert granted(Case(MACHINE[:3], [], tickets, {1: 3.0, 2: 1.0, 3: 2.0}).decide()) == ["r2", "r3", "r1"]
    assert granted(Case(MACHINE[:1], [], tickets, {1: 3.0, 2: 1.0}).decide()) == ["r3"]  # never served


def test_priority_counts_within_a_user_only() -> None:
    eager = Ticket("a", 1, (want("a", priority=1000),))
    calm = Ticket("b", 2, (want("b", priority=-5),))
    assert granted(Case(MACHINE[:1], [], [eager, calm], {1: 2.0, 2: 1.0}).decide()) == ["b"]


def test_one_users_tickets_share_one_turn() -> None:
    tickets = [Ticket(f"a{number}", 1, (want(f"a{number}"),)) for number in range(3)] + [Ticket("b", 2, (want("b"),))]
    assert Counter(name[0] for name in granted(Case(MACHINE[:2], [], tickets).decide())) == {"a": 1, "b": 1}


@given(
    st.integers(0, 6), st.dictionaries(st.integers(1, 4), st.integers(1, 8), min_size=1), st.permutations([1, 2, 3, 4])
)
@settings(max_examples=80)
def test_users_take_turns_one_by_one(free: int, waiting: dict[int, int], order: list[int]) -> None:
    tickets = [
        Ticket(f"t{uid}", uid, tuple(want(f"{uid}.{number}") for number in range(count)))
        for uid, count in waiting.items()
    ]
    served = {uid: float(position) for position, uid in enumerate(order)}
    decision = Case(MACHINE[:free], [], tickets, served).decide()
    got = Counter(int(name.split(".")[0]) for name in granted(decision))
    assert sum(got.values()) == min(free, sum(waiting.values()))
    most = max(got.values(), default=0)
    for uid, count in waiting.items():
        assert got[uid] == count or got[uid] >= most - 1
    first = [int(name.split(".")[0]) for name in granted(decision)][: len(waiting)]
    assert first == [uid for uid in order if uid in waiting][: len(first)]


# -- within a user -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(900, 910)), min_size=1, max_size=8), st.integers(0, 6))
@settings(max_examples=80)
def test_within_a_user_priority_counts_then_arrival(waiting: list[tuple[int, int]], free: int) -> None:
    requests = [
        want(f"r{number}", priority=priority, since=float(since)) for number, (priority, since) in enumerate(waiting)
    ]
    expected = sorted(requests, key=lambda request: (-request.priority, request.since, request.id))
    decision = Case(MACHINE[:free], [], one_user(*requests)).decide()
    assert granted(decision) == [request.id for request in expected][:free]


def test_a_small_request_goes_before_a_large_one_that_does_not_fit() -> None:
    large, small = want("large", 4, since=1.0 + NOW - PATIENCE), want("small", 1, since=NOW)
    decision = Case(MACHINE[:2], MACHINE[2:], one_user(large, small)).decide()
    assert granted(decision) == ["small"]
    assert decision.reserved == {}


def test_a_gpu_to_avoid_is_taken_only_where_there_is_no_other() -> None:
    wary = want("wary", 2, avoid=frozenset(MACHINE[:2]))
    assert Case(MACHINE[:4], [], one_user(wary)).decide().grants[0].uuids == (MACHINE[2], MACHINE[3])
    assert Case(MACHINE[:3], [], one_user(wary)).decide().grants[0].uuids == (MACHINE[2], MACHINE[0])


def test_gpus_are_given_in_the_machines_order() -> None:
    assert Case(MACHINE[:4], [], one_user(want("r", 2))).decide().grants[0].uuids == (MACHINE[0], MACHINE[1])


def test_without_requests_or_gpus_nothing_happens() -> None:
    assert Case(MACHINE, [], []).decide() == Decision()
    assert Case(MACHINE, [], [Ticket("t", 1, ())]).decide() == Decision()
    assert Case([], MACHINE, one_user(want("r"))).decide() == Decision()


# -- those who have waited long ----------------------------------------------------------------------------------------


def test_gpus_are_set_aside_for_a_request_that_has_waited_long() -> None:
    large, small = want("large", 4, since=OVERDUE), want("small", 1)
    decision = Case(MACHINE[:2], MACHINE[2:4], one_user(large, small)).decide()
    assert granted(decision) == []
    assert decision.reserved == {MACHINE[0]: "large", MACHINE[1]: "large"}


def test_what_is_set_aside_for_one_user_is_not_given_to_another() -> None:
    large = Ticket("a", 1, (want("large", 3, since=OVERDUE),))
    small = Ticket("b", 2, (want("small", 1),))
    case = Case(MACHINE[:2], MACHINE[2:4], [large, small], {1: 1.0, 2: 2.0})
    assert (granted(case.decide()), len(case.decide().reserved)) == ([], 2)
    # In its user's turn: whoever was served longer ago goes first all the same.
    other = Case(MACHINE[:2], MACHINE[2:4], [large, small], {1: 2.0, 2: 1.0})
    assert (granted(other.decide()), len(other.decide().reserved)) == (["small"], 1)


def test_what_is_set_aside_stays_so_while_others_are_served() -> None:
    large = Ticket("a", 1, (want("large", 2, since=OVERDUE, allowed=frozenset(MACHINE[:2])),))
    small = Ticket("b", 2, tuple(want(f"small{number}") for number in range(4)))
    decision = Case([MACHINE[0], *MACHINE[2:4]], [MACHINE[1]], [large, small], {1: 1.0, 2: 2.0}).decide()
    assert [grant.uuids for grant in decision.grants] == [(MACHINE[2],), (MACHINE[3],)]
    assert decision.reserved == {MACHINE[0]: "large"}


def test_it_is_the_waiting_time_that_counts() -> None:
    case = Case(MACHINE[:2], MACHINE[2:4], one_user(want("large", 4, since=NOW - PATIENCE), want("small")))
    assert granted(case.decide()) == ["small"]


def test_nothing_is_set_aside_for_what_is_out_of_reach() -> None:
    large, small = want("large", 4, since=OVERDUE), want("small", 1)
    foreign = Case(MACHINE[:2], MACHINE[2:3], one_user(large, small)).decide()  # one more GPU has a foreign process
    assert (granted(foreign), foreign.reserved) == (["small"], {})
    elsewhere = want("elsewhere", 2, since=OVERDUE, allowed=frozenset({MACHINE[0], MACHINE[5]}))
    restricted = Case(MACHINE[:2], MACHINE[2:4], one_user(elsewhere, small)).decide()
    assert (granted(restricted), restricted.reserved) == (["small"], {})


def test_only_gpus_that_it_may_have_are_set_aside() -> None:
    picky = want("picky", 2, since=OVERDUE, allowed=frozenset({MACHINE[1], MACHINE[3]}))
    decision = Case(MACHINE[:2], MACHINE[2:4], one_user(picky)).decide()
    assert decision.reserved == {MACHINE[1]: "picky"}


def test_what_is_granted_now_will_be_free_again_some_day() -> None:
    # Else a request that has waited long would be overtaken by its own user's small ones whenever another user is
    # served first; see the simulation below.
    first = Ticket("a", 1, (want("first"),))
    large = Ticket("b", 2, (want("large", 2, since=OVERDUE), want("small")))
    decision = Case(MACHINE[:2], [], [first, large], {1: 1.0, 2: 2.0}).decide()
    assert granted(decision) == ["first"]
    assert decision.reserved == {MACHINE[1]: "large"}


def test_a_long_wait_on_one_server_keeps_no_gpu_of_another_idle() -> None:
    # One user, two servers, each with its own CUDA_VISIBLE_DEVICES.
    left = Ticket("left", 1, (want("large", 2, since=OVERDUE, allowed=frozenset(MACHINE[:2])),))
    right = Ticket("right", 1, (want("small", 1, allowed=frozenset(MACHINE[2:4])),))
    decision = Case([MACHINE[0], *MACHINE[2:4]], [MACHINE[1]], [left, right]).decide()
    assert decision.reserved == {MACHINE[0]: "large"}
    assert granted(decision) == ["small"]


@dataclass
class Machine:
    """GPUs, and users who always have small requests waiting, step by step."""

    gpus: int
    holds: dict[int, int]  # how many steps each user's small requests keep a GPU
    takers: list[int]  # in which order users take what they were granted
    clock: float = 0.0
    arrived: int = 0
    busy: dict[str, int] = field(default_factory=dict)
    served: dict[int, float] = field(default_factory=dict)
    waiting: dict[int, list[Request]] = field(default_factory=dict)
    allowed: dict[int, frozenset[str]] = field(default_factory=dict)  # what each user's small requests may have

    def arrive(self, uid: int, *requests: Request) -> None:
        self.waiting.setdefault(uid, []).extend(requests)

    def refill(self, size: int) -> None:
        for uid in self.holds:
            for _ in range(self.gpus - len(self.waiting.get(uid, []))):
                self.arrived += 1
                self.arrive(uid, Request(f"small{self.arrived}", size, self.clock, allowed=self.allowed.get(uid)))

    def step(self, patience: float) -> list[str]:
        """One decision, and all that was granted taken. The requests granted."""
        self.clock += 1
        self.busy = {uuid: left - 1 for uuid, left in self.busy.items() if left > 1}
        free = [uuid for uuid in MACHINE[: self.gpus] if uuid not in self.busy]
        tickets = [Ticket(f"t{uid}", uid, tuple(requests)) for uid, requests in self.waiting.items()]
        decision = schedule(free, set(self.busy), tickets, self.served, self.clock, patience)
        owners = {request.id: uid for uid, requests in self.waiting.items() for request in requests}
        for grant in sorted(decision.grants, key=lambda grant: self.takers.index(owners[grant.request])):
            uid = owners[grant.request]
            self.clock += 0.001
            if grant.in_turn:  # as line.py notes it
                self.served[uid] = self.clock
            self.waiting[uid] = [request for request in self.waiting[uid] if request.id != grant.request]
            self.busy |= dict.fromkeys(grant.uuids, self.holds[uid])
        return granted(decision)


@given(
    st.integers(1, 4),
    st.dictionaries(st.sampled_from([1, 2, 3]), st.integers(1, 3), min_size=1, max_size=3),
    st.permutations([1, 2, 3]),
    st.sampled_from([0.0, 3.5]),
    st.integers(1, 2),
)
@example(2, {1: 1, 2: 1}, [1, 2, 3], 0.0, 1)  # all is released at once, and the large one's user is always second
@settings(max_examples=120)
def test_a_large_request_is_served_under_any_stream_of_small_ones(
    gpus: int, holds: dict[int, int], takers: list[int], patience: float, size: int
) -> None:
    machine = Machine(gpus, holds, takers)
    for _ in range(3):
        machine.refill(size)
        machine.step(patience)
    machine.arrive(max(holds), Request("large", gpus, machine.clock))
    for _ in range(40):
        machine.refill(size)
        if "large" in machine.step(patience):
            return
    pytest.fail("40 steps, and the large request still waits")


@pytest.mark.parametrize("takers", [[1, 2], [2, 1]])
def test_a_large_request_is_served_though_its_user_is_served_elsewhere(takers: list[int]) -> None:
    machine = Machine(4, {1: 1, 2: 1}, takers, allowed={1: frozenset(MACHINE[2:4])})
    for _ in range(3):
        machine.refill(1)
        machine.step(3.5)
    machine.arrive(1, Request("large", 2, machine.clock, allowed=frozenset(MACHINE[:2])))
    for _ in range(40):
        machine.refill(1)
        if "large" in machine.step(3.5):
            return
    pytest.fail("40 steps, and the large request still waits")
