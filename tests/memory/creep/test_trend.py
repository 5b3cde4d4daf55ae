"""Trends: right about lines, honest about readings that hang together."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embank.errors import InvalidInput
from embank.memory.creep.trend import (
    NotEnough,
    Trend,
    analyse,
    drift,
    drift_p,
    forwards,
    linear,
    moving_average,
    steps,
    theil_sen,
    time_to_limit,
)

POINTS = 200
SEEDS = 200


def sawtooth(r: random.Random) -> list[float]:
    period = r.choice((7, 20, 50))
    return [(place % period) / period + r.gauss(0, 0.05) for place in range(POINTS)]


def bounded_walk(r: random.Random) -> list[float]:
    at, out = 0.5, []
    for _ in range(POINTS):
        at = min(max(at + r.gauss(0, 0.2), 0.0), 1.0)
        out.append(at)
    return out


def walk(r: random.Random) -> list[float]:
    at, out = 0.0, []
    for _ in range(POINTS):
        at += r.gauss(0, 1)
        out.append(at)
    return out


def plateau(r: random.Random) -> list[float]:
    """What an allocator holds: the most that was ever needed."""
    most, out = 0.0, []
    for _ in range(POINTS):
        most = max(most, r.random())
        out.append(most)
    return out


def step_after_warm_up(r: random.Random) -> list[float]:
    at = r.randrange(10, POINTS - 10)
    return [(place >= at) + r.gauss(0, 0.05) for place in range(POINTS)]


def autoregressive(r: random.Random) -> list[float]:
    at, out = 0.0, []
    for _ in range(POINTS):
        at = 0.9 * at + r.gauss(0, 1)
        out.append(at)
    return out


HEALTHY = [sawtooth, bounded_walk, plateau, step_after_warm_up, autoregressive]


def trend_of(values: list[float], **options: float) -> Trend:
    found = analyse(list(range(len(values))), values, **options)  # type: ignore[arg-type]
    assert isinstance(found, Trend)
    return found


@pytest.mark.parametrize("make", HEALTHY)
def test_healthy_series_are_not_called_rising(make: Callable[[random.Random], list[float]]) -> None:
    """A twentieth at most is what 95 % promises; the two tests together do better."""
    rising = sum(trend_of(make(random.Random(seed))).rising for seed in range(SEEDS))
    assert rising <= 0.025 * SEEDS


def test_a_walk_without_bounds_is_called_rising_hardly_more_often_than_was_promised() -> None:
    assert sum(trend_of(walk(random.Random(seed))).rising for seed in range(SEEDS)) <= 0.08 * SEEDS


def test_the_naive_interval_would_have_been_wrong_about_these() -> None:
    """So that the tests above are known to test something."""
    naive = 0
    for seed in range(SEEDS):
        line = linear(range(POINTS), autoregressive(random.Random(seed)))
        naive += line.slope - 1.645 * line.stderr > 0
    assert naive > 0.15 * SEEDS


@pytest.mark.parametrize("make", [autoregressive, sawtooth])
def test_a_rise_under_the_same_noise_is_found(make: Callable[[random.Random], list[float]]) -> None:
    found = 0
    for seed in range(50):
        noise = make(random.Random(seed))
        spread = max(noise) - min(noise)
        found += trend_of([value + 4 * spread * place / POINTS for place, value in enumerate(noise)]).rising
    assert found >= 45


def test_a_clean_line_is_told_exactly() -> None:
    trend = trend_of([5.0 + 0.5 * place for place in range(100)], limit=104.5)
    assert trend.verdict == "rising"
    assert trend.slope.slope == pytest.approx(0.5)
    assert (trend.slope.low, trend.slope.high) == pytest.approx((0.5, 0.5))
    assert trend.line.slope == pytest.approx(0.5)
    assert trend.line.intercept == pytest.approx(5.0)
    assert trend.line.r2 == pytest.approx(1.0)
    assert trend.level == pytest.approx(5.0 + 0.5 * 94.5)
    assert trend.time_to_limit == pytest.approx((104.5 - trend.level) / 0.5)


def test_the_interval_holds_what_it_promises_for_independent_readings() -> None:
    held = 0
    for seed in range(SEEDS):
        r = random.Random(seed)
        found = theil_sen(range(60), [0.1 * place + r.gauss(0, 1) for place in range(60)], confidence=0.9)
        held += found.low <= 0.1 <= found.high
    assert 0.86 * SEEDS <= held <= 0.97 * SEEDS


def test_fewer_independent_points_make_a_wider_interval() -> None:
    r = random.Random(1)
    noise = [r.gauss(0, 1) for _ in range(POINTS)]
    hung = autoregressive(random.Random(1))
    assert theil_sen(range(POINTS), noise).effective_points > 0.4 * POINTS
    assert theil_sen(range(POINTS), hung).effective_points < 0.25 * POINTS


def test_single_wild_readings_move_the_median_slope_little_and_the_line_much() -> None:
    values = [float(place) for place in range(100)]
    for place in (90, 94, 97):
        values[place] = 10_000.0
    assert theil_sen(range(100), values).slope == pytest.approx(1.0, abs=0.05)
    assert linear(range(100), values).slope > 3


def test_a_long_series_is_condensed() -> None:
    found = theil_sen(range(200_000), [0.25 * place for place in range(200_000)])
    assert found.slope == pytest.approx(0.25)
    assert found.effective_points <= 400


@pytest.mark.parametrize("points", [0, 1, 15, 49])
def test_too_few_points_are_not_enough_data(points: int) -> None:
    found = analyse([float(at) for at in range(points)], [1.0] * points)
    assert found == NotEnough(points, 50)
    assert found.as_dict()["verdict"] == "not enough data"


def test_fewer_points_can_be_asked_for_but_not_fewer_than_the_tests_need() -> None:
    assert isinstance(analyse(list(range(20)), [1.0] * 20, least_points=20), Trend)
    assert analyse(list(range(10)), [1.0] * 10, least_points=2) == NotEnough(10, 16)


def test_only_the_window_counts() -> None:
    values = [0.0] * 100 + [float(place) for place in range(60)]
    late = analyse(list(range(160)), values, window=59)
    assert isinstance(late, Trend)
    assert late.points == 60
    assert late.slope.slope == pytest.approx(1.0)


def test_a_slope_below_the_threshold_is_steady() -> None:
    values = [0.5 * place for place in range(100)]
    assert trend_of(values, threshold=0.4).verdict == "rising"
    assert trend_of(values, threshold=0.6).verdict == "steady"
    assert trend_of([-value for value in values], threshold=0.4).verdict == "falling"


def test_a_clock_that_goes_backwards_costs_one_step() -> None:
    assert forwards([1.0, 2.0, 3.0, -100.0, -99.0]) == [1.0, 2.0, 3.0, 3.0, 4.0]
    times = [float(at) for at in range(50)] + [float(at) - 1_000 for at in range(50)]
    found = analyse(times, [float(value) for value in range(100)])
    assert isinstance(found, Trend)
    assert found.slope.slope == pytest.approx(1.0, abs=0.02)


def test_times_that_stand_still_leave_the_slope_open_and_json_can_tell() -> None:
    found = analyse([5.0] * 60, [float(value) for value in range(60)])
    assert isinstance(found, Trend)
    assert found.verdict == "steady"
    assert math.isinf(found.slope.low)
    assert json.loads(json.dumps(found.as_dict()["slope"]))["low"] is None


def test_what_is_no_number_is_left_out() -> None:
    values = [float(place) for place in range(60)]
    values[10], values[20] = math.nan, math.inf
    found = analyse(list(range(60)), values)
    assert isinstance(found, Trend)
    assert found.points == 58
    assert found.slope.slope == pytest.approx(1.0)


def test_a_constant_is_steady() -> None:
    found = trend_of([3.0] * 60, limit=4.0)
    assert (found.verdict, found.slope.slope, found.line.r2, found.time_to_limit) == ("steady", 0.0, 0.0, None)


def test_bad_series_are_refused() -> None:
    with pytest.raises(InvalidInput, match="3 times and 2 values"):
        analyse([1, 2, 3], [1, 2])
    with pytest.raises(InvalidInput, match="not 0"):
        moving_average([1.0], 0)
    with pytest.raises(InvalidInput, match="not 5"):
        drift([1.0] * 50, segments=5)
    with pytest.raises(InvalidInput, match="at least 16 values"):
        steps([1.0] * 15)


def test_moving_average() -> None:
    assert moving_average([1.0, 2.0, 3.0, 4.0], 2) == [1.0, 1.5, 2.5, 3.5]
    assert moving_average([], 3) == []


@pytest.mark.parametrize(
    ("level", "slope", "expected"), [(5, 1, 5.0), (5, 0, None), (5, -1, None), (10, -1, 0.0), (12, 1, 0.0)]
)
def test_time_to_a_limit_of_ten(level: float, slope: float, expected: float | None) -> None:
    assert time_to_limit(level, slope, 10) == expected


def test_the_drift_test_knows_students_distribution() -> None:
    """Quantiles from tables: t(6) 0.95 = 1.943, t(6) 0.99 = 3.143, t(6) 0.999 = 5.208."""
    for quantile, p in ((1.943, 0.05), (3.143, 0.01), (5.208, 0.001), (0.0, 0.5)):
        spread = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
        deviation = math.sqrt(sum(each**2 for each in spread) / 6)
        t = quantile * math.sqrt(1.5)  # neighbours hang together
        assert drift_p([each + t * deviation / math.sqrt(7) for each in spread]) == pytest.approx(p, rel=0.002)
    assert drift_p([1.0] * 7) == 0.0
    assert drift_p([0.0] * 7) == 0.5
    assert drift_p([-1.0] * 7) == 1.0


@given(st.lists(st.floats(-1e9, 1e9), min_size=50, max_size=80), st.floats(-1e3, 1e3))
def test_slopes_follow_a_shift_and_never_leave_their_interval(values: list[float], shift: float) -> None:
    plain = theil_sen(range(len(values)), values)
    tilted = theil_sen(range(len(values)), [value + shift * place for place, value in enumerate(values)])
    assert plain.low <= plain.slope <= plain.high
    assert tilted.slope == pytest.approx(plain.slope + shift, abs=1e-3)
    assert 0 < plain.effective_points <= len(values)
