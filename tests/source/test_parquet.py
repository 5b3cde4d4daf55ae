"""Parquet files as a source: rows by the rules of JSON lines, in bounded memory."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from embank.config import Size
from embank.errors import MissingExtra, SourceError
from embank.records import Document
from embank.source.parquet import ParquetRows
from embank.source.protocol import Source
from embank.source.report import Reason
from embank.source.rows import content_id
from embank.source.settings import Settings

pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
pq = pytest.importorskip("pyarrow.parquet")


def written(folder: Path, table: dict[str, Any], **options: Any) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.table(table), path, **options)
    return path


def test_rows(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "id": ["a", None, "a"],
            "text": ["first", "second", "again"],
            "year": [2024, None, 1],
            "metadata": [{"tags": ["x"]}, None, {"tags": ["y"]}],
        },
    )
    source = ParquetRows(path)
    assert isinstance(source, Source)
    assert list(source.documents()) == [
        Document("a", "first", {"year": 2024, "tags": ["x"]}),
        Document(content_id("second"), "second"),
        Document("a", "again", {"year": 1, "tags": ["y"]}),
    ]
    assert source.root == "parquet:" + path.resolve().as_uri()
    assert source.report.items == source.report.documents == 3
    assert source.report.bytes_done == source.bytes_total == path.stat().st_size


def test_other_columns(tmp_path: Path) -> None:
    path = written(tmp_path, {"key": [7], "body": ["words"], "lang": ["en"], "vector": [[0.5]], "picture": [b"x"]})
    settings = Settings(text_key="body", id_key="key", columns=("lang",))
    assert list(ParquetRows(path, settings).documents()) == [Document("7", "words", {"lang": "en"})]


def test_values_become_those_of_json(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 5, 6, 7, 8, 9, 123456)  # noqa: DTZ001 -- columns without a zone are common
    path = written(
        tmp_path,
        {
            "text": pa.array(["a"], pa.large_string()),
            "kind": pa.array(["x"]).dictionary_encode(),
            "day": [dt.date(2024, 5, 6)],
            "at": pa.array([moment], pa.timestamp("ns")),
            "zoned": pa.array([moment], pa.timestamp("us", "UTC")),
            "time": pa.array([dt.time(1, 2, 3)], pa.time64("ns")),
            "took": pa.array([dt.timedelta(seconds=90)], pa.duration("ns")),
            "price": [decimal.Decimal("12.50")],
            "whole": [decimal.Decimal("3.00")],
            "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "nested": [{"list": [1, None], "day": dt.date(2024, 5, 6)}],
            "nothing": pa.nulls(1),
        },
    )
    [document] = ParquetRows(path).documents()
    assert document.metadata == {
        "kind": "x",
        "day": "2024-05-06",
        "at": "2024-05-06T07:08:09.123456",
        "zoned": "2024-05-06T07:08:09.123456+00:00",
        "time": "01:02:03",
        "took": 90.0,
        "price": 12.5,
        "whole": 3,
        "pairs": {"k": 1},
        "nested": {"list": [1, None], "day": "2024-05-06"},
    }
    assert json.dumps(document.metadata)


def test_metadata_may_be_the_json_of_an_object(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": ["a", "b", "c"], "metadata": ['{"year": 1}', "[1]", "{"]})
    source = ParquetRows(path)
    assert [document.metadata for document in source.documents()] == [{"year": 1}]
    assert source.report.skipped == {"bad value": 2}


BAD: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "no text": ({"text": [None]}, "no text", "missing"),
    "blank": ({"text": [" \n"]}, "empty", "white space"),
    "an empty id": ({"text": ["a"], "id": [""]}, "bad value", "empty string"),
    "not finite": ({"text": ["a"], "score": [float("nan")]}, "bad value", "'score': nan"),
    "not finite within": ({"text": ["a"], "scores": [[float("inf")]]}, "bad value", "'scores': inf"),
    "too long": ({"text": ["a" * 2000]}, "oversized", "source.max_line_bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_counted_with_its_number_and_the_rest_goes_on(tmp_path: Path, name: str) -> None:
    row, reason, detail = BAD[name]
    good = {"text": ["good"], "id": ["x"], "score": [1.0], "scores": [[1.0]]}
    rows = {key: good[key] + row.get(key, good[key]) + good[key] for key in good}
    heard: list[str] = []
    settings = Settings(max_line_bytes=Size(1024))
    source = ParquetRows(written(tmp_path, rows), settings, on_skip=lambda origin, *_: heard.append(origin))
    assert [document.text for document in source.documents()] == ["good", "good"]
    assert source.report.skipped == {reason: 1}
    assert heard == ["rows.parquet:2"]
    assert detail in source.report.samples[0].detail


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 2, [None, *pa.array([b"ok", b"\xff"]).buffers()[1:]])
    source = ParquetRows(written(tmp_path, {"text": broken}))
    assert [document.text for document in source.documents()] == ["ok"]
    assert source.report.skipped == {"undecodable": 1}


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ({"body": ["a"]}, {}, "no column 'text'.*source.text_key.*body"),
        ({"text": [1]}, {}, "'text' is int64.*source.text_key"),
        ({"text": ["a"], "id": [1.5]}, {}, "'id' is double.*source.id_key"),
        ({"text": ["a"], "picture": [b"x"]}, {}, "'picture' is binary.*source.columns"),
        ({"text": ["a"], "deep": [[{"x": b"x"}]]}, {}, "'deep' is list.*source.columns"),
        ({"text": ["a"]}, {"columns": ("lang",)}, "no column lang"),
    ],
)
def test_columns_that_can_not_be_used_are_named(
    tmp_path: Path, table: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        ParquetRows(written(tmp_path, table), Settings(**settings))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match="no whole Parquet file"):
        ParquetRows(path)
    with pytest.raises(SourceError, match="there is no file"):
        ParquetRows(tmp_path / "nowhere.parquet")
    with pytest.raises(SourceError, match="is a folder"):
        ParquetRows(tmp_path)


def test_a_damaged_row_group_ends_the_file_and_is_counted(tmp_path: Path) -> None:
    rows = [f"text number {number} " * 20 for number in range(900)]
    path = written(tmp_path, {"text": rows}, row_group_size=300, compression="snappy", use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[place : place + 40] = bytes(40)
    path.write_bytes(damaged)
    source = ParquetRows(path)
    assert [document.text for document in source.documents()] == rows[:300]
    [skip] = source.report.samples
    assert (skip.origin, skip.reason) == ("rows.parquet:301", "unreadable")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    text = "The river carries silt and sand to the delta. " * 20
    rows = [f"{number} {text}" for number in range(30_000)]
    path = written(tmp_path, {"text": rows}, row_group_size=10_000, use_dictionary=False, compression="none")
    del rows
    before = pa.default_memory_pool().bytes_allocated()
    most = count = 0
    for _ in ParquetRows(path).documents():
        count += 1
        if count % 100 == 0:
            most = max(most, pa.default_memory_pool().bytes_allocated() - before)
    assert count == 30_000
    assert most < path.stat().st_size // 3


def test_no_rows(tmp_path: Path) -> None:
    assert list(ParquetRows(written(tmp_path, {"text": pa.array([], pa.string())})).documents()) == []


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, {"text": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"embank\[parquet\]"):
        ParquetRows(path)
