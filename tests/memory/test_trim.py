"""The allocator's trim: when it is run, and that it really returns memory where it can."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from tests.memory.machine import MB, StillClock

from embank.memory.trim import Free, Trimmer, free_bytes, supported, trim

needs_glibc = pytest.mark.skipif(not supported(), reason=supported().reason or "supported")


@dataclass
class Heap:
    """An allocator: so much is free, and a trim returns that but for `stuck_bytes`, which it still counts as free."""

    free: int | None = 0
    stuck_bytes: int = 0
    returned_bytes: int = 0
    """Pages that the allocator's books still count as free, though they went back."""
    trims: int = 0

    def look(self) -> Free | None:
        return None if self.free is None else Free(self.free + self.returned_bytes, self.free)

    def trim(self) -> bool:
        self.trims += 1
        if self.free is None:
            return False
        returned = self.free > self.stuck_bytes
        self.free = min(self.free, self.stuck_bytes)
        return returned

    def trimmer(self, clock: StillClock, *, interval_s: float = 10.0) -> Trimmer:
        return Trimmer(interval_s=interval_s, least_bytes=4 * MB, clock=clock, trim=self.trim, free=self.look)


def test_it_trims_only_where_it_pays(clock: StillClock) -> None:
    heap = Heap(free=4 * MB - 1)
    trimmer = heap.trimmer(clock)
    assert not trimmer.run()
    assert heap.trims == 0
    heap.free = 4 * MB
    assert trimmer.run()
    assert (heap.trims, trimmer.trims) == (1, 1)


def test_it_trims_at_most_once_in_the_interval(clock: StillClock) -> None:
    heap = Heap(free=50 * MB)
    trimmer = heap.trimmer(clock)
    assert trimmer.run()
    heap.free = 50 * MB
    clock.sleep(9.9)
    assert not trimmer.run()
    clock.sleep(0.1)
    assert trimmer.run()
    assert heap.trims == 2


def test_who_waits_for_the_bytes_need_not_wait_for_the_interval(clock: StillClock) -> None:
    heap = Heap(free=50 * MB)
    trimmer = heap.trimmer(clock)
    trimmer.run()
    heap.free = 4 * MB - 1
    assert not trimmer.run(at_once=True), "it must pay all the same"
    heap.free = 4 * MB
    assert trimmer.run(at_once=True)
    blind = Heap(free=None)
    trimmer = blind.trimmer(clock)
    for _ in range(3):
        trimmer.run(at_once=True)
    assert blind.trims == 1


def test_what_a_trim_could_not_return_does_not_pay_again(clock: StillClock) -> None:
    heap = Heap(free=50 * MB, stuck_bytes=30 * MB)
    trimmer = heap.trimmer(clock)
    assert trimmer.run()
    clock.sleep(60)
    assert not trimmer.run()
    heap.free = 34 * MB
    assert trimmer.run()
    assert heap.trims == 2


def test_fragments_that_were_used_and_freed_again_pay_again(clock: StillClock) -> None:
    heap = Heap(free=50 * MB, stuck_bytes=30 * MB)
    trimmer = heap.trimmer(clock)
    trimmer.run()
    clock.sleep(60)
    heap.free = 10 * MB
    assert not trimmer.run()
    heap.free, heap.stuck_bytes = 30 * MB, 0
    assert trimmer.run()


def test_a_heap_that_was_used_and_freed_between_two_looks_pays_again(clock: StillClock) -> None:
    heap = Heap(free=27 * MB, stuck_bytes=3 * MB)
    trimmer = heap.trimmer(clock)
    assert trimmer.run()
    heap.returned_bytes = 24 * MB
    clock.sleep(60)
    assert not trimmer.run(), "by the books as much is free as before, but it went back"
    heap.returned_bytes, heap.free = 0, 27 * MB
    clock.sleep(60)
    assert trimmer.run()


def test_blocks_that_were_never_touched_hide_nothing_that_comes_later(clock: StillClock) -> None:
    heap = Heap(free=20 * MB)
    trimmer = heap.trimmer(clock)
    trimmer.run()
    clock.sleep(60)
    heap.free, heap.returned_bytes = -280 * MB, 300 * MB  # a runtime reserved 300 MB and uses little of it
    trimmer.run()
    assert heap.trims == 1
    heap.free, heap.returned_bytes = -270 * MB, 300 * MB
    trimmer.run()
    assert heap.trims == 2


def test_where_the_allocator_cannot_tell_the_interval_alone_decides(clock: StillClock) -> None:
    heap = Heap(free=None)
    trimmer = heap.trimmer(clock)
    assert not trimmer.run(), "this heap returned nothing"
    assert not trimmer.run()
    assert heap.trims == 1
    clock.sleep(10)
    trimmer.run()
    assert heap.trims == 2


def test_a_reason_is_given_where_it_is_not_supported() -> None:
    assert bool(supported()) == (supported().reason == "")


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return result.stdout


@needs_glibc
def test_a_real_trim_returns_what_was_freed_between_live_blocks() -> None:
    # Blocks of 64 KiB below the mmap threshold; every 16th stays alive, so that nothing goes back by itself.
    code = """
import ctypes
from embank.memory.meter import SystemMeter
from embank.memory.trim import free_bytes, trim
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [malloc(65536) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 65536)
for number, block in enumerate(blocks):
    if number % 16:
        free(block)
meter = SystemMeter()
free_before, held_before = free_bytes(), meter.read().tree_bytes
returned = trim()
print(free_before, held_before - meter.read().tree_bytes, int(returned), free_bytes())
for number, block in enumerate(blocks):  # what was returned is used again, and freed again
    if number % 16:
        blocks[number] = malloc(65536)
        ctypes.memset(blocks[number], 1, 65536)
for number, block in enumerate(blocks):
    if number % 16:
        free(block)
print(free_bytes())
"""
    free_before, gone, returned, free_after, free_again = map(int, run(code).split())
    assert free_before >= 55_000_000
    assert free_after <= 15_000_000, "what was returned does not count, though the allocator counts it"
    assert free_again >= 55_000_000
    assert gone >= 50_000_000
    assert returned == 1


@needs_glibc
def test_free_bytes_counts_no_more_than_the_process_holds() -> None:
    free = free_bytes()
    assert free is None or 0 <= free < 10**11


def test_under_a_foreign_allocator_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    class Jemalloc:
        """What a process looks like that runs under jemalloc: glibc is there, and unused."""

        gnu_get_libc_version = mallctl = object()

        @staticmethod
        def malloc_trim(pad: int) -> int:
            raise AssertionError(pad)

    supported.cache_clear()
    try:
        monkeypatch.setattr("embank.memory.trim.sys.platform", "linux")
        monkeypatch.setattr("embank.memory.trim._libc", Jemalloc)
        assert not supported()
        assert "jemalloc" in supported().reason
        assert not trim()
        assert free_bytes() is None
    finally:
        supported.cache_clear()


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    supported.cache_clear()
    try:
        monkeypatch.setattr("embank.memory.trim.sys.platform", "linux")
        monkeypatch.setattr("embank.memory.trim._libc", object)
        assert "not glibc" in supported().reason
        assert not trim()
        supported.cache_clear()
        monkeypatch.setattr("embank.memory.trim.sys.platform", "darwin")
        assert "darwin" in supported().reason
    finally:
        supported.cache_clear()
