"""Cutting a stream of text into parts."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embank.source.parts import cut, utf8_bytes


@given(
    blocks=st.lists(st.text(alphabet="ab \n.é漢🎉\u0301\r", max_size=80), max_size=20),
    limit_bytes=st.integers(4, 64),
)
def test_the_parts_are_the_whole_text(blocks: list[str], limit_bytes: int) -> None:
    parts = list(cut(blocks, limit_bytes=limit_bytes))
    assert "".join(parts) == "".join(blocks)
    assert all(0 < utf8_bytes(part) <= limit_bytes for part in parts)
    assert parts == list(cut(["".join(blocks)], limit_bytes=limit_bytes))


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("x" * 80 + "\n\n" + "y" * 10 + "\n" + "z" * 80, "x" * 80 + "\n\n"),
        ("x" * 80 + "\r\n\r\n" + "y" * 80, "x" * 80 + "\r\n\r\n"),
        ("x" * 80 + "\n" + "y. " + "z" * 80, "x" * 80 + "\n"),
        ("x" * 80 + ". " + "y " + "z" * 80, "x" * 80 + ". "),
        ("x" * 80 + "。" + "y" * 80, "x" * 80 + "。"),
        ("x" * 80 + " " + "y" * 80, "x" * 80 + " "),
        ("x" * 20 + "\n\n" + "y" * 200, "x" * 20 + "\n\n" + "y" * 78),
        ("x" * 99 + "e\u0301" + "y" * 80, "x" * 99),
        ("x" * 96 + "\r\n" + "y" * 80, "x" * 96 + "\r\n"),
    ],
)
def test_where_the_first_part_ends(text: str, first: str) -> None:
    assert next(cut([text], limit_bytes=100)) == first


def test_what_fits_is_one_part() -> None:
    assert list(cut(["abc", "", "def"], limit_bytes=6)) == ["abcdef"]
    assert list(cut([], limit_bytes=6)) == []
    assert list(cut(["", ""], limit_bytes=6)) == []


@pytest.mark.parametrize("block", ["x" * 65_536, "漢" * 21_845])
def test_an_endless_line_takes_constant_memory(block: str) -> None:
    def endless() -> Iterator[str]:
        for _ in range(300):
            yield block

    tracemalloc.start()
    total = sum(map(len, cut(endless(), limit_bytes=1 << 20)))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 300 * len(block)
    assert peak_bytes < 12 << 20
