"""PDF files as a source: what is read, and that no file takes the rest along."""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
from pathlib import Path

import pytest
from tests.source import pdfs

from embank.config import Size
from embank.errors import MissingExtra
from embank.records import Document
from embank.source import pdf as reading
from embank.source.files import TextFiles
from embank.source.pdf import PdfReader, is_pdf
from embank.source.report import Reason
from embank.source.settings import Settings

HERE = "the river carries silt"


@pytest.fixture
def library() -> None:
    pytest.importorskip("pypdfium2", reason="the extra docs is not installed")


def source(folder: Path, **settings: object) -> TextFiles:
    return TextFiles(folder, settings=Settings(**settings))  # type: ignore[arg-type]  # checked by pydantic


@pytest.mark.usefixtures("library")
def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdfs.pdf("Naïve rivers car-\nry silt.\nFar.", "Page (two)", title="On  Rivers"))
    (tmp_path / "unnamed").write_bytes(pdfs.pdf(HERE))
    found = source(tmp_path)
    assert list(found.documents()) == [
        Document(
            "a.pdf",
            "Naïve rivers carry silt.\nFar.\f\n\nPage (two)",
            {"path": "a.pdf", "title": "On Rivers", "pages": 2},
            "a.pdf",
        ),
        Document("unnamed", HERE, {"path": "unnamed", "pages": 1}, "unnamed"),
    ]
    assert found.report.bytes_done == found.bytes_total
    assert found.report.skipped_total == 0


@pytest.mark.usefixtures("library")
def test_a_large_file_comes_in_parts_that_tell_their_page(tmp_path: Path) -> None:
    pages = ["\n".join(f"{number} {HERE} line {line}" for line in range(80)) for number in range(1, 13)]
    (tmp_path / "a.pdf").write_bytes(pdfs.pdf(*pages))
    parts = list(source(tmp_path, max_document_bytes=Size(8192)).documents())
    assert len(parts) > 3
    assert "".join(part.text for part in parts) == "\f\n\n".join(pages)
    for number, part in enumerate(parts, start=1):
        assert part.id == f"a.pdf#part={number}"
        assert part.origin == "a.pdf"
        first = int(part.text.strip().partition(" ")[0])
        assert part.metadata == {"path": "a.pdf", "pages": 12, "part": number, "page": first}


@pytest.mark.usefixtures("library")
def test_memory_does_not_grow_with_the_pages(tmp_path: Path) -> None:
    page = "\n".join(HERE * 6 for _ in range(85))
    (tmp_path / "a.pdf").write_bytes(pdfs.pdf(*[page] * 80))
    found = source(tmp_path, max_document_bytes=Size("32KiB"))
    tracemalloc.start()
    total = sum(len(part.text) for part in found.documents())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total >= 80 * len(page)
    assert peak_bytes < total // 2


MISSING_PAGE = pdfs.objects([pdfs.drawn(HERE), b"", pdfs.drawn("the end")])
MISSING_PAGE[5] = b"null"
LOOP = pdfs.objects([pdfs.drawn(HERE)])
LOOP[1] = b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2000000000 >>"
NO_PAGES = pdfs.objects([])
WHOLE = pdfs.pdf(HERE)

BAD: dict[str, tuple[bytes, Reason, str]] = {
    "a password": (pdfs.encrypted(HERE, b"secret"), "encrypted", "password"),
    "nothing but a header": (b"%PDF-1.7\n", "damaged", "no PDF"),
    "noise": (b"%PDF-1.7\n" + random.Random(1).randbytes(9000), "damaged", "no PDF"),
    "another format": (b"<html>", "damaged", "no PDF"),
    "no pages": (pdfs.file(NO_PAGES), "damaged", "no"),
    "no text": (pdfs.file(pdfs.objects([b"0 0 100 100 re f", b"1 0 0 rg"])), "no text", "2 pages"),
    "nothing": (b"", "empty", ""),
    "pages that hold themselves": (pdfs.file(LOOP), "damaged", ""),
    "its own predecessor": (WHOLE.replace(b"/Root 1 0 R", b"/Root 9 0 R /Prev 9"), "damaged", ""),
    "too much to unpack": (pdfs.bomb(600 << 20), "over limit", "source.pdf_memory"),
    "no end of work": (pdfs.endless(), "over limit", "source.pdf_seconds"),
}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_counted_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    content, reason, detail = BAD[name]
    for other in ("a.pdf", "c.pdf"):
        (tmp_path / other).write_bytes(WHOLE)
    (tmp_path / "b.pdf").write_bytes(content)
    is_late = detail == "source.pdf_seconds"  # what such a file may take in memory meanwhile is not the point
    limits = {"pdf_seconds": 2.0, "pdf_memory": Size("1GiB")} if is_late else {"pdf_memory": Size("128MiB")}
    found = source(tmp_path, **limits)
    assert [document.id for document in found.documents()] == ["a.pdf", "c.pdf"]
    assert found.report.skipped == {reason: 1}
    assert detail in found.report.samples[0].detail
    assert found.report.bytes_done == found.bytes_total


@pytest.mark.usefixtures("library")
def test_encrypted_for_everybody_to_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdfs.encrypted(HERE, b""))
    assert [document.text for document in source(tmp_path).documents()] == [HERE]


@pytest.mark.usefixtures("library")
def test_a_page_that_is_missing_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdfs.file(MISSING_PAGE))
    found = source(tmp_path)
    assert [document.text for document in found.documents()] == [HERE + "\f\n\n\f\n\nthe end"]
    assert [(skip.reason, skip.detail) for skip in found.report.samples] == [
        ("damaged", "1 of 3 pages can't be read, the first is page 2")
    ]


