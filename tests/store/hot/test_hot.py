"""The hot tier over real collections: what comes into it, what it answers, and what it never does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.store.index.conftest import ROWS, SPACE, add, exact, found

from embank.errors import BankReadOnly, CollectionNotFound
from embank.events.kinds import Event, HotTierRebuilt
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.records import Chunk, Document
from embank.store.collection import StoredCollection
from embank.store.hot.reports import HotReport
from embank.store.hot.settings import Settings as HotSettings
from embank.store.index import annoy, faiss
from embank.store.index.settings import Settings as IndexSettings
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Upsert
from embank.store.settings import Settings
from embank.system.files import Files
from embank.testing.faults import FaultyFiles
from embank.testing.indexes import Float32, clustered, questions

HOT = 2_500
"""More than are scored one by one where a filter leaves few."""

needs_faiss = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


class Opener:
    """Opens the collection `c` of a bank whose vectors are to have an index that is never built by itself."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: list[LocalStore] = []
        self.events: list[Event] = []

    def __call__(
        self, *, kind: str = "pq-fastscan", read_only: bool = False, files: Files | None = None, **hot: Any
    ) -> StoredCollection:
        governor = hot.pop("governor", None)
        stream = Stream()
        stream.subscribe(self.events.append)
        store = LocalStore(
            self._root,
            read_only=read_only,
            settings=Settings(),
            index=IndexSettings(kind=kind, tail_rows=500),
            hot=HotSettings(**{"answers": "when_degraded", **hot}),
            stream=stream,
            files=files,
            governor=governor,
        )
        self._opened.append(store)
        return store.collection("c")

    def close(self) -> None:
        with pytest.MonkeyPatch.context() as patch:  # nor when the bank is closed
            patch.setattr("embank.store.index.view.VectorView.refresh", lambda self: None)
            while self._opened:
                self._opened.pop().close()


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    # What is due is built when a test says so.
    monkeypatch.setattr("embank.store.index.view.VectorView.wake", lambda self, row: None)
    monkeypatch.setattr("embank.store.index.view.VectorView._turn", lambda self: None)
    opener = Opener(tmp_path / "bank")
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def vectors() -> Float32:
    return clustered(ROWS, seed=50)


