"""Checking a bank: what is damaged is found and named, and what can be made again is told apart."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.store.conftest import OpenStore, nearest, words, write

from embank.errors import BankNotFound
from embank.store import vectors as module
from embank.store.index.settings import Settings as IndexSettings
from embank.store.local import LocalStore
from embank.store.reports import Finding
from embank.store.vectors import DATA_OFFSET
from embank.store.verify import verify
from embank.system import sqlite
from embank.testing.fakes import HashModel

TEXTS = {f"d{number:03}": f"river number {number} carries silt" for number in range(60)}
RECORD_BYTES = 2 * HashModel().dimension


@pytest.fixture
def filled(open_store: OpenStore, tmp_path: Path) -> Path:
    """A closed bank of sixty documents, of which three are deleted, with a lexical view."""
    store = open_store()
    notes = store.collection("notes")
    write(notes, TEXTS)
    notes.delete(["d003", "d004", "d005"])
    assert words(notes, "river")
    store.close()
    return tmp_path / "bank"


def flip(path: Path, offset: int, bit: int = 0x40) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    path.write_bytes(data)


def execute(bank: Path, statement: str) -> None:
    with closing(sqlite3.connect(bank / "bank.db")) as connection, connection:
        connection.execute(statement)


def found(bank: Path, *, full: bool = False) -> list[Finding]:
    return list(verify(bank, full=full).findings)


@pytest.mark.parametrize("full", [False, True])
def test_a_whole_bank_is_whole_and_stays_untouched(filled: Path, *, full: bool) -> None:
    before = {path: path.read_bytes() for path in filled.rglob("*") if path.is_file()}
    told: list[float] = []
    report = verify(filled, full=full, on_progress=lambda fraction, _: told.append(fraction))
    assert (report.findings, report.damaged) == ((), False)
    assert (report.collections, report.documents, report.vectors) == (1, 57, 60)
    assert told == sorted(told)
    assert told[-1] == 1.0
    after = {path: path.read_bytes() for path in filled.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    assert {path: after.get(path) for path in before} == before


def test_while_it_is_written(open_store: OpenStore, tmp_path: Path) -> None:
    notes = open_store().collection("notes")
    write(notes, TEXTS)
    assert verify(tmp_path / "bank").findings == ()
    write(notes, {"more": "of it"})
    report = verify(tmp_path / "bank", full=True)
    assert (report.findings, report.documents) == ((), 61)


def test_after_a_compaction(open_store: OpenStore, tmp_path: Path) -> None:
    notes = open_store().collection("notes")
    write(notes, TEXTS)
    notes.delete(["d007"])
    assert notes.compact().outcome == "compacted"
    report = verify(tmp_path / "bank", full=True)
    assert (report.findings, report.vectors) == ((), 59)


def test_a_flipped_bit_in_a_segment_names_its_document(filled: Path) -> None:
    flip(filled / "vectors" / "1-0" / "000000.vec", DATA_OFFSET + 17 * RECORD_BYTES + 1)
    (finding,) = found(filled)
    assert (finding.severity, finding.collection, finding.ids) == ("damaged", "notes", ("d017",))
    assert finding.part == "vectors/1-0/000000.vec"
    assert "not as they were written" in finding.message


def test_a_damaged_vector_of_a_deleted_document_is_nobodys(filled: Path) -> None:
    flip(filled / "vectors" / "1-0" / "000000.vec", DATA_OFFSET + 4 * RECORD_BYTES + 1)
    assert found(filled) == []


def test_a_truncated_segment(filled: Path) -> None:
    path = filled / "vectors" / "1-0" / "000000.vec"
    path.write_bytes(path.read_bytes()[: DATA_OFFSET + 57 * RECORD_BYTES + 3])
    (finding,) = found(filled)
    assert (finding.ids, finding.affected) == (("d057", "d058", "d059"), 3)
    assert "shorter than" in finding.message


def test_a_longer_segment_is_the_rest_of_a_write(filled: Path) -> None:
    with (filled / "vectors" / "1-0" / "000000.vec").open("ab") as file:
        file.write(b"x" * 100)
    assert found(filled) == []


@pytest.mark.parametrize(("damage", "words_of_it"), [("header", "header differs"), ("missing", "missing")])
def test_a_lost_segment_is_all_documents_of_it(filled: Path, damage: str, words_of_it: str) -> None:
    path = filled / "vectors" / "1-0" / "000000.vec"
    path.unlink() if damage == "missing" else flip(path, 12)
    (finding,) = found(filled)
    assert finding.affected == 57
    assert words_of_it in finding.message


def test_segments_are_told_apart(open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_ROWS", 25)
    store = open_store()
    write(store.collection("notes"), TEXTS)
    store.close()
    flip(tmp_path / "bank" / "vectors" / "1-0" / "000001.vec", DATA_OFFSET + 1)
    (finding,) = found(tmp_path / "bank")
    assert (finding.part, finding.ids) == ("vectors/1-0/000001.vec", ("d025",))


def test_a_flipped_bit_in_the_database(filled: Path) -> None:
    root = _root_page(filled, "documents")
    flip(filled / "bank.db", (root - 1) * 4096 + 3)  # the number of cells on the table's page
    report = verify(filled)
    assert report.damaged
    assert {finding.part for finding in report.findings} == {"bank.db"}
    assert any(finding.affected for finding in report.findings), report.findings


def test_a_database_that_is_none(filled: Path) -> None:
    flip(filled / "bank.db", 3)
    (finding,) = found(filled)
    assert finding.severity == "damaged"
    assert "not a database" in finding.message


def test_a_text_that_is_no_text(filled: Path) -> None:
    path = filled / "bank.db"
    path.write_bytes(path.read_bytes().replace(b"river number 21 ", b"\xf2iver number 21 "))
    assert found(filled) == []
    (finding,) = found(filled, full=True)
    assert (finding.part, finding.ids) == ("bank.db", ("d021",))


def test_a_locked_database_is_not_a_damaged_one(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.0)
    with closing(sqlite3.connect(filled / "bank.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            verify(filled)


@pytest.mark.parametrize(
    ("statement", "message", "ids"),
    [
        ("UPDATE collections SET documents = 58", "58 documents are recorded, and 57 are there", ()),
        ("UPDATE collections SET text_bytes = 1", "1 bytes of text are recorded", ()),
        ("UPDATE chunks SET slot = 60 WHERE slot = 59", "beyond the recorded number of vectors", ("d059",)),
        ("UPDATE chunks SET end = 1000 WHERE slot = 9", "passages lie outside their texts", ("d009",)),
        ("UPDATE chunks SET start = 30 WHERE slot = 9", "begin after their end", ("d009",)),
        ("UPDATE documents SET metadata = '{' WHERE name = 'd011'", "metadata are not JSON", ("d011",)),
        ("UPDATE chunks SET document = 999 WHERE slot = 8", "1 passages belong to no document", ()),
        ("DELETE FROM tombstones WHERE slot = 3", "60 vectors are recorded, and 59 are there", ()),
        ("UPDATE tombstones SET slot = 8 WHERE slot = 3", "vectors are marked as removed", ("d008",)),
    ],
)
def test_rows_that_contradict_each_other(filled: Path, statement: str, message: str, ids: tuple[str, ...]) -> None:
    if "start = 30" in statement:
        execute(filled, "UPDATE chunks SET end = 20 WHERE slot = 9")
    execute(filled, statement)
    findings = [finding for finding in found(filled) if message in finding.message]
    assert [finding.ids for finding in findings] == [ids]
    assert findings[0].severity == "damaged"


@pytest.mark.parametrize("suffix", [".idx", ".term", ".fast", "meta.json"])
def test_a_damaged_lexical_view_is_no_loss(filled: Path, suffix: str) -> None:
    path = next(path for path in sorted((filled / "views").rglob("*")) if path.name.endswith(suffix))
    flip(path, 0, 0x01)
    report = verify(filled)
    assert not report.damaged
    assert [(each.severity, each.part) for each in report.findings] == [("derived", "views/1-0/lexical")]


def test_a_damaged_view_is_built_again_on_opening(open_store: OpenStore, filled: Path) -> None:
    flip(filled / "views" / "1-0" / "lexical" / "meta.json", 0)
    assert [finding.severity for finding in found(filled)] == ["derived"]
    store = open_store()
    assert len(words(store.collection("notes"), "river", 100)) == 57
    assert verify(filled).findings == ()


def test_a_view_of_a_later_state(filled: Path) -> None:
    execute(filled, "UPDATE collections SET sequence = sequence - 1")
    (finding,) = found(filled)
    assert finding.severity == "derived"
    assert "later state" in finding.message


def test_a_damaged_vector_index(open_store: OpenStore, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    settings = IndexSettings(kind="flat", tail_rows=10)
    store = open_store(index=settings)
    notes = store.collection("notes")
    write(notes, TEXTS)
    notes.index.refresh()
    store.close()
    path = tmp_path / "bank" / "views" / "1-0" / "vectors.index"
    assert found(tmp_path / "bank") == []
    flip(path, path.stat().st_size // 2)
    (finding,) = found(tmp_path / "bank")
    assert (finding.severity, finding.part) == ("derived", "views/1-0/vectors.index")
    again: LocalStore = open_store(index=settings)
    assert nearest(again.collection("notes"), TEXTS["d010"], 1) == ["d010"]
    again.collection("notes").index.refresh()
    assert found(tmp_path / "bank") == []


def test_what_is_no_bank(tmp_path: Path, filled: Path) -> None:
    with pytest.raises(BankNotFound):
        verify(tmp_path / "nowhere")
    (filled / "FORMAT").write_text("what?")
    assert [finding.part for finding in found(filled)] == ["FORMAT"]


def _root_page(bank: Path, table: str) -> int:
    with closing(sqlite3.connect(bank / "bank.db")) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    return int(page)
