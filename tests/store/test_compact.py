"""Compaction leaves the answers and takes the dead: online, undone when it fails, unseen by who reads."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.errors import (
    BankReadOnly,
    BudgetExceeded,
    CollectionNotFound,
    ProtectedCollectionError,
    StorageFull,
    StoreError,
)
from embank.events.kinds import (
    CompactionFinished,
    CompactionProgressed,
    CompactionStarted,
    CompactionUndone,
    MemoryRecovered,
)
from embank.events.stream import Stream
from embank.records import Chunk, Document
from embank.store import chunks, compact, generations
from embank.store.clone import Clone
from embank.store.collection import StoredCollection
from embank.store.compact import is_due
from embank.store.local import LocalStore
from embank.store.protocol import Batch, CollectionInfo, Upsert
from embank.store.reports import CompactReport
from embank.store.settings import Settings
from embank.store.shadow import Draft
from embank.testing.faults import FaultyFiles

from .conftest import MODEL, SPACE, OpenStore, nearest, words, write
from .test_reembed import NEW_SPACE, fill, folders, rows, swap

Answers = tuple[list[tuple[str, int]], list[float], list[tuple[str, int]], list[tuple[str, int]]]


def fragmented(store: LocalStore, *, count: int = 60) -> StoredCollection:
    """Documents of two passages each, half of them written twice, a third deleted."""
    notes = store.collection("notes")
    for version in (0, 1):
        for number in range(0, count, version + 1):
            put(notes, f"d{number:03}", f"rivers carry silt number{number} version{version}")
    notes.delete([f"d{number:03}" for number in range(0, count, 3)])
    return notes


def put(notes: StoredCollection, name: str, text: str) -> None:
    half, whole = len(text) // 2, len(text)
    halves = [Chunk(text[:half], 0, half), Chunk(text[half:], half, whole)]
    upsert = Upsert(Document(name, text, {"odd": int(name[1:]) % 2}), text.encode(), halves)
    notes.commit(Batch(None, [upsert], MODEL.embed([chunk.text for chunk in halves])), SPACE)


def answers(notes: StoredCollection, *, where: dict[str, Any] | None = None) -> Answers:
    """Passages by vector with their scores, by words, and all there are, each in its order."""
    with notes.snapshot(where=where) as snapshot:

        def told(slots: Any) -> list[tuple[str, int]]:
            return [(passage.id, passage.ordinal) for passage in snapshot.passages(slots)]

        dense = snapshot.dense(np.asarray(MODEL.embed(["rivers carry number7"])[0]), 1000)
        lexical = snapshot.lexical("silt number7 version1", 1000)
        return told(dense.slots), dense.scores.tolist(), told(lexical.slots), told(snapshot.live_slots())


def same(found: Answers, wanted: Answers) -> bool:
    """The same passages in the same order; scores within what the place in a block of the scan may change."""
    return found[0] == wanted[0] and found[2:] == wanted[2:] and bool(np.allclose(found[1], wanted[1], atol=1e-6))


def info_of(notes: StoredCollection) -> CollectionInfo:
    info = notes.info()
    assert info is not None
    return info


def untouched(store: LocalStore, notes: StoredCollection, before: CollectionInfo) -> None:
    """Nothing is left of a compaction that came to nothing."""
    assert notes.info() == before
    assert folders(store.root)["vectors"] == [f"1-{before.generation}"]
    assert rows(store) == {"chunks": 0, "tombstones": 0, "digests": 0}
    with store.database.reading() as connection:
        assert connection.execute("SELECT COUNT(*) FROM generations").fetchone() == (0,)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_answers_stay_and_the_dead_go(tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "WINDOW_ROWS", 7)
    stream = Stream()
    heard = stream.subscribe(None, kinds=(CompactionStarted, CompactionProgressed, CompactionFinished))
    store = LocalStore(tmp_path / "bank", read_only=False, settings=Settings(dtype=dtype), stream=stream)
    notes = fragmented(store)
    before, whole, odd = info_of(notes), answers(notes), answers(notes, where={"odd": 1})
    with notes.snapshot(lexical=False) as snapshot:
        vectors = snapshot.vectors(snapshot.live_slots())

    seen: list[float] = []
    report = notes.compact(on_progress=lambda live: seen.append(live.fraction))

    after = info_of(notes)
    assert (before.slots, before.chunks, after.slots, after.chunks) == (180, 80, 80, 80)
    assert (after.documents, after.generation, after.sequence) == (40, 1, before.sequence + 1)
    assert (after.text_bytes, after.dtype, after.fingerprint) == (before.text_bytes, dtype, before.fingerprint)
    assert same(answers(notes), whole)
    assert same(answers(notes, where={"odd": 1}), odd)
    with notes.snapshot(lexical=False) as snapshot:
        np.testing.assert_array_equal(snapshot.vectors(snapshot.live_slots()), vectors)
    assert folders(store.root) == {"vectors": ["1-1"], "views": ["1-1"]}
    assert rows(store) == {"chunks": 0, "tombstones": 0, "digests": 0}
    assert (report.outcome, report.slots_before, report.slots_after, report.copied) == ("compacted", 180, 80, 80)
    assert (report.documents, report.passages, report.left_bytes, report.sequence) == (40, 80, 0, after.sequence)
    assert report.bytes_after < report.bytes_before
    assert seen == sorted(seen)
    assert (len(seen), seen[-1]) == (12, 1.0)
    events = heard.drain()
    assert isinstance(events[0], CompactionStarted)
    assert isinstance(events[-1], CompactionFinished)
    assert (events[-1].slots_before, events[-1].slots_after, events[-1].sequence) == (180, 80, after.sequence)
    assert len(events) == 14
    record = store.audit()[0]
    assert (record.act, record.collection) == ("compact", "notes")
    assert (record.detail["slots_before"], record.detail["slots_after"], record.detail["passages"]) == (180, 80, 80)
    store.close()
    store = LocalStore(tmp_path / "bank", read_only=False, settings=Settings(), stream=stream)
    assert same(answers(store.collection("notes")), whole)
    store.close()


def test_there_is_nothing_to_do_where_nothing_is_dead(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {"a": "rivers"})
    before = info_of(notes)
    report = notes.compact()
    assert (report.outcome, report.slots_before, report.slots_after, report.due) == ("nothing to do", 1, 1, False)
    assert notes.info() == before
    assert (store.root / "FORMAT").read_text() == "embank 1\n"
    assert store.audit() == []


def test_a_dry_run_tells_and_changes_nothing(open_store: OpenStore) -> None:
    store = open_store()
    notes = fragmented(store)
    before = info_of(notes)
    for each in (notes, open_store(read_only=True).collection("notes")):
        report = each.compact(dry_run=True)
        assert (report.outcome, report.slots_before, report.slots_after, report.dead) == ("would compact", 180, 80, 100)
        assert report.bytes_after < report.bytes_before
    assert notes.info() == before
    assert (store.root / "FORMAT").read_text() == "embank 1\n"
    assert folders(store.root)["vectors"] == ["1-0"]


def test_all_that_was_there_is_deleted(open_store: OpenStore) -> None:
    notes = fragmented(open_store())
    notes.delete([document.id for document in notes.listing(limit=1000)])
    report = notes.compact()
    assert (report.slots_after, info_of(notes).slots) == (0, 0)
    assert answers(notes) == ([], [], [], [])
    put(notes, "d001", "glaciers grind stone")
    assert nearest(notes, "glaciers grind", 1) == ["d001"]
    assert words(notes, "stone") == ["d001"]


def test_life_goes_on_behind_it_and_so_does_the_next_one(open_store: OpenStore) -> None:
    store = open_store()
    notes = fragmented(store)
    for round_ in range(3):
        notes.compact()
        put(notes, "d001", f"glaciers grind stone round{round_}")
        assert words(notes, f"round{round_}") == ["d001"]
        notes.delete([f"d{2 + 3 * round_:03}"])
        assert nearest(notes, f"glaciers grind stone round{round_}", 1) == ["d001"]
    assert (info_of(notes).generation, info_of(notes).documents) == (3, 37)
    whole = answers(notes)
    store.close()
    assert same(answers(open_store().collection("notes")), whole)


def test_what_vectors_were_made_of_is_known_behind_a_reembedding(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "_STEP_ROWS", 7)
    store = open_store()
    notes = fragmented(store)
    swap(notes)  # digests are kept by generation from now on
    notes.delete(["d001"])
    known = notes.known([f"d{number:03}" for number in range(60)])
    notes.compact()
    assert notes.known(known) == known
    assert {held.digest[:4] for held in known.values()} == {b"new "}
    assert rows(store) == {"chunks": 0, "tombstones": 0, "digests": 0}


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Any, *, before: str, times: int = 1) -> None:
    """Do something the first `times` times that a compaction comes to a step of `Clone`."""
    step = getattr(Clone, before)
    left = [times]

    def acting(self: Clone, *given: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            act()
        return step(self, *given, **named)

    monkeypatch.setattr(Clone, before, acting)


def test_what_changes_meanwhile_is_in_the_result(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "WINDOW_ROWS", 16)
    store = open_store()
    notes = fragmented(store)
    moments = iter(range(100))

    def change() -> None:
        """Of those copied already and those that are not: a deletion, a new text, other metadata; and new ones."""
        at = next(moments)
        if at == 2:
            notes.delete(["d001", "d059"])
            put(notes, "d004", "volcanoes throw ash")
            put(notes, "d058", "deserts are dry")
            put(notes, "d100", "lakes lie still")
            relabeled = [Document("d005", "", {"odd": 7}), Document("d056", "", {"odd": 7})]
            notes.commit(Batch(None, [], np.empty((0, 64), np.float32), relabeled), None)

    meanwhile(monkeypatch, change, before="window", times=100)
    meanwhile(monkeypatch, lambda: notes.delete(["d007"]), before="verify")
    report = notes.compact()
    assert report.outcome == "compacted"
    info = info_of(notes)
    assert (info.documents, info.chunks) == (38, 76)
    assert info.slots == report.slots_after
    for word, names in {"volcanoes": ["d004"], "deserts": ["d058"], "lakes": ["d100"], "number59": []}.items():
        assert words(notes, word) == names
    assert words(notes, "number4") == []
    assert [document.id for document in notes.listing(limit=9, where={"odd": 7})] == ["d005", "d056"]
    whole = answers(notes)
    assert len(whole[3]) == 76
    assert {name for name, _ in whole[0]} == {document.id for document in notes.listing(limit=99)}
    store.close()
    again = open_store().collection("notes")
    assert same(answers(again), whole)
    assert same_after_another(again, whole)


def same_after_another(notes: StoredCollection, whole: Answers) -> bool:
    notes.compact()
    return same(answers(notes), whole)


def test_a_document_that_goes_while_its_window_is_copied_is_not_in_the_result(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = fragmented(open_store())
    read = chunks.slots_from
    gone: list[int] = []

    def reading(*given: Any, **named: Any) -> Any:
        found = read(*given, **named)
        if not gone and len(found):
            gone.append(notes.delete(["d001", "d002"]))
        return found

    monkeypatch.setattr(chunks, "slots_from", reading)
    report = notes.compact()
    assert gone == [2]
    info = info_of(notes)
    assert (info.documents, info.chunks, info.slots, report.slots_after) == (38, 76, 80, 80)
    assert not {"d001", "d002"} & {name for name, _ in answers(notes)[0]}
    assert words(notes, "number1") == []
    assert len(answers(notes)[3]) == 76
    monkeypatch.undo()
    assert notes.compact().slots_after == 76


def test_a_long_reader_ends_undisturbed(open_store: OpenStore) -> None:
    store = open_store()
    notes = fragmented(store)
    whole = answers(notes)
    reader = open_store(read_only=True).collection("notes")
    answers(reader)
    with notes.snapshot() as old, reader.snapshot() as other:
        report = notes.compact()
        assert report.left_bytes > 0
        assert folders(store.root)["vectors"] == ["1-0", "1-1"]
        for each in (old, other):
            found = each.dense(np.asarray(MODEL.embed(["rivers carry number7"])[0]), 1000)
            assert [(passage.id, passage.ordinal) for passage in each.passages(found.slots)] == whole[0]
            found = each.lexical("silt number7 version1", 1000)
            assert [(passage.id, passage.ordinal) for passage in each.passages(found.slots)] == whole[2]
        assert same(answers(notes), whole)
    put(notes, "d002", "lakes lie still")  # the next change finds nobody left
    assert folders(store.root)["vectors"] == ["1-1"]
    assert words(reader, "lakes") == ["d002"]


def test_a_full_disk_leaves_everything_as_it_was(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "WINDOW_ROWS", 16)
    files, stream = FaultyFiles(), Stream()
    store = open_store(files=files, stream=stream)
    notes = fragmented(store)
    before, whole = info_of(notes), answers(notes)
    heard = stream.subscribe(None, kinds=(CompactionUndone,))
    files.room_bytes = 1_000
    with pytest.raises(StorageFull, match=r"needs some .* make room first"):
        notes.compact()
    assert (store.root / "FORMAT").read_text() == "embank 1\n"  # refused before anything was begun
    files.room_bytes = None

    def fill_up(report: CompactReport) -> None:
        if report.copied >= 32:
            files.room_bytes = 100

    with pytest.raises(StorageFull, match="no room left"):
        notes.compact(on_progress=fill_up)
    assert [event.reason for event in heard.drain() if isinstance(event, CompactionUndone)] == ["StorageFull"]
    untouched(store, notes, before)
    assert same(answers(notes), whole)
    files.room_bytes = None
    assert notes.compact().slots_after == 80
    assert same(answers(notes), whole)


def test_a_failing_synchronisation_is_an_error_and_undone(open_store: OpenStore) -> None:
    files = FaultyFiles()
    store = open_store(files=files)
    notes = fragmented(store)
    before, whole = info_of(notes), answers(notes)
    sync_data = files.sync_data

    def fail(descriptor: int) -> None:
        files.fail_sync = True
        try:
            sync_data(descriptor)
        finally:
            files.fail_sync = False

    files.sync_data = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Input/output error"):
        notes.compact()
    del files.sync_data
    untouched(store, notes, before)
    assert same(answers(notes), whole)


@pytest.mark.parametrize("step", ["window", "copy_digests", "catch_up", "verify", "count", "swap"])
def test_an_interruption_at_any_step_is_undone(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    stream = Stream()
    store = open_store(stream=stream)
    notes = fragmented(store)
    before, whole = info_of(notes), answers(notes)
    heard = stream.subscribe(None, kinds=(CompactionUndone,))

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        meanwhile(patched, stop, before=step)
        with pytest.raises(KeyboardInterrupt):
            notes.compact()
    assert [event.reason for event in heard.drain() if isinstance(event, CompactionUndone)] == ["interrupted"]
    untouched(store, notes, before)
    assert same(answers(notes), whole)
    assert [row.act for row in store.audit()] == ["delete"]
    assert notes.compact().slots_after == 80


def test_an_interruption_behind_the_swap_leaves_it(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = fragmented(open_store())
    whole = answers(notes)

    def stop(_: Clone) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Clone, "close_view", stop)
    with pytest.raises(KeyboardInterrupt):
        notes.compact()
    assert info_of(notes).slots == 80
    assert same(answers(notes), whole)


def test_what_could_not_be_undone_is_at_the_next_opening(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream()
    store = open_store(stream=stream)
    notes = fragmented(store)
    before, whole = info_of(notes), answers(notes)
    heard = stream.subscribe(None, kinds=(CompactionUndone,))

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(generations, "retire", fail)
        meanwhile(patched, stop, before="verify")
        with pytest.raises(KeyboardInterrupt):
            notes.compact()
        with pytest.raises(StoreError, match="an earlier compaction of 'notes' can't be undone"):
            notes.compact()
    assert heard.drain() == []  # nobody is told that it was undone
    assert "was cut short still takes room on the disk" in caplog.text
    assert folders(store.root)["vectors"] == ["1-0", "1-1"]
    assert same(answers(notes), whole)
    notes.delete(["d001"])
    put(notes, "d001", "rivers carry silt number1 version0")
    store.close()
    store = open_store()
    notes = store.collection("notes")
    untouched(store, notes, info_of(notes))
    assert info_of(notes).chunks == before.chunks
    assert notes.compact().slots_after == 80


def test_a_copy_that_differs_is_not_put_in_use(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    notes = fragmented(store)
    before, whole = info_of(notes), answers(notes)

    def damage() -> None:
        path = store.root / "vectors" / "1-1" / "000000.vec"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    with monkeypatch.context() as patched:
        meanwhile(patched, damage, before="verify")
        with pytest.raises(StoreError, match="differ from those that were read"):
            notes.compact()
    untouched(store, notes, before)
    with monkeypatch.context() as patched:
        patched.setattr(Clone, "count", lambda _: None)
        read = chunks.slots_from
        patched.setattr(chunks, "slots_from", lambda *given, **named: read(*given, **named)[1:])
        with pytest.raises(StoreError, match=r"holds 79 passages where there are 80: it was given up"):
            notes.compact()
    untouched(store, notes, before)
    assert same(answers(notes), whole)


def test_a_protected_collection_is_compacted_and_stays_protected(open_store: OpenStore) -> None:
    notes = fragmented(open_store())
    notes.protect(protected=True)
    whole = answers(notes)
    assert notes.compact().outcome == "compacted"
    assert info_of(notes).protected
    assert same(answers(notes), whole)
    with pytest.raises(ProtectedCollectionError):
        notes.delete(["d001"])


def test_who_is_refused(open_store: OpenStore) -> None:
    store = open_store()
    with pytest.raises(CollectionNotFound, match="no collection 'notes'"):
        store.collection("notes").compact()
    notes = fragmented(store)
    with pytest.raises(BankReadOnly):
        open_store(read_only=True).collection("notes").compact()
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=1)
        with pytest.raises(StoreError, match="by another thread"):
            notes.compact()
    with pytest.raises(StoreError, match="a re-embedding of 'notes' is not finished"):
        notes.compact()
    notes.abandon_reembedding()

    def reembed(_: CompactReport) -> None:
        with notes.shadow(NEW_SPACE):
            pass

    with pytest.raises(StoreError, match="by another thread"):
        notes.compact(on_progress=reembed)
    assert notes.reembedding() is None
    assert notes.compact().outcome == "compacted"


def test_a_reembedding_follows_a_compaction(open_store: OpenStore) -> None:
    notes = fragmented(open_store())
    notes.compact()
    swap(notes)
    assert (info_of(notes).generation, info_of(notes).chunks) == (2, 80)
    with notes.shadow(SPACE) as shadow:
        while window := shadow.window(documents=9, characters=9000):
            drafts = [Draft(each, each.digest, [Chunk(each.text, 0, len(each.text))]) for each in window]
            shadow.commit(drafts, MODEL.embed([each.text for each in window]))
        shadow.swap()
    assert info_of(notes).chunks == 40


def test_when_it_is_due() -> None:
    def info(slots: int, passages: int) -> CollectionInfo:
        return CollectionInfo("c", 1, passages, 1, slots, "cosine", "local", False, "fp16", 0, 1, 0.0, 0.0)

    settings = Settings(compact_dead=0.4, compact_least=10)
    assert [is_due(info(*each), settings) for each in ((100, 61), (100, 60), (20, 11), (20, 10), (0, 0))] == [
        False, True, False, True, False,
    ]  # fmt: skip


def test_memory_is_reserved_or_it_is_refused(tmp_path: Path) -> None:
    import embank
    from embank.testing.fakes import HashModel

    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": f"d{number}", "text": f"rivers {number}"} for number in range(20)])
        notes.delete(["d1"])
        before = notes.stats()
        bank._engine.governor.budget_bytes = bank.memory().floor_bytes + 1_000_000
        with pytest.raises(BudgetExceeded, match="a window of vectors"):
            notes.compact()
        assert notes.stats() == before
        bank._engine.governor.budget_bytes = 2_000_000_000
        heard = bank.events.subscribe(None, kinds=(MemoryRecovered,))
        assert notes.compact().slots_after == 19
        assert len(heard.drain()) == 1  # what it took goes back at once


def test_memory_does_not_grow_with_the_collection(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1.3 MB of vectors and half a megabyte of text, a window of 256 is held at a time."""
    monkeypatch.setattr(compact, "WINDOW_ROWS", 256)
    notes = open_store(lexical_rows=256).collection("notes")
    vectors = np.random.default_rng(5).standard_normal((10_000, MODEL.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text = "rivers carry silt and sand down to the sea"
    upserts = [
        Upsert(Document(f"d{number}", text), b"x", [Chunk(text, 0, len(text))]) for number in range(len(vectors))
    ]
    notes.commit(Batch(None, upserts, vectors), SPACE)
    notes.delete([f"d{number}" for number in range(0, len(vectors), 10)])
    del upserts, vectors
    tracemalloc.start()
    try:
        report = notes.compact()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.slots_after == 9_000
    assert peak < 400_000
