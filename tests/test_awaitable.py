"""A bank in an async program: the same answers, and the event loop stays free."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

import embank
from embank.awaitable import AsyncBank, AsyncCollection, Threaded
from embank.bank import Bank, LocalCollection
from embank.errors import BankLocked, DocumentNotFound
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from pathlib import Path


def test_it_answers_as_the_bank_behind(tmp_path: Path) -> None:
    async def run() -> None:
        async with embank.aopen(tmp_path / "a.bank", model=HashModel()) as bank:
            notes = await bank.collection("notes")
            report = await notes.add([{"id": "a1", "text": "Rivers carry silt."}])
            assert report.added == 1
            hits, count = await asyncio.gather(notes.search("silt", k=3), notes.count())
            assert ([hit.id for hit in hits], count) == (["a1"], 1)
            with pytest.raises(DocumentNotFound):
                await notes.get("missing")
            assert (await bank.stats()).documents == 1

    asyncio.run(run())
    embank.open(tmp_path / "a.bank", model=HashModel()).close()  # it was closed


def test_opened_without_a_block_it_is_closed_by_hand(tmp_path: Path) -> None:
    async def run() -> None:
        bank = await embank.aopen(tmp_path / "a.bank", model=HashModel())
        with pytest.raises(BankLocked):  # a second writer: the bank is open
            await asyncio.to_thread(embank.open, tmp_path / "a.bank")
        await bank.close()

    asyncio.run(run())


def test_the_event_loop_is_free_meanwhile(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(HashModel):
        def embed(self, texts: Any, kind: Any = "passage") -> Any:
            assert gate.wait(60)
            return super().embed(texts, kind)

    async def run() -> None:
        async with embank.aopen(tmp_path / "a.bank", model=Slow()) as bank:
            notes = await bank.collection()
            adding = asyncio.ensure_future(notes.add(["a text"]))
            await asyncio.sleep(0)
            gate.set()  # only a free loop gets here
            assert (await adding).added == 1

    asyncio.run(run())


@pytest.mark.parametrize(("wrapper", "behind"), [(AsyncBank, Bank), (AsyncCollection, LocalCollection)])
def test_every_method_is_that_of_the_same_name(wrapper: type, behind: type) -> None:
    threaded = {name: each for name, each in vars(wrapper).items() if isinstance(each, Threaded)}
    assert len(threaded) >= 10
    assert not [name for name, each in threaded.items() if each._method is not getattr(behind, name)]
