"""A compaction makes the vector index of what it copied before the swap: no search behind it scans everything."""

from __future__ import annotations

import numpy as np
import pytest
from tests.store.index.conftest import ROWS, Opener, add, exact, found

from embank.store.index import faiss, view
from embank.testing.indexes import Float32

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


def test_the_index_is_there_with_the_swap(bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="sq8")
    add(collection, vectors)
    collection.index.refresh()
    collection.delete([f"d{number}" for number in range(500)])
    report = collection.compact()
    assert report.outcome == "compacted"
    status = collection.index.status()
    assert status is not None
    assert (status.rows, status.indexed_rows, status.loaded) == (ROWS - 500, ROWS - 500, True)
    alive = np.arange(ROWS) >= 500
    np.testing.assert_allclose(found(collection, vectors[700])[1], exact(vectors, vectors[700], alive), atol=1e-5)


def test_where_none_can_be_made_it_is_compacted_all_the_same(
    bank: Opener, vectors: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> bool:
        raise OSError(28, "No space left on device")

    collection = bank(kind="sq8")
    add(collection, vectors)
    collection.delete([f"d{number}" for number in range(500)])
    monkeypatch.setattr(view.VectorView, "_bring_up_to_date", no_room)
    assert collection.compact().outcome == "compacted"
    monkeypatch.undo()
    assert found(collection, vectors[700], 1)[0] == ["d700"]
