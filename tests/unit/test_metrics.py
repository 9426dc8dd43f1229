"""Rows of metrics: read line by line as the file grows, counted once each, shown as the wire wants them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import Session, col, select

from orchestrator import metrics
from orchestrator.db import Database
from orchestrator.errors import StorageError
from orchestrator.metrics import Reading, Row, numbers, parse_lines, public, read_lines, source_offset, step_of, store
from orchestrator.migrate import migrate
from orchestrator.models import Metric, MetricSource


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One real database for the module; every test has a run of its own."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('db')}/orc.db")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Database]:
    """A database of the test's own, for what may break its writer."""
    database = Database(f"sqlite:///{tmp_path}/own/orc.db")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def run() -> str:
    return uuid4().hex[:12]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def take(db: Database, run: str, path: Path) -> int:
    """One look at the file, as the collector does it: the number of rows added."""
    with db.read() as session:
        offset = source_offset(session, run, str(path))
    reading = read_lines(path, offset)
    return 0 if reading is None else db.write(lambda session: store(session, run, reading, offset))


def add(db: Database, run: str, rows: list[Row]) -> int:
    return db.write(lambda session: metrics.append(session, run, rows))


def found(db: Database, run: str) -> dict[str, Metric]:
    with db.read() as session:
        return {metric.key: metric for metric in session.exec(select(Metric).where(col(Metric.run_id) == run))}


def shown(db: Database, run: str) -> dict[str, Any]:
    with db.read() as session:
        return public(session, run)


def rows_of(reading: Reading | None) -> list[Row]:
    assert reading is not None
    return reading.rows


# -- lines -------------------------------------------------------------------------------------------------------------


def test_whole_lines_are_read_and_half_a_line_waits(file: Path) -> None:
    file.write_bytes(b'{"loss": 1}\n{"loss": 2}\n{"lo')
    first = read_lines(file, 0)
    assert first == Reading(str(file), [{"loss": 1}, {"loss": 2}], 24, 0)
    assert read_lines(file, 24) is None
    with file.open("ab") as more:
        more.write(b'ss": 3}\n')
    assert rows_of(read_lines(file, 24)) == [{"loss": 3}]


def test_a_file_that_is_missing_empty_unchanged_or_a_directory_has_nothing_new(file: Path, tmp_path: Path) -> None:
    assert read_lines(file, 0) is None
    file.touch()
    assert read_lines(file, 0) is None
    file.write_bytes(b"{}\n")
    assert read_lines(file, 3) is None
    assert read_lines(tmp_path, 0) is None


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=8))
@settings(max_examples=30)
def test_a_file_that_grows_byte_by_byte_gives_every_row_once(rows: list[Row]) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    got: list[Row] = []
    offset = 0
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        with path.open("wb", buffering=0) as growing:
            for position in range(len(data)):
                growing.write(data[position : position + 1])
                reading = read_lines(path, offset)
                if reading is not None:
                    got += reading.rows
                    offset = reading.offset
    assert (got, offset) == (rows, len(data))


def test_a_file_that_was_written_anew_and_shorter_is_read_from_its_beginning(file: Path) -> None:
    file.write_bytes(b'{"loss": 1}\n' * 10)
    first = read_lines(file, 0)
    assert first is not None
    file.write_bytes(b'{"loss": 2}\n')
    assert read_lines(file, first.offset) == Reading(str(file), [{"loss": 2}], 12, 0)


def test_lines_that_are_no_rows_are_counted_and_passed_over() -> None:
    lines = [
        b"garbage",
        b"[1, 2]",
        b"3",
        b'"text"',
        b"null",
        b'{"a": 1',
        b'{"a": \xff}',
        b'{"loss": 1}',
        b"",
        b"  ",
        b"\0",
    ]
    assert parse_lines(lines) == ([{"loss": 1}], 8)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": 1' + b"0" * 5000 + b"}"])
def test_a_line_that_no_parser_takes_is_a_bad_one(line: bytes) -> None:
    assert parse_lines([line, b'{"loss": 1}']) == ([{"loss": 1}], 1)


