"""The planner: what is measured is carried on, what is chosen follows from it, and it is kept and read again."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.store.index.conftest import Opener, add, found

from embank.errors import InvalidInput, StoreError
from embank.store.codec import Codec
from embank.store.index import building, faiss, planner
from embank.store.index.backend import Home
from embank.store.index.methods import Method, method
from embank.store.index.planner import Plan, Planner, Trial, carried_on, choose, lower_bound, mixtures
from embank.store.index.settings import Settings
from embank.store.vectors import Rows, Segments
from embank.system.files import Files
from embank.testing.indexes import DIMENSION, Float32, clustered

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")

_ROWS = 17_000


@pytest.fixture(scope="module")
def many() -> Float32:
    return clustered(_ROWS, seed=70)


@pytest.fixture(scope="module")
def rows(many: Float32, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    segments = Segments(tmp_path_factory.mktemp("v"), Codec("fp16", DIMENSION), files=Files())
    segments.append(many, mark=0)
    return segments.rows(_ROWS)


def _trial(name: str, *, low: float, size: int, query_s: float = 1.0, fits: bool = True) -> Trial:
    kind = method(name, 64, 10_000)
    return Trial(kind, low + 0.005, low, low + 0.005, query_s, 1.0, size, fits)


def test_the_least_memory_that_meets_the_target_is_chosen() -> None:
    trials = [_trial("sq8", low=0.999, size=300), _trial("rabitq", low=0.991, size=60), _trial("pq", low=0.98, size=40)]
    chosen, _ = choose(trials, target=0.99, limit_bytes=1_000)
    assert chosen is not None
    assert chosen.kind == "rabitq"


def test_of_about_the_same_memory_the_fastest_is_chosen() -> None:
    trials = [
        _trial("rabitq", low=0.991, size=60, query_s=2.0),
        _trial("pq-fastscan", low=0.991, size=66, query_s=1.0),
        _trial("sq8", low=0.999, size=300, query_s=0.1),
    ]
    chosen, _ = choose(trials, target=0.99, limit_bytes=1_000)
    assert chosen is not None
    assert chosen.kind == "pq-fastscan"


def test_where_vectors_are_cached_time_is_given_for_recall() -> None:
    trials = [
        _trial("rabitq", low=0.991, size=60, query_s=1.0),
        _trial("pq", low=0.997, size=61, query_s=1.9),
        _trial("pq-fastscan", low=0.999, size=62, query_s=2.1),
        _trial("sq8", low=0.999, size=300, query_s=1.0),
    ]
    chosen, reason = choose(trials, target=0.99, limit_bytes=1_000, deeper=True)
    assert chosen is not None
    assert chosen.kind == "pq"
    assert "the most recall" in reason


def test_where_the_target_is_missed_it_says_what_would_meet_it() -> None:
    trials = [_trial("pq", low=0.95, size=40_000_000), _trial("sq8", low=0.995, size=300_000_000, fits=False)]
    chosen, reason = choose(trials, target=0.99, limit_bytes=100_000_000)
    assert chosen is not None
    assert chosen.kind == "pq"
    assert "would reach it with index.budget = 300MB" in reason


def test_where_nothing_fits_the_vectors_are_scanned() -> None:
    chosen, reason = choose([_trial("pq", low=0.95, size=10**7, fits=False)], target=0.99, limit_bytes=100)
    assert chosen is None
    assert "index.kind = exact reaches it" in reason


def test_the_bound_is_below_the_mean_even_without_a_miss() -> None:
    assert lower_bound(np.ones(300)) == pytest.approx(0.999)
    assert lower_bound(np.tile([1.0, 0.8], 50)) == pytest.approx(0.9 - 1.96 * 0.1005 / 10, abs=1e-3)


def test_places_among_the_candidates_move_back_with_size() -> None:
    small = np.tile(np.arange(100), (20, 1))
    large = 2 * small + 1  # twice as far back, counted from 1
    moved, lost = carried_on(small, large, 2.0, missing=1_000)
    assert lost == 0
    assert np.allclose(moved, 8 * (small + 1) - 1)


def test_with_the_whole_collection_measured_nothing_is_carried_on() -> None:
    small, large = np.arange(200).reshape(20, 10), 3 * np.arange(200).reshape(20, 10)
    moved, lost = carried_on(small, large, 0.0, missing=1_000)
    assert np.allclose(moved, large)
    assert lost == 0


def test_what_no_list_holds_is_lost_with_every_step() -> None:
    small, large = np.zeros((10, 10), np.int64), np.zeros((10, 10), np.int64)
    small[:, :1] = large[:, :3] = 500
    moved, lost = carried_on(small, large, 2.0, missing=500)
    assert np.isinf(moved[:, :3]).all()
    assert lost == pytest.approx(0.4)


def test_recall_is_measured_as_it_is(rows: Rows, many: Float32) -> None:
    questions = mixtures(rows, np.arange(_ROWS), count=40)
    plan = Planner(Settings(rescored=200), limit_bytes=1 << 40, going=lambda: True).plan(rows, None, questions)
    trial = next(each for each in plan.trials if each.method.kind == "pq-fastscan")
    assert plan.sample_rows == _ROWS
    codes = building.trained(trial.method, rows, home=Home(Path(), "", Settings()), dead=None, governor=None)[0]
    building.fill(codes, rows, governor=None, going=lambda: True)
    stored = rows.gather(np.arange(_ROWS))
    hits = sum(
        len(np.intersect1d(codes.candidates(query, 200), np.argsort(stored @ query)[-10:]))
        for query in questions.vectors
    )
    assert trial.sample_recall == pytest.approx(hits / 400, abs=0.03)
    assert trial.recall_low < trial.recall <= trial.sample_recall
    assert trial.bytes == trial.method.held_bytes(_ROWS)


def test_the_dead_are_left_out(rows: Rows) -> None:
    dead = np.zeros(_ROWS, np.bool_)
    dead[::20] = True
    plan = Planner(Settings(rescored=50), limit_bytes=1 << 40, going=lambda: True).plan(
        rows, dead, mixtures(rows, np.flatnonzero(~dead), count=20)
    )
    assert plan.sample_rows == _ROWS - int(dead.sum())


def test_it_can_be_called_off(rows: Rows) -> None:
    with pytest.raises(building.Interrupted):
        Planner(Settings(), limit_bytes=1, going=lambda: False).plan(rows, None, mixtures(rows, np.arange(100), 10))


def test_a_plan_survives_as_json(rows: Rows) -> None:
    plan = Planner(Settings(rescored=50), limit_bytes=1 << 40, going=lambda: True).plan(
        rows, None, mixtures(rows, np.arange(_ROWS), count=10)
    )
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@pytest.mark.parametrize("wrong", [{}, {"trials": 3}, {"trials": [{"method": {}}]}, []])
def test_what_is_no_plan_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="no plan"):
        Plan.from_dict(wrong)


def test_a_collection_is_measured_once_and_built_accordingly(bank: Opener, many: Float32, tmp_path: Path) -> None:
    collection = bank(kind="auto", exact_below_rows=10_000)
    add(collection, many)
    assert collection.index.plan() is None
    status = collection.index.refresh()
    plan = collection.index.plan()
    assert status is not None
    assert plan is not None
    assert plan.chosen is not None
    assert status.method == plan.chosen.name
    assert "mixtures" in plan.asked
    path = next(tmp_path.rglob("plan.json"))
    written = path.stat().st_mtime_ns
    add(collection, clustered(600, seed=71), first=_ROWS)
    collection.index.refresh()
    assert path.stat().st_mtime_ns == written
    bank.close()
    again = bank(kind="auto", exact_below_rows=10_000)
    assert again.index.plan() == plan
    assert found(again, many[5], 1)[0] == ["d5"]


def test_a_damaged_plan_is_made_anew(bank: Opener, many: Float32, tmp_path: Path) -> None:
    collection = bank(kind="auto", exact_below_rows=10_000, rescored=50)
    add(collection, many)
    collection.index.refresh()
    path = next(tmp_path.rglob("plan.json"))
    path.write_bytes(b"{")
    assert collection.index.plan() is None
    assert collection.index.plan(anew=True) is not None
    assert collection.index.plan() is not None


def test_without_room_for_any_index_it_says_so_and_scans(bank: Opener, many: Float32) -> None:
    collection = bank(kind="auto", exact_below_rows=10_000, rescored=50, budget="10KB")
    add(collection, many)
    with pytest.raises(StoreError, match="nothing that was tried fits"):
        collection.index.refresh()
    assert found(collection, many[5], 1)[0] == ["d5"]


def test_a_small_collection_has_nothing_to_measure(bank: Opener, vectors: Float32) -> None:
    collection = bank(kind="auto")
    add(collection, vectors)
    with pytest.raises(InvalidInput, match="16,384 vectors or more"):
        collection.index.plan(anew=True)


def test_questions_are_short_and_of_the_own_words(bank: Opener, many: Float32) -> None:
    asked: list[str] = []

    def ask(_: object, texts: list[str]) -> Float32:
        asked.extend(texts)
        return many[: len(texts)]

    collection = bank(kind="auto", exact_below_rows=10_000, rescored=50, ask=ask)
    add(collection, many)
    plan = collection.index.plan(anew=True)
    assert plan is not None
    assert plan.asked.startswith("400 questions of 1 to 4 words")
    assert len(set(asked)) == 400
    assert all(text.startswith("d") for text in asked)


def test_every_way_is_a_way_of_a_kind() -> None:
    assert Method(**method("ivf", 64, 50_000).as_dict()) == method("ivf", 64, 50_000)


class _Grants:
    """A governor's reservations, of which so much is granted of what goes beyond the least."""

    def __init__(self, part: float) -> None:
        self.part = part
        self.asked: list[tuple[str, int, int]] = []

    @contextmanager
    def reserve(self, what: str, wanted_bytes: int, *, least_bytes: int) -> Iterator[Any]:
        self.asked.append((what, wanted_bytes, least_bytes))
        yield SimpleNamespace(granted_bytes=least_bytes + int(self.part * (wanted_bytes - least_bytes)))


