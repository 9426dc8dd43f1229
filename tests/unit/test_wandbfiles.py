"""The reader of wandb's files, held against what the real SDK writes and against the SDK's own classes."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import metrics, wandbfiles
from orchestrator.metrics import Reading, Row
from orchestrator.wandbfiles import BLOCK, FILE_HEADER, FRAME, FULL, MAGIC, WandbReader, read_log

HEADER = MAGIC + b"\xa1\x2b\x00"
BIG = 1500  # values in the row that is larger than a block
LOGGED = r"""
import json, sys
import wandb

rows = json.loads(sys.argv[1])
run = wandb.init(project="test", settings=wandb.Settings(
    console="off", x_disable_stats=True, x_disable_machine_info=True, x_disable_meta=True, disable_git=True))
for row in rows:
    run.log(row)
run.log({"late": 1}, step=50)
run.finish()
"""
ROWS: list[Row] = [
    {"loss": 1.5, "acc": 0, "count": 3, "negative": -7, "huge": 2**40, "tiny": 1e-300},
    {"loss": math.nan, "up": math.inf, "down": -math.inf},
    {"train": {"loss": 0.25, "deep": {"er": 2}}, "val/loss": 0.5, "é ✓": 4, "with.dot": 5},
    {"name": "text", "ok": True, "off": False, "nothing": None, "list": [1, 2.5], "empty": {}},
    {"loss": 0.75, "big": {f"value_{number:05}": number * 1.1 for number in range(BIG)}},
    *({"loss": 1 / (number + 1), "text": "x" * (number % 11)} for number in range(40)),
]


@dataclass(frozen=True)
class Recorded:
    """A run that the SDK recorded: its WANDB_DIR, its file, and what is in the file."""

    folder: Path
    file: Path
    data: bytes


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """One run by the real SDK, offline, in a process of its own."""
    folder = tmp_path_factory.mktemp("wandb")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "COV_"))} | {
        "HOME": str(folder / "home"),
        "WANDB_DIR": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    argv = [sys.executable, "-c", LOGGED, json.dumps(ROWS)]
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    [file] = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return Recorded(folder, file, file.read_bytes())


@pytest.fixture(scope="session")
def sdk() -> Any:
    """The SDK's own protobuf classes."""
    from wandb.proto import wandb_internal_pb2  # late: half a second, for the tests that need it

    return wandb_internal_pb2


def flat(row: Row, prefix: str = "") -> Row:
    """A row as wandb stores it: nested dicts as paths, empty ones not at all."""
    found: Row = {}
    for name, value in row.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def without_clock(rows: list[Row]) -> list[Row]:
    """The rows without what wandb adds of its own accord."""
    return [{name: row[name] for name in row if name not in {"_timestamp", "_runtime"}} for row in rows]


def in_order(rows: list[Row]) -> list[str]:
    """For comparing: NaN is equal to nothing, and the order within a row says nothing."""
    return [repr(sorted((name, _plain(value)) for name, value in row.items())) for row in rows]


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def expected_rows() -> list[Row]:
    rows = [flat(row) | {"_step": step} for step, row in enumerate(ROWS)]
    return [*rows, {"late": 1, "_step": 50}]


def all_of(reader: WandbReader, path: Path, offset: int = 0) -> tuple[list[Row], int, int]:
    """Every row from ``offset`` on, where the reading ended, and how many bad records there were."""
    rows: list[Row] = []
    bad = 0
    while (reading := reader.read(path, offset)) is not None:
        assert reading.offset > offset
        rows, offset, bad = rows + reading.rows, reading.offset, bad + reading.bad
    return rows, offset, bad


def framed(records: list[bytes]) -> bytes:
    """The records as a LevelDB log after wandb's header (leveldb's doc/log_format.md); the reader checks no sums."""
    data = bytearray(HEADER)
    for record in records:
        rest, first = record, True
        while rest or first:
            room = BLOCK - len(data) % BLOCK
            if room < FRAME.size:
                data += bytes(room)
                continue
            part, rest = rest[: room - FRAME.size], rest[room - FRAME.size :]
            kind = (FULL if first else 4) if not rest else (2 if first else 3)
            data += FRAME.pack(0, len(part), kind) + part
            first = False
    return bytes(data)


def history(sdk: Any, *items: Any, step: int | None = None) -> bytes:
    """A history record, written by the SDK's own class."""
    record = sdk.Record(history=sdk.HistoryRecord(item=items))
    if step is not None:
        record.history.step.num = step
    return bytes(record.SerializeToString())


def number(sdk: Any, value: int) -> bytes:
    return history(sdk, sdk.HistoryItem(key="n", value_json=str(value)))


# -- what the SDK wrote ------------------------------------------------------------------------------------------------


