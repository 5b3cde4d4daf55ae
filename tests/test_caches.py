"""The caches of a bank: wired by settings, each off alone, right through re-embedding, reducing and restarts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embank
from embank.bank import Bank
from embank.cache.budget import OBJECTS_BYTES
from embank.cache.stats import CacheStats, SecondStats
from embank.caches import DISK_FILE
from embank.embed.model import Kind
from embank.errors import ConfigError
from embank.testing.fakes import HashModel

TEXTS = [f"note {number} about subject {number % 7}" for number in range(40)]
DISK = {"cache.disk": True, "cache.disk_limit": "8MB"}
NO_RESULTS = {"cache.results": False}


class Counted(HashModel):
    """Counts the texts that it computes."""

    def __init__(self, name: str = "hash", dimension: int = 64) -> None:
        super().__init__(name=name, dimension=dimension)
        self.computed = 0

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Any:
        self.computed += len(texts)
        return super().embed(texts, kind)


def embeddings(bank: Bank) -> CacheStats:
    found = bank.cache().embeddings
    assert found is not None
    return found


def disk(bank: Bank) -> SecondStats:
    found = embeddings(bank).second
    assert found is not None
    return found


def opened(path: Path, model: Counted, *flags: Mapping[str, object], read_only: bool = False) -> Bank:
    merged = {key: value for each in flags for key, value in each.items()}
    return embank.open(path, model=model, flags=merged, read_only=read_only)


def test_what_was_embedded_once_is_not_embedded_again(tmp_path: Path) -> None:
    model = Counted()
    with opened(tmp_path / "bank", model, NO_RESULTS) as bank:
        bank.collection("one").add(TEXTS)
        bank.collection("two").add(TEXTS)  # the same texts, elsewhere
        assert model.computed == len(TEXTS)
        hits = [bank.collection("one").search("about subject 3") for _ in range(3)]
        assert hits[0] == hits[1] == hits[2]
        assert model.computed == len(TEXTS) + 1
        assert embeddings(bank).hits == len(TEXTS) + 2
        assert bank.cache().as_dict()["embeddings"]["hits"] == len(TEXTS) + 2


def test_the_caches_are_among_the_governors_consumers_and_give_way(tmp_path: Path) -> None:
    with opened(tmp_path / "bank", Counted()) as bank:
        bank.collection().add(TEXTS)
        bank.collection().search("subject")
        held = dict(bank.memory().consumers)
        assert held["embedding cache"] > 0
        assert held["search results"] > 0
        assert bank.release() >= 0
        held = dict(bank.memory().consumers)
        assert held["search results"] == 0
        assert held["embedding cache"] <= OBJECTS_BYTES
        assert embeddings(bank).entries == 0
        assert len(bank.collection().search("subject")) == 10


def test_clearing_by_hand_changes_no_answer(tmp_path: Path) -> None:
    model = Counted()
    with opened(tmp_path / "bank", model) as bank:
        bank.collection().add(TEXTS)
        before = bank.collection().search("subject 3")
        assert bank.clear_cache() > 0
        assert embeddings(bank).entries == 0
        assert bank.collection().search("subject 3") == before
        assert model.computed == len(TEXTS) + 2


@pytest.mark.parametrize("off", ["cache.enabled", "cache.results", "cache.disk"])
def test_each_can_be_turned_off_alone(tmp_path: Path, off: str) -> None:
    model = Counted()
    with opened(tmp_path / "bank", model, DISK, {off: False}) as bank:
        notes = bank.collection()
        notes.add(TEXTS)
        first = notes.search("subject 3", k=40)
        assert notes.search("subject 3", k=40) == first
        assert len(first) == len(TEXTS)
        state = bank.cache()
        assert (state.embeddings is None) == (off == "cache.enabled")
        assert (state.results is None) == (off == "cache.results")
        if state.embeddings is not None:
            assert (state.embeddings.second is None) == (off == "cache.disk")
    assert (tmp_path / "bank" / DISK_FILE).exists() == (off == "cache.results")


def test_reembedding_computes_anew_and_searches_with_the_new_model(tmp_path: Path) -> None:
    model, other = Counted(), Counted("other", 128)
    with opened(tmp_path / "bank", model, NO_RESULTS) as bank:
        notes = bank.collection()
        notes.add(TEXTS)
        notes.search("subject 3")
        notes.reembed(other)
        assert other.computed >= len(TEXTS)
        assert notes.search(TEXTS[5], mode="dense", k=1)[0].score == pytest.approx(1, abs=1e-3)
        computed = other.computed
        notes.search(TEXTS[5], mode="dense", k=1)
        assert other.computed == computed
        # By force means: computed again, whatever is kept.
        notes.reembed(other, force=True)
        assert other.computed >= computed + len(TEXTS)


def test_reduced_vectors_are_searched_with_reduced_queries(tmp_path: Path) -> None:
    model = Counted()
    with opened(tmp_path / "bank", model, NO_RESULTS) as bank:
        notes = bank.collection()
        notes.add([f"word{number} word{number * 7 % 400} word{number * 3 % 100}" for number in range(400)])
        before = notes.search("word7 word49", mode="dense", k=1)
        notes.reducer().fit(48)
        notes.reducer().apply()
        info = notes.stats()
        assert info is not None
        assert info.dimension == 48
        computed = model.computed
        assert notes.search("word7 word49", mode="dense", k=1)[0].id == before[0].id
        assert model.computed == computed, "the query's whole vector was kept, and is reduced after it is found"


def test_on_disk_they_survive_a_restart_bit_for_bit(tmp_path: Path) -> None:
    model = Counted()
    with opened(tmp_path / "bank", model, DISK, NO_RESULTS) as bank:
        bank.collection("one").add(TEXTS)
        assert disk(bank).entries == len(TEXTS)
        vectors = bank.collection("one").search(TEXTS[3], k=40, mode="dense")
    again = Counted()
    with opened(tmp_path / "bank", again, DISK, NO_RESULTS) as bank:
        bank.collection("two").add(TEXTS)
        assert again.computed == 0
        assert embeddings(bank).second_hits == len(TEXTS)
        assert bank.collection("two").search(TEXTS[3], k=40, mode="dense") == vectors
    with opened(tmp_path / "bank", again, DISK, NO_RESULTS) as bank:
        bank.warm()
        assert embeddings(bank).entries >= len(TEXTS)
        bank.collection("three").add(TEXTS)
        assert (again.computed, embeddings(bank).second_hits) == (0, 0)
        bank.clear_cache()
        assert disk(bank).entries == 0
        bank.collection("four").add(TEXTS[:10])
        assert again.computed == 10


def test_a_reader_beside_the_writer_finds_what_that_wrote_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    with opened(path, Counted(), DISK, NO_RESULTS) as writer:
        writer.collection().add(TEXTS)
        model = Counted()
        with opened(path, model, DISK, NO_RESULTS, read_only=True) as reader:
            assert disk(reader).name == "disk (read only)"
            assert reader._engine.models.default().embed(TEXTS).shape == (40, 64)
            assert model.computed == 0
            reader.clear_cache()
        assert disk(writer).entries == len(TEXTS)


def test_clearing_removes_what_a_cache_on_disk_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    with opened(path, Counted(), DISK) as bank:
        bank.collection().add(TEXTS)
    with opened(path, Counted()) as bank:
        bank.clear_cache()
        assert not (path / DISK_FILE).exists()
        bank.clear_cache()


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    with opened(path, Counted()) as writer:
        writer.collection().add(TEXTS)
    with opened(path, Counted(), DISK, read_only=True) as reader:
        assert embeddings(reader).second is None
        assert len(reader.collection().search("subject")) == 10
    assert not (path / DISK_FILE).exists()


def test_a_disk_that_can_not_be_had_is_said_and_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bank"
    opened(path, Counted()).close()
    (path / DISK_FILE.parent).write_text("in the way")
    with caplog.at_level(logging.WARNING), opened(path, Counted(), DISK) as bank:
        bank.collection().add(TEXTS)
        assert embeddings(bank).second is None
    assert "not kept on disk" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1_000, bytes(100_000)])
def test_a_damaged_file_costs_nothing_but_the_hits(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "bank"
    with opened(path, Counted(), DISK) as bank:
        bank.collection().add(TEXTS)
    (path / DISK_FILE).write_bytes(damage)
    model = Counted()
    with opened(path, model, DISK, NO_RESULTS) as bank:
        bank.collection("two").add(TEXTS)
        assert model.computed == len(TEXTS)
        assert disk(bank).entries == len(TEXTS)


@pytest.mark.parametrize("limit", ["50%", "1kB"])
def test_a_limit_on_disk_that_can_not_be_is_refused_with_the_settings(tmp_path: Path, limit: str) -> None:
    with pytest.raises(ConfigError, match=r"cache\.disk_limit"):
        opened(tmp_path / "bank", Counted(), {"cache.disk_limit": limit})
    assert not (tmp_path / "bank").exists()


def test_vectors_of_ones_own_are_not_touched(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(5, 8))
    with opened(tmp_path / "bank", Counted()) as bank:
        bank.collection("own").add(TEXTS[:5], vectors=rows)
        found = bank.collection("own").search(vector=rows[2], k=1)
        assert found[0].text == TEXTS[2]
        assert embeddings(bank).inserted == 0
