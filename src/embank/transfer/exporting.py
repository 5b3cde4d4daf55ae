"""From a collection to a file: one state of it, window by window, whole or not there at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast, get_args

import numpy as np

from embank.errors import InvalidInput, StorageFull
from embank.events.kinds import CollectionExported
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.priority import bulk_work
from embank.store.collection import StoredCollection
from embank.store.contents import Content
from embank.store.predicate import compile_where
from embank.store.protocol import CollectionInfo
from embank.store.snapshot import Snapshot
from embank.store.words import Language
from embank.system.arrow import require
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.process import start_time
from embank.transfer.form import Head, Item
from embank.transfer.lines import LineWriter, zipped
from embank.transfer.parquet import ParquetWriter
from embank.transfer.reports import ExportReport, Format

OnTransferProgress = Callable[[float, str], None]
"""Called with how much is done, 0 to 1, and what is being done."""

_ENDINGS: Mapping[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
_GROUP_BYTES: Mapping[Format, int] = {"jsonl": 1 << 20, "parquet": 8 << 20}
_LEAST_GROUP_BYTES = 256 << 10
_COPIES = 4
"""How often a group is in memory: as it was read, as Python's objects, in its format, and compressed."""
_WAIT_S = 60.0


class _Writer(Protocol):
    def add(self, items: list[Item]) -> None: ...

    def close(self) -> None: ...


def guessed_format(name: str) -> Format:
    """The format that a file's name says; `InvalidInput` where it says none."""
    plain = name.lower().removesuffix(".gz")
    found = next((kind for ending, kind in _ENDINGS.items() if plain.endswith(ending)), None)
    if found is None or (found == "parquet" and plain != name.lower()):
        raise InvalidInput(f"{name!r}: name the file .jsonl, .jsonl.gz or .parquet, or say which format is meant")
    return found