def test_windows_line_ends_are_line_ends(file: Path) -> None:
    file.write_bytes(b'{"loss": 1}\r\n{"loss": 2}\r\n')
    assert read_lines(file, 0) == Reading(str(file), [{"loss": 1}, {"loss": 2}], 26, 0)


def test_a_long_file_is_read_in_chunks_of_whole_lines(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 64)
    rows = [{"loss": number} for number in range(100)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got: list[Row] = []
    offset, looks = 0, 0
    while (reading := read_lines(file, offset)) is not None:
        got, offset, looks = got + reading.rows, reading.offset, looks + 1
    assert got == rows
    assert looks > 10


@pytest.mark.parametrize("length", [63, 64, 65, 128, 200, 1000])
def test_a_line_longer_than_a_chunk_is_bad_and_holds_nothing_up(
    file: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 64)
    file.write_bytes(b'{"loss": 1}\n' + b"x" * length + b'\n{"loss": 2}\n')
    got: list[Row] = []
    offset, bad = 0, 0
    while (reading := read_lines(file, offset)) is not None:
        got, offset, bad = got + reading.rows, reading.offset, bad + reading.bad
    assert got == [{"loss": 1}, {"loss": 2}]
    assert offset == file.stat().st_size
    assert bad >= 1


def test_the_end_of_a_line_longer_than_a_chunk_is_no_row(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 64)
    file.write_bytes(b"progress " + b"." * 55 + b'{"loss": 99}\n{"loss": 1}\n')
    got: list[Row] = []
    offset = 0
    while (reading := read_lines(file, offset)) is not None:
        got, offset = got + reading.rows, reading.offset
    assert got == [{"loss": 1}]


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"loss": 0.5, "step": 3}', {"loss": 0.5, "step": 3.0}),
        ('{"loss": NaN}', {"loss": math.nan}),
        ('{"loss": Infinity, "low": -Infinity}', {"loss": math.inf, "low": -math.inf}),
        ('{"loss": 1e400, "low": -1e400}', {"loss": math.inf, "low": -math.inf}),
        ('{"loss": "NaN", "a": "Infinity", "b": "-Infinity"}', {"loss": math.nan, "a": math.inf, "b": -math.inf}),
        ('{"ok": true, "off": false, "name": "x", "none": null, "list": [1, 2]}', {}),
        ('{"text": "1.5", "nan": "nan"}', {}),
        ('{"big": 1%s}' % ("0" * 400), {"big": math.inf}),
        ('{"big": -1%s}' % ("0" * 400), {"big": -math.inf}),
        ('{"train": {"loss": 1, "deep": {"x": 2}}, "y": 3}', {"train/loss": 1.0, "train/deep/x": 2.0, "y": 3.0}),
        ('{"train": {"ok": true, "nan": NaN}}', {"train/nan": math.nan}),
        ("{}", {}),
    ],
)
def test_what_counts_as_a_number(line: str, expected: dict[str, float]) -> None:
    rows, bad = parse_lines([line.encode()])
    assert bad == 0
    assert repr(dict(numbers(rows[0]))) == repr(expected)


def test_a_row_nested_without_end_is_cut_and_no_crash() -> None:
    row: Row = {"x": 1}
    for _ in range(900):
        row = {"a": row, "x": 1}
    assert [name for name, _ in numbers(row)][-1] == "x"
    assert max(name.count("/") for name, _ in numbers(row)) <= 5


def test_a_name_is_bounded() -> None:
    [(name, value)] = numbers({"n" * 10_000: 1})
    assert (name, value) == ("n" * metrics.MAX_KEY_LENGTH, 1.0)


