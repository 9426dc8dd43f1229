"""When squeue is asked and what it said last; sacct only for what is missing, spaced, matched by name."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import pairwise
from typing import cast

import pytest

from orchestrator.errors import SchedulerUnavailable
from orchestrator.slurm import accounting, queue
from orchestrator.slurm.gate import Answer, Gate
from orchestrator.slurm.phases import Phase
from orchestrator.slurm.poller import GROWTH, LONGEST_OUTAGE_PAUSE, SACCT_BATCH, SACCT_SPACING, YOUNG, Cadence, Poller

FLOOR, CEILING = 2.0, 30.0


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


class FakeGate:
    """A Slurm that answers what it is told to."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.accounts: list[str] = []
        self.away = False
        self.up = True
        self.sacct = Answer(0, "", "")
        self.squeue_code = 0
        self.calls: list[list[str]] = []

    def run(self, argv: Sequence[str], deadline: float | None = None) -> Answer:
        self.calls.append(list(argv))
        if self.away:
            raise SchedulerUnavailable(f"{argv[0]} gave no answer.")
        if argv[0] == "squeue":
            return Answer(self.squeue_code, "".join(self.rows), "no" if self.squeue_code else "")
        return Answer(self.sacct.code, "".join(self.accounts), self.sacct.errors)

    def controller_up(self) -> bool:
        self.calls.append(["scontrol", "ping"])
        return self.up

    def called(self, command: str) -> int:
        return sum(call[0] == command for call in self.calls)


def job(name: str = "orc-s1", state: str = "RUNNING", job_id: str = "15") -> str:
    cells = [job_id, state, "10", "20", "30", "n1", "gpu", "1", "0", "cpu=1", "0:0", "0", "None", name]
    assert len(cells) == len(queue.FIELDS)
    return "|".join(cells) + "|\n"


def past(name: str = "orc-s1", state: str = "COMPLETED", job_id: str = "15") -> str:
    cells = [job_id, state, "3:0", "10", "20", "30", "10", "n1", "gpu", "cpu=1", name]
    assert len(cells) == len(accounting.FIELDS)
    return "|".join(cells) + "\n"


@pytest.fixture
def gate() -> FakeGate:
    return FakeGate()


@pytest.fixture
def poller(clock: Clock, gate: FakeGate) -> Poller:
    return Poller(cast(Gate, gate), "alice", Cadence(FLOOR, CEILING), start_ping=at_once)


def at_once(question: Callable[[], bool]) -> "Future[bool]":
    """The ping's answer is there when it is asked for."""
    answer: Future[bool] = Future()
    answer.set_result(question())
    return answer


# -- the cadence -------------------------------------------------------------------------------------------------------


def test_while_nothing_changes_looks_grow_rarer_up_to_the_ceiling(clock: Clock) -> None:
    cadence, seen = Cadence(FLOOR, CEILING), []
    for _ in range(10):
        cadence.looked(changed=False)
        seen.append(cadence.interval)
        assert cadence.due == clock.now + cadence.interval
    assert seen[:3] == [FLOOR * GROWTH, FLOOR * GROWTH**2, FLOOR * GROWTH**3]
    assert seen == sorted(seen)
    assert seen[-1] == CEILING


def test_a_floor_above_the_ceiling_is_kept(clock: Clock) -> None:
    cadence = Cadence(60.0, CEILING)
    cadence.looked(changed=False)
    assert cadence.interval >= 60.0


def test_a_floor_above_the_longest_pause_is_kept_over_an_outage(clock: Clock) -> None:
    cadence = Cadence(300.0, 600.0)
    cadence.failed()
    assert cadence.due >= clock.now + 300.0


def test_a_change_brings_the_floor_back(clock: Clock) -> None:
    cadence = Cadence(FLOOR, CEILING, interval=CEILING)
    cadence.looked(changed=True)
    assert (cadence.interval, cadence.due) == (FLOOR, clock.now + FLOOR)


def test_in_a_hurry_the_floor_is_kept_for_a_while(clock: Clock) -> None:
    cadence = Cadence(FLOOR, CEILING)
    cadence.hurry()
    clock.now += YOUNG - 0.1
    cadence.looked(changed=False)
    assert cadence.interval == FLOOR
    clock.now += 0.1
    cadence.looked(changed=False)
    assert cadence.interval > FLOOR


def test_a_hurry_brings_the_next_look_forward_and_never_below_the_floor(clock: Clock) -> None:
    cadence = Cadence(FLOOR, CEILING, interval=CEILING)
    cadence.looked(changed=False)
    asked = clock.now
    cadence.hurry()
    assert cadence.due == asked + FLOOR
    clock.now += FLOOR * 3
    cadence.due = asked + CEILING
    cadence.hurry()
    assert cadence.due == clock.now


def test_a_hurry_never_puts_a_look_off(clock: Clock) -> None:
    cadence = Cadence(FLOOR, CEILING)
    cadence.looked(changed=True)
    due = cadence.due
    cadence.hurry()
    cadence.hurry(1.0)
    assert cadence.due <= due
    assert cadence.hurry_until == clock.now + YOUNG


