from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embank.embed.fragments import Fragments, in_fragments
from embank.embed.tokens import Tokens

TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
# Where cutting and remembering could go wrong: blanks, marks, special tokens, bytes without a token, keys' lengths.
ODD = [
    *["a", " ", " a", "a ", "  a   b  ", " " * 17, " " * 500, " " * 50 + "x", "\n\n x\n", "\t\ttabs", "x" * 5000],
    *["<s>", "x<s>y", "<unk> </s>", "<s", "<0x41>", "▁", "a▁b", "▁ ▁", "\0", "a\0b\0", "a\0", "\x7f\x01", "-" * 40],
    *["a" * 13, "a" * 14, "a" * 15, "a" * 16, " " + "a" * 14, "ab" * 3000, "1984 and 12,345.67", "e\u0301e"],
    *["naïve café", "日本語のテキスト", "👍🏽👩\u200d👩\u200d👧", "\U0001d518\U0001d52b", "\u200bzero", "\ufeffbom"],
    *["Ελληνικά", "жизнь или язык", "þæt wæs gōd cyning", "中 文。<s>", "http://foo.bar/baz?x=1&y=2"],
    *["the quick brown fox; jumps (over) a lazy dog.", "antidisestablishmentarianism"],
]
MARKERS = ["<s>", "</s>", "<unk>", "▁"]
ALPHABET = [*"abcdefghij .,;:!?()[]{}<>/\\\n\t\0019▁é日本👍\u0301ßЖλ", "<s>", "the", "ing ", "  "]


