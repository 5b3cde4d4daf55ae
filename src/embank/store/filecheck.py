"""Whether the files beside `bank.db` are what it says: segments of vectors, and the views derived from the truth.

Everything is read in blocks, in plain reads: where a disk fails, a mapping would end the process.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embank.errors import BankDamaged
from embank.store import vectors
from embank.store.checksums import Compared
from embank.store.codec import Stored
from embank.store.collections import Row
from embank.store.index import saved
from embank.store.lexical import LexicalIndex, Mark
from embank.store.schema import DATABASE
from embank.store.vectors import Segments
from embank.system.files import Files

_BLOCK_BYTES = 2_097_152
_FOOTER = struct.Struct("<II")  # the length of the JSON before it, and tantivy's own number
_TANTIVY = 1337
_HEAP_BYTES = 15_000_000

Slots = npt.NDArray[np.int64]
Compare = Callable[[Stored, int], Compared]
"""Holds records, the first of them at a slot, against the checksums of the passages there."""

_WAY_OUT = "write these documents again, or restore a backup"


def segments_of(root: Path, row: Row, files: Files) -> Segments | None:
    """The segment files of a row's generation, none of which is opened; `None` before its first vector."""
    codec = row.codec()
    if codec is None:
        return None
    return Segments(root / "vectors" / _folder(row), codec, files=files, metric=row.info.metric)


