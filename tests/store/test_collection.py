"""Changes and snapshots of a collection."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from embank.errors import CollectionNotFound, FingerprintMismatch, InvalidInput, ProtectedCollectionError
from embank.events.kinds import DocumentsCommitted, DocumentsDeleted
from embank.events.stream import Stream
from embank.records import Document
from embank.store.protocol import Batch, Space

from .conftest import MODEL, SPACE, OpenStore, nearest, words, write


def test_an_upsert_replaces_the_document_whole(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers carry silt", "b": "the sea is salty"})
    write(notes, {"a": "deserts are dry"})
    assert words(notes, "rivers") == []
    assert words(notes, "deserts") == ["a"]
    assert sorted(nearest(notes, "deserts are dry")) == ["a", "b"]


def test_deleted_documents_are_in_no_answer(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {name: f"common words {name}" for name in "abcdef"})
    assert notes.delete(["a", "c", "never there"]) == 2
    assert notes.delete(where={"length": {"$gte": 1}}, ids=()) == 4
    assert words(notes, "common") == []
    assert nearest(notes, "common") == []
    acts = [(row.act, row.detail["documents"]) for row in store.audit()]
    assert acts == [("delete", 4), ("delete", 2)]


def test_metadata_alone_changes_no_vector(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers"})
    before = notes.info()
    notes.commit(Batch(None, [], np.empty((0, MODEL.dimension), np.float32), [Document("a", "", {"new": 1})]), None)
    after = notes.info()
    assert before is not None
    assert after is not None
    assert (after.slots, after.sequence) == (before.slots, before.sequence + 1)
    assert notes.get(["a"])[0].metadata == {"new": 1}
    assert words(notes, "rivers") == ["a"]


def test_vectors_of_another_model_are_refused(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "x"})
    other = Space("other:64:beef", 64, None)
    with pytest.raises(FingerprintMismatch, match=r"holds vectors of hash:.*these are of other:64:beef"):
        notes.commit(Batch(None, [], np.ones((1, 64), np.float32)), other)
    assert notes.info().documents == 1  # type: ignore[union-attr]  # it was just written


def test_a_protected_collection_takes_new_documents_only(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {"a": "old"})
    notes.protect(protected=True)
    write(notes, {"b": "new"})
    with pytest.raises(ProtectedCollectionError, match="refuses change of an existing document"):
        write(notes, {"a": "changed", "c": "new"})
    with pytest.raises(ProtectedCollectionError, match="refuses delete"):
        notes.delete(["a"])
    with pytest.raises(PermissionError):
        notes.delete((), where={"length": 3})
    assert [document.text for document in notes.listing(limit=10)] == ["old", "new"]
    notes.protect(protected=False)
    assert notes.delete(["a"]) == 1
    assert [row.act for row in store.audit()] == ["delete", "unprotect", "protect"]


def test_listing_goes_on_behind_an_id_while_writes_go_on(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {name: name for name in "bdfh"})
    first = [document.id for document in notes.listing(limit=2)]
    write(notes, {"a": "a", "e": "e"})
    second = [document.id for document in notes.listing(limit=2, after=first[-1])]
    assert (first, second) == (["b", "d"], ["e", "f"])
    assert [document.id for document in notes.listing(limit=9, where={"length": 2})] == []


def test_an_unknown_collection(open_store: OpenStore) -> None:
    notes = open_store().collection("nothing")
    assert notes.info() is None
    assert notes.get(["a"]) == []
    assert notes.delete(["a"]) == 0
    with pytest.raises(CollectionNotFound, match="no collection 'nothing'"), notes.snapshot():
        pass


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", " blank", "a\nb", "x" * 129, ".."])
def test_names_that_no_collection_can_have(open_store: OpenStore, name: str) -> None:
    with pytest.raises(InvalidInput, match="can't name a collection"):
        open_store().collection(name)


def test_any_unicode_id_and_text(open_store: OpenStore) -> None:
    texts = {"ü/\U0001f980 \n'\"%": "nul \0 inside", "\u202e\u0301": "right to left", " ": "blank id"}
    store = open_store()
    write(store.collection("Ünïcode ☃"), texts)
    store.close()
    again = open_store().collection("Ünïcode ☃")
    assert {document.id: document.text for document in again.get(list(texts))} == texts
    assert again.delete(texts) == 3


def test_events_say_what_was_committed(open_store: OpenStore) -> None:
    stream = Stream()
    heard = stream.subscribe(None)
    notes = open_store(stream=stream).collection("notes")
    write(notes, {"a": "x", "b": "y"})
    notes.delete(["a"])
    events = [event for event in heard.drain() if isinstance(event, DocumentsCommitted | DocumentsDeleted)]
    assert [(type(event).__name__, event.sequence, event.documents) for event in events] == [
        ("DocumentsCommitted", 1, 2),
        ("DocumentsDeleted", 2, 1),
    ]


def test_searches_beside_a_writer_never_miss_a_document(open_store: OpenStore) -> None:
    """A document that is replaced again and again is in every answer, once: never both versions, never neither."""
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers round 0", **{f"x{number}": f"filler {number}" for number in range(20)}})
    done = threading.Event()
    wrong: list[list[str]] = []

    def search() -> None:
        while not done.is_set():
            answers = (words(notes, "rivers"), nearest(notes, "rivers round", 1))
            wrong.extend(answer for answer in answers if answer != ["a"])

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(60):
        write(notes, {"a": f"rivers round {number}"})
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_space_without_vectors_is_not_recorded(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    notes.commit(Batch(None, [], np.empty((0, 64), np.float32)), SPACE)
    info = notes.info()
    assert info is not None
    assert info.fingerprint is None
