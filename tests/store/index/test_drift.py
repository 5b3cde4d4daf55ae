"""Drift: an index that was trained on one topic, and then another comes in. It is noticed, told, and answered once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.store.index.conftest import Opener, add, found

from embank.events.kinds import IndexDrifted, IndexProbed
from embank.store.collection import StoredCollection
from embank.store.index import faiss
from embank.store.index.base import IndexStatus, Probe
from embank.store.index.drift import why_drifted
from embank.testing.indexes import DIMENSION, Float32, clustered

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")

_ROWS = 5_000
_HALF = DIMENSION // 2


def topic(number: int, count: int, *, seed: int) -> Float32:
    """Vectors about one of two topics, which share nothing: each has half of the dimensions."""
    rows = clustered(count, seed=seed)
    rows[:, slice(_HALF, None) if number == 0 else slice(None, _HALF)] *= 0.02
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def status_of(collection: StoredCollection) -> IndexStatus:
    status = collection.index.refresh()
    assert status is not None
    return status


def opened(bank: Opener, **settings: Any) -> StoredCollection:
    return bank(kind="pq-fastscan", rescored=30, recall_target=0.8, **settings)


def test_another_topic_is_noticed_and_the_index_made_anew_once(bank: Opener) -> None:
    collection = opened(bank)
    with collection._shared.stream.subscribe(kinds=[IndexProbed, IndexDrifted]) as events:
        add(collection, topic(0, _ROWS, seed=1))
        first = status_of(collection)
        add(collection, topic(1, 2_500, seed=2), first=_ROWS)
        second = status_of(collection)
        told = list(events.drain())
    assert [type(event).__name__ for event in told] == ["IndexProbed", "IndexProbed", "IndexDrifted", "IndexProbed"]
    fresh, drifted, why, again = told
    assert isinstance(fresh, IndexProbed)
    assert isinstance(drifted, IndexProbed)
    assert isinstance(why, IndexDrifted)
    assert isinstance(again, IndexProbed)
    assert (fresh.recent_rows, drifted.recent_rows, again.recent_rows) == (_ROWS, 2_500, _ROWS + 2_500)
    assert drifted.recall_high < fresh.recall
    assert drifted.recall_low < 0.8
    assert drifted.error is not None
    assert drifted.fresh_error is not None
    assert drifted.error > 1.1 * drifted.fresh_error
    assert again.recall > drifted.recall
    assert "of what is near 2,500 new rows it finds" in why.reason
    assert "codes are off by" in why.reason
    assert second.trained_rows > first.trained_rows
    assert second.probes is not None
    assert second.probes.fresh == second.probes.last
    assert second.probes.last.of_rows == _ROWS + 2_500


def test_more_of_the_same_is_no_drift(bank: Opener) -> None:
    collection = opened(bank)
    same = topic(0, _ROWS + 2_500, seed=1)
    add(collection, same[:_ROWS])
    first = status_of(collection)
    with collection._shared.stream.subscribe(kinds=[IndexDrifted]) as events:
        add(collection, same[_ROWS:], first=_ROWS)
        second = status_of(collection)
        assert list(events.drain()) == []
    assert second.trained_rows == first.trained_rows
    assert second.probes is not None
    assert second.probes.fresh.recent_rows == _ROWS
    assert second.probes.last.recent_rows == 2_500


def test_it_is_not_made_anew_again_where_that_would_change_nothing(bank: Opener) -> None:
    """A target that this kind can't reach: it is met by no index, so that none is made in vain."""
    collection = bank(kind="pq-fastscan", rescored=12, recall_target=1.0)
    same = topic(0, _ROWS + 3 * 800, seed=1)
    add(collection, same[:_ROWS])
    status_of(collection)
    with collection._shared.stream.subscribe(kinds=[IndexDrifted, IndexProbed]) as events:
        for first in range(_ROWS, len(same), 800):
            add(collection, same[first : first + 800], first=first)
            status_of(collection)
        told = list(events.drain())
    assert [type(event) for event in told] == [IndexProbed] * 3


def test_deleted_rows_are_not_asked_about(bank: Opener) -> None:
    collection = opened(bank)
    add(collection, topic(0, _ROWS, seed=1))
    status_of(collection)
    add(collection, topic(1, 2_500, seed=2), first=_ROWS)
    collection.delete([f"d{_ROWS + number}" for number in range(2_460)])
    status = status_of(collection)
    assert status.probes is not None
    assert status.probes.last.recent_rows == _ROWS  # 40 are too few: the last probe is that of the training


def test_it_is_known_after_reopening_and_a_damaged_record_only_begins_anew(bank: Opener, tmp_path: Path) -> None:
    collection = opened(bank)
    add(collection, topic(0, _ROWS, seed=1))
    before = status_of(collection).probes
    bank.close()
    reader = opened(bank, read_only=True)
    found(reader, topic(0, 1, seed=4)[0])
    status = reader.index.status()
    assert status is not None
    assert status.probes == before is not None
    bank.close()
    next((tmp_path / "bank" / "views").glob("*/probes.json")).write_text("{")
    again = opened(bank)
    add(again, topic(1, 2_500, seed=2), first=_ROWS)
    assert status_of(again).probes is not None


def test_without_questions_nothing_is_probed(bank: Opener) -> None:
    collection = opened(bank, probe_questions=0)
    add(collection, topic(0, _ROWS, seed=1))
    assert status_of(collection).probes is None


def _probe(recall: float, spread: float, *, rows: int = 20_000, error: float | None = None) -> Probe:
    return Probe(0.0, "m", 10_000, rows, 1_000, 128, recall, recall - spread, min(recall + spread, 1.0), error)


@pytest.mark.parametrize(
    ("fresh", "now", "outcome"),
    [
        (_probe(0.999, 0.004), _probe(0.92, 0.02), "drifted"),
        (_probe(0.999, 0.004), _probe(0.996, 0.004), "as it should be"),  # the target is met
        (_probe(0.985, 0.008), _probe(0.982, 0.009), "as it should be"),  # missed, but no worse than when it was fresh
        (_probe(0.999, 0.004), _probe(0.985, 0.02), "as it should be"),  # it may be as good as ever
        (_probe(0.999, 0.004), _probe(0.92, 0.02, rows=11_000), "as it should be"),  # trained a moment ago
        (_probe(0.97, 0.01), _probe(0.9, 0.02, rows=19_000), "as it should be"),  # making it anew was in vain before
        (_probe(0.97, 0.01), _probe(0.9, 0.02), "drifted"),
    ],
)
def test_only_what_is_surely_worse_and_below_the_target_has_drifted(fresh: Probe, now: Probe, outcome: str) -> None:
    assert (why_drifted(fresh, now, target=0.99) is not None) == (outcome == "drifted")
