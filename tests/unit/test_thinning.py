"""A series of any length in bounded memory: the ends, the extremes and the first NaN are never lost."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.thinning import BUCKETS, Point, Series

MOST = 400  # points (docs: GET /runs/{id})
finite = st.floats(allow_nan=False, allow_infinity=False)
lengths = st.sampled_from([0, 1, 2, 79, 80, 81, 159, 160, 161, 321, 641, 1000, 1281]) | st.integers(162, 1500)


@st.composite
def rows(draw: st.DrawFn, *, nonfinite: bool = False) -> list[Point]:
    """Rows with rising steps; values from a few interesting ones, many alike, so that long lists stay cheap."""
    chosen = draw(st.lists(st.floats() if nonfinite else finite, min_size=1, max_size=8, unique=True))
    stride = draw(st.sampled_from([1.0, 0.5, 10.0]))
    length = draw(lengths)
    random = draw(st.randoms(use_true_random=True))
    return [(number * stride, random.choice(chosen)) for number in range(length)]


def thinned(points: list[Point]) -> Series:
    series = Series()
    for step, value in points:
        series.add(step, value)
    return series


def text(points: list[Point]) -> list[str]:
    """For comparing: NaN is equal to nothing, -0.0 to 0.0."""
    return [repr(point) for point in points]


@given(rows(nonfinite=True))
@settings(max_examples=40)
def test_there_are_never_more_than_400_points_and_all_are_rows(points: list[Point]) -> None:
    kept = thinned(points).points()
    assert len(kept) <= MOST
    assert set(text(kept)) <= set(text(points))


@pytest.mark.parametrize("length", [1, 79, 80, 81, 399, 400, 401, 12_345])
def test_the_bound_holds_at_every_length_and_with_every_kind_of_point(length: int) -> None:
    series = Series()
    for number in range(length):
        # In each bucket: a first, a last, a low, a high and a NaN, as soon as it holds five rows.
        series.add(number, math.nan if number % 7 == 3 else (number * 7919) % 1013)
        assert len(series.buckets) <= BUCKETS
    assert 1 <= len(series.points()) <= MOST


def test_eighty_full_buckets_of_five_points_each_are_the_most() -> None:
    series = Series()
    counts = []
    for number in range(2000):
        series.add(number, [1.0, math.nan, 0.0, 9.0, 1.0, 1.0, 1.0, 2.0][number % 8])
        if number % 8 == 7:
            counts.append(len(series.points()))
    assert max(counts) == MOST


@given(rows(nonfinite=True))
@settings(max_examples=60)
def test_each_bucket_stands_for_its_rows(points: list[Point]) -> None:
    series = thinned(points)
    expected: list[Point] = []
    for start in range(0, len(points), series.width):
        chunk = points[start : start + series.width]
        whole = [point for point in chunk if math.isfinite(point[1])]
        chosen = [point for point in chunk if not math.isfinite(point[1])][:1]
        if whole:
            chosen += [whole[0], whole[-1], min(whole, key=lambda p: p[1]), max(whole, key=lambda p: p[1])]
        expected += sorted(set(chosen), key=lambda point: point[0])
    assert text(series.points()) == text(expected)


@given(rows())
@settings(max_examples=60)
def test_the_first_the_last_the_lowest_and_the_highest_row_are_kept(points: list[Point]) -> None:
    kept = text(thinned(points).points())
    if not points:
        assert kept == []
        return
    lowest = min(points, key=lambda point: point[1])
    highest = max(points, key=lambda point: point[1])
    assert {repr(points[0]), repr(points[-1]), repr(lowest), repr(highest)} <= set(kept)
    assert (kept[0], kept[-1]) == (repr(points[0]), repr(points[-1]))


@given(st.lists(st.floats(), max_size=BUCKETS))
@settings(max_examples=40)
def test_a_short_series_is_kept_whole(values: list[float]) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    assert text(thinned(points).points()) == text(points)


@given(rows(nonfinite=True))
@settings(max_examples=40)
def test_finite_extremes_and_the_first_nonfinite_row_survive_among_each_other(points: list[Point]) -> None:
    kept = set(text(thinned(points).points()))
    whole = [point for point in points if math.isfinite(point[1])]
    others = [point for point in points if not math.isfinite(point[1])]
    if whole:
        expected = [whole[0], whole[-1], min(whole, key=lambda p: p[1]), max(whole, key=lambda p: p[1])]
        assert set(text(expected)) <= kept
    if others:
        assert repr(others[0]) in kept


@pytest.mark.parametrize("place", [0, 1, 63_999, 64_000, 77_777, 99_998, 99_999])
@pytest.mark.parametrize("spike", [1e9, -1e9, math.nan, math.inf, -math.inf])
def test_a_single_spike_in_100_000_rows_survives(place: int, spike: float) -> None:
    # The rows around are fed as dumped state: 100,000 rows before each spike would only repeat themselves.
    series = Series.load(_calm(place).dump())
    series.add(float(place), spike)
    for step in range(place + 1, min(place + 3000, 100_000)):
        series.add(float(step), 1.0)
    kept = series.points()
    assert repr((float(place), spike)) in text(kept)
    assert len(kept) <= MOST


_CALM: dict[int, Series] = {}


def _calm(length: int) -> Series:
    """The series after so many quiet rows, made once."""
    if length not in _CALM:
        before = max((known for known in _CALM if known < length), default=0)
        series = Series.load(_CALM[before].dump()) if before else Series()
        for step in range(before, length):
            series.add(float(step), 1.0)
        _CALM[length] = series
    return _CALM[length]


def test_every_spike_of_a_hundred_in_100_000_rows_is_near_a_kept_extreme() -> None:
    series = Series()
    for step in range(100_000):
        series.add(float(step), 50.0 if step % 1000 == 500 else 0.0)
    high = [step for step, value in series.points() if value == 50.0]
    assert len(high) >= 40  # one in nearly every bucket, of which there are at least 40
    assert all(later - earlier <= 3 * series.width for earlier, later in pairwise(high))


@given(rows(nonfinite=True), st.integers(0, 300))
@example([], 5)
@settings(max_examples=40)
def test_what_was_dumped_goes_on_as_if_nothing_had_happened(points: list[Point], further: int) -> None:
    series = thinned(points)
    again = Series.load(json.loads(json.dumps(series.dump(), allow_nan=False)))
    assert text(again.points()) == text(series.points())
    for number in range(further):
        value = math.nan if number == 17 else float((number * 7919) % 101)
        series.add(1e6 + number, value)
        again.add(1e6 + number, value)
    assert text(again.points()) == text(series.points())
    assert again.dump() == series.dump()


def test_nothing_is_loaded_as_an_empty_series() -> None:
    series = Series.load({})
    assert series.points() == []
    series.add(0.0, 1.0)
    assert series.points() == [(0.0, 1.0)]


@given(rows(nonfinite=True))
@settings(max_examples=40)
def test_steps_never_go_back_where_the_rows_do_not(points: list[Point]) -> None:
    steps = [step for step, _ in thinned(points).points()]
    assert all(earlier <= later for earlier, later in pairwise(steps))


@given(st.lists(st.integers(0, 3), max_size=500), finite)
@settings(max_examples=30)
def test_repeated_steps_stay_in_order(strides: list[int], value: float) -> None:
    points, step = [], 0.0
    for number, stride in enumerate(strides):
        step += stride // 3
        points.append((step, value if number % 2 else -1.0))
    steps = [step for step, _ in thinned(points).points()]
    assert steps == sorted(steps)


def test_a_step_that_starts_again_is_kept_in_the_order_of_the_rows() -> None:
    series = thinned([(float(step), 1.0) for step in (0, 1, 2, 0, 1, 2)])
    assert [step for step, _ in series.points()] == [0, 1, 2, 0, 1, 2]
