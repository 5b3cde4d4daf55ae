"""The read path on one page: embed the query, gather candidates, fuse, choose, fetch the texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from embank.embed.model import Model
from embank.errors import FingerprintMismatch, InvalidInput, StoreError
from embank.events.kinds import SearchAnswered
from embank.events.stream import Stream
from embank.search.answer import Answer, decode, encode
from embank.search.explain import Trace
from embank.search.fetching import fetched
from embank.search.fuse import Fused, candidates, ceiling, fuse
from embank.search.like import resembling
from embank.search.picking import best_of_each, diverse, eligible, taken
from embank.search.query import Query, checked
from embank.search.remembered import remembering
from embank.search.rerank import Reranker, reranked
from embank.search.results import Results
from embank.search.settings import Mode, Settings
from embank.search.weights import Fusion
from embank.store.collection import StoredCollection
from embank.store.index.protocol import Float32, Slots
from embank.store.protocol import CollectionInfo
from embank.store.snapshot import Snapshot
from embank.system.clock import Clock

_PER_DOCUMENT = 5
"""Passages gathered first for each document asked for; more follow where several of them are of one document."""

_POOL = 5
"""Candidates for each hit among which diverse ones are chosen."""


class Searcher:
    """Searches one collection. Thread-safe.

    `model_for` gives the model of a collection's vectors; it is called only when a text must be embedded. `narrow`
    makes of a query's vector one that the collection's can be compared with, where theirs were reduced. `results` keeps
    answers for as long as they are right, where there is one. `operation` is entered around each search that is made;
    an answer that was kept is none. `reranker` gives what puts the best candidates in order, if anything does.
    `tuned` gives the weights that were fitted for a collection, which stand above those of the settings.
    """

    def __init__(
        self,
        collection: StoredCollection,
        model_for: Callable[[CollectionInfo], Model | None],
        *,
        narrow: Callable[[Float32, CollectionInfo], Float32],
        results: Results | None,
        reranker: Callable[[], Reranker | None],
        operation: AbstractContextManager[object],
        settings: Settings,
        stream: Stream,
        clock: Clock,
        tuned: Callable[[CollectionInfo], Fusion | None] = lambda _: None,
    ) -> None:
        self._collection = collection
        self._model_for = model_for
        self._narrow = narrow
        self._results = results
        self._reranker = reranker
        self._operation = operation
        self._settings = settings
        self._tuned = tuned
        self._stream = stream
        self._clock = clock

    def search(self, query: Query) -> Answer:
        """The best passages. Sees everything that was acknowledged before it began."""
        started = self._clock.monotonic()
        info = self._collection.info()

        def find() -> tuple[CollectionInfo, Answer, float]:
            of, (answer,) = self._find([query], info)
            return of, answer, self._clock.monotonic() - started

        if self._results is None or info is None:
            answer, cached = find()[1], False
        else:
            answer, cached = self._results.answer(self._results.key(query, info, self._settings), info, find)
        self._answered(answer, self._clock.monotonic() - started, cached=cached)
        return answer

    def search_many(self, queries: Sequence[Query]) -> list[Answer]:
        """The answers to queries that differ in words and vectors alone, in their order, all of one state.

        What is not known yet is embedded in one batch.
        """
        if not queries:
            return []
        started = self._clock.monotonic()
        info = self._collection.info()
        keys, kept = self._known(queries, info)
        missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in kept}
        made: dict[bytes, Answer] = {}
        if missing:
            of, found = self._find(list(missing.values()), info)
            if kept and of.sequence != (info.sequence if info else 0):  # the known answers are of the state before
                kept, missing = {}, dict(zip(keys, queries, strict=True))
                of, found = self._find(list(missing.values()), of)
            seconds = (self._clock.monotonic() - started) / len(missing)
            made.update(zip(missing, found, strict=True))
            if self._results is not None and info is not None:
                for key, answer in made.items():
                    self._results.keep(key, of, answer, seconds)
        answers: dict[bytes, Answer] = {**kept, **made}
        given: list[Answer] = []
        met: set[bytes] = set()
        share = (self._clock.monotonic() - started) / len(queries)
        for key in keys:
            given.append(decode(encode(answers[key])) if key in met else answers[key])  # each has its own
            self._answered(given[-1], share, cached=key in met or key in kept)
            met.add(key)
        return given

    def fusion(self, info: CollectionInfo) -> Fusion:
        """How a hybrid search of that state of the collection weighs its sides."""
        return self._tuned(info) or self._settings.fused()

    def rank(self, text: str, ways: Sequence[Mode | Fusion], k: int) -> list[list[str]]:
        """The ids of the `k` best documents by each of `ways`, of one state: a mode, or a hybrid fused as said.

        Nothing is kept of it, nothing reranked, and no event tells of it. Raises what a hybrid `search` raises, and
        `InvalidInput` where there is nothing to embed the question with.
        """
        info = self._collection.info()
        query = checked(text, k=k, mode="hybrid", options={"rerank": False})
        (asked,) = [query] if info is None else self._embedded([query], info)
        with self._collection.snapshot() as snapshot:
            if info is None or snapshot.info.fingerprint != info.fingerprint:
                raise StoreError(f"collection {self._collection.name!r} was re-embedded meanwhile: ask again")
            if asked.vector is None:
                raise InvalidInput(
                    f"collection {info.name!r} has no vectors of a model ({info.fingerprint}): questions can't be "
                    f"compared with them; `embank reembed` it with one",
                    fingerprint=info.fingerprint,
                )
            seen, found = remembering(snapshot), []
            for way in ways:
                mode: Mode = "hybrid" if isinstance(way, Fusion) else way
                fusion = way if isinstance(way, Fusion) else self.fusion(info)
                answer = self._answer(replace(asked, mode=mode), seen, Trace(self._clock), fusion)
                found.append([hit.id for hit in answer.hits])
            return found

    def _known(self, queries: Sequence[Query], info: CollectionInfo | None) -> tuple[list[bytes], dict[bytes, Answer]]:
        """A key for each query, and the answers that are kept."""
        if self._results is None or info is None:
            return [str(number).encode() for number in range(len(queries))], {}
        keys = [self._results.key(query, info, self._settings) for query in queries]
        found = {key: self._results.find(key, info) for key in dict.fromkeys(keys)}
        return keys, {key: answer for key, answer in found.items() if answer is not None}

    def _answered(self, answer: Answer, seconds: float, *, cached: bool) -> None:
        self._stream.publish(
            SearchAnswered(
                collection=self._collection.name,
                mode=answer.mode,
                hits=len(answer.hits),
                seconds=seconds,
                cached=cached,
                degraded=answer.degraded,
            )
        )
        self._collection.hot.touch(hit.id for hit in answer.hits)

    def _find(self, queries: Sequence[Query], info: CollectionInfo | None) -> tuple[CollectionInfo, list[Answer]]:
        """Search anew, all in one state of the collection, and which that is. Their filters are the same."""
        with self._operation:
            return self._found(queries, info)

    def _found(self, queries: Sequence[Query], info: CollectionInfo | None) -> tuple[CollectionInfo, list[Answer]]:
        first = queries[0]
        while True:
            trace = Trace(self._clock)
            with trace.step("embed"):
                asked = queries if info is None else self._embedded(queries, info)
            lexical = first.highlight or any(query.mode != "dense" for query in asked)
            with self._collection.snapshot(where=first.where, lexical=lexical) as snapshot:
                embedded = asked is not queries
                if embedded and info is not None and snapshot.info.fingerprint != info.fingerprint:
                    # It was re-embedded in between: the query's vector is of the model before.
                    info = self._collection.info()
                    continue
                answers, fusion = [], self.fusion(snapshot.info)
                for query in asked:
                    answers.append(self._answer(query, snapshot, trace, fusion.weighing(query.dense_weight)))
                    trace = Trace(self._clock)
                return snapshot.info, answers

    def _embedded(self, queries: Sequence[Query], info: CollectionInfo) -> Sequence[Query]:
        """The queries with the vectors of their words, in one batch; the very same where there is nothing to embed."""
        wordy = [
            place
            for place, query in enumerate(queries)
            if query.vector is None and query.like is None and query.mode != "lexical"
        ]
        if not wordy:
            return queries
        asked = list(queries)
        model = None if info.fingerprint is None else self._model_for(info)
        if model is None:
            # Nothing with vectors in it yet, or vectors that no model here can make: words alone, where that will do.
            if info.fingerprint is not None and any(queries[place].mode != "hybrid" for place in wordy):
                raise InvalidInput(
                    f"collection {info.name!r} holds vectors of your own ({info.fingerprint}): "
                    f"give vector=, or mode='lexical', or `embank reembed` it with a model"
                )
            for place in wordy:
                asked[place] = replace(queries[place], mode="lexical")
            return asked
        if model.fingerprint != info.fingerprint:
            raise FingerprintMismatch(
                f"collection {info.name!r} holds vectors of {info.fingerprint}, the model at hand makes "
                f"{model.fingerprint}: search with the model it was made with, or `embank reembed` it with this one",
                stored=info.fingerprint,
                offered=model.fingerprint,
            )
        rows = model.embed([queries[place].text or "" for place in wordy], "query")
        for place, row in zip(wordy, rows, strict=True):
            asked[place] = replace(queries[place], vector=row)
        return asked

    def _narrowed(self, query: Query, info: CollectionInfo) -> Query:
        """The query with a vector as the collection's are."""
        if query.vector is None or info.dimension is None:
            return query
        vector = query.vector if info.metric != "cosine" else _of_length_1(query.vector)
        vector = self._narrow(vector, info)
        if len(vector) != info.dimension:
            raise InvalidInput(
                f"the query vector has {len(query.vector)} components, {info.name!r} has {info.dimension}"
            )
        return replace(query, vector=vector)

    def _answer(self, asked: Query, snapshot: Snapshot, trace: Trace, fusion: Fusion) -> Answer:
        own: Slots = np.empty(0, np.int64)
        if asked.like is None:
            query = self._narrowed(asked, snapshot.info)
        else:
            with trace.step("like"):
                query, own = resembling(asked, snapshot)
        # Those that stand on pages before, or are the document that is asked about, are found as well.
        wanted = query.k if not query.diversity else max(_POOL * query.k, self._settings.candidates)
        reranker = self._reranker() if query.rerank and asked.like is None and (query.text or "").strip() else None
        if reranker is not None:
            wanted = max(query.k, self._settings.rerank_candidates)
        reach = wanted + len(query.seen) + len(own)
        depth = max(self._settings.candidates, reach)
        if query.mode != "hybrid":  # nothing is fused: so many are only needed where documents have many passages
            depth = min(depth, _PER_DOCUMENT * reach)
        while True:
            found = self._gather(query, snapshot, depth, trace, fusion)
            good = eligible(found, query, snapshot, own=own)
            best = best_of_each(good, snapshot, wanted, per_document=query.per_document)
            low = query.min_score is not None and trace.rest < query.min_score
            if len(best.slots) >= wanted or len(found.slots) < depth or depth >= snapshot.info.slots or low:
                break
            depth *= 4
        if reranker is not None and len(best.slots):
            with trace.step("rerank"):
                texts = [passage.text for passage in snapshot.passages(best.slots)]
                best = trace.reranked = reranked(best, reranker, query.text or "", texts)
        if query.diversity and len(best.slots):
            with trace.step("diversity"):
                best = diverse(best, snapshot.vectors(best.slots), query.k, diversity=query.diversity)
        return fetched(taken(best, slice(query.k)), query, snapshot, trace)

    def _gather(self, query: Query, snapshot: Snapshot, depth: int, trace: Trace, fusion: Fusion) -> Fused:
        trace.depth = depth
        if query.mode == "lexical" or query.vector is None:
            with trace.step("lexical"):
                words = trace.lexical = snapshot.lexical(query.text or "", depth)
            found = Fused(words.slots, np.zeros_like(words.scores), words.scores, words.scores)
        else:
            with trace.step("dense"):
                dense = trace.dense = snapshot.dense(query.vector, depth)
            if query.mode == "dense":
                found = Fused(dense.slots, dense.scores, np.zeros_like(dense.scores), dense.scores)
            else:
                with trace.step("lexical"):
                    words = trace.lexical = snapshot.lexical(query.text or "", depth)
                with trace.step("fuse"):
                    slots = candidates(dense, words)
                    similarity = snapshot.similarity(query.vector, slots)
                    most = ceiling(*snapshot.terms(query.text or ""))
                    found = fuse(slots, similarity, words, fusion=fusion, depth=depth, ceiling=most)
        trace.found = found
        return found


def _of_length_1(vector: Float32) -> Float32:
    length = np.linalg.norm(vector)
    if length == 0:
        raise InvalidInput("a query vector must hold finite numbers, not all zero, where the metric is cosine")
    return np.asarray(vector / length, np.float32)
