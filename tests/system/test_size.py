"""Amounts of memory: what is read, what is refused, what is printed."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embank.errors import InvalidInput
from embank.system.size import Size

UNITS = {"": 1, "B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@pytest.mark.parametrize(
    ("given_", "whole_bytes", "expected"),
    [
        (1, 0, 1),
        ("512MB", 0, 512_000_000),
        ("512 mib", 0, 512 * 1024**2),
        ("1.5GB", 0, 1_500_000_000),
        (" 1.5GiB ", 0, 1536 * 1024**2),
        ("2TB", 0, 2 * 10**12),
        ("60%", 1000, 600),
        ("29 %", 100, 29),
        ("100%", 77, 77),
        ("0.5%", 1000, 5),
        ("1%", 1, 1),
        ("9223372036854775807", 0, 2**63 - 1),
    ],
)
def test_a_size_means(given_: int | str, whole_bytes: int, expected: int) -> None:
    assert Size(given_).resolve(whole_bytes) == expected


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_a_size_prints_as_it_was_given_and_reads_back(number: int, unit: str, gap: str) -> None:
    text = f"{number}{gap}{unit}".strip()
    size = Size(text)
    assert size.resolve(0) == size.count_bytes == number * UNITS[unit]
    assert str(size) == text
    assert Size(str(size)) == size == Size(size)
    assert hash(Size(number * UNITS[unit])) == hash(size)


@given(st.decimals(min_value="0.01", max_value=100, places=2), st.integers(1, 2**48))
def test_a_percentage_is_that_part_of_the_whole(percent: object, whole_bytes: int) -> None:
    size = Size(f"{percent}%")
    assert str(size) == f"{percent}%"
    assert size.count_bytes is None
    exact = whole_bytes * float(str(percent)) / 100
    assert abs(size.resolve(whole_bytes) - max(exact, 1)) <= 1
    assert 1 <= size.resolve(whole_bytes) <= whole_bytes


NO_TEXTS = ["", "0", "0%", "0.4B", "-1", "-5MB", "100.1%", "12 parsecs", "512M", "NaN", "nan%", "inf", "1e6", "1,5GB"]
NO_TEXTS += ["MB", "٣MB", "9223372036854775808", "99999999PB", "1 0MB", "1MB\x00", "9" * 10_000]
NO_VALUES = [0, -1, True, 0.6, None, float("nan"), 10**5000, -(10**5000), b"1MB"]


@pytest.mark.parametrize(
    "wrong", [*NO_TEXTS, *NO_VALUES], ids=lambda wrong: hex(wrong)[:8] if isinstance(wrong, int) else repr(wrong)[:20]
)
def test_what_is_no_size_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInput, match=r"is not a size: give bytes, 512MB, 1\.5GiB or 60%") as caught:
        Size(wrong)  # type: ignore[arg-type]  # that is the point
    assert len(str(caught.value)) < 130


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        size = Size(text)
    except InvalidInput:
        return
    assert size.resolve(10**9) >= 1
    assert Size(str(size)) == size


def test_different_amounts_differ() -> None:
    assert Size("512MB") != Size("512MiB")
    assert Size("50%") != Size(50)
    assert repr(Size("60%")) == "Size('60%')"


@pytest.mark.parametrize("text", ["60%", "512 MB"])
def test_a_size_can_be_copied_and_pickled(text: str) -> None:
    size = Size(text)
    again = pickle.loads(pickle.dumps(size))  # noqa: S301 - bytes made the line before
    assert again == copy.deepcopy(size) == size
    assert str(again) == text
