"""The read path on one page: embed the query, gather candidates, fuse, one passage a document, fetch the texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from embank.embed.model import Model
from embank.errors import FingerprintMismatch, InvalidInput, StoreError
from embank.events.kinds import SearchAnswered
from embank.events.stream import Stream
from embank.records import Hit
from embank.search.fuse import Fused, candidates, ceiling, fuse
from embank.search.remembered import remembering
from embank.search.results import Results
from embank.search.settings import Mode, Settings
from embank.search.weights import Fusion
from embank.store.collection import StoredCollection
from embank.store.index.protocol import Float32
from embank.store.metric import MOST_LENGTH
from embank.store.protocol import CollectionInfo
from embank.store.snapshot import Snapshot
from embank.system.clock import Clock

MAX_K = 10_000

_PER_DOCUMENT = 5
"""Passages gathered first for each document asked for; more follow where several of them are of one document."""

_MODES: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, checked: words, or a vector, or both."""

    text: str | None
    vector: Float32 | None
    k: int
    mode: Mode
    where: Mapping[str, Any] | None


class Searcher:
    """Searches one collection. Thread-safe.

    `model_for` gives the model of a collection's vectors; it is called only when a text must be embedded. `narrow`
    makes of a query's vector one that the collection's can be compared with, where theirs were reduced. `results` keeps
    answers for as long as they are right, where there is one. `tuned` gives the weights that were fitted for a
    collection, which stand above those of the settings.
    """

    def __init__(
        self,
        collection: StoredCollection,
        model_for: Callable[[CollectionInfo], Model | None],
        *,
        narrow: Callable[[Float32, CollectionInfo], Float32],
        results: Results | None,
        settings: Settings,
        stream: Stream,
        clock: Clock,
        tuned: Callable[[CollectionInfo], Fusion | None] = lambda _: None,
    ) -> None:
        self._collection = collection
        self._model_for = model_for
        self._narrow = narrow
        self._results = results
        self._settings = settings
        self._tuned = tuned
        self._stream = stream
        self._clock = clock

    def search(
        self,
        text: str | None,
        *,
        vector: object = None,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        mode: Mode | None = None,
    ) -> list[Hit]:
        """The `k` best documents, each with its best passage; fewer when the collection has fewer.

        `vector`, shape (dimension,), stands in for embedding `text`; alone it makes a dense search. Its length counts
        where the collection's metric is not cosine.
        """
        started = self._clock.monotonic()
        query = _checked(text, vector, k, mode or self._settings.mode, where)
        info = self._collection.info()
        key = None
        if self._results is not None and info is not None:
            key = self._results.key(query, info, self._settings)
            kept = self._results.find(key, info)
            if kept is not None:
                self._answered(query.mode, kept, started, cached=True)
                return kept
        while True:
            asked = query
            if info is not None and query.mode != "lexical" and query.vector is None:
                asked = self._embedded(query, info)
            with self._collection.snapshot(where=where, lexical=asked.mode != "dense") as snapshot:
                if asked is not query and info is not None and snapshot.info.fingerprint != info.fingerprint:
                    # It was re-embedded in between: the query's vector is of the model before.
                    info = self._collection.info()
                    continue
                asked = self._narrowed(asked, snapshot.info)
                hits = self._answer(asked, snapshot, self.fusion(snapshot.info))
                if self._results is not None and key is not None and not snapshot.degraded:
                    self._results.keep(key, snapshot.info, hits, self._clock.monotonic() - started)
            break
        self._answered(asked.mode, hits, started, cached=False)
        return hits

    def fusion(self, info: CollectionInfo) -> Fusion:
        """How a hybrid search of that state of the collection weighs its sides."""
        return self._tuned(info) or self._settings.fused()

    def rank(self, text: str, ways: Sequence[Mode | Fusion], k: int) -> list[list[str]]:
        """The ids of the `k` best documents by each of `ways`, of one state: a mode, or a hybrid fused as said.

        Nothing is kept of it, and no event tells of it. Raises what a hybrid `search` raises, and `InvalidInput` where
        there is nothing to embed the question with.
        """
        info = self._collection.info()
        query = _checked(text, None, k, "hybrid", None)
        asked = query if info is None else self._embedded(query, info)
        with self._collection.snapshot() as snapshot:
            if info is None or snapshot.info.fingerprint != info.fingerprint:
                raise StoreError(f"collection {self._collection.name!r} was re-embedded meanwhile: ask again")
            asked, seen, found = self._narrowed(asked, snapshot.info), remembering(snapshot), []
            if asked.vector is None:
                raise InvalidInput(
                    f"collection {info.name!r} has no vectors of a model ({info.fingerprint}): questions can't be "
                    f"compared with them; `embank reembed` it with one",
                    fingerprint=info.fingerprint,
                )
            for way in ways:
                mode: Mode = "hybrid" if isinstance(way, Fusion) else way
                fusion = way if isinstance(way, Fusion) else self.fusion(info)
                hits = self._answer(Query(text, asked.vector, k, mode, None), seen, fusion)
                found.append([hit.id for hit in hits])
            return found

    def _answered(self, mode: Mode, hits: list[Hit], started: float, *, cached: bool) -> None:
        name, seconds = self._collection.name, self._clock.monotonic() - started
        degraded = any(hit.degraded for hit in hits)
        self._stream.publish(
            SearchAnswered(
                collection=name, mode=mode, hits=len(hits), seconds=seconds, cached=cached, degraded=degraded
            )
        )
        self._collection.hot.touch(hit.id for hit in hits)

    def _embedded(self, query: Query, info: CollectionInfo) -> Query:
        if info.fingerprint is None:  # nothing with vectors in it yet
            return Query(query.text, None, query.k, "lexical", query.where)
        model = self._model_for(info)
        if model is None:
            if query.mode == "hybrid":
                return Query(query.text, None, query.k, "lexical", query.where)
            raise InvalidInput(
                f"collection {info.name!r} holds vectors of your own ({info.fingerprint}): "
                f"give vector=, or mode='lexical', or `embank reembed` it with a model"
            )
        if model.fingerprint != info.fingerprint:
            raise FingerprintMismatch(
                f"collection {info.name!r} holds vectors of {info.fingerprint}, the model at hand makes "
                f"{model.fingerprint}: search with the model it was made with, or `embank reembed` it with this one",
                stored=info.fingerprint,
                offered=model.fingerprint,
            )
        return Query(query.text, model.embed([query.text or ""], "query")[0], query.k, query.mode, query.where)

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
        return Query(query.text, vector, query.k, query.mode, query.where)

    def _answer(self, query: Query, snapshot: Snapshot, fusion: Fusion) -> list[Hit]:
        depth = max(self._settings.candidates, query.k)
        if query.mode != "hybrid":  # nothing is fused: so many are only needed where documents have many passages
            depth = min(depth, _PER_DOCUMENT * query.k)
        while True:
            found = self._gather(query, snapshot, depth, fusion)
            best = _best_of_each(found, snapshot, query.k)
            if len(best.slots) >= query.k or len(found.slots) < depth or depth >= snapshot.info.slots:
                return _hits(best, snapshot, query.mode)
            depth *= 4

    def _gather(self, query: Query, snapshot: Snapshot, depth: int, fusion: Fusion) -> Fused:
        if query.mode == "lexical" or query.vector is None:
            words = snapshot.lexical(query.text or "", depth)
            return Fused(words.slots, np.zeros_like(words.scores), words.scores, words.scores)
        dense = snapshot.dense(query.vector, depth)
        if query.mode == "dense":
            return Fused(dense.slots, dense.scores, np.zeros_like(dense.scores), dense.scores)
        words = snapshot.lexical(query.text or "", depth)
        slots = candidates(dense, words)
        similarity = snapshot.similarity(query.vector, slots)
        most = ceiling(*snapshot.terms(query.text or ""))
        return fuse(slots, similarity, words, fusion=fusion, depth=depth, ceiling=most)


