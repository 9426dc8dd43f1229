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
CHUNK = 4 * 2**20
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


def read_lines(path: Path, offset: int) -> Reading | None:
    """New whole lines of a JSON-lines file; half a line stays for the next look. None when nothing is new."""
    try:
        size = path.stat().st_size
        if size < offset:
            offset = 0  # it was written anew
        if size == offset:
            return None
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(CHUNK)
    except OSError:
        return None
    end = data.rfind(b"\n") + 1
    if end == 0:
        return Reading(str(path), [], offset + len(data), 1) if len(data) == CHUNK else None
    rows, bad = parse_lines(data[:end].splitlines())
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
        name = f"{prefix}{key}"[:MAX_KEY_LENGTH]
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


def store(session: Session, run_id: str, reading: Reading, expected_offset: int) -> int:
    """Adds a reading's rows to the run's metrics, unless another did so meanwhile. The number of rows added."""
    source = session.get(MetricSource, (run_id, reading.path)) or MetricSource(run_id=run_id, path=reading.path)
    if source.offset != expected_offset:
        return 0
    metrics = {metric.key: metric for metric in session.exec(select(Metric).where(col(Metric.run_id) == run_id))}
    series = {key: Series.load(metric.series) for key, metric in metrics.items()}
    touched: set[str] = set()
    for row in reading.rows:
        source.rows += 1
        step = step_of(row, source.rows - 1)
        for key, value in numbers(row):
            if key in STEP_NAMES[:4] or key.startswith("_"):
                continue
            if key not in metrics:
                if len(metrics) >= MAX_KEYS:
                    continue
                metrics[key], series[key] = Metric(run_id=run_id, key=key), Series()
            _count(metrics[key], step, value)
            series[key].add(step, value)
            touched.add(key)
    for key in touched:
        metrics[key].series = series[key].dump()
        metrics[key].updated_at = time.time()
        session.add(metrics[key])
    source.offset, source.bad_rows = reading.offset, source.bad_rows + reading.bad
    session.add(source)
    return len(reading.rows)


def append(session: Session, run_id: str, rows: list[Row]) -> int:
    """Adds rows that came over HTTP. The number of rows added."""
    taken = source_offset(session, run_id, POSTED)
    return store(session, run_id, Reading(POSTED, rows, taken + len(rows)), taken)


def _count(metric: Metric, step: float, value: float) -> None:
    metric.count += 1
    metric.last_step = step
    if not math.isfinite(value):
        metric.nonfinite += 1
        metric.last = None
        return
    metric.last = value
    metric.min = value if metric.min is None else min(metric.min, value)
    metric.max = value if metric.max is None else max(metric.max, value)


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


def last_values(session: Session, run_ids: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """The last value of every metric of several runs, in one query."""
    found: dict[str, dict[str, float | None]] = {}
    for metric in session.exec(select(Metric).where(col(Metric.run_id).in_(list(run_ids)))):
        found.setdefault(metric.run_id, {})[metric.key] = metric.last
    return found
