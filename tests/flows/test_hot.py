"""The hot tier from end to end: searches as people make them, a tier of what they read, and answers from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.flows.hot_reader import DOCUMENTS, FLAGS
from tests.flows.killing import until_killed

import embank
from embank.bank import Bank
from embank.events.kinds import Event, SearchAnswered
from embank.store.index import faiss
from embank.testing.indexes import Float32, clustered

COUNTERS = 150
SEARCHES = 2_000

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


@pytest.fixture(scope="module")
def vectors() -> Float32:
    return clustered(DOCUMENTS, seed=90)


def _open(root: Path, vectors: Float32, **flags: object) -> Bank:
    bank = embank.open(root, flags={**FLAGS, "cache.results": False, **flags})
    notes = bank.collection("notes")
    if not notes.count():
        notes.add([{"id": f"d{n}", "text": f"number {n}"} for n in range(DOCUMENTS)], vectors=vectors)
    return bank


def test_of_skewed_searches_the_tier_holds_what_is_read_most(tmp_path: Path, vectors: Float32) -> None:
    """Zipf's law: what was read more often than Space-Saving's bound is counted, within it, and in the tier."""
    random = np.random.default_rng(91)
    asked = np.minimum(random.zipf(1.3, SEARCHES), DOCUMENTS) - 1
    read: Counter[str] = Counter()
    with _open(tmp_path / "bank", vectors, **{"hot.counters": COUNTERS, "hot.rows": COUNTERS}) as bank:
        notes = bank.collection("notes")
        for number in asked.tolist():
            read.update(hit.id for hit in notes.search(vector=vectors[number], k=2))
        assert bank.rebuild_hot()[0].outcome == "rebuilt"
        total = sum(read.values())
        sure = {name for name, count in read.items() if count > total / COUNTERS}
        assert len(sure) > 10
        counted = {each.name: each for each in notes.hot.top()}
        assert sure <= set(counted)
        for name, each in counted.items():
            assert each.least <= read[name] <= each.count
            assert each.error <= total / COUNTERS
        assert {each for each, _ in read.most_common(10)} <= set(counted)
        held = {hit.id for name in sure for hit in notes.search(vector=vectors[int(name[1:])], k=2) if hit.degraded}
        assert sure <= held


def test_a_degraded_answer_says_so_is_exact_and_is_not_kept(tmp_path: Path, vectors: Float32) -> None:
    events: list[Event] = []
    with _open(tmp_path / "bank", vectors, **{"cache.results": True}) as bank:
        bank.events.subscribe(events.append)
        notes = bank.collection("notes")
        whole = notes.search(vector=vectors[1], k=10)
        assert not any(hit.degraded for hit in whole)
        for number in range(300):
            notes.search(vector=vectors[number], k=1)
        notes.hot.rebuild()
        notes.delete("d2999")  # nothing kept before holds any more
        for _ in range(2):
            answer = notes.search(vector=vectors[1], k=10)
            assert len(answer) == 10
            assert all(hit.degraded for hit in answer)
            assert answer[0].id == "d1"
            stored = vectors.astype(np.float16).astype(np.float32)
            for hit in answer:
                assert hit.score == pytest.approx(float(stored[int(hit.id[1:])] @ vectors[1]), abs=1e-3)
            assert {hit.id for hit in answer} & {hit.id for hit in whole}
    told = [event for event in events if isinstance(event, SearchAnswered)]
    assert [event.degraded for event in told[-2:]] == [True, True]
    assert [event.cached for event in told[-2:]] == [False, False]
    assert not any(event.degraded for event in told[:-2])


def test_killed_at_any_moment_it_opens_and_answers_nothing_that_was_deleted(tmp_path: Path, vectors: Float32) -> None:
    random = np.random.default_rng(92)
    script = Path(__file__).with_name("hot_reader.py")
    gone: list[str] = []
    for _ in range(5):
        lines = int(random.integers(3, 12))
        told, _ = until_killed(script, tmp_path / "bank", lines=lines, more_s=float(random.random() * 0.05))
        gone += [each for each in told if each.startswith("d")]
        with embank.open(tmp_path / "bank", read_only=True, flags={**FLAGS, "cache.results": False}) as bank:
            notes = bank.collection("notes")
            assert notes.hot.status().reason is None
            assert any(event == "rebuilt" for event in told)
            # Both of deletions that were acknowledged, and of a tier that is whole.
            for name in gone:
                answer = notes.search(vector=vectors[int(name[1:])], k=5)
                assert name not in {hit.id for hit in answer}
                assert len(answer) == 5
            assert notes.hot.top()
            assert notes.hot.status().rows > 0
    with embank.open(tmp_path / "bank", flags=FLAGS) as bank:
        bank.collection("notes").hot.rebuild()
    home = next((tmp_path / "bank" / "views").glob("*/hot"))
    assert len([path for path in home.iterdir() if path.is_dir()]) == 1
