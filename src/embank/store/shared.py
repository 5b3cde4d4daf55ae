"""What all collections of an open bank share, and where the files of each lie."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from embank.errors import BankDamaged
from embank.events.stream import Stream
from embank.memory.governor import Governor, Registration
from embank.store import migration
from embank.store.collections import Row
from embank.store.database import Database
from embank.store.index.base import IndexPlace
from embank.store.index.plans import Ask
from embank.store.index.settings import Settings as IndexSettings
from embank.store.index.view import State, VectorView
from embank.store.settings import Settings
from embank.store.vectors import Segments
from embank.store.views import LexicalView, ReaderView, ViewPlace, WriterView
from embank.system.clock import Clock
from embank.system.files import Files


@dataclass(frozen=True, slots=True)
class Shared:
    """The means of a bank. `bank` is its identity, which every derived view names."""

    bank: str
    database: Database
    settings: Settings
    stream: Stream
    files: Files
    clock: Clock
    governor: Governor | None
    index: IndexSettings
    ask: Ask | None = None

    def bring_format(self, number: int, writer: sqlite3.Connection) -> None:
        """Bring the bank to the format that an act needs, which is on record itself; outside any transaction."""
        root = self.database.root
        migration.bring(root, writer, files=self.files, now=self.clock.now(), to=number, on_record=False)

    def segments(self, row: Row) -> Segments:
        """The vector files of a collection, cut to the recorded mark where this process is the writer."""
        codec = row.codec()
        if codec is None:
            raise BankDamaged(f"collection {row.info.name!r} has vectors but no recorded dimension")
        segments = Segments(self._directory("vectors", row.key, row.info.generation), codec, files=self.files)
        if not self.database.read_only:
            segments.cut(row.slots)
        return segments

    def lexical_view(self, row: Row) -> LexicalView:
        """The lexical view of a collection, as a writer or as a reader."""
        place = ViewPlace(
            path=self._directory("views", row.key, row.info.generation) / "lexical",
            name=f"{self.bank}:{row.key}:{row.info.generation}",
            collection=row.key,
            generation=row.info.generation,
            collection_name=row.info.name,
        )
        writer_bytes = self.settings.lexical_writer_bytes
        if self.database.read_only:
            return ReaderView(place, writer_bytes=writer_bytes)
        return WriterView(
            place,
            self.database.readers,
            files=self.files,
            clock=self.clock,
            stream=self.stream,
            step_rows=self.settings.lexical_rows,
            writer_bytes=writer_bytes,
        )

    def vector_view(self, row: Row, state: State) -> VectorView:
        """The vector index of a collection, as a writer or as a reader."""
        place = IndexPlace(
            path=self._directory("views", row.key, row.info.generation) / "vectors.index",
            name=f"{self.bank}:{row.key}:{row.info.generation}",
            collection=row.key,
            generation=row.info.generation,
            collection_name=row.info.name,
        )
        return VectorView(
            place,
            self.database.readers,
            state,
            settings=self.index,
            read_only=self.database.read_only,
            files=self.files,
            clock=self.clock,
            stream=self.stream,
            governor=self.governor,
            ask=self.ask,
        )

    def register(self, view: LexicalView | VectorView) -> Registration | None:
        """Put a view that holds memory on the governor's roster."""
        if self.governor is not None and isinstance(view, VectorView):
            return self.governor.register(view, rung="unload")
        if self.governor is None or not isinstance(view, WriterView):
            return None
        return self.governor.register(view)

    def disk_bytes(self, row: Row) -> int:
        """Bytes of a generation's vectors and views on the disk."""
        folders = [self._directory(kind, row.key, row.info.generation) for kind in ("vectors", "views")]
        return sum(self.files.tree_bytes(folder) for folder in folders)

    def remove_files(self, key: int, generation: int) -> None:
        """Remove everything that a generation has on the disk; who has it open still sees it."""
        for kind in ("vectors", "views"):
            self.files.remove_tree(self._directory(kind, key, generation))

    def _directory(self, kind: str, key: int, generation: int) -> Path:
        return self.database.root / kind / f"{key}-{generation}"
