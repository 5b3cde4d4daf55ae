"""LangChain over a bank or a running server: vector store, embeddings, retriever and byte store.

    with embank.open("my.bank") as bank:
        store = EmbankVectorStore(bank, "notes")
        store.add_documents([Document("Rivers carry silt.", metadata={"year": 2024})])
        store.as_retriever(search_kwargs={"k": 5, "filter": {"year": {"$gte": 2020}}}).invoke("what do rivers carry?")

In place of the bank stands an `embank.Client` where a server holds it. Asynchronous methods run in threads.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from pydantic import ConfigDict, Field

from embank.errors import InvalidInput, MissingExtra
from embank.integrations.embedding import Embedder, Source
from embank.integrations.shelf import EVERYTHING, Place, Vector, Where, shelf
from embank.integrations.values import Values
from embank.records import Document as Record
from embank.records import Hit
from embank.search.settings import Mode

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
    from langchain_core.stores import BaseStore
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise MissingExtra("langchain-core", "langchain") from error

_EMBEDDED_AT_ONCE = 256
_POOL = 5
"""A diverse search of Embank chooses `k` of 5 × `k` documents at least."""


class EmbankEmbeddings(Embeddings):
    """Vectors by Embank's engine: of an open bank, a server (`embank.Client`), or a model by name, without any bank.

    Rows have length 1. Questions and passages are embedded as such, where the model tells them apart. Thread-safe.
    """

    def __init__(self, source: Source = "minilm") -> None:
        self.embedder = Embedder(source)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embedder.passages(texts)

    def embed_query(self, text: str) -> list[float]:
        return self.embedder.query(text)


class EmbankVectorStore(VectorStore):
    """A collection as LangChain's vector store.

    Without `embedding`, or with an `EmbankEmbeddings` of the same bank or server, Embank's own engine embeds: long
    documents are cut into passages, searched by their best one and returned whole. Any other `embedding` makes one
    vector a document, kept in the space `user:SPACE:DIMENSION`; `space` is named for its class and model unless said,
    and vectors of another space or dimension are refused (`FingerprintMismatch`).

    `mode` is that of every search: `dense`, `lexical` or `hybrid`; unless said, as the bank's settings have it, which
    is hybrid at first. A `filter` is what `where` is everywhere in Embank, such as `{"year": {"$gte": 2020}}`. What
    else `Collection.search` takes (`mode`, `min_score`, `dense_weight`, …) each search takes by keyword.

    Ids: what is added under an id that is there replaces it. A document without one is known by the hash of text and
    metadata, so that the same added twice is there once. Thread-safe.
    """

    def __init__(
        self,
        bank: Place,
        collection: str | None = None,
        *,
        embedding: Embeddings | None = None,
        space: str | None = None,
        mode: Mode | None = None,
    ) -> None:
        self.shelf = shelf(bank, collection)
        self.mode = mode
        self._embedding = embedding
        own = isinstance(embedding, EmbankEmbeddings) and embedding.embedder.source is bank
        self._vectors_by = None if own else embedding
        self._space = space or ("own" if embedding is None else _space(embedding))

    @property
    def embeddings(self) -> Embeddings | None:
        return self._embedding

    # --- writing ---

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **unknown: Any,
    ) -> list[str]:
        """Upsert texts and return their ids; durable and visible when it returns.

        `batch_size` bounds how many texts `embedding` is handed at once. Raises `InvalidInput`.
        """
        if unknown:
            raise InvalidInput(f"there are no options {', '.join(sorted(unknown))} for adding texts")
        listed = list(texts)
        records = _records(listed, metadatas, ids)
        if self._vectors_by is None:
            self.shelf.add(records)
        else:
            step = batch_size or _EMBEDDED_AT_ONCE
            for start in range(0, len(records), step):
                some = records[start : start + step]
                rows = self._vectors_by.embed_documents([each.text for each in some])
                self.shelf.add(some, vectors=rows, space=self._space)
        return [each.id for each in records]

    def delete(self, ids: list[str] | None = None, *, filter: Where | None = None, **unknown: Any) -> bool:
        """Delete by ids, or by a filter; without either **all** documents of the collection, as LangChain has it.

        True, also where there was nothing. Raises `ProtectedCollectionError`.
        """
        if unknown or (ids is not None and filter is not None):
            raise InvalidInput("delete takes ids or a filter, and nothing else")
        if ids is None:
            self.shelf.delete(where=filter or EVERYTHING)
        elif ids:
            self.shelf.delete(ids)
        return True

    # --- reading ---

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Those of these ids that are there, in the order of `ids`."""
        return [_document(each.id, each.text, each.metadata) for each in self.shelf.get(ids)]

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        filter: Where | None = None,
        **options: Any,
    ) -> list[Document]:
        """The `k` best documents, best first."""
        return [found for found, _ in self._found(query, None, k, filter, options)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Where | None = None,
        **options: Any,
    ) -> list[tuple[Document, float]]:
        """The `k` best documents with their scores: **higher is better**, not a distance.

        With the cosine -1 to 1; a hybrid search's is the weighted mean of that and of the share of the question's words
        that were found. A lexical search's is BM25. `embank.Hit` has the rest.
        """
        return [(found, hit.score) for found, hit in self._found(query, None, k, filter, options)]

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Where | None = None,
        **options: Any,
    ) -> list[Document]:
        """The `k` documents whose vectors are nearest to that one, best first."""
        return [found for found, _ in self._found(None, embedding, k, filter, options)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where | None = None,
        **options: Any,
    ) -> list[Document]:
        """The `k` documents that are good and unlike each other, of `fetch_k` candidates or some more.

        `lambda_mult` is 1 for the best ones, 0 for the most diverse.
        """
        return self._diverse(query, None, k, fetch_k, lambda_mult, filter, options)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where | None = None,
        **options: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for a vector."""
        return self._diverse(None, embedding, k, fetch_k, lambda_mult, filter, options)

    def _similarity_search_with_relevance_scores(
        self,
        query: str,
        k: int = 4,
        filter: Where | None = None,
        **options: Any,
    ) -> list[tuple[Document, float]]:
        """Scores brought to 0 to 1, higher is better, in the same order; `score_threshold` compares with them.

        The cosine as it is, 0 where it is negative, and so a hybrid score with it; 1 / (1 + squared distance) for l2;
        the logistic function for dot and for a reranker's score; b / (1 + b) for BM25.
        """
        metric = self.shelf.metric()
        return [(found, _relevance(hit, metric)) for found, hit in self._found(query, None, k, filter, options)]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        found: list[tuple[Document, float]] = await run_in_executor(
            None, self._similarity_search_with_relevance_scores, query, k, **options
        )
        return found

    def _diverse(
        self,
        query: str | None,
        vector: Vector | None,
        k: int,
        fetch_k: int,
        lambda_mult: float,
        where: Where | None,
        options: dict[str, Any],
    ) -> list[Document]:
        # What is chosen first of many is what is chosen of them where fewer are asked for.
        wanted = max(k, math.ceil(fetch_k / _POOL))
        options = {**options, "diversity": 1 - lambda_mult}
        return [found for found, _ in self._found(query, vector, wanted, where, options, shown=k)]

    def _found(
        self,
        query: str | None,
        vector: Vector | None,
        k: int,
        where: Where | None,
        options: dict[str, Any],
        *,
        shown: int | None = None,
    ) -> Iterator[tuple[Document, Hit]]:
        """Whole documents with their hits, the first `shown` of `k`."""
        options = {"mode": self.mode, **options}
        if vector is None and query is not None and self._vectors_by is not None and options["mode"] != "lexical":
            vector = self._vectors_by.embed_query(query)
        hits = self.shelf.search(query, vector=vector, k=k, where=where or None, **options)[:shown]
        whole = {each.id: each for each in self.shelf.get([hit.id for hit in hits])}
        for hit in hits:
            if hit.id in whole:  # else it was deleted in between
                kept = whole[hit.id]
                yield _document(kept.id, kept.text, kept.metadata), hit

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **options: Any,
    ) -> Self:
        """A store over `bank=` (and what else the class takes) to which the texts were added."""
        if "bank" not in options:
            raise InvalidInput("say where the texts are to be kept: bank= takes an open bank or an embank.Client")
        made = cls(options.pop("bank"), embedding=embedding, **options)
        made.add_texts(texts, metadatas, ids=ids)
        return made


class EmbankRetriever(BaseRetriever):
    """A retriever with its number of results as a field: `EmbankRetriever(store=store, k=3).invoke("…")`.

    `store.as_retriever(search_kwargs={"k": 3})` is the same by LangChain's own class. `k`, `filter` and the options of
    a search can be given to `invoke` as well, for that call.
    """

    store: EmbankVectorStore
    k: int = 4
    filter: dict[str, Any] | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        asked = {"k": self.k, "filter": self.filter, **self.options, **given}
        return self.store.similarity_search(query, **asked)


class EmbankByteStore(BaseStore[str, bytes]):
    """Bytes under keys in a collection of their own, as `CacheBackedEmbeddings` wants them.

    Durable: what `mset` wrote survives a crash of anything. Bounded: beyond `most` documents (a value has one for each
    45,000 bytes begun) the oldest go; on a server that asks for a key of scope admin. Thread-safe.
    """

    def __init__(self, bank: Place, collection: str = "bytes", *, most: int = 100_000) -> None:
        self._values = Values(shelf(bank, collection), most=most)

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._values.get(keys)

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        self._values.set(key_value_pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        self._values.delete(keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Keys that begin with `prefix`, in order."""
        yield from self._values.keys(prefix or "")


