"""Answers page by page, while others write.

Scores are no place to go on from: those of words and of a hybrid search change with every document that is written. So
a cursor holds which documents were shown, as digests of their ids, and the next page are the best of all others as the
collection is then. No document comes twice, also one that was written anew in between; and one that is there all the
time can't be skipped, for it is a candidate until it was shown.

A cursor is text for its question only: it names it by a digest, ends in a checksum, and holds no secret. It works in
another process as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from embank.errors import InvalidInput
from embank.records import Hit
from embank.search.answer import Answer
from embank.search.picking import DIGEST_BYTES, digest
from embank.search.query import Query
from embank.store.predicate import compile_where

MAX_DEPTH = 1_000
"""Documents that pages go through at most: a cursor holds 6 bytes of each."""

_FORM = b"\x01"
_QUESTION_BYTES = 12
_CHECK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the answer. `after` is the cursor with which the next one is asked for; `None`: there is no more."""

    hits: list[Hit]
    after: str | None
    explained: Mapping[str, Any] | None = None


def resumed(query: Query, collection: str, after: object) -> Query:
    """The query for the page behind a cursor, or for the first one where that is `None`.

    Raises `InvalidInput` for what is no cursor, one of another question, and behind `MAX_DEPTH` documents.
    """
    if query.per_document != 1:
        raise InvalidInput("pages are of documents: per_document must be 1 there")
    seen = frozenset(_seen(query, collection, after) if after is not None else ())
    if len(seen) + query.k > MAX_DEPTH:
        raise InvalidInput(
            f"pages go {MAX_DEPTH:,} documents deep, and {len(seen):,} were shown: ask a narrower question",
            seen=len(seen),
        )
    return replace(query, seen=seen)


def page(query: Query, collection: str, answer: Answer) -> Page:
    """The answer to a query of `resumed`, with the cursor behind it."""
    if len(answer.hits) < query.k:
        return Page(answer.hits, None, answer.explained)
    seen = sorted({*query.seen, *(digest(hit.id) for hit in answer.hits)})
    return Page(answer.hits, _cursor(query, collection, seen), answer.explained)


def _cursor(query: Query, collection: str, seen: Sequence[bytes]) -> str:
    content = _FORM + _question(query, collection) + b"".join(seen)
    return base64.urlsafe_b64encode(content + _check(content)).decode().rstrip("=")


def _seen(query: Query, collection: str, after: object) -> list[bytes]:
    if not isinstance(after, str):
        raise InvalidInput(f"after must be the cursor of a page, not {type(after).__name__}")
    try:
        whole = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"after is no cursor of a page, or a damaged one: {error}") from error
    content, check = whole[:-_CHECK_BYTES], whole[-_CHECK_BYTES:]
    head = len(_FORM) + _QUESTION_BYTES
    if len(content) < head or (len(content) - head) % DIGEST_BYTES or check != _check(content):
        raise InvalidInput("after is no cursor of a page, or a damaged one: its checksum is wrong")
    if not content.startswith(_FORM):
        raise InvalidInput("after is a cursor of a newer Embank")
    if content[len(_FORM) : head] != _question(query, collection):
        raise InvalidInput(
            "after is the cursor of another question: pages go on with the same words, filter, mode and options"
        )
    return [content[place : place + DIGEST_BYTES] for place in range(head, len(content), DIGEST_BYTES)]


def _question(query: Query, collection: str) -> bytes:
    """What a page must have in common with the one before: all but how many hits are asked for, and how they look."""
    where = None if query.where is None else compile_where(query.where)
    asked = (query.mode, query.like, query.min_score, query.diversity, query.rerank, query.dense_weight)
    same = (collection, query.text, *asked, where)
    hasher = hashlib.blake2b(ascii(same).encode(), digest_size=_QUESTION_BYTES)
    if query.vector is not None:
        hasher.update(b"\0" + query.vector.tobytes())
    return hasher.digest()


def _check(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECK_BYTES).digest()
