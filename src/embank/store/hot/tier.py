"""The hot tier on the disk: copies of some vectors of a generation, in a folder of their own, and how to search them.

    hot/tier.json       what is in use: the folder, the slots that the copies are of, checksums; replaced whole
    hot/FOLDER/         the copied records, as a segment, and a forest of Annoy over them where Annoy is installed

It belongs to one generation, in which a slot's vector never changes and no slot is used twice. So what a tier says of a
slot stays true, and what was deleted or written anew since is told by the tombstones of whoever searches.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embank.store.codec import Codec, Stored
from embank.store.hot import checked
from embank.store.index import annoy
from embank.store.index.annoy import AnnoyCodes, Forest, ForestFile
from embank.store.index.exact import ExactIndex
from embank.store.index.protocol import Index, Mask, Neighbors, Slots
from embank.store.index.rescored import RescoredIndex
from embank.store.metric import Metric
from embank.store.vectors import Rows, Segments
from embank.system.files import Files

HEAD = "tier.json"
WINDOW_ROWS = 512
_CANDIDATES = 400

Searched = Literal["annoy", "scan"]


@dataclass(frozen=True, slots=True)
class Head:
    """What the tier says of itself. `sequence` is the change of the collection that it was made at.

    `searched` says with what: a forest, or a scan of all copies. `at` is seconds since the epoch.
    """

    name: str
    folder: str
    sequence: int
    documents: int
    rows: int
    bytes: int
    searched: Searched
    checksum: int
    at: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Tier:
    """Copies in use; never changed, only replaced. Thread-safe."""

    def __init__(self, head: Head, slots: Slots, rows: Rows, codes: AnnoyCodes | None) -> None:
        self.head = head
        self._slots = slots
        self._index: Index = (
            ExactIndex(rows) if codes is None else RescoredIndex(codes, rows, depth=_CANDIDATES, exhaustive=False)
        )

    def used_bytes(self) -> int:
        """Anonymous bytes; copies and forest are mapped."""
        return self._slots.nbytes + self._index.used_bytes()

    def search(self, query: Any, k: int, *, allowed: Mask | None, below: int) -> Neighbors | None:
        """The `k` nearest of the copies; `None` where fewer than `k` of their slots are below `below` and `allowed`."""
        mask = self._slots < below
        if allowed is not None:
            mask[mask] = allowed[self._slots[mask]]
        left = int(np.count_nonzero(mask))
        if left < k:
            return None
        found = self._index.search(query, k, allowed=None if left == len(mask) else mask)
        return Neighbors(self._slots[found.slots], found.scores)


def row_bytes(codec: Codec, *, trees: int) -> float:
    """About what a passage takes on the disk; `trees` is 0 where there is no forest."""
    forest = Forest(codec.dimension, trees).file_bytes(1_000) / 1_000 if trees else 0
    return codec.record.itemsize + forest


def building_bytes(codec: Codec, rows: int, *, trees: int) -> int:
    """What making a tier of so many passages takes in memory: two windows of records, and the forest."""
    forest = Forest(codec.dimension, trees).file_bytes(rows) if trees else 0
    return forest + 2 * WINDOW_ROWS * (codec.record.itemsize + 4 * codec.dimension) + 16 * rows


def build(
    home: Path,
    slots: Slots,
    records: Callable[[Slots], Stored],
    *,
    codec: Codec,
    metric: Metric,
    head: Head,
    trees: int,
    files: Files,
    on_rows: Callable[[int], None],
) -> Tier:
    """Copy the records of `slots` (ascending) and put them in use, durably; what was in use before is removed.

    `head` is filled up with what only the building knows. `on_rows` is told how many rows are copied. Raises `OSError`;
    then what was in use still is.
    """
    folder = home / (head.folder or uuid.uuid4().hex)
    files.make_directory(folder)
    try:
        codes = annoy.make(Forest(codec.dimension, trees, metric=metric), folder, on_disk=False) if trees else None
        segments = Segments(folder, codec, files=files, metric=metric)
        checksum = 0
        try:
            for first in range(0, len(slots), WINDOW_ROWS):
                window = records(slots[first : first + WINDOW_ROWS])
                segments.append_records(window, mark=first)
                checksum = zlib.crc32(window.view(np.uint8).data, checksum)
                if codes is not None:
                    codes.add(codec.decode(window))
                on_rows(first + len(window))
            segments.sync()
            file = None if codes is None else codes.keep(files=files)
            rows = segments.rows(len(slots))
        finally:
            segments.close()
        made = Head(
            **{
                **head.as_dict(),
                "folder": folder.name,
                "rows": len(slots),
                "bytes": files.tree_bytes(folder),
                "searched": "scan" if codes is None else "annoy",
                "checksum": checksum,
            }
        )
        value = {"head": made.as_dict(), "slots": slots.tolist(), "forest": None if file is None else file.as_dict()}
        checked.write(home / HEAD, {**value, "trees": trees}, files=files)
    except BaseException:
        files.remove_tree(folder)
        raise
    sweep(home, keep=folder.name, files=files)
    return Tier(made, slots, rows, codes)


def head_of(home: Path) -> Head | None:
    """What the tier that was kept says of itself; `None` where there is none. Raises `ValueError` and `OSError`."""
    value = checked.read(home / HEAD)
    return None if value is None else _head(value)


def load(home: Path, name: str, *, codec: Codec, metric: Metric, files: Files) -> Tier | None:
    """The tier that was kept; every byte is checked. `name` is the truth that it must be derived from.

    Raises `ValueError` for a damaged one or one of other vectors, and `OSError`.

    A forest that was kept is left aside where Annoy is not installed: then the copies are scanned.
    """
    value = checked.read(home / HEAD)
    if value is None:
        return None
    head, slots = _head(value), np.asarray(value["slots"], np.int64)
    if head.name != name:
        raise ValueError("it is of another collection")
    folder = home / head.folder
    segments = Segments(folder, codec, files=files, metric=metric)
    try:
        rows = segments.rows(head.rows)
    finally:
        segments.close()
    checksum = 0
    for _, block in rows.blocks(WINDOW_ROWS):
        checksum = zlib.crc32(np.ascontiguousarray(block).view(np.uint8).data, checksum)
    if checksum != head.checksum or len(slots) != head.rows:
        raise ValueError("the checksum over its vectors differs")
    codes = None
    if value["forest"] is not None and annoy.available():
        forest = Forest(codec.dimension, value["trees"], metric=metric)
        codes = annoy.open_file(forest, folder, ForestFile(**value["forest"]))
    return Tier(head, slots, rows, codes)


def sweep(home: Path, *, keep: str, files: Files) -> None:
    """Remove the folders of tiers that were replaced, or whose making was cut short; who has one mapped reads on."""
    for path in home.iterdir():
        if path.is_dir() and path.name != keep:
            files.remove_tree(path)


def _head(value: Any) -> Head:
    try:
        return Head(**value["head"])
    except (TypeError, KeyError) as error:  # of another version
        raise ValueError(f"its head can't be understood: {error}") from error
