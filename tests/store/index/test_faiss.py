"""Every kind of codes with rescoring over mapped segments: the shipped contract; and what FAISS is told."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import pytest

from embank.errors import InvalidInput
from embank.store.codec import Codec
from embank.store.index import faiss
from embank.store.index.faiss import FaissCodes
from embank.store.index.methods import Method, method
from embank.store.index.protocol import Codes, Mask, Slots, Write
from embank.store.index.rescored import RescoredIndex
from embank.store.vectors import Segments
from embank.system.files import Files
from embank.testing.indexes import DIMENSION, Build, CodesContract, Float32, IndexContract, clustered

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")

_SAMPLE = clustered(4_608, seed=100)


@functools.cache
def _trained(of: Method) -> bytes:
    pieces: list[bytes] = []
    faiss.train(of, _SAMPLE).save(pieces.append)
    return b"".join(pieces)


def _codes(of: Method, vectors: Float32) -> FaissCodes:
    codes = faiss.load(of, io.BytesIO(_trained(of)).read)
    codes.add(vectors)
    return codes


def _method(kind: str) -> Method:
    # Parts of 8 components, and few bits: k-means over hundreds of centroids takes longer than all else here.
    return method(kind, DIMENSION, 4_608, lists=16, probes=12, bits=5 if kind == "pq" else None, rescored=200)


class _Kind(IndexContract):
    kind = ""

    @pytest.fixture
    def build(self, tmp_path: Path) -> Build:
        def build(vectors: Float32) -> RescoredIndex:
            segments = Segments(tmp_path / "v", Codec("fp16", vectors.shape[1]), files=Files())
            if len(vectors):
                segments.append(vectors, mark=0)
            of = _method(self.kind)
            # The last tenth is in no codes yet.
            codes = _codes(of, vectors[: len(vectors) * 9 // 10])
            return RescoredIndex(codes, segments.rows(len(vectors)), depth=of.rescored, exhaustive=of.exhaustive)

        return build


class _KindCodes(CodesContract):
    kind = ""

    @pytest.fixture
    def build(self) -> object:
        return lambda vectors: _codes(_method(self.kind), vectors)


class TestFlat(_Kind):
    kind = "flat"


class TestScalar(_Kind):
    kind = "sq8"


class TestProduct(_Kind):
    kind = "pq"


class TestFastScan(_Kind):
    kind = "pq-fastscan"


class TestRaBitQ(_Kind):
    kind = "rabitq"


class TestLists(_Kind):
    kind = "ivf"


class TestGraph(_Kind):
    kind = "hnsw"


class TestFlatCodes(_KindCodes):
    kind = "flat"


class TestScalarCodes(_KindCodes):
    kind = "sq8"


class TestProductCodes(_KindCodes):
    kind = "pq"


class TestFastScanCodes(_KindCodes):
    kind = "pq-fastscan"


class TestRaBitQCodes(_KindCodes):
    kind = "rabitq"


class TestListsCodes(_KindCodes):
    kind = "ivf"


class TestGraphCodes(_KindCodes):
    kind = "hnsw"


class _Unfiltered:
    """Codes that take no filter, as some libraries' are."""

    takes_filters = False

    def __init__(self, codes: FaissCodes) -> None:
        self._codes = codes
        self.name, self.method = "unfiltered", codes.method

    @property
    def rows(self) -> int:
        return self._codes.rows

    def used_bytes(self) -> int:
        return self._codes.used_bytes()

    def add(self, vectors: Float32) -> None:
        self._codes.add(vectors)

    def error(self, vectors: Float32) -> float | None:
        return self._codes.error(vectors)

    def candidates(self, query: Float32, count: int, *, allowed: Mask | None = None) -> Slots:
        assert allowed is None
        return self._codes.candidates(query, count)

    def save(self, write: Write) -> None:
        self._codes.save(write)


class TestCodesThatTakeNoFilter(_Kind):
    """More candidates are asked for, and filtered afterwards."""

    kind = "pq-fastscan"

    @pytest.fixture
    def build(self, tmp_path: Path) -> Build:
        def build(vectors: Float32) -> RescoredIndex:
            segments = Segments(tmp_path / "v", Codec("fp16", vectors.shape[1]), files=Files())
            if len(vectors):
                segments.append(vectors, mark=0)
            codes: Codes = _Unfiltered(_codes(_method(self.kind), vectors))
            return RescoredIndex(codes, segments.rows(len(vectors)), depth=200)

        return build