@pytest.fixture(params=["annoy", "scan"])
def searched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With a forest, and as where Annoy is not installed."""
    if request.param == "scan":
        monkeypatch.setattr(annoy, "available", lambda: False)
    elif not annoy.available():
        pytest.skip("annoy is not installed")
    return str(request.param)


def touched(collection: StoredCollection, count: int) -> list[str]:
    """The first documents are read, the first of them most."""
    names = [f"d{number}" for number in range(count)]
    collection.hot.touch(names)
    collection.hot.touch(names[: count // 2])
    collection.hot.touch(names[:1])
    return names


def answered(collection: StoredCollection, query: Float32, k: int = 10, **how: Any) -> tuple[list[str], Float32, bool]:
    """Ids, scores, and whether the answer is flagged."""
    with collection.snapshot(lexical=False, **how) as snapshot:
        nearest = snapshot.dense(query, k)
        return [each.id for each in snapshot.passages(nearest.slots)], nearest.scores, snapshot.degraded


@needs_faiss
def test_degraded_answers_are_flagged_exact_and_of_what_is_read_most(
    bank: Opener, vectors: Float32, searched: str
) -> None:
    collection = bank()
    add(collection, vectors)
    names = touched(collection, HOT)
    report = collection.hot.rebuild()
    assert (report.outcome, report.documents, report.rows) == ("rebuilt", HOT, HOT)
    assert report.searched == collection.hot.status().searched == searched
    hits = 0
    for query in questions(vectors[:HOT], 30, seed=51):
        ids, scores, degraded = answered(collection, query)
        assert degraded
        assert set(ids) <= set(names)
        stored = vectors.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(scores, [stored[int(each[1:])] @ query for each in ids], atol=1e-5)
        hits += int((scores >= exact(vectors[:HOT], query)[-1] - 1e-6).sum())
    assert hits / 300 >= 0.95


@needs_faiss
def test_once_the_index_is_there_it_answers_and_nothing_is_flagged(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    touched(collection, HOT)
    collection.hot.rebuild()
    assert answered(collection, vectors[ROWS - 1])[2]
    collection.index.refresh()
    ids, _, degraded = answered(collection, vectors[ROWS - 1])
    assert (ids[0], degraded) == (f"d{ROWS - 1}", False)


@needs_faiss
def test_unless_it_is_allowed_all_is_scanned(bank: Opener, vectors: Float32) -> None:
    assert HotSettings().answers == "never"
    collection = bank(answers="never")
    add(collection, vectors)
    touched(collection, HOT)
    collection.hot.rebuild()
    ids, _, degraded = answered(collection, vectors[ROWS - 1])
    assert (ids[0], degraded) == (f"d{ROWS - 1}", False)


def test_a_collection_that_is_to_be_scanned_is_scanned(bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="exact")
    add(collection, vectors)
    touched(collection, HOT)
    collection.hot.rebuild()
    ids, _, degraded = answered(collection, vectors[ROWS - 1])
    assert (ids[0], degraded) == (f"d{ROWS - 1}", False)


@needs_faiss
def test_where_the_tier_has_too_few_all_is_scanned(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    touched(collection, 50)
    collection.hot.rebuild()
    assert answered(collection, vectors[3], 50)[2]
    ids, _, degraded = answered(collection, vectors[ROWS - 1], 51)
    assert (ids[0], len(ids), degraded) == (f"d{ROWS - 1}", 51, False)
    # 25 of them are even.
    assert answered(collection, vectors[4], 25, where={"even": True})[2]
    ids, _, degraded = answered(collection, vectors[4], 26, where={"even": True})
    assert (ids[0], len(ids), degraded) == ("d4", 26, False)


@needs_faiss
def test_what_was_deleted_or_written_anew_is_not_answered(bank: Opener, vectors: Float32, searched: str) -> None:
    collection = bank()
    add(collection, vectors)
    touched(collection, HOT)
    collection.hot.rebuild()
    collection.delete(["d7"])
    changed = Document("d8", "another text", {})
    collection.commit(Batch(None, [Upsert(changed, b"new", [Chunk("another text", 0, 12)])], -vectors[8:9]), SPACE)
    for number in (7, 8):
        ids, _, degraded = answered(collection, vectors[number], 30)
        assert degraded
        assert f"d{number}" not in ids
    assert collection.hot.status().behind == 2
    # What is new of it comes in with the next tier; what is gone loses its counter.
    report = collection.hot.rebuild()
    assert report.gone == 1
    assert answered(collection, -vectors[8], 1)[0] == ["d8"]
    assert "d7" not in {each.name for each in collection.hot.top()}


@needs_faiss
def test_a_compaction_leaves_no_tier_that_would_speak_of_other_slots(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    touched(collection, HOT)
    collection.hot.rebuild()
    collection.delete([f"d{number}" for number in range(1_000)])
    collection.compact()
    ids, _, degraded = answered(collection, vectors[2_000], 1)
    assert (ids, degraded) == (["d2000"], False)
    assert collection.hot.status().rows == 0
    collection.hot.rebuild()
    ids, _, degraded = answered(collection, vectors[2_000], 1)
    assert (ids, degraded) == (["d2000"], True)


@needs_faiss
def test_it_is_there_after_a_restart_and_for_who_reads(bank: Opener, vectors: Float32, searched: str) -> None:
    collection = bank()
    add(collection, vectors)
    touched(collection, HOT)
    before = collection.hot.top()
    collection.hot.rebuild()
    expected = answered(collection, vectors[9])
    bank.close()
    for read_only in (False, True):
        collection = bank(read_only=read_only)
        assert collection.hot.top() == before
        ids, scores, degraded = answered(collection, vectors[9])
        assert (ids, scores.tolist(), degraded) == (expected[0], expected[1].tolist(), True)
        bank.close()
    with pytest.raises(BankReadOnly):
        bank(read_only=True).hot.rebuild()


@needs_faiss
@pytest.mark.parametrize("part", ["tier.json", "000000.vec", ".annoy"])
def test_a_damaged_tier_answers_nothing_and_is_made_anew(
    tmp_path: Path, bank: Opener, vectors: Float32, part: str
) -> None:
    if part == ".annoy" and not annoy.available():
        pytest.skip("annoy is not installed")
    collection = bank()
    add(collection, vectors)
    touched(collection, HOT)
    collection.hot.rebuild()
    bank.close()
    path = next(each for each in (tmp_path / "bank" / "views").glob("*/hot/**/*") if each.name.endswith(part))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    collection = bank()
    ids, _, degraded = answered(collection, vectors[ROWS - 1])
    assert (ids[0], degraded) == (f"d{ROWS - 1}", False)
    assert "can't be used" in str(collection.hot.status().reason)
    collection.hot.rebuild()
    assert collection.hot.status().reason is None
    assert answered(collection, vectors[9])[2]


def test_rows_and_bytes_are_bounded(tmp_path: Path, bank: Opener, vectors: Float32) -> None:
    collection = bank(rows=100)
    add(collection, vectors)
    touched(collection, HOT)
    report = collection.hot.rebuild()
    assert (report.rows, report.documents) == (100, 100)
    bank.close()
    collection = bank(budget=50_000)
    report = collection.hot.rebuild()
    assert 50 < report.rows < HOT
    home = next((tmp_path / "bank" / "views").glob("*/hot"))
    assert Files().tree_bytes(home) < 2 * 50_000
    assert len([path for path in home.iterdir() if path.is_dir()]) == 1


def test_a_document_of_too_many_passages_stays_out_and_others_come_in(bank: Opener, vectors: Float32) -> None:
    collection = bank(rows=10)
    add(collection, vectors[:100])
    text = "x" * 20
    chunks = [Chunk("x", place, place + 1) for place in range(20)]
    collection.commit(Batch(None, [Upsert(Document("long", text), b"long", chunks)], vectors[100:120]), SPACE)
    collection.hot.touch(["long"] * 9 + ["d1", "d1", "d2"])
    report = collection.hot.rebuild()
    assert (report.documents, report.rows, report.too_large) == (2, 2, 1)
    assert report.coolest is not None
    assert (report.coolest.name, report.coolest.count) == ("d2", 1)


def test_a_dry_run_changes_nothing(tmp_path: Path, bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    collection.hot.touch(["d1", "d2", "gone"])
    report = collection.hot.rebuild(dry_run=True)
    assert (report.outcome, report.documents, report.gone) == ("would rebuild", 2, 1)
    assert not list((tmp_path / "bank" / "views").glob("*/hot"))
    assert len(collection.hot.top()) == 3


def test_where_nothing_was_counted_there_is_nothing_to_do(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    with pytest.raises(CollectionNotFound):
        collection.hot.rebuild()
    add(collection, vectors[:10])
    assert collection.hot.rebuild().outcome == "nothing to do"
    bank.close()
    collection = bank(counters=0)
    collection.hot.touch(["d1"])
    assert collection.hot.status().accesses == 0


def test_it_tells_how_far_it_is_and_what_it_did(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    touched(collection, HOT)
    told: list[float] = []

    def tell(report: HotReport) -> None:
        told.append(report.fraction)

    collection.hot.rebuild(on_progress=tell)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 2
    bank.close()
    events = [event for event in bank.events if isinstance(event, HotTierRebuilt)]
    assert [(event.collection, event.documents, event.rows) for event in events] == [("c", HOT, HOT)]


@needs_faiss
def test_a_full_disk_leaves_the_tier_as_it_was(tmp_path: Path, bank: Opener, vectors: Float32, searched: str) -> None:
    files = FaultyFiles()
    collection = bank(files=files)
    add(collection, vectors)
    touched(collection, 50)
    collection.hot.rebuild()
    collection.hot.touch(f"d{number}" for number in range(HOT))
    files.room_bytes = 20_000
    with pytest.raises(OSError, match="space"):
        collection.hot.rebuild()
    files.room_bytes = None
    assert collection.hot.status().rows == 50
    assert answered(collection, vectors[3], 5)[2]
    home = next((tmp_path / "bank" / "views").glob("*/hot"))
    assert len([path for path in home.iterdir() if path.is_dir()]) == 1


@needs_faiss
def test_the_governor_sees_it_and_takes_it_and_it_comes_back(bank: Opener, vectors: Float32) -> None:
    governor = Governor(1 << 40)
    collection = bank(governor=governor)
    add(collection, vectors)
    touched(collection, HOT)
    counting = collection.hot.used_bytes()
    assert counting > HOT * 100
    assert "hot tier c" in dict(governor.snapshot().consumers)
    collection.hot.rebuild()
    held = collection.hot.used_bytes()
    assert held >= counting + 8 * HOT
    assert collection.hot.release(1) == held - counting
    assert collection.hot.used_bytes() == counting
    assert not collection.hot.status().loaded
    assert answered(collection, vectors[9])[2]
    assert collection.hot.used_bytes() == held
    bank.close()
    assert "hot tier c" not in dict(governor.snapshot().consumers)


@needs_faiss
def test_searches_while_it_is_made_anew_and_documents_change(bank: Opener, vectors: Float32) -> None:
    """Every answer is of a state that was: what was deleted before a search began is never in it."""
    collection = bank()
    add(collection, vectors)
    touched(collection, HOT)
    collection.hot.rebuild()
    gone: list[int] = []
    wrong: list[str] = []
    done = threading.Event()

    def search() -> None:
        number = 0
        while not done.is_set():
            number = (number + 7) % HOT
            deleted = set(gone)
            ids, _, _ = answered(collection, vectors[number])
            wrong.extend(each for each in ids if int(each[1:]) in deleted)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(0, 60, 2):
        collection.delete([f"d{number}"])
        gone.append(number)
        if number % 10 == 0:
            collection.hot.rebuild()
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert found(collection, vectors[1], 1)[0] == ["d1"]
