"""Values under keys, kept in a collection as documents without text: durable, bounded, never found torn.

A value is a document of its key, or, beyond 45,000 bytes, several: parts, then a head that names the writing they
are of. Parts and head that do not belong together, as a crash in between may leave them, are no value. Nothing of
it is embedded or indexed.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Sequence

from embank.errors import InvalidInput
from embank.integrations.shelf import Shelf
from embank.records import Document, StoredDocument

PART_BYTES = 45_000
"""Of a value in one document: 60,000 as base64, and a document's metadata holds 65,536."""
MOST_PARTS = 1_000

_ROOM = 0.9
"""What is left of the limit when the oldest values go, so that they do so rarely."""
_BEHIND = "\x1f"
"""Between a key and the number of a part: a control character, which no key may hold."""
_HEADS_AT_ONCE = 100


class Values:
    """See the module. `most` bounds how many documents there may be: beyond it the oldest go. Thread-safe."""

    def __init__(self, shelf: Shelf, *, most: int) -> None:
        if most < MOST_PARTS:
            raise InvalidInput(f"most must be at least {MOST_PARTS:,}, not {most}")
        self._shelf = shelf
        self._most = most

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value under each key; `None` where there is none."""
        heads: dict[str, StoredDocument] = {}
        for start in range(0, len(keys), _HEADS_AT_ONCE):
            heads.update((each.id, each) for each in self._shelf.get(keys[start : start + _HEADS_AT_ONCE]))
        values = {key: self._value(head) for key, head in heads.items()}
        return [values.get(key) for key in keys]

    def set(self, pairs: Sequence[tuple[str, bytes]]) -> None:
        """Keep values under their keys; durable when it returns."""
        documents = [part for key, value in dict(pairs).items() for part in _parts(key, value)]
        if documents:
            self._shelf.add(documents)
            if self._shelf.count() > self._most:
                self._shelf.keep_newest(int(self._most * _ROOM))

    def delete(self, keys: Sequence[str]) -> None:
        """Forget keys; those that are not there are fine."""
        if not keys:
            return
        long = [head for head in self._shelf.get(keys) if head.metadata.get("parts")]
        self._shelf.delete([*keys, *(name for head in long for name in _names(head.id, head.metadata["parts"]))])

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin so, in order."""
        where = {"part": {"$exists": False}}
        for head in self._shelf.everything(where=where, limit=_HEADS_AT_ONCE):
            if head.id.startswith(prefix):
                yield head.id

    def _value(self, head: StoredDocument) -> bytes | None:
        if "value" in head.metadata:
            return base64.b64decode(head.metadata["value"])
        names = _names(head.id, head.metadata["parts"])
        parts = [part for part in self._shelf.get(names) if part.metadata["of"] == head.metadata["of"]]
        return b"".join(base64.b64decode(part.metadata["part"]) for part in parts) if len(parts) == len(names) else None


def _names(key: str, parts: int) -> list[str]:
    return [f"{key}{_BEHIND}{number:04}" for number in range(parts)]


def _parts(key: str, value: bytes) -> list[Document]:
    """The documents that a value is kept as, its head last."""
    if not key or _BEHIND in key:
        raise InvalidInput(f"a key must be not empty and hold no U+001F, not {key!r}")
    if len(value) <= PART_BYTES:
        return [Document(key, "", {"value": base64.b64encode(value).decode()})]
    cut = [value[start : start + PART_BYTES] for start in range(0, len(value), PART_BYTES)]
    if len(cut) > MOST_PARTS:
        raise InvalidInput(
            f"the value of {key!r} has {len(value):,} bytes, at most {PART_BYTES * MOST_PARTS:,} are kept"
        )
    of = secrets.token_hex(8)
    parts = [
        Document(name, "", {"part": base64.b64encode(part).decode(), "of": of})
        for name, part in zip(_names(key, len(cut)), cut, strict=True)
    ]
    return [*parts, Document(key, "", {"parts": len(cut), "of": of})]
