"""Events folded into spans: one for each request, and below it what was done within it.

A request's event comes when all else of it has happened, so what was done within it waits for that, within bounds. What
comes later, such as the work of a job that the request began, is put below it all the same. Two requests under way that
their callers gave the same id may get each other's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from embank.events.event import Event
from embank.events.kinds import RequestAnswered
from embank.http.telemetry.names import Named, span_of

_MOST_REQUESTS = 1_000
_MOST_WITHIN = 100
_UNTRACED = frozenset({"/livez", "/readyz"})


class Spans:
    """To be called by one thread at a time, as a stream's callback is. `left_out` counts acts that found no place."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._waiting: OrderedDict[str, list[tuple[Event, Named]]] = OrderedDict()
        self._ended: OrderedDict[str, Any] = OrderedDict()
        self.left_out = 0

    def observe(self, event: Event) -> None:
        """Take an event into account; what happened in no request, and probes, are passed over."""
        named = span_of(event)
        if named is None:
            return
        if isinstance(event, RequestAnswered):
            self._answered(event, named)
        elif event.during is not None:
            parent = self._ended.get(event.during)
            if parent is None:
                self._wait(event.during, event, named)
            else:
                self._span(event, named, parent)

    def _answered(self, event: RequestAnswered, named: Named) -> None:
        within = self._waiting.pop(event.request_id, [])
        if event.route in _UNTRACED:
            return
        caller = {} if event.traceparent is None else {"traceparent": event.traceparent}
        parent = TraceContextTextMapPropagator().extract(caller)
        context = set_span_in_context(self._span(event, named, parent, kind=SpanKind.SERVER))
        for each, its in within:
            self._span(each, its, context)
        self._ended[event.request_id] = context
        if len(self._ended) > _MOST_REQUESTS:
            self._ended.popitem(last=False)

    def _wait(self, request: str, event: Event, named: Named) -> None:
        within = self._waiting.setdefault(request, [])
        if len(within) < _MOST_WITHIN:
            within.append((event, named))
        else:
            self.left_out += 1
        if len(self._waiting) > _MOST_REQUESTS:
            _, lost = self._waiting.popitem(last=False)
            self.left_out += len(lost)

    def _span(self, event: Event, named: Named, parent: Any, *, kind: SpanKind = SpanKind.INTERNAL) -> Any:
        end_ns = int(event.at * 1e9)
        span = self._tracer.start_span(
            named.name,
            context=parent,
            kind=kind,
            attributes=dict(named.attributes),
            start_time=end_ns - int(named.seconds * 1e9),
        )
        if named.error is not None:
            span.set_attribute("error.type", named.error)
            span.set_status(StatusCode.ERROR)
        span.end(end_time=end_ns)
        return span
