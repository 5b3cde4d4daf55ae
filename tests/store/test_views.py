"""The lexical view follows the truth: in the writing process, in reading ones, and after damage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from embank.events.kinds import ViewCaughtUp
from embank.events.stream import Stream
from embank.store import collections, views
from embank.store.lexical import LexicalIndex
from embank.store.local import LocalStore

from .conftest import OpenStore, words, write


def view_folder(root: Path) -> Path:
    (folder,) = (root / "views").glob("*/lexical")
    return folder


def test_a_search_sees_what_was_acknowledged_before_it(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    for number in range(5):
        write(notes, {f"d{number}": f"word{number} common"})
        assert words(notes, f"word{number}") == [f"d{number}"]
    assert len(words(notes, "common")) == 5


def test_a_reader_sees_what_lies_past_the_marker(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {"a": "rivers carry silt", "b": "rivers run"})
    assert len(words(notes, "rivers")) == 2  # the view on disk is now up to date
    reader = open_store(read_only=True).collection("notes")
    write(notes, {"c": "rivers freeze"})
    assert sorted(words(reader, "rivers")) == ["a", "b", "c"]
    write(notes, {"d": "rivers flood", "c": "lakes freeze"})
    notes.delete(["a"])
    assert sorted(words(reader, "rivers")) == ["b", "d"]
    assert sorted(words(notes, "rivers")) == ["b", "d"]
    assert sorted(words(reader, "rivers")) == ["b", "d"]


def test_a_reader_without_any_view_on_disk(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers carry silt"})
    assert words(open_store(read_only=True).collection("notes"), "silt") == ["a"]


def test_a_reader_flags_answers_that_had_to_leave_rows_out(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MAX_TAIL_ROWS", 3)
    write(open_store().collection("notes"), {f"d{number}": "rivers" for number in range(5)})
    reader = open_store(read_only=True).collection("notes")
    with reader.snapshot() as snapshot:
        assert snapshot.degraded
        assert len(snapshot.lexical("rivers", 10).slots) == 3


def test_catching_up_in_steps(open_store: OpenStore) -> None:
    stream = Stream()
    heard = stream.subscribe(None)
    notes = open_store(lexical_rows=10, stream=stream).collection("notes")
    write(notes, {f"d{number:02}": f"common n{number}" for number in range(35)})
    notes.delete(["d00", "d20"])
    notes.catch_up()
    assert len(words(notes, "common", 50)) == 33
    (caught,) = [event for event in heard.drain() if isinstance(event, ViewCaughtUp)]
    assert caught.rows == 33


@pytest.mark.parametrize("damage", ["meta", "segment", "gone", "emptied"])
def test_a_damaged_view_is_built_again(open_store: OpenStore, damage: str) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {"a": "rivers carry silt", "b": "the sea"})
    assert words(notes, "rivers") == ["a"]
    store.close()
    folder = view_folder(store.root)
    if damage == "meta":
        (folder / "meta.json").write_text("{")
    elif damage == "segment":
        for path in folder.glob("*.term"):
            path.write_bytes(b"\0" * 10)
    elif damage == "gone":
        shutil.rmtree(folder)
    else:
        for path in folder.iterdir():
            path.unlink()
    again = open_store().collection("notes")
    assert words(again, "rivers") == ["a"]
    write(again, {"c": "rivers freeze"})
    assert sorted(words(again, "rivers")) == ["a", "c"]


def test_a_view_of_another_bank_is_not_believed(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    write(store.collection("notes"), {"a": "rivers"})
    assert words(store.collection("notes"), "rivers") == ["a"]
    store.close()
    kept = tmp_path / "kept"
    view_folder(store.root).rename(kept)
    shutil.rmtree(store.root)
    other = open_store()
    write(other.collection("notes"), {"z": "lakes", "y": "ponds"})
    other.close()
    target = other.root / "views" / "1-0"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    kept.rename(target / "lexical")
    again = open_store().collection("notes")
    assert words(again, "rivers") == []
    assert words(again, "lakes") == ["z"]


def test_the_writer_gives_its_heap_back(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers"})
    assert words(notes, "rivers") == ["a"]
    view = notes.writer_view()
    assert isinstance(view, views.WriterView)
    held = view.used_bytes()
    assert held > 0
    assert view.release(1) == held
    assert view.used_bytes() == 0
    write(notes, {"b": "rivers run"})
    assert sorted(words(notes, "rivers")) == ["a", "b"]


@pytest.mark.parametrize(
    "query",
    ['"unbalanced', "AND OR NOT", "a:b^2~", "(((", "*", "\0", "+-&&||!{}[]\\", "x" * 100_000, "%%%", "\U0001f980"],
)
def test_any_text_is_a_query(open_store: OpenStore, query: str) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers"})
    assert words(notes, query) == []
    assert words(notes, query + " rivers" if len(query) < 1000 else "rivers") == ["a"]


def test_words_match_by_their_stem_and_without_accents(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "The café parses dates quickly."})
    assert words(notes, "parsing") == ["a"]
    assert words(notes, "CAFE") == ["a"]


def test_a_view_far_behind_is_brought_up_to_date_on_closing(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    write(store.collection("few"), {f"d{number}": "rivers" for number in range(10)})
    write(store.collection("many"), {f"d{number}": "rivers" for number in range(300)})
    store.close()
    assert [folder.parent.name for folder in sorted((tmp_path / "bank" / "views").glob("*/lexical"))] == ["1-0", "2-0"]
    reader = open_store(read_only=True)
    for name, on_disk in (("few", 0), ("many", 300)):
        view = reader._shared.lexical_view(reader_row(reader, name))
        assert isinstance(view, views.ReaderView)
        _, mark = view._look()
        assert mark.slots == on_disk
        assert len(words(reader.collection(name), "rivers", 400)) == {"few": 10, "many": 300}[name]


def reader_row(store: LocalStore, name: str) -> collections.Row:
    with store.database.reading() as connection:
        row = collections.find(connection, name)
    assert row is not None
    return row


def test_a_search_does_not_wait_for_what_is_written_while_it_looks(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is faster than the view may not keep a search for ever."""
    notes = open_store().collection("notes")
    write(notes, {"a": "rivers"})
    words(notes, "rivers")
    apply = LexicalIndex.apply
    applied: list[int] = []  # once a commit

    def writing_meanwhile(self: LexicalIndex, **given: Any) -> int:
        applied.append(len(applied))
        assert len(applied) < 10
        write(notes, {f"d{len(applied)}": "silt"})
        return apply(self, **given)

    monkeypatch.setattr(LexicalIndex, "apply", writing_meanwhile)
    write(notes, {"b": "rivers"})
    assert words(notes, "rivers") == ["a", "b"]
    assert len(applied) == 1
