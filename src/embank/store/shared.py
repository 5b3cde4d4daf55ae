"""What all collections of an open bank share, and where the files of each lie."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from embank.cache.weighed import WeighedCache
from embank.errors import BankDamaged, EmbankError
from embank.events.stream import Stream
from embank.memory.governor import Governor, Registration
from embank.store import migration, wording
from embank.store.collections import Row
from embank.store.columns import Column, Columns
from embank.store.database import Database
from embank.store.hot.accesses import Accesses
from embank.store.hot.settings import Settings as HotSettings
from embank.store.index import saved
from embank.store.index.backend import FOLDER, Home, backend
from embank.store.index.base import IndexPlace
from embank.store.index.plans import Ask
from embank.store.index.policy import Policy
from embank.store.index.settings import Settings as IndexSettings
from embank.store.index.view import State, VectorView
from embank.store.settings import Settings
from embank.store.vectors import Segments
from embank.store.views import LexicalView, Opening, ReaderView, ViewPlace, WriterView
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger

_log = get_logger(__name__)

_INDEX_FILE = "vectors.index"


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
    hot: HotSettings = field(default_factory=HotSettings)
    columns: WeighedCache[Column] = field(default_factory=lambda: WeighedCache("filter columns", 0))

    def bring_format(self, number: int, writer: sqlite3.Connection) -> None:
        """Bring the bank to the format that an act needs, which is on record itself; outside any transaction."""
        root = self.database.root
        migration.bring(root, writer, files=self.files, now=self.clock.now(), to=number, on_record=False)

    def segments(self, row: Row) -> Segments:
        """The vector files of a collection, cut to the recorded mark where this process is the writer."""
        codec = row.codec()
        if codec is None:
            raise BankDamaged(f"collection {row.info.name!r} has vectors but no recorded dimension")
        directory = self._directory("vectors", row.key, row.info.generation)
        segments = Segments(directory, codec, files=self.files, metric=row.info.metric)
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
        opening = Opening(place.path, self.settings.lexical_writer_bytes, title_boost=self.settings.lexical_title_boost)
        recipe = partial(wording.recipe, key=row.key, titles=self.settings.lexical_titles)
        if self.database.read_only:
            return ReaderView(place, opening, recipe)
        return WriterView(
            place,
            opening,
            recipe,
            self.database.readers,
            files=self.files,
            clock=self.clock,
            stream=self.stream,
            step_rows=self.settings.lexical_rows,
        )

    def filter_columns(self, row: Row) -> Columns:
        """What filters over a generation of a collection ask for, in memory."""
        return Columns(self.columns, f"{row.slots_key} {row.info.created!r}", clock=self.clock)

    def vector_view(self, row: Row, state: State) -> VectorView:
        """The vector index of a collection, as a writer or as a reader."""
        place = IndexPlace(
            path=self._directory("views", row.key, row.info.generation) / _INDEX_FILE,
            name=f"{self.bank}:{row.key}:{row.info.generation}",
            collection=row.key,
            generation=row.info.generation,
            collection_name=row.info.name,
            home=self._home(row.key, row.info.generation),
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

    def accesses(self, name: str) -> Accesses:
        """What is counted of the collection of that name, whether or not it exists."""
        return Accesses(
            self._accesses_path(name),
            f"{self.bank}:{name}",
            counters=self.hot.counters,
            save_every=self.hot.save_every,
            writes=not self.database.read_only,
            files=self.files,
            clock=self.clock,
        )

    def hot_place(self, row: Row) -> tuple[Path, str]:
        """Where the hot tier of a generation lies, and the name of the truth that it is derived from."""
        folder = self._directory("views", row.key, row.info.generation) / "hot"
        return folder, f"{self.bank}:{row.key}:{row.info.generation}"

    def register(self, view: LexicalView | VectorView) -> Registration | None:
        """Put a view that holds memory on the governor's roster."""
        if self.governor is not None and isinstance(view, VectorView):
            return self.governor.register(view, rung="unload")
        if self.governor is None or not isinstance(view, WriterView):
            return None
        return self.governor.register(view)

    def disk_bytes(self, row: Row) -> int:
        """Bytes of a generation's vectors and views on the disk."""
        return self.generation_bytes(row.key, row.info.generation)

    def generation_bytes(self, key: int, generation: int) -> int:
        """The same for a generation by its number."""
        folders = [self._directory(kind, key, generation) for kind in ("vectors", "views")]
        return sum(self.files.tree_bytes(folder) for folder in folders)

    def remove_files(self, key: int, generation: int) -> None:
        """Remove everything that a generation has on the disk; who has it open still sees it."""
        self._remove_index(key, generation)
        for kind in ("vectors", "views"):
            self.files.remove_tree(self._directory(kind, key, generation))

    def remove_accesses(self, name: str) -> None:
        """Remove what was counted of the collection of that name; nobody may be counting."""
        path = self._accesses_path(name)
        if path.exists():
            path.unlink()
            self.files.sync_directory(path.parent)

    def _accesses_path(self, name: str) -> Path:
        return self.database.root / "hot" / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.json"

    def _home(self, key: int, generation: int) -> Home:
        """What an index may keep outside its file. The bank's place is part of the name: a copy must not share it."""
        place = hashlib.blake2b(f"{self.bank}\0{self.database.root.resolve()}".encode(), digest_size=8).hexdigest()
        return Home(
            folder=self._directory("views", key, generation) / FOLDER,
            name=f"{place}-{key}-{generation}",
            settings=self.index,
            read_only=self.database.read_only,
            limit_bytes=Policy(self.index, self.governor).limit_bytes(),
        )

    def _remove_index(self, key: int, generation: int) -> None:
        """Remove what the index keeps elsewhere, as far as that can be reached."""
        path = self._directory("views", key, generation) / _INDEX_FILE
        try:
            told = saved.head(path)
            if told is not None:
                backend(told.method.kind).remove(told.method, self._home(key, generation))
        except (EmbankError, OSError, ValueError) as error:
            _log.warning("what the replaced index %s keeps elsewhere is not removed: %s", path, error)

    def _directory(self, kind: str, key: int, generation: int) -> Path:
        return self.database.root / kind / f"{key}-{generation}"
