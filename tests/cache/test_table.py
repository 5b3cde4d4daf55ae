"""The index: every key at its slot, to the last cell."""

from __future__ import annotations

import numpy as np
import pytest

from embank.cache.slab import Pages
from embank.cache.table import Table, buckets_for, bytes_for


def test_it_agrees_with_a_dict_however_full() -> None:
    random = np.random.default_rng(3)
    count = 5_000
    lane = Pages(count * 16)
    keys = lane.array("<u8", (count, 2))
    table = Table(count)
    model: dict[bytes, int] = {}
    for turn in range(30):
        free = np.setdiff1d(np.arange(count), list(model.values()))
        slots = random.permutation(free)[: int(random.integers(0, 1 + len(free)))] if turn != 20 else free
        keys[slots] = random.integers(0, 2**64, (len(slots), 2), dtype=np.uint64)
        assert table.insert(keys, slots).all()
        model.update((keys[slot].tobytes(), int(slot)) for slot in slots)
        absent = random.integers(0, 2**64, (100, 2), dtype=np.uint64)
        wanted = np.concatenate((keys[list(model.values())], absent))
        assert table.find(keys, wanted).tolist() == [*model.values(), *[-1] * 100]
        for key in list(wanted[:20]) + list(absent[:20]):
            assert table.find_one(lane.map, key.tobytes()) == model.get(key.tobytes(), -1)
        gone = random.permutation(list(model.values()))[: int(random.integers(0, 1 + len(model)))]
        table.remove(keys, gone)
        for key in keys[gone]:
            del model[key.tobytes()]


def test_where_both_buckets_are_full_a_resident_moves_on() -> None:
    """Beyond the load it is made for, every cell is used before a key is refused."""
    table = Table(1_000)
    cells = buckets_for(1_000) * 8
    keys = np.random.default_rng(0).integers(0, 2**64, (cells, 2), dtype=np.uint64)
    placed = np.array([table.insert(keys, np.array([slot]))[0] for slot in range(cells)])
    assert placed[:1_000].all()
    assert placed.mean() > 0.95
    slots = placed.nonzero()[0]
    assert table.find(keys, keys[slots]).tolist() == slots.tolist()
    assert (table.find(keys, keys[~placed]) == -1).all()


def test_slots_can_be_renumbered() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, (100, 2), dtype=np.uint64)
    table = Table(100)
    table.insert(keys, np.arange(50))
    table.renumber(keys, np.arange(10), np.arange(90, 100))
    keys[90:100] = keys[:10]
    assert table.find(keys, keys[:50]).tolist() == [*range(90, 100), *range(10, 50)]


def test_what_is_not_there_can_not_be_taken_out() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, (10, 2), dtype=np.uint64)
    with pytest.raises(AssertionError, match="not in the cache's table"):
        Table(10).remove(keys, np.arange(3))


def test_it_takes_what_it_says() -> None:
    assert bytes_for(100_000) / 100_000 < 6.5
