"""Traces and metrics: what a request becomes, and that a real collector gets it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.http.serving import serving

from embank.events.kinds import JobEnded, RequestAnswered, SearchAnswered, TextsEmbedded
from embank.events.metrics import Figure, Metrics
from embank.events.stream import Stream
from embank.http.telemetry import sending
from embank.http.telemetry.names import figure
from embank.http.telemetry.numbers import metrics_data
from embank.http.telemetry.settings import Settings
from embank.http.telemetry.spans import Spans
from embank.system.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exported: InMemorySpanExporter) -> Spans:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Spans(provider.get_tracer("test"))


def _answered(id_: str, route: str = "/a", status: int = 200, **more: Any) -> RequestAnswered:
    return RequestAnswered("GET", route, status, 0.25, id_, 10, at=100.0, **more)


def _by_name(exported: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exported.get_finished_spans()}


def test_a_request_is_a_span_and_what_was_done_within_it_lies_below(
    spans: Spans, exported: InMemorySpanExporter
) -> None:
    spans.observe(SearchAnswered("notes", "hybrid", 3, 0.125, at=99.9, during="r1"))
    spans.observe(TextsEmbedded("minilm", 1, 7, 8, 0.1, at=99.8, during="another"))
    spans.observe(SearchAnswered("elsewhere", "hybrid", 3, 0.125))
    spans.observe(_answered("r1", traceparent=CALLER))
    spans.observe(JobEnded("j", "import", "notes", "failed", 2.0, at=105.0, during="r1"))
    found = _by_name(exported)
    assert set(found) == {"GET /a", "search notes", "job import"}
    request, search, job = found["GET /a"], found["search notes"], found["job import"]
    assert request.kind is SpanKind.SERVER
    assert format(request.parent.span_id, "016x") == CALLER.split("-")[2]
    assert {format(each.context.trace_id, "032x") for each in found.values()} == {CALLER.split("-")[1]}
    assert search.parent.span_id == job.parent.span_id == request.context.span_id
    assert (request.start_time, request.end_time) == (99_750_000_000, 100_000_000_000)
    assert request.attributes["http.response.status_code"] == 200
    assert search.attributes["db.collection.name"] == "notes"
    assert [each.status.status_code for each in (request, job)] == [StatusCode.UNSET, StatusCode.ERROR]


def test_errors_of_the_server_are_told_and_probes_are_not(spans: Spans, exported: InMemorySpanExporter) -> None:
    spans.observe(_answered("r1", "/livez"))
    spans.observe(_answered("r2", "/b", 404))
    spans.observe(_answered("r3", "/c", 503))
    found = _by_name(exported)
    assert {name: span.status.status_code for name, span in found.items()} == {
        "GET /b": StatusCode.UNSET,
        "GET /c": StatusCode.ERROR,
    }
    assert found["GET /c"].attributes["error.type"] == "503"
    assert found["GET /b"].parent is None


def test_what_waits_is_bounded(spans: Spans, exported: InMemorySpanExporter) -> None:
    for _ in range(150):
        spans.observe(SearchAnswered("notes", "hybrid", 3, 0.01, during="r1"))
    assert spans.left_out == 50
    spans.observe(_answered("r1"))
    assert len(exported.get_finished_spans()) == 101
    for number in range(1_010):
        spans.observe(SearchAnswered("notes", "hybrid", 3, 0.01, during=f"gone {number}"))
        spans.observe(_answered(f"over {number}", "/livez"))
    assert spans.left_out == 60


def test_figures_are_the_same_numbers_under_names_that_lead_back_to_theirs() -> None:
    metrics = Metrics()
    metrics.observe(_answered("r1", status=404))
    metrics.observe(SearchAnswered("notes", "hybrid", 3, 0.02))
    metrics.observe(SearchAnswered("notes", "hybrid", 3, 1e9))
    budget = Figure("embank_memory_budget_bytes", "The memory budget.", "gauge", (((), 512),))
    data = metrics_data([*metrics.counted(), budget], metrics.timed(), resource=None, since_ns=1, now_ns=2)
    found = {each.name: each for each in data.resource_metrics[0].scope_metrics[0].metrics}
    (requests,) = found["embank.http_requests"].data.data_points
    assert requests.value == 1
    assert requests.attributes == {
        "http.request.method": "GET",
        "http.route": "/a",
        "http.response.status_code": 404,
    }
    assert found["embank.http_requests"].data.is_monotonic
    assert [point.value for point in found["embank.memory_budget"].data.data_points] == [512]
    assert found["http.server.request.duration"].unit == "s"
    (searches,) = found["embank.operation_duration"].data.data_points
    assert (searches.count, sum(searches.bucket_counts), searches.bucket_counts[-1]) == (2, 2, 1)
    assert len(searches.bucket_counts) == len(searches.explicit_bounds) + 1
    assert figure("embank_http_received_bytes_total") == ("embank.http_received", "By")


class Collector:
    """Takes what is sent over OTLP/HTTP, on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.figures: dict[str, Any] = {}
        self.resources: list[dict[str, str]] = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                taken.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                self._resource(sent.resource)
                self.spans += [span for scope in sent.scope_spans for span in scope.spans]
        else:
            assert path == "/v1/metrics"
            for sent in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self._resource(sent.resource)
                self.figures |= {each.name: each for scope in sent.scope_metrics for each in scope.metrics}

    def _resource(self, resource: Any) -> None:
        self.resources.append({each.key: each.value.string_value for each in resource.attributes})


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


