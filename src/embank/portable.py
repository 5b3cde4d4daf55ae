"""What a collection of a local bank does with files: it is exported to them, and imported from them."""

from __future__ import annotations

from pathlib import Path

from embank.collection import Where
from embank.engine import Engine
from embank.store.collection import StoredCollection
from embank.transfer.exporting import OnTransferProgress
from embank.transfer.reports import ExportReport, ImportReport
from embank.transfer.transfers import opened


class Portable:
    """A collection of an open bank, as far as files are concerned. Thread-safe."""

    def __init__(self, engine: Engine, stored: StoredCollection) -> None:
        self._engine = engine
        self._stored = stored

    def export(
        self,
        file: str | Path,
        *,
        vectors: bool = False,
        where: Where | None = None,
        kind: str | None = None,
        overwrite: bool = False,
        on_progress: OnTransferProgress | None = None,
    ) -> ExportReport:
        """Write one state of it to `file`: .jsonl, .jsonl.gz, .parquet or what `kind` says; "-" is standard output.

        With `vectors`, those are there byte for byte as they are stored. `where` picks documents. The file is there as
        a whole or not at all, and one that exists is refused, unless `overwrite`. Raises `CollectionNotFound`,
        `InvalidInput`, `MissingExtra`, `StorageFull`.
        """
        with self._engine.creep.track("export"):
            return self._engine.transfers().export(
                self._stored,
                file,
                vectors=vectors,
                where=where,
                kind=kind,
                overwrite=overwrite,
                on_progress=on_progress,
            )

    def import_file(
        self,
        file: str | Path,
        *,
        embed: bool = False,
        dry_run: bool = False,
        on_progress: OnTransferProgress | None = None,
    ) -> ImportReport:
        """Upsert the documents of an exported file by their ids; "-" is standard input.

        A new collection takes over the metric and the language of the one that was exported.
        Vectors of the collection's own fingerprint (a new collection takes that of the file) are taken over and nothing
        is embedded; others raise `FingerprintMismatch`, unless `embed`. A file without vectors is embedded. The whole
        file is checked before anything is written: `SourceError` names the rows that can't be taken. Stopped, the same
        call goes on. `dry_run` tells what would be done.
        """
        with opened(file) as reader:
            return self._engine.transfers().import_(
                self._stored,
                reader,
                name=str(file),
                add=lambda documents: self._engine.pipeline(self._stored).add(documents),
                operation=self._engine.creep.track("import"),
                embed=embed,
                dry_run=dry_run,
                on_progress=on_progress,
            )
