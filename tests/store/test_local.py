"""Opening a bank: creation, locks, formats, and faults of the disk."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from embank.client.local import new_secret
from embank.errors import (
    BankDamaged,
    BankLocked,
    BankNotFound,
    BankReadOnly,
    BankServed,
    FormatTooNew,
    InvalidInput,
    StorageFailed,
    StorageFull,
)
from embank.store.lock import read_holder, read_serving
from embank.testing.faults import FaultyFiles

from .conftest import OpenStore, nearest, words, write


def test_a_new_bank_is_for_its_owner_alone(open_store: OpenStore) -> None:
    store = open_store()
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert (store.root / "FORMAT").read_text() == "embank 1\n"


def test_what_was_committed_is_there_after_reopening(open_store: OpenStore) -> None:
    store = open_store()
    write(store.collection("notes"), {"a": "rivers carry silt", "b": "mountains rise"})
    store.close()
    again = open_store().collection("notes")
    assert [document.text for document in again.get(["b", "a"])] == ["mountains rise", "rivers carry silt"]
    assert nearest(again, "rivers carry", 1) == ["a"]
    assert words(again, "mountain") == ["b"]


def test_a_creation_cut_short_is_finished(open_store: OpenStore, tmp_path: Path) -> None:
    open_store().close()
    (tmp_path / "bank" / "FORMAT").unlink()
    store = open_store()
    write(store.collection("notes"), {"a": "x"})
    assert (store.root / "FORMAT").exists()


def test_a_directory_of_other_things_is_left_alone(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInput, match=r"other things \(thesis\.txt\), not a bank"):
        open_store()
    assert [path.name for path in (tmp_path / "bank").iterdir()] == ["thesis.txt"]


def test_a_file_is_no_bank(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("x")
    with pytest.raises(InvalidInput, match="is a file"):
        open_store()


def test_reading_needs_a_bank(open_store: OpenStore) -> None:
    with pytest.raises(BankNotFound, match="there is no bank at"):
        open_store(read_only=True)


def test_a_newer_format_is_refused_and_left_alone(open_store: OpenStore, tmp_path: Path) -> None:
    open_store().close()
    (tmp_path / "bank" / "FORMAT").write_text("embank 3\n")
    before = (tmp_path / "bank" / "bank.db").read_bytes()
    for read_only in (True, False):
        with pytest.raises(FormatTooNew, match="has format 3, this Embank reads up to 2"):
            open_store(read_only=read_only)
    assert (tmp_path / "bank" / "bank.db").read_bytes() == before


def test_a_database_that_is_none(open_store: OpenStore, tmp_path: Path) -> None:
    open_store().close()
    (tmp_path / "bank" / "bank.db").write_bytes(b"not a database at all" * 200)
    with pytest.raises(BankDamaged, match=r"bank\.db"):
        open_store()


def test_a_missing_database_is_named(open_store: OpenStore, tmp_path: Path) -> None:
    open_store().close()
    (tmp_path / "bank" / "bank.db").unlink()
    with pytest.raises(BankDamaged, match=r"bank\.db is missing"):
        open_store()


def test_a_second_writer_is_told_who_holds_the_bank(open_store: OpenStore, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from embank.events.stream import Stream
        from embank.store.local import LocalStore
        from embank.store.settings import Settings
        LocalStore(Path(sys.argv[1]), read_only=False, settings=Settings(), stream=Stream())
        print("open", flush=True)
        sys.stdin.read()
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "bank")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(BankLocked, match=f"open for writing in process {other.pid}") as caught:
            open_store()
        assert caught.value.fields["pid"] == other.pid
        assert open_store(read_only=True).collections() == []
        other.kill()
    # The kernel drops the lock with its holder.
    write(open_store().collection("notes"), {"a": "x"})


def test_the_bank_names_its_holder_and_where_that_serves_it(open_store: OpenStore) -> None:
    store = open_store()
    assert read_holder(store.root / "LOCK")["pid"] == os.getpid()
    assert store.lock is not None
    secret = new_secret()
    store.lock.announce("http://127.0.0.1:8080", secret=secret)
    serving = read_serving(store.root)
    assert serving is not None
    assert (serving.pid, serving.endpoint, serving.secret) == (os.getpid(), "http://127.0.0.1:8080", secret)
    with pytest.raises(BankServed) as refused:
        open_store()
    assert refused.value.fields == {"pid": os.getpid(), "endpoint": "http://127.0.0.1:8080"}
    store.close()
    assert read_holder(store.root / "LOCK") == {}
    assert read_serving(store.root) is None


def test_a_reader_may_not_write(open_store: OpenStore) -> None:
    write(open_store().collection("notes"), {"a": "x"})
    with pytest.raises(BankReadOnly, match="read-only"):
        write(open_store(read_only=True).collection("notes"), {"b": "y"})


def test_a_full_disk_loses_the_batch_and_nothing_else(open_store: OpenStore) -> None:
    files = FaultyFiles()
    store = open_store(files=files)
    notes = store.collection("notes")
    write(notes, {"a": "rivers carry silt"})
    files.room_bytes = 10
    with pytest.raises(StorageFull, match="no room left on the disk"):
        write(notes, {"b": "mountains rise", "a": "changed"})
    assert [document.text for document in notes.get(["a", "b"])] == ["rivers carry silt"]
    files.room_bytes = None
    write(notes, {"b": "mountains rise"})
    assert nearest(notes, "mountains rise", 1) == ["b"]
    store.close()
    assert [document.id for document in open_store().collection("notes").get(["a", "b"])] == ["a", "b"]


def test_a_full_database_loses_the_batch_and_nothing_else(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {"a": "rivers carry silt"})
    assert store.database._writer is not None
    (pages,) = store.database._writer.execute("PRAGMA page_count").fetchone()
    store.database._writer.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(StorageFull, match="no room left"):
        write(notes, {f"b{number}": "long " * 2000 for number in range(20)})
    assert notes.info().documents == 1  # type: ignore[union-attr]  # it was just written
    store.database._writer.execute("PRAGMA max_page_count=1000000")
    write(notes, {"c": "after"})
    assert nearest(notes, "after", 1) == ["c"]


def test_a_failed_sync_is_no_acknowledgement(open_store: OpenStore) -> None:
    files = FaultyFiles()
    notes = open_store(files=files).collection("notes")
    write(notes, {"a": "x"})
    files.fail_sync = True
    with pytest.raises(StorageFailed, match="all that was acknowledged is safe"):
        write(notes, {"b": "y"})
    files.fail_sync = False
    assert [document.id for document in notes.get(["a", "b"])] == ["a"]


def test_what_a_dead_writer_left_past_the_mark_is_cut_off(open_store: OpenStore) -> None:
    store = open_store()
    write(store.collection("notes"), {"a": "x"})
    store.close()
    (segment,) = (store.root / "vectors").glob("*/000000.vec")
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"half a vector")
    again = open_store()
    assert nearest(again.collection("notes"), "x", 1) == ["a"]
    assert segment.read_bytes() == whole


def test_counts_come_from_one_row(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {"a": "12345", "b": "1"})
    write(notes, {"a": "ü", "c": "123"})
    notes.delete(["b"])
    info = notes.info()
    assert info is not None
    assert (info.documents, info.chunks, info.slots, info.sequence, info.text_bytes) == (2, 2, 4, 3, 5)
    with store.database.reading() as connection:
        counted = connection.execute(
            "SELECT COUNT(*), (SELECT COUNT(*) FROM chunks), (SELECT COUNT(*) FROM tombstones) FROM documents"
        ).fetchone()
    assert counted == (2, 2, 2)


def test_a_busy_reader_does_not_stop_the_writer(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "old words"})
    with notes.snapshot() as snapshot:
        write(notes, {"a": "new words", "b": "more words"})
        assert [p.text for p in snapshot.passages(snapshot.lexical("words", 5).slots)] == ["old words"]
        assert snapshot.info.documents == 1
    assert sorted(words(notes, "words")) == ["a", "b"]


def test_every_commit_is_synchronised(open_store: OpenStore) -> None:
    store = open_store()
    assert store.database._writer is not None
    assert store.database._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store.database._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sqlite3.threadsafety == 3
