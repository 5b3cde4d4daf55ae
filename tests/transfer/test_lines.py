"""Exports as JSON lines: what is wrong with a file is told by line and column."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embank.errors import SourceError
from embank.records import Chunk, Document
from embank.store.codec import Codec
from embank.testing.fakes import HashModel
from embank.transfer.form import BadRow, Head, Item
from embank.transfer.lines import LineReader, LineWriter

MODEL = HashModel()
CODEC = Codec("fp16", 64)
HEAD = Head("notes", "cosine", True, MODEL.fingerprint, 64, "fp16")


def exported(head: Head = HEAD) -> list[Any]:
    """The lines of an export of two documents with a passage each, as JSON."""
    out = io.BytesIO()
    writer = LineWriter(head, out.write)
    texts = ["Rivers carry silt.", "Bread rises."]
    records = CODEC.encode(MODEL.embed(texts))
    writer.add(
        [
            Item(Document(f"d{n}", text, {"n": n}), [Chunk(text, 0, len(text))], bytes(16), records[n : n + 1])
            for n, text in enumerate(texts)
        ]
    )
    writer.close()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def opened(rows: list[Any]) -> LineReader:
    """A reader of lines, given as JSON or as they are."""
    encoded = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return LineReader(io.BytesIO(b"\n".join([*encoded, b""])), name="a.jsonl")


def the_bad_one(rows: list[Any]) -> str:
    (bad,) = [str(row) for row in opened(rows).rows() if isinstance(row, BadRow)]
    return bad


NAN = base64.b64encode(np.full(64, np.nan, np.float16).tobytes()).decode()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("id", 7, "line 2, id: is a number, not a string"),
        ("id", "", "line 2, id or text: a document's id must be a string that is not empty"),
        ("text", None, "line 2, text: is missing, not a string"),
        ("metadata", [], "line 2, metadata: is a list, not an object"),
        ("metadata", {"a": "x" * 70_000}, "line 2, metadata: .*metadata of 70,008 bytes"),
        ("passages", [[0, 10**9]], "line 2, passages: number 0 is no pair of offsets"),
        ("passages", [[True, 1]], "line 2, passages: number 0 is no pair of offsets"),
        ("passages", None, "line 2, passages: is missing, not a list"),
        ("vectors", [], "line 2, vectors: one for each of the 1 passages was due, there are 0"),
        ("vectors", ["AAAA"], "line 2, vectors: number 0 has 3 bytes; fp16 takes 128"),
        ("vectors", ["*"], "line 2, vectors: is no base64"),
        ("vectors", [NAN], "line 2, vectors: number 0 is not of unit length, or not finite"),
        ("digest", "AAAA", "line 2, digest: 16 bytes were due"),
    ],
)
def test_a_value_that_can_not_be_taken(key: str, value: object, told: str) -> None:
    rows = exported()
    rows[1][key] = value
    assert re.match(told, the_bad_one(rows))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"id": "a", "text": oops}', "line 2, column 21: not JSON"),
        (b'{"id": "a\xff"}', "line 2, byte 10: not UTF-8"),
        (b"[1]", "line 2, the whole: not an object"),
        (b"", r"line 2, column \d: not JSON"),
        (b'{"id": "\\ud800", "text": "", "metadata": {}, "passages": []}', "line 2, id or text: .*lone surrogate"),
        (b'{"id": "a", "text": "", "metadata": {"a": NaN}, "passages": []}', "line 2, metadata: NaN"),
        (b'{"id": "a", "text": "", "metadata": {"a": 1e999}, "passages": []}', "line 2, metadata: .*can't be kept"),
        (b"[" * 100_000, "line 2, the whole: nested too deeply"),
    ],
)
def test_a_broken_line(line: bytes, told: str) -> None:
    head, *rows = exported(Head("notes", "cosine", vectors=False))
    assert re.match(told, the_bad_one([head, line, *rows]))


@pytest.mark.parametrize("change", [{"embank_export": 2}, {"vectors": 1}, {"dimension": 0}, {"dtype": "fp8"}])
def test_a_head_that_is_wrong(change: dict[str, Any]) -> None:
    rows = exported()
    rows[0].update(change)
    with pytest.raises(SourceError, match=r"version 2|head is damaged"):
        opened(rows)


def take_out(rows: list[Any]) -> None:
    del rows[1]


def take_the_end(rows: list[Any]) -> None:
    del rows[-1]


def go_on(rows: list[Any]) -> None:
    rows.append({"id": "more"})


@pytest.mark.parametrize(
    ("change", "told"),
    [(take_out, "it has 1 documents"), (take_the_end, "was cut short"), (go_on, "goes on behind its end")],
)
def test_lines_too_few_or_too_many(change: Callable[[list[Any]], None], told: str) -> None:
    rows = exported()
    change(rows)
    with pytest.raises(SourceError, match=told):
        list(opened(rows).rows())


def test_it_can_be_read_more_than_once() -> None:
    reader = opened(exported())
    assert [len(list(reader.rows())) for _ in range(3)] == [2, 2, 2]
    assert reader.fraction == 1.0
