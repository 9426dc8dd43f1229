"""What runs leave, over HTTP: logs byte by byte, metrics while they grow, artifacts that no browser executes."""

import json
import math
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Calls, InProcess, Json, RealServer, in_process, real_server
from tests.support.waiting import wait_until

MAX_PAGE = 100 * 1024


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service: each test looks at its own runs."""
    with in_process(tmp_path_factory.mktemp("shared") / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[InProcess]:
    """One for this test."""
    with in_process(tmp_path / "home") as found:
        yield found


@pytest.fixture
def gate(service: InProcess, tmp_path: Path) -> Iterator[Path]:
    """A file that runs wait for; made at the end at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()
    wait_until(lambda: not service.get("/runs", status=["launching", "running"]), "the runs behind the gate")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A real server, for streams."""
    with real_server(tmp_path_factory.mktemp("real") / "home") as found:
        yield found


def wait_for(gate: Path) -> str:
    return f"while [ ! -e {shlex.quote(str(gate))} ]; do sleep 0.02; done"


def finished(service: Calls, command: str) -> str:
    """The id of a run that has finished."""
    over = service.over(service.run(command)["id"])
    assert over["status"] == "finished", over["error"]
    return str(over["id"])


def with_log(service: InProcess, content: bytes) -> str:
    """The id of a run with this log."""
    source = service.settings.home / "content"
    source.write_bytes(content)
    return finished(service, f"cat {shlex.quote(str(source))}")


def page(service: Calls, run_id: str, offset: int, limit: int) -> Json:
    return dict(service.get(f"/runs/{run_id}/logs", offset=offset, limit=limit))


def frames(answer: Any) -> Iterator[Json]:
    """The JSON of each event of a stream."""
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "limit", "content", "begin", "before", "after"),
    [
        (0, 4, "0123", 0, False, True),
        (4, 4, "4567", 4, True, True),
        (8, 4, "89", 8, True, False),
        (0, 10, "0123456789", 0, False, False),
        (-3, 10, "789", 7, True, False),
        (-3, 2, "78", 7, True, True),
        (-100, 5, "01234", 0, False, True),
        (10, 5, "", 10, True, False),
        (99, 5, "", 10, True, False),
        (-(10**15), 10**15, "0123456789", 0, False, False),
    ],
)
def test_a_page_is_what_was_asked_for(
    ten: tuple[InProcess, str], offset: int, limit: int, content: str, begin: int, before: bool, after: bool
) -> None:
    found = page(*ten, offset, limit)
    assert (found["content"], found["offset"], found["total_size"]) == (content, begin, 10)
    assert (found["has_more_before"], found["has_more_after"]) == (before, after)


@pytest.fixture(scope="module")
def ten(service: InProcess) -> tuple[InProcess, str]:
    """A run whose log is 0123456789."""
    return service, finished(service, "printf 0123456789")


def test_without_an_offset_the_end_is_shown(service: InProcess) -> None:
    run_id = with_log(service, b"".join(b"%07d\n" % number for number in range(2000)))
    found = service.get(f"/runs/{run_id}/logs")
    assert (found["offset"], found["total_size"], len(found["content"])) == (6000, 16000, 10_000)
    assert found["content"].endswith("0001999\n")
    assert found["has_more_before"]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused(ten: tuple[InProcess, str], limit: int) -> None:
    service, run_id = ten
    assert service.http.get(f"/runs/{run_id}/logs?limit={limit}").status_code == 422


def test_no_page_is_longer_than_a_hundred_kib(service: InProcess) -> None:
    run_id = with_log(service, b"x" * 250_000)
    for offset, rest in ((0, MAX_PAGE), (-250_000, MAX_PAGE), (200_000, 50_000)):
        found = page(service, run_id, offset, 10**9)
        assert len(found["content"]) == rest
        assert found["has_more_after"] is (rest == MAX_PAGE)


TEXT = "a é 数 🙂 é" * 3 + "🙂"


@pytest.fixture(scope="module")
def text(service: InProcess) -> tuple[InProcess, str]:
    """A run whose log is TEXT."""
    return service, with_log(service, TEXT.encode())


@pytest.mark.parametrize("limit", range(1, 8))
def test_no_character_is_cut_or_lost_between_pages(text: tuple[InProcess, str], limit: int) -> None:
    by_step = [page(*text, start, limit)["content"] for start in range(0, len(TEXT.encode()), limit)]
    assert "".join(by_step) == TEXT
    from_end = [page(*text, start, limit)["content"] for start in range(-len(TEXT.encode()), 0, limit)]
    assert "".join(from_end) == TEXT


@pytest.mark.parametrize("limit", range(4, 8))
def test_the_next_page_begins_where_this_one_ends(text: tuple[InProcess, str], limit: int) -> None:
    shown, offset, more = "", 0, True
    while more:
        found = page(*text, offset, limit)
        assert found["offset"] == offset
        shown, offset, more = shown + found["content"], offset + len(found["content"].encode()), found["has_more_after"]
    assert shown == TEXT


def test_bytes_that_are_no_text_lose_nothing_around_them(service: InProcess) -> None:
    data = b"one\xff\xfetwo\xc3three\xe6\x95\x81\x80\x80four\xf0\x9f"
    run_id = with_log(service, data)
    whole = page(service, run_id, 0, 1000)["content"]
    for limit in (4, 5, 7):
        text = "".join(page(service, run_id, start, limit)["content"] for start in range(0, len(data), limit))
        letters = [part for part in text.split("\ufffd") if part]
        assert "".join(letters) == "onetwothree敁four"
    assert whole.startswith("one\ufffd\ufffdtwo\ufffdthree敁")


def test_a_run_without_a_log_has_an_empty_one(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    found = service.get(f"/runs/{run['id']}/logs")
    assert (found["content"], found["total_size"], found["has_more_after"]) == ("", 0, False)
    assert service.get(f"/runs/{run['id']}/logs", attempt=7)["total_size"] == 0
    assert service.http.get(f"/runs/{run['id']}/logs", params={"attempt": 10**300}).status_code < 500


# -- the stream --------------------------------------------------------------------------------------------------------


def test_a_running_runs_log_is_streamed_as_it_grows(real: RealServer, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    command = (
        f"printf 'first \\xe6\\x95'; {wait_for(one)}; printf '\\xb0 second'; {wait_for(two)}; echo ' last'; exit 3"
    )
    run = real.run(command)
    wait_until(lambda: page(real, run["id"], 0, 100)["total_size"] == 8)
    with real.http.stream("GET", f"/runs/{run['id']}/logs/stream", timeout=10.0) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        seen = []
        for frame in frames(answer):
            seen.append(frame)
            text = "".join(frame.get("content", "") for frame in seen)
            if text == "first ":
                one.touch()
            if text == "first 数 second":
                two.touch()
    assert seen[0]["type"] == "initial"
    assert {frame["type"] for frame in seen[1:-1]} == {"delta"}
    assert "".join(frame.get("content", "") for frame in seen) == "first 数 second last\n"
    assert (seen[-1]["type"], seen[-1]["status"]) == ("done", "failed")
    assert real.status(run["id"]) == "failed"


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 250_000, "数".encode() * 80_000, b"cut \xe6\x95", b"\xff"])
def test_the_stream_of_a_run_that_is_over_shows_it_and_ends(service: InProcess, content: bytes) -> None:
    run_id = with_log(service, content)
    answer = service.http.get(f"/runs/{run_id}/logs/stream")
    seen = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    kinds = [frame["type"] for frame in seen]
    assert kinds == ["initial", *["delta"] * (len(seen) - 2), "done"]
    assert "".join(frame.get("content", "") for frame in seen) == content.decode("utf-8", "replace")
    assert seen[-1]["status"] == "finished"


def test_a_replacement_character_of_the_commands_own_is_shown_at_once(real: RealServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = real.run(f"printf 'ready \\xef\\xbf\\xbd'; {wait_for(gate)}")
    wait_until(lambda: page(real, run["id"], 0, 100)["total_size"] == 9)
    try:
        with real.http.stream("GET", f"/runs/{run['id']}/logs/stream", timeout=5.0) as answer:
            assert next(frames(answer))["content"] == "ready \ufffd"
    finally:
        gate.touch()


def test_the_stream_of_an_unknown_run_is_not_found(service: InProcess) -> None:
    status, detail = service.refused("GET", "/runs/nope/logs/stream")
    assert status == 404
    assert "nope" in detail


# -- metrics -----------------------------------------------------------------------------------------------------------


def summary(service: Calls, run_id: str, key: str) -> Json:
    """What is known of one metric, {} for nothing."""
    return dict(service.get(f"/runs/{run_id}/metrics").get("metricSummary", {}).get(key, {}))


def test_a_growing_file_is_read_line_by_whole_line(service: InProcess, gate: Path) -> None:
    rows = '{"loss": 1.5, "step": 0}\n{"loss": NaN, "step": 1}\n{"loss": 1e400, "step": 2}\nno row\n{"loss": 0.'
    command = (
        f"printf '%s' '{rows}' >> $ORC_METRICS_FILE; {wait_for(gate)}; echo '25, \"step\": 3}}' >> $ORC_METRICS_FILE"
    )
    run = service.post("/runs", {"name": "x", "command": command})
    assert service.get(f"/runs/{run['id']}/metrics") == {}
    assert "metricSeries" not in service.get(f"/runs/{run['id']}")
    service.post(f"/runs/{run['id']}/start")
    going = service.counted(run["id"], "loss", 3)
    assert going["status"] == "running"
    assert going["metricSeries"]["loss"] == [
        {"step": 0, "value": 1.5},
        {"step": 1, "value": None},
        {"step": 2, "value": None},
    ]
    gate.touch()
    service.over(run["id"])
    over = service.counted(run["id"], "loss", 4)
    assert over["metricKeys"] == ["loss"]
    assert over["metrics"]["loss"] == 0.25
    assert over["metricSeries"]["loss"][-1] == {"step": 3, "value": 0.25}
    known = summary(service, run["id"], "loss")
    assert (known["count"], known["nonfinite"], known["min"], known["max"]) == (4, 2, 0.25, 1.5)


def test_the_last_row_counts_without_its_newline(service: InProcess) -> None:
    run_id = finished(service, """printf '{"loss": 2}\\n{"loss": 1}' >> $ORC_METRICS_FILE""")
    service.counted(run_id, "loss", 2)


# No database takes half of a surrogate pair: one such key must not stop what is done for all runs.
def test_a_strange_key_holds_nobody_up(alone: InProcess) -> None:
    runs = []
    for row in ('{"\\ud800": 1}', '{"a": {"\\udfff": 1}}', '{"\\u0000": 1}', '{"": 1}'):
        command = f"printf '%s\\n' {shlex.quote(row)} '{{\"loss\": 0.5}}' >> $ORC_METRICS_FILE"
        runs.append(alone.run(command)["id"])
    for run_id in runs:
        assert alone.over(run_id)["status"] == "finished"
        assert alone.counted(run_id, "loss", 1)["metrics"]["loss"] == 0.5
    assert alone.http.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "row",
    ["[1, 2]", '"text"', "{", "NaN", "9" * 5000, "[" * 5000, '{"a": ' * 3000, "\x00\x01", "null", '{"loss": "0.5"}'],
    ids=range(10),
)
def test_a_line_that_is_no_row_is_passed_over(service: InProcess, row: str) -> None:
    source = service.settings.home / "rows"
    source.write_text(f'{row}\n{{"loss": 0.5}}\n')
    run_id = finished(service, f"cat {shlex.quote(str(source))} >> $ORC_METRICS_FILE")
    service.counted(run_id, "loss", 1)


def test_posted_rows_count(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    rows = [{"step": n, "loss": 1 / (n + 1), "val": {"acc": n / 10}, "note": "text", "done": True} for n in range(5)]
    assert service.post(f"/runs/{run['id']}/metrics", {"rows": rows[:3]}) == {"appended": 3}
    assert service.post(f"/runs/{run['id']}/metrics", {"rows": rows[3:]}) == {"appended": 2}
    assert service.post(f"/runs/{run['id']}/metrics", {"rows": []}) == {"appended": 0}
    found = service.get(f"/runs/{run['id']}/metrics")
    assert found["metricKeys"] == ["loss", "val/acc"]
    assert [point["step"] for point in found["metricSeries"]["loss"]] == [0, 1, 2, 3, 4]
    assert [point["value"] for point in found["metricSeries"]["val/acc"]] == [0, 0.1, 0.2, 0.3, 0.4]
    assert found["metrics"] == {"loss": 0.2, "accuracy": None, "epoch": None}
    shown = service.get(f"/runs/{run['id']}")
    assert {name: shown[name] for name in found} == found
    assert "metricSeries" not in service.get("/runs")[0]


def test_posted_and_written_rows_count_together(service: InProcess) -> None:
    run_id = finished(service, """echo '{"loss": 1, "step": 1}' >> $ORC_METRICS_FILE""")
    service.counted(run_id, "loss", 1)
    service.post(f"/runs/{run_id}/metrics", {"rows": [{"loss": 0.5, "step": 2}, {"accuracy": 0.9, "epoch": 3}]})
    found = service.get(f"/runs/{run_id}/metrics")
    assert [point["value"] for point in found["metricSeries"]["loss"]] == [1, 0.5]
    assert found["metrics"] == {"loss": 0.5, "accuracy": 0.9, "epoch": 3}


def test_posted_numbers_that_are_none_are_values_too(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    body = (
        b'{"rows": [{"loss": NaN}, {"loss": -Infinity}, {"loss": 1e400}, {"loss": ' + b"9" * 400 + b'}, {"loss": 1}]}'
    )
    headers = {"Content-Type": "application/json"}
    answer = service.http.post(f"/runs/{run['id']}/metrics", content=body, headers=headers)
    assert answer.json() == {"appended": 5}
    known = summary(service, run["id"], "loss")
    assert (known["count"], known["nonfinite"], known["last"]) == (5, 4, 1)


@pytest.mark.parametrize("body", [{}, {"rows": 1}, {"rows": [1]}, {"rows": ["x"]}, {"rows": {"a": 1}}, {"rows": None}])
def test_rows_that_are_none_are_refused(service: InProcess, body: Json) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    status, detail = service.refused("POST", f"/runs/{run['id']}/metrics", body)
    assert status == 422
    assert "rows" in detail[0]["loc"]
    assert service.get(f"/runs/{run['id']}/metrics") == {}


def test_a_long_series_is_thinned_with_its_spike_kept(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    spike, hole = 13_577, 17_001
    values = [math.sin(step / 500) for step in range(25_000)]
    values[spike], values[hole] = 1000.0, -1000.0
    for start in range(0, len(values), 10_000):
        rows = [{"step": step, "loss": values[step]} for step in range(start, min(start + 10_000, len(values)))]
        service.post(f"/runs/{run['id']}/metrics", {"rows": rows})
    points = service.get(f"/runs/{run['id']}")["metricSeries"]["loss"]
    assert 100 <= len(points) <= 400
    assert {"step": spike, "value": 1000.0} in points
    assert {"step": hole, "value": -1000.0} in points
    assert points[0] == {"step": 0, "value": 0.0}
    assert points[-1]["step"] == len(values) - 1
    assert [point["step"] for point in points] == sorted(point["step"] for point in points)
    assert summary(service, run["id"], "loss")["count"] == len(values)


# -- artifacts ---------------------------------------------------------------------------------------------------------


def test_artifacts_are_listed_and_served(service: InProcess) -> None:
    run_id = finished(
        service,
        "cd $ORC_ARTIFACTS_DIR; mkdir -p 'a b/größe'; echo x > 'a b/größe/x.bin'; echo '{}' > m.json; touch e.pt",
    )
    listed = service.get(f"/runs/{run_id}/artifacts")
    assert [item["name"] for item in listed] == ["e.pt", "m.json", "a b/größe/x.bin"]
    assert [item["type"] for item in listed] == ["model", "data", "other"]
    for item in listed:
        assert Path(item["path"]).is_file()
        answer = service.http.get(f"/runs/{run_id}/artifacts/{item['name']}")
        assert answer.content == Path(item["path"]).read_bytes()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]


EXECUTABLE = ("page.html", "image.svg", "x.xhtml", "x.js", "x.xml", "noname", "x.htm", "x.mhtml")


@pytest.fixture(scope="module")
def artifacts(service: InProcess) -> str:
    """The artifacts' address of a run with files of every kind."""
    run_id = finished(
        service,
        f"""
        cd $ORC_ARTIFACTS_DIR
        mkdir folder; mkfifo fifo; ln -s /etc/passwd link; ln -s /etc folder-link; ln -s loop loop
        echo x > x.txt; printf 0123456789 > x.bin
        for name in {" ".join(EXECUTABLE)}; do echo '<script>alert(1)</script>' > $name; done
        """,
    )
    return f"/runs/{run_id}/artifacts"


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=4-", 206, b"456789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=5-100", 206, b"56789"),
        ("bytes=20-", 416, None),
    ],
)
def test_a_part_of_an_artifact_is_served(
    service: InProcess, artifacts: str, wanted: str, status: int, content: bytes | None
) -> None:
    answer = service.http.get(f"{artifacts}/x.bin", headers={"Range": wanted})
    assert answer.status_code == status
    assert content is None or answer.content == content
    assert answer.headers["Content-Range"].endswith("/10")


