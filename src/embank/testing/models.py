"""The suite that every embedding model passes, for our own and for third parties.

    class TestMyModel(ModelContract):
        tolerance = 0.998

        @pytest.fixture
        def model(self) -> MyModel:
            return loaded_once()

It checks values, not signatures: that vectors are unit vectors of the declared width, in order, the same for the same
text however it is asked for, and that what is no text is refused by name. It does not measure quality or speed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embank.embed.model import CountsTokens, Model
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.embed.model import Vectors

TEXTS: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    "memory",
    "How do I parse a date from a string in Python?",
    "Zürich, café, naïve: text with accents.",
    "今日は天気がいいですね。",
    "def f(x): return x ** 2  # 3.14",
    (
        "A longer passage. It has several sentences, which say little. It is here so that lengths differ, and with "
        "them the padding of whatever stands beside it in a batch. The vectors must not notice."
    ),
    "memory and budget",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen",
)
"""Texts of different length and script."""


class ModelContract:
    """Subclass it, override `model`, and set `tolerance` if the model is quantised."""

    tolerance = 0.9999
    """The least cosine between two vectors of the same text: 0.9999 for float32, 0.998 for int8."""

    many = 522
    """How many texts are embedded in one call at most: more than Embank cuts a request into, and than fit a batch."""

    @pytest.fixture
    def model(self) -> Model:
        """The model under test; asked for by every test, so a costly one is kept by a fixture of wider scope."""
        raise NotImplementedError("override the fixture `model`")

    # --- what it says of itself -------------------------------------------------------------------------------------

    def test_follows_the_protocol(self, model: Model) -> None:
        assert isinstance(model, Model)
        assert isinstance(model.fingerprint, str)
        assert model.fingerprint
        assert model.fingerprint == model.fingerprint
        assert model.dimension >= 1
        assert model.max_tokens >= 1

    # --- what it answers --------------------------------------------------------------------------------------------

    def test_answers_float32_rows_of_its_dimension(self, model: Model) -> None:
        vectors = model.embed(TEXTS)
        assert isinstance(vectors, np.ndarray)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), model.dimension)
        assert vectors.flags.c_contiguous

    def test_rows_are_unit_vectors(self, model: Model) -> None:
        norms = np.linalg.norm(model.embed(TEXTS), axis=1)
        assert norms == pytest.approx(1.0, abs=1e-5)

    def test_no_texts_give_no_rows(self, model: Model) -> None:
        vectors = model.embed([])
        assert vectors.shape == (0, model.dimension)
        assert vectors.dtype == np.float32

    def test_different_texts_differ(self, model: Model) -> None:
        vectors = model.embed(TEXTS)
        cosines = vectors @ vectors.T - np.eye(len(TEXTS), dtype=np.float32)
        assert cosines.max() < 0.999

    def test_a_text_is_most_like_itself(self, model: Model) -> None:
        nearest = (model.embed(TEXTS, "query") @ model.embed(TEXTS, "passage").T).argmax(axis=1)
        assert nearest.tolist() == list(range(len(TEXTS)))

    def test_shared_words_make_texts_alike(self, model: Model) -> None:
        cat, kitten, ledger = model.embed(
            ["the cat sat on the mat", "the cat sat on a mat", "quarterly ledger of the accounting department"]
        )
        assert cat @ kitten > cat @ ledger

    def test_empty_and_blank_texts_have_vectors(self, model: Model) -> None:
        vectors = model.embed(["", " ", "\n\t "])
        assert np.isfinite(vectors).all()
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)

    def test_texts_of_any_sequence_are_taken(self, model: Model) -> None:
        self.agree(model.embed(tuple(TEXTS)), model.embed(list(TEXTS)))

    # --- the same text, the same vector -----------------------------------------------------------------------------

    def test_asked_again_it_answers_the_same(self, model: Model) -> None:
        self.agree(model.embed(TEXTS), model.embed(TEXTS))

    def test_alone_as_in_a_batch(self, model: Model) -> None:
        alone = np.concatenate([model.embed([text]) for text in TEXTS])
        self.agree(model.embed(TEXTS), alone)

    def test_beside_a_long_text_as_alone(self, model: Model) -> None:
        long = "word " * 200
        for text in TEXTS:
            self.agree(model.embed([text, long])[:1], model.embed([text]))

    def test_order_is_kept(self, model: Model) -> None:
        order = np.random.default_rng(7).permutation(len(TEXTS))
        shuffled = model.embed([TEXTS[index] for index in order])
        self.agree(shuffled, model.embed(TEXTS)[order])

    def test_many_texts_as_few(self, model: Model) -> None:
        many = [f"{TEXTS[number % len(TEXTS)]} number {number}" for number in range(self.many)]
        vectors = model.embed(many)
        picked = [number for number in (0, 17, 63, 64, 255, 511, 512, 513) if number < self.many - 1] + [self.many - 1]
        self.agree(vectors[picked], model.embed([many[index] for index in picked]))

    def test_equal_texts_have_equal_vectors(self, model: Model) -> None:
        vectors = model.embed([TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]])
        assert np.array_equal(vectors[0], vectors[2])
        assert np.array_equal(vectors[0], vectors[3])
        assert not np.array_equal(vectors[0], vectors[1])

    def test_beyond_the_longest_text_nothing_counts(self, model: Model) -> None:
        start = "word " * (model.max_tokens + 8)
        long, longer = model.embed([start + "tail", start + "another ending " * 50])
        self.agree(long[None], longer[None])

    def test_the_last_token_within_the_limit_counts(self, model: Model) -> None:
        short = "word " * max(1, model.max_tokens // 4)
        one, other = model.embed([short + "apple", short + "zeppelin"])
        assert not np.array_equal(one, other)

    def test_answers_are_the_callers(self, model: Model) -> None:
        first = model.embed(TEXTS[:2])
        kept = first.copy()
        model.embed(TEXTS[2:4])
        assert np.array_equal(first, kept)
        first[:] = 0
        self.agree(model.embed(TEXTS[:2]), kept)

    def test_threads_at_once_get_their_own(self, model: Model) -> None:
        expected = model.embed(TEXTS)
        gate = threading.Barrier(8)

        def ask(number: int) -> tuple[int, Vectors]:
            gate.wait()
            mine = [TEXTS[(number + step) % len(TEXTS)] for step in range(4)]
            return number, model.embed(mine)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        for number, vectors in answers:
            self.agree(vectors, expected[[(number + step) % len(TEXTS) for step in range(4)]])

    # --- what is no text --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("bad", [None, 5, b"bytes", ["nested"], 1.5])
    def test_what_is_no_text_is_named(self, model: Model, bad: Any) -> None:
        with pytest.raises(InvalidInput, match=r"\[1\]"):
            model.embed(["fine", bad, "fine"])

    def test_a_lone_surrogate_is_named(self, model: Model) -> None:
        with pytest.raises(InvalidInput, match=r"\[2\]"):
            model.embed(["fine", "fine", "broken \ud800 text"])

    def test_a_bare_string_is_refused(self, model: Model) -> None:
        with pytest.raises(InvalidInput):
            model.embed("not a list")

    def test_after_a_refusal_it_still_answers(self, model: Model) -> None:
        expected = model.embed(TEXTS)
        with pytest.raises(InvalidInput):
            model.embed([None])  # type: ignore[list-item]  # what is tested
        self.agree(model.embed(TEXTS), expected)

    # --- counting, where it can -------------------------------------------------------------------------------------

    def test_counts_grow_with_text(self, model: Model) -> None:
        if not isinstance(model, CountsTokens):
            pytest.skip("this model does not count tokens")
        counts = list(model.count_tokens(["", "word", "word word word", "word " * 50]))
        assert counts[0] == 0
        assert counts == sorted(counts)
        assert counts[3] >= 50
        assert list(model.count_tokens([])) == []

    # --- tools ------------------------------------------------------------------------------------------------------

    def agree(self, one: Vectors | Sequence[Vectors], other: Vectors | Sequence[Vectors]) -> None:
        """Row by row, the cosine is at least `tolerance`."""
        first, second = np.asarray(one), np.asarray(other)
        assert first.shape == second.shape
        cosines = np.einsum("ij,ij->i", first, second)
        assert cosines.min() >= self.tolerance, f"cosine {cosines.min()} at row {cosines.argmin()}"
