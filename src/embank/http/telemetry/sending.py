"""Sending traces and metrics to a collector over OTLP/HTTP, by OpenTelemetry's SDK.

Where to, with which headers and how patiently is what the SDK reads from the `OTEL_…` variables, unless the settings
say where to. A collector that is away costs what was to be sent to it, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from embank.errors import MissingExtra
from embank.events.kinds import DocumentsCommitted, JobEnded, RequestAnswered, SearchAnswered, TextsEmbedded
from embank.http.telemetry.names import SCOPE
from embank.system.background import Background
from embank.system.log import get_logger

try:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ImportError as error:
    raise MissingExtra("opentelemetry-exporter-otlp-proto-http", "otel") from error

from embank.http.telemetry.numbers import metrics_data
from embank.http.telemetry.spans import Spans

if TYPE_CHECKING:
    from embank.events.metrics import Figure, TimedFigure
    from embank.events.stream import Stream
    from embank.http.telemetry.settings import Settings
    from embank.system.clock import Clock

_log = get_logger(__name__)

Read = Callable[[], "tuple[list[Figure], list[TimedFigure]]"]
"""Reads all figures. Blocks for some milliseconds."""

_WAITING = 10_000
_END_S = 5.0


class Telemetry:
    """Sends from when it is made until `close`. `read` and the stream are used by threads of its own.

    The exporters are the SDK's for OTLP/HTTP, unless others are given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        stream: Stream,
        read: Read,
        version: str,
        clock: Clock,
        span_exporter: Any = None,
        metric_exporter: Any = None,
    ) -> None:
        about = Resource({"service.name": "embank", "service.version": version})
        self._resource = about.merge(OTELResourceDetector().detect())
        self._stream = stream
        self._read = read
        self._clock = clock
        self._interval_s = settings.interval_s
        self._since_ns = time.time_ns()
        self._provider: Any = None
        self._metric_exporter: Any = None
        if settings.traces:
            exporter = span_exporter or OTLPSpanExporter(endpoint=_address(settings.endpoint, "traces"))
            self._provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._subscription = stream.subscribe(
                Spans(self._provider.get_tracer(SCOPE, version)).observe,
                kinds=(RequestAnswered, SearchAnswered, TextsEmbedded, DocumentsCommitted, JobEnded),
                capacity=_WAITING,
            )
        if settings.metrics:
            self._metric_exporter = metric_exporter or OTLPMetricExporter(
                endpoint=_address(settings.endpoint, "metrics")
            )
            self._due_s = clock.monotonic() + self._interval_s
            self._sending = Background("embank-otel-metrics", self._turn, clock=clock)
            self._sending.wake()

    def close(self) -> None:
        """Send what is left, and end; a collector that does not answer is waited for some seconds, and no more."""
        last = None if self._metric_exporter is None else self._reading()
        # A daemon, since the SDK goes on trying for half a minute.
        ending = threading.Thread(target=self._end, args=(last,), name="embank-otel-end", daemon=True)
        ending.start()
        ending.join(_END_S)
        if ending.is_alive():
            _log.warning("the collector of traces and metrics does not answer: what was left is not sent")

    def _end(self, last: Any) -> None:
        if self._provider is not None:
            self._stream.flush(1.0)
            self._subscription.close()
            self._provider.shutdown()
        if self._metric_exporter is not None:
            self._sending.close()
            self._metric_exporter.export(last)
            self._metric_exporter.shutdown()

    def _turn(self) -> float:
        if self._clock.monotonic() >= self._due_s:
            self._due_s = self._clock.monotonic() + self._interval_s
            self._metric_exporter.export(self._reading())  # it logs what fails
        return self._due_s

    def _reading(self) -> Any:
        figures, timed = self._read()
        return metrics_data(figures, timed, resource=self._resource, since_ns=self._since_ns, now_ns=time.time_ns())


def _address(endpoint: str | None, signal: str) -> str | None:
    return None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"