@pytest.mark.parametrize(
    ("row", "step"),
    [
        ({"step": 3, "_step": 4, "epoch": 5}, 3.0),
        ({"_step": 4, "global_step": 5}, 4.0),
        ({"global_step": 5, "epoch": 1}, 5.0),
        ({"trainer/global_step": 6, "epoch": 1}, 6.0),
        ({"epoch": 2, "loss": 1}, 2.0),
        ({"loss": 1}, 77.0),
        ({"step": True, "loss": 1}, 77.0),
        ({"step": "3"}, 77.0),
        ({"step": None, "epoch": 2}, 2.0),
        ({"step": math.nan, "_step": 8}, 8.0),
        ({"step": 10**400, "epoch": 1.5}, 1.5),
        ({"step": -1}, -1.0),
    ],
)
def test_a_rows_step_is_what_it_calls_so_else_its_number(row: Row, step: float) -> None:
    assert step_of(row, 77) == step


# -- counting ----------------------------------------------------------------------------------------------------------


def test_rows_are_counted_once_however_often_one_looks(db: Database, run: str, file: Path) -> None:
    file.write_text('{"loss": 3}\n{"loss": 1}\n{"lo')
    assert take(db, run, file) == 2
    assert take(db, run, file) == 0
    file.write_text('{"loss": 3}\n{"loss": 1}\n{"loss": 2}\n')
    assert take(db, run, file) == 1
    loss = found(db, run)["loss"]
    assert (loss.count, loss.last, loss.min, loss.max, loss.nonfinite) == (3, 2.0, 1.0, 3.0, 0)
    assert loss.last_step == 2.0


def test_a_reading_that_another_has_stored_meanwhile_stores_nothing(db: Database, run: str, file: Path) -> None:
    file.write_text('{"loss": 3}\n')
    reading = read_lines(file, 0)
    assert reading is not None
    assert db.write(lambda session: store(session, run, reading, 0)) == 1
    assert db.write(lambda session: store(session, run, reading, 0)) == 0
    assert db.write(lambda session: store(session, run, reading, 7)) == 0
    assert found(db, run)["loss"].count == 1
    with db.read() as session:
        assert source_offset(session, run, str(file)) == 12


def test_a_first_reading_from_a_wrong_place_stores_nothing(db: Database, run: str, file: Path) -> None:
    reading = Reading(str(file), [{"loss": 1.0}], 24)
    assert db.write(lambda session: store(session, run, reading, 12)) == 0
    assert found(db, run) == {}


def test_a_file_written_anew_counts_its_rows_as_further_ones(db: Database, run: str, file: Path) -> None:
    file.write_text('{"loss": 3}\n{"loss": 1}\n')
    take(db, run, file)
    file.write_text('{"loss": 7}\n')
    assert take(db, run, file) == 1
    assert take(db, run, file) == 0
    loss = found(db, run)["loss"]
    assert (loss.count, loss.last, loss.min, loss.max) == (3, 7.0, 1.0, 7.0)


def test_what_was_counted_before_another_source_was_written_is_counted_again(db: Database, run: str) -> None:
    reading = Reading("a.jsonl", [{"loss": 1.0}, {"acc": 1.0}], 24, 3)
    with db.read() as session:
        early = metrics.aggregate(session, run, reading, 0)
    add(db, run, [{"loss": 5.0}])
    assert not db.write(lambda session: metrics.write(session, early))
    assert {key: metric.count for key, metric in found(db, run).items()} == {"loss": 1}
    with db.read() as session:
        assert source_offset(session, run, "a.jsonl") == 0
        late = metrics.aggregate(session, run, reading, 0)
    assert db.write(lambda session: metrics.write(session, late))
    assert not db.write(lambda session: metrics.write(session, late))
    assert {key: metric.count for key, metric in found(db, run).items()} == {"acc": 1, "loss": 2}
    with db.read() as session:
        source = session.get(MetricSource, (run, "a.jsonl"))
    assert source is not None
    assert (source.offset, source.rows, source.bad_rows) == (24, 2, 3)


def test_what_is_refused_takes_nothing_of_the_same_write_with_it(db: Database, run: str) -> None:
    other = f"{run}x"
    with db.read() as session:
        good = metrics.aggregate(session, run, Reading("a.jsonl", [{"loss": 1.0}], 12), 0)
        stale = metrics.aggregate(session, other, Reading("a.jsonl", [{"loss": 1.0}], 12), 0)
    add(db, other, [{"loss": 5.0}])
    assert db.write(lambda session: [metrics.write(session, good), metrics.write(session, stale)]) == [True, False]
    assert (found(db, run)["loss"].count, found(db, other)["loss"].count) == (1, 1)
    with db.read() as session:
        assert (source_offset(session, run, "a.jsonl"), source_offset(session, other, "a.jsonl")) == (12, 0)


