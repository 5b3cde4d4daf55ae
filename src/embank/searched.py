"""What a collection of a local bank answers: searches, many at once, by pages, and by a document of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from embank.collection import Where
from embank.engine import Engine
from embank.errors import InvalidInput
from embank.records import Hit
from embank.search.pages import Page, page, resumed
from embank.search.query import Options, Query, checked
from embank.search.settings import Mode
from embank.store.collection import StoredCollection
from embank.store.index.protocol import Float32


class Searched:
    """A collection of an open bank, as far as questions are concerned. Thread-safe."""

    def __init__(self, engine: Engine, stored: StoredCollection) -> None:
        self._engine = engine
        self._stored = stored

    def search(
        self,
        query: str | None = None,
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        vector: object = None,
        **options: Unpack[Options],
    ) -> list[Hit]:
        """The `k` best documents, each with its best passage; fewer when the collection has fewer.

        Asked in words, or by a `vector` of shape (dimension,), which stands in for embedding them; alone it makes a
        dense search, and its length counts where the metric is not cosine. `mode` is hybrid (default), dense or
        lexical. `embank.search.query.Options` has what else may be asked for: `min_score`, `highlight`, `neighbors`,
        `explain`, `per_document`, `diversity`. What a score means stands at `Hit`.

        Sees everything acknowledged before it began. Raises `CollectionNotFound`, and `InvalidInput`.
        """
        asked = self._checked(query, k=k, where=where, mode=mode, vector=vector, options=options)
        return self._engine.searcher(self._stored).search(asked).hits

    def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        vectors: object = None,
        **options: Unpack[Options],
    ) -> list[list[Hit]]:
        """As `search` for each of the queries, in their order: embedded in one batch, answered of one state.

        `vectors`, shape (len(queries), dimension), stand in for embedding them.
        """
        if isinstance(queries, str | bytes) or not isinstance(queries, Sequence):
            raise InvalidInput("queries must be a list of questions, not a single one")
        rows = [None] * len(queries) if vectors is None else list(_rows(vectors, len(queries)))
        asked = [
            self._checked(query, k=k, where=where, mode=mode, vector=row, options=options)
            for query, row in zip(queries, rows, strict=True)
        ]
        return [answer.hits for answer in self._engine.searcher(self._stored).search_many(asked)]

    def search_page(
        self,
        query: str | None = None,
        *,
        k: int = 10,
        after: str | None = None,
        where: Where | None = None,
        mode: Mode | None = None,
        vector: object = None,
        like: str | None = None,
        **options: Unpack[Options],
    ) -> Page:
        """As `search`, or `like` a document, page by page: go on with `after` = that of the page before.

        While others write, no document comes twice, and none that was there all the time is left out. Pages go
        1,000 documents deep. Raises `InvalidInput` for a cursor that is damaged or of another question.
        """
        asked = self._checked(query, k=k, where=where, mode=mode, vector=vector, like=like, options=options)
        asked = resumed(asked, self._stored.name, after)
        return page(asked, self._stored.name, self._engine.searcher(self._stored).search(asked))

    def like(
        self,
        id: str,  # noqa: A002 -- what it is called everywhere
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]:
        """The `k` documents that are most like the one of that id, which is not among them; nothing is embedded.

        By the mean of its stored vectors, and by the words that tell it from the others. Raises `DocumentNotFound`.
        """
        asked = self._checked(None, k=k, where=where, mode=mode, like=id, options=options)
        return self._engine.searcher(self._stored).search(asked).hits

    def _checked(
        self, query: object, *, mode: Mode | None, options: Options, like: object = None, **asked: Any
    ) -> Query:
        chosen = mode or self._engine.config.section("search").mode
        if query is not None and like is not None:
            raise InvalidInput("ask in words, or for what is like a document, not both")
        return checked(query, mode=chosen, like=like, options=dict(options), **asked)


def _rows(vectors: object, count: int) -> Float32:
    try:
        rows = np.asarray(vectors, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"vectors must be rows of numbers, one for each query: {error}") from error
    if rows.ndim != 2 or len(rows) != count:
        raise InvalidInput(f"vectors must be {count} rows, one for each query, not of shape {rows.shape}")
    return rows
