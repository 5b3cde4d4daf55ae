from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.embed.tiny_bert import write_tokenizer
from tokenizers import Tokenizer

from embank.embed.tokens import Tokens
from embank.errors import ModelFileError
from embank.testing.models import TEXTS


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    write_tokenizer(path)
    return path


def test_ids_are_what_the_library_itself_truncates_to(minilm_files: Path) -> None:
    path = minilm_files / "tokenizer.json"
    library = Tokenizer.from_file(str(path))
    library.no_padding()
    library.enable_truncation(16)
    texts = [*TEXTS, "", " ", "word " * 100, "a [SEP] b [MASK]"]
    found = Tokens(path, max_tokens=16).encode(texts).rows
    assert [ids.tolist() for ids in found] == [encoding.ids for encoding in library.encode_batch(texts)]
    assert all(ids.dtype == np.int32 for ids in found)


def test_counts_are_of_the_whole_text_without_special_tokens(minilm_files: Path) -> None:
    tokens = Tokens(minilm_files / "tokenizer.json", max_tokens=16)
    assert tokens.count(["", "hello", "hello world", "word " * 1000, "unbelievability"]) == [0, 1, 2, 1000, 5]
    assert tokens.count([]) == []


def test_prefix_comes_before_the_text_and_counts_towards_the_limit(tiny: Path) -> None:
    tokens = Tokens(tiny, max_tokens=5)
    (ids,) = tokens.encode(["a b c d"], prefix="z ").rows
    assert ids.tolist() == [2, 29, 4, 5, 3]


def test_without_special_tokens_an_empty_text_gets_the_first_of_them(tiny: Path) -> None:
    tokens = Tokens(tiny, max_tokens=8, special=False)
    assert [ids.tolist() for ids in tokens.encode(["", "a b"]).rows] == [[2], [4, 5]]


def test_lower_case_is_applied_where_the_model_asks(tiny: Path) -> None:
    assert Tokens(tiny, max_tokens=8).encode(["A"]).rows[0].tolist() == [2, 1, 3]
    assert Tokens(tiny, max_tokens=8, lower_case=True).encode(["A"]).rows[0].tolist() == [2, 4, 3]


def test_a_long_text_is_counted_in_parts_as_exactly_as_whole(minilm_files: Path) -> None:
    tokens = Tokens(minilm_files / "tokenizer.json", max_tokens=16)
    sentence = "The unbelievable budget holds, whatever is embedded. "
    text = sentence * 6000
    assert len(text) > 4 * 65_536
    assert tokens.count([text, "one two"]) == [6000 * tokens.count([sentence])[0], 2]


def test_a_long_text_without_blanks_is_counted_all_the_same(wordllama_files: Path) -> None:
    tokens = Tokens(wordllama_files / "tokenizers/l2_supercat_tokenizer_config.json", max_tokens=64, special=False)
    assert tokens.count(["ab" * 100_000])[0] > 20_000


def test_only_the_start_of_a_huge_text_is_read(minilm_files: Path) -> None:
    tokens = Tokens(minilm_files / "tokenizer.json", max_tokens=256)
    (ids,) = tokens.encode(["word " * 2_000_000]).rows
    assert len(ids) == 256


def test_order_is_kept_over_many_groups(tiny: Path) -> None:
    texts = [chr(ord("a") + number % 26) + " a" * (number % 7) for number in range(500)]
    found = Tokens(tiny, max_tokens=32).encode(texts).rows
    assert [int(ids[1]) for ids in found] == [4 + number % 26 for number in range(500)]
    assert [len(ids) for ids in found] == [3 + number % 7 for number in range(500)]


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no tokenizer: .*tokenizer\.json is missing"):
        Tokens(tmp_path / "tokenizer.json", max_tokens=8)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is no tokenizer"):
        Tokens(path, max_tokens=8)


# --- texts that are too long ----------------------------------------------------------------------------------------


def test_what_is_truncated_is_counted(tiny: Path) -> None:
    tokens = Tokens(tiny, max_tokens=5)
    assert tokens.encode(["a b c", "a b c d", "", "e " * 100_000]).truncated == 2
    assert tokens.encode(["a b c"]).owners is None


def test_a_long_text_is_split_into_rows_that_hold_all_of_it(tiny: Path) -> None:
    encoded = Tokens(tiny, max_tokens=5, split=True).encode(["a", "a b c d e f g", ""])
    assert [ids.tolist() for ids in encoded.rows] == [[2, 4, 3], [2, 4, 5, 6, 3], [2, 7, 8, 9, 3], [2, 10, 3], [2, 3]]
    assert encoded.owners is not None
    assert encoded.owners.tolist() == [0, 1, 1, 1, 2]
    assert encoded.truncated == 0


def test_splitting_changes_nothing_where_nothing_is_too_long(tiny: Path) -> None:
    encoded = Tokens(tiny, max_tokens=5, split=True).encode(["a b c", "a"])
    assert [ids.tolist() for ids in encoded.rows] == [[2, 4, 5, 6, 3], [2, 4, 3]]
    assert encoded.owners is None


def test_a_text_of_a_megabyte_is_split_to_the_last_token(minilm_files: Path) -> None:
    tokens = Tokens(minilm_files / "tokenizer.json", max_tokens=256, split=True)
    text = "word " * 200_000
    encoded = tokens.encode([text])
    assert sum(len(ids) - 2 for ids in encoded.rows) == 200_000
    assert max(map(len, encoded.rows)) == 256
