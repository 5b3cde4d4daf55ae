"""Events folded into figures, and figures as Prometheus reads them (text format 0.0.4).

Covers what events tell: requests, searches, embedding, writing, memory's actions, jobs. What others count, such as the
bytes held now, is handed to `text` as gauges and counters. Names follow Prometheus's conventions: base units, `_total`
for what only grows. Labels come from the program, never from a caller: routes with their names left open, statuses,
operations; and there are at most so many series, whatever happens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from embank.events.event import Event
from embank.events.kinds import (
    ActionTaken,
    DocumentsCommitted,
    DocumentsDeleted,
    JobEnded,
    RequestAnswered,
    ReservationRefused,
    SearchAnswered,
    TextsEmbedded,
)
from embank.events.timings import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_SERIES = 1_000
QUANTILES = (0.5, 0.95, 0.99)

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that is read when asked for: its name, what it means, and its value for each set of labels."""

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    values: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True, slots=True)
class TimedFigure:
    """How long things took: a figure's name, what it means, and the timings for each set of labels."""

    name: str
    help: str
    values: tuple[tuple[Labels, Timings], ...]


_HELP: Mapping[str, str] = {
    "embank_http_requests_total": "Requests answered, by method, route and status.",
    "embank_http_received_bytes_total": "Bytes of requests' bodies.",
    "embank_http_request_duration_seconds": "Time from a request's headers to the end of its answer.",
    "embank_operation_duration_seconds": "Time of searches, calls of the model, and commits of documents.",
    "embank_searches_total": "Searches answered, by mode and by whether the answer was kept from before.",
    "embank_searches_degraded_total": "Searches for which not all that there is was searched.",
    "embank_embedded_texts_total": "Texts that the model embedded.",
    "embank_embedded_tokens_total": "Tokens that the model was given.",
    "embank_written_documents_total": "Documents written durably.",
    "embank_deleted_documents_total": "Documents deleted durably.",
    "embank_memory_refusals_total": "Reservations of memory that were refused.",
    "embank_memory_actions_total": "Actions of the memory ladder, by rung.",
    "embank_jobs_total": "Long jobs that ended, by kind and state.",
}


class Metrics:
    """See the module. Thread-safe; `observe` may be a stream's callback."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, Labels], float] = {}
        self._timings: dict[tuple[str, Labels], Timings] = {}
        self.series_left_out = 0
        """Figures that found no place for their labels."""

    def observe(self, event: Event) -> None:
        """Take one event into account; kinds that no figure is made of are passed over."""
        match event:
            case RequestAnswered():
                route = (("method", event.method), ("route", event.route))
                self._count("embank_http_requests_total", (*route, ("status", str(event.status))))
                self._count("embank_http_received_bytes_total", (), event.received_bytes)
                self._time("embank_http_request_duration_seconds", route, event.seconds)
            case SearchAnswered():
                self._count(
                    "embank_searches_total", (("mode", event.mode), ("cached", "true" if event.cached else "false"))
                )
                self._count("embank_searches_degraded_total", (), int(event.degraded))
                self._time("embank_operation_duration_seconds", (("operation", "search"),), event.seconds)
            case TextsEmbedded():
                self._count("embank_embedded_texts_total", (), event.texts)
                self._count("embank_embedded_tokens_total", (), event.tokens)
                self._time("embank_operation_duration_seconds", (("operation", "embed"),), event.seconds)
            case DocumentsCommitted():
                self._count("embank_written_documents_total", (), event.documents)
                self._time("embank_operation_duration_seconds", (("operation", "write"),), event.seconds)
            case DocumentsDeleted():
                self._count("embank_deleted_documents_total", (), event.documents)
            case ReservationRefused():
                self._count("embank_memory_refusals_total", ())
            case ActionTaken():
                self._count("embank_memory_actions_total", (("rung", event.rung),))
            case JobEnded():
                self._count("embank_jobs_total", (("kind", event.work), ("state", event.state)))
            case _:
                pass

    def quantile_s(self, name: str, labels: Labels, part: float) -> float:
        """Within how many seconds `part` of that was done; 0 where nothing was."""
        timings = self._timings.get((name, labels))
        return 0.0 if timings is None else timings.quantile_s(part)

    def counted(self) -> list[Figure]:
        """All that is counted, by name."""
        with self._lock:
            counters = sorted(self._counters.items())
        names = sorted({name for (name, _), _ in counters})
        return [
            Figure(
                name, _HELP[name], "counter", tuple((labels, value) for (of, labels), value in counters if of == name)
            )
            for name in names
        ]

    def timed(self) -> list[TimedFigure]:
        """All that is timed, by name."""
        with self._lock:
            timings = sorted(self._timings.items(), key=_first)
        names = sorted({name for (name, _), _ in timings})
        return [
            TimedFigure(name, _HELP[name], tuple((labels, each) for (of, labels), each in timings if of == name))
            for name in names
        ]

    def text(self, figures: Iterable[Figure] = ()) -> str:
        """All of it, and `figures`, in Prometheus's text format."""
        lines: list[str] = []
        for counted in self.counted():
            lines += _plain(counted)
        for timed in self.timed():
            lines += _histogram(timed)
        for figure in figures:
            lines += _plain(figure)
        return "\n".join(lines) + "\n"

    def _count(self, name: str, labels: Labels, amount: float = 1) -> None:
        key = (name, labels)
        with self._lock:
            if key not in self._counters and len(self._counters) >= MOST_SERIES:
                self.series_left_out += 1
                return
            self._counters[key] = self._counters.get(key, 0) + amount

    def _time(self, name: str, labels: Labels, seconds: float) -> None:
        key = (name, labels)
        with self._lock:
            timings = self._timings.get(key)
            if timings is None:
                if len(self._timings) >= MOST_SERIES:
                    self.series_left_out += 1
                    return
                timings = self._timings[key] = Timings()
        timings.observe(seconds)


def _first(item: tuple[tuple[str, Labels], Timings]) -> tuple[str, Labels]:
    return item[0]


def _plain(figure: Figure) -> list[str]:
    lines = [_line(figure.name, labels, value) for labels, value in figure.values]
    return [*_head(figure.name, figure.help, figure.kind), *lines]


def _histogram(figure: TimedFigure) -> list[str]:
    """A histogram, and beside it percentiles, for those whose eyes are no Prometheus."""
    name = figure.name
    lines = _head(name, figure.help, "histogram")
    for labels, timings in figure.values:
        for bound_s, count in timings.cumulated():
            lines.append(_line(f"{name}_bucket", (*labels, ("le", f"{bound_s:.4g}")), count))
        lines.append(_line(f"{name}_bucket", (*labels, ("le", "+Inf")), timings.count))
        lines.append(_line(f"{name}_sum", labels, timings.sum_s))
        lines.append(_line(f"{name}_count", labels, timings.count))
    base = name.removesuffix("_seconds")
    lines += _head(f"{base}_quantile_seconds", f"Percentiles since the start. {figure.help}", "gauge")
    for labels, timings in figure.values:
        for part in QUANTILES:
            lines.append(
                _line(f"{base}_quantile_seconds", (*labels, ("quantile", str(part))), timings.quantile_s(part))
            )
    return lines


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    number = str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))
    return f"{name}{{{shown}}} {number}" if shown else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
