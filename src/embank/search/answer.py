"""What a search answers, and its form in the cache of results: JSON, so that what is handed out is the caller's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embank.records import Hit


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first. `explained` is what holds for all of them, where it was asked for."""

    hits: list[Hit]
    degraded: bool = False
    explained: Mapping[str, Any] | None = None


def encode(answer: Answer) -> bytes:
    """Its form in the cache."""
    return json.dumps([answer.degraded, answer.explained, [_fields(hit) for hit in answer.hits]]).encode()


def decode(content: bytes) -> Answer:
    """What `encode` made of an answer, as a new one. What is explained says that it comes from the cache."""
    degraded, explained, rows = json.loads(content)
    hits = [Hit(*row) for row in rows]
    if hits and (hits[0].highlights or any(hit.highlights for hit in hits)):
        hits = [replace(hit, highlights=tuple((start, end) for start, end in hit.highlights)) for hit in hits]
    if explained is not None:
        explained["cached"] = True
        hits = [replace(hit, explained={**(hit.explained or {}), "search": explained}) for hit in hits]
    return Answer(hits, degraded, explained)


def _fields(hit: Hit) -> tuple[object, ...]:
    sides = None if hit.explained is None else {name: hit.explained[name] for name in hit.explained if name != "search"}
    # In the order of the record, up to the last field that says anything.
    told = (
        hit.id,
        hit.score,
        hit.text,
        dict(hit.metadata),
        hit.chunk,
        hit.start,
        hit.end,
        dict(hit.scores),
        hit.degraded,
        hit.highlights,
        hit.before,
        hit.after,
        sides,
    )
    return told if any(told[9:]) else told[:9]