class Exporter:
    """Writes one collection, once."""

    def __init__(
        self,
        collection: StoredCollection,
        *,
        vectors: bool,
        where: Mapping[str, Any] | None,
        governor: Governor,
        files: Files,
        stream: Stream,
        clock: Clock,
        on_progress: OnTransferProgress | None,
    ) -> None:
        self._collection = collection
        self._vectors = vectors
        self._where = None if where is None else compile_where(where)
        self._governor = governor
        self._files = files
        self._stream = stream
        self._clock = clock
        self._on_progress = on_progress
        self._documents = self._passages = 0

    def to_file(self, path: Path, *, kind: Format | None, overwrite: bool, bank: Path) -> ExportReport:
        """Write to `path`: a temporary file beside it, synchronised and renamed. Whatever is raised, none is left.

        Raises `InvalidInput` for a path that is taken (unless `overwrite` and it is a file) or lies in the bank.
        """
        kind = kind or guessed_format(path.name)
        if kind == "parquet":
            require()
        _check_target(path, overwrite=overwrite, bank=bank)
        _remove_leftovers(path)
        with ExitStack() as closing:
            closing.enter_context(_translated_errors(path))
            sink = _Sink(closing.enter_context(self._files.replacing(path)))
            if kind == "parquet":
                report = self._run(lambda head: ParquetWriter(head, cast("BinaryIO", sink)), str(path), kind)
            elif path.name.lower().endswith(".gz"):
                with zipped(sink.write) as stream:
                    report = self._run(lambda head: LineWriter(head, stream.write), str(path), kind)
            else:
                report = self._run(lambda head: LineWriter(head, sink.write), str(path), kind)
        return self._told(report, sink.written)

    def to_stream(self, stream: BinaryIO, *, kind: Format | None) -> ExportReport:
        """Write JSON lines to a stream, which is left open. That it is whole, its last line says."""
        if kind not in {None, "jsonl"}:
            raise InvalidInput("only JSON lines can be written to standard output")
        sink = _Sink(stream.write)
        report = self._run(lambda head: LineWriter(head, sink.write), "-", "jsonl")
        stream.flush()
        return self._told(report, sink.written)

    def _run(self, writer_of: Callable[[Head], _Writer], name: str, kind: Format) -> ExportReport:
        started = self._clock.monotonic()
        wanted, least = _GROUP_BYTES[kind] * _COPIES, _LEAST_GROUP_BYTES * _COPIES
        with (
            bulk_work(),
            self._governor.reserve("an export", wanted, least_bytes=least, wait_s=_WAIT_S) as kept,
            self._collection.snapshot(lexical=False) as snapshot,
        ):
            head = self._head(snapshot.info, snapshot.language)
            writer = writer_of(head)
            for group in self._groups(snapshot, head, limit_bytes=kept.granted_bytes // _COPIES):
                writer.add(group)
                self._documents += len(group)
                self._passages += sum(len(each.chunks) for each in group)
                self._tell(snapshot.info)
            writer.close()
        return ExportReport(
            collection=self._collection.name,
            file=name,
            format=kind,
            documents=self._documents,
            passages=self._passages,
            vectors=self._passages if head.vectors else 0,
            fingerprint=head.fingerprint,
            dtype=head.dtype,
            bytes=0,
            seconds=self._clock.monotonic() - started,
        )

    def _head(self, info: CollectionInfo, language: Language) -> Head:
        head = Head(info.name, info.metric, vectors=False, language=language)
        if not self._vectors or info.fingerprint is None:
            return head
        return replace(
            head,
            vectors=True,
            fingerprint=info.fingerprint,
            dimension=info.dimension,
            dtype=info.dtype,
            model=info.model,
        )

    def _groups(self, snapshot: Snapshot, head: Head, *, limit_bytes: int) -> Iterator[list[Item]]:
        """The documents in the order of their ids, in lists of about so many bytes."""
        group: list[Item] = []
        size = 0
        for content in snapshot.contents_behind(None, where=self._where):
            each = _item(snapshot, head, content)
            group.append(each)
            size += each.size_bytes
            if size >= limit_bytes:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _tell(self, info: CollectionInfo) -> None:
        self._governor.check()
        if self._on_progress is not None:
            self._on_progress(self._documents / max(info.documents, 1), f"{self._documents:,} documents written")

    def _told(self, report: ExportReport, size: int) -> ExportReport:
        done = replace(report, bytes=size)
        self._stream.publish(
            CollectionExported(
                collection=done.collection,
                file=done.file,
                documents=done.documents,
                vectors=done.vectors,
                bytes=done.bytes,
                seconds=done.seconds,
            )
        )
        return done


class _Sink:
    """A file to write to, as libraries know it, over a function that writes pieces of bytes."""

    closed = False

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.written = 0

    def write(self, piece: bytes) -> int:
        data = bytes(piece)
        self._write(data)
        self.written += len(data)
        return len(data)

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        """Everything is written at once."""

    def close(self) -> None:
        """Its owner closes it."""


def _item(snapshot: Snapshot, head: Head, content: Content) -> Item:
    if not head.vectors:
        return Item(content.document, content.chunks, b"", None)
    slots = np.asarray(content.slots, np.int64)
    codec = head.codec()
    records = snapshot.records(slots) if len(slots) or codec is None else np.empty(0, codec.record)
    return Item(content.document, content.chunks, content.digest, records)


def _check_target(path: Path, *, overwrite: bool, bank: Path) -> None:
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no folder {path.parent}", path=str(path))
    if path.resolve().is_relative_to(bank.resolve()):
        raise InvalidInput(f"{path} lies in the bank itself", path=str(path))
    if os.path.lexists(path) and not (overwrite and path.is_file() and not path.is_symlink()):
        raise InvalidInput(
            f"{path} exists: name a place that is free" + ("" if overwrite else ", or say that it may be replaced"),
            path=str(path),
        )


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # `StorageFull` is one, too: what the store says of a full disk is about batches
        if not isinstance(error, StorageFull) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(f"no room left on the disk of {path.parent}: no file was kept", path=str(path)) from error


def _remove_leftovers(path: Path) -> None:
    """What an export to the same place that was killed has left."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"(\d+)\.tmp")
    for each in path.parent.iterdir():
        found = pattern.fullmatch(each.name)
        if found and start_time(int(found[1])) is None:
            each.unlink(missing_ok=True)


def known_format(kind: str | None) -> Format | None:
    """`kind`, if it is one."""
    if kind is not None and kind not in get_args(Format):
        raise InvalidInput(f"{kind!r} is no format: {' or '.join(get_args(Format))}", kind=kind)
    return cast("Format | None", kind)