def test_repeated_hurries_never_ask_more_often_than_the_floor(poller: Poller, gate: FakeGate, clock: Clock) -> None:
    asked = []
    for _ in range(400):
        before = gate.called("squeue")
        poller.look()
        if gate.called("squeue") > before:
            asked.append(clock.now)
        poller.cadence.hurry()
        clock.now += 0.1
    assert len(asked) > 5
    assert min(after - before for before, after in pairwise(asked)) >= FLOOR - 1e-6


def test_after_failures_tries_grow_rarer_up_to_a_minute(clock: Clock) -> None:
    cadence, seen = Cadence(FLOOR, CEILING), []
    for _ in range(8):
        cadence.failed()
        seen.append(cadence.interval)
    assert seen[:2] == [FLOOR * 2, FLOOR * 4]
    assert seen[-1] == LONGEST_OUTAGE_PAUSE


# -- squeue ------------------------------------------------------------------------------------------------------------


def test_a_look_is_one_squeue_when_it_is_due(poller: Poller, gate: FakeGate, clock: Clock) -> None:
    gate.rows = [job(), job("orc-s2", job_id="16_[0-1]", state="PENDING")]
    fresh = poller.look()
    assert fresh is not None
    assert set(fresh.rows) == {("orc-s1", None), ("orc-s2", 0), ("orc-s2", 1)}
    assert (fresh.known_names, fresh.at) == (frozenset({"orc-s1", "orc-s2"}), clock.now)
    assert poller.last is fresh
    assert gate.calls == [queue.command("alice")]
    assert poller.look() is None
    clock.now = poller.cadence.due
    assert poller.look() is not None
    assert len(gate.calls) == 2


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ([job()], [job()], False),
        ([job()], [job(state="COMPLETING")], True),
        ([job()], [], True),
        ([], [job()], True),
        ([job()], [job("orc-s2")], True),
    ],
)
def test_another_set_of_jobs_or_another_state_is_a_change(
    poller: Poller, gate: FakeGate, clock: Clock, before: list[str], after: list[str], changed: bool
) -> None:
    gate.rows = before
    poller.look()
    clock.now = poller.cadence.due
    gate.rows = after
    poller.look()
    assert (poller.cadence.interval == FLOOR) == changed


def test_an_outage_is_told_and_what_was_seen_stays(poller: Poller, gate: FakeGate, clock: Clock) -> None:
    gate.rows = [job()]
    before = poller.look()
    clock.now = poller.cadence.due
    gate.away = True
    assert poller.look() is None
    assert (poller.trouble, poller.last) == ("squeue gave no answer.", before)
    assert poller.cadence.due > clock.now


def test_a_squeue_that_fails_is_an_outage_and_no_empty_queue(poller: Poller, gate: FakeGate) -> None:
    gate.squeue_code = 1
    assert poller.look() is None
    assert (poller.trouble, poller.last) == ("squeue: no", None)


def test_during_an_outage_only_the_ping_is_asked_until_it_answers(poller: Poller, gate: FakeGate, clock: Clock) -> None:
    gate.away, gate.up = True, False
    poller.look()
    for _ in range(3):
        clock.now = poller.cadence.due
        assert poller.look() is None
    assert (gate.called("squeue"), gate.called("scontrol")) == (1, 3)
    gate.away, gate.up = False, True
    clock.now = poller.cadence.due
    assert poller.look() is not None
    assert poller.trouble is None
    assert poller.cadence.interval <= CEILING


def test_an_outage_that_others_met_is_told_too(poller: Poller, clock: Clock) -> None:
    poller.away("sbatch gave no answer.")
    assert poller.trouble == "sbatch gave no answer."
    assert poller.cadence.due > clock.now


# -- sacct -------------------------------------------------------------------------------------------------------------

KEY = ("orc-s1", None)


def test_sacct_tells_of_what_squeue_does_not_know(poller: Poller, gate: FakeGate) -> None:
    gate.accounts = [past()]
    row = poller.ended([(KEY, "15")])(KEY)
    assert row is not None
    assert (row.state, row.code, row.phase) == ("COMPLETED", 3, Phase.ENDED)
    assert gate.calls == [accounting.command(["15"])]
    assert poller.keeps_accounts is True


def test_nothing_missing_asks_nothing(poller: Poller, gate: FakeGate) -> None:
    assert poller.ended([])(KEY) is None
    assert gate.calls == []


def test_a_job_is_asked_for_once_per_spacing(poller: Poller, gate: FakeGate, clock: Clock) -> None:
    for _ in range(3):
        assert poller.ended([(KEY, "15")])(KEY) is None
    assert gate.called("sacct") == 1
    clock.now += SACCT_SPACING - 0.1
    poller.ended([(KEY, "15")])
    assert gate.called("sacct") == 1
    clock.now += 0.1
    gate.accounts = [past()]
    assert poller.ended([(KEY, "15")])(KEY) is not None
    assert gate.called("sacct") == 2
    clock.now += SACCT_SPACING  # what is known is not asked for again
    assert poller.ended([(KEY, "15")])(KEY) is not None
    assert gate.called("sacct") == 2


