"""Every kind of index behind the shipped contract, over whole banks; one of a third party, too."""

from __future__ import annotations

from typing import ClassVar

import pytest

from embank.store.index import faiss
from embank.testing.backends import BackendContract

_FAISS = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


@_FAISS
class TestFlat(BackendContract):
    settings: ClassVar = {"kind": "flat"}


@_FAISS
class TestScalar(BackendContract):
    settings: ClassVar = {"kind": "sq8"}


@_FAISS
class TestProduct(BackendContract):
    # Few bits: k-means over hundreds of centroids takes longer than all else here.
    settings: ClassVar = {"kind": "pq", "bits": 5}


@_FAISS
class TestFastScan(BackendContract):
    settings: ClassVar = {"kind": "pq-fastscan"}


@_FAISS
class TestRaBitQ(BackendContract):
    settings: ClassVar = {"kind": "rabitq"}


@_FAISS
class TestLists(BackendContract):
    settings: ClassVar = {"kind": "ivf", "lists": 16, "probes": 12}


@_FAISS
class TestGraph(BackendContract):
    settings: ClassVar = {"kind": "hnsw"}