def test_the_rows_are_those_that_were_logged(recorded: Recorded) -> None:
    assert len(recorded.data) > 2 * BLOCK  # so that rows span blocks
    rows, offset, bad = all_of(WandbReader(), recorded.file)
    assert in_order(without_clock(rows)) == in_order(expected_rows())
    assert (offset, bad) == (len(recorded.data), 0)


def test_every_record_reads_as_the_sdks_own_classes_read_it(recorded: Recorded, sdk: Any) -> None:
    records = [record for record, _ in wandbfiles._records(recorded.data[FILE_HEADER:], FILE_HEADER)]
    kinds = set()
    for data in records:
        record = sdk.Record()
        record.ParseFromString(data)
        kinds.add(record.WhichOneof("record_type"))
        rows = list(wandbfiles._history(data))
        if not record.HasField("history"):
            assert rows == []
            continue
        told = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if record.history.HasField("step"):
            assert told.setdefault("_step", record.history.step.num) == record.history.step.num
        assert in_order(rows) == in_order([told])
    assert {"history", "run", "summary", "exit"} <= kinds
    assert max(map(len, records)) > BLOCK


def test_a_file_that_grows_gives_every_row_once(recorded: Recorded, tmp_path: Path) -> None:
    path, data = tmp_path / "run-x.wandb", recorded.data
    ends = [FILE_HEADER + end for _, end in wandbfiles._records(data[FILE_HEADER:], FILE_HEADER)]
    near = {place + shift for place in [*ends, *range(0, len(data), BLOCK)] for shift in range(-9, 10)}
    cuts = sorted({*range(3000), *near, *range(0, len(data), 499), len(data)} & set(range(len(data) + 1)))
    rows: list[Row] = []
    offset = 0
    with path.open("wb", buffering=0) as growing:
        for before, cut in pairwise([0, *cuts]):
            growing.write(data[before:cut])
            if (reading := read_log(path, offset)) is not None:
                assert reading.offset in ends
                rows, offset = rows + reading.rows, reading.offset
    assert in_order(without_clock(rows)) == in_order(expected_rows())
    assert offset == len(data)


def test_a_row_is_there_as_soon_as_its_record_is_whole(recorded: Recorded, tmp_path: Path) -> None:
    path, data = tmp_path / "run-x.wandb", recorded.data
    ends = [0, *(FILE_HEADER + end for _, end in wandbfiles._records(data[FILE_HEADER:], FILE_HEADER))]
    for start, end in pairwise(ends):
        path.write_bytes(data[: end - 1])
        assert read_log(path, start) is None
        path.write_bytes(data[:end])
        reading = read_log(path, start)
        assert reading is not None
        assert (reading.offset, reading.bad) == (end, 0)


