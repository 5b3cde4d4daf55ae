"""Space-Saving keeps its promises, whatever the stream; and the file that the counts are kept in."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embank.store.hot.accesses import Accesses
from embank.store.hot.counts import SpaceSaving
from embank.system.clock import SystemClock
from embank.system.files import Files
from embank.testing.faults import FaultyFiles


def _check(counts: SpaceSaving, truth: Counter[str], counters: int) -> None:
    found = {each.name: each for each in counts.top()}
    total = sum(truth.values())
    assert counts.total == total
    assert len(found) == len(counts) <= counters
    for name, each in found.items():
        assert each.least <= truth[name] <= each.count
        assert each.error <= total / counters
    for name, count in truth.items():
        if name not in found:
            assert count <= counts.floor <= total / counters


@given(st.lists(st.integers(0, 12), max_size=300), st.integers(1, 8))
def test_counts_are_never_too_low_and_too_high_by_their_error_at_most(stream: list[int], counters: int) -> None:
    counts = SpaceSaving(counters)
    for number in stream:
        counts.add(str(number))
    _check(counts, Counter(map(str, stream)), counters)


@given(st.lists(st.integers(0, 12), max_size=200), st.lists(st.integers(0, 12), max_size=200), st.integers(1, 8))
def test_what_was_kept_goes_on_counting(before: list[int], after: list[int], counters: int) -> None:
    counts = SpaceSaving(counters)
    for number in before:
        counts.add(str(number))
    counts = SpaceSaving.from_dict(counts.as_dict(), counters)
    for number in after:
        counts.add(str(number))
    _check(counts, Counter(map(str, before + after)), counters)


@given(st.lists(st.integers(0, 20), max_size=300), st.integers(2, 8), st.integers(1, 12))
def test_with_another_number_of_counters_the_bounds_still_hold(stream: list[int], first: int, then: int) -> None:
    counts = SpaceSaving(first)
    for number in stream:
        counts.add(str(number))
    counts = SpaceSaving.from_dict(counts.as_dict(), then)
    for number in stream:
        counts.add(str(number))
    truth = Counter(map(str, stream + stream))
    found = {each.name: each for each in counts.top()}
    assert len(found) <= then
    for name, count in truth.items():
        if name in found:
            assert found[name].least <= count <= found[name].count
        else:
            assert count <= counts.floor


def test_of_a_skewed_stream_the_true_top_is_there_as_far_as_the_bound_goes() -> None:
    random = np.random.default_rng(3)
    stream = np.minimum(random.zipf(1.3, 200_000), 1_000_000)
    counters = 500
    counts = SpaceSaving(counters)
    for number in stream.tolist():
        counts.add(f"d{number}")
    truth = Counter(f"d{number}" for number in stream.tolist())
    _check(counts, truth, counters)
    sure = [name for name, count in truth.items() if count > len(stream) / counters]
    assert len(sure) > 20
    assert set(sure) <= {each.name for each in counts.top()}
    assert [each.name for each in counts.top(10)] == [name for name, _ in truth.most_common(10)]


def test_a_document_that_is_gone_gives_its_counter_up() -> None:
    counts = SpaceSaving(3)
    for name in "aaaabbc":
        counts.add(name)
    counts.forget(["a", "never seen"])
    counts.add("d")
    assert [(each.name, each.count, each.error) for each in counts.top()] == [("b", 2, 0), ("c", 1, 0), ("d", 1, 0)]
    counts.add("e")
    assert {each.name for each in counts.top()} == {"b", "d", "e"}


def test_bytes_grow_with_the_counters_and_stop_there() -> None:
    counts = SpaceSaving(100)
    for number in range(100):
        counts.add(f"{number:08}")
    full = counts.used_bytes()
    assert full > 100 * 100
    for number in range(100, 5_000):
        counts.add(f"{number:08}")
    assert counts.used_bytes() == full


def test_what_it_holds_does_not_depend_on_what_was_counted() -> None:
    """Counts that rise together and then part leave no room behind at each count that many once had."""
    counts = SpaceSaving(2_000)
    names = [f"{number:08}" for number in range(2_000)]
    for name in names:
        counts.add(name)
    tracemalloc.start()
    try:
        for turn in range(200):
            for name in names[turn * 10 :]:
                counts.add(name)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A number for each count of some names, and the numbers themselves: no table of names.
    assert grown < 100_000


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"total": 1, "floor": 0, "counters": [["a"]]},
        {"total": "x"},
        {"total": 1, "floor": 0, "counters": [["a", 1 << 63, 0]]},
        {"total": 1, "floor": 0, "counters": [["a", 1, 2]]},
    ],
)
def test_what_is_no_counts_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"no counts|unpack|invalid literal"):
        SpaceSaving.from_dict(value, 3)


# --- the file ---


def _accesses(
    path: Path, *, name: str = "n", files: Files | None = None, writes: bool = True, save_every: int = 1_000_000
) -> Accesses:
    return Accesses(
        path / "counts.json",
        name,
        counters=10,
        save_every=save_every,
        writes=writes,
        files=files or Files(),
        clock=SystemClock(),
    )


def _names(accesses: Accesses) -> list[tuple[str, int]]:
    return [(each.name, each.count) for each in accesses.top()]


def test_counts_outlive_the_process(tmp_path: Path) -> None:
    first = _accesses(tmp_path)
    first.add("aab")
    first.close()
    second = _accesses(tmp_path)
    second.add("b")
    second.add("b")
    assert _names(second) == [("b", 3), ("a", 2)]
    assert second.figures() == (5, 2, 0)


def test_they_are_written_after_so_many(tmp_path: Path) -> None:
    counting = _accesses(tmp_path, save_every=10)
    counting.add("a" * 9)
    assert not (tmp_path / "counts.json").exists()
    counting.add("a")
    counting._thread.close()  # waits for the turn
    assert _names(_accesses(tmp_path)) == [("a", 10)]


def test_who_reads_a_bank_writes_nothing(tmp_path: Path) -> None:
    reading = _accesses(tmp_path, writes=False, save_every=1)
    reading.add("abc")
    reading.close()
    assert not list(tmp_path.iterdir())
    assert len(_names(reading)) == 3


@pytest.mark.parametrize("damage", [b"", b"00000000\n{}", b"not even JSON"])
def test_damaged_counts_begin_anew(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "counts.json").write_bytes(damage)
    counting = _accesses(tmp_path)
    counting.add("a")
    assert _names(counting) == [("a", 1)]
    assert "counting begins anew" in caplog.text


def test_counts_of_another_collection_are_not_taken_over(tmp_path: Path) -> None:
    first = _accesses(tmp_path, name="one")
    first.add("a")
    first.close()
    assert _names(_accesses(tmp_path, name="other")) == []


def test_a_full_disk_fails_no_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = FaultyFiles()
    files.room_bytes = 0
    counting = _accesses(tmp_path, files=files)
    counting.add("a")
    counting.close()
    assert "are not written" in caplog.text
    assert not list(tmp_path.iterdir())
