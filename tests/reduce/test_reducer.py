"""A collection reduced: fitted, applied in its place or beside it, searched and added to afterwards."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.reduce.conftest import MODEL, texts, wide

from embank.bank import Bank, LocalCollection, open_bank
from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files
from embank.embed.reduce import split_fingerprint
from embank.errors import (
    BankDamaged,
    BudgetExceeded,
    CollectionNotFound,
    FingerprintMismatch,
    InvalidInput,
    ProtectedCollectionError,
)
from embank.events.kinds import CollectionReduced, Event, PcaFitted
from embank.store.protocol import CollectionInfo
from embank.testing.fakes import HashModel


def info_of(collection: LocalCollection) -> CollectionInfo:
    info = collection.stats()
    assert info is not None
    return info


def vector_file_bytes(bank: Bank) -> int:
    return sum(path.stat().st_size for path in (bank.path / "vectors").rglob("*.vec"))


def found(collection: LocalCollection, query: str, k: int = 10) -> list[str]:
    return [hit.id for hit in collection.search(query, k=k, mode="dense")]


# -- fitting ---------------------------------------------------------------------------------------------------------


def test_a_fit_is_measured_and_kept_and_changes_nothing(bank: Bank, notes: LocalCollection) -> None:
    heard: list[Event] = []
    with bank.events.subscribe(heard.append):
        before = info_of(notes)
        report = notes.reducer().fit(32)
        bank.events.flush(10)
    assert info_of(notes) == before
    assert (report.width, report.dimension, report.rows, report.passages) == (64, 32, 600, 600)
    assert 0 < report.explained < 1
    assert report.saved == pytest.approx(0.5)
    assert report.bytes_before == 600 * 64 * 2
    assert report.judged is not None
    assert report.judged.recall_low <= report.judged.recall <= report.judged.recall_high
    assert report.judged.recall > 0.6
    assert "first sentences" in report.asked
    assert report.warning == ""
    fitted = [event for event in heard if isinstance(event, PcaFitted)]
    assert [(event.version, event.dimension) for event in fitted] == [(report.version, 32)]


def test_the_same_fit_has_the_same_version(notes: LocalCollection) -> None:
    first, second = notes.reducer().fit(16), notes.reducer().fit(16)
    assert first == second
    assert notes.reducer().fit(16, sample=300, seed=1).version != first.version


def test_too_few_vectors_are_refused_with_the_figures(bank: Bank) -> None:
    few = bank.collection("few")
    few.add([{"id": name, "text": text} for name, text in texts(20).items()])
    with pytest.raises(InvalidInput, match=r"at least 32 vectors .better 160., there are 20"):
        few.reducer().fit(32)
    with pytest.raises(InvalidInput, match="there are 20"):
        few.reducer().apply()
    report = few.reducer().fit(12)
    assert report.judged is None
    assert "fewer than 5 for each of 12" in report.warning
    assert info_of(few).dimension == 64


def test_what_has_no_vectors_is_refused(bank: Bank) -> None:
    with pytest.raises(CollectionNotFound, match="'nothing'"):
        bank.collection("nothing").reducer().fit(8)
    bank.collection("blank").add(["  "])
    with pytest.raises(InvalidInput, match="has no vectors yet"):
        bank.collection("blank").reducer().fit(8)


def test_a_fit_that_does_not_fit_the_budget_is_refused(tmp_path: Path) -> None:
    with open_bank(tmp_path / "bank", memory="40MB") as bank:
        own = bank.collection("own")
        own.add([f"text {number}" for number in range(100)], vectors=wide(100, 2048))
        with pytest.raises(BudgetExceeded, match="fitting a PCA"):
            own.reducer().fit(16)


# -- applying --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", [None, "narrow"])
def test_a_reduced_collection_is_searched_and_added_to_as_before(
    bank: Bank, notes: LocalCollection, into: str | None
) -> None:
    before, query = info_of(notes), texts(600)["d00007"]
    wide_answer = found(notes, query)
    fitted = notes.reducer().fit(48)
    heard: list[Event] = []
    with bank.events.subscribe(heard.append):
        report = notes.reducer().apply(into=into)
        bank.events.flush(10)
    narrow = bank.collection(into or "notes")
    after = info_of(narrow)
    assert after.fingerprint == f"{MODEL.fingerprint}+pca:48:{fitted.version}" == report.fingerprint
    assert (after.dimension, after.documents, after.chunks, after.dtype) == (48, 600, 600, "fp16")
    assert any(isinstance(event, CollectionReduced) and event.into == narrow.name for event in heard)
    answer = found(narrow, query)
    assert answer[0] == wide_answer[0] == "d00007"
    assert len(set(answer) & set(wide_answer)) >= 7
    assert narrow.search("own7", k=1, mode="lexical")[0].id == "d00007"
    assert narrow.get("d00007")[0].metadata == {"number": "d00007"}
    report_again = narrow.add([{"id": name, "text": text} for name, text in list(texts(600).items())[:50]])
    assert (report_again.embedded, report_again.relabeled) == (0, 50)
    narrow.add([{"id": "new", "text": "entirely new words here"}])
    assert found(narrow, "entirely new words here", 1) == ["new"]
    if into is not None:
        assert info_of(notes) == before
        assert found(notes, query) == wide_answer


def test_it_is_searched_after_opening_again(tmp_path: Path, bank: Bank, notes: LocalCollection) -> None:
    notes.reducer().fit(32)
    notes.reducer().apply()
    answer = found(notes, texts(600)["d00100"])
    bank.close()
    with open_bank(tmp_path / "bank", model=MODEL, read_only=True) as again:
        assert found(again.collection("notes"), texts(600)["d00100"]) == answer
    with (
        open_bank(tmp_path / "bank", model=HashModel(name="other"), read_only=True) as other,
        pytest.raises(FingerprintMismatch, match="holds vectors of hash:"),
    ):
        other.collection("notes").search("anything", mode="dense")


def test_a_reduced_collection_can_be_reduced_again(notes: LocalCollection) -> None:
    versions = []
    for dimension in (48, 24):
        versions.append(notes.reducer().fit(dimension).version)
        notes.reducer().apply()
    info = info_of(notes)
    assert split_fingerprint(info.fingerprint or "") == (MODEL.fingerprint, tuple(versions))
    assert info.dimension == 24
    assert found(notes, texts(600)["d00300"], 1) == ["d00300"]


def test_vectors_of_ones_own_take_half_the_bytes(bank: Bank) -> None:
    own, vectors = bank.collection("own"), wide(2_000, 1536)
    documents = [{"id": f"{number:04}", "text": f"text {number}"} for number in range(2_000)]
    own.add(documents, vectors=vectors)
    before, exact = vector_file_bytes(bank), np.argsort(-(vectors @ vectors[5]))[:10]
    report = own.reducer().fit(768)
    assert "(there is no model" in report.asked
    applied = own.reducer().apply()
    assert applied.saved == pytest.approx(0.5)
    assert 1 - vector_file_bytes(bank) / before >= 0.4
    info = info_of(own)
    assert info.fingerprint == f"user:own:1536+pca:768:{report.version}"
    # A vector as wide as they were before is reduced, one as they are now is taken as it is.
    hits = [int(hit.id) for hit in own.search(vector=vectors[5], k=10)]
    assert len(set(hits) & set(exact.tolist())) >= 8
    pca = bank._engine.fitted.pca("own", report.version)
    assert [int(hit.id) for hit in own.search(vector=pca.apply(vectors[5:6])[0], k=10)] == hits
    with pytest.raises(InvalidInput, match="has 1000 components, 'own' has 768"):
        own.search(vector=np.ones(1000))
    assert own.add(documents[:10], vectors=vectors[:10]).unchanged == 10
    own.add([{"id": "new", "text": "new"}], vectors=wide(1, 1536, seed=9))
    assert own.search(vector=wide(1, 1536, seed=9)[0], k=1)[0].id == "new"
    with pytest.raises(FingerprintMismatch):
        own.add(["other"], vectors=wide(1, 1000))


def test_what_was_interrupted_goes_on(notes: LocalCollection) -> None:
    notes.reducer().fit(32)

    class Stop(Exception):
        pass

    def stop(fraction: float, step: str) -> None:
        raise Stop(step, fraction)

    before, query = info_of(notes), texts(600)["d00001"]
    with pytest.raises(Stop):
        notes.reducer().apply(on_progress=stop)
    assert info_of(notes).fingerprint == before.fingerprint
    assert found(notes, query, 1) == ["d00001"]
    notes.add([{"id": "meanwhile", "text": "written meanwhile"}])
    notes.delete("d00002")
    with pytest.raises(Stop):
        notes.reducer().apply(into="beside", on_progress=stop)
    seen: list[float] = []
    report = notes.reducer().apply(on_progress=lambda fraction, _: seen.append(fraction))
    assert report.documents == 600
    assert seen == sorted(seen)
    assert found(notes, "written meanwhile", 1) == ["meanwhile"]
    assert "d00002" not in found(notes, texts(600)["d00002"], 600)


def test_a_copy_is_brought_up_to_date(bank: Bank, notes: LocalCollection) -> None:
    notes.reducer().fit(32)
    notes.reducer().apply(into="narrow")
    narrow = bank.collection("narrow")
    sequence = info_of(narrow).sequence
    notes.reducer().apply(into="narrow")
    assert info_of(narrow).sequence == sequence
    notes.add([{"id": "late", "text": "came late to it"}])
    notes.reducer().apply(into="narrow")
    assert info_of(narrow).documents == 601
    assert found(narrow, "came late to it", 1) == ["late"]


def test_an_interrupted_reduction_is_finished_by_reembedding_too(tmp_path: Path) -> None:
    if find_files(WORDLLAMA, directory=tmp_path) is None:
        pytest.skip("the package wordllama is not installed")
    with open_bank(tmp_path / "bank", flags={"embed.model": "wordllama"}) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": name, "text": text} for name, text in texts(600).items()])
        version = notes.reducer().fit(64).version

        def stop(fraction: float, step: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            notes.reducer().apply(on_progress=stop)
    with open_bank(tmp_path / "bank") as again:
        notes = again.collection("notes")
        notes.reembed()
        assert (info_of(notes).fingerprint or "").endswith(f"+pca:64:{version}")
        assert found(notes, texts(600)["d00590"], 1) == ["d00590"]


# -- fewer bytes a component ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", [None, "small"])
def test_bytes_alone_can_be_changed(bank: Bank, notes: LocalCollection, into: str | None) -> None:
    before, answer = vector_file_bytes(bank), found(notes, texts(600)["d00009"])
    report = notes.reducer().apply(into=into, dtype="int8")
    small = bank.collection(into or "notes")
    assert (info_of(small).dtype, info_of(small).fingerprint) == ("int8", MODEL.fingerprint)
    assert report.bytes_after == 600 * (64 + 4)
    assert len(set(found(small, texts(600)["d00009"])) & set(answer)) >= 9
    if into is None:
        assert vector_file_bytes(bank) < 0.6 * before


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_scores_are_those_of_the_vectors_whatever_they_are_stored_as(tmp_path: Path, dtype: str) -> None:
    vectors = wide(800, 96)
    with open_bank(tmp_path / "bank", flags={"store.dtype": dtype}) as bank:
        own = bank.collection("own")
        own.add([{"id": str(number), "text": f"text {number}"} for number in range(800)], vectors=vectors)
        own.delete(["3", "4"])
        assert info_of(own).dtype == dtype
        for query in wide(5, 96, seed=7):
            exact = vectors @ query
            exact[[3, 4]] = -1
            hits = own.search(vector=query, k=10)
            np.testing.assert_allclose(
                [hit.score for hit in hits],
                [exact[int(hit.id)] for hit in hits],
                atol=1e-2 if dtype == "int8" else 1e-3,
            )
            assert len({int(hit.id) for hit in hits} & set(np.argsort(-exact)[:10].tolist())) >= 9
    with open_bank(tmp_path / "bank") as again:  # what it was made with stands, whatever the settings say now
        again.collection("own").add(["more"], vectors=wide(1, 96, seed=8))
        assert info_of(again.collection("own")).dtype == dtype


# -- refusals --------------------------------------------------------------------------------------------------------


def test_nothing_to_apply_is_refused(bank: Bank, notes: LocalCollection) -> None:
    with pytest.raises(InvalidInput, match="has no fitted PCA for its 64-dimensional vectors"):
        notes.reducer().apply()
    with pytest.raises(InvalidInput, match="has no fitted PCA"):
        notes.reducer().apply(dtype="fp16")
    with pytest.raises(InvalidInput, match="fp16 or int8, not 'fp4'"):
        notes.reducer().apply(dtype="fp4")
    notes.reducer().fit(16)
    with pytest.raises(InvalidInput, match="copied into itself"):
        notes.reducer().apply(into="notes")
    bank.collection("other").add(["words of another model"])
    with pytest.raises(FingerprintMismatch, match="'other' holds vectors of"):
        notes.reducer().apply(into="other")
    notes.reducer().apply()
    with pytest.raises(InvalidInput, match="has no fitted PCA for its 16-dimensional"):
        notes.reducer().apply()


def test_a_fit_on_other_vectors_is_not_applied(notes: LocalCollection) -> None:
    notes.reducer().fit(16)
    notes.reembed(HashModel(name="newer"))
    with pytest.raises(InvalidInput, match="has no fitted PCA"):
        notes.reducer().apply()


def test_a_protected_collection_keeps_its_vectors(bank: Bank, notes: LocalCollection) -> None:
    notes.reducer().fit(16)
    notes.protect()
    with pytest.raises(ProtectedCollectionError):
        notes.reducer().apply()
    notes.reducer().apply(into="beside")
    assert info_of(bank.collection("beside")).documents == 600


@pytest.mark.parametrize("damage", ["matrix = substr(matrix, 1, 100)", "matrix = zeroblob(length(matrix))"])
def test_a_damaged_matrix_is_refused_by_name(tmp_path: Path, bank: Bank, notes: LocalCollection, damage: str) -> None:
    version = notes.reducer().fit(16).version
    notes.reducer().apply()
    bank.close()
    with closing(sqlite3.connect(tmp_path / "bank" / "bank.db")) as connection, connection:
        connection.execute(f"UPDATE reductions SET {damage}")
    with open_bank(tmp_path / "bank", model=MODEL) as again:
        reduced = again.collection("notes")
        for act in (lambda: reduced.search("words", mode="dense"), lambda: reduced.add(["more words"])):
            with pytest.raises(BankDamaged, match=f"reduction {version} of collection 'notes' was altered"):
                act()
        assert reduced.search("own7", k=1, mode="lexical")[0].id == "d00007"


def test_a_missing_matrix_is_refused_by_name(tmp_path: Path, bank: Bank, notes: LocalCollection) -> None:
    version = notes.reducer().fit(16).version
    notes.reducer().apply()
    bank.close()
    with closing(sqlite3.connect(tmp_path / "bank" / "bank.db")) as connection, connection:
        connection.execute("DELETE FROM reductions")
    with (
        open_bank(tmp_path / "bank", model=MODEL) as again,
        pytest.raises(BankDamaged, match=f"reduction {version} of collection 'notes' is not there"),
    ):
        again.collection("notes").search("words", mode="dense")


def test_held_matrices_are_accounted_for_and_given_back(bank: Bank, notes: LocalCollection) -> None:
    notes.reducer().fit(16)
    notes.reducer().apply()
    notes.search("words", mode="dense")
    fitted = bank._engine.fitted
    assert fitted.used_bytes() == 16 * 64 * 4
    assert "fitted reductions" in str(bank.memory())
    assert fitted.release(1) == 16 * 64 * 4
    assert fitted.used_bytes() == 0
    assert notes.search("words", mode="dense")
