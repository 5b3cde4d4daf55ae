from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embank.embed import batching
from embank.embed.batching import plan
from embank.embed.engine import Encoded, Unbudgeted
from embank.embed.model import Fingerprint, Kind
from embank.errors import BudgetExceeded, EmbeddingFailed, InvalidInput
from embank.events.kinds import Event, TextsEmbedded

if TYPE_CHECKING:
    from embank.embed.model import Vectors


class LetterEngine:
    """An engine whose tokens are characters and whose vectors say which text they are of. It records its batches."""

    fingerprint = Fingerprint("letters", "w", "t", "sum", True, 3, "letters", "float32")
    max_tokens = 100

    device = "cpu"

    def __init__(self, *, batch_tokens: int = 64, length_step: int | None = None, lanes: int = 1) -> None:
        self.lanes = lanes
        self.batch_tokens = batch_tokens
        self.length_step = length_step
        self.batches: list[list[int]] = []
        self.encoded: list[str] = []
        self.spoil: Callable[[Vectors], Vectors] = lambda vectors: vectors

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        self.encoded += texts
        return Encoded([np.array([ord(letter) for letter in text] or [0], dtype=np.int32) for text in texts])

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def batch_bytes(self, rows: int, width: int) -> int:
        return rows * width * 10

    def forward(self, batch: Sequence[npt.NDArray[np.int32]]) -> Vectors:
        self.batches.append([len(ids) for ids in batch])
        rows = [[float(ids.sum()), float(ids[0]), 1.0] for ids in batch]
        return self.spoil(np.array(rows, dtype=np.float32))

    def used_bytes(self) -> int:
        return 0

    def close(self) -> None: ...


@dataclass
class StingyBudget:
    """Grants at most so much, and keeps a book."""

    most_bytes: int
    asked: list[tuple[str, int, int | None]] = field(default_factory=list)
    held: int = 0

    def reserve(
        self, what: str, wanted_bytes: int, *, least_bytes: int | None = None, wait_s: float = 0.0
    ) -> AbstractContextManager[Granted]:
        self.asked.append((what, wanted_bytes, least_bytes))
        least = wanted_bytes if least_bytes is None else least_bytes
        if least > self.most_bytes:
            raise BudgetExceeded(
                what, wanted_bytes=least, available_bytes=self.most_bytes, budget_bytes=self.most_bytes
            )
        return self._granted(min(wanted_bytes, self.most_bytes))

    @contextmanager
    def _granted(self, count: int) -> Iterator[Granted]:
        self.held += 1
        try:
            yield Granted(count)
        finally:
            self.held -= 1


@dataclass(frozen=True)
class Granted:
    granted_bytes: int


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)


def embed(engine: LetterEngine, texts: Sequence[str], *, budget: StingyBudget | None = None) -> Vectors:
    return batching.embed(engine, texts, "passage", budget=budget or Unbudgeted(), publisher=Heard())


def expected(texts: Sequence[str]) -> Vectors:
    rows = [[float(sum(map(ord, text))), float(ord(text[0]) if text else 0), 1.0] for text in texts]
    array = np.array(rows, dtype=np.float32)
    unit: Vectors = array / np.linalg.norm(array, axis=1, keepdims=True)
    return unit