def test_another_job_is_asked_for_without_waiting(poller: Poller, gate: FakeGate) -> None:
    poller.ended([(KEY, "15")])
    poller.ended([(KEY, "15"), (("orc-s2", None), "16")])
    assert [call[-1] for call in gate.calls] == ["15", "16"]


def test_the_tasks_of_an_array_are_one_question(poller: Poller, gate: FakeGate) -> None:
    gate.accounts = [
        past(job_id="15_0"),
        past(job_id="15_1", state="FAILED"),
        past(job_id="15_[2-3]", state="CANCELLED"),
    ]
    ended = poller.ended([(("orc-s1", index), "15") for index in range(5)])
    assert [call[-1] for call in gate.calls] == ["15"]
    states = [row.state if (row := ended(("orc-s1", index))) else None for index in range(5)]
    assert states == ["COMPLETED", "FAILED", "CANCELLED", "CANCELLED", None]


def test_many_jobs_are_asked_for_in_batches(poller: Poller, gate: FakeGate) -> None:
    poller.ended([((f"orc-{number}", None), str(number)) for number in range(SACCT_BATCH + 1)])
    assert [len(call[-1].split(",")) for call in gate.calls] == [SACCT_BATCH, 1]


def test_an_id_that_was_used_again_tells_nothing_of_ours(poller: Poller, gate: FakeGate) -> None:
    gate.accounts = [past("somebody-elses")]
    assert poller.ended([(KEY, "15")])(KEY) is None


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "MADE_UP"])
def test_what_has_not_ended_for_sacct_has_not_ended(poller: Poller, gate: FakeGate, state: str) -> None:
    gate.accounts = [past(state=state)]
    assert poller.ended([(KEY, "15")])(KEY) is None


def test_where_no_accounts_are_kept_sacct_is_asked_just_once(poller: Poller, gate: FakeGate, clock: Clock) -> None:
    gate.sacct = Answer(1, "", "Slurm accounting storage is disabled\n")
    for _ in range(3):
        assert poller.ended([(KEY, "15")])(KEY) is None
        clock.now += 10 * SACCT_SPACING
    assert (gate.called("sacct"), poller.keeps_accounts) == (1, False)


@pytest.mark.parametrize("away", [True, False])
def test_a_sacct_that_fails_is_asked_again_and_is_no_outage(
    poller: Poller, gate: FakeGate, clock: Clock, away: bool
) -> None:
    gate.away, gate.sacct = away, Answer(1, "", "sacct: error: slurm_persist_conn_open_without_init")
    assert poller.ended([(KEY, "15")])(KEY) is None
    assert (poller.keeps_accounts, poller.trouble) == (None, None)
    clock.now += SACCT_SPACING
    gate.away, gate.sacct, gate.accounts = False, Answer(0, "", ""), [past()]
    assert poller.ended([(KEY, "15")])(KEY) is not None


def test_what_is_over_is_forgotten(poller: Poller, gate: FakeGate, clock: Clock) -> None:
    gate.accounts = [past()]
    poller.ended([(KEY, "15")])
    poller.forget([KEY, ("never-known", 3)])
    gate.accounts = []
    assert poller.ended([])(KEY) is None


# -- sacct's own rows --------------------------------------------------------------------------------------------------


def test_sacct_is_asked_without_steps_and_for_each_attempt_only_where_wanted() -> None:
    argv = accounting.command(iter(["15", "16"]))
    assert argv[:4] == ["sacct", "-X", "-n", "-P"]
    assert argv[4:] == ["-o", ",".join(accounting.FIELDS), "-j", "15,16"]
    assert accounting.command(["15"], duplicates=True) == [*accounting.command(["15"]), "-D"]


def test_a_name_with_separators_and_line_ends_is_read_as_far_as_it_goes() -> None:
    rows = accounting.parse(past("a|b") + past("two\nlines") + past())
    assert [row.name for row in rows] == ["a|b", "two", "orc-s1"]


@pytest.mark.parametrize(
    "line", ["", "x|y\n", past(job_id="15.batch"), past(job_id="N/A"), past().replace("3:0", "a:b")]
)
def test_a_line_of_sacct_that_cannot_be_read_is_left_out(line: str) -> None:
    assert accounting.parse(line + past("good")) == accounting.parse(past("good"))


def test_what_sacct_does_not_know_is_left_open() -> None:
    (row,) = accounting.parse("15|PENDING||10|Unknown|Unknown||None assigned|gpu||orc-s1\n")
    assert (row.code, row.signal, row.start, row.end, row.elapsed, row.nodes, row.tres) == (
        0,
        0,
        None,
        None,
        0.0,
        "",
        "",
    )


@pytest.mark.parametrize(
    ("errors", "disabled"),
    [("Slurm accounting storage is disabled\n", True), ("connection refused", False), ("", False)],
)
def test_disabled_accounts_are_told_from_a_failure(errors: str, disabled: bool) -> None:
    assert accounting.disabled(errors) is disabled
