"""What the watch over creeping memory keeps of its readings."""

from __future__ import annotations

import tracemalloc

from embank.memory.creep.growth import History, Point


def reading(number: int, kinds: int = 16) -> Point:
    used = None if number % 3 == 0 else 40_000_000 + number
    counts = tuple(range(number, number + kinds))
    return Point(10 * number, number / 7, 60_000_000 + number, 50_000_000 + number, used, counts)


def test_points_come_back_as_they_were_taken() -> None:
    history = History(64)
    taken = [reading(number) for number in range(40)]
    for each in taken:
        history.add(each)
    wanted = [first.merged(second) for first, second in zip(taken[::2], taken[1::2], strict=True)]
    assert history.recent() == wanted
    assert list(history.windows(20)) == [wanted]
    assert (len(history), history.at(0), history.at(-1)) == (20, wanted[0], wanted[-1])
    assert history.before(100) == next(
        each for each in reversed(wanted) if each.operations <= wanted[-1].operations - 100
    )
    assert history.before(10_000) is None


def test_everything_is_kept_once_more_ever_sparser() -> None:
    history = History(32)
    for number in range(1_000):
        history.add(reading(number))
    whole, half, recent, later = history.windows(8)
    assert whole[-len(half) :] == half
    assert len(half) == len(whole) // 2
    assert (len(recent), len(later)) == (32, 16)
    assert recent[-16:] == later
    assert len(whole) <= 32
    operations = [each.operations for each in whole]
    assert operations == sorted(operations)
    assert (operations[0], whole[0].level_bytes, whole[0].counts) == (0, 50_000_000, reading(0).counts)
    assert operations[-1] >= 9_000


def test_hundreds_of_points_take_little_more_than_their_figures() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        history = History(256)
        for number in range(4 * 2 * 256):
            history.add(reading(number))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    figures = 6 * 8 + 16 * 8
    assert held < 1.6 * 2 * 256 * figures