def test_a_file_longer_than_a_chunk_is_read_in_several_looks(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(len(record) for record, _ in wandbfiles._records(recorded.data[FILE_HEADER:], FILE_HEADER))
    monkeypatch.setattr(wandbfiles, "CHUNK", longest + 1000)
    first = read_log(recorded.file, 0)
    assert first is not None
    assert first.offset < len(recorded.data)
    rows, offset, _ = all_of(WandbReader(), recorded.file)
    assert in_order(without_clock(rows)) == in_order(expected_rows())
    assert offset == len(recorded.data)


def test_a_record_longer_than_a_chunk_holds_nothing_up(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    # A row of 100,000 values, say, or its summary.
    monkeypatch.setattr(wandbfiles, "CHUNK", BLOCK)
    rows, offset, _ = all_of(WandbReader(), recorded.file)
    assert without_clock(rows)[-1] == {"late": 1, "_step": 50}
    assert offset == len(recorded.data)


def test_the_metrics_of_a_recorded_run_are_numbers_with_their_steps(recorded: Recorded) -> None:
    rows, _, _ = all_of(WandbReader(), recorded.file)
    assert metrics.step_of(rows[-1], 0) == 50.0
    found = dict(metrics.numbers(rows[2]))
    assert (found["train/loss"], found["train/deep/er"], found["val/loss"]) == (0.25, 2.0, 0.5)
    assert math.isnan(dict(metrics.numbers(rows[1]))["loss"])


# -- the format --------------------------------------------------------------------------------------------------------


def test_items_in_every_form_of_the_protocol_are_read(sdk: Any, tmp_path: Path) -> None:
    path = tmp_path / "run-x.wandb"
    item = sdk.HistoryItem
    items = [
        item(key="plain", value_json="0.5"),
        item(nested_key=["one"], value_json="1"),
        item(nested_key=["train", "loss"], value_json="NaN"),
        item(key="number", number=-2.5),
        item(key="integer", integer=-(2**40)),
        item(key="positive", integer=7),
        item(key="zero", integer=0),
        item(key="json", json=b"[1, 2]"),
        item(key="text", value_json='"é"'),
    ]
    path.write_bytes(framed([history(sdk, *items, step=3)]))
    [row] = (read_log(path, 0) or Reading("", [], 0)).rows
    assert in_order([row]) == in_order(
        [
            {
                "plain": 0.5,
                "one": 1,
                "train/loss": math.nan,
                "number": -2.5,
                "integer": -(2**40),
                "positive": 7,
                "zero": 0,
                "json": [1, 2],
                "text": "é",
                "_step": 3,
            }
        ]
    )


@given(st.lists(st.integers(0, 3 * BLOCK) | st.integers(BLOCK - 60, BLOCK + 10), max_size=8), st.integers(0, 40))
@settings(max_examples=40)
def test_records_of_any_length_come_back_wherever_blocks_end(lengths: list[int], pad: int) -> None:
    records = [bytes([position % 251]) * (length + pad) for position, length in enumerate(lengths)]
    data = framed(records)[FILE_HEADER:]
    found = list(wandbfiles._records(data, FILE_HEADER))
    assert [record for record, _ in found] == records
    for (_, start), (record, end) in pairwise([(b"", 0), *found]):  # each can be read on from where the last one ended
        assert next(wandbfiles._records(data[start:end], FILE_HEADER + start)) == (record, end - start)


@pytest.mark.parametrize("room", range(12))
def test_a_record_after_the_padding_at_a_blocks_end_is_found(sdk: Any, tmp_path: Path, room: int) -> None:
    path = tmp_path / "run-x.wandb"
    length = BLOCK - room - FILE_HEADER - FRAME.size
    around = len(sdk.Record(uuid="x" * 30_000).SerializeToString()) - 30_000
    record = bytes(sdk.Record(uuid="x" * (length - around)).SerializeToString())
    assert len(record) == length
    path.write_bytes(framed([record, number(sdk, 1), number(sdk, 2)]))
    first = read_log(path, 0)
    assert first is not None
    assert (first.rows, first.bad) == ([{"n": 1}, {"n": 2}], 0)
    again = read_log(path, BLOCK - room)
    assert again is not None
    assert again.rows == [{"n": 1}, {"n": 2}]


# -- what is no such file, or broken -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b":W", HEADER, HEADER[:-1], b"no wandb file at all", bytes(100), HEADER + bytes(50)]
)
def test_what_holds_no_record_has_nothing_new(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run-x.wandb"
    path.write_bytes(content)
    assert read_log(path, 0) is None
    assert read_log(path, 1000) is None


@pytest.mark.parametrize("kind", [0, 9, FULL])
def test_a_hole_or_a_broken_frame_costs_no_memory(tmp_path: Path, kind: int) -> None:
    # What is no frame is not the beginning of a long record.
    path = tmp_path / "run-x.wandb"
    path.write_bytes(HEADER + FRAME.pack(0, 10, kind) + bytes(10 if kind == FULL else 0))
    os.truncate(path, 200 * 2**20)  # a hole, as a lost file server leaves it
    tracemalloc.start()
    try:
        first = read_log(path, 0)
        assert read_log(path, first.offset if first else 0) is None
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_a_missing_file_and_a_directory_have_nothing_new(tmp_path: Path) -> None:
    assert read_log(tmp_path / "run-x.wandb", 0) is None
    assert read_log(tmp_path, 0) is None


def test_a_link_that_leads_in_a_circle_is_no_crash(tmp_path: Path) -> None:
    # Path.resolve raises RuntimeError for it (before Python 3.13).
    folder = tmp_path / "wandb" / "run-20260101_000000-a"
    folder.mkdir(parents=True)
    (folder / "run-a.wandb").symlink_to("run-a.wandb")
    reader = WandbReader()
    assert [reader.read(path, 0) for path in reader.files(tmp_path, None)] in ([], [None])


def test_a_fifo_in_a_wandb_files_place_blocks_nobody(tmp_path: Path) -> None:
    # open() would wait for a writer.
    path = tmp_path / "run-x.wandb"
    os.mkfifo(path)
    got: list[Reading | None] = []
    reader = threading.Thread(target=lambda: got.append(read_log(path, 0)), daemon=True)
    reader.start()
    reader.join(10)
    held_up = reader.is_alive()
    if held_up:  # let it go
        os.close(os.open(path, os.O_WRONLY))
        reader.join()
    assert (held_up, got) == (False, [None])


@given(st.data())
@settings(max_examples=60)
def test_a_truncated_or_corrupt_tail_is_no_crash(recorded: Recorded, data: st.DataObject) -> None:
    whole = recorded.data[: data.draw(st.integers(0, 6000), label="kept")]
    tail = data.draw(st.binary(max_size=80), label="tail")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run-x.wandb"
        path.write_bytes(whole + tail)
        rows, _, _ = all_of(WandbReader(), path)
        path.write_bytes(whole)
        good, _, _ = all_of(WandbReader(), path)
    assert in_order(rows[: len(good)]) == in_order(good)


@given(st.data())
@settings(max_examples=60)
def test_a_corrupt_record_is_no_crash_and_the_next_one_is_read(sdk: Any, data: st.DataObject) -> None:
    record = bytearray(history(sdk, sdk.HistoryItem(nested_key=["a", "b"], value_json="1.5"), step=4))
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run-x.wandb"
        path.write_bytes(framed([number(sdk, 1), bytes(record), number(sdk, 2)]))
        reading = read_log(path, 0)
    assert reading is not None
    assert (reading.rows[0], reading.rows[-1]) == ({"n": 1}, {"n": 2})
    assert reading.bad <= 1


@pytest.mark.parametrize(
    "broken",
    [
        b"\x12\xff\xff\xff\xff\x0f",  # a history longer than its record
        b"\x12",
        b"\x80",
        b"\xff" * 100,
        b"\x13\x00",  # a wire type that is none
        b"\x12\x04\x0a\x02\x0a\xff",  # an item whose name runs past its end
        b"\x12\x05\x0a\x03\x0a\x01\xff",  # a name that is no UTF-8
        b"\x12\x08\x0a\x06\x0a\x01a\x82\x01\x01{"[:12],
    ],
)
def test_a_broken_record_is_counted_and_passed_over(sdk: Any, tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "run-x.wandb"
    path.write_bytes(framed([number(sdk, 1), broken, number(sdk, 2)]))
    reading = read_log(path, 0)
    assert reading is not None
    assert (reading.rows, reading.bad) == ([{"n": 1}, {"n": 2}], 1)


def test_json_nested_too_deep_is_a_bad_record(sdk: Any, tmp_path: Path) -> None:
    # json.loads raises RecursionError, which is no ValueError.
    path = tmp_path / "run-x.wandb"
    deep = history(sdk, sdk.HistoryItem(key="deep", value_json="[" * 100_000))
    path.write_bytes(framed([number(sdk, 1), deep, number(sdk, 2)]))
    reading = read_log(path, 0)
    assert reading is not None
    assert (reading.rows, reading.bad) == ([{"n": 1}, {"n": 2}], 1)


# -- the older form, and where files are -------------------------------------------------------------------------------


def test_the_older_history_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "wandb-history.jsonl"
    path.write_text('{"loss": 1, "_step": 0}\n{"loss": NaN, "_step": 1}\n{"loss"')
    rows, offset, bad = all_of(WandbReader(), path)
    assert in_order(rows) == in_order([{"loss": 1, "_step": 0}, {"loss": math.nan, "_step": 1}])
    assert (offset, bad) == (50, 0)


@pytest.fixture
def run_dir(recorded: Recorded, tmp_path: Path) -> Path:
    """A run's directory with what the SDK left below WANDB_DIR, its links too."""
    shutil.copytree(recorded.folder / "wandb", tmp_path / "run" / "wandb", symlinks=True)
    return tmp_path / "run"


def test_a_runs_file_is_found_once_in_spite_of_the_link_to_the_latest(run_dir: Path) -> None:
    assert (run_dir / "wandb" / "latest-run").is_symlink()
    [file] = WandbReader().files(run_dir, None)
    assert file.suffix == ".wandb"


@pytest.mark.parametrize("named", [".", "wandb", "wandb/latest-run", "wandb/offline-run"])
def test_a_file_is_found_once_whatever_directory_the_run_names(run_dir: Path, named: str) -> None:
    [file] = WandbReader().files(run_dir, None)
    folder = file.parent if named.endswith("offline-run") else run_dir / named
    assert WandbReader().files(run_dir, str(folder)) == [file]
    assert WandbReader().files(run_dir.parent / "elsewhere", str(folder)) == [file]


def test_online_offline_and_older_runs_are_all_found(tmp_path: Path) -> None:
    names = [
        "wandb/run-20260101_000000-a/run-a.wandb",
        "wandb/offline-run-20260102_000000-b/run-b.wandb",
        "wandb/dryrun-20190101_000000-c/wandb-history.jsonl",
    ]
    for name in [*names, "wandb/run-20260101_000000-a/files/config.yaml", "wandb/debug.log"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(WandbReader().files(tmp_path, None)) == sorted((tmp_path / name).resolve() for name in names)


def test_a_run_without_wandb_has_no_files(tmp_path: Path) -> None:
    assert WandbReader().files(tmp_path, None) == []
    assert WandbReader().files(tmp_path / "none", str(tmp_path / "neither")) == []


@pytest.mark.parametrize("named", ["x" * 300, "/" + "y" * 5000, "a\0b", "/dev/null", ""])
def test_a_directory_that_cannot_be_is_no_crash(tmp_path: Path, named: str) -> None:
    # POST /runs/{id}/status takes any.
    assert WandbReader().files(tmp_path, named) == []
