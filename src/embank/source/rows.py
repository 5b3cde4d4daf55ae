"""Rows as documents, whatever format they come in.

A row is a mapping with a text, optionally an id and a mapping of metadata; its other keys join the metadata (where a
key is in both, the mapping's stands). Without an id it is known by the hash of its text.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embank.errors import SourceError
from embank.records import Document
from embank.source.report import Reason
from embank.source.settings import Settings


@dataclass(frozen=True, slots=True)
class Bad:
    """Why a row gives no document."""

    reason: Reason
    detail: str


def document_of(row: dict[str, Any], settings: Settings) -> Document | Bad:
    """The document that a row is, or why it is none. What is taken from `row` is removed from it."""
    text = row.pop(settings.text_key, None)
    identity = row.pop(settings.id_key, None)
    metadata = row.pop(settings.metadata_key, None)
    if not isinstance(text, str):
        problem = "is missing" if text is None else f"is {kind_of(text)}, not a string"
        return Bad("no text", f"{settings.text_key!r} {problem}")
    if not text or text.isspace():
        return Bad("empty", f"{settings.text_key!r} is nothing but white space")
    if metadata is not None and not isinstance(metadata, dict):
        return Bad("bad value", f"{settings.metadata_key!r} is {kind_of(metadata)}, not an object")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if identity is None:
        identity = content_id(text)
    if not isinstance(identity, str) or not identity:
        return Bad("bad value", f"{settings.id_key!r} is {kind_of(identity)}, not a string that names something")
    return Document(identity, text, {**row, **(metadata or {})})


def content_id(text: str) -> str:
    """The id of a text that has none of its own: BLAKE2b-128 of its UTF-8, in hexadecimal."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def kind_of(value: object) -> str:
    """What a value is, in JSON's words."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    if value == "":
        return "an empty string"
    return "null" if value is None else kinds[type(value)]


def resolved_file(path: str | os.PathLike[str], *, what: str) -> Path:
    """The path of a file of rows, links resolved; `SourceError` where there is none."""
    try:
        resolved = Path(path).resolve(strict=True)
        is_folder = resolved.is_dir()
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {os.fspath(path)!r}", path=os.fspath(path)) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"{os.fspath(path)!r} can't be read: {error}", path=os.fspath(path)) from error
    if is_folder:
        raise SourceError(f"{os.fspath(path)!r} is a folder, not a file of {what}", path=os.fspath(path))
    return resolved
