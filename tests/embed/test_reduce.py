"""PCA: the arithmetic against numpy's SVD, what it refuses, and the model that wraps another."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pytest

from embank.embed.engine import Grant, Unbudgeted
from embank.embed.model import CountsTokens, Model
from embank.embed.reduce import BLOCK_ROWS, Float32, Pca, fit_pca, split_fingerprint
from embank.embed.reduced import reduced
from embank.errors import EmbeddingFailed, FingerprintMismatch, InvalidInput
from embank.testing.fakes import HashModel
from embank.testing.indexes import DIMENSION, clustered
from embank.testing.models import ModelContract

SOURCE = "user:test:48"


def fitted(vectors: Float32, *dimensions: int) -> list[Pca]:
    return fit_pca([vectors], dimensions, width=vectors.shape[1], source=SOURCE)


# -- arithmetic ------------------------------------------------------------------------------------------------------


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    vectors = clustered(3_000, seed=1)
    (pca,) = fitted(vectors, 12)
    _, _, directions = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    along = np.abs(np.einsum("ij,ij->i", pca.components, directions[:12]))
    np.testing.assert_allclose(along, 1, atol=1e-5)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(12), atol=1e-6)
    largest = np.abs(pca.components).argmax(axis=1)
    assert (pca.components[np.arange(12), largest] > 0).all()
    assert pca.components.dtype == np.float32
    assert (pca.width, pca.dimension, pca.rows) == (DIMENSION, 12, 3_000)


def test_explained_is_the_share_of_the_variance_that_is_kept() -> None:
    vectors = clustered(2_000, seed=2) + np.float32(0.2)
    (pca,) = fitted(vectors, 10)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    kept = ((centred @ pca.components.T) ** 2).sum() / (centred**2).sum()
    assert pca.explained == pytest.approx(kept, abs=1e-6)
    assert 0 < pca.explained < 1


def test_what_lies_in_few_directions_is_kept_whole() -> None:
    random = np.random.default_rng(3)
    basis, _ = np.linalg.qr(random.standard_normal((DIMENSION, 6)))
    rows = random.standard_normal((500, 6)) @ basis.T
    vectors = np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
    (pca,) = fitted(vectors, 6)
    narrow = pca.apply(vectors)
    np.testing.assert_allclose(narrow @ narrow.T, vectors @ vectors.T, atol=1e-5)
    assert pca.explained == pytest.approx(1)


def test_answers_are_narrow_normalised_and_those_of_the_matrix() -> None:
    vectors = clustered(2 * BLOCK_ROWS + 5, seed=4)
    (pca,) = fitted(vectors, 16)
    narrow = pca.apply(vectors)
    expected = vectors @ pca.components.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(narrow, expected, atol=1e-6)
    assert narrow.shape == (len(vectors), 16)
    assert narrow.dtype == np.float32
    assert pca.apply(np.empty((0, DIMENSION), np.float32)).shape == (0, 16)


def test_several_widths_come_of_one_pass() -> None:
    vectors = clustered(1_000, seed=5)
    passes = iter([vectors])
    wide, narrow = fit_pca(passes, (20, 8), width=DIMENSION, source=SOURCE)
    np.testing.assert_array_equal(wide.components[:8], narrow.components)
    assert wide.explained > narrow.explained
    assert wide.version != narrow.version


def test_the_same_vectors_give_the_same_bits_however_they_are_cut() -> None:
    vectors = clustered(3_000, seed=6)
    (once,), (again,) = fitted(vectors, 16), fitted(vectors, 16)
    (in_parts,) = fit_pca(np.array_split(vectors, 7), (16,), width=DIMENSION, source=SOURCE)
    assert once.version == again.version
    assert once.to_bytes() == again.to_bytes()
    np.testing.assert_allclose(in_parts.components, once.components, atol=1e-6)


def test_neighbours_stay_neighbours() -> None:
    data = clustered(4_200, seed=7)
    fit_on, rest, queries = data[:2_000], data[2_000:4_000], data[4_000:]
    (pca,) = fitted(fit_on, 24)
    exact = np.argsort(-(queries @ rest.T), axis=1)[:, :10]
    found = np.argsort(-(pca.apply(queries) @ pca.apply(rest).T), axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    assert recall > 0.5


# -- memory ----------------------------------------------------------------------------------------------------------


class Ledger(Unbudgeted):
    """Remembers what was reserved."""

    def __init__(self) -> None:
        self.reserved: list[int] = []

    def reserve(
        self, what: str, wanted_bytes: int, *, least_bytes: int | None = None, wait_s: float = 0.0
    ) -> AbstractContextManager[Grant]:
        self.reserved.append(wanted_bytes)
        return super().reserve(what, wanted_bytes, least_bytes=least_bytes, wait_s=wait_s)


def test_memory_is_what_was_reserved_whatever_the_number_of_vectors() -> None:
    width = 256
    random = np.random.default_rng(8)
    block = np.asarray(random.standard_normal((BLOCK_ROWS, width)), np.float32)

    def blocks(count: int) -> Iterator[Float32]:
        for _ in range(count):
            yield block

    peaks, reserved = [], []
    for count in (2, 40):
        budget = Ledger()
        tracemalloc.start()
        fit_pca(blocks(count), (32,), width=width, source=SOURCE, budget=budget)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        reserved.append(sum(budget.reserved))
    assert reserved[0] == reserved[1]
    assert max(peaks) <= reserved[0] * 1.1
    assert peaks[1] <= peaks[0] * 1.05


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [0, -1, DIMENSION, DIMENSION + 1, True, 2.5, None])
def test_only_narrower_is_reduced(dimension: object) -> None:
    with pytest.raises(InvalidInput, match=f"1 up to {DIMENSION - 1}"):
        fitted(clustered(200, seed=9), dimension)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("rows", [0, 1, 15])
def test_too_few_vectors_are_refused_with_the_figures(rows: int) -> None:
    with pytest.raises(InvalidInput, match=f"at least 16 vectors .better 80., there are {rows}") as caught:
        fitted(clustered(200, seed=10)[:rows], 16)
    assert caught.value.fields["vectors_needed"] == 16
    assert caught.value.fields["vectors_there"] == rows


def test_copies_of_few_vectors_are_refused() -> None:
    with pytest.raises(InvalidInput, match="lie in 5 directions"):
        fitted(np.repeat(clustered(5, seed=11), 100, axis=0), 16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_place(value: float) -> None:
    vectors = clustered(BLOCK_ROWS + 200, seed=12)
    (pca,) = fitted(vectors, 8)
    vectors[BLOCK_ROWS + 7, 3] = value
    with pytest.raises(InvalidInput, match=rf"vectors\[{BLOCK_ROWS + 7}\].*not finite"):
        fitted(vectors, 8)
    with pytest.raises(InvalidInput, match=rf"vectors\[{BLOCK_ROWS + 7}\].*not finite"):
        pca.apply(vectors)


def test_a_vector_without_a_part_in_what_is_kept_is_refused() -> None:
    pca = Pca(SOURCE, np.eye(2, 4, dtype=np.float32), 100, 0.9)
    with pytest.raises(InvalidInput, match=r"vectors\[1\].*no part"):
        pca.apply(np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.float32))


def test_another_width_is_refused() -> None:
    (pca,) = fitted(clustered(200, seed=13), 8)
    for wrong in (np.zeros((3, 8), np.float32), np.zeros(DIMENSION, np.float32)):
        with pytest.raises(InvalidInput, match=f"takes vectors of {DIMENSION} dimensions"):
            pca.apply(wrong)
    with pytest.raises(InvalidInput, match="of 48 dimensions were due"):
        fit_pca([np.zeros((60, 40), np.float32)], (8,), width=48, source=SOURCE)


# -- identity --------------------------------------------------------------------------------------------------------


def test_bytes_come_back_as_the_same_pca() -> None:
    (pca,) = fitted(clustered(400, seed=14), 8)
    facts = {"source": SOURCE, "width": DIMENSION, "dimension": 8, "rows": 400, "explained": pca.explained}
    back = Pca.from_bytes(pca.to_bytes(), **facts)  # type: ignore[arg-type]  # one mapping of several types
    assert back.version == pca.version
    with pytest.raises(InvalidInput, match="1536 bytes, not 1535"):
        Pca.from_bytes(pca.to_bytes()[:-1], **facts)  # type: ignore[arg-type]
    altered = bytearray(pca.to_bytes())
    altered[100] ^= 1
    assert Pca.from_bytes(bytes(altered), **facts).version != pca.version  # type: ignore[arg-type]


def test_the_fingerprint_names_the_source_and_every_step() -> None:
    vectors = clustered(600, seed=15)
    (first,) = fitted(vectors, 24)
    (second,) = fit_pca([first.apply(vectors)], (8,), width=24, source=first.fingerprint)
    assert first.fingerprint == f"{SOURCE}+pca:24:{first.version}"
    assert split_fingerprint(SOURCE) == (SOURCE, ())
    assert split_fingerprint(second.fingerprint) == (SOURCE, (first.version, second.version))


# -- the model -------------------------------------------------------------------------------------------------------


def words(count: int) -> list[str]:
    random = np.random.default_rng(16)
    return [" ".join(f"w{each}" for each in random.integers(400, size=12)) for _ in range(count)]


def pca_of(model: Model, dimension: int) -> Pca:
    (pca,) = fit_pca([model.embed(words(500))], (dimension,), width=model.dimension, source=model.fingerprint)
    return pca


class TestReducedModel(ModelContract):
    """A reduced model is a model: the shipped contract."""

    @pytest.fixture
    def model(self) -> Model:
        model = HashModel()
        return reduced(model, pca_of(model, 24))


def test_a_reduced_model_gives_the_reduced_vectors_of_the_model_inside() -> None:
    model = HashModel()
    pca = pca_of(model, 16)
    narrow = reduced(model, pca)
    texts = words(50)
    np.testing.assert_array_equal(narrow.embed(texts), pca.apply(model.embed(texts)))
    assert (narrow.fingerprint, narrow.dimension) == (pca.fingerprint, 16)
    assert narrow.max_tokens == model.max_tokens
    assert isinstance(narrow, CountsTokens)
    assert list(narrow.count_tokens(texts)) == model.count_tokens(texts)


def test_another_models_pca_is_refused() -> None:
    with pytest.raises(FingerprintMismatch, match="fitted on vectors of other:"):
        reduced(HashModel(), pca_of(HashModel(name="other"), 16))


class Silent:
    """A model whose vectors lie outside of every direction kept; it can't count tokens."""

    fingerprint = SOURCE
    dimension = 4
    max_tokens = 8

    def embed(self, texts: Sequence[str], kind: str = "passage") -> Float32:
        return np.repeat(np.array([[0, 0, 0, 1]], np.float32), len(texts), axis=0)


def test_a_text_that_can_not_be_reduced_has_no_vector() -> None:
    narrow = reduced(Silent(), Pca(SOURCE, np.eye(2, 4, dtype=np.float32), 100, 0.9))
    assert not isinstance(narrow, CountsTokens)
    with pytest.raises(EmbeddingFailed, match=r"texts\[0\].*no part"):
        narrow.embed(["a"])
