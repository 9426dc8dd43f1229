"""Rows of metrics from what a run writes, counted once each, into the database.

Sources: ``$ORC_METRICS_FILE`` and rows POSTed (which are appended to it), wandb's files in the run directory.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from orchestrator.models import Metric, MetricSource
from orchestrator.thinning import Series

STEP_NAMES = ("step", "_step", "global_step", "trainer/global_step", "epoch")
POSTED = "posted"  # the source of rows that came over HTTP; its offset counts rows
CHUNK = 2**20
MAX_KEYS = 2000
MAX_KEY_LENGTH = 500

Row = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """What was new in a file: its rows, and how far it has been read (bytes)."""

    path: str
    rows: list[Row]
    offset: int
    bad: int = 0


def read_lines(path: Path, offset: int, *, over: bool = False) -> Reading | None:
    """New whole lines of a JSON-lines file; half a line stays for the next look. None when nothing is new.

    A line longer than CHUNK is passed over, whole. Where the writer is ``over``, the last line needs no newline.
    """
    try:
        size = path.stat().st_size
        if size < offset:
            offset = 0  # it was written anew
        if size == offset:
            return None
        with path.open("rb") as file:
            file.seek(max(0, offset - 1))
            inside = offset > 0 and file.read(1) != b"\n"
            data = file.read(CHUNK)
    except OSError:
        return None
    end = len(data) if over and len(data) < CHUNK else data.rfind(b"\n") + 1
    if end == 0:
        return Reading(str(path), [], offset + len(data), 0 if inside else 1) if len(data) == CHUNK else None
    begin = data.find(b"\n") + 1 if inside else 0
    rows, bad = parse_lines(data[begin:end].splitlines())
    return Reading(str(path), rows, offset + end, bad)


def parse_lines(lines: Iterable[bytes]) -> tuple[list[Row], int]:
    """The rows, and how many lines were none. NaN, Infinity and 1e400 are values like others."""
    rows: list[Row] = []
    bad = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    return rows, bad


def numbers(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numeric values of a row; nested ones as ``outer/inner``."""
    for key, value in row.items():
        name = f"{prefix}{key}"[:MAX_KEY_LENGTH].encode("utf-8", "replace").decode().replace("\0", "?")
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield name, _float(value)
        elif isinstance(value, dict) and prefix.count("/") < 4:
            yield from numbers(value, f"{name}/")
        elif value in ("NaN", "Infinity", "-Infinity"):  # as wandb writes them
            yield name, float(value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def step_of(row: Row, default: int) -> float:
    """A row's step: what it calls so itself, else its number."""
    for name in STEP_NAMES:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(_float(value)):
            return _float(value)
    return float(default)


def source_offset(session: Session, run_id: str, path: str) -> int:
    """How far (bytes) this file of the run has been read."""
    source = session.get(MetricSource, (run_id, path))
    return 0 if source is None else source.offset


@dataclass(frozen=True)
class Aggregate:
    """A reading's rows counted into what was stored before: ready to be written if that is still so."""

    run_id: str
    reading: Reading
    expected_offset: int
    rows_before: int
    bad_before: int
    counts_before: dict[str, int]
    metrics: list[dict[str, Any]]


def aggregate(session: Session, run_id: str, reading: Reading, expected_offset: int) -> Aggregate:
    """Counts a reading's rows. The work of it, which can be done outside the writer."""
    source = session.get(MetricSource, (run_id, reading.path))
    rows_before, bad_before = (source.rows, source.bad_rows) if source else (0, 0)
    stored = {
        metric.key: metric.model_dump() for metric in session.exec(select(Metric).where(col(Metric.run_id) == run_id))
    }
    counts_before = {key: metric["count"] for key, metric in stored.items()}
    touched: dict[str, Series] = {}
    for number, row in enumerate(reading.rows, start=rows_before):
        step = step_of(row, number)
        for key, value in numbers(row):
            if key in STEP_NAMES[:4] or key.startswith("_"):
                continue
            if key not in stored:
                if len(stored) >= MAX_KEYS:
                    continue
                stored[key] = Metric(run_id=run_id, key=key).model_dump()
            if key not in touched:
                touched[key] = Series.load(stored[key]["series"])
            _count(stored[key], step, value)
            touched[key].add(step, value)
    now = time.time()
    changed = [stored[key] | {"series": series.dump(), "updated_at": now} for key, series in touched.items()]
    return Aggregate(run_id, reading, expected_offset, rows_before, bad_before, counts_before, changed)


def write(session: Session, counted: Aggregate) -> bool:
    """Writes what was counted, unless something else was counted meanwhile (False: to be counted again)."""
    run_id, reading = counted.run_id, counted.reading
    source = session.get(MetricSource, (run_id, reading.path)) or MetricSource(run_id=run_id, path=reading.path)
    if source.offset != counted.expected_offset:
        return False
    for values in counted.metrics:
        metric = session.get(Metric, (run_id, values["key"])) or Metric(run_id=run_id, key=values["key"])
        if metric.count != counted.counts_before.get(values["key"], 0):
            session.expunge_all()
            return False
    for values in counted.metrics:
        metric = session.get(Metric, (run_id, values["key"])) or Metric(run_id=run_id, key=values["key"])
        for name, value in values.items():
            setattr(metric, name, value)
        session.add(metric)
    source.offset, source.rows = reading.offset, counted.rows_before + len(reading.rows)
    source.bad_rows = counted.bad_before + reading.bad
    session.add(source)
    return True


def store(session: Session, run_id: str, reading: Reading, expected_offset: int) -> int:
    """Counts and writes in one go. The number of rows added: none where another was first."""
    return len(reading.rows) if write(session, aggregate(session, run_id, reading, expected_offset)) else 0


def append(session: Session, run_id: str, rows: list[Row]) -> int:
    """Adds rows that came over HTTP. The number of rows added."""
    taken = source_offset(session, run_id, POSTED)
    return store(session, run_id, Reading(POSTED, rows, taken + len(rows)), taken)


def _count(metric: dict[str, Any], step: float, value: float) -> None:
    metric["count"] += 1
    metric["last_step"] = step
    if not math.isfinite(value):
        metric["nonfinite"] += 1
        metric["last"] = None
        return
    metric["last"] = value
    metric["min"] = value if metric["min"] is None else min(metric["min"], value)
    metric["max"] = value if metric["max"] is None else max(metric["max"], value)


def public(session: Session, run_id: str) -> dict[str, Any]:
    """``metricSeries``, ``metricKeys``, ``metrics`` of the wire, and ours: ``metricSummary``; {} without any."""
    found = session.exec(select(Metric).where(col(Metric.run_id) == run_id).order_by(col(Metric.key))).all()
    if not found:
        return {}
    by_key = {metric.key: metric for metric in found}
    return {
        "metricSeries": {metric.key: _series(metric) for metric in found},
        "metricKeys": list(by_key),
        "metrics": {
            "loss": _first(by_key, ("loss", "train/loss", "train_loss", "val_loss", "val/loss")),
            "accuracy": _first(
                by_key, ("accuracy", "acc", "val_acc", "val/accuracy", "val_accuracy", "train/accuracy")
            ),
            "epoch": _first(by_key, ("epoch", "train/epoch")),
        },
        "metricSummary": {
            metric.key: {
                "last": metric.last,
                "min": metric.min,
                "max": metric.max,
                "count": metric.count,
                "nonfinite": metric.nonfinite,
                "last_step": metric.last_step,
            }
            for metric in found
        },
    }


def _series(metric: Metric) -> list[dict[str, float | None]]:
    points = Series.load(metric.series).points()
    return [{"step": step, "value": value if math.isfinite(value) else None} for step, value in points]


def _first(by_key: dict[str, Metric], names: Iterable[str]) -> float | None:
    return next((by_key[name].last for name in names if name in by_key), None)