@pytest.mark.parametrize(("part", "sample"), [(0.0, 4_000), (0.5, 6_000), (1.0, 8_000)])
def test_the_sample_is_as_large_as_the_memory_granted(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, part: float, sample: int
) -> None:
    monkeypatch.setattr(planner, "LEAST_ROWS", 4_000)
    monkeypatch.setattr(planner, "SAMPLE_ROWS", 8_000)
    grants: Any = _Grants(part)
    settings = Settings(rescored=50)
    questions = mixtures(rows, np.arange(_ROWS), count=10)
    plan = Planner(settings, limit_bytes=1 << 40, going=lambda: True, governor=grants).plan(rows, None, questions)
    assert plan.sample_rows == pytest.approx(sample, abs=1)
    ((_, wanted_bytes, least_bytes),) = grants.asked
    assert least_bytes < wanted_bytes


def test_what_planning_takes_is_no_more_than_it_reserves(rows: Rows) -> None:
    questions = mixtures(rows, np.arange(_ROWS), count=100)
    grants: Any = _Grants(1.0)
    tracemalloc.start()
    try:
        Planner(Settings(rescored=50), limit_bytes=1 << 40, going=lambda: True, governor=grants).plan(
            rows, None, questions
        )
        _, peak_bytes = tracemalloc.get_traced_memory()  # numpy's part of it: FAISS allocates by itself
    finally:
        tracemalloc.stop()
    ((_, wanted_bytes, _),) = grants.asked
    assert peak_bytes < wanted_bytes
