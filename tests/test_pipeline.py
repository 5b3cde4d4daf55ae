"""The write path over sources: what changed is written, what did not is not embedded, what went is counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.source import pdfs

import embank
from embank.bank import Bank, LocalCollection
from embank.events.kinds import IngestProgressed, SourceItemSkipped, ViewCaughtUp
from embank.pipeline import IngestReport, approximate_tokens
from embank.source.files import TextFiles
from embank.source.jsonl import JsonLines
from embank.source.settings import Settings
from embank.testing.fakes import HashModel


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with embank.open(tmp_path / "bank", model=HashModel()) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    (root / "deep").mkdir(parents=True)
    (root / "a.md").write_text("# Rivers\n\nRivers carry silt to the sea.")
    (root / "b.md").write_text("# Mountains\n\nMountains rise where plates meet.")
    (root / "deep" / "c.txt").write_text("Deserts are dry.")
    (root / "image.png").write_bytes(b"\x89PNG\0\0\0")
    (root / "empty.md").write_text("")
    return root


def index(collection: LocalCollection, root: Path, *, prune: bool = False, **options: Any) -> IngestReport:
    settings = Settings(**options)
    return collection.index(lambda skip: TextFiles(root, settings=settings, on_skip=skip), prune=prune)


def test_a_folder_and_the_same_folder_again(bank: Bank, folder: Path) -> None:
    notes = bank.collection("notes")
    first = index(notes, folder)
    assert (first.added, first.skipped) == (3, {"binary": 1, "empty": 1})
    assert [hit.id for hit in notes.search("deserts are dry", k=1)] == ["deep/c.txt"]
    second = index(notes, folder)
    assert (second.embedded, second.unchanged, second.commits) == (0, 3, 0)


def test_only_a_changed_file_is_embedded(bank: Bank, folder: Path) -> None:
    notes = bank.collection("notes")
    index(notes, folder)
    (folder / "b.md").write_text("# Lakes\n\nLakes lie still.")
    report = index(notes, folder)
    assert (report.updated, report.unchanged, report.added) == (1, 2, 0)
    assert notes.search("lakes", k=1)[0].id == "b.md"


def test_a_vanished_file_is_kept_unless_pruned(bank: Bank, folder: Path) -> None:
    notes = bank.collection("notes")
    notes.add([{"id": "by hand", "text": "written by hand"}])
    index(notes, folder)
    (folder / "a.md").unlink()
    report = index(notes, folder)
    assert (report.vanished, report.pruned, notes.count()) == (1, 0, 4)
    report = index(notes, folder, prune=True)
    assert (report.vanished, report.pruned, notes.count()) == (1, 1, 3)
    assert notes.search("rivers silt", mode="lexical") == []
    assert [row.act for row in bank.audit()] == ["prune"]


def test_a_file_that_can_not_be_read_now_is_not_gone(bank: Bank, folder: Path) -> None:
    notes = bank.collection("notes")
    index(notes, folder)

    def opener(path: str) -> Any:
        if path.endswith("a.md"):
            raise PermissionError(13, "Permission denied", path)
        return Path(path).open("rb")

    report = notes.index(lambda skip: TextFiles(folder, on_skip=skip, opener=opener), prune=True)
    assert report.skipped["unreadable"] == 1
    assert (report.vanished, report.pruned, notes.count()) == (0, 0, 3)


def test_a_pdf_that_can_not_be_read_now_is_not_gone(bank: Bank, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdfium2", reason="the extra docs is not installed")
    notes = bank.collection("notes")
    whole = pdfs.pdf("Glaciers grind rock.", "Moraines stay behind.")
    (folder / "ice.pdf").write_bytes(whole)
    assert index(notes, folder).added == 4
    assert notes.search("glaciers", k=1)[0].metadata == {"path": "ice.pdf", "pages": 2}
    assert index(notes, folder).embedded == 0
    (folder / "ice.pdf").write_bytes(whole[:20])
    report = index(notes, folder, prune=True)
    assert (report.skipped["damaged"], report.vanished, notes.count()) == (1, 0, 4)
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    report = index(notes, folder, prune=True)
    assert (report.skipped["missing extra"], report.vanished, notes.count()) == (1, 0, 4)
    (folder / "ice.pdf").unlink()
    assert index(notes, folder, prune=True).pruned == 1


def test_a_large_file_becomes_parts_and_surplus_parts_go(bank: Bank, folder: Path) -> None:
    notes = bank.collection("notes")
    text = "".join(f"Line {number} of a long file about topic{number}.\n" for number in range(400))
    (folder / "long.txt").write_text(text)
    first = index(notes, folder, max_document_bytes=4096)
    parts = [document for document in notes.list() if document.origin == "long.txt"]
    assert len(parts) == first.added - 3 > 3
    assert "".join(part.text for part in sorted(parts, key=lambda part: part.metadata["part"])) == text
    (folder / "long.txt").write_text(text[:6000])
    report = index(notes, folder, max_document_bytes=4096)
    assert report.surplus == len(parts) - 2
    assert report.vanished == 0
    (folder / "long.txt").write_text("now short")
    report = index(notes, folder, max_document_bytes=4096)
    assert (report.added, report.surplus) == (1, 2)
    assert sorted(document.id for document in notes.list() if document.origin == "long.txt") == ["long.txt"]


def test_two_folders_that_claim_one_id(bank: Bank, folder: Path, tmp_path: Path) -> None:
    notes = bank.collection("notes")
    index(notes, folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.md").write_text("another a")
    report = index(notes, other)
    assert (report.conflicts, report.skipped) == (1, {"conflict": 1})
    assert "Rivers" in notes.get("a.md")[0].text


def test_a_moved_folder_takes_its_documents_along(bank: Bank, folder: Path, tmp_path: Path) -> None:
    notes = bank.collection("notes")
    index(notes, folder)
    moved = folder.rename(tmp_path / "moved")
    report = index(notes, moved)
    assert (report.relabeled, report.conflicts, report.embedded) == (3, 0, 0)
    (moved / "a.md").unlink()
    assert index(notes, moved).vanished == 1


def test_jsonl_with_a_broken_line_three(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"id": "x", "text": "rivers", "year": 2020}, {"id": "y", "text": "lakes"}]
    path.write_text("\n".join([json.dumps(rows[0]), json.dumps(rows[1]), '{"id": "z", "te', json.dumps(rows[0])]))
    heard = bank.events.subscribe(None, kinds=[SourceItemSkipped])
    notes = bank.collection("rows")
    report = notes.index(lambda skip: JsonLines(path, on_skip=skip))
    assert (report.added, report.duplicates, report.skipped) == (2, 1, {"broken line": 1})
    (skip,) = heard.drain()
    assert isinstance(skip, SourceItemSkipped)
    assert "3" in skip.origin + skip.detail
    assert notes.get("x")[0].metadata["year"] == 2020
    # The broken row may be the very one that seems to be gone.
    path.write_text('{"broken\n')
    assert notes.index(lambda skip: JsonLines(path, on_skip=skip), prune=True).pruned == 0
    path.write_text(json.dumps(rows[1]))
    assert notes.index(lambda skip: JsonLines(path, on_skip=skip), prune=True).pruned == 1


def test_a_row_that_can_not_be_kept_is_a_counted_skip(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "x" * 2000, "text": "a"}) + "\n" + json.dumps({"id": "ok", "text": "b"}))
    report = bank.collection("rows").index(lambda skip: JsonLines(path, on_skip=skip))
    assert (report.added, report.skipped) == (1, {"bad value": 1})


def test_duplicates_across_windows(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"id": f"r{number % 500}", "text": f"text {number}"} for number in range(1000)]
    path.write_text("\n".join(map(json.dumps, rows)))
    report = bank.collection("rows").index(lambda skip: JsonLines(path, on_skip=skip))
    assert (report.seen, report.added, report.duplicates, report.updated) == (1000, 500, 500, 0)
    assert bank.collection("rows").get("r7")[0].text == "text 507"


def test_other_chunk_settings_cut_anew(tmp_path: Path, folder: Path) -> None:
    for tokens, embedded in ((64, 3), (64, 0), (8, 3)):
        with embank.open(tmp_path / "bank", model=HashModel(), flags={"chunk.max_tokens": tokens}) as bank:
            assert index(bank.collection("notes"), folder).embedded == embedded


def test_progress_is_told_after_every_window(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(number), "text": "t"}) for number in range(600)))
    heard = bank.events.subscribe(None, kinds=[IngestProgressed])
    seen: list[tuple[int, int]] = []
    bank.collection("rows").index(
        lambda skip: JsonLines(path, on_skip=skip),
        on_progress=lambda report: seen.append((report.seen, report.commits)),
    )
    assert seen == [(256, 1), (512, 2), (600, 3), (600, 3)]
    events = [event for event in heard.drain() if isinstance(event, IngestProgressed)]
    assert [event.seen for event in events] == [256, 512, 600, 600]
    assert events[-1].bytes_done == events[-1].bytes_total == path.stat().st_size


def test_interrupted_runs_keep_what_was_committed_and_go_on(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(number), "text": f"text {number}"}) for number in range(600)))
    notes = bank.collection("rows")

    def interrupt(report: IngestReport) -> None:
        if report.commits == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        notes.index(lambda skip: JsonLines(path, on_skip=skip), on_progress=interrupt)
    assert notes.count() == 512
    report = notes.index(lambda skip: JsonLines(path, on_skip=skip))
    assert (report.unchanged, report.added) == (512, 88)


def test_the_approximate_counter_rarely_counts_too_few() -> None:
    texts = ["", "a", "The quick brown fox jumps.", "Überraschung", "\U0001f980"]
    assert approximate_tokens(texts) == [0, 1, 9, 5, 2]


def test_the_lexical_view_never_lags_far_behind_a_long_run(tmp_path: Path) -> None:
    """A process that reads meanwhile must find few passages past the view's marker, however long the run."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(number), "text": f"text {number}"}) for number in range(1500)))
    documents = ({"id": f"added {number}", "text": f"text {number}"} for number in range(1500))
    with embank.open(tmp_path / "bank", model=HashModel(), flags={"store.lexical_rows": 300}) as bank:
        heard = bank.events.subscribe(None, kinds=[ViewCaughtUp])
        bank.collection("indexed").index(lambda skip: JsonLines(path, on_skip=skip))
        bank.collection("added").add(documents)
        caught = [event for event in heard.drain() if isinstance(event, ViewCaughtUp)]
    for name in ("indexed", "added"):
        steps = [event.rows for event in caught if event.collection == name]
        assert len(steps) >= 2, name
        assert max(steps) < 300 + 256, name
