"""Re-embedding in one process: what changes, what goes on meanwhile, and what stopping it costs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import embank
from embank.bank import Bank, LocalCollection
from embank.errors import (
    BankReadOnly,
    BudgetExceeded,
    CollectionNotFound,
    EmbeddingFailed,
    FingerprintMismatch,
    InvalidInput,
    ModelNotFound,
    ProtectedCollectionError,
)
from embank.events.kinds import Event, ReembedAbandoned, ReembedFinished, ReembedProgressed, ReembedStarted
from embank.kit import WINDOW_DOCUMENTS
from embank.reembedding import ReembedReport
from embank.testing.fakes import HashModel

OLD = HashModel()
COUNT = 600


class Spy(HashModel):
    """Another model, with a shorter limit, that keeps what it was asked for and calls `hook` before it answers."""

    def __init__(self, *, hook: Callable[[Spy], None] | None = None, dimension: int = 48, name: str = "spy") -> None:
        super().__init__(dimension=dimension, max_tokens=16, name=name)
        self.passages: list[str] = []
        self.calls = 0
        self.hook = hook

    def embed(self, texts: Sequence[str], kind: Any = "passage") -> Any:
        if kind == "passage":
            self.calls += 1
            if self.hook is not None:
                self.hook(self)
            self.passages += texts
        return -super().embed(texts, kind)  # so that its vectors and those of the fake itself can't be confused


def body(number: int) -> str:
    more = (f"Extra{number}x{each} words of filler{number}x{each} follow." for each in range(number % 7))
    return f"{head(number)} rivers carry silt. {' '.join(more)}"


def head(number: int) -> str:
    return f"unique{number} topic{number} subject{number}"


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with embank.open(tmp_path / "bank", model=OLD) as opened:
        yield opened


@pytest.fixture
def notes(bank: Bank) -> LocalCollection:
    made = bank.collection("notes")
    made.add([{"id": f"d{number}", "text": body(number), "metadata": {"n": number}} for number in range(COUNT)])
    return made


def found(notes: LocalCollection, number: int) -> None:
    """It is found by its word and by its vector, once."""
    name = f"d{number}"
    assert [hit.id for hit in notes.search(f"unique{number}", mode="lexical", k=3)] == [name]
    nearest = [hit.id for hit in notes.search(head(number), mode="dense", k=COUNT)]
    assert (nearest[0], nearest.count(name)) == (name, 1)
    assert notes.search(head(number), k=1)[0].id == name


def test_another_model_takes_the_place_of_the_first(bank: Bank, notes: LocalCollection, tmp_path: Path) -> None:
    heard = bank.events.subscribe(None)
    model = Spy()
    told: list[tuple[int, float]] = []
    report = notes.reembed(model, on_progress=lambda live: told.append((live.embedded, live.fraction)))
    assert (report.outcome, report.documents, report.embedded, report.resumed) == ("swapped", COUNT, COUNT, 0)
    assert (report.replaced, report.fingerprint) == (OLD.fingerprint, model.fingerprint)
    assert (report.remaining, report.fraction, report.chunks) == (0, 1.0, len(model.passages))
    assert told == [(256, pytest.approx(256 / 600)), (512, pytest.approx(512 / 600)), (600, 1.0)]
    info = notes.stats()
    assert info is not None
    assert (info.fingerprint, info.dimension, info.chunks) == (model.fingerprint, 48, len(model.passages))
    assert info.chunks > COUNT  # the limit is lower, so texts are cut anew
    for number in (0, 123, 599):
        found(notes, number)
    assert notes.search("rivers", where={"n": 5}, k=3)[0].id == "d5"
    kinds: list[Event] = [event for event in heard.drain() if event.kind.startswith("Reembed")]
    assert [event.kind for event in kinds] == ["ReembedStarted", *["ReembedProgressed"] * 3, "ReembedFinished"]
    first, middle, last = kinds[0], kinds[1], kinds[-1]
    assert isinstance(first, ReembedStarted)
    assert (first.replaced, first.documents, first.remaining) == (OLD.fingerprint, COUNT, COUNT)
    assert isinstance(middle, ReembedProgressed)
    assert (middle.documents, middle.remaining, middle.embedded) == (COUNT, 344, 256)
    assert isinstance(last, ReembedFinished)
    assert (last.fingerprint, last.sequence, last.documents) == (model.fingerprint, info.sequence, COUNT)
    (row,) = bank.audit()
    assert (row.act, row.detail["sequence"]) == ("reembed", info.sequence)
    bank.close()
    with embank.open(tmp_path / "bank", model=Spy()) as again:
        found(again.collection("notes"), 42)
    with (
        embank.open(tmp_path / "bank", model=OLD) as wrong,
        pytest.raises(FingerprintMismatch, match="`embank reembed` it with this one"),
    ):
        wrong.collection("notes").search("rivers")
    with (
        embank.open(tmp_path / "bank", model=OLD) as wrong,
        pytest.raises(FingerprintMismatch, match="or `embank reembed` this one"),
    ):
        wrong.collection("notes").add(["a new text"])


def test_afterwards_unchanged_documents_are_not_embedded_again(notes: LocalCollection) -> None:
    model = Spy()
    notes.reembed(model)
    model.passages.clear()
    report = notes.add(
        [{"id": f"d{number}", "text": body(number), "metadata": {"n": number}} for number in range(COUNT - 1)]
        + [{"id": "d599", "text": "glaciers grind stone"}]
    )
    assert (report.unchanged, report.updated) == (COUNT - 1, 1)
    assert model.passages == ["glaciers grind stone"]


def test_a_model_that_fails_in_the_middle_loses_one_window(notes: LocalCollection) -> None:
    def fail(spy: Spy) -> None:
        if spy.calls == 2:
            raise RuntimeError("out of order")

    model = Spy(hook=fail)
    with pytest.raises(EmbeddingFailed, match="out of order"):
        notes.reembed(model)
    assert notes.stats().fingerprint == OLD.fingerprint  # type: ignore[union-attr]  # it was just written
    found(notes, 77)
    state = notes.reembedding()
    assert state is not None
    assert (state.space.fingerprint, state.remaining) == (model.fingerprint, COUNT - 256)
    report = notes.reembed(model)
    assert (report.resumed, report.embedded) == (256, COUNT - 256)
    assert notes.stats().chunks == len(model.passages)  # type: ignore[union-attr]  # nothing was embedded twice
    found(notes, 77)


def test_ctrl_c_keeps_what_was_committed(notes: LocalCollection) -> None:
    def stop(live: ReembedReport) -> None:
        if live.commits == 2:
            raise KeyboardInterrupt

    model = Spy()
    with pytest.raises(KeyboardInterrupt):
        notes.reembed(model, on_progress=stop)
    report = notes.reembed(model)
    assert (report.resumed, report.embedded, report.commits) == (512, 88, 1)
    assert notes.stats().chunks == len(model.passages)  # type: ignore[union-attr]  # nothing was embedded twice


def test_writes_of_other_threads_are_in_the_result(notes: LocalCollection) -> None:
    started = threading.Event()
    written = threading.Event()
    failed: list[Exception] = []

    def write() -> None:
        started.wait()
        try:
            notes.add([{"id": f"n{number}", "text": f"newcomer{number} arrives"} for number in range(50)])
            notes.add(
                [{"id": "d3", "text": "changed3 glaciers grind stone"}, {"id": "d550", "text": "changed550 lava"}]
            )
            notes.delete(["d4", "d551"])
            notes.add([{"id": "d5", "text": body(5), "metadata": {"n": -5}}])
        except Exception as error:  # noqa: BLE001 -- looked at below, in the thread of the test
            failed.append(error)
        written.set()

    def hook(spy: Spy) -> None:
        if spy.calls == 2:  # the first window, which holds d3, d4 and d5, is committed
            started.set()
            written.wait()

    model = Spy(hook=hook)
    writer = threading.Thread(target=write)
    writer.start()
    report = notes.reembed(model)
    writer.join()
    assert failed == []
    assert report.documents == notes.count() == COUNT + 50 - 2
    assert {document.id for document in notes.list(limit=1000)} == {
        hit.id for hit in notes.search("rivers", mode="dense", k=1000)
    }
    assert [hit.id for hit in notes.search("newcomer7", mode="lexical")] == ["n7"]
    assert notes.search("newcomer7 arrives", mode="dense", k=1)[0].id == "n7"
    assert [hit.id for hit in notes.search("changed3", mode="lexical")] == ["d3"]
    assert [hit.id for hit in notes.search("changed550", mode="lexical")] == ["d550"]
    assert notes.search("unique3", mode="lexical") == []
    assert notes.search("unique551", mode="lexical") == []
    assert [document.id for document in notes.list(where={"n": -5})] == ["d5"]
    assert len([text for text in model.passages if "unique5 " in text]) == 1  # only its metadata changed


def test_writers_that_never_stop_are_made_to_wait(notes: LocalCollection) -> None:
    done = threading.Event()
    failed: list[Exception] = []

    def write() -> None:
        number = 0
        while not done.is_set():
            try:
                notes.add([{"id": f"d{each}", "text": f"{body(each)} round{number}"} for each in range(COUNT)])
            except Exception as error:  # noqa: BLE001 -- looked at below, in the thread of the test
                failed.append(error)
                return
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report = notes.reembed(Spy())
    finally:
        done.set()
        writer.join()
    assert failed == []
    assert (report.outcome, notes.count()) == ("swapped", COUNT)
    assert len({hit.id for hit in notes.search("rivers", mode="dense", k=1000)}) == COUNT


def test_rounds_end_even_where_each_leaves_as_much_as_the_one_before(bank: Bank, notes: LocalCollection) -> None:
    """Everything is written anew after every window, but for the time that writers have to wait."""
    turn = bank._engine.store.database._turn

    def rewrite(spy: Spy) -> None:
        if not turn._is_owned():  # type: ignore[attr-defined]  # a lock of this thread
            notes.add([{"id": f"d{each}", "text": f"{body(each)} round{spy.calls}"} for each in range(COUNT)])

    model = Spy(hook=rewrite)
    report = notes.reembed(model)
    assert (report.outcome, report.documents, report.remaining) == ("swapped", COUNT, 0)
    assert len({hit.id for hit in notes.search("rivers", mode="dense", k=1000)}) == COUNT
    assert report.embedded < 6 * COUNT


def test_a_run_that_is_writing_goes_on_with_the_new_model(notes: LocalCollection) -> None:
    model = Spy()

    def documents() -> Iterator[dict[str, str]]:
        for number in range(COUNT):
            if number == 400:  # in the middle of the second window
                notes.reembed(model)
                model.passages.clear()
            yield {"id": f"late{number}", "text": f"late{number} lakes lie still"}

    report = notes.add(documents())
    assert (report.added, report.commits, report.chunks) == (COUNT, 3, COUNT)
    assert len(model.passages) == COUNT - 256
    assert notes.count() == 2 * COUNT
    for number in (0, 300, 599):
        assert notes.search(f"late{number} lakes", mode="dense", k=1)[0].id == f"late{number}"


def test_a_query_that_was_embedded_before_the_swap_is_embedded_again(tmp_path: Path) -> None:
    """Both models have the same dimension: nothing else would tell."""
    model = Spy(dimension=64)
    opened: list[LocalCollection] = []

    class Slow(HashModel):
        def embed(self, texts: Sequence[str], kind: Any = "passage") -> Any:
            if kind == "query" and not model.passages:
                opened[0].reembed(model)
            return super().embed(texts, kind)

    with embank.open(tmp_path / "bank", model=Slow()) as bank:
        notes = bank.collection("notes")
        opened.append(notes)
        notes.add([{"id": f"d{number}", "text": body(number)} for number in range(20)])
        hits = notes.search(body(7), mode="dense", k=1)
        assert [(hit.id, hit.score > 0.9) for hit in hits] == [("d7", True)]


def test_windows_are_bounded(notes: LocalCollection) -> None:
    sizes: list[int] = []

    class Watched(HashModel):
        def embed(self, texts: Sequence[str], kind: Any = "passage") -> Any:
            sizes.append(len(texts))
            return super().embed(texts, kind)

    assert notes.reembed(Watched(name="watched")).outcome == "swapped"
    assert max(sizes) <= WINDOW_DOCUMENTS
    assert sum(sizes) == COUNT


def test_the_same_model_again_is_nothing_to_do_unless_forced(notes: LocalCollection) -> None:
    model = Spy()
    notes.reembed(model)
    embedded = len(model.passages)
    report = notes.reembed(model)
    assert (report.outcome, report.embedded, len(model.passages)) == ("nothing to do", 0, embedded)
    report = notes.reembed(model, force=True)
    assert (report.outcome, report.embedded, len(model.passages)) == ("swapped", COUNT, 2 * embedded)
    found(notes, 9)


def test_vectors_of_the_users_own_are_replaced_by_a_models(bank: Bank) -> None:
    own = bank.collection("own")
    own.add(
        [{"id": "a", "text": "rivers carry silt"}, {"id": "b", "text": "deserts are dry"}], vectors=[[1, 0], [0, 1]]
    )
    with pytest.raises(InvalidInput, match="say which model"):
        own.reembed()
    report = own.reembed(Spy())
    assert (report.outcome, report.replaced) == ("swapped", "user:own:2")
    assert own.search("rivers carry", k=1)[0].id == "a"
    with pytest.raises(FingerprintMismatch, match="these are of user:own:2"):
        own.add([{"id": "c", "text": "x"}], vectors=[[1, 1]])
    assert own.add([{"id": "c", "text": "lakes lie still"}]).added == 1


def test_who_is_refused(bank: Bank, notes: LocalCollection, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFound):
        bank.collection("nothing").reembed(Spy())
    with pytest.raises(InvalidInput, match="say which model"):
        notes.reembed()
    with pytest.raises(InvalidInput, match="has no precision to choose"):
        notes.reembed(Spy(), precision="int8")
    with pytest.raises(ModelNotFound):
        notes.reembed("no-such-model")
    notes.protect()
    with pytest.raises(ProtectedCollectionError):
        notes.reembed(Spy())
    notes.protect(protected=False)
    with (
        embank.open(tmp_path / "bank", model=OLD, read_only=True) as reading,
        pytest.raises(BankReadOnly),
    ):
        reading.collection("notes").reembed(Spy())
    assert notes.reembedding() is None
    found(notes, 1)


def interrupted(notes: LocalCollection, model: Spy) -> None:
    def stop(_: ReembedReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        notes.reembed(model, on_progress=stop)


def test_another_model_than_the_one_under_way_is_refused(bank: Bank, notes: LocalCollection) -> None:
    interrupted(notes, Spy())
    with pytest.raises(FingerprintMismatch, match="go on with that one"):
        notes.reembed(Spy(name="third"))
    with pytest.raises(FingerprintMismatch, match="--abandon"):
        notes.reembed(OLD)
    heard = bank.events.subscribe(None, kinds=(ReembedAbandoned,))
    abandoned = notes.abandon_reembedding()
    assert abandoned is not None
    assert abandoned.remaining == COUNT - 256
    assert [event.kind for event in heard.drain()] == ["ReembedAbandoned"]
    assert notes.reembed(Spy(name="third")).resumed == 0


def test_what_is_under_way_needs_no_name_where_its_model_is_at_hand(bank: Bank, notes: LocalCollection) -> None:
    interrupted(notes, Spy())
    with pytest.raises(InvalidInput, match="say which model"):
        notes.reembed()  # a model of one's own can't be loaded by a name
    bank.close()
    with embank.open(bank.path, model=Spy()) as again:
        assert again.collection("notes").reembed().resumed == 256


def test_a_window_that_does_not_fit_into_memory_is_no_loss(
    bank: Bank, notes: LocalCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    governor = bank._engine.governor
    reserve = governor.reserve

    def refuse(what: str, wanted_bytes: int, **options: Any) -> Any:
        if what == "a window of documents":
            raise BudgetExceeded(what, wanted_bytes=wanted_bytes, available_bytes=0, budget_bytes=1)
        return reserve(what, wanted_bytes, **options)

    with monkeypatch.context() as tight:
        tight.setattr(governor, "reserve", refuse)
        with pytest.raises(BudgetExceeded):
            notes.reembed(Spy())
    found(notes, 2)
    assert notes.reembed(Spy()).embedded == COUNT
