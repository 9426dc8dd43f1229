"""A metric's series in bounded memory, spikes kept: M4 over doubling buckets, as the rows come in.

Each bucket keeps its first, lowest, highest, last and first non-finite point (M4: Jugel et al., VLDB 2014,
with one more for NaN and infinities, which are what one looks for). When there are more than BUCKETS of them,
neighbours are merged and each covers twice as many rows. No extreme value is ever lost, whatever its length.
"""

import math
from dataclasses import dataclass, field
from typing import Any

BUCKETS = 80  # at most 5 points each: at most 400 points (docs: GET /runs/{id})

Point = tuple[float, float]


@dataclass
class Bucket:
    """``width`` consecutive rows of one metric, at most, and the points that stand for them."""

    rows: int = 0
    points: dict[str, Point] = field(default_factory=dict)

    def add(self, point: Point) -> None:
        """One more row."""
        self.rows += 1
        if not math.isfinite(point[1]):
            self.points.setdefault("nonfinite", point)
            return
        self.points.setdefault("first", point)
        self.points["last"] = point
        if point[1] < self.points.setdefault("min", point)[1]:
            self.points["min"] = point
        if point[1] > self.points.setdefault("max", point)[1]:
            self.points["max"] = point

    def merged(self, later: "Bucket") -> "Bucket":
        """Both as one."""
        points = {**later.points, **self.points}
        if "last" in later.points:
            points["last"] = later.points["last"]
        for name, better in (("min", min), ("max", max)):
            found = [bucket.points[name] for bucket in (self, later) if name in bucket.points]
            if found:
                points[name] = better(found, key=lambda point: point[1])
        return Bucket(self.rows + later.rows, points)


@dataclass
class Series:
    """One metric of one run, thinned."""

    width: int = 1
    buckets: list[Bucket] = field(default_factory=list)

    def add(self, step: float, value: float) -> None:
        """Appends one row."""
        if not self.buckets or self.buckets[-1].rows >= self.width:
            if len(self.buckets) == BUCKETS:
                self._halve()
            if not self.buckets or self.buckets[-1].rows >= self.width:
                self.buckets.append(Bucket())
        self.buckets[-1].add((step, value))

    def _halve(self) -> None:
        pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
        self.buckets = [first.merged(second) for first, second in pairs]
        self.width *= 2

    def points(self) -> list[Point]:
        """What is kept, in the order of the rows (by step within a bucket), each point once."""
        found: list[Point] = []
        for bucket in self.buckets:
            found += sorted(_distinct(bucket.points.values()), key=lambda point: point[0])
        return found

    def dump(self) -> dict[str, Any]:
        """As JSON: non-finite values as text, which JSON has no numbers for."""
        buckets = [
            [bucket.rows, {name: [step, _plain(value)] for name, (step, value) in bucket.points.items()}]
            for bucket in self.buckets
        ]
        return {"width": self.width, "buckets": buckets}

    @classmethod
    def load(cls, data: dict[str, Any]) -> "Series":
        """From what ``dump`` made, or from nothing."""
        buckets = [
            Bucket(rows, {name: (step, float(value)) for name, (step, value) in points.items()})
            for rows, points in data.get("buckets", [])
        ]
        return cls(data.get("width", 1), buckets)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _distinct(points: Any) -> list[Point]:
    found: list[Point] = []
    for point in points:
        if not any(point is other or repr(point) == repr(other) for other in found):
            found.append(point)
    return found
