"""Disks that fail, fill up, can't be written or change a bit: what is said of it, and that it goes on afterwards."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.conftest import OpenStore, nearest, words, write
from tests.store.test_verify import flip

from embank.errors import BankDamaged, FormatTooNew, StorageFailed, StorageFull, StoreError
from embank.store.backup import back_up, restore
from embank.store.lexical import LexicalIndex
from embank.store.schema import check_format
from embank.store.vectors import DATA_OFFSET
from embank.store.verify import verify
from embank.testing.faults import FaultyFiles

MOUNTED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


class Watched(FaultyFiles):
    """Notes at which offsets was written."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets: list[int] = []

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
        self.offsets.append(offset)
        super().write_at(descriptor, data, offset)


def test_what_a_failed_sync_leaves_is_written_and_synchronised_again(open_store: OpenStore) -> None:
    """The kernel drops what it could not write, and says so once: a second synchronisation alone proves nothing."""
    files = Watched()
    notes = open_store(files=files).collection("notes")
    files.fail_sync = True
    for _ in range(2):
        with pytest.raises(StorageFailed, match="dmesg"):
            write(notes, {"a": "rivers carry silt"})
    files.fail_sync = False
    files.synced.clear()
    files.offsets.clear()
    write(notes, {"a": "rivers carry silt"})
    assert files.offsets == [0, DATA_OFFSET]  # the header again, for nothing says that it came to the disk
    assert {"1-0", "data"} <= set(files.synced)
    assert nearest(notes, "rivers carry silt", 1) == ["a"]


def test_what_a_killed_writer_made_is_synchronised_by_the_next(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    write(store.collection("notes"), {"a": "rivers carry silt"})
    assert words(store.collection("notes"), "silt") == ["a"]
    store.close()
    files = FaultyFiles()
    open_store(files=files)
    assert files.synced == ["bank", "vectors", "views"]


@pytest.mark.parametrize(("number", "error"), [(28, StorageFull), (122, StorageFull), (5, StorageFailed)])
@pytest.mark.parametrize(
    "words_of_it",
    [
        "An IO error occurred: 'what? (os error %d)'",
        "Failed: 'IoError { PathError { err: Os { code: %d, kind: Full } } }'",
    ],
)
def test_a_view_that_finds_no_room_fails_no_write(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[StoreError], words_of_it: str
) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers carry silt"})
    with monkeypatch.context() as failing:

        def fail(*_: object, **__: object) -> int:
            raise ValueError(words_of_it % number)

        failing.setattr(LexicalIndex, "apply", fail)
        notes.catch_up(lag_rows=1)
        write(notes, {"b": "mountains rise"})
        with pytest.raises(error, match="all documents are safe"):
            words(notes, "silt")
        assert nearest(notes, "mountains rise", 1) == ["b"]
    assert words(notes, "silt") == ["a"]
    assert words(notes, "mountains") == ["b"]


def test_a_view_that_can_not_be_built_says_so(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers carry silt"})
    with monkeypatch.context() as failing:

        def fail(*_: object, **__: object) -> int:
            raise ValueError("the thread that writes is gone")

        failing.setattr(LexicalIndex, "apply", fail)
        with pytest.raises(StoreError, match="all documents are safe, and searches by vectors"):
            words(notes, "silt")
    assert words(notes, "silt") == ["a"]


def test_a_backup_to_a_failing_disk_leaves_nothing(open_store: OpenStore, tmp_path: Path) -> None:
    write(open_store().collection("notes"), {"a": "rivers carry silt"})
    files = FaultyFiles()
    files.fail_sync = True
    with pytest.raises(StorageFailed, match="no copy was kept"):
        back_up(tmp_path / "bank", tmp_path / "copy", files=files)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_every_flipped_bit_of_the_format_is_found(open_store: OpenStore, tmp_path: Path) -> None:
    open_store().close()
    path = tmp_path / "bank" / "FORMAT"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flip(path, bit // 8, 1 << bit % 8)
        with pytest.raises((BankDamaged, FormatTooNew), match=r"FORMAT is damaged|upgrade Embank"):
            check_format(tmp_path / "bank")
        path.write_bytes(whole)
    flip(path, 0)
    (finding,) = verify(tmp_path / "bank").findings
    assert (finding.severity, finding.part) == ("damaged", "FORMAT")


def test_flipped_bits_of_a_backups_manifest_are_found(open_store: OpenStore, tmp_path: Path) -> None:
    write(open_store().collection("notes"), {"a": "rivers carry silt"})
    copy = tmp_path / "copy"
    back_up(tmp_path / "bank", copy)
    whole = (copy / "BACKUP").read_bytes()
    for bit in range(0, 8 * len(whole), 13):
        flip(copy / "BACKUP", bit // 8, 1 << bit % 8)
        with pytest.raises(BankDamaged, match="not as it was backed up"):
            restore(copy, tmp_path / "restored")
        (copy / "BACKUP").write_bytes(whole)
    restore(copy, tmp_path / "restored")


_READ_ONLY = """
import sys, pytest, embank
from embank.errors import BankReadOnly
from embank.testing.fakes import HashModel
with pytest.raises(BankReadOnly, match="open the bank read-only"):
    embank.open(sys.argv[1], model=HashModel())
with pytest.raises(BankReadOnly, match="can't be written"):
    embank.open(sys.argv[1] + "-new", model=HashModel())
with embank.open(sys.argv[1], model=HashModel(), read_only=True) as bank:
    print([hit.id for hit in bank.collection("notes").search("silt")], bank.verify().damaged)
"""


def test_a_file_system_that_is_read_only(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    write(store.collection("notes"), {"a": "rivers carry silt"})
    store.close()
    folder = shlex.quote(str(tmp_path))
    mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*MOUNTED, mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("a file system can't be mounted read-only here (no user namespaces)")
    work = f"{mount} && exec {shlex.join([sys.executable, '-c', _READ_ONLY, str(tmp_path / 'bank')])}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([*MOUNTED, work], capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "['a'] False"
