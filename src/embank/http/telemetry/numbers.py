"""The figures of `/metrics` as OpenTelemetry's: the same numbers, read at the same place, counted since the same start.

They are handed to the exporter as they are, instead of being counted a second time by instruments of the SDK. So they
are always sums since the start, never differences.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from embank.events.metrics import Figure, Labels, TimedFigure
from embank.events.timings import Timings
from embank.http.telemetry.names import SCOPE, attribute, figure


def metrics_data(
    figures: Iterable[Figure], timed: Iterable[TimedFigure], *, resource: Any, since_ns: int, now_ns: int
) -> Any:
    """One reading, as an exporter takes it. `since_ns` and `now_ns` are nanoseconds since the epoch."""
    made = [_plain(each, since_ns, now_ns) for each in figures]
    made += [_histogram(each, since_ns, now_ns) for each in timed]
    scope = ScopeMetrics(InstrumentationScope(SCOPE), made, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _plain(read: Figure, since_ns: int, now_ns: int) -> Any:
    points = [NumberDataPoint(_attributes(labels), since_ns, now_ns, value) for labels, value in read.values]
    name, unit = figure(read.name)
    counts = read.kind == "counter"
    data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True) if counts else Gauge(points)
    return Metric(name, read.help, unit, data)


def _histogram(read: TimedFigure, since_ns: int, now_ns: int) -> Any:
    points = [_point(labels, timings, since_ns, now_ns) for labels, timings in read.values]
    name, unit = figure(read.name)
    return Metric(name, read.help, unit, Histogram(points, AggregationTemporality.CUMULATIVE))


def _point(labels: Labels, timings: Timings, since_ns: int, now_ns: int) -> Any:
    bounds_s, reached = zip(*timings.cumulated(), strict=True)
    counts = [after - before for before, after in pairwise((0, *reached, max(timings.count, reached[-1])))]
    return HistogramDataPoint(
        _attributes(labels),
        since_ns,
        now_ns,
        count=sum(counts),
        sum=timings.sum_s,
        bucket_counts=counts,
        explicit_bounds=bounds_s,
        min=None,  # not kept
        max=None,
    )


def _attributes(labels: Labels) -> dict[str, str | int]:
    return {attribute(key): int(value) if key == "status" else value for key, value in labels}
