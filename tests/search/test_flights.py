"""One search for all that ask the same at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.search.notes import NOTES

import embank
from embank.embed.model import Kind
from embank.errors import EmbeddingFailed
from embank.events.kinds import SearchAnswered
from embank.search.flights import Flights
from embank.store.info import CollectionInfo
from embank.testing.fakes import HashModel


class Gated(HashModel):
    """Embeds a question only once the gate is open; then perhaps fails."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.begun = threading.Event(), threading.Event()
        self.calls = 0
        self.error: Exception | None = None

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Any:
        if kind == "query":
            self.calls += 1
            self.begun.set()
            assert self.gate.wait(30)
            if self.error is not None:
                raise self.error
        return super().embed(texts, kind)


def info(sequence: int, *, created: float = 1.0) -> CollectionInfo:
    return CollectionInfo("c", 1, 1, sequence, 1, "cosine", "local", False, "fp16", 0, 1, created, created)


def until(condition: Any) -> None:
    for _ in range(3_000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to pass within 30 s")


@pytest.mark.parametrize("fails", [False, True])
def test_fifty_that_ask_the_same_make_one_search_and_share_what_comes_of_it(tmp_path: Path, *, fails: bool) -> None:
    model = Gated()
    with embank.open(tmp_path / "bank", model=model, flags={"cache.enabled": False}) as bank:
        notes = bank.collection("notes")
        notes.add(NOTES)
        model.error = EmbeddingFailed("no") if fails else None
        got: list[Any] = []

        def ask() -> None:
            try:
                got.append(notes.search("rivers", k=3))
            except EmbeddingFailed as error:
                got.append(error)

        threads = [threading.Thread(target=ask) for _ in range(50)]
        with bank.events.subscribe(kinds=[SearchAnswered]) as events:
            for thread in threads:
                thread.start()
            flights = bank._engine.caches.results.flights  # type: ignore[union-attr]
            until(lambda: sum(flight.waiting for flight in list(flights._under_way.values())) == 49)
            model.gate.set()
            for thread in threads:
                thread.join(30)
            told = [event.cached for event in events.drain() if isinstance(event, SearchAnswered)]
    assert model.calls == 1
    assert len(got) == 50
    if fails:
        assert all(isinstance(error, EmbeddingFailed) for error in got)
    else:
        assert all(hits == got[0] for hits in got)
        assert len({id(hits[0].metadata) for hits in got}) == 50  # each has its own
        assert sorted(told) == [False] + [True] * 49


def test_who_knows_of_a_newer_state_takes_no_older_answer() -> None:
    flights: Flights[str] = Flights()
    begun, go = threading.Event(), threading.Event()
    got: list[tuple[str, bool]] = []

    def slow() -> tuple[CollectionInfo, str]:
        begun.set()
        assert go.wait(30)
        return info(3), "of 3"

    first = threading.Thread(target=lambda: got.append(flights.ask(b"q", info(2), slow)))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=lambda: got.append(flights.ask(b"q", info(4), lambda: (info(4), "of 4"))))
    third = threading.Thread(target=lambda: got.append(flights.ask(b"q", info(3), lambda: (info(9), "never"))))
    second.start()
    third.start()
    until(lambda: flights.waiting(b"q") == 2)
    go.set()
    for thread in (first, second, third):
        thread.join(30)
    assert sorted(got) == [("of 3", False), ("of 3", True), ("of 4", True)]


def test_another_collection_of_the_name_is_another_state() -> None:
    flights: Flights[str] = Flights()
    begun, go = threading.Event(), threading.Event()
    got: list[tuple[str, bool]] = []

    def slow() -> tuple[CollectionInfo, str]:
        begun.set()
        assert go.wait(30)
        return info(9, created=1.0), "old"

    first = threading.Thread(target=lambda: got.append(flights.ask(b"q", info(9, created=1.0), slow)))
    first.start()
    assert begun.wait(30)
    anew = info(1, created=2.0)
    second = threading.Thread(target=lambda: got.append(flights.ask(b"q", anew, lambda: (anew, "new"))))
    second.start()
    until(lambda: flights.waiting(b"q") == 1)
    go.set()
    first.join(30)
    second.join(30)
    assert sorted(got) == [("new", True), ("old", True)]


def test_who_is_interrupted_leaves_it_to_another() -> None:
    flights: Flights[str] = Flights()
    begun, go = threading.Event(), threading.Event()
    got: list[tuple[str, bool]] = []

    def interrupted() -> tuple[CollectionInfo, str]:
        begun.set()
        assert go.wait(30)
        raise KeyboardInterrupt

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            flights.ask(b"q", info(1), interrupted)

    first = threading.Thread(target=lead)
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=lambda: got.append(flights.ask(b"q", info(1), lambda: (info(1), "made"))))
    second.start()
    until(lambda: flights.waiting(b"q") == 1)
    go.set()
    first.join(30)
    second.join(30)
    assert got == [("made", True)]
