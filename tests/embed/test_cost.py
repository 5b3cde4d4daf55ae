"""What batches take, learned from memory that is given instead of read."""

from __future__ import annotations

import contextlib

import pytest

from embank.embed.cost import BatchCost

MB = 1_000_000


class Memory:
    def __init__(self) -> None:
        self.held: int | None = 100 * MB

    def __call__(self) -> int | None:
        return self.held


@pytest.fixture
def memory() -> Memory:
    return Memory()


def window(cost: BatchCost, memory: Memory, estimated: int, *, grows_to: int) -> None:
    with cost.watched(estimated):
        memory.held = max(memory.held or 0, grows_to)


def test_the_estimate_stands_until_something_else_is_seen(memory: Memory) -> None:
    assert BatchCost(memory).factor == 1.0


def test_what_takes_more_is_reserved_more_from_then_on(memory: Memory) -> None:
    cost = BatchCost(memory)
    window(cost, memory, 10 * MB, grows_to=115 * MB)
    assert cost.factor == 1.5
    window(cost, memory, 20 * MB, grows_to=140 * MB)
    assert cost.factor == 2.0


def test_it_is_bounded(memory: Memory) -> None:
    cost = BatchCost(memory)
    window(cost, memory, 10 * MB, grows_to=900 * MB)
    assert cost.factor == 4.0


def test_what_takes_less_is_believed_only_after_many(memory: Memory) -> None:
    cost = BatchCost(memory)
    for _ in range(15):
        window(cost, memory, 10 * MB, grows_to=107 * MB)
    assert cost.factor == 1.0
    window(cost, memory, 10 * MB, grows_to=107 * MB)
    assert cost.factor == pytest.approx(0.7)
    for _ in range(5):
        window(cost, memory, 10 * MB, grows_to=400 * MB)
    assert cost.factor == pytest.approx(0.7), "later growth is something else's"


def test_calls_beside_each_other_teach_nothing(memory: Memory) -> None:
    cost = BatchCost(memory)
    with cost.watched(10 * MB):
        window(cost, memory, 10 * MB, grows_to=200 * MB)
    assert cost.factor == 1.0


def test_small_batches_teach_nothing(memory: Memory) -> None:
    cost = BatchCost(memory)
    window(cost, memory, 1000, grows_to=101 * MB)
    assert cost.factor == 1.0


def test_where_memory_can_not_be_read_the_estimate_stands(memory: Memory) -> None:
    memory.held = None
    cost = BatchCost(memory)
    with cost.watched(10 * MB):
        pass
    assert cost.factor == 1.0


def test_a_failed_window_teaches_too(memory: Memory) -> None:
    cost = BatchCost(memory)
    with contextlib.suppress(MemoryError), cost.watched(10 * MB):
        memory.held = 120 * MB
        raise MemoryError
    assert cost.factor == 2.0
