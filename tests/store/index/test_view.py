"""The vector index as a view: built beside searches, saved, loaded, extended, dropped, and thrown away when damaged."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.store.index.conftest import ROWS, Opener, add, exact, found

from embank.errors import BudgetExceeded, InvalidInput, MissingExtra
from embank.store.index import faiss, saved
from embank.store.index.backend import Home
from embank.store.index.base import IndexStatus
from embank.store.index.settings import Settings
from embank.testing.faults import FaultyFiles
from embank.testing.indexes import Float32, clustered, questions

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


_HOME = Home(Path(), "", Settings())


def _file(tmp_path: Path) -> Path:
    return next((tmp_path / "bank" / "views").glob("*/vectors.index"))


def _built(status: IndexStatus | None) -> IndexStatus:
    assert status is not None
    assert status.method is not None
    return status


def test_a_built_index_answers_with_exact_scores(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    status = _built(collection.index.refresh())
    assert (status.indexed_rows, status.loaded, status.sequence) == (ROWS, True, 1)
    hits = 0
    for query in questions(vectors, 30, seed=51):
        ids, scores = found(collection, query)
        rows = vectors[[int(each[1:]) for each in ids]]
        np.testing.assert_allclose(scores, rows @ query, atol=2e-3)
        hits += int((scores >= exact(vectors, query)[-1] - 1e-5).sum())
    assert hits >= 0.97 * 300


def test_what_is_acknowledged_is_found_at_once(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    collection.index.refresh()
    new = clustered(100, seed=52)
    add(collection, new, first=ROWS)
    for number in (0, 99):
        assert found(collection, new[number], 1)[0] == [f"d{ROWS + number}"]
    assert _built(collection.index.status()).indexed_rows == ROWS


def test_deleted_and_filtered_documents_are_in_no_answer(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    collection.index.refresh()
    query = vectors[10]
    nearest, _ = found(collection, query, 20)
    collection.delete(nearest[:10])
    ids, scores = found(collection, query, 10)
    assert not set(ids) & set(nearest[:10])
    alive = np.ones(ROWS, np.bool_)
    alive[[int(each[1:]) for each in nearest[:10]]] = False
    np.testing.assert_allclose(scores, exact(vectors, query, alive), atol=1e-5)
    ids, scores = found(collection, query, 10, where={"even": True})
    assert all(int(each[1:]) % 2 == 0 for each in ids)
    np.testing.assert_allclose(scores, exact(vectors, query, alive & (np.arange(ROWS) % 2 == 0)), atol=1e-5)


def test_it_is_loaded_when_the_bank_is_opened_again(bank: Opener, vectors: Float32, tmp_path: Path) -> None:
    collection = bank()
    add(collection, vectors)
    bank.close()  # what is due is built first
    before = _file(tmp_path).stat().st_mtime_ns
    for read_only in (True, False):
        again = bank(read_only=read_only)
        assert not _built(again.index.status()).loaded
        found(again, vectors[0])
        assert _built(again.index.status()).loaded
        bank.close()
        if not read_only:
            assert _file(tmp_path).stat().st_mtime_ns == before


def test_a_long_tail_extends_it_without_training(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    first = _built(collection.index.refresh())
    more = clustered(600, seed=53)
    add(collection, more, first=ROWS)
    second = _built(collection.index.refresh())
    assert (second.indexed_rows, second.trained_rows) == (ROWS + 600, first.trained_rows)
    assert found(collection, more[599], 1)[0] == [f"d{ROWS + 599}"]


def test_it_is_trained_anew_when_there_are_several_times_as_many(bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="sq8")
    add(collection, vectors)
    first = _built(collection.index.refresh())
    add(collection, clustered(3 * ROWS + 1, seed=54), first=ROWS)
    second = _built(collection.index.refresh())
    assert first.trained_rows == ROWS
    assert second.trained_rows == 2 * 4_096


def test_it_is_built_in_the_background(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    collection.catch_up()
    deadline = time.monotonic() + 60
    while (status := collection.index.status()) is None or status.method is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert status.indexed_rows == ROWS


def test_searches_go_on_while_it_is_built(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    stop, wrong, asked = threading.Event(), [], []

    def search() -> None:
        for query in questions(vectors, 2_000, seed=55):
            if stop.is_set():
                return
            _, scores = found(collection, query, 3)
            asked.append(1)
            if len(scores) != 3:
                wrong.append(scores)

    searcher = threading.Thread(target=search)
    searcher.start()
    try:
        for step in range(4):
            collection.index.refresh()
            add(collection, clustered(501, seed=60 + step), first=ROWS + step * 501)
    finally:
        stop.set()
        searcher.join()
    assert asked
    assert not wrong


@pytest.mark.parametrize("offset", [0, 20, 5_000, -2])
def test_a_flipped_bit_is_noticed_and_the_index_built_again(
    bank: Opener, vectors: Float32, tmp_path: Path, offset: int
) -> None:
    collection = bank()
    add(collection, vectors)
    bank.close()
    path = _file(tmp_path)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    again = bank()
    assert found(again, vectors[7], 1)[0] == ["d7"]
    assert _built(again.index.refresh()).loaded
    bank.close()
    assert saved.load(path, _HOME)[1].rows == ROWS


def test_a_file_cut_short_or_gone_is_built_again(bank: Opener, vectors: Float32, tmp_path: Path) -> None:
    collection = bank()
    add(collection, vectors)
    bank.close()
    path = _file(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    for _ in range(2):
        again = bank()
        assert found(again, vectors[7], 1)[0] == ["d7"]
        assert _built(again.index.refresh()).indexed_rows == ROWS
        bank.close()
        path.unlink()


def test_an_index_of_other_vectors_is_not_believed(bank: Opener, vectors: Float32, tmp_path: Path) -> None:
    collection = bank()
    add(collection, vectors)
    bank.close()
    path = _file(tmp_path)
    codes, head = saved.load(path, _HOME)
    values = {**head.as_dict(), "method": head.method, "witness": head.witness ^ 1}
    saved.save(path, codes, saved.Head(**values), files=FaultyFiles())
    again = bank()
    found(again, vectors[0])
    assert not _built(again.index.status()).loaded


def test_without_room_on_the_disk_it_works_but_is_not_dropped(bank: Opener, vectors: Float32) -> None:
    files = FaultyFiles()
    collection = bank(files=files)
    add(collection, vectors)
    files.room_bytes = 1_000
    assert _built(collection.index.refresh()).loaded
    with collection._vector_view() as found_view:
        assert found_view is not None
        view, _ = found_view
        assert view.release(1) == 0
    files.room_bytes = None


def test_it_is_dropped_under_pressure_and_comes_back(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    collection.index.refresh()
    with collection._vector_view() as found_view:
        assert found_view is not None
        view, _ = found_view
        held = view.used_bytes()
        assert view.release(1) == held > 0
        assert view.used_bytes() == 0
        assert found(collection, vectors[3], 1)[0] == ["d3"]
        view._load_after_s = 0.0
        assert found(collection, vectors[3], 1)[0] == ["d3"]
        assert view.used_bytes() == held


def test_an_index_above_its_budget_is_refused_with_the_figures(bank: Opener, vectors: Float32) -> None:
    collection = bank(budget="50KB")
    add(collection, vectors)
    with pytest.raises(BudgetExceeded) as caught:
        collection.index.refresh()
    assert caught.value.fields["available_bytes"] == 50_000
    assert found(collection, vectors[3], 1)[0] == ["d3"]


def test_too_few_vectors_are_refused_with_the_figure_and_scanned(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors[:2_000])
    with pytest.raises(InvalidInput, match="at least 4,096 vectors, there are 2,000"):
        collection.index.refresh()
    assert found(collection, vectors[3], 1)[0] == ["d3"]


def test_small_collections_are_scanned(bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="auto")
    add(collection, vectors)
    status = collection.index.refresh()
    assert status is not None
    assert status.method is None
    assert status.reason is not None
    assert "index.exact_below_rows" in status.reason


def test_without_faiss_everything_is_scanned_and_it_says_so(
    bank: Opener, vectors: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss, "available", lambda: False)
    collection = bank(kind="auto", exact_below_rows=1_000)
    add(collection, vectors)
    status = collection.index.refresh()
    assert status is not None
    assert status.method is None
    assert "pip install 'embank[faiss]'" in (status.reason or "")
    assert found(collection, vectors[3], 1)[0] == ["d3"]


def test_a_kind_whose_library_is_missing_is_refused_on_opening(bank: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'embank\[faiss\]'"):
        bank(kind="hnsw")


def test_a_reader_takes_what_the_writer_saved_meanwhile(bank: Opener, vectors: Float32) -> None:
    writer = bank()
    add(writer, vectors)
    writer.index.refresh()
    reader = bank(read_only=True)
    found(reader, vectors[0])
    assert _built(reader.index.status()).indexed_rows == ROWS
    more = clustered(600, seed=56)
    add(writer, more, first=ROWS)
    writer.index.refresh()
    assert found(reader, more[5], 1)[0] == [f"d{ROWS + 5}"]
    assert _built(reader.index.status()).indexed_rows == ROWS + 600