def parts(row: Row) -> Iterator[tuple[int, int]]:
    """The numbers of a generation's segments, each with the rows that are recorded of it."""
    for number in range(-(-row.slots // vectors.SEGMENT_ROWS)):
        yield number, min(row.slots - number * vectors.SEGMENT_ROWS, vectors.SEGMENT_ROWS)


def segment(
    segments: Segments, row: Row, number: int, rows: int, *, compare: Compare, full: bool = False
) -> Iterator[tuple[str, Slots]]:
    """What is wrong with a segment, and the slots that it concerns.

    Vectors are held against their checksums; those without one, and with `full` all, must be possible ones.
    """
    codec = row.codec()
    if codec is None:
        return
    unit = row.info.metric == "cosine"
    first, path = number * vectors.SEGMENT_ROWS, segments.path(number)
    every = np.arange(first, first + rows, dtype=np.int64)
    try:
        with path.open("rb") as file:
            header = segments.header(number)
            if file.read(len(header)) != header:
                yield f"it is not the segment that the bank recorded (its header differs): {_WAY_OUT}", every
                return
            size = os.fstat(file.fileno()).st_size
            there = min(max(size - segments.offset(0), 0) // codec.record.itemsize, rows)
            if there < rows:
                yield f"it is shorter than the {segments.offset(rows):,} bytes recorded: {_WAY_OUT}", every[there:]
            file.seek(segments.offset(0))
            step = max(_BLOCK_BYTES // (4 * codec.dimension), 1)
            bad, differing = [every[:0]], [every[:0]]
            for start in range(0, there, step):
                count = min(step, there - start)
                block = np.frombuffer(file.read(count * codec.record.itemsize), codec.record)
                compared = compare(block, first + start)
                differing.append(np.array(compared.differing, np.int64))
                asked = np.arange(count) if full else np.array(compared.without, np.int64) - (first + start)
                if len(asked):
                    bad.append(first + start + asked[codec.damaged(block[asked], unit=unit)])
    except FileNotFoundError:
        yield f"it is missing: {_WAY_OUT}", every
        return
    except OSError as error:
        yield f"it can't be read ({error.strerror}): {_WAY_OUT}", every
        return
    altered = np.concatenate(differing)
    if len(altered):
        yield f"it holds vectors that, or their rows in {DATABASE}, are not as they were written: {_WAY_OUT}", altered
    impossible = np.setdiff1d(np.concatenate(bad), altered)
    if len(impossible):
        yield f"it holds vectors that are not {'of unit length' if unit else 'finite'}: {_WAY_OUT}", impossible


def lexical(root: Path, bank: str, row: Row) -> tuple[str, str | None, Mark | None]:
    """The lexical view: where it lies, what is wrong with it, and what it says it has applied (if it is there).

    Every byte is held against the checksums that tantivy keeps. Raises nothing for a view that is rewritten meanwhile.
    """
    path = root / "views" / _folder(row) / "lexical"
    place = path.relative_to(root).as_posix()
    if not path.exists():
        return place, None, None
    try:
        _check_lexical_files(path)
        index = LexicalIndex(path, writer_bytes=_HEAP_BYTES)
        searcher, mark = index.searcher(), index.mark(_truth(bank, row))
    except (ValueError, OSError) as error:
        return place, str(error), None
    if not mark.slots and searcher.documents:
        return place, "it is of another collection or version", None
    if mark.sequence == row.sequence and searcher.documents != row.info.chunks + 1:
        return place, f"it holds {searcher.documents - 1:,} passages of {row.info.chunks:,}", mark
    return place, None, mark


def vector_index(root: Path, bank: str, row: Row, files: Files) -> tuple[str, str | None, Mark | None]:
    """The same for the saved vector index, whose own checksums cover every byte."""
    path = root / "views" / _folder(row) / "vectors.index"
    place = path.relative_to(root).as_posix()
    try:
        told = saved.check(path)
    except (ValueError, OSError) as error:
        return place, str(error), None
    if told is None:
        return place, None, None
    if told.name != _truth(bank, row):
        return place, "it is of another collection", None
    # What is of a later state the caller can tell, and what a segment lacks is told with the segment.
    wrong = "it is of other vectors" if told.rows <= row.slots and _is_other(root, row, told, files) else None
    return place, wrong, Mark(told.name, told.sequence, told.rows)


def _is_other(root: Path, row: Row, told: saved.Head, files: Files) -> bool:
    segments = segments_of(root, row, files)
    try:
        return segments is not None and told.witness != saved.witness(segments.rows(told.rows), told.rows)
    except BankDamaged:
        return False


def _check_lexical_files(path: Path) -> None:
    """Raise `ValueError` for a file whose bytes differ from its checksum."""
    for _ in range(100):
        meta = (path / "meta.json").read_bytes()
        try:
            for name in _lexical_names(path, meta):
                _check_footer(path / name)
        except FileNotFoundError:
            if (path / "meta.json").read_bytes() == meta:
                raise
        else:
            return


def _lexical_names(path: Path, meta: bytes) -> list[str]:
    try:
        ids = {each["segment_id"].replace("-", "") for each in json.loads(meta)["segments"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"meta.json can't be understood: {error}") from error
    names = [each.name for each in path.iterdir() if each.name.partition(".")[0] in ids]
    if missing := ids - {name.partition(".")[0] for name in names}:
        raise FileNotFoundError(f"the files of {min(missing)} are missing")
    return names


def _check_footer(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _FOOTER.size, 0))
        tail = file.read(_FOOTER.size)
        length, number = _FOOTER.unpack(tail) if len(tail) == _FOOTER.size else (0, 0)
        left = size - _FOOTER.size - length
        if number != _TANTIVY or left < 0:
            raise ValueError(f"{path.name} has no checksum at its end")
        file.seek(left)
        try:
            recorded = json.loads(file.read(length))["crc"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the checksum of {path.name} can't be read") from error
        file.seek(0)
        checksum = 0
        while left > 0 and (data := file.read(min(left, _BLOCK_BYTES))):
            left, checksum = left - len(data), zlib.crc32(data, checksum)
    if left or checksum != recorded:
        raise ValueError(f"the checksum of {path.name} differs")


def _folder(row: Row) -> str:
    return f"{row.key}-{row.info.generation}"


def _truth(bank: str, row: Row) -> str:
    return f"{bank}:{row.key}:{row.info.generation}"
