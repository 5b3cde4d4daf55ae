"""Figures made of events, and their text."""

from __future__ import annotations

import re

import pytest

from embank.events import metrics as room
from embank.events.kinds import DocumentsCommitted, RequestAnswered, SearchAnswered
from embank.events.metrics import Figure, Metrics
from embank.events.timings import BOUNDS_S, Timings

_LINE = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z_]+="[^"\n]*",?)+\})? (-?[0-9.e+-]+|\+Inf))')


def _request(route: str, seconds: float = 0.01, status: int = 200) -> RequestAnswered:
    return RequestAnswered("GET", route, status, seconds, "id", 10)


def test_percentiles_are_right_to_an_eighth() -> None:
    timings = Timings()
    for step in range(1, 1_001):
        timings.observe(step / 1_000)
    for part in (0.5, 0.95, 0.99):
        assert timings.quantile_s(part) == pytest.approx(part, rel=0.125)
    assert timings.count == 1_000
    assert timings.sum_s == pytest.approx(500.5)
    assert list(timings.cumulated())[-1][1] == 1_000


def test_times_beyond_all_bounds_are_counted() -> None:
    timings = Timings()
    timings.observe(0.0)
    timings.observe(1e9)
    assert timings.quantile_s(1.0) == BOUNDS_S[-1]
    assert Timings().quantile_s(0.5) == 0


def test_requests_searches_and_writes_become_figures() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.observe(_request("/a"))
    metrics.observe(_request("/a", status=404))
    metrics.observe(SearchAnswered("notes", "hybrid", 3, 0.02))
    metrics.observe(DocumentsCommitted("notes", 1, 20, 30, 0.5))
    text = metrics.text([Figure("embank_x", "Anything.", "gauge", (((("l", 'a"b\\c\n'),), 1.5),))])
    assert 'embank_http_requests_total{method="GET",route="/a",status="200"} 3' in text
    assert 'embank_http_requests_total{method="GET",route="/a",status="404"} 1' in text
    assert "embank_http_received_bytes_total 40" in text
    assert 'embank_http_request_duration_seconds_count{method="GET",route="/a"} 4' in text
    assert "embank_written_documents_total 20" in text
    assert r'embank_x{l="a\"b\\c\n"} 1.5' in text
    assert metrics.quantile_s("embank_operation_duration_seconds", (("operation", "search"),), 0.5) > 0


def test_every_line_is_of_the_format() -> None:
    metrics = Metrics()
    metrics.observe(_request("/a"))
    metrics.observe(SearchAnswered("notes", "hybrid", 3, 0.02))
    lines = metrics.text().splitlines()
    assert not [line for line in lines if not _LINE.fullmatch(line)]
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(typed) == len(set(typed))


def test_buckets_grow_to_the_count() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.01, 0.1, 1.0, 1e6):
        metrics.observe(_request("/a", seconds))
    text = metrics.text()
    counts = [int(found) for found in re.findall(r"duration_seconds_bucket\{[^}]*\} (\d+)", text)]
    assert counts == sorted(counts)
    assert counts[-1] == 5


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_SERIES", 10)
    metrics = Metrics()
    for number in range(100):
        metrics.observe(_request(f"/{number}"))
    assert metrics.series_left_out > 100
    assert len(re.findall(r"^embank_http_requests_total", metrics.text(), re.MULTILINE)) <= 10