@pytest.mark.parametrize("name", EXECUTABLE)
def test_nothing_is_served_that_a_browser_would_execute(service: InProcess, artifacts: str, name: str) -> None:
    answer = service.http.get(f"{artifacts}/{name}")
    assert answer.text == "<script>alert(1)</script>\n"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("sandbox")


OUTSIDE = ("..%2f..%2f..%2ftoken", "%2e%2e/%2e%2e/%2e%2e/token", "a/..%2f..%2fcommand.sh", "%2fetc%2fpasswd")
NO_FILES = ("link", "folder-link/passwd", "folder", "nothing", "fifo", "%2e", "x.txt/y", "n" * 255)
STRANGE = ("%00", "a%00b", "n" * 300, "loop", "loop/x")


@pytest.mark.parametrize("name", [*OUTSIDE, *NO_FILES, *STRANGE])
def test_what_is_no_artifact_is_not_found(service: InProcess, artifacts: str, name: str) -> None:
    assert service.http.get(f"{artifacts}/x.txt").content == b"x\n"
    answer = service.http.get(f"{artifacts}/{name}")
    assert answer.status_code == 404
    assert answer.json()["detail"]
    assert service.http.get(artifacts).status_code == 200


def test_a_name_that_is_no_text_hides_no_other_artifact(service: InProcess) -> None:
    run_id = finished(service, "cd $ORC_ARTIFACTS_DIR; touch good.txt $'bad-\\xff.txt'")
    answer = service.http.get(f"/runs/{run_id}/artifacts")
    assert answer.status_code == 200
    assert "good.txt" in [item["name"] for item in answer.json()]


