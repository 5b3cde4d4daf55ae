"""Forests of Annoy: the shipped contract, with rescoring over mapped segments; what is kept, and what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embank.errors import InvalidInput, StorageFull
from embank.store.codec import Codec
from embank.store.index import annoy
from embank.store.index.annoy import AnnoyCodes, Forest
from embank.store.index.rescored import RescoredIndex
from embank.store.vectors import Segments
from embank.system.files import Files
from embank.testing.indexes import (
    DIMENSION,
    Build,
    BuildCodes,
    CodesContract,
    Float32,
    IndexContract,
    clustered,
    questions,
)

pytestmark = pytest.mark.skipif(not annoy.available(), reason="annoy is not installed")

FOREST = Forest(DIMENSION, trees=10, rescored=200)


def _forest(folder: Path, vectors: Float32, *, on_disk: bool = True, of: Forest = FOREST) -> AnnoyCodes:
    codes = annoy.make(of, folder, on_disk=on_disk)
    codes.add(vectors)
    return codes


def _kept(codes: AnnoyCodes) -> bytes:
    pieces: list[bytes] = []
    codes.save(pieces.append)
    return b"".join(pieces)


def _loaded(folder: Path, record: bytes) -> AnnoyCodes:
    return annoy.load(FOREST, lambda most: record[:most], folder)


class TestIndex(IndexContract):
    @pytest.fixture
    def build(self, tmp_path: Path) -> Build:
        def build(vectors: Float32) -> RescoredIndex:
            segments = Segments(tmp_path / "v", Codec("fp16", vectors.shape[1]), files=Files())
            if len(vectors):
                segments.append(vectors, mark=0)
            # The last tenth is in no codes yet; the codes are those that were kept.
            codes = _forest(tmp_path, vectors[: len(vectors) * 9 // 10])
            codes = _loaded(tmp_path, _kept(codes))
            return RescoredIndex(codes, segments.rows(len(vectors)), depth=FOREST.rescored, exhaustive=False)

        return build


class TestCodes(CodesContract):
    on_disk = True

    @pytest.fixture
    def build(self, tmp_path: Path) -> BuildCodes:
        return lambda vectors: _forest(tmp_path, vectors, on_disk=self.on_disk)

    def test_it_can_be_written(self, build: BuildCodes) -> None:
        """What is written is a record; the forest has a file of its own."""
        codes = build(clustered(500, seed=29))
        record: list[bytes] = []
        codes.save(record.append)
        assert isinstance(codes, AnnoyCodes)
        assert (codes.folder / json.loads(b"".join(record))["name"]).stat().st_size > 500 * 4 * DIMENSION


class TestCodesBuiltInMemory(TestCodes):
    on_disk = False


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_kept_answers_as_before_and_holds_next_to_nothing(tmp_path: Path, *, on_disk: bool) -> None:
    vectors = clustered(3_000, seed=60)
    codes = _forest(tmp_path, vectors, on_disk=on_disk)
    asked = questions(vectors, 20, seed=61)
    before = [codes.candidates(query, 50).tolist() for query in asked]
    assert codes.used_bytes() > 3_000
    record = _kept(codes)
    assert codes.used_bytes() < 3_000
    loaded = _loaded(tmp_path, record)
    for each in (codes, loaded):
        assert [each.candidates(query, 50).tolist() for query in asked] == before
        assert each.rows == 3_000
    assert [path.name for path in tmp_path.iterdir()] == [json.loads(record)["name"]]
    assert FOREST.file_bytes(3_000) / 2 < json.loads(record)["bytes"] < 2 * FOREST.file_bytes(3_000)


def test_a_mapped_forest_outlives_its_files_removal(tmp_path: Path) -> None:
    vectors = clustered(500, seed=62)
    codes = _forest(tmp_path, vectors)
    _kept(codes)
    next(tmp_path.iterdir()).unlink()
    assert 123 in codes.candidates(vectors[123], 20)


def test_what_is_kept_is_not_extended(tmp_path: Path) -> None:
    codes = _forest(tmp_path, clustered(500, seed=62))
    _kept(codes)
    with pytest.raises(InvalidInput, match="can't be extended"):
        codes.add(clustered(1, seed=63))


def test_more_nodes_are_looked_at_for_more_candidates(tmp_path: Path) -> None:
    vectors = clustered(4_000, seed=64)
    few = _forest(tmp_path, vectors, of=Forest(DIMENSION, trees=10, search_k=300, rescored=100))
    query = vectors[7]
    assert len(few.candidates(query, 100)) == 100
    assert len(few.candidates(query, 2_000)) > 1_000


@pytest.mark.parametrize("damage", ["a flipped bit", "shorter", "longer", "garbage", "empty", "gone"])
def test_a_damaged_file_is_never_handed_to_the_library(tmp_path: Path, damage: str) -> None:
    """Annoy ends the whole process over what is no file of its own making."""
    record = _kept(_forest(tmp_path, clustered(500, seed=65)))
    path = next(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    damaged: dict[str, bytes | bytearray] = {
        "a flipped bit": bytes(content),
        "shorter": content[:-204],
        "longer": content + content[:204],
        "garbage": b"\xff" * len(content),
        "empty": b"",
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"checksum|missing"):
        _loaded(tmp_path, record)


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"name": "../x.annoy", "rows": 1, "bytes": 1, "checksum": 1}'])
def test_a_record_that_names_no_forest_is_refused(tmp_path: Path, record: bytes) -> None:
    with pytest.raises(ValueError, match=r"no forest|no name of|Expecting"):
        _loaded(tmp_path, record)


def test_without_room_on_the_disk_it_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would end the process while it writes through a mapping."""
    codes = annoy.make(FOREST, tmp_path)
    monkeypatch.setattr(Files, "free_bytes", lambda self, path: 10_000)
    with pytest.raises(StorageFull, match="MB"):
        codes.add(clustered(500, seed=66))
    assert codes.rows == 0


def test_an_empty_forest(tmp_path: Path) -> None:
    codes = _forest(tmp_path, np.empty((0, DIMENSION), np.float32))
    loaded = _loaded(tmp_path, _kept(codes))
    assert loaded.candidates(clustered(1, seed=67)[0], 5).tolist() == []
