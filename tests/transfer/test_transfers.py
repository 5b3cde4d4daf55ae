"""Exporting a collection to a file, and importing it somewhere else."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.bank import Bank, LocalCollection, open_bank
from embank.errors import (
    CollectionNotFound,
    FingerprintMismatch,
    InvalidInput,
    ProtectedCollectionError,
    SourceError,
    StorageFull,
)
from embank.events.kinds import CollectionExported, CollectionImported
from embank.testing.fakes import HashModel
from embank.testing.faults import FaultyFiles
from embank.transfer.exporting import guessed_format

MODEL = HashModel()
ODD = {
    "plain": {"year": 2024, "score": 0.1, "whole": 1.0, "yes": True, "none": None, "tags": ["a", 1, {"b": []}]},
    "größe/数/🙂 \u2028\ufeff": {'key with "quotes"': "line\nbreak", "große": -0.0, "big": 2**70, "tiny": 5e-324},
    "  blank ends ": {},
}

OpenBank = Callable[..., Bank]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenBank]:
    """Opens banks in the folder of the test: `opened("there", flags={...})`."""
    banks: list[Bank] = []

    def open_it(name: str, **more: Any) -> Bank:
        banks.append(open_bank(tmp_path / name, memory="1GB", **{"model": MODEL, **more}))
        return banks[-1]

    yield open_it
    for bank in banks:
        bank.close()


def odd(collection: LocalCollection) -> LocalCollection:
    """Documents with every type of metadata, odd ids, an empty text, and one of many passages."""
    collection.add([{"id": name, "text": f"A text of {name}.", "metadata": each} for name, each in ODD.items()])
    collection.add([{"id": "empty", "text": " "}])
    collection.add([{"id": "long", "text": " ".join(f"word{n} ends here." for n in range(900)), "metadata": {"n": 1}}])
    return collection


def state(collection: LocalCollection) -> dict[str, Any]:
    """All that an export is to keep: text, metadata, passages, and the bytes of every vector."""
    with collection._stored.snapshot(lexical=False) as snapshot:
        return {
            each.document.id: (
                each.document.text,
                json.dumps(each.document.metadata, sort_keys=True),
                each.chunks,
                each.digest,
                snapshot.records(np.asarray(each.slots, np.int64)).tobytes(),
            )
            for each in snapshot.contents_behind(None)
        }


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet"])
def ending(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_what_comes_back_is_what_was_there_bit_for_bit(
    opened: OpenBank, tmp_path: Path, ending: str, dtype: str
) -> None:
    here = odd(opened("here", flags={"store.dtype": dtype}).collection("notes"))
    file = tmp_path / f"notes.{ending}"
    report = here.export(file, vectors=True)
    assert (report.documents, report.vectors, report.dtype) == (5, report.passages, dtype)
    assert report.bytes == file.stat().st_size
    there = opened("there", model="a model that is never loaded").collection("copy")  # fp16 is what it would make
    done = there.import_file(file)
    assert (done.added, done.vectors, done.embedded, done.exact) == (5, report.passages, 0, True)
    assert state(there) == state(here)
    info, original = there.stats(), here.stats()
    assert info is not None
    assert original is not None
    assert (info.fingerprint, info.dtype, info.chunks) == (original.fingerprint, dtype, original.chunks)
    again = there.import_file(file)
    assert (again.unchanged, again.vectors, again.commits) == (5, 0, 0)
    assert [hit.id for hit in there.search(vector=MODEL.embed(["A text of plain."])[0], k=1)] == ["plain"]


def test_what_was_imported_is_not_embedded_again_by_an_index_run(opened: OpenBank, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("Rivers carry silt.")
    from embank.source.files import TextFiles

    here = opened("here").collection()
    here.index(TextFiles(folder))
    here.export(tmp_path / "a.jsonl", vectors=True)
    there = opened("there").collection()
    there.import_file(tmp_path / "a.jsonl")
    report = there.index(TextFiles(folder))
    assert (report.embedded, report.relabeled) == (0, 1)


def test_another_dtype_takes_the_values(opened: OpenBank, tmp_path: Path) -> None:
    here = odd(opened("here").collection())
    here.export(tmp_path / "a.jsonl", vectors=True)
    there = opened("there", flags={"store.dtype": "int8"}).collection()
    there.add(["something else"])
    done = there.import_file(tmp_path / "a.jsonl")
    assert not done.exact
    assert there.count() == 6
    assert there.search("text of plain", k=1)[0].id == "plain"


def test_without_vectors_texts_are_embedded(opened: OpenBank, tmp_path: Path, ending: str) -> None:
    here = odd(opened("here").collection())
    file = tmp_path / f"notes.{ending}"
    assert here.export(file).vectors == 0
    there = opened("there", model=HashModel(dimension=32, name="other")).collection()
    planned = there.import_file(file, dry_run=True)
    assert (planned.added, planned.embedded, there.stats()) == (5, 5, None)
    done = there.import_file(file)
    assert (done.added, done.embedded, done.vectors) == (5, 5, 0)
    info = there.stats()
    assert info is not None
    assert info.dimension == 32
    assert {each.id: each.metadata for each in there.list()} == {each.id: each.metadata for each in here.list()}


def test_vectors_of_another_model_are_refused_or_embedded(opened: OpenBank, tmp_path: Path) -> None:
    odd(opened("here").collection()).export(tmp_path / "a.jsonl", vectors=True)
    there = opened("there", model=HashModel(dimension=32, name="other")).collection()
    there.add([{"id": "own", "text": "my own"}, {"id": "plain", "text": "older"}])
    before = state(there)
    with pytest.raises(FingerprintMismatch, match="--embed"):
        there.import_file(tmp_path / "a.jsonl")
    assert state(there) == before
    done = there.import_file(tmp_path / "a.jsonl", embed=True)
    assert (done.added, done.updated, done.embedded, done.vectors) == (4, 1, 5, 0)
    assert there.count() == 6


def test_reduced_vectors_need_their_matrix(opened: OpenBank, tmp_path: Path) -> None:
    here = opened("here").collection("notes")
    here.add([{"id": f"d{n}", "text": f"text number {n} about {n % 7}"} for n in range(200)])
    here.reducer().fit(16, sample=200)
    here.reducer().apply()
    here.export(tmp_path / "a.jsonl", vectors=True)
    with pytest.raises(FingerprintMismatch, match="reduced"):
        opened("there").collection().import_file(tmp_path / "a.jsonl")
    assert here.import_file(tmp_path / "a.jsonl").unchanged == 200


def test_where_picks_documents(opened: OpenBank, tmp_path: Path) -> None:
    here = odd(opened("here").collection())
    assert here.export(tmp_path / "a.jsonl", where={"year": {"$gte": 2020}}).documents == 1
    head, row, end = lines(tmp_path / "a.jsonl")
    assert (head["embank_export"], row["id"], end) == (1, "plain", {"embank_end": {"documents": 1, "passages": 1}})
    assert row["metadata"] == ODD["plain"]


def test_metadata_alone_is_written_without_vectors(opened: OpenBank, tmp_path: Path) -> None:
    here = odd(opened("here").collection())
    here.export(tmp_path / "a.jsonl", vectors=True)
    there = opened("there").collection()
    there.import_file(tmp_path / "a.jsonl")
    there.add([{"id": "plain", "text": "A text of plain.", "metadata": {"year": 1}}])
    done = there.import_file(tmp_path / "a.jsonl")
    assert (done.relabeled, done.unchanged, done.vectors) == (1, 4, 0)
    assert state(there) == state(here)


# --- files that can't be taken ---


def test_of_a_file_with_one_bad_row_nothing_is_imported(opened: OpenBank, tmp_path: Path) -> None:
    odd(opened("here").collection()).export(tmp_path / "a.jsonl", vectors=True)
    content = (tmp_path / "a.jsonl").read_text().replace('"id":"plain"', '"id":7')
    (tmp_path / "a.jsonl").write_text(content)
    there = opened("there").collection()
    with pytest.raises(SourceError, match="line 6, id: is a number, not a string") as caught:
        there.import_file(tmp_path / "a.jsonl")
    assert caught.value.fields["count"] == 1
    assert there.stats() is None


def test_many_bad_rows_are_counted_and_some_are_named(opened: OpenBank, tmp_path: Path) -> None:
    here = opened("here").collection()
    here.add([{"id": f"d{n:03}", "text": "x"} for n in range(300)])
    here.export(tmp_path / "a.jsonl")
    content = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(content.replace('"text":"x"', '"text":7'))
    with pytest.raises(SourceError, match=r"300 rows .* line 2, text.* …") as caught:
        opened("there").collection().import_file(tmp_path / "a.jsonl")
    assert (caught.value.fields["count"], len(caught.value.fields["rows"])) == (300, 10)


@pytest.mark.parametrize("left", [0.3, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused(opened: OpenBank, tmp_path: Path, ending: str, left: float) -> None:
    here = odd(opened("here").collection())
    file = tmp_path / f"notes.{ending}"
    here.export(file, vectors=True)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * left)])
    there = opened("there").collection()
    with pytest.raises(SourceError):
        there.import_file(file)
    assert there.stats() is None


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b", b"PAR1", b'{"id": "a", "text": "b"}\n', b"\0" * 100, gzip.compress(b"{}\n", mtime=0)]
)
def test_what_is_no_export_is_refused(opened: OpenBank, tmp_path: Path, content: bytes) -> None:
    if content == b"PAR1":
        pytest.importorskip("pyarrow")
    (tmp_path / "a").write_bytes(content)
    there = opened("there").collection()
    with pytest.raises(SourceError):
        there.import_file(tmp_path / "a")
    with pytest.raises(SourceError, match="can't be read"):
        there.import_file(tmp_path / "missing")


def test_a_protected_collection_takes_new_documents_only(opened: OpenBank, tmp_path: Path) -> None:
    odd(opened("here").collection()).export(tmp_path / "a.jsonl", vectors=True)
    there = opened("there").collection()
    there.add([{"id": "plain", "text": "older"}])
    there.protect()
    for embed in (False, True):
        with pytest.raises(ProtectedCollectionError):
            there.import_file(tmp_path / "a.jsonl", embed=embed)
        assert there.count() == 1
    there.protect(protected=False)
    there.delete("plain")
    there.protect()
    assert there.import_file(tmp_path / "a.jsonl").added == 5


# --- the file that is made ---


def test_a_place_that_is_taken_is_refused(opened: OpenBank, tmp_path: Path) -> None:
    bank = opened("here")
    here = odd(bank.collection())
    file = tmp_path / "a.jsonl"
    here.export(file)
    with pytest.raises(InvalidInput, match="exists"):
        here.export(file)
    here.export(file, overwrite=True)
    with pytest.raises(InvalidInput, match="lies in the bank"):
        here.export(bank.path / "a.jsonl")
    with pytest.raises(InvalidInput, match="no folder"):
        here.export(tmp_path / "missing" / "a.jsonl")
    with pytest.raises(InvalidInput, match="exists"):
        here.export("/dev/null", kind="jsonl", overwrite=True)
    with pytest.raises(CollectionNotFound):
        bank.collection("nothing").export(tmp_path / "b.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "here"]


@pytest.mark.parametrize("name", ["a.txt", "a", "a.parquet.gz", "a.csv"])
def test_a_name_that_says_no_format_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="say which format"):
        guessed_format(name)


def test_a_full_disk_leaves_nothing(opened: OpenBank, tmp_path: Path, ending: str) -> None:
    here = odd(opened("here").collection())
    files = FaultyFiles()
    here._engine.files = files
    files.room_bytes = 1000
    with pytest.raises(StorageFull, match="no file was kept"):
        here.export(tmp_path / f"a.{ending}", vectors=True)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_what_a_killed_export_has_left_goes_with_the_next(opened: OpenBank, tmp_path: Path) -> None:
    here = odd(opened("here").collection())
    gone = tmp_path / ".a.jsonl.999999999.tmp"
    running = tmp_path / f".a.jsonl.{os.getppid()}.tmp"
    gone.write_bytes(b"rest")
    running.write_bytes(b"under way")
    here.export(tmp_path / "a.jsonl")
    assert not gone.exists()
    assert running.exists()


def test_it_is_on_record_and_told(opened: OpenBank, tmp_path: Path) -> None:
    here, there = opened("here"), opened("there")
    told: list[Any] = []
    for bank in (here, there):
        bank.events.subscribe(told.append, kinds=(CollectionExported, CollectionImported))
    fractions: list[float] = []
    odd(here.collection()).export(
        tmp_path / "a.jsonl", vectors=True, on_progress=lambda fraction, words: fractions.append(fraction)
    )
    assert fractions[-1] == 1.0
    there.collection().import_file(tmp_path / "a.jsonl")
    (row,) = there.audit()
    assert (row.act, row.detail["documents"], row.detail["done"]) == ("import", 5, True)
    here.close()
    there.close()
    exported, imported = told
    assert (exported.documents, imported.documents, imported.embedded) == (5, 5, 0)
