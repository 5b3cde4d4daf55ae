"""Requests that share batches: how many there are, whose errors are whose, and how long anybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from embank.errors import EmbeddingFailed
from embank.http.coalescer import Coalescer
from embank.http.errors import Refusal


class Machine:
    """Computes lengths; each batch waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.bad = "none of them"

    async def compute(self, texts: list[str]) -> Sequence[int]:
        self.batches.append(texts)
        await self.gate.wait()
        if self.bad in texts:
            raise EmbeddingFailed(f"can't take {self.bad}")
        return [len(text) for text in texts]


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_sixteen_at_once_take_two_batches() -> None:
    async def run() -> None:
        machine = Machine()
        coalescer = Coalescer(machine.compute, wait_s=60, most_wait_s=60)
        tasks = [asyncio.create_task(coalescer.embed(["x" * n, "y"])) for n in range(16)]
        await _settled()
        assert machine.batches == [["", "y"]], "the first goes at once"
        machine.gate.set()
        assert [list(await task) for task in tasks] == [[n, 1] for n in range(16)]
        assert len(machine.batches) == 2
        assert (coalescer.requests, coalescer.batches) == (16, 2)

    asyncio.run(run())


def test_nobody_waits_longer_for_company_than_allowed() -> None:
    async def run() -> None:
        machine = Machine()
        coalescer = Coalescer(machine.compute, wait_s=0, most_wait_s=60)
        first = asyncio.create_task(coalescer.embed(["a"]))
        await _settled()
        second = asyncio.create_task(coalescer.embed(["bb"]))
        await asyncio.sleep(0.01)
        await _settled()
        assert len(machine.batches) == 2, "though the first is still under way"
        machine.gate.set()
        assert [list(await first), list(await second)] == [[1], [2]]

    asyncio.run(run())


def test_a_failure_is_only_of_whom_it_concerns() -> None:
    async def run() -> None:
        machine = Machine()
        machine.bad = "bad"
        coalescer = Coalescer(machine.compute, wait_s=60, most_wait_s=60)
        tasks = [asyncio.create_task(coalescer.embed([text])) for text in ("first", "good", "bad", "fine")]
        await _settled()
        machine.gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [list(each) for each in (done[0], done[1], done[3])] == [[5], [4], [4]]  # type: ignore[arg-type]
        assert isinstance(done[2], EmbeddingFailed)

    asyncio.run(run())


def test_who_went_away_is_not_computed() -> None:
    async def run() -> None:
        machine = Machine()
        coalescer = Coalescer(machine.compute, wait_s=60, most_wait_s=60)
        first = asyncio.create_task(coalescer.embed(["a"]))
        await _settled()
        gone = asyncio.create_task(coalescer.embed(["gone"]))
        stays = asyncio.create_task(coalescer.embed(["stays"]))
        await _settled()
        gone.cancel()
        await _settled()
        machine.gate.set()
        assert [list(await first), list(await stays)] == [[1], [5]]
        assert machine.batches == [["a"], ["stays"]]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())


def test_beyond_two_batches_requests_wait_and_then_are_refused() -> None:
    async def run() -> None:
        machine = Machine()
        coalescer = Coalescer(machine.compute, wait_s=0, most_wait_s=0.02)
        tasks = []
        for _ in range(4):
            tasks.append(asyncio.create_task(coalescer.embed(["x"] * 32)))
            await asyncio.sleep(0.001)
        assert len(machine.batches) == 2, "two are under way, the others wait"
        await asyncio.sleep(0.03)
        with pytest.raises(Refusal) as refused:
            await coalescer.embed(["late"])
        assert refused.value.status_code == 429
        machine.gate.set()
        assert [len(await task) for task in tasks] == [32] * 4, "whoever waited is answered"
        assert list(await coalescer.embed(["again"])) == [5]

    asyncio.run(run())


def test_a_batch_has_an_end() -> None:
    async def run() -> None:
        machine = Machine()
        coalescer = Coalescer(machine.compute, wait_s=60, most_wait_s=60)
        tasks = [asyncio.create_task(coalescer.embed(["x"] * 30)) for _ in range(10)]
        await _settled()
        machine.gate.set()
        assert [len(await task) for task in tasks] == [30] * 10
        assert [len(batch) for batch in machine.batches] == [30, 120, 120, 30]

    asyncio.run(run())
