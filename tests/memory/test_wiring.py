"""That a bank uses it: the monitor, the service manager's word, and which work is bulk."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

import embank
from embank.bank import open_bank
from embank.embed import models
from embank.errors import InvalidInput
from embank.events.kinds import MemoryJumped, PressureReported
from embank.memory.reserve import Book
from embank.testing.fakes import HashModel


def monitors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "embank-monitor"]


def cached(bank: embank.Bank) -> int:
    """Vectors in the cache."""
    stats = bank.cache().embeddings
    assert stats is not None
    return stats.entries


def test_a_bank_is_watched_from_opening_to_close(tmp_path: Path) -> None:
    before = len(monitors())
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        assert len(monitors()) == before + 1
        until(lambda: (state := bank.memory().monitor) is not None and state.samples >= 1)
    assert len(monitors()) == before


def test_the_monitor_can_be_turned_off(tmp_path: Path) -> None:
    before = len(monitors())
    with open_bank(tmp_path / "bank", model=HashModel(), flags={"memory.monitor": False}) as bank:
        bank.collection().add(["a text"])
        assert len(monitors()) == before
        assert bank.memory().monitor is None


@pytest.mark.parametrize("own_process", [True, False])
def test_the_managers_word_is_heard_in_embanks_own_process_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, own_process: bool
) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", str(tmp_path / "fifo"))
    reader = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    with (
        open_bank(tmp_path / "bank", model=HashModel(), own_process=own_process) as bank,
        bank.events.subscribe(kinds=[PressureReported]) as events,
    ):
        os.write(reader, b"x")
        told = events.drain(wait_s=30 if own_process else 0.3)
    os.close(reader)
    assert len(told) == own_process


def test_writing_is_bulk_work_and_searching_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    real = Book.reserve

    def reserve(self: Book, what: str, *args: Any, **options: Any) -> Any:
        seen.append((what, options["bulk"]))
        return real(self, what, *args, **options)

    monkeypatch.setattr(Book, "reserve", reserve)
    with embank.open(tmp_path / "bank", model=Reserving()) as bank:
        Reserving.bank = bank
        notes = bank.collection()
        notes.add([f"text {number}" for number in range(3)])
        assert seen == [("a window of documents", True), ("the model's own", True)]
        seen.clear()
        notes.search("text", mode="dense")
        assert seen == [("the model's own", False)]
        seen.clear()
        notes.reembed(Reserving(dimension=8))
        assert ("a window of documents", True) in seen
        assert ("the model's own", True) in seen
    Reserving.bank = None


class Reserving(HashModel):
    """Reserves with the bank's governor, as models do that a loader makes."""

    bank: Any = None

    def embed(self, texts: Any, kind: Any = "passage") -> Any:
        with self.bank._engine.governor.reserve("the model's own", 1):
            return super().embed(texts, kind)


def test_a_model_without_a_bank_has_the_same_flags() -> None:
    options: dict[str, Any] = {"memory.monitor": False, "recovery.enabled": False}
    before = len(monitors())
    try:
        with models.load("wordllama", memory="500MB") as model:
            assert len(monitors()) == before + 1
            assert model.memory() is not None
        with models.load("wordllama", memory="500MB", **options) as model:
            assert len(monitors()) == before
            model.embed(["a text"] * 3)
    except embank.errors.ModelNotFound:
        pytest.skip("the package wordllama is not installed")
    unknown: dict[str, Any] = {"store.dtype": "int8"}
    with pytest.raises(InvalidInput, match=r"store\.dtype"):
        models.load("wordllama", **unknown)


def test_creep_is_told_by_kind_of_operation(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        notes = bank.collection()
        for number in range(3):
            notes.add([f"text {number}"])
        notes.search("text")
        notes.delete(notes.list()[0].id)
        with bank.track("own"):
            pass
        report = bank.creep()
    assert {kind.kind: kind.operations for kind in report.kinds} == {"ingest": 3, "search": 1, "delete": 1, "own": 1}


def test_a_jump_of_memory_has_every_consumer_of_the_bank_asked(tmp_path: Path) -> None:
    class Hoard:
        name = "hoard"

        def __init__(self) -> None:
            self.held = [bytearray(1)]

        def used_bytes(self) -> int:
            return sum(map(len, self.held))

        def release(self, wanted_bytes: int) -> int:
            freed_bytes = self.used_bytes()
            self.held = []
            return freed_bytes

        def rebuild_cost(self) -> float:
            return 0.0

    flags = {"creep.every_operations": 1, "creep.warmup_operations": 0}
    with (
        open_bank(tmp_path / "bank", model=HashModel(), flags=flags) as bank,
        bank.events.subscribe(kinds=[MemoryJumped]) as events,
    ):
        hoard = Hoard()
        bank._engine.governor.register(hoard)
        bank.collection().add(["a text"])
        assert cached(bank) == 1
        leak: list[bytearray] = []
        for size in (0, 0, 0, 0, 12_000_000, 0):
            with bank.track("own"):
                leak.append(bytearray(os.urandom(1) * size))
        (jump,) = events.drain(wait_s=0.0)
        assert cached(bank) == 0
    assert isinstance(jump, MemoryJumped)
    assert jump.operation == "own"
    assert jump.rise_bytes > 5_000_000
    assert not hoard.held
