"""What Embank's acts and figures are called in OpenTelemetry: the one place that knows, since not all names are stable.

By the semantic conventions 1.37. Those of HTTP and databases are stable; `gen_ai.…` are not, and are to be changed here
when they do. Figures keep the names of `/metrics`, so that a collector that hands them on to Prometheus gives them the
very names that they have there; but the time of requests has the name that OpenTelemetry's own dashboards ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embank.events.event import Event
from embank.events.kinds import DocumentsCommitted, JobEnded, RequestAnswered, SearchAnswered, TextsEmbedded

SCOPE = "embank"

_LABELS = {"method": "http.request.method", "route": "http.route", "status": "http.response.status_code"}
_FIGURES = {"embank_http_request_duration_seconds": ("http.server.request.duration", "s")}
_UNITS = {"_bytes": "By", "_seconds": "s", "_ratio": "1"}


@dataclass(frozen=True, slots=True)
class Named:
    """An act: what its span is called, how long it took, what is told of it, and, where it failed, what as."""

    name: str
    seconds: float
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    error: str | None = None


def span_of(event: Event) -> Named | None:
    """The act that an event tells of; None for kinds that have no span."""
    match event:
        case RequestAnswered():
            attributes: dict[str, str | int | bool] = {
                "http.request.method": "_OTHER" if event.method == "other" else event.method,
                "http.route": event.route,
                "http.response.status_code": event.status,
                "http.request.body.size": event.received_bytes,
                "embank.request_id": event.request_id,
            }
            if event.key is not None:
                attributes["enduser.pseudo.id"] = event.key
            error = str(event.status) if event.status >= 500 else None
            return Named(f"{event.method} {event.route}", event.seconds, attributes, error)
        case SearchAnswered():
            return Named(
                f"search {event.collection}",
                event.seconds,
                {
                    "db.system.name": "embank",
                    "db.operation.name": "search",
                    "db.collection.name": event.collection,
                    "db.response.returned_rows": event.hits,
                    "embank.search.mode": event.mode,
                    "embank.search.cached": event.cached,
                    "embank.search.degraded": event.degraded,
                },
            )
        case TextsEmbedded():
            return Named(
                f"embeddings {event.model}",
                event.seconds,
                {
                    "gen_ai.operation.name": "embeddings",
                    "gen_ai.provider.name": "embank",
                    "gen_ai.request.model": event.model,
                    "gen_ai.usage.input_tokens": event.tokens,
                    "embank.embed.texts": event.texts,
                    "embank.embed.padded_tokens": event.padded_tokens,
                },
            )
        case DocumentsCommitted():
            return Named(
                f"write {event.collection}",
                event.seconds,
                {
                    "db.system.name": "embank",
                    "db.operation.name": "write",
                    "db.collection.name": event.collection,
                    "db.operation.batch.size": event.documents,
                },
            )
        case JobEnded():
            attributes = {"embank.job.id": event.job, "embank.job.state": event.state}
            if event.collection is not None:
                attributes["db.collection.name"] = event.collection
            return Named(f"job {event.work}", event.seconds, attributes, "failed" if event.state == "failed" else None)
        case _:
            return None


def figure(name: str) -> tuple[str, str]:
    """Name and unit of a figure of `/metrics`."""
    if name in _FIGURES:
        return _FIGURES[name]
    rest = name.removeprefix("embank_").removesuffix("_total")
    for end, unit in _UNITS.items():
        if rest.endswith(end):
            return f"embank.{rest.removesuffix(end)}", unit
    return f"embank.{rest}", "1" if name.endswith("_total") else ""


def attribute(label: str) -> str:
    """The attribute that a figure's label is."""
    return _LABELS.get(label, label)