def _checked(text: object, vector: object, k: object, mode: object, where: Mapping[str, Any] | None) -> Query:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise InvalidInput(f"k must be a whole number from 1 to {MAX_K}, not {k!r}")
    chosen = _MODES.get(str(mode))
    if chosen is None:
        raise InvalidInput(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
    if text is not None and not isinstance(text, str):
        raise InvalidInput(f"a query must be a string, not {type(text).__name__}")
    blank = text is None or not text.strip()
    if vector is None and blank:
        raise InvalidInput("the query is empty: ask for something")
    if text is not None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the query holds a lone surrogate at {error.start}: it is not valid Unicode") from error
    row = None if vector is None else _finite_vector(vector)
    return Query(text, row, k, "dense" if blank else chosen, where)


def _finite_vector(vector: object) -> Float32:
    """A caller's vector as float32; `InvalidInput` when it is no finite row of numbers."""
    try:
        row = np.asarray(vector, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a query vector must be a row of numbers: {error}") from error
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(row)) if row.ndim == 1 and row.size else math.nan
    if not length <= MOST_LENGTH:
        raise InvalidInput(
            f"a query vector must be one row of finite numbers, not longer than {MOST_LENGTH:g} (shape {row.shape})"
        )
    return row


def _of_length_1(vector: Float32) -> Float32:
    length = np.linalg.norm(vector)
    if length == 0:
        raise InvalidInput("a query vector must hold finite numbers, not all zero, where the metric is cosine")
    return np.asarray(vector / length, np.float32)


def _best_of_each(found: Fused, snapshot: Snapshot, k: int) -> Fused:
    """The best passage of each of the `k` best documents."""
    owners = snapshot.owners(found.slots)
    seen: set[int] = set()
    keep = []
    for place, slot in enumerate(found.slots.tolist()):
        owner = owners.get(slot)
        if owner is None or owner in seen:
            continue
        seen.add(owner)
        keep.append(place)
        if len(keep) == k:
            break
    return Fused(found.slots[keep], found.dense[keep], found.lexical[keep], found.score[keep], found.weights)


def _hits(best: Fused, snapshot: Snapshot, mode: Mode) -> list[Hit]:
    hits = []
    for place, passage in enumerate(snapshot.passages(best.slots)):
        parts = {"dense": float(best.dense[place]), "lexical": float(best.lexical[place])}
        hits.append(
            Hit(
                id=passage.id,
                score=float(best.score[place]),
                text=passage.text,
                metadata=passage.metadata,
                chunk=passage.ordinal,
                start=passage.start,
                end=passage.end,
                scores=parts if mode == "hybrid" else {mode: parts[mode]},
                degraded=snapshot.degraded,
            )
        )
    return hits