def _records(
    texts: list[str], metadatas: list[dict[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[Record]:
    for what, given in (("metadatas", metadatas), ("ids", ids)):
        if given is not None and len(given) != len(texts):
            raise InvalidInput(f"{what} must be as many as the texts: {len(given)} for {len(texts)}")
    held = metadatas or [{}] * len(texts)
    named = ids or [None] * len(texts)
    return [
        Record(name or _content_id(text, metadata), text, metadata or {})
        for name, text, metadata in zip(named, texts, held, strict=True)
    ]


def _content_id(text: str, metadata: dict[str, Any] | None) -> str:
    try:
        told = json.dumps([text, metadata or {}], sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the metadata of {text[:40]!r} can't be kept: {error}") from error
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def _document(name: str, text: str, metadata: Any) -> Document:
    return Document(id=name, page_content=text, metadata=dict(metadata))


def _space(embedding: Embeddings) -> str:
    """A name for the vectors of somebody's embeddings: class and model, without what a name can't hold."""
    model = next(
        (each for key in ("model", "model_name") if isinstance(each := getattr(embedding, key, None), str)), ""
    )
    named = "-".join(filter(None, (type(embedding).__name__, model)))
    return "".join(each if each.isprintable() and each != ":" else "-" for each in named)


def _relevance(hit: Hit, metric: str) -> float:
    score = hit.score
    if "reranked" in hit.scores or (metric == "dot" and "dense" in hit.scores):
        return 1 / (1 + math.exp(-max(min(score, 700.0), -700.0)))
    if "dense" not in hit.scores:
        return score / (1 + score)
    return max(0.0, min(1.0, score if metric == "cosine" else 1 / (1 - min(score, 0.0))))
