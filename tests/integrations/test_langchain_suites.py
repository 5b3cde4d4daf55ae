"""The suites of langchain-tests, over an open bank and over a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("langchain_tests", reason="langchain-tests is not installed")

from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import (
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from embank.integrations.langchain import EmbankByteStore, EmbankEmbeddings, EmbankRetriever, EmbankVectorStore

if TYPE_CHECKING:
    from embank.integrations.shelf import Place


class TestVectorStoreByItsEngine(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, place: Place, name: str) -> EmbankVectorStore:
        return EmbankVectorStore(place, name)


class TestVectorStoreByEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, place: Place, name: str) -> EmbankVectorStore:
        return EmbankVectorStore(place, name, embedding=self.get_embeddings())


class _OfEmbeddings:
    source: Place

    @pytest.fixture(autouse=True)
    def of_a_place(self, place: Place) -> None:
        self.source = place

    @property
    def embeddings_class(self) -> type[EmbankEmbeddings]:
        return EmbankEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"source": self.source}


class TestEmbeddings(_OfEmbeddings, EmbeddingsIntegrationTests):
    pass


class TestEmbeddingsAlone(_OfEmbeddings, EmbeddingsUnitTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    store: EmbankVectorStore

    @pytest.fixture(autouse=True)
    def of_a_store(self, place: Place, name: str) -> None:
        self.store = EmbankVectorStore(place, name)
        self.store.add_texts([f"river number {number} carries silt" for number in range(5)])

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return EmbankRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "what do rivers carry?"


class _OfBytes:
    @pytest.fixture
    def kv_store(self, place: Place, name: str) -> EmbankByteStore:
        return EmbankByteStore(place, name)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"\0\xff" * 50_000, b""


class TestByteStore(_OfBytes, BaseStoreSyncTests[bytes]):
    pass


class TestByteStoreAsync(_OfBytes, BaseStoreAsyncTests[bytes]):
    pass
