"""LlamaIndex over an open bank and over a running server: nodes in and out, filters, query modes, an index."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from embank.errors import FingerprintMismatch, InvalidInput
from embank.integrations.llamaindex import EmbankEmbedding, EmbankVectorStore

if TYPE_CHECKING:
    from embank.bank import Bank
    from embank.client.client import Client

NODES = [
    ("a", "Rivers carry silt to the sea.", {"year": 2024, "tags": ["water", "earth"], "lang": "en"}),
    ("b", "Deltas grow from silt.", {"year": 2020, "tags": ["water"], "lang": "en", "note": ""}),
    ("c", "Bread rises by yeast.", {"year": 2010, "tags": [], "lang": "de", "note": "Küche"}),
    ("d", "Yeast makes gas.", {"lang": "fr", "note": None}),
]


def _nodes(**options: Any) -> list[TextNode]:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")}
    made = [TextNode(id_=id_, text=text, metadata=metadata, **options) for id_, text, metadata in NODES]
    made[0].relationships = source
    made[1].relationships = source
    return made


def _by_engine(place: Bank | Client, name: str) -> EmbankVectorStore:
    store = EmbankVectorStore(place, name, is_embedding_query=False)
    assert store.add(_nodes()) == ["a", "b", "c", "d"]
    return store


def _found(store: EmbankVectorStore, **asked: Any) -> list[str]:
    return store.query(VectorStoreQuery(**{"similarity_top_k": 10, **asked})).ids or []


def test_nodes_come_back_as_they_went_in(place: Bank | Client, name: str) -> None:
    store = _by_engine(place, name)
    assert store.get_nodes(["d", "a", "x"]) == [_nodes()[3], _nodes()[0]]
    assert store.get_nodes() == _nodes()
    changed = TextNode(id_="a", text="Glaciers.", metadata={"new": True})
    store.add([changed])
    assert store.get_nodes(["a"]) == [changed]
    store.delete("book")
    assert [node.node_id for node in store.get_nodes()] == ["a", "c", "d"]
    store.delete_nodes(["c", "x"])
    store.delete_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="lang", value="fr")]))
    assert [node.node_id for node in store.get_nodes()] == ["a"]
    store.delete_nodes()
    assert [node.node_id for node in store.get_nodes()] == ["a"]
    store.clear()
    assert store.get_nodes() == []


@pytest.mark.parametrize(
    ("key", "operator", "value", "ids"),
    [
        ("year", "==", 2024, "a"),
        ("year", "!=", 2024, "bcd"),
        ("year", ">", 2010, "ab"),
        ("year", ">=", 2010, "abc"),
        ("year", "<", 2020, "c"),
        ("year", "<=", 2020, "bc"),
        ("lang", "in", ["de", "fr"], "cd"),
        ("lang", "nin", ["de", "fr"], "ab"),
        ("tags", "any", ["earth", "fire"], "a"),
        ("tags", "all", ["earth", "water"], "a"),
        ("tags", "contains", "water", "ab"),
        ("note", "text_match", "üc", "c"),
        ("note", "is_empty", None, "abd"),
        ("tags", "is_empty", None, "cd"),
    ],
)
def test_every_operator_of_filters(place: Bank | Client, key: str, operator: str, value: Any, ids: str) -> None:
    store = EmbankVectorStore(place, "filtered", is_embedding_query=False)
    if not store.get_nodes(["a"]):
        store.add(_nodes())
    filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])
    assert [node.node_id for node in store.get_nodes(filters=filters)] == list(ids)
    assert sorted(_found(store, query_str="silt yeast", filters=filters)) == list(ids)


def test_filters_are_combined(place: Bank | Client, name: str) -> None:
    store = _by_engine(place, name)
    english, new = MetadataFilter(key="lang", value="en"), MetadataFilter(key="year", value=2024)

    def ids(condition: FilterCondition, *parts: Any, **asked: Any) -> list[str]:
        filters = MetadataFilters(filters=list(parts), condition=condition)
        return sorted(_found(store, query_str="silt", filters=filters, **asked))

    assert ids(FilterCondition.AND, english, new) == ["a"]
    assert ids(FilterCondition.OR, english, new) == ["a", "b"]
    assert ids(FilterCondition.NOT, new, MetadataFilter(key="lang", value="de")) == ["b", "d"]
    nested = MetadataFilters(filters=[new], condition=FilterCondition.NOT)
    assert ids(FilterCondition.AND, english, nested) == ["b"]
    assert ids(FilterCondition.AND, english, node_ids=["b", "c"]) == ["b"]
    assert sorted(_found(store, query_str="silt", doc_ids=["book"])) == ["a", "b"]
    insensitive = MetadataFilter(key="note", value="KÜ", operator=FilterOperator.TEXT_MATCH_INSENSITIVE)
    with pytest.raises(InvalidInput, match="text_match_insensitive"):
        ids(FilterCondition.AND, insensitive)
    with pytest.raises(InvalidInput, match="list of values"):
        ids(FilterCondition.AND, MetadataFilter(key="tags", value="water", operator=FilterOperator.ALL))


def test_query_modes_are_those_of_searching(place: Bank | Client, name: str, served: Any) -> None:
    store = _by_engine(place, name)
    search = served.bank.collection(name).search
    Mode = VectorStoreQueryMode  # noqa: N806 -- a class
    ways: list[tuple[VectorStoreQueryMode, dict[str, Any], dict[str, Any]]] = [
        (Mode.DEFAULT, {"mode": "dense"}, {}),
        (Mode.SPARSE, {"mode": "lexical"}, {}),
        (Mode.TEXT_SEARCH, {"mode": "lexical"}, {}),
        (Mode.HYBRID, {"mode": "hybrid"}, {}),
        (Mode.HYBRID, {"mode": "hybrid", "dense_weight": 0.1}, {"alpha": 0.1}),
        (Mode.MMR, {"mode": "dense", "diversity": 0.75}, {"mmr_threshold": 0.25}),
    ]
    for mode, options, asked in ways:
        result = store.query(VectorStoreQuery(query_str="silt of the sea", similarity_top_k=3, mode=mode, **asked))
        hits = search("silt of the sea", k=3, **options)
        assert result.ids == [hit.id for hit in hits], mode
        assert result.similarities == pytest.approx([hit.score for hit in hits])
        assert [node.node_id for node in result.nodes or []] == result.ids
    for mode in (Mode.SEMANTIC_HYBRID, Mode.SVM, Mode.LOGISTIC_REGRESSION, Mode.LINEAR_REGRESSION):
        with pytest.raises(InvalidInput, match=mode.value):
            store.query(VectorStoreQuery(query_str="silt", mode=mode))


def test_an_index_over_it_with_its_embeddings(place: Bank | Client, name: str, served: Any) -> None:
    store = EmbankVectorStore(place, name)
    index = VectorStoreIndex.from_vector_store(store, embed_model=EmbankEmbedding(place, embed_batch_size=3))
    index.insert_nodes(_nodes())
    assert served.bank.collection(name).stats().fingerprint == "user:llamaindex:64"
    for mode in ("default", "hybrid", "text_search", "mmr"):
        found = index.as_retriever(similarity_top_k=2, vector_store_query_mode=mode).retrieve("Deltas grow from silt.")
        assert found[0].node == _nodes()[1]
    awaited = asyncio.run(index.as_retriever(similarity_top_k=1).aretrieve("Yeast makes gas."))
    assert [each.node_id for each in awaited] == ["d"]
    index.delete_ref_doc("book")
    assert [node.node_id for node in store.get_nodes()] == ["c", "d"]


def test_vectors_of_two_kinds_are_not_mixed(place: Bank | Client, name: str) -> None:
    store = EmbankVectorStore(place, name)
    with pytest.raises(InvalidInput, match="embed all or none"):
        store.add([TextNode(text="a", embedding=[1.0, 0.0]), TextNode(text="b")])
    store.add(_nodes(embedding=[1.0, 0.0]))
    with pytest.raises(FingerprintMismatch, match="vectors"):
        store.add([TextNode(text="b")])
