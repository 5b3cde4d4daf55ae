"""Dropping a collection: all of it goes, at once and on record, and a later one of its name has nothing of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from embank.errors import BankReadOnly, CollectionNotFound, ProtectedCollectionError, StorageFull, StoreError
from embank.events.kinds import ChangeRefused, CollectionDropped
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.store import audit, database, dropping, purge
from embank.store.collection import StoredCollection
from embank.store.protocol import Space
from embank.store.reductions import Reduction, Reductions
from embank.store.retention import Rule
from embank.store.tunings import Tuning, Tunings
from embank.store.verify import verify
from embank.system.clock import SystemClock
from embank.testing.fakes import HashModel

from .conftest import MODEL, OpenStore, nearest, words, write

TEXTS = {f"d{number:03}": f"rivers carry silt number{number}" for number in range(60)}
OTHER = HashModel(dimension=48, name="other")
OTHER_SPACE = Space(OTHER.fingerprint, OTHER.dimension, None)


def rows_of(path: Path) -> dict[str, int]:
    """How many rows each table has, without those that tell of acts or of the bank itself."""
    with closing(sqlite3.connect(path / "bank.db")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        counts = {each: connection.execute(f"SELECT COUNT(*) FROM {each}").fetchone()[0] for each in tables}
    return {name: count for name, count in counts.items() if name not in ("meta", "audit", "dropped")}


def files_of(path: Path) -> list[str]:
    return sorted(
        each.relative_to(path).as_posix()
        for part in ("vectors", "views", "hot")
        for each in (path / part).rglob("*")
        if (path / part).exists() and each.is_file()
    )


def used(notes: StoredCollection) -> None:
    """Have it leave something in every place where something of a collection is kept."""
    write(notes, TEXTS)
    notes.delete(["d000"])
    notes.hot.touch(["d001", "d002"])
    notes.hot.rebuild()
    assert words(notes, "number7") == ["d007"]
    assert nearest(notes, TEXTS["d009"])[0] == "d009"


def test_nothing_of_it_is_left(open_store: OpenStore, tmp_path: Path) -> None:
    stream, seen = Stream(), list[CollectionDropped]()
    stream.subscribe(lambda event: seen.append(event) if isinstance(event, CollectionDropped) else None)
    store = open_store(stream=stream)
    notes = store.collection("notes")
    store.set_language("notes", "german")
    used(notes)
    clock, path = SystemClock(), tmp_path / "bank"
    Reductions(store.database, clock=clock).keep("notes", Reduction("v", "s", 4, 2, 9, 0.5, 1.0, b"1234"))
    Tunings(store.database, clock=clock).keep("notes", Tuning("f", {"kind": "score"}, {}))
    with notes.shadow(OTHER_SPACE) as shadow:  # a re-embedding that was begun
        assert shadow.remaining() == 59
    assert {name for name, count in rows_of(path).items() if count} >= {
        "collections", "documents", "chunks", "tombstones", "generations", "languages", "reductions", "tunings"
    }  # fmt: skip
    planned = store.drop("notes", dry_run=True)
    assert (planned.dry_run, planned.documents, planned.passages) == (True, 59, 59)
    assert planned.file_bytes == sum((path / name).stat().st_size for name in files_of(path) if name[:3] != "hot")
    assert notes.count() == 59
    report = store.drop("notes")
    assert (report.documents, report.passages, report.left) == (59, 59, False)
    assert set(rows_of(path).values()) == {0}
    assert files_of(path) == []
    assert store.collections() == []
    (act, *_) = store.audit()
    assert (act.act, act.collection) == ("drop", "notes")
    assert (act.detail["documents"], act.detail["fingerprint"]) == (59, MODEL.fingerprint)
    stream.close()
    assert [(each.collection, each.documents) for each in seen] == [("notes", 59)]


def test_the_next_of_its_name_has_nothing_of_it(open_store: OpenStore) -> None:
    class Still(SystemClock):
        def now(self) -> float:
            return 1_000.0

    store = open_store(clock=Still())
    first = store.collection("notes")
    used(first)
    before = first.info()
    store.drop("notes")
    second = store.collection("notes")
    assert second is not first
    assert (second.info(), second.count(), second.hot.top()) == (None, 0, [])
    write(second, {"d001": "glaciers grind stone"})
    after = second.info()
    assert before is not None
    assert after is not None
    assert (after.documents, after.chunks, after.sequence) == (1, 1, 1)
    assert after.created > before.created  # by which answers that were kept are told apart
    assert words(second, "silt") == []
    assert nearest(second, TEXTS["d009"]) == ["d001"]
    with store.database.reading() as connection:
        assert connection.execute("SELECT id FROM collections").fetchall() == [(2,)]
    store.drop("notes")
    write(store.collection("other"), TEXTS)
    with store.database.reading() as connection:
        assert connection.execute("SELECT id FROM collections").fetchall() == [(3,)]
        assert connection.execute("SELECT collection FROM dropped").fetchall() == [(2,)]


def test_others_stay_as_they_are(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    kept, notes = store.collection("kept"), store.collection("notes")
    write(kept, TEXTS)
    used(notes)
    store.drop("notes")
    assert kept.count() == 60
    assert words(kept, "number7") == ["d007"]
    assert nearest(kept, TEXTS["d009"])[0] == "d009"
    store.close()
    assert verify(tmp_path / "bank", full=True).findings == ()


def test_a_handle_of_it_says_so(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    store.drop("notes")
    acts: list[Callable[[], object]] = [
        lambda: write(notes, {"new": "text"}),
        lambda: words(notes, "silt"),
        lambda: notes.get(["d001"]),
        lambda: notes.listing(limit=1),
        notes.info,
        notes.count,
        lambda: notes.delete(["d001"]),
        lambda: notes.purge(Rule(keep=1)),
        notes.compact,
        lambda: notes.protect(protected=True),
        lambda: notes.ensure(dtype="fp16"),
        notes.check_reembedding,
        notes.reembedding,
        notes.hot.rebuild,
        notes.index.refresh,
    ]
    write(store.collection("notes"), {"new": "another one"})  # must not be taken for it
    for act in acts:
        with pytest.raises(CollectionNotFound, match="was dropped"):
            act()
    notes.hot.touch(["d001"])
    assert notes.hot.top() == []
    assert store.collection("notes").count() == 1
    with pytest.raises(CollectionNotFound, match="no collection"):
        store.drop("nowhere")


def test_a_protected_one_refuses_and_so_does_a_reader(open_store: OpenStore) -> None:
    stream, seen = Stream(), list[ChangeRefused]()
    stream.subscribe(lambda event: seen.append(event) if isinstance(event, ChangeRefused) else None)
    store = open_store(stream=stream)
    write(store.collection("notes"), TEXTS)
    with pytest.raises(BankReadOnly):
        open_store(read_only=True).drop("notes")
    store.collection("notes").protect(protected=True)
    for dry_run in (True, False):
        with pytest.raises(ProtectedCollectionError):
            store.drop("notes", dry_run=dry_run)
    assert store.collection("notes").count() == 60
    stream.close()
    assert [each.act for each in seen] == ["drop", "drop"]
    store.collection("notes").protect(protected=False)
    assert store.drop("notes").documents == 60


def test_no_memory_is_held_for_it(open_store: OpenStore) -> None:
    governor = Governor(1 << 34)
    store = open_store(governor=governor)
    before = [name for name, _ in governor.snapshot().consumers]
    used(store.collection("notes"))
    assert len(governor.snapshot().consumers) > len(before)
    store.drop("notes")
    assert [name for name, _ in governor.snapshot().consumers] == before


def test_cut_short_it_is_swept_when_the_bank_is_opened(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropping, "STEP_DOCUMENTS", 10)
    store, path = open_store(), tmp_path / "bank"
    write(store.collection("kept"), TEXTS)
    used(store.collection("notes"))

    def stop(fraction: float, _: str) -> None:
        if fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.drop("notes", on_progress=stop)
    assert [info.name for info in store.collections()] == ["kept"]
    write(store.collection("notes"), {"d001": "glaciers grind stone"})
    assert rows_of(path)["documents"] == 60 + 39 + 1
    assert (path / "vectors" / "2-0").exists()
    assert verify(path, full=True).findings == ()
    store.close()
    again = open_store()
    assert rows_of(path)["documents"] == 61
    assert sorted(each.name for each in (path / "vectors").iterdir()) == ["1-0", "3-0"]
    assert nearest(again.collection("notes"), "silt") == ["d001"]
    with again.database.reading() as connection:
        assert connection.execute("SELECT collection, is_gone FROM dropped").fetchall() == [(2, 1)]


def test_a_failure_before_the_act_changes_nothing(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFull("no room")

    store = open_store()
    notes = store.collection("notes")
    used(notes)
    before = rows_of(tmp_path / "bank")
    with monkeypatch.context() as patched:
        patched.setattr(audit, "record", full)
        with pytest.raises(StorageFull):
            store.drop("notes")
    assert rows_of(tmp_path / "bank") == before
    assert words(notes, "number7") == ["d007"]
    assert store.collection("notes") is notes
    with notes.shadow(OTHER_SPACE), pytest.raises(StoreError, match="re-embedded or compacted"):
        store.drop("notes")
    assert notes.count() == 59


def test_a_search_under_way_ends_as_it_would_have(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = open_store(), tmp_path / "bank"
    notes = store.collection("notes")
    write(notes, TEXTS)
    gone = threading.Thread(target=store.drop, args=("notes",))
    with notes.snapshot() as snapshot:
        gone.start()
        while store.collections():  # until it is out of the bank
            gone.join(0.001)
        found = snapshot.dense(MODEL.embed([TEXTS["d009"]])[0], 3)
        assert snapshot.passages(found.slots)[0].id == "d009"
        assert len(snapshot.lexical("silt", 5).slots) == 5
        assert files_of(path)
    gone.join()
    assert files_of(path) == []
    monkeypatch.setattr(dropping, "_READERS_WAIT_S", 0.0)
    write(store.collection("notes"), TEXTS)
    with store.collection("notes").snapshot():
        assert store.drop("notes").left
    assert rows_of(path)["documents"] == 0
    assert files_of(path)
    store.close()
    open_store()
    assert files_of(path) == []


def test_readers_elsewhere_see_the_old_state_or_none_or_the_new_one(open_store: OpenStore) -> None:
    store = open_store()
    write(store.collection("notes"), TEXTS)
    reading = open_store(read_only=True).collection("notes")
    late = open_store(read_only=True).collection("notes")
    assert nearest(reading, TEXTS["d009"])[0] == "d009"
    with reading.snapshot() as snapshot, late.snapshot() as unread:
        store.drop("notes")
        write(store.collection("notes"), {"d009": "glaciers grind stone"})
        for each in (snapshot, unread):
            found = each.dense(MODEL.embed([TEXTS["d009"]])[0], 60)
            assert len(each.passages(found.slots)) == 60
    for notes in (reading, late):
        assert nearest(notes, TEXTS["d009"]) == ["d009"]
        assert words(notes, "silt") == []
        assert words(notes, "glaciers") == ["d009"]
    store.drop("notes")
    with pytest.raises(CollectionNotFound):
        nearest(reading, "silt")


def test_a_purge_under_way_leaves_the_next_of_its_name_alone(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "STEP_DOCUMENTS", 20)
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)

    def replace(fraction: float, _: str) -> None:
        if fraction < 0.5:
            store.drop("notes")
            write(store.collection("notes"), TEXTS)

    with pytest.raises(CollectionNotFound):
        notes.purge(Rule(keep=0), on_progress=replace)
    assert store.collection("notes").count() == 60


def test_the_disk_gets_its_room_back(open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_WORTH_BYTES", 100_000)
    store = open_store()
    long = {name: text * 200 for name, text in TEXTS.items()}
    write(store.collection("kept"), TEXTS)
    write(store.collection("notes"), long)
    report = store.drop("notes")
    assert report.database_bytes > sum(map(len, long.values())) // 2
    assert report.reusable_bytes < 50_000
    held = (tmp_path / "bank" / "bank.db").stat().st_size
    monkeypatch.setattr(database, "_WORTH_BYTES", 1 << 40)  # not worth it: then the pages are used again
    write(store.collection("notes"), long)
    report = store.drop("notes")
    assert report.database_bytes == 0
    assert report.reusable_bytes > sum(map(len, long.values())) // 2
    size = (tmp_path / "bank" / "bank.db").stat().st_size
    write(store.collection("notes"), long)
    assert (tmp_path / "bank" / "bank.db").stat().st_size <= size + held
    assert store.collection("kept").count() == 60