def test_two_files_of_a_run_are_counted_apart_and_added_up(db: Database, run: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"loss": 1}\n')
        assert take(db, run, tmp_path / name) == 1
    assert add(db, run, [{"loss": 2}]) == 1
    assert found(db, run)["loss"].count == 3


def test_runs_do_not_mix(db: Database, run: str) -> None:
    other = f"{run}x"
    add(db, run, [{"loss": 1}])
    add(db, other, [{"loss": 2}, {"loss": 3}])
    assert (found(db, run)["loss"].count, found(db, other)["loss"].count) == (1, 2)
    assert (found(db, run)["loss"].last, found(db, other)["loss"].last) == (1.0, 3.0)
    assert found(db, "none") == {}


def test_bad_lines_are_remembered(db: Database, run: str, file: Path) -> None:
    file.write_text('garbage\n{"loss": 1}\n')
    take(db, run, file)
    with file.open("a") as more:
        more.write("more garbage\n")
    assert take(db, run, file) == 0
    with db.read() as session:
        source = session.get(MetricSource, (run, str(file)))
    assert source is not None
    assert (source.rows, source.bad_rows, source.offset) == (1, 2, file.stat().st_size)


def test_last_min_max_and_what_is_not_finite(db: Database, run: str) -> None:
    add(db, run, [{"loss": 2.0}, {"loss": math.nan}, {"loss": -1.0}, {"loss": math.inf}])
    loss = found(db, run)["loss"]
    assert (loss.count, loss.min, loss.max, loss.nonfinite, loss.last) == (4, -1.0, 2.0, 2, None)
    add(db, run, [{"loss": 0.5}])
    loss = found(db, run)["loss"]
    assert (loss.count, loss.nonfinite, loss.last, loss.last_step) == (5, 2, 0.5, 4.0)


def test_a_metric_that_was_never_finite_has_no_extremes(db: Database, run: str) -> None:
    add(db, run, [{"loss": "NaN"}, {"loss": -math.inf}])
    loss = found(db, run)["loss"]
    assert (loss.count, loss.nonfinite, loss.min, loss.max, loss.last) == (2, 2, None, None, None)


def test_step_names_are_steps_and_epoch_is_a_metric_too(db: Database, run: str) -> None:
    add(db, run, [{"step": 5, "_step": 6, "global_step": 7, "_runtime": 1.5, "epoch": 2, "loss": 1}])
    assert set(found(db, run)) == {"epoch", "loss"}
    assert {metric.last_step for metric in found(db, run).values()} == {5.0}


def test_rows_without_a_step_are_numbered_on(db: Database, run: str) -> None:
    add(db, run, [{"loss": 1}, {"acc": 1}])
    add(db, run, [{"loss": 2}])
    assert shown(db, run)["metricSeries"]["loss"] == [{"step": 0.0, "value": 1.0}, {"step": 2.0, "value": 2.0}]