@pytest.fixture(scope="module")
def library(wordllama_files: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(wordllama_files / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def small(library: Tokenizer) -> Fragments | None:
    return in_fragments(library, vocabulary=32_000, places=64)


@pytest.fixture
def make(library: Tokenizer) -> Callable[..., Fragments]:
    def make(**options: int) -> Fragments:
        fragments = in_fragments(library, vocabulary=32_000, **options)
        assert fragments is not None
        return fragments

    return make


def whole(library: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]


def strange(count: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return ["".join(chosen.choices(ALPHABET, k=chosen.randint(1, 60))) for _ in range(count)]


def check(fragments: Fragments, library: Tokenizer, texts: list[str]) -> None:
    """Right ids of every text that can be cut."""
    for text, found, expected in zip(texts, fragments.ids(texts), whole(library, texts), strict=True):
        if not text or any(marker in text for marker in MARKERS):
            assert found is None
        else:
            assert found is not None
            assert found.tolist() == expected


def test_ids_are_those_of_the_whole_text(make: Callable[..., Fragments], library: Tokenizer) -> None:
    fragments = make()
    for texts in (ODD, strange(1000, 1), ODD, *([text] for text in ODD)):
        check(fragments, library, texts)


def test_only_an_empty_text_and_one_with_a_mark_or_a_special_token_is_not_cut(make: Callable[..., Fragments]) -> None:
    texts = ["", "a", "a▁", "<s>", "<unk>b", "</s>", "<s", "", "é"]
    cut = [ids is not None for ids in make().ids(texts)]
    assert cut == [False, True, False, False, False, False, True, False, True]
    assert make().ids([]) == []
    assert make().ids([""]) == [None]


@settings(max_examples=300)
@given(texts=st.lists(st.text(max_size=40) | st.text(st.sampled_from("aeist 0▁\n.日é"), max_size=40), max_size=8))
def test_ids_of_any_texts_are_those_of_the_whole(texts: list[str], library: Tokenizer, small: Fragments | None) -> None:
    assert small is not None
    check(small, library, texts)
    check(small, library, texts)


def test_what_is_remembered_is_not_asked_for_again(make: Callable[..., Fragments], monkeypatch: Any) -> None:
    fragments = make()
    first = fragments.ids(["the quick brown fox", "a lazy dog; it is"])
    monkeypatch.setattr(fragments, "_model", None)
    again = fragments.ids(["a quick dog; the fox", "it is a lazy brown dog"])
    assert [each is not None for each in (*first, *again)] == [True] * 4
    with pytest.raises(AttributeError):
        fragments.ids(["an unseen word"])


def test_ids_stay_right_while_fragments_take_each_others_places(
    make: Callable[..., Fragments], library: Tokenizer
) -> None:
    fragments = make(places=16)
    for seed in range(20):
        check(fragments, library, strange(40, seed % 3))


def test_ids_stay_right_while_threads_learn_beside_each_other(
    make: Callable[..., Fragments], library: Tokenizer
) -> None:
    fragments = make(places=256)
    groups = [strange(50, seed) for seed in range(8)] * 3
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(check, fragments, library), groups))


def altered(library: Tokenizer, alter: Callable[[dict[str, Any]], object]) -> Tokenizer:
    told = json.loads(library.to_str())
    alter(told)
    return Tokenizer.from_str(json.dumps(told))


@pytest.mark.parametrize(
    "alter",
    [
        lambda told: told.update(normalizer=None),
        lambda told: told["normalizer"]["normalizers"].append({"type": "NFKC"}),
        lambda told: told.update(pre_tokenizer={"type": "Whitespace"}),
        lambda told: told["model"].update(byte_fallback=False),
        lambda told: told["model"].update(ignore_merges=True),
        lambda told: told["model"].update(dropout=0.5),
        lambda told: told["model"]["vocab"].update({"<0x41>b": 32_000}),
        lambda told: told["added_tokens"][0].update(normalized=True),
    ],
)
def test_a_tokenizer_that_may_differ_is_not_cut(library: Tokenizer, alter: Callable[[dict[str, Any]], object]) -> None:
    assert in_fragments(altered(library, lambda told: told), vocabulary=32_000) is not None
    assert in_fragments(altered(library, alter), vocabulary=1 << 31) is None


def test_nor_is_one_of_word_pieces_or_with_ids_that_the_model_has_not(minilm_files: Path, library: Tokenizer) -> None:
    assert in_fragments(Tokenizer.from_file(str(minilm_files / "tokenizer.json")), vocabulary=1 << 31) is None
    assert in_fragments(library, vocabulary=31_999) is None


# --- as a model's tokenizer uses them -------------------------------------------------------------------------------


def test_rows_are_truncated_as_the_whole_text_would_be(wordllama_files: Path, library: Tokenizer) -> None:
    texts = [*ODD, "", "word and, word " * 20, *strange(100, 5)]
    encoded = Tokens(wordllama_files / TOKENIZER, max_tokens=16, special=False).encode(texts)
    expected = whole(library, texts)
    assert [ids.tolist() for ids in encoded.rows] == [ids[:16] or [1] for ids in expected]
    assert encoded.truncated == sum(len(ids) > 16 for ids in expected)
    assert {ids.dtype.name for ids in encoded.rows} == {"int32"}


def test_split_rows_hold_all_of_a_text(wordllama_files: Path, library: Tokenizer) -> None:
    texts = ["word and, word " * 20, "", "a", "x<s>y" * 9]
    encoded = Tokens(wordllama_files / TOKENIZER, max_tokens=16, special=False, split=True).encode(texts)
    joined: list[list[int]] = [[] for _ in texts]
    assert encoded.owners is not None
    for owner, ids in zip(encoded.owners.tolist(), encoded.rows, strict=True):
        assert len(ids) <= 16
        joined[owner] += ids.tolist()
    assert joined == [ids or [1] for ids in whole(library, texts)]


def test_counts_are_of_the_whole_text(wordllama_files: Path, library: Tokenizer) -> None:
    texts = [*ODD, "", *strange(700, 6)]
    counts = Tokens(wordllama_files / TOKENIZER, max_tokens=16, special=False).count(texts)
    assert counts == [len(ids) for ids in whole(library, texts)]
