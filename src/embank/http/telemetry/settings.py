"""Settings of OpenTelemetry."""

from __future__ import annotations

from pydantic import Field

from embank.config import Section


class Settings(Section):
    """What is sent, and where to; nothing unless it is asked for. What is not set here is as `OTEL_…` variables say."""

    traces: bool = Field(default=False, description="send a span for each request, and for what was done within it")
    metrics: bool = Field(default=False, description="send the figures of /metrics")
    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="address of the OTLP/HTTP collector, without /v1/…; by default OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    interval_s: float = Field(default=60, gt=0, description="figures are sent once in so many seconds")
