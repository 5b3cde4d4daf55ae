"""LanceDB: the shipped contracts, its bounds, and what is found of its directory when it is opened again."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tests.store.index.conftest import Opener, add, exact, found

from embank.errors import BudgetExceeded, MissingExtra
from embank.store.index import faiss, lancedb
from embank.store.index.backend import Home
from embank.store.index.lancedb import BACKEND, LanceCodes
from embank.store.index.settings import Settings
from embank.testing.backends import BackendContract
from embank.testing.indexes import DIMENSION, BuildCodes, CodesContract, Float32, clustered, questions

pytestmark = pytest.mark.skipif(not lancedb.available(), reason="lancedb is not installed")


class TestLance(BackendContract):
    settings: ClassVar = {"kind": "lancedb"}
    rows = 2_000


class TestLanceCodes(CodesContract):
    @pytest.fixture
    def build(self, tmp_path: Path) -> BuildCodes:
        number = itertools.count()
        return lambda vectors: _filled(tmp_path / str(next(number)), vectors)


def _filled(folder: Path, vectors: Float32, *, limit_bytes: int = 1 << 30) -> LanceCodes:
    settings = Settings(kind="lancedb")
    home = Home(folder, "t", settings, limit_bytes=limit_bytes)
    codes = BACKEND.make(BACKEND.way(settings, "lancedb", DIMENSION, len(vectors), "cosine"), vectors, home)
    codes.add(vectors)
    return codes


def _tables(root: Path) -> list[Path]:
    return sorted(root.glob("views/*/index/lancedb/*"))


def test_small_additions_are_few_commits(tmp_path: Path) -> None:
    codes = _filled(tmp_path, clustered(64, seed=170))
    for seed in range(50):
        codes.add(clustered(10, seed=seed))
    codes.save(lambda _: None)
    assert codes.rows == 564
    assert len(list(tmp_path.glob("lancedb/*/vectors.lance/data/*"))) == 1


def test_its_caches_hold_no_more_than_the_index_may(tmp_path: Path) -> None:
    vectors = clustered(2_500, seed=171)
    used = []
    for limit_bytes in (1 << 30, 100_000):
        codes = _filled(tmp_path / str(limit_bytes), vectors, limit_bytes=limit_bytes)
        codes.save(lambda _: None)
        assert len(codes.candidates(vectors[0], 200)) == 200
        used.append(codes.used_bytes())
    assert used[0] > used[1] + 300_000


def test_what_it_is_said_to_hold_is_what_its_caches_hold(tmp_path: Path) -> None:
    vectors = clustered(6_000, seed=173)
    codes = _filled(tmp_path, vectors)
    codes.save(lambda _: None)
    for query in questions(vectors, 5, seed=174):
        codes.candidates(query, 200)
    said = codes.method.held_bytes(6_000)
    assert 0.15 * said < codes.used_bytes() <= said  # 8 MB of it are the most that its metadata may take


def test_an_interrupted_extension_is_not_looked_at(tmp_path: Path) -> None:
    vectors = clustered(2_000, seed=175)
    codes = _filled(tmp_path, vectors[:1_500])
    written: list[bytes] = []
    codes.save(written.append)
    home, token = Home(tmp_path, "t", Settings()), b"".join(written)
    cut_short = BACKEND.load(codes.method, lambda _: token, home)
    cut_short.add(np.repeat(vectors[:1], 300, axis=0))
    cut_short.candidates(vectors[0], 10)  # commits, and then the process is gone
    again = BACKEND.load(codes.method, lambda _: token, home)
    assert again.rows == 1_500
    again.add(vectors[1_500:])
    assert again.rows == 2_000
    assert 1_700 in again.candidates(vectors[1_700], 5).tolist()
    assert codes.rows == 1_500
    assert codes.candidates(vectors[1_700], 50).max() < 1_500


@pytest.mark.parametrize("damage", ["gone", "version", "data"])
def test_a_damaged_directory_costs_no_answer_and_is_made_anew(bank: Opener, tmp_path: Path, damage: str) -> None:
    vectors = clustered(1_500, seed=176)
    collection = bank(kind="lancedb")
    add(collection, vectors)
    collection.index.refresh()
    bank.close()
    (table,) = _tables(tmp_path / "bank")
    if damage == "gone":
        shutil.rmtree(table)
    else:
        for file in table.glob(f"vectors.lance/{'_versions' if damage == 'version' else 'data'}/*"):
            file.write_bytes(file.read_bytes()[:40])
    again = bank(kind="lancedb")
    for query in questions(vectors, 3, seed=177):
        np.testing.assert_allclose(found(again, query)[1], exact(vectors, query), atol=1e-4)
    with again._vector_view() as opened:
        assert opened is not None
        opened[0]._load_after_s = opened[0]._build_after_s = 0.0
    status = again.index.refresh()
    assert status is not None
    assert status.indexed_rows == 1_500
    for query in questions(vectors, 3, seed=177):
        np.testing.assert_allclose(found(again, query)[1], exact(vectors, query), atol=1e-4)


def test_one_table_is_kept_and_none_of_another_kind(bank: Opener, tmp_path: Path) -> None:
    collection = bank(kind="lancedb")
    add(collection, clustered(5_000, seed=178))
    collection.index.refresh()
    assert len(_tables(tmp_path / "bank")) == 1
    collection.delete(["d1", "d2"])
    collection.compact()
    collection.index.refresh()
    assert len(_tables(tmp_path / "bank")) == 1
    bank.close()
    if faiss.available():
        other = bank(kind="flat")
        found(other, clustered(1, seed=179)[0])
        other.index.refresh()
        assert not _tables(tmp_path / "bank")


def test_above_its_budget_it_is_refused_and_everything_scanned(bank: Opener) -> None:
    vectors = clustered(1_500, seed=180)
    collection = bank(kind="lancedb", budget="1MB")
    add(collection, vectors)
    with pytest.raises(BudgetExceeded):
        collection.index.refresh()
    assert found(collection, vectors[3], 1)[0] == ["d3"]


def test_without_the_package_the_extra_is_named(bank: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtra, match=r"pip install 'embank\[lancedb\]'"):
        bank(kind="lancedb")
