"""Segment files: what is below the mark is there, what is past it never was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embank.errors import BankDamaged
from embank.store import vectors as module
from embank.store.codec import Codec
from embank.store.vectors import DATA_OFFSET, Segments
from embank.system.files import Files
from embank.testing.faults import FaultyFiles
from embank.testing.indexes import DIMENSION, clustered

CODEC = Codec("fp16", DIMENSION)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_ROWS", 100)


def segments(tmp_path: Path, files: Files | None = None) -> Segments:
    return Segments(tmp_path / "1-0", CODEC, files=files or Files())


@pytest.mark.usefixtures("small_segments")
def test_rows_span_segments(tmp_path: Path) -> None:
    data = clustered(350, seed=1)
    store = segments(tmp_path)
    for first in range(0, 350, 37):
        store.append(data[first : first + 37], mark=first)
    store.sync()
    rows = store.rows(350)
    assert len(list((tmp_path / "1-0").glob("*.vec"))) == 4
    slots = np.array([349, 0, 99, 100, 250, 100])
    np.testing.assert_array_equal(rows.gather(slots), data[slots].astype(np.float16).astype(np.float32))
    seen = [first + place for first, block in rows.blocks(30) for place in range(len(block))]
    assert seen == list(range(350))


@pytest.mark.usefixtures("small_segments")
def test_scores_are_those_of_the_vectors_picked_in_any_order_and_number(tmp_path: Path) -> None:
    data = clustered(350, seed=6)
    store = segments(tmp_path)
    store.append(data, mark=0)
    rows = store.rows(350)
    shuffled = np.random.default_rng(0).permutation(350)
    for slots in (shuffled, shuffled[:1], shuffled[:0], np.array([349, 0, 99, 100, 250])):
        kept = data[slots].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(rows.pick(slots), kept)
        np.testing.assert_allclose(rows.scores(slots, data[7]), kept @ data[7], atol=1e-6)


@pytest.mark.usefixtures("small_segments")
def test_cut_removes_exactly_what_lies_past_the_mark(tmp_path: Path) -> None:
    data = clustered(350, seed=2)
    segments(tmp_path).append(data, mark=0)
    store = segments(tmp_path)
    assert store.cut(150) > 0
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "1-0").glob("*.vec")}
    assert sizes == {
        "000000.vec": DATA_OFFSET + 100 * CODEC.record.itemsize,
        "000001.vec": DATA_OFFSET + 50 * CODEC.record.itemsize,
    }
    assert store.cut(150) == 0
    store.append(data[150:], mark=150)
    np.testing.assert_array_equal(store.rows(350).gather(np.arange(350)), data.astype(np.float16).astype(np.float32))


def test_rows_held_stay_valid_while_more_is_appended_and_after_close(tmp_path: Path) -> None:
    data = clustered(50, seed=3)
    store = segments(tmp_path)
    store.append(data[:20], mark=0)
    early = store.rows(20)
    store.append(data[20:], mark=20)
    assert len(store.rows(50)) == 50
    store.close()
    assert len(early) == 20
    np.testing.assert_array_equal(early.gather(np.arange(20)), data[:20].astype(np.float16).astype(np.float32))


def test_a_failed_write_leaves_the_rows_before_it(tmp_path: Path) -> None:
    files = FaultyFiles()
    data = clustered(40, seed=4)
    store = segments(tmp_path, files)
    store.append(data[:20], mark=0)
    files.room_bytes = 100
    with pytest.raises(OSError, match="No space left"):
        store.append(data[20:], mark=20)
    files.room_bytes = None
    store.append(data[20:], mark=20)
    np.testing.assert_array_equal(store.rows(40).gather(np.arange(40)), data.astype(np.float16).astype(np.float32))


def test_a_new_segment_and_its_folder_are_made_durable(tmp_path: Path) -> None:
    files = FaultyFiles()
    store = segments(tmp_path, files)
    store.append(clustered(3, seed=5), mark=0)
    store.sync()
    assert files.synced == [tmp_path.name, "1-0", "data"]


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    with pytest.raises(BankDamaged, match=r"000000\.vec is missing"):
        segments(tmp_path).rows(1)


def test_a_short_segment_is_named(tmp_path: Path) -> None:
    segments(tmp_path).append(clustered(3, seed=6), mark=0)
    with pytest.raises(BankDamaged, match=r"000000\.vec is shorter than"):
        segments(tmp_path).rows(4)


def test_a_segment_of_another_dimension_is_refused(tmp_path: Path) -> None:
    segments(tmp_path).append(clustered(3, seed=7), mark=0)
    other = Segments(tmp_path / "1-0", Codec("int8", DIMENSION - 4), files=Files())
    with pytest.raises(BankDamaged, match="its header differs"):
        other.rows(1)
