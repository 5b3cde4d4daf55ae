"""Backups of banks in use, and what comes back of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.store.conftest import OpenStore, nearest, words, write
from tests.store.test_verify import RECORD_BYTES, TEXTS, flip

from embank.errors import BankDamaged, InvalidInput, StorageFull
from embank.store import vectors as module
from embank.store.backup import back_up, restore
from embank.store.local import LocalStore
from embank.store.verify import verify
from embank.system.files import Files
from embank.testing.faults import FaultyFiles

SECOND = {f"e{number:03}": f"mountain number {number} stands still" for number in range(40)}


class Full(FaultyFiles):
    """A disk that fills up although there was room when it was asked."""

    def free_bytes(self, path: Path) -> int:
        return Files.free_bytes(self, path)


@pytest.fixture
def live(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """An open bank of two collections over several segments, with tombstones and views."""
    monkeypatch.setattr(module, "SEGMENT_ROWS", 25)
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    notes.delete(["d003", "d030"])
    write(notes, {"d010": "replaced by a lake"})
    write(store.collection("höhen"), SECOND)
    assert words(notes, "river")
    return store


def state(store: LocalStore) -> dict[str, object]:
    """All documents and stored vectors, and some answers."""
    told: dict[str, object] = {}
    for info in store.collections():
        collection = store.collection(info.name)
        with collection.snapshot(lexical=False) as snapshot:
            vectors = snapshot.vectors(snapshot.live_slots()).tobytes()
        told[info.name] = (
            info,
            collection.listing(limit=1000),
            vectors,
            words(collection, "river mountain lake", 100),
            nearest(collection, "river number 12 carries silt"),
        )
    return told


def test_what_comes_back_is_what_was_there(live: LocalStore, open_store: OpenStore, tmp_path: Path) -> None:
    before = state(live)
    told: list[float] = []
    report = back_up(tmp_path / "bank", tmp_path / "copy", on_progress=lambda fraction, _: told.append(fraction))
    assert (report.collections, report.documents, report.vectors) == (2, 98, 101)
    assert told == sorted(told)
    assert told[-1] == 1.0
    names = sorted(path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.*"))
    assert names == ["bank.db", *(f"vectors/{each}.vec" for each in _segments())]
    write(live.collection("notes"), {"later": "not in the copy"})
    live.close()
    (tmp_path / "bank").rename(tmp_path / "lost")
    restore(tmp_path / "copy", tmp_path / "bank")
    assert verify(tmp_path / "bank", full=True).findings == ()
    restored = open_store()
    assert state(restored) == before
    write(restored.collection("notes"), {"d061": "and it goes on"})
    assert nearest(restored.collection("notes"), "and it goes on", 1) == ["d061"]
    assert verify(tmp_path / "copy", full=True).findings == ()


def test_a_backup_is_a_bank(live: LocalStore, tmp_path: Path) -> None:
    before = state(live)
    back_up(tmp_path / "bank", tmp_path / "copy")
    live.close()
    (tmp_path / "bank").rename(tmp_path / "lost")
    (tmp_path / "copy").rename(tmp_path / "bank")
    assert (tmp_path / "bank" / "BACKUP").exists()
    store = LocalStore(tmp_path / "bank", read_only=False, settings=live._shared.settings, stream=live._shared.stream)
    assert state(store) == before
    store.close()
    assert not (tmp_path / "bank" / "BACKUP").exists()
    assert verify(tmp_path / "bank").findings == ()


def test_while_it_is_written(live: LocalStore, open_store: OpenStore, tmp_path: Path) -> None:
    """Each backup holds a prefix of the acknowledged batches, each whole."""
    notes, done, written = live.collection("notes"), threading.Event(), [0]

    def keep_writing() -> None:
        while not done.is_set() and written[0] < 400:
            number = written[0]
            write(notes, {f"w{number:04}a": f"word {number}", f"w{number:04}b": f"other {number}"})
            notes.delete([f"w{number - 1:04}a"])
            written[0] += 1

    thread = threading.Thread(target=keep_writing)
    thread.start()
    acknowledged = []
    try:
        for number in range(3):
            acknowledged.append(written[0])
            back_up(tmp_path / "bank", tmp_path / f"copy{number}")
    finally:
        done.set()
        thread.join()
    live.close()
    for number, least in enumerate(acknowledged):
        copied = LocalStore(
            tmp_path / f"copy{number}", read_only=True, settings=live._shared.settings, stream=live._shared.stream
        )
        found = {document.id for document in copied.collection("notes").listing(limit=5000)} - set(TEXTS)
        copied.close()
        count = sum(name.endswith("b") for name in found)
        assert count >= least
        assert {name for name in found if name.endswith("b")} == {f"w{each:04}b" for each in range(count)}
        assert verify(tmp_path / f"copy{number}", full=True).findings == ()


def test_a_compaction_meanwhile(live: LocalStore, tmp_path: Path) -> None:
    compacted: list[str] = []

    def compact(_: float, words_of_it: str) -> None:
        if "vectors/" in words_of_it and not compacted:
            compacted.append(live.collection("notes").compact().outcome)

    report = back_up(tmp_path / "bank", tmp_path / "copy", on_progress=compact)
    assert compacted == ["compacted"]
    assert report.vectors == 101
    assert verify(tmp_path / "copy", full=True).findings == ()


def test_a_re_embedding_under_way_comes_along(live: LocalStore, tmp_path: Path) -> None:
    from tests.store.conftest import SPACE

    with live.collection("notes").shadow(SPACE):
        pass
    back_up(tmp_path / "bank", tmp_path / "copy")
    assert verify(tmp_path / "copy", full=True).findings == ()


@pytest.mark.parametrize("kind", ["file", "folder", "bank", "dangling"])
def test_an_existing_target_is_refused(live: LocalStore, tmp_path: Path, kind: str) -> None:
    target = live.root if kind == "bank" else tmp_path / "taken"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    elif kind == "dangling":
        target.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for copy in (back_up, restore):
        with pytest.raises(InvalidInput, match="exists"):
            copy(tmp_path / "bank", target)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("where", ["nowhere/copy", "bank/copy"])
def test_a_target_that_cannot_be(live: LocalStore, tmp_path: Path, where: str) -> None:
    assert live.root.exists()
    with pytest.raises(InvalidInput):
        back_up(tmp_path / "bank", tmp_path / where)


@pytest.mark.parametrize("room_bytes", [0, 100, 5_000, 9_000, 23_000])
def test_a_full_disk_leaves_nothing(live: LocalStore, tmp_path: Path, room_bytes: int) -> None:
    before, files = state(live), Full()
    files.room_bytes = room_bytes
    with pytest.raises(StorageFull, match="no copy was kept"):
        back_up(tmp_path / "bank", tmp_path / "copy", files=files)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
    assert state(live) == before


def test_too_little_room_is_told_before(live: LocalStore, tmp_path: Path) -> None:
    assert live.root.exists()
    files = FaultyFiles()
    files.room_bytes = 10_000
    with pytest.raises(StorageFull, match="make room first"):
        back_up(tmp_path / "bank", tmp_path / "copy", files=files)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_failing_disk_leaves_nothing(live: LocalStore, tmp_path: Path) -> None:
    assert live.root.exists()
    files = FaultyFiles()
    files.fail_sync = True
    with pytest.raises(OSError, match="Input/output error"):
        back_up(tmp_path / "bank", tmp_path / "copy", files=files)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


@pytest.mark.parametrize("moment", ["copying bank.db", "copying vectors", "checking the copy: reading vectors"])
def test_interrupted_it_leaves_nothing(live: LocalStore, tmp_path: Path, moment: str) -> None:
    def stop(_: float, words_of_it: str) -> None:
        if words_of_it.startswith(moment):
            raise KeyboardInterrupt

    assert live.root.exists()
    with pytest.raises(KeyboardInterrupt):
        back_up(tmp_path / "bank", tmp_path / "copy", on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_what_a_kill_left_goes_with_the_next(live: LocalStore, tmp_path: Path) -> None:
    assert live.root.exists()
    left = tmp_path / ".copy.999999999-5.tmp"
    left.mkdir()
    running = tmp_path / f".other.{os.getpid()}-1.tmp"
    running.mkdir()
    back_up(tmp_path / "bank", tmp_path / "copy")
    assert not left.exists()
    assert running.exists()


def test_a_killed_one_is_not_there(open_store: OpenStore, tmp_path: Path) -> None:
    """SIGKILL while the copy is checked: nothing at the target, and the next run clears up and succeeds."""
    program = (
        "import os, signal, sys; from pathlib import Path; from embank.store.backup import back_up\n"
        "def die(_, words):\n"
        "    if words.startswith('checking'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "back_up(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=die)"
    )
    store = open_store()
    write(store.collection("notes"), TEXTS)
    before, target = state(store), tmp_path / "copy"
    ended = subprocess.run([sys.executable, "-c", program, tmp_path / "bank", target], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.glob(".copy.*.tmp"))) == 1
    assert back_up(tmp_path / "bank", target).documents == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "copy"]
    assert state(store) == before


def test_a_damaged_bank_is_not_taken_for_a_backup(live: LocalStore, tmp_path: Path) -> None:
    live.close()
    flip(tmp_path / "bank" / "vectors" / "1-0" / "000000.vec", 4096 + 1)
    with pytest.raises(BankDamaged, match="not as they were written") as caught:
        back_up(tmp_path / "bank", tmp_path / "copy")
    assert caught.value.fields["ids"] == ["d000"]
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
    (tmp_path / "bank" / "vectors" / "1-0" / "000001.vec").unlink()
    with pytest.raises(BankDamaged, match="is missing"):
        back_up(tmp_path / "bank", tmp_path / "copy")


@pytest.mark.parametrize("part", ["bank.db", "vectors/1-0/000001.vec", "FORMAT"])
def test_any_flipped_bit_of_a_backup_is_found(live: LocalStore, tmp_path: Path, part: str) -> None:
    assert live.root.exists()
    back_up(tmp_path / "bank", tmp_path / "copy")
    path = tmp_path / "copy" / part
    flip(path, path.stat().st_size - 2, 0x01)
    report = verify(tmp_path / "copy")
    assert report.damaged
    assert part in {finding.part for finding in report.findings}
    with pytest.raises(BankDamaged):
        restore(tmp_path / "copy", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def _segments() -> list[str]:
    per_record = np.ceil([61 / 25, 40 / 25]).astype(int)
    assert RECORD_BYTES
    return [f"{key}-0/{number:06}" for key, count in enumerate(per_record, 1) for number in range(count)]