def test_no_run_has_more_metrics_than_the_bound(db: Database, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_KEYS", 5)
    assert add(db, run, [{f"a{number}": number for number in range(10)}]) == 1
    assert add(db, run, [{"late": 1, "a0": 7}]) == 1
    assert set(found(db, run)) == {"a0", "a1", "a2", "a3", "a4"}
    assert (found(db, run)["a0"].count, found(db, run)["a0"].last) == (2, 7.0)


def test_a_key_that_no_database_can_hold_takes_nothing_with_it(own: Database, run: str, file: Path) -> None:
    # Half of a surrogate pair is valid JSON, and no text.
    file.write_text('{"\\ud800": 1, "loss": 2, "nested": {"\\udfff": 3}}\n')
    reading = read_lines(file, 0)
    assert reading is not None
    assert own.writer.submit(lambda session: store(session, run, reading, 0)).result(10) == 1
    assert found(own, run)["loss"].last == 2.0


def test_a_write_that_fails_counts_nothing(own: Database, run: str) -> None:
    def failing(session: Session) -> None:
        metrics.append(session, run, [{"loss": 1}])
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        own.writer.submit(failing).result(10)
    assert found(own, run) == {}
    assert own.writer.submit(lambda session: metrics.append(session, run, [{"loss": 1}])).result(10) == 1


def test_a_write_that_the_database_refuses_fails_alone(own: Database, run: str) -> None:
    # It shows only as the savepoint ends, when it is flushed.
    add(own, run, [{"loss": 1}])

    def twice(session: Session) -> str:
        session.add(Metric(run_id=run, key="loss"))
        return "done"

    with pytest.raises(StorageError):
        own.writer.submit(twice).result(10)
    assert own.writer.submit(lambda session: metrics.append(session, run, [{"loss": 2}])).result(10) == 1
    assert found(own, run)["loss"].count == 2


# -- the wire ----------------------------------------------------------------------------------------------------------


def test_a_run_without_metrics_shows_none(db: Database, run: str) -> None:
    assert shown(db, run) == {}


def test_what_the_wire_shows(db: Database, run: str) -> None:
    add(db, run, [{"step": 1, "train/loss": 2.5, "acc": 0.5, "epoch": 0}, {"step": 2, "train/loss": "NaN", "epoch": 1}])
    assert shown(db, run) == {
        "metricSeries": {
            "acc": [{"step": 1.0, "value": 0.5}],
            "epoch": [{"step": 1.0, "value": 0.0}, {"step": 2.0, "value": 1.0}],
            "train/loss": [{"step": 1.0, "value": 2.5}, {"step": 2.0, "value": None}],
        },
        "metricKeys": ["acc", "epoch", "train/loss"],
        "metrics": {"loss": None, "accuracy": 0.5, "epoch": 1.0},
        "metricSummary": {
            "acc": {"last": 0.5, "min": 0.5, "max": 0.5, "count": 1, "nonfinite": 0, "last_step": 1.0},
            "epoch": {"last": 1.0, "min": 0.0, "max": 1.0, "count": 2, "nonfinite": 0, "last_step": 2.0},
            "train/loss": {"last": None, "min": 2.5, "max": 2.5, "count": 2, "nonfinite": 1, "last_step": 2.0},
        },
    }


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"loss": 1, "train/loss": 2, "val_loss": 3}, {"loss": 1.0, "accuracy": None, "epoch": None}),
        ({"val/loss": 3, "val/accuracy": 0.5}, {"loss": 3.0, "accuracy": 0.5, "epoch": None}),
        ({"train": {"loss": 2, "epoch": 4}}, {"loss": 2.0, "accuracy": None, "epoch": 4.0}),
        ({"lr": 1}, {"loss": None, "accuracy": None, "epoch": None}),
    ],
)
def test_loss_accuracy_and_epoch_are_found_under_their_usual_names(
    db: Database, run: str, row: Row, expected: dict[str, float | None]
) -> None:
    add(db, run, [row])
    assert shown(db, run)["metrics"] == expected


def test_long_series_are_shown_thinned_and_as_plain_json(db: Database, run: str) -> None:
    rows: list[Row] = [{"loss": math.nan if number == 700 else float(number % 97)} for number in range(1000)]
    rows[500]["loss"] = 1e9
    add(db, run, rows[:333])
    add(db, run, rows[333:])
    answer = shown(db, run)
    series = answer["metricSeries"]["loss"]
    assert len(series) <= 400
    assert series[0] == {"step": 0.0, "value": 0.0}
    assert series[-1] == {"step": 999.0, "value": 999.0 % 97}
    assert {"step": 500.0, "value": 1e9} in series
    assert {"step": 700.0, "value": None} in series
    assert answer["metricSummary"]["loss"]["count"] == 1000
    json.dumps(answer, allow_nan=False)
