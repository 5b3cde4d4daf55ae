"""Figures that are read when they are asked for: memory, contents, queues, caches. See `embank.events.metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from embank.events.metrics import Figure
from embank.registry import import_path

if TYPE_CHECKING:
    from embank.http.service import Service


def figures(service: Service) -> list[Figure]:
    """As of now. Blocks for some milliseconds."""
    bank = service.bank
    memory, infos, caches = bank.memory(), bank.collections(), bank.cache()
    embeddings = caches.embeddings
    found = [
        _one("embank_memory_budget_bytes", "The memory budget.", memory.budget_bytes),
        _one("embank_memory_real_bytes", "Memory held, against the tighter of budget and limit.", memory.real_bytes),
        _one("embank_memory_managed_bytes", "Memory that its holders account for.", memory.managed_bytes),
        _one("embank_memory_reserved_bytes", "Memory promised to work under way.", memory.reserved_bytes),
        _one("embank_memory_peak_bytes", "The highest reading so far.", memory.peak_bytes),
        _one("embank_memory_pressure_ratio", "Used part of the room above the floor.", memory.pressure),
        _one("embank_memory_requests_bytes", "Memory granted to requests under way.", service.admission.used_bytes),
        _one("embank_collections", "Collections.", len(infos)),
        _one("embank_documents", "Documents in all collections.", sum(info.documents for info in infos)),
        _one("embank_passages", "Passages in all collections.", sum(info.chunks for info in infos)),
        _one("embank_http_requests_in_flight", "Requests under way.", service.requests),
        _one(
            "embank_http_workers_busy",
            "Pieces of work in threads or waiting for one.",
            service.workers.busy + service.searches.busy,
        ),
        _one("embank_http_listeners", "Clients that listen to events.", service.listeners),
        _one("embank_jobs_running", "Long jobs under way or waiting.", service.jobs.running),
        _one("embank_draining", "1 while the service is being stopped.", int(service.draining)),
        _one(
            "embank_http_refused_busy_total",
            "Work refused because too much waited.",
            service.workers.refused + service.searches.refused,
            "counter",
        ),
        _one(
            "embank_coalesced_requests_total",
            "Requests to embed that could share batches.",
            service.embedding.requests,
            "counter",
        ),
        _one("embank_coalesced_batches_total", "Batches that they took.", service.embedding.batches, "counter"),
        _one("embank_events_published_total", "Events published.", service.stream.published, "counter"),
        _one("embank_events_dropped_total", "Events that subscribers lost.", service.stream.dropped, "counter"),
        _one(
            "embank_metrics_events_dropped_total", "Events that these figures lack.", service.events_dropped, "counter"
        ),
        _one(
            "embank_metrics_series_left_out_total",
            "Figures that found no place.",
            service.metrics.series_left_out,
            "counter",
        ),
    ]
    if embeddings is not None:
        found += [
            _one("embank_cache_hits_total", "Texts whose vector was in the cache.", embeddings.hits, "counter"),
            _one("embank_cache_misses_total", "Texts whose vector was not.", embeddings.misses, "counter"),
        ]
    version = (("version", str(import_path("embank:__version__"))),)
    return [*found, Figure("embank_build_info", "The version that runs.", "gauge", ((version, 1),))]


def _one(name: str, text: str, value: float, kind: Literal["gauge", "counter"] = "gauge") -> Figure:
    return Figure(name, text, kind, (((), value),))
