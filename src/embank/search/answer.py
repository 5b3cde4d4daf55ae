"""What a search answers, and its form in the cache of results: bytes, so that what is handed out is the caller's own.

Plain values by `marshal`, which reads them in a tenth of the time that JSON takes and keeps tuples apart from lists. It
never meets bytes of anybody else: the cache is this process's memory.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embank.records import Hit
from embank.search.settings import Mode


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first, and the mode they were found by: words alone where there is nothing else to go by.

    `explained` is what holds for all of them, where it was asked for.
    """

    hits: list[Hit]
    mode: Mode
    degraded: bool = False
    explained: Mapping[str, Any] | None = None


def encode(answer: Answer) -> bytes:
    """Its form in the cache."""
    explained = None if answer.explained is None else dict(answer.explained)
    return marshal.dumps((answer.mode, answer.degraded, explained, [_fields(hit) for hit in answer.hits]))


def decode(content: bytes) -> Answer:
    """What `encode` made of an answer, as a new one. What is explained says that it comes from the cache."""
    mode, degraded, explained, rows = marshal.loads(content)  # noqa: S302 -- our own bytes: see the module
    hits = [Hit(*row) for row in rows]
    if explained is not None:
        explained["cached"] = True
        hits = [replace(hit, explained={**(hit.explained or {}), "search": explained}) for hit in hits]
    return Answer(hits, mode, degraded, explained)


def _fields(hit: Hit) -> tuple[object, ...]:
    """In the order of the record, up to the last field that says anything."""
    fields = (hit.id, hit.score, hit.text, dict(hit.metadata), hit.chunk, hit.start, hit.end, dict(hit.scores))
    if not (hit.degraded or hit.highlights or hit.before or hit.after or hit.explained):
        return fields
    sides = None if hit.explained is None else {name: hit.explained[name] for name in hit.explained if name != "search"}
    return (*fields, hit.degraded, hit.highlights, hit.before, hit.after, sides)
