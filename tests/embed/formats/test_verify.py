from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from embank.embed.formats.verify import LEAST_COSINE, check_against_reference, read_reference
from embank.errors import ModelFileError

if TYPE_CHECKING:
    from embank.embed.formats.ctformat import Precision
    from embank.embed.model import Vectors


@pytest.fixture
def stored() -> Vectors:
    reference = read_reference("minilm")
    assert reference is not None
    return reference[1]


def test_stored_vectors_are_unit_vectors_of_texts_of_many_lengths() -> None:
    reference = read_reference("minilm")
    assert reference is not None
    texts, vectors = reference
    assert vectors.shape == (len(texts), 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert min(map(len, texts)) < 10
    assert max(map(len, texts)) > 2000


def test_the_originals_vectors_pass_and_the_least_cosine_is_told(stored: Vectors) -> None:
    assert check_against_reference("minilm", "float32", lambda _texts: stored) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_one_wrong_vector_is_enough(stored: Vectors, precision: Precision) -> None:
    vectors = stored.copy()
    vectors[2] = vectors[3]
    with pytest.raises(ModelFileError, match="is refused") as caught:
        check_against_reference("minilm", precision, lambda _texts: vectors)
    assert caught.value.fields["cosine"] < LEAST_COSINE["int8"]


def test_what_is_not_a_number_is_refused(stored: Vectors) -> None:
    vectors = np.full_like(stored, np.nan)
    with pytest.raises(ModelFileError, match="nan only"):
        check_against_reference("minilm", "int8", lambda _texts: vectors)


def test_without_stored_vectors_there_is_nothing_to_compare(stored: Vectors) -> None:
    assert read_reference("no-such-model") is None
    assert check_against_reference("no-such-model", "int8", lambda _texts: stored) is None
