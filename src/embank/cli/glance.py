"""What `embank stats` tells, and its short way: a plain `embank stats` is answered before anything heavy is imported.

What is not plain (other flags, an error, a re-embedding under way, tuned searches) is left to the command itself.
"""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embank.cli import output
from embank.errors import CollectionNotFound, EmbankError
from embank.store.info import BankStats, CollectionInfo, glance

_DEFAULT_BANK = "embank.bank"
_NAMES = {"-b": "bank", "--bank": "bank", "-c": "collection", "--collection": "collection"}


def answered(arguments: Sequence[str]) -> bool:
    """Answer `embank stats` with these further words; false, and nothing is written, where that is no plain matter."""
    given: dict[str, str] = {}
    as_json = False
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if word == "--json":
            as_json = True
        elif flag not in _NAMES or (equals and not flag.startswith("--")):
            return False
        else:
            given[_NAMES[flag]] = value if equals else next(words, "")
    bank = given.get("bank", os.environ.get("EMBANK_BANK") or _DEFAULT_BANK)
    if not all(given.values()) or any(value.startswith("-") for value in given.values()):
        return False
    try:
        found, more = glance(Path(bank))
        infos = chosen(found, given.get("collection"), bank=bank)
    except (EmbankError, sqlite3.Error, OSError):
        return False
    if more:
        return False
    tell(bank, infos, found.disk_bytes, as_json=as_json, reembedding={}, tuning={})
    return True


def chosen(found: BankStats, collection: str | None, *, bank: str) -> list[CollectionInfo]:
    """All collections, or the one named."""
    infos = [info for info in found.collections if collection in (None, info.name)]
    if collection is not None and not infos:
        raise CollectionNotFound(f"there is no collection {collection!r} in {bank}", name=collection)
    return infos


def tell(
    bank: str,
    infos: Sequence[CollectionInfo],
    on_disk: Mapping[str, int],
    *,
    as_json: bool,
    reembedding: Mapping[str, Any],
    tuning: Mapping[str, Any],
) -> None:
    """Write the answer. `reembedding` has the state of those that are under way, `tuning` what was fitted: by name."""
    if as_json:
        listed = [
            {
                **info.as_dict(),
                "vector_bytes": info.vector_bytes,
                "reembedding": reembedding.get(info.name),
                "tuning": tuning.get(info.name),
            }
            for info in infos
        ]
        output.write_json({"bank": bank, "collections": listed, "disk_bytes": on_disk})
        return
    if not infos:
        output.say(f"{bank} is empty: `embank index` or `embank add` puts documents into it")
        return
    parts = ", ".join(f"{name} {output.size(held)}" for name, held in on_disk.items() if name != "total")
    output.say("", *_table(infos), "", f"on disk {output.size(on_disk['total'])}: {parts}")


def _table(infos: Sequence[CollectionInfo]) -> list[str]:
    """Lines of a table, numbers to the right. Drawn by hand: the library for it takes a tenth of a second to import."""
    head = ("collection", "documents", "passages", "text", "vectors", "model", "changed")
    rows = [head, *map(_cells, infos)]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_cell(*each) for each in zip(row, widths, range(len(head)), strict=True)) for row in rows]
    return [line.rstrip() for line in (lines[0], "─" * (sum(widths) + 2 * len(widths) - 2), *lines[1:])]


def _cells(info: CollectionInfo) -> tuple[str, ...]:
    fingerprint = (info.fingerprint or "").rpartition(":")[0] or info.fingerprint
    return (
        output.plain(info.name) + (" (protected)" if info.protected else ""),
        f"{info.documents:,}",
        f"{info.chunks:,}",
        output.size(info.text_bytes),
        output.size(info.vector_bytes),
        f"{output.plain(fingerprint)} as {info.dtype}, by {info.metric}" if fingerprint else "–",
        output.moment(info.changed),
    )


def _cell(text: str, width: int, column: int) -> str:
    blank = " " * (width - _width(text))
    return blank + text if 1 <= column <= 4 else text + blank


def _width(text: str) -> int:
    return sum(_character_width(each) for each in text) if not text.isascii() else len(text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
