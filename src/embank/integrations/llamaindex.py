"""LlamaIndex over a bank or a running server: vector store and embeddings.

    with embank.open("my.bank") as bank:
        store = EmbankVectorStore(bank=bank, collection="notes")
        index = VectorStoreIndex.from_vector_store(store, embed_model=EmbankEmbedding(bank))
        index.insert_nodes(nodes)
        index.as_retriever(similarity_top_k=5, vector_store_query_mode="hybrid").retrieve("what do rivers carry?")

In place of the bank stands an `embank.Client` where a server holds it. Asynchronous methods run in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr

from embank.errors import InvalidInput, MissingExtra
from embank.integrations.embedding import Embedder, Source
from embank.integrations.filters import matching
from embank.integrations.shelf import EVERYTHING, Place, Shelf, Where, shelf
from embank.records import Document, StoredDocument

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.schema import BaseNode, MetadataMode, TextNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as error:
    raise MissingExtra("llama-index-core", "llamaindex") from error


class EmbankEmbedding(BaseEmbedding):
    """Vectors by Embank's engine: of an open bank, a server (`embank.Client`), or a model by name, without any bank."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, source: Source = "minilm", **options: Any) -> None:
        embedder = Embedder(source)
        super().__init__(**{"model_name": embedder.name, **options})
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        return "EmbankEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedder.query(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embedder.passages([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.passages(texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class EmbankVectorStore(BasePydanticVectorStore):
    """A collection as LlamaIndex's vector store: a node is a document, under the node's id.

    Nodes that come with embeddings, as from an index, are stored with them in the space `user:SPACE:DIMENSION`. Nodes
    without are embedded by Embank's own engine; make the store with `is_embedding_query=False` then, so that questions
    are, too. Both in one collection are refused (`FingerprintMismatch`).

    Query modes: `default` (vectors alone), `text_search` and `sparse` (words alone), `hybrid` (`alpha`: 0 for words, 1
    for vectors; unless said, as the bank weighs them) and `mmr` (`mmr_threshold`: 1 for the best, 0 for the most
    diverse, 0.5 unless said). Others are refused with `InvalidInput`. Similarities are Embank's scores: higher is
    better; see `embank.Hit`.

    Filters: all operators and conditions but `text_match_insensitive`, by the rules of Embank's `where`: values are
    compared with those of their own type, and what is negated holds of nodes that lack the key, too. Thread-safe.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    space: str = "llamaindex"

    _bank: Any = PrivateAttr()
    _shelf: Shelf = PrivateAttr()

    _modes: ClassVar[dict[VectorStoreQueryMode, str]] = {
        VectorStoreQueryMode.DEFAULT: "dense",
        VectorStoreQueryMode.TEXT_SEARCH: "lexical",
        VectorStoreQueryMode.SPARSE: "lexical",
        VectorStoreQueryMode.HYBRID: "hybrid",
        VectorStoreQueryMode.MMR: "dense",
    }

    def __init__(self, bank: Place, collection: str | None = None, **fields: Any) -> None:
        super().__init__(**fields)
        self._bank = bank
        self._shelf = shelf(bank, collection)

    @classmethod
    def class_name(cls) -> str:
        return "EmbankVectorStore"

    @property
    def client(self) -> Any:
        """The bank or client that it was made with."""
        return self._bank

    # --- writing ---

    def add(self, nodes: Sequence[BaseNode], **_: Any) -> list[str]:
        """Upsert nodes by their ids; durable and visible when it returns. All have embeddings, or none."""
        documents = [_document(node) for node in nodes]
        rows = [node.embedding for node in nodes if node.embedding is not None]
        if rows and len(rows) < len(nodes):
            raise InvalidInput(f"{len(nodes) - len(rows)} of {len(nodes)} nodes have no embedding: embed all or none")
        if documents:
            self._shelf.add(documents, vectors=rows or None, space=self.space)
        return [document.id for document in documents]

    def delete(self, ref_doc_id: str, **_: Any) -> None:
        """Delete the nodes of a source document."""
        self._shelf.delete(where={"ref_doc_id": ref_doc_id})

    def delete_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **_: Any) -> None:
        """Delete the nodes of these ids that pass the filters; with neither, none."""
        where = _where(node_ids, None, filters)
        if node_ids is not None and filters is None:
            self._shelf.delete(node_ids)
        elif where is not None:
            self._shelf.delete(where=where)

    def clear(self) -> None:
        """Delete all nodes of the collection."""
        self._shelf.delete(where=EVERYTHING)

    # --- reading ---

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes of these ids that pass the filters, in the order of the ids; with neither, all nodes."""
        if node_ids is not None and filters is None:
            return [_node(each) for each in self._shelf.get(node_ids)]
        found = [_node(each) for each in self._shelf.everything(where=_where(node_ids, None, filters))]
        if node_ids is not None:
            place = {name: number for number, name in enumerate(node_ids)}
            found.sort(key=lambda node: place[node.node_id])
        return found

    def query(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        """The best nodes, best first, whole; `doc_ids`, `node_ids` and `filters` confine them."""
        mode = self._modes.get(query.mode)
        if mode is None:
            known = ", ".join(each.value for each in self._modes)
            raise InvalidInput(f"the query mode {query.mode.value!r} is not one of Embank's: {known}")
        options: dict[str, Any] = {"mode": mode}
        k = query.similarity_top_k
        if query.mode == VectorStoreQueryMode.HYBRID:
            k = query.hybrid_top_k or k
            options["dense_weight"] = query.alpha
        elif query.mode == VectorStoreQueryMode.MMR:
            options["diversity"] = 1 - (0.5 if query.mmr_threshold is None else query.mmr_threshold)
        elif mode == "lexical":
            k = query.sparse_top_k or k
        vector = None if mode == "lexical" else query.query_embedding
        words = None if query.mode == VectorStoreQueryMode.DEFAULT and vector is not None else query.query_str
        where = _where(query.node_ids, query.doc_ids, query.filters)
        hits = self._shelf.search(words, vector=vector, k=k, where=where, **options)
        whole = {each.id: each for each in self._shelf.get([hit.id for hit in hits])}
        there = [hit for hit in hits if hit.id in whole]  # others were deleted in between
        return VectorStoreQueryResult(
            nodes=[_node(whole[hit.id]) for hit in there],
            similarities=[hit.score for hit in there],
            ids=[hit.id for hit in there],
        )

    # --- awaited ---

    async def async_add(self, nodes: Sequence[BaseNode], **options: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes, **options)

    async def adelete(self, ref_doc_id: str, **options: Any) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id, **options)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **options: Any
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **options)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **options: Any) -> VectorStoreQueryResult:
        return await asyncio.to_thread(self.query, query, **options)


def _where(
    node_ids: Sequence[str] | None, doc_ids: Sequence[str] | None, filters: MetadataFilters | None
) -> Where | None:
    """One filter of all that confines a query; `None`: nothing does. An empty list of ids of an index is none."""
    parts: list[Where] = []
    if node_ids:
        parts.append({"#id": {"$in": list(node_ids)}})
    if doc_ids:
        parts.append({"ref_doc_id": {"$in": list(doc_ids)}})
    if filters is not None and filters.filters:
        parts.append(matching(filters))
    return {"$and": parts} if len(parts) > 1 else parts[0] if parts else None


def _document(node: BaseNode) -> Document:
    metadata = node_to_metadata_dict(node, remove_text=True)
    # An empty list is as good as none to a filter; in the node itself, which is kept beside, it stays.
    shown = {key: value for key, value in metadata.items() if value != []}
    return Document(node.node_id, node.get_content(metadata_mode=MetadataMode.NONE), shown)


def _node(kept: StoredDocument) -> BaseNode:
    if "_node_content" in kept.metadata:
        node: BaseNode = metadata_dict_to_node(dict(kept.metadata), text=kept.text)
        return node
    return TextNode(id_=kept.id, text=kept.text, metadata=dict(kept.metadata))  # written by somebody else