# --- plan -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(16, 2048), st.sampled_from([None, 1, 8, 16]))
def test_a_plan_holds_every_index_once_within_its_budget(lengths: list[int], budget: int, step: int | None) -> None:
    batches = plan(lengths, budget, step=step)
    assert sorted(int(index) for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        width = longest if step is None else -(-longest // step) * step
        assert len(batch) == 1 or len(batch) * width <= budget
        if step is not None:
            assert {-(-lengths[index] // step) for index in batch} == {width // step}
    firsts = [lengths[int(batch[0])] for batch in batches]
    if step is None:
        assert firsts == sorted(firsts, reverse=True)


def test_batches_are_as_large_as_the_budget_allows() -> None:
    assert [batch.tolist() for batch in plan([4, 8, 2, 8, 1], 16)] == [[1, 3], [0, 2, 4]]


def test_a_text_longer_than_the_budget_stands_alone() -> None:
    assert [batch.tolist() for batch in plan([5, 900, 5], 16)] == [[1], [0, 2]]


def test_nothing_to_plan() -> None:
    assert plan([], 16) == []


# --- embed ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=60), st.sampled_from([None, 8]))
def test_vectors_come_in_the_order_of_the_texts(texts: list[str], step: int | None) -> None:
    vectors = embed(LetterEngine(length_step=step), texts)
    assert vectors.shape == (len(texts), 3)
    if texts:
        assert np.array_equal(vectors, expected(texts))


def test_equal_texts_are_computed_once_a_window() -> None:
    engine = LetterEngine()
    vectors = embed(engine, ["abc", "x", "abc", "abc", "x"])
    assert sorted(engine.encoded) == ["abc", "x"]
    assert sum(map(len, engine.batches)) == 2
    assert np.array_equal(vectors, expected(["abc", "x", "abc", "abc", "x"]))


def test_windows_are_bounded_by_texts_and_by_characters() -> None:
    engine = LetterEngine()
    texts = [f"{number:04d}" for number in range(1300)]
    seen: list[int] = []
    encode = engine.encode

    def encode_and_note(texts: Sequence[str], kind: Kind) -> Encoded:
        seen.append(len(texts))
        return encode(texts, kind)

    engine.encode = encode_and_note  # type: ignore[method-assign]
    assert np.array_equal(embed(engine, texts), expected(texts))
    assert seen == [512, 512, 276]
    seen.clear()
    embed(engine, ["a" * 1_500_000, "b" * 1_500_000, "c"])
    assert seen == [1, 2]


def test_batches_keep_to_the_engines_tokens() -> None:
    engine = LetterEngine(batch_tokens=12)
    embed(engine, ["a" * length for length in (1, 2, 3, 4, 5, 6, 30)])
    assert engine.batches == [[30], [6, 5], [4, 3, 2], [1]]


def test_batches_are_reserved_by_rows_times_width_and_given_back() -> None:
    """Bytes of the largest batch (24 wide, or 3 of 8), and of the widest text alone."""
    engine, budget = LetterEngine(batch_tokens=32, length_step=8), StingyBudget(10_000)
    embed(engine, ["a" * 5, "b" * 7, "c" * 20, "d" * 4], budget=budget)
    assert budget.asked == [("embed batches", 240, 240)]
    assert budget.held == 0


def test_each_lane_computes_a_batch_of_its_own_at_the_same_time() -> None:
    engine, budget = LetterEngine(batch_tokens=20, lanes=3), StingyBudget(10_000)
    meeting = threading.Barrier(3, timeout=30)

    def meet(vectors: Vectors) -> Vectors:
        meeting.wait()  # breaks unless three are here at once
        return vectors

    engine.spoil = meet
    texts = [letter * 10 for letter in "abcdef"]
    assert np.array_equal(embed(engine, texts, budget=budget), expected(texts))
    assert budget.asked == [("embed batches", 3 * 200, 100)]


def test_lanes_are_given_up_before_batches_shrink() -> None:
    engine = LetterEngine(batch_tokens=20, lanes=3)
    texts = [letter * 10 for letter in "abcdef"]
    for granted, rows in ((450, [2, 2, 2]), (250, [2, 2, 2]), (150, [1] * 6)):
        engine.batches.clear()
        assert np.array_equal(embed(engine, texts, budget=StingyBudget(granted)), expected(texts))
        assert sorted(map(len, engine.batches), reverse=True) == rows


def test_an_error_in_one_lane_ends_the_call() -> None:
    engine = LetterEngine(batch_tokens=10, lanes=2)

    def fail(vectors: Vectors) -> Vectors:
        raise RuntimeError("kernel broke")

    engine.spoil = fail
    with pytest.raises(EmbeddingFailed, match="kernel broke"):
        embed(engine, [f"{number:010d}" for number in range(200)])
    assert len(engine.batches) < 200


def test_a_batch_shrinks_to_what_was_granted() -> None:
    engine, budget = LetterEngine(batch_tokens=64), StingyBudget(250)
    texts = [letter * 10 for letter in "abcdef"]
    assert np.array_equal(embed(engine, texts, budget=budget), expected(texts))
    assert engine.batches == [[10, 10], [10, 10], [10, 10]]
    assert budget.asked == [("embed batches", 600, 100)]


def test_what_can_never_fit_is_refused() -> None:
    budget = StingyBudget(99)
    with pytest.raises(BudgetExceeded, match="embed batches"):
        embed(LetterEngine(), ["a" * 10], budget=budget)
    assert budget.held == 0


def test_a_large_answer_is_reserved_too() -> None:
    budget = StingyBudget(1 << 20)
    with pytest.raises(BudgetExceeded, match="embedded vectors"):
        embed(LetterEngine(), ["a"] * 100_000, budget=budget)


def test_one_event_tells_of_the_call() -> None:
    heard = Heard()
    engine = LetterEngine(length_step=8)
    batching.embed(engine, ["abc", "abc", "defgh"], "query", budget=Unbudgeted(), publisher=heard)
    (event,) = heard.events
    assert isinstance(event, TextsEmbedded)
    assert (event.model, event.texts, event.tokens, event.padded_tokens) == ("letters", 3, 11, 16)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_no_direction_is_never_emitted(value: float) -> None:
    engine = LetterEngine()

    def spoil(vectors: Vectors) -> Vectors:
        vectors[vectors[:, 1] == ord("x")] = value
        return vectors

    engine.spoil = spoil
    with pytest.raises(EmbeddingFailed, match=r"texts\[2\]") as caught:
        embed(engine, ["a", "b", "x", "c", "x"])
    assert caught.value.fields["index"] == 2


def test_the_index_named_is_the_callers() -> None:
    engine = LetterEngine()
    engine.spoil = lambda vectors: np.where(vectors[:, 1:2] == ord("x"), np.float32(np.nan), vectors)
    with pytest.raises(EmbeddingFailed, match=r"texts\[700\]"):
        embed(engine, [f"{number}" for number in range(700)] + ["x"])


def test_a_wrong_shape_is_refused() -> None:
    engine = LetterEngine()
    engine.spoil = lambda vectors: vectors[:, :2]
    with pytest.raises(EmbeddingFailed, match=r"shape \(1, 2\) where \(1, 3\) was due"):
        embed(engine, ["a"])


def test_what_the_engine_raises_is_named_and_memory_errors_pass() -> None:
    engine = LetterEngine()

    def fail(vectors: Vectors) -> Vectors:
        raise RuntimeError("kernel broke")

    engine.spoil = fail
    with pytest.raises(EmbeddingFailed, match="kernel broke"):
        embed(engine, ["a"])

    def exhaust(vectors: Vectors) -> Vectors:
        raise MemoryError

    engine.spoil = exhaust
    with pytest.raises(MemoryError):
        embed(engine, ["a"])


def test_bad_texts_are_refused_before_anything_is_computed() -> None:
    engine = LetterEngine()
    with pytest.raises(InvalidInput, match=r"texts\[600\]"):
        embed(engine, ["a"] * 600 + [None])  # type: ignore[list-item]
    assert engine.batches == []


# --- texts in several rows ------------------------------------------------------------------------------------------


class SplittingEngine(LetterEngine):
    """Rows of at most four letters."""

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        parts = [[text[at : at + 4] for at in range(0, max(len(text), 1), 4)] for text in texts]
        owners = np.repeat(np.arange(len(texts)), [len(part) for part in parts])
        rows = super().encode([piece for part in parts for piece in part], kind).rows
        return Encoded(rows, owners)


def test_pieces_of_a_text_are_averaged_by_their_tokens() -> None:
    texts = ["ab", "abcdefghij", "", "xyzw"]
    vectors = embed(SplittingEngine(), texts)
    pieces = expected(["abcd", "efgh", "ij"])
    mean = (4 * pieces[0] + 4 * pieces[1] + 2 * pieces[2]) / 10
    assert np.allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.allclose(vectors[[0, 2, 3]], expected(["ab", "", "xyzw"]), atol=1e-6)


def test_truncated_texts_are_told() -> None:
    class Truncating(LetterEngine):
        def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
            return Encoded(super().encode(texts, kind).rows, truncated=2)

    heard = Heard()
    batching.embed(Truncating(), ["a", "b", "c"], "passage", budget=Unbudgeted(), publisher=heard)
    assert [event.truncated for event in heard.events if isinstance(event, TextsEmbedded)] == [2]