@pytest.mark.parametrize("kind", ["sq8", "pq", "pq-fastscan", "rabitq", "ivf"])
def test_too_few_vectors_are_refused_with_the_figure(kind: str) -> None:
    with pytest.raises(InvalidInput, match=r"at least 4,096 vectors, there are 4,095") as caught:
        faiss.train(_method(kind), _SAMPLE[:4_095])
    assert caught.value.fields == {"least_rows": 4_096, "rows": 4_095}


def test_lists_ask_for_vectors_each() -> None:
    of = method("ivf", DIMENSION, 100_000, lists=256)
    assert of.least_rows == 39 * 256


def test_scanned_codes_of_many_are_spread_over_lists_that_are_all_looked_into() -> None:
    few, many = method("pq-fastscan", 384, 249_999), method("pq-fastscan", 384, 250_000)
    assert (few.factory, many.factory) == ("IVF1,PQ96x4fs", "IVF4,PQ96x4fs")
    assert many.probes == many.lists == 4
    assert many.exhaustive


def test_parts_must_divide_the_dimension() -> None:
    with pytest.raises(InvalidInput, match="7 parts do not divide 48 dimensions"):
        method("pq", 48, 5_000, parts=7)


@pytest.mark.parametrize("dimension", [30, 37, 48, 256, 384])
def test_parts_are_chosen_so_that_they_divide_the_dimension(dimension: int) -> None:
    assert dimension % method("pq-fastscan", dimension, 5_000).parts == 0


@pytest.mark.parametrize("kind", ["flat", "sq8", "pq", "pq-fastscan", "rabitq", "ivf", "hnsw"])
def test_what_codes_are_said_to_hold_is_what_they_hold(kind: str) -> None:
    codes = _codes(_method(kind), clustered(4_000, seed=30))
    written: list[bytes] = []
    codes.save(written.append)
    assert codes.used_bytes() == pytest.approx(sum(map(len, written)), rel=0.25)


def test_a_filter_that_leaves_little_to_a_graph_is_answered_exactly(tmp_path: Path) -> None:
    vectors = clustered(130_000, seed=31)[:, :8]
    segments = Segments(tmp_path / "v", Codec("fp16", 8), files=Files())
    segments.append(vectors, mark=0)
    few = faiss.train(method("hnsw", 8, 1, links=4), vectors[:10])
    few.add(vectors[:1_000])
    allowed = np.zeros(len(vectors), np.bool_)
    allowed[::55] = True
    found = RescoredIndex(few, segments.rows(len(vectors)), depth=50, exhaustive=False).search(
        vectors[55], 10, allowed=allowed
    )
    exact = segments.rows(len(vectors)).gather(np.flatnonzero(allowed)) @ vectors[55]
    np.testing.assert_allclose(found.scores, np.sort(exact)[::-1][:10], atol=1e-3)


def test_codes_of_a_later_state_answer_an_earlier_one(tmp_path: Path) -> None:
    vectors = clustered(4_000, seed=32)
    segments = Segments(tmp_path / "v", Codec("fp16", DIMENSION), files=Files())
    segments.append(vectors, mark=0)
    codes = _codes(_method("pq-fastscan"), vectors)
    index = RescoredIndex(codes, segments.rows(3_000), depth=200)
    query = vectors[3_500]
    for allowed in (None, np.arange(3_000) % 5 != 0):
        found = index.search(query, 10, allowed=allowed)
        assert len(found.slots) == 10
        assert found.slots.max() < 3_000


@pytest.mark.parametrize("kind", ["flat", "sq8", "pq", "pq-fastscan", "ivf", "hnsw"])
def test_the_error_of_codes_is_told_the_same_by_those_read_from_a_file(kind: str) -> None:
    of = _method(kind)
    made = faiss.train(of, _SAMPLE)
    read = _codes(of, _SAMPLE[:10])
    told = made.error(_SAMPLE[:200])
    assert told is not None
    assert (told == 0.0) == (kind == "flat")
    assert told < 0.6
    assert read.error(_SAMPLE[:200]) == pytest.approx(told, rel=1e-3)
    assert read.error(np.zeros((3, DIMENSION), np.float32)) is None
