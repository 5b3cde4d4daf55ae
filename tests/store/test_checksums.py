"""Checksums of passages: any flipped bit is found and named, in every form and copy, and banks without get theirs."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.store.conftest import MODEL, OpenStore, write
from tests.store.test_verify import TEXTS, execute, flip, found

from embank.errors import BankLocked
from embank.records import Chunk
from embank.store import checksums
from embank.store import vectors as module
from embank.store.backup import back_up, restore
from embank.store.codec import Codec
from embank.store.collection import StoredCollection
from embank.store.protocol import Space
from embank.store.schema import create
from embank.store.seal import seal
from embank.store.shadow import Draft
from embank.store.vectors import DATA_OFFSET
from embank.store.verify import verify
from embank.system.files import Files

_FLIPS = 60


def reembed(notes: StoredCollection, *, dtype: str) -> None:
    """Give it a second generation, of other vectors stored as `dtype`."""
    with notes.shadow(Space("other", MODEL.dimension, None), dtype=dtype) as shadow:
        while window := shadow.window(documents=25, characters=10_000):
            drafts = [Draft(each, each.digest, [Chunk(each.text, 0, len(each.text))]) for each in window]
            shadow.commit(drafts, MODEL.embed([each.text[::-1] for each in window]))
        shadow.swap()
    notes.tidy()


def bank_of(open_store: OpenStore, root: Path, form: str) -> Path:
    """A closed bank of sixty documents over several segments, in which three are dead, in one of its forms."""
    store = open_store(settings={"dtype": "int8"} if form == "int8" else None)
    notes = store.collection("notes")
    for first in range(0, 60, 7):
        write(notes, dict(list(TEXTS.items())[first : first + 7]))
    notes.delete(["d003", "d004", "d005"])
    if form == "compacted":
        assert notes.compact().outcome == "compacted"
    if form == "reembedded":
        reembed(notes, dtype="int8")
    store.close()
    if form == "restored":
        back_up(root / "bank", root / "copy")
        restore(root / "copy", root / "again")
        return root / "again"
    return root / "bank"


def owners(bank: Path) -> dict[int, str]:
    """The document of each slot of the generation in use."""
    with closing(sqlite3.connect(bank / "bank.db")) as connection:
        return dict(
            connection.execute(
                "SELECT slot, documents.name FROM chunks JOIN documents ON documents.id = document "
                "JOIN collections ON chunks.collection = collections.id | (collections.generation << 32)"
            )
        )


@pytest.mark.parametrize("form", ["fp16", "int8", "compacted", "reembedded", "restored"])
def test_every_flipped_bit_of_a_vector_is_found_and_named(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(module, "SEGMENT_ROWS", 25)
    bank = bank_of(open_store, tmp_path, form)
    report = verify(bank, full=True)
    assert (report.findings, report.unsealed) == ((), 0)
    size = Codec("int8" if form in {"int8", "reembedded"} else "fp16", MODEL.dimension).record.itemsize
    rng, owned = random.Random(7), owners(bank)
    files = sorted((bank / "vectors").rglob("*.vec"))
    for _ in range(_FLIPS):
        path = rng.choice(files)
        whole = path.read_bytes()
        at = rng.randrange(DATA_OFFSET, len(whole))
        flip(path, at, 1 << rng.randrange(8))
        owner = owned.get(int(path.stem) * 25 + (at - DATA_OFFSET) // size)
        assert [finding.ids for finding in found(bank)] == ([] if owner is None else [(owner,)]), (path, at)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "statement",
    ["start = start + 1", "end = end - 1", "ordinal = 1", "checksum = checksum + 1", "document = document + 1"],
)
def test_a_passages_row_is_covered_too(open_store: OpenStore, tmp_path: Path, statement: str) -> None:
    bank = bank_of(open_store, tmp_path, "fp16")
    execute(bank, f"UPDATE chunks SET {statement} WHERE slot = 9")
    assert any("not as they were written" in finding.message for finding in found(bank))


def test_damage_goes_with_a_compaction_and_is_still_found(open_store: OpenStore, tmp_path: Path) -> None:
    bank = bank_of(open_store, tmp_path, "fp16")
    flip(bank / "vectors" / "1-0" / "000000.vec", DATA_OFFSET + 17 * 2 * MODEL.dimension, 1)
    store = open_store()
    assert store.collection("notes").compact().outcome == "compacted"
    store.close()
    assert [finding.ids for finding in found(bank)] == [("d017",)]


def without_checksums(bank: Path) -> None:
    """Make of a bank what a former Embank would have written."""
    with closing(sqlite3.connect(bank / "bank.db")) as connection:
        connection.execute("ALTER TABLE chunks DROP COLUMN checksum")
        connection.execute("VACUUM")


def test_a_bank_of_before_is_read_written_and_sealed(open_store: OpenStore, tmp_path: Path) -> None:
    bank = bank_of(open_store, tmp_path, "fp16")
    without_checksums(bank)
    report = verify(bank)
    assert (report.findings, report.unsealed) == ((), 57)
    store = open_store(read_only=True)
    assert store.collection("notes").count() == 57
    store.close()
    store = open_store()
    write(store.collection("notes"), {"new": "glaciers carry boulders"})
    assert verify(bank).unsealed == 57
    with pytest.raises(BankLocked):
        seal(bank)
    store.close()
    segment = bank / "vectors" / "1-0" / "000000.vec"
    flip(segment, DATA_OFFSET + 60 * 2 * MODEL.dimension, 1)
    damaged, sealed = seal(bank)
    assert ([finding.ids for finding in damaged.findings], sealed) == ([("new",)], 0)
    flip(segment, DATA_OFFSET + 60 * 2 * MODEL.dimension, 1)
    report, sealed = seal(bank)
    assert (report.findings, report.unsealed, sealed) == ((), 0, 57)
    assert verify(bank, full=True).unsealed == 0
    assert seal(bank)[1] == 0
    flip(segment, DATA_OFFSET + 17 * 2 * MODEL.dimension, 1)
    assert [finding.ids for finding in found(bank)] == [("d017",)]


def test_vectors_without_checksums_must_be_possible_ones(open_store: OpenStore, tmp_path: Path) -> None:
    bank = bank_of(open_store, tmp_path, "fp16")
    without_checksums(bank)
    flip(bank / "vectors" / "1-0" / "000000.vec", DATA_OFFSET + 17 * 2 * MODEL.dimension + 1)
    (finding,) = found(bank)
    assert (finding.ids, "not of unit length" in finding.message) == (("d017",), True)


def test_room_is_made_once(tmp_path: Path) -> None:
    create(tmp_path, files=Files())
    with closing(sqlite3.connect(tmp_path / "bank.db", isolation_level=None)) as connection:
        connection.execute("ALTER TABLE chunks DROP COLUMN checksum")
        for _ in range(2):
            checksums.add_column(connection)
        assert checksums.has_column(connection)


def test_records_that_differ_in_a_bit_have_other_checksums() -> None:
    codec = Codec("int8", 5)
    stored = codec.encode(np.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], np.float32))
    first, second = checksums.of_records(stored)
    assert checksums.of_records(stored[1:]) == [second]
    assert checksums.of_records(stored[:0]) == []
    assert first != second
