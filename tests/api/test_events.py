"""The journal: every change leaves its line, no line is lost to a reader, none can be changed."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.service import InProcess, Json, RealServer, in_process, real_server
from tests.support.waiting import wait_until

ME = "token:admin"
FAR = "9" * 30


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service: each test looks at the events of its own things."""
    with in_process(tmp_path_factory.mktemp("events") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One real server: each test begins where the journal ends."""
    with real_server(tmp_path_factory.mktemp("real") / "home") as found:
        yield found


def make(service: InProcess, command: str = "true", **fields: Any) -> str:
    return str(service.post("/runs", {"name": "x", "command": command, **fields})["id"])


def about(service: InProcess, subject: str) -> list[Json]:
    return [event for event in service.get("/events/latest", limit=1000) if event["subject"] == subject]


# -- every change ------------------------------------------------------------------------------------------------------


def test_the_whole_life_of_a_run_is_told(shared: InProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    command = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    run = shared.run(command)
    try:
        shared.until(run["id"], "running")
    finally:
        gate.touch()
    run = shared.over(run["id"])
    events = shared.events(run["id"])
    statuses = [event for event in events if "status" in (event["before"] or {})]
    path = [statuses[0]["before"]["status"], *(event["after"]["status"] for event in statuses)]
    assert path == ["ready", "queued", "launching", "running", "finished"]
    created, queued = events[0], events[1]
    assert (created["kind"], created["actor"], created["before"]) == ("run.created", ME, None)
    assert (created["after"]["name"], created["after"]["command"]) == ("test", command)
    assert (queued["kind"], queued["actor"]) == ("run.queued", ME)
    assert {event["actor"] for event in events[2:]} == {"service"}
    assert events[-1]["after"]["exit_code"] == run["exit_code"] == 0
    assert {event["subject"] for event in events} == {f"run:{run['id']}"}
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert events == about(shared, f"run:{run['id']}")


def test_a_failure_is_told_in_words(shared: InProcess) -> None:
    run = shared.over(shared.run("exit 9")["id"])
    last = shared.events(run["id"])[-1]
    assert (last["kind"], last["after"]["reason"], last["after"]["exit_code"]) == ("run.failed", "NONZERO_EXIT", 9)
    assert "9" in last["message"]


@dataclass(frozen=True)
class Change:
    """What is done to a new thing, and what its event must then show."""

    kind: str
    do: Callable[[InProcess, str], object]
    before: Json | None
    after: Json | None


def act(path: str, body: Any = None) -> Callable[[InProcess, str], object]:
    return lambda service, thing: service.post(path.format(thing), body)


def put(path: str, body: Json) -> Callable[[InProcess, str], object]:
    return lambda service, thing: service.http.put(path.format(thing), json=body).raise_for_status()


def moved(service: InProcess, thing: str) -> object:
    sweep = service.post("/sweeps/wild", {"name": "w", "goal": "g", "plan_id": None})["id"]
    return service.post(f"/runs/{thing}/add-to-sweep?sweep_id={sweep}")


def archived_and_back(service: InProcess, thing: str) -> object:
    service.post(f"/runs/{thing}/archive")
    return service.post(f"/runs/{thing}/unarchive")


OF_RUNS = [
    Change("run.queued", act("/runs/{}/queue"), {"status": "ready"}, {"status": "queued"}),
    Change("run.updated", put("/runs/{}", {"name": "new"}), {"name": "x"}, {"name": "new"}),
    Change("run.updated", put("/runs/{}", {"command": "false"}), {"command": "true"}, {"command": "false"}),
    Change("run.archived", act("/runs/{}/archive"), {"is_archived": False}, {"is_archived": True}),
    Change("run.unarchived", archived_and_back, {"is_archived": True}, {"is_archived": False}),
    Change("run.reported", act("/runs/{}/status", {"status": "running"}), {"reported": None}, {}),
    Change("run.added_to_sweep", moved, {"sweep_id": None}, {}),
]
OF_SWEEPS = [
    Change("sweep.created", lambda service, thing: None, None, {"name": "w", "goal": "g"}),
    Change("sweep.updated", put("/sweeps/{}", {"name": "new"}), {"name": "w"}, {"name": "new"}),
    Change("sweep.updated", act("/sweeps/{}/start?parallel=2"), {"parallel": None}, {"parallel": 2}),
    Change("sweep.started", act("/sweeps/{}/start?parallel=2"), None, {"parallel": 2}),
    Change("sweep.stop_requested", act("/sweeps/{}/stop"), None, None),
]


def check(service: InProcess, subject: str, change: Change) -> None:
    change.do(service, subject.partition(":")[2])
    (event,) = [event for event in about(service, subject) if event["kind"] == change.kind]
    assert event["actor"] == ME
    for shown, expected in ((event["before"], change.before), (event["after"], change.after)):
        if expected is None:
            assert shown is None
        else:
            assert {name: shown[name] for name in expected} == expected
    if change.before is not None:
        assert set(event["before"]) == set(event["after"])


@pytest.mark.parametrize("change", OF_RUNS, ids=lambda change: change.kind)
def test_each_change_of_a_run_is_told(shared: InProcess, change: Change) -> None:
    check(shared, f"run:{make(shared)}", change)


@pytest.mark.parametrize("change", OF_SWEEPS, ids=lambda change: change.kind)
def test_each_change_of_a_sweep_is_told(shared: InProcess, change: Change) -> None:
    check(shared, f"sweep:{shared.post('/sweeps/wild', {'name': 'w', 'goal': 'g'})['id']}", change)


def test_a_stop_is_told_as_a_wish_and_as_an_end(shared: InProcess) -> None:
    waiting = make(shared, depends_on=[make(shared)], auto_start=True)
    shared.post(f"/runs/{waiting}/stop")
    last = shared.events(waiting)[-1]
    assert (last["kind"], last["actor"], last["after"]["status"]) == ("run.stopped", ME, "stopped")
    going = shared.run("while :; do sleep 0.05; done")["id"]
    shared.until(going, "running")
    shared.post(f"/runs/{going}/stop")
    shared.over(going)
    told = {event["kind"]: event for event in shared.events(going)}
    assert told["run.stop_requested"]["actor"] == ME
    assert told["run.stop_requested"]["before"]["stop_requested_at"] is None
    assert told["run.stopped"]["actor"] == "service"


def test_the_life_of_a_plan_is_told(shared: InProcess) -> None:
    plan = shared.post("/plans", {"title": "t", "goal": "g", "raw_markdown": ""})["id"]
    shared.http.patch(f"/plans/{plan}", json={"title": "u"}).raise_for_status()
    for action in ("approve", "execute", "complete", "archive"):
        shared.post(f"/plans/{plan}/{action}")
    shared.http.delete(f"/plans/{plan}").raise_for_status()
    events = about(shared, f"plan:{plan}")
    words = ["created", "updated", "approved", "executing", "completed", "archived", "deleted"]
    assert [event["kind"] for event in events] == [f"plan.{word}" for word in words]
    assert {event["actor"] for event in events} == {ME}
    assert events[0]["before"] is None
    assert (events[1]["before"]["title"], events[1]["after"]["title"]) == ("t", "u")
    assert [event["after"]["status"] for event in events[2:6]] == words[2:6]
    assert (events[6]["before"]["title"], events[6]["after"]) == ("u", None)


def test_alerts_are_told(shared: InProcess) -> None:
    run = make(shared)
    alert = shared.post(f"/runs/{run}/alerts", {"message": "m", "choices": ["a"], "severity": "info"})["alert_id"]
    shared.post(f"/alerts/{alert}/respond", {"choice": "a"})
    created, resolved = about(shared, f"alert:{alert}")
    assert (created["kind"], created["after"]["run_id"], created["message"]) == ("alert.created", run, "m")
    assert (resolved["kind"], resolved["before"]["response"], resolved["after"]["response"]) == (
        "alert.resolved",
        None,
        "a",
    )


def test_what_changes_nothing_is_not_told(shared: InProcess) -> None:
    run = make(shared)
    before = shared.journal()
    shared.http.put(f"/runs/{run}", json={"name": "x"}).raise_for_status()
    shared.http.put(f"/runs/{run}", json={}).raise_for_status()
    shared.post(f"/runs/{run}/unarchive")
    for path in ("/runs", "/sweeps", "/plans", "/cluster", f"/runs/{run}"):
        shared.get(path)
    assert shared.journal() == before


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_runs_events_are_read_in_pages(shared: InProcess) -> None:
    run = make(shared)
    for number in range(5):
        shared.http.put(f"/runs/{run}", json={"name": str(number)}).raise_for_status()
    every = shared.events(run)
    seen: list[Json] = []
    after = 0
    while page := shared.get(f"/runs/{run}/events", after=after, limit=2):
        assert len(page) <= 2
        seen += page
        after = page[-1]["id"]
    assert seen == every
    assert len(every) == 6
    assert shared.refused("GET", "/runs/nope/events")[0] == 404


def test_the_latest_events_are_the_newest(shared: InProcess) -> None:
    run = make(shared)
    shared.post(f"/runs/{run}/archive")
    found = shared.get("/events/latest", limit=20)  # others' too
    assert [event["kind"] for event in found if event["subject"] == f"run:{run}"] == ["run.created", "run.archived"]
    assert [event["id"] for event in found] == sorted(event["id"] for event in found)


class Stream:
    """Server-sent events, read one after the other."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def take(self) -> tuple[int, str, Json]:
        """The next event: its id, its name, its data."""
        fields: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif "data" in fields:
                return int(fields["id"]), fields["event"], dict(json.loads(fields["data"]))
            elif not line:
                fields = {}
        raise AssertionError("the stream ended")


def test_a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice(real: RealServer) -> None:
    real.post("/plans", {"title": "before", "goal": "g"})
    begin = real.get("/events/latest", limit=1)[0]["id"]
    seen: list[tuple[int, str, Json]] = []

    def change() -> None:
        for number in range(100):
            run = real.post("/runs", {"name": str(number), "command": "true", "tags": ["x"]})
            real.post(f"/runs/{run['id']}/archive")

    writer = threading.Thread(target=change)
    last = begin
    for wanted in (1, 70, 110, 200):
        headers = {"Last-Event-ID": str(last)}
        with real.http.stream("GET", "/events", headers=headers, timeout=20.0) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            stream = Stream(answer.iter_lines())
            if last == begin:
                writer.start()
            while len(seen) < wanted:
                seen.append(stream.take())
                last = seen[-1][0]
    writer.join()
    stored = [event for event in real.get("/events/latest", limit=1000) if begin < event["id"] <= last]
    assert [event for _, _, event in seen] == stored
    assert [(number, kind) for number, kind, _ in seen] == [(event["id"], event["kind"]) for event in stored]
    assert len({event["id"] for event in stored}) == len(stored) == 200


def test_a_reader_may_begin_anywhere_and_is_told_at_once(real: RealServer) -> None:
    old = real.post("/plans", {"title": "old", "goal": "g"})["id"]
    with real.http.stream("GET", "/events?after=0", timeout=10.0) as answer:
        stream = Stream(answer.iter_lines())
        first = [stream.take()[2]]
        while first[-1]["subject"] != f"plan:{old}":
            first.append(stream.take()[2])
    assert first == real.get("/events/latest", limit=1000)[: len(first)]
    with real.http.stream("GET", "/events", timeout=10.0) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(":")  # it follows from here on
        new = real.post("/plans", {"title": "new", "goal": "g"})["id"]
        number, kind, event = Stream(lines).take()
    assert (kind, event["subject"]) == ("plan.created", f"plan:{new}")
    assert number > first[-1]["id"]


# "²" is a digit to str.isdigit() and no number to int().
@pytest.mark.parametrize("text", ["²", FAR, "-1", "x"])
def test_a_strange_last_event_id_is_refused_or_passed_over(real: RealServer, text: str) -> None:
    headers = [(b"Last-Event-ID", text.encode("latin-1"))]
    with real.http.stream("GET", "/events", headers=headers, timeout=4.0 if text == FAR else 10.0) as answer:
        if answer.status_code == 422:
            return
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        plan = real.post("/plans", {"title": "t", "goal": "g"})["id"]
        if text == FAR:
            with pytest.raises(httpx2.ReadTimeout):  # until that event there is nothing to tell
                Stream(lines).take()
        else:
            assert Stream(lines).take()[2]["subject"] == f"plan:{plan}"


def test_a_reader_that_goes_away_leaves_nothing_behind(real: RealServer) -> None:
    assert real.process is not None
    folder = Path(f"/proc/{real.process.pid}/fd")
    before = len(list(folder.iterdir()))
    for _ in range(20):
        with real.http.stream("GET", "/events", timeout=10.0) as answer:
            next(answer.iter_lines())
    real.post("/plans", {"title": "t", "goal": "g"})
    wait_until(lambda: len(list(folder.iterdir())) < before + 10, "the streams' descriptors")


# -- for good ----------------------------------------------------------------------------------------------------------

COLUMNS = "id, at, actor, kind, subject, message"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'nobody'",
        "UPDATE events SET message = 'x' WHERE id = 1",
        "DELETE FROM events",
        "DELETE FROM events WHERE id = (SELECT max(id) FROM events)",
        f"INSERT OR REPLACE INTO events ({COLUMNS}) SELECT id, 0, 'x', 'x', 'x', 'x' FROM events LIMIT 1",
        f"INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM events WHERE true ON CONFLICT (id) DO UPDATE SET at = 0",
    ],
)
def test_no_statement_changes_the_journal(shared: InProcess, statement: str) -> None:
    # SQLite fires no DELETE trigger for the rows that REPLACE takes away, unless recursive_triggers is on.
    make(shared)
    before = shared.get("/events/latest", limit=900)
    with closing(sqlite3.connect(shared.settings.home / "orc.db")) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
        connection.rollback()
    after = shared.get("/events/latest", limit=1000)  # alerts of the service's own may have come meanwhile
    assert all(event in after for event in before)
