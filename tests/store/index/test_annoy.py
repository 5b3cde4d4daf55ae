"""Forests of Annoy: the shipped contract, with rescoring over mapped segments; what is kept, and what is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tests.store.index.conftest import ROWS, Opener, add, exact, found

from embank.errors import InvalidInput, StorageFull
from embank.store.codec import Codec
from embank.store.index import annoy, faiss
from embank.store.index.annoy import AnnoyCodes, Forest
from embank.store.index.rescored import RescoredIndex
from embank.store.vectors import Segments
from embank.store.verify import verify
from embank.system.files import Files
from embank.testing.backends import BackendContract
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


class TestAnnoy(BackendContract):
    settings: ClassVar = {"kind": "annoy"}


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


# --- a collection of a bank ---


def _files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "bank" / "views").glob("*/index/*")}


def test_it_is_chosen_by_one_setting_and_answers_with_exact_scores(
    tmp_path: Path, bank: Opener, vectors: Float32
) -> None:
    collection = bank(kind="annoy")
    add(collection, vectors)
    collection.index.refresh()
    status = collection.index.status()
    assert status is not None
    assert (status.method, status.indexed_rows, status.loaded) == ("Annoy, 40 trees + 200", ROWS, True)
    hits = 0
    for query in questions(vectors, 30, seed=70):
        ids, scores = found(collection, query)
        best = exact(vectors, query)
        stored = vectors.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(scores, [stored[int(each[1:])] @ query for each in ids], atol=1e-5)
        hits += int((scores >= best[-1] - 1e-6).sum())
    assert hits / 300 >= 0.99
    assert len(_files(tmp_path)) == 1


def test_it_is_loaded_again_and_what_came_since_is_scanned(tmp_path: Path, bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="annoy")
    add(collection, vectors[:-100])
    collection.index.refresh()
    kept = _files(tmp_path)
    bank.close()
    collection = bank(kind="annoy")
    add(collection, vectors[-100:], first=ROWS - 100)
    collection.delete(["d17"])
    for number in (ROWS - 3, 16):
        assert found(collection, vectors[number], 1)[0] == [f"d{number}"]
    assert "d17" not in found(collection, vectors[17])[0]
    status = collection.index.status()
    assert status is not None
    assert (status.indexed_rows, status.rows, status.loaded) == (ROWS - 100, ROWS, True)
    assert _files(tmp_path) == kept


def test_filters_are_exact(bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="annoy")
    add(collection, vectors)
    collection.index.refresh()
    even = np.arange(ROWS) % 2 == 0
    hits = 0
    for query in questions(vectors, 20, seed=71):
        ids, scores = found(collection, query, where={"even": True})
        assert all(int(each[1:]) % 2 == 0 for each in ids)
        assert len(ids) == 10
        hits += int((scores >= exact(vectors, query, even)[-1] - 1e-6).sum())
    assert hits / 200 >= 0.99


def test_more_vectors_mean_another_forest_and_one_file(tmp_path: Path, bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="annoy")
    add(collection, vectors[:3_000])
    collection.index.refresh()
    first = _files(tmp_path)
    add(collection, vectors[3_000:], first=3_000)
    collection.index.refresh()
    status = collection.index.status()
    assert status is not None
    assert (status.indexed_rows, status.trained_rows) == (ROWS, 1)
    assert len(_files(tmp_path)) == 1
    assert not first & _files(tmp_path)
    assert found(collection, vectors[4_444], 1)[0] == ["d4444"]


def test_another_setting_or_kind_leaves_no_file_of_it(tmp_path: Path, bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="annoy")
    add(collection, vectors)
    collection.index.refresh()
    bank.close()
    if not faiss.available():
        pytest.skip("faiss-cpu is not installed")
    collection = bank(kind="sq8")
    collection.index.refresh()
    status = collection.index.status()
    assert status is not None
    assert status.method == "SQ8 + 50"
    assert _files(tmp_path) == set()


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_forest_is_found_by_verify_and_made_anew(
    tmp_path: Path, bank: Opener, vectors: Float32, *, cut: bool
) -> None:
    collection = bank(kind="annoy")
    add(collection, vectors)
    collection.index.refresh()
    bank.close()
    path = next((tmp_path / "bank" / "views").glob("*/index/*"))
    content = bytearray(path.read_bytes())
    content[1_000] ^= 1
    path.write_bytes(content[:-1] if cut else content)
    report = verify(tmp_path / "bank")
    assert [(each.severity, each.part) for each in report.findings] == [("derived", "views/1-0/vectors.index")]
    collection = bank(kind="annoy")
    assert found(collection, vectors[5], 1)[0] == ["d5"]
    collection.index.refresh()
    bank.close()
    assert verify(tmp_path / "bank").findings == ()


def test_without_room_all_is_scanned_and_it_says_why(
    bank: Opener, vectors: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = bank(kind="annoy")
    add(collection, vectors)
    monkeypatch.setattr(Files, "free_bytes", lambda self, path: 10_000)
    with pytest.raises(StorageFull):
        collection.index.refresh()
    assert found(collection, vectors[5], 1)[0] == ["d5"]


def test_searching_holds_no_copy_of_the_vectors(tmp_path: Path) -> None:
    """A forest of 40 MB is searched in a process of its own, which then holds a few of them more than before."""
    vectors = clustered(20_000, seed=72)
    wide = np.repeat(vectors, 8, axis=1) / np.float32(8**0.5)
    of = Forest(wide.shape[1], trees=4)
    record = _kept(_forest(tmp_path, wide, of=of))
    assert json.loads(record)["bytes"] > 30e6
    np.save(tmp_path / "asked.npy", wide[:200])
    (tmp_path / "record").write_bytes(record)
    done = subprocess.run(
        [sys.executable, "-c", _SEARCHER, str(tmp_path), str(of.dimension)], capture_output=True, text=True, check=True
    )
    before, after, candidates = json.loads(done.stdout)
    assert candidates == 200 * 50
    assert after - before < 4_000_000


_SEARCHER = """
import io, json, sys
from pathlib import Path
import numpy as np
from embank.store.index import annoy

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

folder = Path(sys.argv[1])
asked = np.load(folder / "asked.npy")
annoy.require()
before = anonymous()
record = io.BytesIO((folder / "record").read_bytes())
codes = annoy.load(annoy.Forest(int(sys.argv[2]), trees=4), record.read, folder)
found = sum(len(codes.candidates(query, 50)) for query in asked)
print(json.dumps([before, anonymous(), found]))
"""
