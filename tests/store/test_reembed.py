"""A new generation of vectors is filled beside the one in use and put in its place: resumable, durable, unseen."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.errors import (
    BankReadOnly,
    CollectionNotFound,
    FingerprintMismatch,
    FormatTooNew,
    ProtectedCollectionError,
    StorageFull,
    StoreError,
)
from embank.events.kinds import ViewCaughtUp
from embank.events.stream import Stream
from embank.records import Chunk, Document
from embank.store import generations, schema, shadow
from embank.store.collection import StoredCollection
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Space, Upsert
from embank.store.shadow import Draft, Shadow, Swapped
from embank.testing.fakes import HashModel
from embank.testing.faults import FaultyFiles

from .conftest import MODEL, OpenStore, nearest, words, write

NEW = HashModel(dimension=48, name="other")
NEW_SPACE = Space(NEW.fingerprint, NEW.dimension, None)
TEXTS = {f"d{number:02}": f"rivers carry silt number{number}" for number in range(10)}


def fill(shadow: Shadow, *, windows: int = 1000, size: int = 3) -> list[str]:
    """Embed up to so many windows with `NEW`, two chunks a text; the ids that went in."""
    done: list[str] = []
    for _ in range(windows):
        window = shadow.window(documents=size, characters=10_000)
        if not window:
            break
        commit(shadow, window)
        done += [document.id for document in window]
    return done


def commit(shadow: Shadow, window: list[generations.Pending]) -> int:
    drafts = []
    for document in window:
        half, whole = len(document.text) // 2, len(document.text)
        chunks = [Chunk(document.text[:half], 0, half), Chunk(document.text[half:], half, whole)] if whole else []
        drafts.append(Draft(document, b"new " + document.digest, chunks))
    texts = [chunk.text for draft in drafts for chunk in draft.chunks]
    return shadow.commit(drafts, NEW.embed(texts))


def swap(collection: StoredCollection) -> Swapped:
    with collection.shadow(NEW_SPACE) as shadow:
        fill(shadow)
        swapped = shadow.swap()
    collection.tidy()
    return swapped


def nearest_new(collection: StoredCollection, text: str, k: int = 100) -> list[str]:
    with collection.snapshot(lexical=False) as snapshot:
        found = snapshot.dense(np.asarray(NEW.embed([text])[0]), k)
        return [passage.id for passage in snapshot.passages(found.slots)]


def folders(root: Path) -> dict[str, list[str]]:
    return {kind: sorted(path.name for path in root.glob(f"{kind}/*")) for kind in ("vectors", "views")}


def rows(store: LocalStore) -> dict[str, int]:
    """Rows that belong to no generation in use."""
    with store.database.reading() as connection:
        return {
            table: connection.execute(
                f"SELECT COUNT(*) FROM {table} WHERE {column} NOT IN (SELECT id | (generation << 32) FROM collections)"
            ).fetchone()[0]
            for table, column in (("chunks", "collection"), ("tombstones", "collection"), ("digests", "slots_key"))
        }


def test_the_swap_replaces_vectors_passages_and_digests_at_once(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    before = notes.info()
    assert before is not None
    swapped = swap(notes)
    info = notes.info()
    assert info is not None
    assert (info.fingerprint, info.dimension, info.generation) == (NEW.fingerprint, 48, 1)
    assert (info.documents, info.chunks, info.slots, info.sequence) == (10, 20, 20, before.sequence + 1)
    assert swapped == Swapped(sequence=info.sequence, generation=1, documents=10, chunks=20)
    assert sorted(nearest_new(notes, "rivers")) == sorted(list(TEXTS) * 2)
    assert words(notes, "number7") == ["d07"]
    assert notes.known(["d03"])["d03"].digest == b"new " + TEXTS["d03"].encode()
    assert notes.get(["d03"])[0].chunks == 2
    assert notes.reembedding() is None
    (row,) = store.audit()
    assert (row.act, row.collection) == ("reembed", "notes")
    assert row.detail["replaced"] == MODEL.fingerprint
    assert row.detail["fingerprint"] == NEW.fingerprint
    assert folders(store.root) == {"vectors": ["1-1"], "views": ["1-1"]}
    assert rows(store) == {"chunks": 0, "tombstones": 0, "digests": 0}


def test_meanwhile_searches_see_the_old_vectors(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, TEXTS)
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=2)
        shadow.catch_up(lag_rows=1)
        assert nearest(notes, TEXTS["d04"], 1) == ["d04"]
        assert words(notes, "number4") == ["d04"]
        assert notes.get(["d04"])[0].chunks == 1
        with notes.snapshot(where={"length": {"$gte": 1}}) as snapshot:
            found = snapshot.dense(np.asarray(MODEL.embed(["rivers"])[0]), 100)
            assert sorted(passage.id for passage in snapshot.passages(found.slots)) == sorted(TEXTS)
        info = notes.info()
        assert info is not None
        assert (info.chunks, info.slots, info.fingerprint) == (10, 10, MODEL.fingerprint)


def test_it_goes_on_where_it_was_after_reopening(open_store: OpenStore) -> None:
    store = open_store()
    write(store.collection("notes"), TEXTS)
    with store.collection("notes").shadow(NEW_SPACE) as shadow:
        first = fill(shadow, windows=2)
    store.close()
    store = open_store()
    notes = store.collection("notes")
    state = notes.reembedding()
    assert state is not None
    assert (state.documents, state.remaining, state.slots) == (10, 4, 12)
    assert state.fraction == pytest.approx(0.6)
    assert state.space == NEW_SPACE
    with notes.shadow(NEW_SPACE) as shadow:
        second = fill(shadow)
        shadow.swap()
    assert sorted(first + second) == sorted(TEXTS)
    assert len(nearest_new(notes, "rivers")) == 20
    assert words(notes, "number1") == ["d01"]
    assert words(notes, "number9") == ["d09"]


def test_its_words_are_ready_at_the_swap(open_store: OpenStore) -> None:
    """No search has to wait for the whole lexical view to be built."""
    stream = Stream()
    notes = open_store(stream=stream).collection("notes")
    write(notes, TEXTS)
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=2)
        notes.delete(["d01"])
        shadow.catch_up(lag_rows=1)
        fill(shadow)
        shadow.catch_up(lag_rows=1)  # no change in between: there are only more passages
        heard = stream.subscribe(None, kinds=(ViewCaughtUp,))
        shadow.swap()
    assert words(notes, "number1") == []
    assert words(notes, "number7") == ["d07"]
    assert heard.drain() == []


def test_what_changes_meanwhile_is_in_the_result(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=2)  # d00 … d05
        write(notes, {"d01": "glaciers grind stone", "d08": "deserts are dry", "new": "lakes lie still"})
        assert notes.delete(["d02", "d09"]) == 2
        relabeled = [Document("d03", "", {"year": 1}), Document("d07", "", {"year": 1})]
        notes.commit(Batch(None, [], np.empty((0, 64), np.float32), relabeled), None)
        rest = fill(shadow)
        assert sorted(rest) == ["d01", "d06", "d07", "d08", "new"]  # d03 has its vectors: only its metadata changed
        shadow.swap()
    notes.tidy()
    info = notes.info()
    assert info is not None
    expected = sorted(set(TEXTS) - {"d02", "d09"} | {"new"})
    assert (info.documents, info.chunks) == (9, 18)
    assert sorted(nearest_new(notes, "rivers")) == sorted(expected * 2)
    assert words(notes, "number1") == []
    assert words(notes, "number2") == []
    assert [words(notes, word) for word in ("glaciers", "lakes")] == [["d01"], ["new"]]
    assert [document.id for document in notes.listing(limit=99, where={"year": 1})] == ["d03", "d07"]
    write_new(notes, {"d05": "volcanoes throw ash"})
    assert notes.delete(["d06"]) == 1
    assert sorted(set(nearest_new(notes, "rivers"))) == sorted(set(expected) - {"d06"})
    assert words(notes, "volcanoes") == ["d05"]
    info = notes.info()
    assert info is not None
    assert (info.documents, info.chunks) == (8, 15)


def write_new(collection: StoredCollection, texts: dict[str, str]) -> None:
    upserts = [Upsert(Document(name, text), text.encode(), [Chunk(text, 0, len(text))]) for name, text in texts.items()]
    collection.commit(Batch(None, upserts, NEW.embed(list(texts.values()))), NEW_SPACE)


def test_a_document_that_changes_between_reading_and_writing_comes_again(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers", "b": "lakes", "c": "seas"})
    with notes.shadow(NEW_SPACE) as shadow:
        window = shadow.window(documents=10, characters=1000)
        write(notes, {"c": "oceans"})  # takes the very row id that was free again
        notes.delete(["a"])
        assert commit(shadow, window) == 1
        with pytest.raises(StoreError, match="1 documents of 'notes' have no vectors of the new model yet"):
            shadow.swap()
        assert fill(shadow) == ["c"]
        shadow.swap()
    assert sorted(nearest_new(notes, "rivers")) == ["b", "b", "c", "c"]
    assert words(notes, "seas") == []


def test_blank_documents_are_kept_and_not_asked_for_twice(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers"})
    notes.commit(Batch(None, [Upsert(Document("blank", ""), b"x", [])], np.empty((0, 64), np.float32)), None)
    with notes.shadow(NEW_SPACE) as shadow:
        assert fill(shadow) == ["a", "blank"]
        assert shadow.remaining() == 0
        shadow.swap()
    assert notes.known(["blank"])["blank"].digest == b"new x"
    assert notes.get(["blank"])[0].chunks == 0


def test_a_collection_without_any_vector(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    notes.commit(Batch(None, [Upsert(Document("blank", ""), b"x", [])], np.empty((0, 64), np.float32)), None)
    swap(notes)
    assert nearest_new(notes, "anything") == []
    write_new(notes, {"a": "rivers"})
    assert nearest_new(notes, "rivers") == ["a"]
    assert words(notes, "rivers") == ["a"]


def test_twice_over_and_after_reopening(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    swap(notes)
    write_new(notes, {"late": "lakes lie still"})
    swap(notes)
    store.close()
    store = open_store()
    notes = store.collection("notes")
    info = notes.info()
    assert info is not None
    assert (info.generation, info.chunks) == (2, 22)
    assert folders(store.root)["vectors"] == ["1-2"]
    assert rows(store) == {"chunks": 0, "tombstones": 0, "digests": 0}
    assert notes.known(["late", "d00"]).keys() == {"late", "d00"}
    assert notes.known(["late"])["late"].digest == b"new lakes lie still"
    assert words(notes, "lakes") == ["late"]
    assert words(open_store(read_only=True).collection("notes"), "lakes") == ["late"]


def test_a_snapshot_of_the_old_state_finishes_undisturbed(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    with notes.snapshot() as old:
        swap(notes)
        assert folders(store.root)["vectors"] == ["1-0", "1-1"]  # somebody reads it
        found = old.dense(np.asarray(MODEL.embed([TEXTS["d04"]])[0]), 1)
        assert [passage.id for passage in old.passages(found.slots)] == ["d04"]
        assert [passage.id for passage in old.passages(old.lexical("number5", 5).slots)] == ["d05"]
        assert nearest_new(notes, "rivers", 3) != []
    write_new(notes, {"late": "lakes"})  # the next change finds nobody left
    assert folders(store.root) == {"vectors": ["1-1"], "views": []}


def test_a_reader_in_another_process_goes_over_to_the_new_generation(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    words(notes, "rivers")
    reader = open_store(read_only=True).collection("notes")
    with reader.snapshot() as old:
        swap(notes)
        assert folders(store.root)["vectors"] == ["1-1"]
        found = old.dense(np.asarray(MODEL.embed([TEXTS["d04"]])[0]), 1)
        assert [passage.id for passage in old.passages(found.slots)] == ["d04"]
        assert [passage.id for passage in old.passages(old.lexical("number5", 5).slots)] == ["d05"]
    assert words(reader, "number5") == ["d05"]
    assert sorted(nearest_new(reader, "rivers")) == sorted(list(TEXTS) * 2)


@pytest.mark.parametrize("has_vectors", [True, False])
def test_a_reader_that_comes_too_late_for_the_old_files_reads_anew(open_store: OpenStore, *, has_vectors: bool) -> None:
    """It has read the row, but not opened all files, when they are replaced and removed."""
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    reader = open_store(read_only=True).collection("notes")
    if has_vectors:
        assert nearest(reader, TEXTS["d04"], 1) == ["d04"]
    enter = reader._generations.enter

    def slow(*args: Any, **options: Any) -> Any:
        info = notes.info()
        if info is not None and info.generation == 0:
            swap(notes)
        return enter(*args, **options)

    reader._generations.enter = slow  # type: ignore[method-assign]  # the moment between the two
    with reader.snapshot() as seen:
        assert seen.info.generation == 1
        assert not seen.degraded
        assert len(seen.lexical("rivers", 100).slots) == 10


def test_searches_beside_the_swap_see_one_model_or_the_other_whole(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, TEXTS)
    done = threading.Event()
    seen: set[tuple[int, int, int]] = set()
    failed: list[Exception] = []

    def search() -> None:
        try:
            while not done.is_set():
                with notes.snapshot() as snapshot:
                    model = NEW if snapshot.info.generation % 2 else MODEL
                    dense = snapshot.dense(np.asarray(model.embed(["rivers"])[0]), 100)
                    found = snapshot.lexical("silt", 100)
                    ids = {passage.id for passage in snapshot.passages(dense.slots)}
                    seen.add((snapshot.info.generation % 2, len(ids), len(found.slots)))
        except Exception as error:  # noqa: BLE001 -- looked at below, in the thread of the test
            failed.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        swap(notes)
        with notes.shadow(Space(MODEL.fingerprint, MODEL.dimension, None)) as shadow:
            while window := shadow.window(documents=4, characters=1000):
                drafts = [Draft(each, each.digest, [Chunk(each.text, 0, len(each.text))]) for each in window]
                shadow.commit(drafts, MODEL.embed([each.text for each in window]))
            shadow.swap()
        notes.tidy()
    done.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert seen <= {(0, 10, 10), (1, 10, 10)}
    notes.tidy()


def test_abandoning_leaves_nothing_behind_but_its_record(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    words(notes, "rivers")
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=2)
        shadow.catch_up(lag_rows=1)
        notes.delete(["d00"])
    abandoned = notes.abandon_reembedding()
    assert abandoned is not None
    assert (abandoned.remaining, abandoned.documents) == (4, 9)
    assert notes.abandon_reembedding() is None
    assert notes.reembedding() is None
    assert [row.act for row in store.audit()] == ["abandon reembedding", "delete"]
    assert folders(store.root) == {"vectors": ["1-0"], "views": ["1-0"]}
    assert rows(store) == {"chunks": 0, "tombstones": 0, "digests": 0}
    assert sorted(nearest(notes, "rivers", 99)) == sorted(set(TEXTS) - {"d00"})
    swap(notes)
    assert sorted(set(nearest_new(notes, "rivers"))) == sorted(set(TEXTS) - {"d00"})


def test_what_was_not_removed_is_removed_at_the_next_opening(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow)
        shadow.swap()
    store.close()
    assert folders(store.root)["vectors"] == ["1-0", "1-1"]
    monkeypatch.setattr(generations, "_STEP_ROWS", 3)
    again = open_store()
    assert folders(again.root) == {"vectors": ["1-1"], "views": ["1-1"]}
    assert rows(again) == {"chunks": 0, "tombstones": 0, "digests": 0}
    assert len(nearest_new(again.collection("notes"), "rivers")) == 20


def test_a_full_disk_leaves_the_old_state_and_can_go_on(open_store: OpenStore) -> None:
    files = FaultyFiles()
    notes = open_store(files=files).collection("notes")
    write(notes, TEXTS)
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=1)
        files.room_bytes = 100
        with pytest.raises(StorageFull, match="no room left"):
            fill(shadow)
    assert nearest(notes, TEXTS["d04"], 1) == ["d04"]
    files.room_bytes = None
    with notes.shadow(NEW_SPACE) as shadow:
        assert len(fill(shadow)) == 7
        shadow.swap()
    assert len(nearest_new(notes, "rivers")) == 20


def test_files_that_can_not_be_removed_are_no_failure(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)

    def refuse(*_: object) -> None:
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(FaultyFiles.__mro__[1], "remove_tree", refuse)
        swap(notes)
    assert "replaced vectors of 'notes' are still on the disk" in caplog.text
    assert len(nearest_new(notes, "rivers")) == 20
    write_new(notes, {"late": "lakes"})
    assert folders(store.root)["vectors"] == ["1-1"]


def test_a_protected_collection_refuses(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, TEXTS)
    notes.protect(protected=True)
    with pytest.raises(ProtectedCollectionError, match="re-embedding changes the vectors of every document"):
        notes.check_reembedding()
    with pytest.raises(ProtectedCollectionError), notes.shadow(NEW_SPACE):
        pass
    assert notes.reembedding() is None
    notes.protect(protected=False)
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=1)
        notes.protect(protected=True)  # while it runs
        with pytest.raises(ProtectedCollectionError):
            fill(shadow, windows=1)
        with pytest.raises(ProtectedCollectionError):
            shadow.swap()
    assert nearest(notes, TEXTS["d04"], 1) == ["d04"]


def test_who_else_is_refused(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    with pytest.raises(CollectionNotFound, match="no collection 'notes'"), notes.shadow(NEW_SPACE):
        pass
    write(notes, TEXTS)
    reader = open_store(read_only=True).collection("notes")
    with pytest.raises(BankReadOnly), reader.shadow(NEW_SPACE):
        pass
    with notes.shadow(NEW_SPACE) as shadow:
        fill(shadow, windows=1)
        with pytest.raises(StoreError, match="by another thread"), notes.shadow(NEW_SPACE):
            pass
        with pytest.raises(StoreError, match="by another thread"):
            notes.abandon_reembedding()
        assert reader.reembedding() is not None
    third, way = Space("third:32:beef", 32, None), r"with other:.* is under way, not with third:32:beef"
    with pytest.raises(FingerprintMismatch, match=way), notes.shadow(third):
        pass
    with pytest.raises(FingerprintMismatch, match="as int8"), notes.shadow(NEW_SPACE, dtype="int8"):
        pass
    with notes.shadow(NEW_SPACE) as shadow:
        (pending,) = shadow.window(documents=1, characters=1)
        draft = Draft(pending, b"", [Chunk("a", 0, 1), Chunk("b", 1, 2)])
        with pytest.raises(StoreError, match="2 chunks came with 1 vectors"):
            shadow.commit([draft], NEW.embed(["a"]))


def test_another_way_to_store_vectors(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, TEXTS)
    with notes.shadow(NEW_SPACE, dtype="int8") as shadow:
        fill(shadow)
        shadow.swap()
    info = notes.info()
    assert info is not None
    assert info.dtype == "int8"
    assert len(nearest_new(notes, "rivers")) == 20


def test_only_a_bank_that_was_re_embedded_is_of_the_newer_format(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    assert (store.root / "FORMAT").read_text() == "embank 1\n"
    with notes.shadow(NEW_SPACE):
        pass
    assert (store.root / "FORMAT").read_text() == "embank 2\n"
    store.close()
    open_store().close()
    monkeypatch.setattr(schema, "FORMAT", 1)  # what knows the first format alone
    with pytest.raises(FormatTooNew, match="has format 2, this Embank reads up to 1"):
        open_store()


def test_a_preparation_cut_short_is_finished(open_store: OpenStore) -> None:
    """The format is told before the tables are there."""
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    (store.root / "FORMAT").write_text("embank 2\n")
    store.close()
    notes = open_store().collection("notes")
    assert notes.reembedding() is None
    assert notes.delete(["d00"]) == 1
    assert swap(notes).documents == 9


def test_a_retired_generation_is_counted_in_no_change(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows may still be there when documents go: only passages in use are counted."""
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    monkeypatch.setattr(shadow.Shadows, "tidy", lambda *_, **__: None)
    swap(notes)
    assert rows(store)["chunks"] == 10
    assert notes.delete(["d00", "d01"]) == 2
    info = notes.info()
    assert info is not None
    assert (info.documents, info.chunks) == (8, 16)
    monkeypatch.undo()
    notes.tidy()
    assert rows(store) == {"chunks": 0, "tombstones": 0, "digests": 0}
