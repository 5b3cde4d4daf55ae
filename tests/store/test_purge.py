"""Documents go by age, by number or by a filter: exactly those that a dry run names, on record, in steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.errors import BankReadOnly, CollectionNotFound, InvalidInput, ProtectedCollectionError
from embank.events.kinds import ChangeRefused, DocumentsDeleted, DocumentsPurged
from embank.events.stream import Stream
from embank.records import Chunk, Document
from embank.store import purge
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Upsert
from embank.store.reports import PurgeReport
from embank.store.retention import Rule
from embank.store.settings import Settings

from .conftest import MODEL, SPACE, OpenStore, nearest, words

DAY_S = 86_400.0
TIMES: dict[str, Any] = {
    "seconds": 1_700_000_000,  # 2023-11-14T22:13:20Z
    "fraction": 1_700_000_000.5,
    "date": "2023-11-16",
    "moment": "2023-11-15T12:00:00Z",
    "zone": "2023-11-15T12:30:00+02:00",  # an hour and a half before the one above
    "words": "yesterday",
    "now": "now",
    "julian": "2460000.5",
    "clock": "12:00",
    "none": None,
    "list": [1_700_000_000],
    "truth": True,
}


class Hands:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Place:
    """A collection whose clock is set by hand."""

    def __init__(self, root: Path, stream: Stream) -> None:
        self.clock = Hands()
        self.store = LocalStore(
            root, read_only=False, settings=Settings(compact_least=3), stream=stream, clock=self.clock
        )
        self.notes = self.store.collection("notes")

    def put(self, name: str, metadata: dict[str, Any] | None = None, *, age_days: float = 0) -> None:
        text = f"rivers carry {name}"
        self.clock.time -= age_days * DAY_S
        upsert = Upsert(Document(name, text, metadata or {}), text.encode(), [Chunk(text, 0, len(text))])
        self.notes.commit(Batch(None, [upsert], MODEL.embed([text])), SPACE)
        self.clock.time += age_days * DAY_S

    def ids(self) -> list[str]:
        return [document.id for document in self.notes.listing(limit=1000)]


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def place(tmp_path: Path, stream: Stream) -> Any:
    made = Place(tmp_path / "bank", stream)
    yield made
    made.store.close()


def purged(place: Place, rule: Rule) -> PurgeReport:
    """A purge that does what its dry run said."""
    before = (place.notes.info(), place.ids(), place.store.audit())
    told = place.notes.purge(rule, dry_run=True)
    assert (place.notes.info(), place.ids(), place.store.audit()) == before
    report = place.notes.purge(rule)
    assert set(before[1]) - set(place.ids()) == set(told.ids) == set(report.ids)
    facts = ("documents", "passages", "text_bytes", "remaining", "undated", "changed", "ids", "rule")
    assert [getattr(told, fact) for fact in facts] == [getattr(report, fact) for fact in facts]
    assert (told.dry_run, report.dry_run) == (True, False)
    return report


def test_by_the_time_of_writing(place: Place, stream: Stream) -> None:
    heard = stream.subscribe(None, kinds=(DocumentsDeleted, DocumentsPurged))
    for name, age in (("new", 1), ("old", 40), ("older", 50), ("edge", 30)):
        place.put(name, age_days=age)
    place.notes.commit(Batch(None, [], np.empty((0, 64), np.float32), [Document("older", "", {"seen": 1})]), None)
    report = purged(place, Rule(older_than_s=30 * DAY_S))
    assert report.ids == ("old",)  # `older` was relabeled a moment ago
    assert (report.documents, report.passages, report.text_bytes, report.remaining) == (
        1,
        1,
        len("rivers carry old"),
        3,
    )
    assert place.ids() == ["edge", "new", "older"]
    assert "old" not in nearest(place.notes, "rivers carry old")
    assert words(place.notes, "old") == []
    (record,) = place.store.audit()
    assert (record.act, record.collection, record.at) == ("purge", "notes", place.clock.time)
    assert record.detail == {
        "older_than_s": 30 * DAY_S, "documents": 1, "chunks": 1, "sequence": 6, "first_ids": ["old"],
    }  # fmt: skip
    assert [type(event).__name__ for event in heard.drain()] == ["DocumentsDeleted", "DocumentsPurged"]


def test_all_but_the_newest(place: Place) -> None:
    for name, age in (("c", 1), ("a", 3), ("b", 2), ("d", 0)):
        place.put(name, age_days=age)
    report = purged(place, Rule(keep=2))
    assert report.ids == ("a", "b")  # the oldest first
    assert place.ids() == ["c", "d"]
    assert purged(place, Rule(keep=2)).documents == 0
    assert len(place.store.audit()) == 1  # what took nothing leaves no record
    assert purged(place, Rule(keep=0)).documents == 2
    assert place.ids() == []


def test_documents_of_one_moment_go_in_the_order_of_writing(place: Place) -> None:
    for name in ("c", "a", "b"):
        place.put(name)
    assert purged(place, Rule(keep=1)).ids == ("c", "a")


def test_by_a_time_in_the_metadata(place: Place) -> None:
    for name, at in TIMES.items():
        place.put(name, {"at": at})
    place.put("missing", {})
    place.clock.time = 1_700_000_000.0 + 10 * DAY_S
    in_order = ["seconds", "fraction", "zone", "moment", "date"]
    report = place.notes.purge(Rule(keep=0, by="at"), dry_run=True)
    assert (list(report.ids), report.undated) == (in_order, len(TIMES) + 1 - 5)
    # The fifteenth of November, half past eleven: the moment with a zone is ten hours and a half of it.
    age = place.clock.time - 1_700_047_800
    report = purged(place, Rule(older_than_s=age, by="at"))
    assert report.ids == ("seconds", "fraction", "zone")
    assert purged(place, Rule(keep=1, by="at")).ids == ("moment",)
    assert "missing" in place.ids()


def test_by_a_filter_alone_and_with_the_other_rules(place: Place) -> None:
    for number in range(6):
        place.put(f"d{number}", {"kind": "log" if number % 2 else "note"}, age_days=number)
    assert purged(place, Rule(older_than_s=2.5 * DAY_S, where={"kind": "log"})).ids == ("d5", "d3")
    assert purged(place, Rule(keep=1, where={"kind": "note"})).ids == ("d4", "d2")
    assert purged(place, Rule(where={"kind": "note"})).ids == ("d0",)
    assert place.ids() == ["d1"]
    assert [row.detail.get("where") for row in place.store.audit()] == [
        {"kind": "note"},
        {"kind": "note"},
        {"kind": "log"},
    ]


def test_in_steps_on_one_record(place: Place, monkeypatch: pytest.MonkeyPatch, stream: Stream) -> None:
    monkeypatch.setattr(purge, "STEP_DOCUMENTS", 4)
    monkeypatch.setattr(purge, "MAX_IDS", 6)
    heard = stream.subscribe(None, kinds=(DocumentsDeleted,))
    for number in range(12):
        place.put(f"d{number:02}")
    seen: list[float] = []
    report = place.notes.purge(Rule(keep=2), on_progress=lambda fraction, _: seen.append(fraction))
    assert (report.documents, seen) == (10, [0.4, 0.8, 1.0])
    assert report.ids == tuple(f"d{number:02}" for number in range(6))
    assert [event.documents for event in heard.drain() if isinstance(event, DocumentsDeleted)] == [4, 4, 2]
    (record,) = place.store.audit()
    assert (record.detail["documents"], record.detail["chunks"]) == (10, 10)
    assert report.due  # ten of twelve vectors are dead
    assert place.notes.compact().slots_after == 2


def test_what_is_written_while_it_runs_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "STEP_DOCUMENTS", 2)
    for number in range(6):
        place.put(f"d{number}", {"kind": "log"}, age_days=10)

    def write(_: float, __: str) -> None:
        place.put("d3", {"kind": "note"})
        place.put("d9", {"kind": "log"})

    report = place.notes.purge(Rule(where={"kind": "log"}), on_progress=write)
    assert (report.documents, report.changed, report.remaining) == (5, 1, 2)
    assert place.ids() == ["d3", "d9"]


def test_cut_short_it_has_done_what_its_record_says(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "STEP_DOCUMENTS", 2)
    for number in range(6):
        place.put(f"d{number}")

    def stop(fraction: float, _: str) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.notes.purge(Rule(keep=0), on_progress=stop)
    assert place.ids() == ["d4", "d5"]
    assert place.store.audit()[0].detail["documents"] == 4
    place.notes.purge(Rule(keep=0))
    assert place.ids() == []
    assert [row.detail["documents"] for row in place.store.audit()] == [2, 4]


def test_a_protected_collection_refuses(
    place: Place, stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(purge, "STEP_DOCUMENTS", 1)
    heard = stream.subscribe(None, kinds=(ChangeRefused,))
    for name in ("a", "b", "c"):
        place.put(name)
    place.notes.protect(protected=True)
    for dry_run in (True, False):
        with pytest.raises(ProtectedCollectionError, match="is protected and refuses purge"):
            place.notes.purge(Rule(keep=0), dry_run=dry_run)
    refusals = [event for event in heard.drain() if isinstance(event, ChangeRefused)]
    assert [(event.collection, event.act) for event in refusals] == [("notes", "purge")] * 2
    assert "protected collection 'notes' refused purge" in caplog.text
    place.notes.protect(protected=False)
    with pytest.raises(ProtectedCollectionError):  # also where that begins while it runs
        place.notes.purge(Rule(keep=0), on_progress=lambda *_: place.notes.protect(protected=True))
    assert place.ids() == ["b", "c"]


def test_what_is_not_there(place: Place) -> None:
    with pytest.raises(CollectionNotFound, match="no collection 'notes'"):
        place.notes.purge(Rule(keep=0))


def test_a_reader_may_look_and_not_purge(open_store: OpenStore, place: Place) -> None:
    place.put("a")
    reader = open_store(read_only=True).collection("notes")
    assert reader.purge(Rule(keep=0), dry_run=True).ids == ("a",)
    with pytest.raises(BankReadOnly):
        reader.purge(Rule(keep=0))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "say what is to be purged"),
        ({"older_than_s": 1, "keep": 1}, "two rules"),
        ({"older_than_s": -1}, "older_than must be a number of seconds"),
        ({"older_than_s": float("nan")}, "older_than must be"),
        ({"older_than_s": "30d"}, "older_than must be"),
        ({"keep": -1}, "keep must be a whole number"),
        ({"keep": True}, "keep must be a whole number"),
        ({"keep": 1.5}, "keep must be a whole number"),
        ({"where": {"a": 1}, "by": "at"}, "by names the time"),
        ({"keep": 1, "by": 'a"b'}, "by: the key"),
        ({"where": {}}, "where"),
    ],
)
def test_rules_that_say_nothing(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        Rule(**given)
