"""Filters of searches over columns in memory: the same as SQL says, while writes go on, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.records import Chunk, Document
from embank.store import chunks
from embank.store.collection import StoredCollection
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Space, Upsert
from embank.store.settings import Settings
from embank.system.size import Size

SPACE = Space("user:own:2", 2, None)
FILTERS: tuple[dict[str, Any], ...] = (
    {"year": 2020},
    {"year": {"$ne": 2020}},
    {"year": {"$gte": 2018, "$lt": 2021}},
    {"lang": {"$in": ["de", "fr"]}},
    {"tags": {"$contains": "water"}},
    {"lang": {"$contains": "e"}, "year": {"$exists": True}},
    {"$or": [{"author": {"born": {"$lt": 1900}}}, {"$not": {"lang": "en"}}]},
)


class Writer:
    """Puts documents of random metadata into a collection."""

    def __init__(self, collection: StoredCollection, seed: int) -> None:
        self.collection = collection
        self.chance = np.random.default_rng(seed)

    def metadata(self) -> dict[str, Any]:
        choose = self.chance.choice
        every = {
            "year": int(choose(range(2015, 2024))),
            "lang": str(choose(["en", "de", "fr", "e"])),
            "tags": [str(each) for each in choose(["water", "rock", "air"], 2)],
            "author": {"born": int(choose(range(1850, 1950)))},
        }
        return {key: value for key, value in every.items() if self.chance.random() < 0.8}

    def put(self, numbers: range, *, passages: int = 2) -> None:
        upserts = []
        for number in numbers:
            text = f"passage {number} " * passages
            cut = len(text) // passages
            chunks = [Chunk(text[at : at + cut], at, at + cut) for at in range(0, cut * passages, cut)]
            upserts.append(Upsert(Document(f"d{number:04}", text, self.metadata()), b"1", chunks))
        rows = self.chance.normal(size=(len(upserts) * passages, 2)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self.collection.commit(Batch(upserts=upserts, relabeled=[], vectors=rows, root=None), SPACE)

    def relabel(self, numbers: range) -> None:
        changed = [Document(f"d{number:04}", "", self.metadata()) for number in numbers]
        self.collection.commit(
            Batch(upserts=[], relabeled=changed, vectors=np.empty((0, 2), np.float32), root=None), SPACE
        )


def opened(tmp_path: Path, *, read_only: bool = False, governor: Governor | None = None, **more: Any) -> LocalStore:
    return LocalStore(
        tmp_path / "bank", read_only=read_only, settings=Settings(**more), stream=Stream(), governor=governor
    )


def found(collection: StoredCollection, where: dict[str, Any]) -> list[int]:
    with collection.snapshot(where=where, lexical=False) as snapshot:
        slots: list[int] = snapshot.live_slots().tolist()
    return slots


def in_sql(collection: StoredCollection, where: dict[str, Any]) -> list[int]:
    ids = [document.id for document in collection.listing(limit=10_000, where=where)]
    with collection.snapshot(lexical=False) as snapshot:
        return sorted(slot for slots in snapshot.slots_of(ids).values() for slot in slots)


def forbid_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("SQL was asked where a column should answer")

    monkeypatch.setattr(chunks, "matching_slots", refuse)


def test_columns_say_what_sql_says_while_documents_come_change_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_sql(monkeypatch)
    store, reader = opened(tmp_path), None
    try:
        notes = store.collection("notes")
        writer = Writer(notes, 1)
        writer.put(range(100))
        reader = opened(tmp_path, read_only=True)
        elsewhere = reader.collection("notes")
        for step in range(8):
            for where in FILTERS:
                wanted = in_sql(notes, where)
                assert found(notes, where) == found(elsewhere, where) == wanted
            if step % 4 == 0:
                writer.put(range(50 + step, 120 + step))  # some new, some in place of what was there
            elif step % 4 == 1:
                writer.relabel(range(0, 100, 7))
            elif step % 4 == 2:
                notes.delete([f"d{number:04}" for number in range(step, 60, 3)])
            else:
                notes.compact()
        assert any(wanted for wanted in (in_sql(notes, where) for where in FILTERS))
    finally:
        store.close()
        if reader is not None:
            reader.close()


def test_a_state_before_that_of_the_columns_is_answered_as_it_was(tmp_path: Path) -> None:
    store = opened(tmp_path)
    try:
        notes = store.collection("notes")
        writer = Writer(notes, 2)
        writer.put(range(40))
        before = found(notes, FILTERS[0])
        with notes.snapshot(lexical=False) as snapshot:
            writer.relabel(range(40))
            found(notes, FILTERS[0])  # the column moves on
            ids = {document.id for document in notes.listing(limit=100, where=FILTERS[0])}
            assert found(notes, FILTERS[0]) == in_sql(notes, FILTERS[0])
            assert len(snapshot.live_slots()) == 80
        assert ids
        assert before != found(notes, FILTERS[0])
    finally:
        store.close()


def test_they_are_bounded_accounted_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    governor = Governor(1 << 40)
    store = opened(tmp_path, governor=governor, filter_columns_limit=Size("20KB"))
    try:
        notes = store.collection("notes")
        Writer(notes, 3).put(range(300))

        def held() -> int:
            return dict(governor.snapshot().consumers)["filter columns"]

        found(notes, {"year": 2020})
        one = held()
        assert 2_400 < one < 10_000
        for where in FILTERS:
            assert found(notes, where) == in_sql(notes, where)
        assert one < held() <= 20_000
        assert governor.relieve(10**9) >= 0
        assert held() == 0
        assert found(notes, {"year": 2020}) == in_sql(notes, {"year": 2020})
        # More than there may be: SQL answers, and the rest stays.
        notes.commit(
            Batch(
                upserts=[
                    Upsert(Document(f"x{number}", "x", {"name": "n" * 100 + str(number)}), b"1", [Chunk("x", 0, 1)])
                    for number in range(300)
                ],
                relabeled=[],
                vectors=np.ones((300, 2), np.float32) / np.float32(2**0.5),
                root=None,
            ),
            SPACE,
        )
        where = {"name": {"$contains": "n7"}}
        assert len(found(notes, where)) == 11
        assert held() <= 20_000
    finally:
        store.close()
    forbid_sql(monkeypatch)
    without = opened(tmp_path, filter_columns=False)
    try:
        with pytest.raises(AssertionError, match="SQL was asked"):
            found(without.collection("notes"), {"year": 2020})
    finally:
        without.close()


def test_columns_of_a_replaced_generation_are_forgotten(tmp_path: Path) -> None:
    governor = Governor(1 << 40)
    store = opened(tmp_path, governor=governor)
    try:
        notes = store.collection("notes")
        Writer(notes, 4).put(range(50))
        found(notes, {"year": 2020})
        notes.delete(["d0001"])
        notes.compact()
        found(notes, {"lang": "en"})
        # One column of 98 passages and at most four values; two would be more.
        assert 0 < dict(governor.snapshot().consumers)["filter columns"] < 2_200
    finally:
        store.close()


def test_a_filter_with_a_set_of_values_can_be_put_on_record(tmp_path: Path) -> None:
    store = opened(tmp_path)
    try:
        notes = store.collection("notes")
        Writer(notes, 5).put(range(20))
        matching = notes.count({"lang": {"$in": {"de", "fr"}}})
        assert notes.delete([], where={"lang": {"$in": {"de", "fr"}}}) == matching > 0
        assert notes.count({"lang": {"$in": {"de", "fr"}}}) == 0
        assert sorted(store.audit()[0].detail["where"]["lang"]["$in"]) == ["de", "fr"]
    finally:
        store.close()
