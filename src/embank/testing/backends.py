"""The contract of a kind of vector index, as tests over whole banks, for our own kinds and for third parties.

A backend (`embank.store.index.backend`) that is registered under a name, here or by an entry point in the group
`embank.indexes`, is tested by subclassing:

    class TestMine(BackendContract):
        settings: ClassVar = {"kind": "mine"}

It checks values: whatever happens to a collection (adding, replacing, deleting, filters, purging, compaction, opening
again, extension, dropping under pressure, damage), the ids that come back have their exact scores, nothing dead or
filtered away is among them, and recall@10 is at least `recall_floor` of what an exact scan finds. `indexes` has the
suites for an index and for codes alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from embank.events.stream import Stream
from embank.records import Chunk, Document
from embank.store.collection import StoredCollection
from embank.store.index.base import IndexStatus
from embank.store.index.settings import Settings as IndexSettings
from embank.store.local import LocalStore
from embank.store.metric import Metric, scores
from embank.store.protocol import Batch, Space, Upsert
from embank.store.retention import Rule
from embank.store.settings import Settings
from embank.system.files import Files
from embank.testing.indexes import DIMENSION, Float32, clustered, questions

SPACE = Space(f"user:made-up:{DIMENSION}", DIMENSION, None)


def add(
    collection: StoredCollection, vectors: Float32, *, first: int = 0, metric: Metric = "cosine", suffix: str = ""
) -> None:
    """One document a vector, `d0` and so on, replaced where they are there; even numbers are `{"even": true}`."""
    upserts = []
    for number in range(first, first + len(vectors)):
        text = f"d{number}{suffix}"
        document = Document(f"d{number}", text, {"even": number % 2 == 0})
        upserts.append(Upsert(document, text.encode(), [Chunk(text, 0, len(text))]))
    collection.commit(Batch(None, upserts, vectors, metric=metric), SPACE)


def found(collection: StoredCollection, query: Float32, k: int = 10, **how: Any) -> tuple[list[str], Float32]:
    """Ids and scores of the nearest."""
    with collection.snapshot(lexical=False, **how) as snapshot:
        nearest = snapshot.dense(query, k)
        return [passage.id for passage in snapshot.passages(nearest.slots)], nearest.scores


class Opener:
    """Opens the collection `c` of a bank; keyword arguments but those of a store are settings of the index."""

    def __init__(self, root: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self._settings = dict(settings or {"kind": "pq-fastscan"})
        self._opened: list[LocalStore] = []

    def __call__(
        self,
        *,
        read_only: bool = False,
        governor: Any = None,
        files: Files | None = None,
        ask: Any = None,
        stream: Stream | None = None,
        **settings: Any,
    ) -> StoredCollection:
        store = LocalStore(
            self.root,
            read_only=read_only,
            settings=Settings(),
            index=IndexSettings(**{"tail_rows": 500, **self._settings, **settings}),
            stream=stream or Stream(),
            governor=governor,
            files=files,
            ask=ask,
        )
        self._opened.append(store)
        return store.collection("c")

    def close(self) -> None:
        """Close all that was opened."""
        while self._opened:
            self._opened.pop().close()


class BackendContract:
    """Subclass it and set `settings`, those of section `index`, with `kind` among them."""

    settings: ClassVar[Mapping[str, Any]]
    recall_floor: ClassVar[float] = 0.95
    rows: ClassVar[int] = 4_500
    readers: ClassVar[bool] = True
    """Whether a reading process uses what the writing one keeps; where not, it scans."""

    @pytest.fixture(scope="class")
    @classmethod
    def vectors(cls) -> Float32:
        """Those that a bank begins with."""
        return clustered(cls.rows, seed=150)

    @pytest.fixture(scope="class")
    @classmethod
    def filled(cls, vectors: Float32, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A bank with those vectors and no index, to be copied."""
        opener = Opener(tmp_path_factory.mktemp("filled") / "bank", {"kind": "exact"})
        add(opener(), vectors)
        opener.close()
        return opener.root

    @pytest.fixture
    def bank(self, filled: Path, tmp_path: Path) -> Iterator[Opener]:
        """Opens a bank that holds `vectors`; what a test leaves open is closed behind it."""
        shutil.copytree(filled, tmp_path / "bank")
        opener = Opener(tmp_path / "bank", self.settings)
        yield opener
        opener.close()

    def test_scores_are_exact_and_recall_is_above_the_floor(self, bank: Opener, vectors: Float32) -> None:
        collection = bank()
        status = self.built(collection)
        assert status.indexed_rows == self.rows
        assert status.loaded
        assert status.bytes >= 0
        self.agrees(collection, dict(enumerate(vectors)))
        after = self.status(collection)
        assert (after.loaded, after.reason) == (True, None), "it failed, so that everything was scanned"

    def test_what_is_added_is_found_at_once_and_after_the_index_took_it_in(
        self, bank: Opener, vectors: Float32
    ) -> None:
        collection = bank()
        first = self.built(collection)
        more = clustered(600, seed=151)
        held = dict(enumerate(np.concatenate((vectors, more))))
        for start in range(0, 600, 200):
            add(collection, more[start : start + 200], first=self.rows + start)
        assert self.status(collection).indexed_rows == self.rows
        self.agrees(collection, held)
        second = self.built(collection)
        assert second.indexed_rows == self.rows + 600
        assert second.trained_rows == first.trained_rows
        self.agrees(collection, held)
        assert self.status(collection).loaded

    def test_what_is_replaced_is_found_as_it_is_now(self, bank: Opener, vectors: Float32) -> None:
        collection = bank()
        self.built(collection)
        new = clustered(600, seed=152)
        add(collection, new, suffix=" again")
        held = dict(enumerate(np.concatenate((new, vectors[600:]))))
        self.agrees(collection, held)
        self.built(collection)
        self.agrees(collection, held)

    def test_what_is_deleted_or_filtered_away_is_in_no_answer(self, bank: Opener, vectors: Float32) -> None:
        collection = bank()
        self.built(collection)
        nearest, _ = found(collection, vectors[10], 20)
        collection.delete(nearest[:10])
        held = {number: row for number, row in enumerate(vectors) if f"d{number}" not in nearest[:10]}
        self.agrees(collection, held, near=vectors[10])
        even = {number: row for number, row in held.items() if number % 2 == 0}
        self.agrees(collection, even, near=vectors[10], where={"even": True})

    def test_purging_and_compacting_leave_what_is_alive(self, bank: Opener, vectors: Float32) -> None:
        collection = bank()
        self.built(collection)
        collection.purge(Rule(where={"even": False}))
        held = {number: row for number, row in enumerate(vectors) if number % 2 == 0}
        self.agrees(collection, held)
        more = clustered(self.rows, seed=153)
        add(collection, more, first=self.rows)
        held |= dict(enumerate(more, self.rows))
        collection.compact()
        self.agrees(collection, held)
        assert self.built(collection).indexed_rows == len(held)
        self.agrees(collection, held)

    def test_it_is_there_when_the_bank_is_opened_again(self, bank: Opener, vectors: Float32) -> None:
        self.built(bank())
        bank.close()
        for read_only in (True, False):
            again = bank(read_only=read_only)
            self.agrees(again, dict(enumerate(vectors)))
            status = self.status(again)
            assert status.loaded == (self.readers or not read_only)
            assert status.indexed_rows == self.rows
            bank.close()

    def test_it_is_dropped_under_pressure_and_comes_back(self, bank: Opener, vectors: Float32) -> None:
        collection = bank()
        self.built(collection)
        with collection._vector_view() as opened:  # noqa: SLF001 -- what the governor has on its roster
            assert opened is not None
            view = opened[0]
        found(collection, vectors[3])
        held = view.used_bytes()
        assert view.release(1) == held
        assert view.used_bytes() == 0
        self.agrees(collection, dict(enumerate(vectors)))
        view._load_after_s = 0.0  # noqa: SLF001 -- a second later
        found(collection, vectors[3])
        assert self.status(collection).loaded
        self.agrees(collection, dict(enumerate(vectors)))

    def test_a_file_that_is_damaged_or_gone_costs_no_answer(self, bank: Opener, vectors: Float32) -> None:
        self.built(bank())
        bank.close()
        file = next(bank.root.glob("views/*/vectors.index"))
        content = bytearray(file.read_bytes())
        content[-6] ^= 1
        for damage in (lambda: file.write_bytes(content), file.unlink):
            damage()
            again = bank()
            self.agrees(again, dict(enumerate(vectors)))
            assert self.built(again).indexed_rows == self.rows
            self.agrees(again, dict(enumerate(vectors)))
            bank.close()

    def test_it_is_not_asked_where_settings_say_exact(self, bank: Opener, vectors: Float32) -> None:
        self.built(bank())
        bank.close()
        collection = bank(kind="exact")
        assert found(collection, vectors[3], 1)[0] == ["d3"]
        assert self.status(collection).reason == "index.kind is exact"

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    def test_other_metrics_than_cosine_give_their_own_scores(
        self, metric: Metric, vectors: Float32, tmp_path: Path
    ) -> None:
        lengths = np.random.default_rng(155).uniform(0.8, 1.25, (len(vectors), 1)).astype(np.float32)
        held = vectors * lengths
        bank = Opener(tmp_path / "bank", self.settings)
        try:
            collection = bank()
            collection.want(metric)
            add(collection, held, metric=metric)
            assert self.built(collection).metric == metric
            self.agrees(collection, dict(enumerate(held)), metric)
            collection.delete([f"d{number}" for number in range(300)])
            even = {number: row for number, row in enumerate(held) if number >= 300 and number % 2 == 0}
            self.agrees(collection, even, metric, where={"even": True})
            bank.close()
            self.agrees(bank(), dict(list(enumerate(held))[300:]), metric)
        finally:
            bank.close()

    # --- tools ------------------------------------------------------------------------------------------------------

    def built(self, collection: StoredCollection) -> IndexStatus:
        """Bring the index up to date; what is told of it."""
        status = collection.index.refresh()
        assert status is not None
        assert status.method is not None, status.reason
        return status

    def status(self, collection: StoredCollection) -> IndexStatus:
        """What is told of the index."""
        status = collection.index.status()
        assert status is not None
        return status

    def agrees(
        self,
        collection: StoredCollection,
        held: Mapping[int, Float32],
        metric: Metric = "cosine",
        *,
        near: Float32 | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> None:
        """Assert that answers are those of an exact scan over `held`, number to vector, but for what recall allows."""
        numbers = np.array(sorted(held), np.int64)
        rows = np.stack([held[number] for number in numbers.tolist()])
        asked = questions(rows, 30, seed=154)
        hits = 0
        for query in asked if near is None else np.concatenate((near[None], asked)):
            truth = scores(metric, rows.astype(np.float16).astype(np.float32), query)
            ids, given = found(collection, query, where=where)
            answered = np.array([int(each[1:]) for each in ids])
            assert len(set(ids)) == len(ids) == min(10, len(held))
            assert np.isin(answered, numbers).all()
            np.testing.assert_allclose(given, truth[np.searchsorted(numbers, answered)], atol=1e-4)
            assert (np.diff(given) <= 0).all()
            hits += int((given >= np.sort(truth)[-len(given)] - 1e-4).sum())
        assert hits >= self.recall_floor * 10 * (len(asked) + (near is not None))