@pytest.mark.usefixtures("library")
def test_of_cut_and_altered_files_each_is_read_or_counted(tmp_path: Path) -> None:
    chance = random.Random(7)
    whole = pdfs.pdf(*[HERE] * 3, title="Rivers")
    for number in range(60):
        altered = bytearray(whole)
        if number % 3:
            for _ in range(chance.randrange(1, 12)):
                altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
        else:
            del altered[chance.randrange(8, len(altered)) :]
        (tmp_path / f"{number:02}.pdf").write_bytes(altered)
    heard: set[str | None] = set()
    found = TextFiles(tmp_path, settings=Settings(pdf_seconds=10.0), on_skip=lambda origin, *_: heard.add(origin))
    read = {document.origin for document in found.documents()}
    assert found.report.items == len(read | heard) == 60
    assert set(found.report.skipped) <= {"damaged", "encrypted", "no text", "binary"}
    assert len(read) > 10


@pytest.mark.usefixtures("library")
def test_a_file_that_was_left_in_its_midst_does_not_disturb_the_next(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdfs.pdf(*["\n".join([HERE * 10] * 80)] * 60))
    (tmp_path / "b.pdf").write_bytes(WHOLE)
    with PdfReader(limit_s=60, limit_bytes=256 << 20) as reader:
        with (tmp_path / "a.pdf").open("rb") as stream:
            left = reader.read(stream)
        assert isinstance(left, reading.PdfText)
        next(left.blocks)
        with (tmp_path / "b.pdf").open("rb") as stream:
            whole = reader.read(stream)
        assert isinstance(whole, reading.PdfText)
        assert "".join(whole.blocks) == HERE


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a module that takes the child's place: `odd.py`."""
    folder = tmp_path / "odd"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(reading, "_CHILD", "odd")
    monkeypatch.setattr(reading, "missing_extra", lambda: None)
    return folder


ODD: dict[str, tuple[str, Reason, str]] = {
    "ends": ("sys.exit(3)", "damaged", "ended with status 3"),
    "is killed": ("os.kill(os.getpid(), 9)", "damaged", "SIGKILL"),
    "is silent": ("time.sleep(60)", "over limit", "source.pdf_seconds"),
    "hangs up": ("s.close(); time.sleep(60)", "damaged", "hung up"),
    "talks nonsense": ("s.sendall(b'nonsense' * 9); time.sleep(60)", "damaged", "nonsense"),
    "has no head": ("s.sendall(b'T\\0\\0\\0\\1a'); time.sleep(60)", "damaged", "nonsense"),
    "has a bad head": ("s.sendall(b'H\\0\\0\\0\\1{'); time.sleep(60)", "damaged", "nonsense"),
    "has no reason": ("s.sendall(b'X\\0\\0\\0\\2{}'); time.sleep(60)", "damaged", ""),
}


@pytest.mark.parametrize("name", ODD)
def test_a_reader_that_goes_wrong(tmp_path: Path, odd: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    act, reason, detail = ODD[name]
    (odd / "odd.py").write_text(f"import os, socket, sys, time\ns = socket.socket(fileno=int(sys.argv[1]))\n{act}\n")
    (tmp_path / "a.pdf").write_bytes(WHOLE)
    monkeypatch.setattr(reading, "_EXIT_S", 0.5)
    found = source(tmp_path / "a.pdf", pdf_seconds=1.0 if reason == "over limit" else 60.0)
    assert list(found.documents()) == []
    assert found.report.skipped == {reason: 1}
    assert detail in found.report.samples[0].detail


def test_a_reader_that_died_meanwhile_is_replaced(tmp_path: Path, odd: Path) -> None:
    act = (
        "import os, socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nsocket.recv_fds(s, 8, 1)\n"
        'head, end = b\'{"pages": 1, "title": ""}\', b"{}"\n'
        "s.sendall(b'H' + len(head).to_bytes(4, 'big') + head + b'T\\0\\0\\0\\1a' + b'E\\0\\0\\0\\2' + end)\n"
    )
    (odd / "odd.py").write_text(act)
    for name in ("a.pdf", "b.pdf", "c.pdf"):
        (tmp_path / name).write_bytes(WHOLE)
    assert [document.text for document in source(tmp_path, exclude=("odd/",)).documents()] == ["a", "a", "a"]


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    (tmp_path / "a.pdf").write_bytes(WHOLE)
    (tmp_path / "b.txt").write_text("text")
    found = source(tmp_path)
    assert [document.id for document in found.documents()] == ["b.txt"]
    assert found.report.skipped == {"missing extra": 1}
    assert "embank[docs]" in found.report.samples[0].detail
    with pytest.raises(MissingExtra, match=r"embank\[docs\]"):
        TextFiles(tmp_path / "a.pdf")


def test_which_files_are_pdf() -> None:
    assert is_pdf(b"%PDF-1.4", "notes")
    assert is_pdf(b"junk", "A.PDF")
    assert not is_pdf(b"", "a.pdf")
    assert not is_pdf(b"text", "a.txt")


@pytest.mark.usefixtures("library")
def test_the_child_ends_with_the_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = reading._started

    def noted(*given: int) -> object:
        process = start(*given)
        started.append(process.pid)
        return process

    monkeypatch.setattr(reading, "_started", noted)
    for name in ("a.pdf", "b.pdf"):
        (tmp_path / name).write_bytes(WHOLE)
    documents = source(tmp_path).documents()
    next(documents)
    [pid] = started
    assert Path(f"/proc/{pid}").exists()
    documents.close()  # type: ignore[attr-defined]  # a generator
    assert not Path(f"/proc/{pid}").exists()
