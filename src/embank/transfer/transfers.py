"""Opening files for export and import, whatever their format, and standard input and output."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from embank.errors import SourceError
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.store.collection import StoredCollection
from embank.system.clock import Clock
from embank.system.files import Files
from embank.transfer.exporting import Exporter, OnTransferProgress, known_format
from embank.transfer.importing import Add, Importer, Reader
from embank.transfer.lines import LineReader
from embank.transfer.parquet import MAGIC, ParquetReader
from embank.transfer.reports import ExportReport, ImportReport

STANDARD_STREAM = "-"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfers:
    """What it takes to export and import the collections of a bank at `bank`."""

    bank: Path
    governor: Governor
    stream: Stream
    clock: Clock
    files: Files

    def export(
        self,
        collection: StoredCollection,
        file: str | Path,
        *,
        vectors: bool,
        where: Mapping[str, Any] | None,
        kind: str | None,
        overwrite: bool,
        on_progress: OnTransferProgress | None,
    ) -> ExportReport:
        """Write a collection to a file, or to standard output where that is "-"."""
        exporter = Exporter(
            collection,
            vectors=vectors,
            where=where,
            governor=self.governor,
            files=self.files,
            stream=self.stream,
            clock=self.clock,
            on_progress=on_progress,
        )
        if str(file) == STANDARD_STREAM:
            return exporter.to_stream(sys.stdout.buffer, kind=known_format(kind))
        return exporter.to_file(Path(file), kind=known_format(kind), overwrite=overwrite, bank=self.bank)

    def import_(
        self,
        collection: StoredCollection,
        reader: Reader,
        *,
        name: str,
        add: Add,
        operation: AbstractContextManager[object],
        embed: bool,
        dry_run: bool,
        on_progress: OnTransferProgress | None,
    ) -> ImportReport:
        """Write an opened file into a collection."""
        return Importer(
            collection,
            reader,
            name=name,
            add=add,
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
            operation=operation,
            on_progress=on_progress,
        ).run(embed=embed, dry_run=dry_run)


@contextmanager
def opened(file: str | Path) -> Iterator[Reader]:
    """A reader of an exported file; its format is known by its first bytes. "-" is standard input.

    What comes from there is kept in a temporary file on the disk, since it is read twice. Raises `SourceError` for a
    file that is missing or no export, and `MissingExtra` for Parquet without its library.
    """
    name = str(file)
    reader: Reader
    if name == STANDARD_STREAM:
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept, _COPY_BYTES)
            yield LineReader(cast("BinaryIO", kept), name="standard input")
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 -- closed by the reader
        try:
            magic = stream.read(len(MAGIC))
        except OSError:
            stream.close()
            raise
    except OSError as error:
        raise SourceError(f"{name} can't be read: {error.strerror}", path=name) from error
    if magic == MAGIC:
        stream.close()
        reader = ParquetReader(Path(file), name=name)
    else:
        reader = _line_reader(stream, name)
    try:
        yield reader
    finally:
        reader.close()


def _line_reader(stream: BinaryIO, name: str) -> LineReader:
    try:
        return LineReader(stream, name=name)
    except BaseException:
        stream.close()
        raise
