"""From the places of the best passages to hits: their texts, and what was asked for beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from embank.records import Hit
from embank.search.answer import Answer
from embank.search.explain import Trace, of_hits, of_search
from embank.search.fuse import Fused
from embank.search.highlight import spans
from embank.search.query import Query
from embank.store.asking import asked
from embank.store.snapshot import Snapshot


def fetched(best: Fused, query: Query, snapshot: Snapshot, trace: Trace) -> Answer:
    """The answer that consists of these passages."""
    with trace.step("fetch"):
        passages = snapshot.passages(best.slots, around=query.neighbors)
    hits = [
        Hit(
            id=passage.id,
            score=float(best.score[place]),
            text=passage.text,
            metadata=passage.metadata,
            chunk=passage.ordinal,
            start=passage.start,
            end=passage.end,
            scores=_scores(best, place, query, reranked=trace.reranked is not None),
            degraded=snapshot.degraded,
            before=passage.before,
            after=passage.after,
        )
        for place, passage in enumerate(passages)
    ]
    words = snapshot.words
    if query.highlight and words is not None:
        with trace.step("highlight"):
            wanted = asked(query.text or "", words)
            hits = [replace(hit, highlights=spans(hit.text, wanted, words)) for hit in hits]
    if not query.explain:
        return Answer(hits, query.mode, snapshot.degraded)
    search = of_search(trace, query, snapshot)
    told = of_hits(trace, best, search)
    hits = [replace(hit, explained=each) for hit, each in zip(hits, told, strict=True)]
    return Answer(hits, query.mode, snapshot.degraded, search)


def _scores(best: Fused, place: int, query: Query, *, reranked: bool) -> Mapping[str, float]:
    scores: dict[str, float] = {}
    if query.mode != "lexical":
        scores["dense"] = float(best.dense[place])
    if query.mode != "dense":
        scores["lexical"] = float(best.lexical[place])
    if reranked:
        scores["reranked"] = float(best.score[place])
    return scores
