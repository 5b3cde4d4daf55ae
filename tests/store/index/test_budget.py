"""The vector index within the memory budget: training sized to the grant, dropped on its rung, back with room."""

from __future__ import annotations

import pytest
from tests.store.index.conftest import ROWS, Opener, add, found

from embank.errors import BudgetExceeded
from embank.memory.consumer import Consumer
from embank.memory.reserve import Reservation
from embank.memory.roster import Registration
from embank.store.index import faiss
from embank.store.index.building import _TRAINING_FACTOR
from embank.testing.indexes import DIMENSION, Float32

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")

_ROW_BYTES = int(DIMENSION * 4 * _TRAINING_FACTOR)


class _Governor:
    """Grants up to `room_bytes` at a time, and remembers who is on which rung and what was asked for."""

    budget_bytes = 1 << 30

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self.rungs: dict[str, str] = {}
        self.consumers: dict[str, Consumer] = {}
        self.asked: list[str] = []
        self.held = 0

    def register(self, consumer: Consumer, *, rung: str = "release") -> Registration:
        self.rungs[consumer.name], self.consumers[consumer.name] = rung, consumer
        return Registration(lambda: None)

    def available_bytes(self) -> int:
        return self.room_bytes

    def reserve(self, what: str, wanted_bytes: int, *, least_bytes: int | None = None) -> Reservation:
        self.asked.append(what)
        least_bytes = wanted_bytes if least_bytes is None else least_bytes
        if least_bytes > self.room_bytes:
            raise BudgetExceeded(
                what, wanted_bytes=least_bytes, available_bytes=self.room_bytes, budget_bytes=self.budget_bytes
            )
        self.held += 1
        return Reservation(what, min(wanted_bytes, self.room_bytes), self._given_back)

    def _given_back(self, _: Reservation) -> None:
        self.held -= 1


def test_training_takes_what_was_granted(bank: Opener, vectors: Float32) -> None:
    governor = _Governor(4_500 * _ROW_BYTES)
    collection = bank(governor=governor)
    add(collection, vectors)
    status = collection.index.refresh()
    assert status is not None
    assert (status.trained_rows, status.indexed_rows) == (4_500, ROWS)
    assert governor.held == 0


def test_training_below_what_the_kind_needs_is_refused_with_the_figures(bank: Opener, vectors: Float32) -> None:
    governor = _Governor(4_095 * _ROW_BYTES)
    collection = bank(governor=governor)
    add(collection, vectors)
    with pytest.raises(BudgetExceeded) as caught:
        collection.index.refresh()
    assert caught.value.fields["wanted_bytes"] == 4_096 * _ROW_BYTES
    assert governor.held == 0
    assert found(collection, vectors[9], 1)[0] == ["d9"]


def test_it_gives_way_on_the_rung_that_unloads_and_comes_back_when_there_is_room(
    bank: Opener, vectors: Float32
) -> None:
    governor = _Governor(1 << 30)
    collection = bank(governor=governor)
    add(collection, vectors)
    collection.index.refresh()
    assert governor.rungs["vector index c"] == "unload"
    index = governor.consumers["vector index c"]
    held = index.used_bytes()
    assert index.release(1) == held > 0
    governor.room_bytes = held
    with collection._vector_view() as opened:
        assert opened is not None
        view = opened[0]
    view._load_after_s = 0.0
    assert found(collection, vectors[9], 1)[0] == ["d9"]
    assert index.used_bytes() == 0
    governor.room_bytes = 1 << 30
    assert found(collection, vectors[9], 1)[0] == ["d9"]
    assert index.used_bytes() == held
    assert governor.held == 0


def test_without_room_to_load_it_the_vectors_are_scanned(bank: Opener, vectors: Float32) -> None:
    collection = bank()
    add(collection, vectors)
    bank.close()
    again = bank(governor=_Governor(1_000))
    assert found(again, vectors[9], 1)[0] == ["d9"]
    status = again.index.status()
    assert status is not None
    assert not status.loaded
    assert "loading a vector index needs" in (status.reason or "")
