"""A model behind a cache: the contract of every model, and nothing computed twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embank.cache.disk import DiskLevel
from embank.cache.embeddings import EmbeddingCache
from embank.embed.cached import CachedModel, cached
from embank.embed.model import CountsTokens, Kind, Model
from embank.embed.reduce import fit_pca
from embank.embed.reduced import reduced
from embank.errors import InvalidInput
from embank.testing.fakes import HashModel
from embank.testing.models import ModelContract

Vectors = npt.NDArray[np.float32]


class Counted(HashModel):
    """Remembers what it was asked to compute; queries and passages differ."""

    def __init__(self, name: str = "hash", dimension: int = 64) -> None:
        super().__init__(name=name, dimension=dimension)
        self.computed: list[tuple[str, Kind]] = []

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        self.computed += [(text, kind) for text in texts]
        return super().embed([f"{kind} {text}" for text in texts], kind)


@pytest.fixture
def cache() -> Iterator[EmbeddingCache]:
    with EmbeddingCache("4MB") as made:
        yield made


class TestContract(ModelContract):
    @pytest.fixture
    def model(self, cache: EmbeddingCache) -> Model:
        return cached(HashModel(), cache)


class TestContractOfAnInt8Cache(ModelContract):
    tolerance = 0.999

    @pytest.fixture
    def model(self) -> Iterator[Model]:
        with EmbeddingCache("4MB", dtype="int8") as made:
            yield cached(HashModel(), made)


def test_only_what_is_missing_is_computed_and_each_text_once(cache: EmbeddingCache) -> None:
    inner = Counted()
    model = cached(inner, cache)
    first = model.embed(["a", "b", "a"])
    assert [text for text, _ in inner.computed] == ["a", "b"]
    second = model.embed(["b", "c", "a", "c"])
    assert [text for text, _ in inner.computed] == ["a", "b", "c"]
    assert np.array_equal(second[[2, 0]], first[:2])
    assert cache.stats().seconds_saved >= 0


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_hit_or_miss_alone_or_among_many_the_bits_are_the_same(dtype: str) -> None:
    texts = [f"text {number}" for number in range(2_500)]
    with EmbeddingCache("8MB", dtype=dtype) as cache:  # type: ignore[arg-type]  # each of them in turn
        model = cached(Counted(dimension=384), cache)
        missed = model.embed(texts)
        assert np.array_equal(model.embed(texts), missed)
        for number in (0, 1_023, 1_024, 2_499):
            assert np.array_equal(model.embed([texts[number]])[0], missed[number])
        cache.clear()
        assert np.array_equal(model.embed(texts[::-1]), missed[::-1])
        assert np.linalg.norm(missed, axis=1) == pytest.approx(1, abs=1e-6)


def test_queries_and_passages_are_told_apart(cache: EmbeddingCache) -> None:
    inner = Counted()
    model = cached(inner, cache)
    assert not np.array_equal(model.embed(["a"], "query"), model.embed(["a"], "passage"))
    assert inner.computed == [("a", "query"), ("a", "passage")]


def test_models_never_answer_for_each_other(cache: EmbeddingCache) -> None:
    one, other, wide = Counted("one"), Counted("other"), Counted("one", 128)
    for inner in (one, other, wide):
        assert cached(inner, cache).embed(["a"]).shape == (1, inner.dimension)
        assert len(inner.computed) == 1


def test_a_reduction_in_front_is_applied_to_what_is_found(cache: EmbeddingCache) -> None:
    inner = Counted()
    some = HashModel().embed([f"word{number}" for number in range(300)])
    (pca,) = fit_pca([some], [16], width=64, source=inner.fingerprint)
    model = reduced(cached(inner, cache), pca)
    first = model.embed(["a", "b"])
    assert first.shape == (2, 16)
    assert np.array_equal(model.embed(["a", "b"]), first)
    assert len(inner.computed) == 2
    assert cached(inner, cache).embed(["a"]).shape == (1, 64)
    assert len(inner.computed) == 2


def test_counting_tokens_is_the_models_own(cache: EmbeddingCache) -> None:
    assert isinstance(cached(HashModel(), cache), CountsTokens)

    class Plain:
        fingerprint, dimension, max_tokens = "plain", 4, 16

        def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
            return np.full((len(texts), 4), 0.5, np.float32)

    plain = cached(Plain(), cache)
    assert type(plain) is CachedModel
    assert not isinstance(plain, CountsTokens)
    assert plain.embed(["x"]).tolist() == [[0.5] * 4]


def test_what_the_model_raises_comes_through_and_is_not_kept(cache: EmbeddingCache) -> None:
    class Broken(Counted):
        broken = True

        def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
            if self.broken:
                raise InvalidInput("broken")
            return super().embed(texts, kind)

    inner = Broken()
    model = cached(inner, cache)
    with pytest.raises(InvalidInput, match="broken"):
        model.embed(["a"])
    inner.broken = False
    model.embed(["a"])
    assert len(inner.computed) == 1


def test_after_a_restart_the_disk_answers(tmp_path: Path) -> None:
    def opened() -> EmbeddingCache:
        level = DiskLevel(tmp_path / "file", "4MB")
        return EmbeddingCache("4MB", second=level, secret=level.secret)

    inner = Counted()
    with opened() as cache:
        first = cached(inner, cache).embed(["a", "b"])
    with opened() as cache:
        assert np.array_equal(cached(inner, cache).embed(["b", "a"]), first[::-1])
    assert len(inner.computed) == 2