def test_a_collector_gets_spans_and_figures_of_a_running_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "library")
    with collecting() as collector:
        more = {"telemetry.traces": True, "telemetry.metrics": True, "telemetry.endpoint": f"{collector.url}/"}
        with serving(tmp_path / "a.bank", flags=more) as served:
            written = {"documents": [{"id": "a", "text": "rivers carry silt"}]}
            served.http.post("/collections/notes/documents", json=written, headers={"x-request-id": "w"})
            headers = {"traceparent": CALLER, "x-request-id": "s"}
            served.http.post("/collections/notes/search", json={"query": "silt"}, headers=headers)
            served.http.post("/v1/embeddings", json={"model": "hash", "input": "x"}, headers={"x-request-id": "e"})
        named = {span.name: span for span in collector.spans}
        request, search = named["POST /collections/{name}/search"], named["search notes"]
        assert request.trace_id.hex() == CALLER.split("-")[1]
        assert search.parent_span_id == request.span_id
        write = named["POST /collections/{name}/documents"]
        assert named["write notes"].parent_span_id == write.span_id
        asked = named["POST /v1/embeddings"]
        parents = {span.parent_span_id for span in collector.spans if span.name.startswith("embeddings ")}
        assert {asked.span_id, write.span_id} <= parents
        (documents,) = collector.figures["embank.documents"].gauge.data_points
        assert documents.as_double == 1 or documents.as_int == 1
        assert collector.figures["http.server.request.duration"].histogram.data_points
        assert {each["service.name"] for each in collector.resources} == {"library"}


class NoCollector:
    """An exporter of figures that gives no answer until it is told to."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Semaphore(0), threading.Event()

    def export(self, _: Any) -> None:
        self.asked.release()
        assert self.answers.wait(60)

    def shutdown(self) -> None:
        self.asked.release()


def test_a_collector_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sending, "_END_S", 0.01)
    collector, metrics = NoCollector(), Metrics()
    telemetry = sending.Telemetry(
        Settings(metrics=True, interval_s=0.001),
        stream=Stream(),
        read=lambda: (metrics.counted(), metrics.timed()),
        version="1",
        clock=SystemClock(),
        metric_exporter=collector,
    )
    assert collector.asked.acquire(timeout=30)
    with caplog.at_level(logging.WARNING):
        telemetry.close()
    assert "does not answer" in caplog.text
    collector.answers.set()
    for _ in range(2):  # the last figures, and its end
        assert collector.asked.acquire(timeout=30)