# -- a run directory that went away ------------------------------------------------------------------------------------

READS = ("", "/logs", "/logs?offset=0", "/logs/stream", "/metrics", "/artifacts", "/events")


def test_a_deleted_run_directory_breaks_nothing(service: InProcess) -> None:
    command = """echo out; echo '{"loss": 1}' >> $ORC_METRICS_FILE; echo x > $ORC_ARTIFACTS_DIR/x.txt"""
    run_id = finished(service, command)
    service.counted(run_id, "loss", 1)
    shutil.rmtree(service.get(f"/runs/{run_id}")["run_dir"])
    for path in READS:
        assert service.http.get(f"/runs/{run_id}{path}").status_code == 200, path
    assert service.log(run_id) == ""
    assert service.get(f"/runs/{run_id}/artifacts") == []
    assert service.http.get(f"/runs/{run_id}/artifacts/x.txt").status_code == 404
    assert service.get(f"/runs/{run_id}")["metrics"]["loss"] == 1
    assert service.post(f"/runs/{run_id}/metrics", {"rows": [{"loss": 0.5}]}) == {"appended": 1}
    again = service.post(f"/runs/{run_id}/rerun", {"auto_start": True})
    assert service.over(again["id"])["status"] == "finished"


@pytest.mark.parametrize("end", ["by itself", "stopped"])
def test_a_run_whose_directory_goes_away_ends_all_the_same(service: InProcess, gate: Path, end: str) -> None:
    run = service.run(wait_for(gate))
    service.until(run["id"], "running")
    shutil.rmtree(service.get(f"/runs/{run['id']}")["run_dir"])
    for path in READS:
        if path != "/logs/stream":
            assert service.http.get(f"/runs/{run['id']}{path}").status_code == 200, path
    assert service.status(run["id"]) == "running"
    if end == "stopped":
        service.post(f"/runs/{run['id']}/stop")
        assert service.over(run["id"])["status"] == "stopped"
    else:
        gate.touch()
        over = service.over(run["id"])
        assert (over["status"], over["reason"]) == ("failed", "LOST")
    other = service.run("true")
    assert service.over(other["id"])["status"] == "finished"
    assert service.http.get("/readyz").status_code == 200
