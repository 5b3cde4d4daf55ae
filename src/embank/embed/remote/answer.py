"""What an OpenAI-compatible endpoint answers: read, checked in every respect, and put in the order that was asked for.

The server is not trusted: what it can make this process hold is bounded by what was asked for, and an answer that is
wrong in one place is refused whole.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from embank.errors import RemoteFailed

if TYPE_CHECKING:
    from embank.embed.model import Vectors

MOST_DIMENSIONS = 65_536
"""A wider vector is no embedding; bounds the first answer, before the model's width is known."""

# A float in JSON with its comma and an indented line of its own; in base64 it takes 5.4.
_NUMBER_BYTES = 40
_ENTRY_BYTES = 1024
_FRAME_BYTES = 64 << 10
# While it is read: the text once more, and an object of 24 bytes and a pointer for each number.
_READ_NUMBER_BYTES = _NUMBER_BYTES + 36
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """`vectors`: unit vectors in the order of the texts. `tokens`: as the endpoint counted them; 0 where it did not."""

    vectors: Vectors
    tokens: int


def answer_bytes(texts: int, dimension: int) -> int:
    """The most that an answer can need: what is longer is not read."""
    return _FRAME_BYTES + texts * (_ENTRY_BYTES + dimension * _NUMBER_BYTES)


def reading_bytes(texts: int, dimension: int) -> int:
    """The memory that receiving and reading the longest answer takes."""
    return answer_bytes(texts, dimension) + texts * (_ENTRY_BYTES + dimension * _READ_NUMBER_BYTES)


def read_answer(
    content: bytes, *, place: str, numbers: Sequence[int], dimension: int | None, normalize: bool
) -> RemoteAnswer:
    """The vectors in `content`, the body of an answer to a request for `len(numbers)` texts.

    `numbers` says which texts of the call they are, for messages; `dimension` is None where the model's width is not
    known yet. With `normalize` vectors of any length are made unit vectors. Raises `RemoteFailed` for whatever is
    wrong: no JSON, an error told as a success, the wrong count, an index that is missing, twice there or out of range,
    the wrong width, and vectors that are no direction.
    """
    fail = _Refusal(place)
    found = _read_json(content, len(numbers), dimension or MOST_DIMENSIONS, fail)
    entries = found.get("data")
    if not isinstance(entries, list):
        error = found.get("error")
        told = f" but the error {short(_told(error))!r}" if error else ""
        fail(f"no list 'data'{told}")
    if len(entries) != len(numbers):
        fail(f"{len(entries)} vectors for {len(numbers)} texts")
    width = dimension
    vectors = None
    seen: set[int] = set()
    for entry in entries:
        index = _index(entry, len(numbers), fail)
        if index in seen:
            fail(f"the vector of texts[{numbers[index]}] twice")
        seen.add(index)
        row = _row(entry.get("embedding"), numbers[index], fail)
        width = width or len(row)
        if len(row) != width or not 1 <= width <= MOST_DIMENSIONS:
            due = f"{width} were due" if len(row) != width else f"1 to {MOST_DIMENSIONS} can be"
            fail(f"a vector of {len(row)} numbers for texts[{numbers[index]}] where {due}", outcome="wrong_width")
        if vectors is None:
            vectors = np.empty((len(numbers), width), dtype=np.float32)
        vectors[index] = row
    if vectors is None:
        fail("nothing")
    _make_unit(vectors, numbers, normalize=normalize, fail=fail)
    usage = found.get("usage")
    tokens = usage.get("prompt_tokens", usage.get("total_tokens")) if isinstance(usage, dict) else None
    return RemoteAnswer(vectors, tokens if type(tokens) is int and 0 <= tokens < 1 << 53 else 0)


def told_error(content: bytes) -> str:
    """What the body of an error says, in one short line: the forms that common servers have, else its beginning."""
    text = content.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # A page for browsers says nothing in its first line.
        return "" if text.lstrip().startswith("<") else short(text)
    return short(_told(found))


def short(text: str) -> str:
    """Printable, on one line, at most 300 characters."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[:2000]).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


class _Refusal:
    """Raises the error for a wrong answer of the endpoint at `place`."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __call__(self, what: str, *, outcome: str = "garbage", cause: Exception | None = None) -> NoReturn:
        raise RemoteFailed(f"the endpoint {self._place} answered {what}", place=self._place, outcome=outcome) from cause


def _read_json(content: bytes, texts: int, dimension: int, fail: _Refusal) -> dict[str, Any]:
    stripped = content[:256].lstrip()
    if not stripped:
        fail("with an empty body")
    if stripped.startswith(b"<"):
        fail("HTML, not JSON: is remote.url (EMBANK_REMOTE__URL) the address of its API?")
    # Before it is read: a few bytes of JSON can make an object of fifty, and but for nesting each has its comma.
    if content.count(b",") > texts * (dimension + 32) + 256:
        fail(f"more values than vectors for {texts} texts have")
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        fail(f"what is no JSON: {short(str(error))}", cause=error)
    if not isinstance(found, dict):
        fail(f"a JSON {type(found).__name__}, not an object")
    return found


def _index(entry: object, count: int, fail: _Refusal) -> int:
    if not isinstance(entry, dict):
        fail(f"a {type(entry).__name__} in 'data', not an object")
    index = entry.get("index")
    if type(index) is not int or not 0 <= index < count:
        fail(f"the index {short(repr(index))} where 0 to {count - 1} can be")
    return index


def _row(embedding: object, number: int, fail: _Refusal) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The numbers of one vector, from base64 of little-endian float32, or a list of numbers."""
    if isinstance(embedding, str):
        try:
            raw = base64.b64decode(embedding, validate=True)
            return np.frombuffer(raw, dtype="<f4").astype(np.float32)
        except (binascii.Error, ValueError) as error:
            fail(f"a vector for texts[{number}] that is no base64 of float32: {error}", cause=error)
    if not isinstance(embedding, list) or not set(map(type, embedding)) <= {int, float}:
        fail(f"no list of numbers as the vector of texts[{number}]")
    try:
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused with the others
            return np.array(embedding, dtype=np.float64).astype(np.float32)
    except OverflowError as error:
        fail(f"a number beyond float32 for texts[{number}]", cause=error)


def _make_unit(vectors: Vectors, numbers: Sequence[int], *, normalize: bool, fail: _Refusal) -> None:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    bad = ~((norms > 0) & np.isfinite(norms))
    if not normalize:
        bad |= np.abs(norms - 1) > _NORM_TOLERANCE
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        hint = "" if normalize or not np.isfinite(norms[row]) else ", not 1 (remote.normalize does that for it)"
        fail(f"texts[{numbers[row]}] with a vector of norm {norms[row]:g}{hint}", outcome="no_direction")
    np.divide(vectors, norms[:, np.newaxis], out=vectors, casting="same_kind")


def _told(found: object) -> str:
    """The message in an error as servers write it: `{"error": {"message": …}}`, `{"error": …}`, `{"detail": …}`."""
    if isinstance(found, dict):
        for key in ("error", "message", "detail"):
            if found.get(key):
                return _told(found[key])
    return found if isinstance(found, str) else repr(found)[:2000]
