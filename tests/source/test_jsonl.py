"""JSON lines: rows, and what is no row."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from embank.config import Size
from embank.errors import SourceError
from embank.records import Document
from embank.source.jsonl import JsonLines
from embank.source.protocol import Source
from embank.source.report import Reason
from embank.source.rows import content_id
from embank.source.settings import Settings


def lines(tmp_path: Path, *rows: bytes | str | dict[str, object]) -> Path:
    path = tmp_path / "rows.jsonl"
    encoded = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
    path.write_bytes(b"".join((row.encode() if isinstance(row, str) else row) + b"\n" for row in encoded))
    return path


def test_rows(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        {"id": "a", "text": "first", "metadata": {"year": 2024, "tags": ["x"]}, "lang": "en"},
        "",
        {"text": "second"},
        {"id": 7, "text": "third", "year": 1, "metadata": {"year": 2}},
        {"id": "a", "text": "again"},
    )
    source = JsonLines(path)
    assert isinstance(source, Source)
    assert list(source.documents()) == [
        Document("a", "first", {"year": 2024, "tags": ["x"], "lang": "en"}),
        Document(content_id("second"), "second"),
        Document("7", "third", {"year": 2}),
        Document("a", "again"),
    ]
    assert source.root == "jsonl:" + path.resolve().as_uri()
    assert source.report.items == source.report.documents == 4
    assert source.report.bytes_done == source.bytes_total == path.stat().st_size


def test_the_id_of_a_text_without_one_is_its_hash() -> None:
    assert content_id("é") == "d4b1b0202b21bb84e60a3d272ecab0db"


def test_other_keys(tmp_path: Path) -> None:
    path = lines(tmp_path, {"_id": "x", "body": "words", "meta": {"a": 1}, "text": "b"})
    settings = Settings(text_key="body", id_key="_id", metadata_key="meta")
    assert list(JsonLines(path, settings).documents()) == [Document("x", "words", {"text": "b", "a": 1})]


BAD: list[tuple[bytes, Reason, str]] = [
    (b"{", "broken line", "not JSON"),
    (b'{"text": "a"} {', "broken line", "not JSON"),
    (b"[1]", "broken line", "a list"),
    (b"null", "broken line", "null"),
    (b"[" * 100_000, "broken line", "too deeply"),
    (b'{"text": "a", "n": ' + b"9" * 5_000 + b"}", "broken line", "not JSON"),
    (b'{"text": "\xff"}', "undecodable", "byte 10"),
    (b'{"text": "\xed\xa0\x80"}', "undecodable", "byte 10"),
    (b"{}", "no text", "missing"),
    (b'{"text": null}', "no text", "missing"),
    (b'{"text": 5}', "no text", "a number"),
    (b'{"text": ["a"]}', "no text", "a list"),
    (b'{"text": ""}', "empty", "white space"),
    (b'{"text": " \\n\\t"}', "empty", "white space"),
    (b'{"text": "a", "x": NaN}', "bad value", "NaN"),
    (b'{"text": "a", "metadata": {"x": [-Infinity]}}', "bad value", "-Infinity"),
    (b'{"text": "a", "x": 1e999}', "bad value", "1e999"),
    (b'{"text": "\\ud800"}', "bad value", "surrogate"),
    (b'{"text": "a", "id": "\\udc00"}', "bad value", "surrogate"),
    (b'{"text": "a", "k": {"\\ud800": 1}}', "bad value", "surrogate"),
    (b'{"text": "a", "id": ""}', "bad value", "empty string"),
    (b'{"text": "a", "id": 1.5}', "bad value", "a number"),
    (b'{"text": "a", "id": true}', "bad value", "a boolean"),
    (b'{"text": "a", "metadata": [1]}', "bad value", "a list"),
    (b'{"text": "' + b"a" * 2_000_000 + b'"}', "oversized", "source.max_line_bytes"),
]


@pytest.mark.parametrize(("bad", "reason", "detail"), BAD, ids=[f"{number} {row[1]}" for number, row in enumerate(BAD)])
def test_a_broken_line_is_counted_and_the_rest_goes_on(tmp_path: Path, bad: bytes, reason: Reason, detail: str) -> None:
    path = lines(tmp_path, {"id": "1", "text": "a"}, {"id": "2", "text": "b"}, bad, {"id": "4", "text": "d"})
    heard: list[str] = []
    source = JsonLines(path, Settings(max_line_bytes=Size(1_000_000)), on_skip=lambda origin, *_: heard.append(origin))
    assert [document.id for document in source.documents()] == ["1", "2", "4"]
    assert source.report.skipped == {reason: 1}
    assert heard == ["rows.jsonl:3"]
    assert source.report.samples[0].origin == "rows.jsonl:3"
    assert detail in source.report.samples[0].detail
    assert source.report.bytes_done == source.bytes_total


def test_a_whole_surrogate_pair_is_fine(tmp_path: Path) -> None:
    [document] = JsonLines(lines(tmp_path, b'{"text": "\\ud83c\\udf89"}')).documents()
    assert document.text == "🎉"


def test_the_last_line_needs_no_end_and_the_first_may_have_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}')
    assert [document.text for document in JsonLines(path).documents()] == ["a", "b"]


@pytest.mark.parametrize("size", [1023, 1024, 1025])
def test_the_longest_line_allowed(tmp_path: Path, size: int) -> None:
    row = b'{"text": "' + b"x" * (size - 12) + b'"}'
    source = JsonLines(lines(tmp_path, row, row), Settings(max_line_bytes=Size(1024)))
    assert len(list(source.documents())) == (2 if size <= 1024 else 0)


def test_an_endless_line_takes_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        for _ in range(64):
            stream.write(b"x" * (1 << 20))
        stream.write(b'\n{"text": "after"}\n')
    source = JsonLines(path, Settings(max_line_bytes=Size(1 << 20)))
    tracemalloc.start()
    texts = [document.text for document in source.documents()]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts == ["after"]
    assert peak_bytes < 6 << 20


def test_gzip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    source = JsonLines(path)
    assert [document.text for document in source.documents()] == ["a", "b"]
    assert source.report.bytes_done == source.bytes_total == path.stat().st_size


def test_a_truncated_gzip_gives_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = b"".join(b'{"text": "%s"}\n' % os.urandom(32).hex().encode() for _ in range(5_000))
    path.write_bytes(gzip.compress(rows)[:-10_000])
    source = JsonLines(path)
    count = len(list(source.documents()))
    assert 0 < count < 5_000
    assert source.report.skipped["unreadable"] == 1


def test_standard_input() -> None:
    source = JsonLines("-", standard_input=io.BytesIO(b'{"text": "a"}\nbroken\n'))
    assert (source.root, source.bytes_total) == ("jsonl:-", None)
    assert [document.text for document in source.documents()] == ["a"]
    assert source.report.samples[0].origin == "-:2"


def test_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b'{"text": "a"}\n',))
    writer.start()
    source = JsonLines(path)
    assert source.bytes_total is None
    assert [document.text for document in source.documents()] == ["a"]
    writer.join()


def test_an_empty_file(tmp_path: Path) -> None:
    source = JsonLines(lines(tmp_path))
    assert list(source.documents()) == []
    assert source.report.items == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_encodings_are_refused_as_a_whole(tmp_path: Path, encoding: str) -> None:
    path = lines(tmp_path, '{"text": "a"}'.encode(encoding))
    with pytest.raises(SourceError, match="must be UTF-8"):
        list(JsonLines(path).documents())


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        JsonLines(tmp_path / "nowhere.jsonl")
    with pytest.raises(SourceError, match="is a folder"):
        JsonLines(tmp_path)
