"""Scores explained: where each comes from, by whose word, and how long it took."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embank
from embank.bank import Bank
from embank.records import Hit
from embank.store.index import rescored
from embank.testing.fakes import HashModel


def told(hit: Hit) -> dict[str, Any]:
    assert hit.explained is not None
    return dict(hit.explained)


def test_ranks_are_those_of_the_sides_alone(bank: Bank) -> None:
    notes = bank.collection("notes")
    dense = [hit.id for hit in notes.search("silt of mountains", mode="dense")]
    lexical = [hit.id for hit in notes.search("silt of mountains", mode="lexical")]
    hits = notes.search("silt of mountains", explain=True)
    for place, hit in enumerate(hits, 1):
        explained = told(hit)
        assert explained["fused"] == {"score": hit.score, "rank": place}
        assert explained["dense"] == {"score": hit.scores["dense"], "rank": dense.index(hit.id) + 1}
        rank = lexical.index(hit.id) + 1 if hit.id in lexical else None
        assert explained["lexical"] == {"score": hit.scores["lexical"], "rank": rank}


def test_what_was_done_is_told_in_plain_values(bank: Bank) -> None:
    notes = bank.collection("notes")
    search = told(notes.search("rivers", where={"year": {"$gte": 2020}}, explain=True)[0])["search"]
    assert search["mode"] == "hybrid"
    assert search["index"] == {"index": "exact", "rows": 3, "tail_rows": 0}
    assert search["filter"] == {"share": pytest.approx(2 / 3), "dense": "before", "lexical": "after"}
    assert search["candidates"] == {"dense": 2, "lexical": 1, "together": 2, "depth": 100}
    assert (search["degraded"], search["cached"]) == (False, False)
    assert set(search["ms"]) == {"embed", "dense", "lexical", "fuse", "fetch"}
    assert all(took >= 0 for took in search["ms"].values())
    json.dumps(asdict(notes.search("rivers", explain=True)[0]), allow_nan=False)


def test_an_answer_that_was_kept_says_so(bank: Bank) -> None:
    notes = bank.collection("notes")
    first = notes.search("rivers", explain=True, highlight=True)
    second = notes.search("rivers", explain=True, highlight=True)
    assert [told(hit)["search"]["cached"] for hit in (first[0], second[0])] == [False, True]
    assert {**told(second[0]), "search": None} == {**told(first[0]), "search": None}
    assert notes.search("rivers")[0].explained is None


def test_the_page_says_it_where_nothing_is_found(bank: Bank) -> None:
    page = bank.collection("notes").search_page("zymurgy", mode="lexical", explain=True)
    assert page.hits == []
    assert page.explained is not None
    assert page.explained["candidates"]["lexical"] == 0


def test_an_index_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    flags = {"index.kind": "flat", "index.exact_below_rows": 100, "index.tail_rows": 100}
    with embank.open(tmp_path / "bank", model=HashModel(), flags=flags) as bank:
        notes = bank.collection("notes")
        rows = np.random.default_rng(1).normal(size=(600, 16)).astype(np.float32)
        notes.add([{"id": f"{n}", "text": f"{n}"} for n in range(500)], vectors=rows[:500])
        notes.vector_index.refresh()
        notes.add([{"id": f"{n}", "text": f"{n}"} for n in range(500, 510)], vectors=rows[500:510])
        search = told(notes.search(vector=rows[7], explain=True)[0])["search"]
        assert search["index"]["index"] != "exact"
        assert (search["index"]["rows"], search["index"]["tail_rows"]) == (510, 10)


def test_where_a_filter_took_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(rescored, "NARROW_ROWS", 50)
    flags = {"index.kind": "flat", "index.exact_below_rows": 100, "index.tail_rows": 100}
    with embank.open(tmp_path / "bank", model=HashModel(), flags=flags) as bank:
        notes = bank.collection("notes")
        rows = np.random.default_rng(1).normal(size=(600, 16)).astype(np.float32)
        notes.add([{"id": f"{n}", "text": f"silt {n}", "metadata": {"n": n}} for n in range(600)], vectors=rows)
        notes.vector_index.refresh()

        def filtered(where: dict[str, Any] | None) -> Any:
            return told(notes.search("silt", vector=rows[7], where=where, explain=True)[0])["search"]["filter"]

        assert filtered(None) is None
        assert filtered({"n": {"$lt": 40}}) == {"share": 40 / 600, "dense": "before", "lexical": "within"}
        assert filtered({"n": {"$lt": 300}}) == {"share": 0.5, "dense": "within", "lexical": "after"}
