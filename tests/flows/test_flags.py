"""Each optimisation can be turned off by itself, and everything goes on working, with the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embank.bank import Bank, open_bank
from embank.embed import batching
from embank.embed.files.catalog import KNOWN
from embank.embed.files.locate import find_files
from embank.events.event import Event
from embank.events.kinds import MemoryRecovered, WorkerStarted

ON: dict[str, Any] = {
    "embed.isolation": "process",
    "embed.threads": 2,
    "recovery.every_calls": 1,
    "recovery.least_interval_s": 0,
    "cache.disk": True,
}
"""Everything is on, and what acts now and then acts at once."""

NOTES = {
    "backup": "A backup is restored with the restore command, from the newest copy. Ask twice.",
    "bread": "Bread rises because yeast makes gas from sugar.",
    "rivers": "Rivers carry silt and sand down to the sea.",
    "stars": "A star shines because hydrogen fuses in its core.",
}
QUESTIONS = {"how do I get my files back?": "backup", "why does dough grow?": "bread", "what moves sediment?": "rivers"}


@pytest.fixture(scope="module")
def models_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_files(KNOWN["minilm"], directory=Path("/nonexistent")) is None:
        pytest.skip(f"the files of minilm are not installed: {KNOWN['minilm'].install}")
    return tmp_path_factory.mktemp("models")


@dataclass(frozen=True, slots=True)
class Computed(Event):
    """A batch was computed; nobody publishes this but the test."""

    rows: int


@dataclass(frozen=True, slots=True)
class Room:
    bank: Path
    models: Path
    batches: list[Event]


@pytest.fixture
def room(tmp_path: Path, models_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    batches: list[Event] = []
    forward = batching._checked_forward

    def spy(engine: Any, piece: Any) -> Any:
        batches.append(Computed(len(piece)))
        return forward(engine, piece)

    monkeypatch.setattr(batching, "_checked_forward", spy)
    return Room(tmp_path / "bank", models_directory, batches)


@contextmanager
def flow(room: Room, **flags: Any) -> Iterator[tuple[Bank, list[Event]]]:
    """The main flows of a bank with these flags; what happened in them."""
    given = {**ON, "embed.directory": room.models, **flags}
    with open_bank(room.bank, flags=given) as bank, bank.events.subscribe() as heard:
        notes = bank.collection("notes")
        report = notes.add([{"id": name, "text": text, "metadata": {"name": name}} for name, text in NOTES.items()])
        assert report.added == len(NOTES)
        notes.add([{"id": "gone", "text": "This one is deleted again, whatever it says about bread."}])
        assert notes.delete("gone") == 1
        for _ in range(2):  # the second time, whoever remembers answers
            for mode in ("hybrid", "dense"):
                found = {question: notes.search(question, k=1, mode=mode)[0].id for question in QUESTIONS}
                assert found == QUESTIONS
        assert notes.search("restored", k=1, mode="lexical")[0].id == "backup"
        assert [hit.id for hit in notes.search("bread", k=3, where={"name": "stars"})] == ["stars"]
        assert notes.add([{"id": "bread", "text": "Bread is also made without yeast: with soda."}]).updated == 1
        assert "soda" in notes.search("why does dough grow?", k=1)[0].text
        bank.release()
        assert notes.search("soda bread", k=1)[0].id == "bread"
        yield bank, [*heard.drain(), *room.batches]


def recovered(_: Bank, events: list[Event]) -> bool:
    return any(isinstance(event, MemoryRecovered) and event.trigger != "hand" for event in events)


def limited(bank: Bank, _: list[Event]) -> bool:
    return bank.memory().limited


def isolated(_: Bank, events: list[Event]) -> bool:
    return any(isinstance(event, WorkerStarted) for event in events)


def batched(_: Bank, events: list[Event]) -> bool:
    return any(isinstance(event, Computed) and event.rows > 1 for event in events)


def monitored(bank: Bank, _: list[Event]) -> bool:
    return bank.memory().monitor is not None


def tracked(bank: Bank, _: list[Event]) -> bool:
    return bank.creep().operations > 0


def remembered(bank: Bank, _: list[Event]) -> bool:
    """An embedding was not computed again."""
    known = bank.cache().embeddings
    return known is not None and known.hits > 0


def kept_on_disk(bank: Bank, _: list[Event]) -> bool:
    known = bank.cache().embeddings
    return known is not None and known.second is not None and known.second.entries > 0


def answered_again(bank: Bank, _: list[Event]) -> bool:
    """An answer was not looked for again."""
    results = bank.cache().results
    return results is not None and results.hits > 0


def scan_resistant(bank: Bank, _: list[Event]) -> bool:
    known = bank.cache().embeddings
    return known is not None and known.policy == "s3fifo"


FLAGS: dict[str, tuple[dict[str, Any], Callable[[Bank, list[Event]], bool]]] = {
    "recovery": ({"recovery.enabled": False}, recovered),
    "limits": ({"memory.enabled": False}, limited),
    "isolation": ({"embed.isolation": "thread"}, isolated),
    "batching": ({"embed.batching": False}, batched),
    "monitoring": ({"memory.monitor": False}, monitored),
    "creep": ({"creep.enabled": False}, tracked),
    "results": ({"cache.results": False}, answered_again),
    "disk": ({"cache.disk": False}, kept_on_disk),
    "admission": ({"cache.policy": "lru"}, scan_resistant),
}


@pytest.mark.parametrize("name", FLAGS)
def test_the_flows_pass_with_each_turned_off(name: str, room: Room) -> None:
    flags, at_work = FLAGS[name]
    with flow(room, **flags) as (bank, events):
        assert not at_work(bank, events)
        for other, (_, check) in FLAGS.items():
            assert other == name or check(bank, events), f"{other} is off, too"


def test_the_flows_pass_with_all_on(room: Room) -> None:
    with flow(room) as (bank, events):
        assert remembered(bank, events)
        for name, (_, at_work) in FLAGS.items():
            assert at_work(bank, events), name


def test_the_flows_pass_without_the_embedding_cache(room: Room) -> None:
    with flow(room, **{"cache.enabled": False}) as (bank, events):  # and so without its level on disk
        assert not remembered(bank, events)
        assert not kept_on_disk(bank, events)
        assert answered_again(bank, events)


def test_the_flows_pass_with_all_off(room: Room) -> None:
    off = {key: value for flags, _ in FLAGS.values() for key, value in flags.items()}
    with flow(room, **off) as (bank, events):
        for name, (_, at_work) in FLAGS.items():
            assert not at_work(bank, events), name
