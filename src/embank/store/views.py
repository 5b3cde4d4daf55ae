"""The lexical view of a collection, kept in step with the truth.

The writing process brings the index on disk up to date: before a search that would miss something, and every so many
rows. A reading process may not write it; it searches the index as the writer left it, plus a small one in memory of
the passages past its marker. Both hand out a `Picture`: an immutable state to search, and the sequence it stands for.
"""

from __future__ import annotations

import errno
import re
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from embank.errors import StoreError
from embank.events.kinds import ViewCaughtUp
from embank.events.stream import Stream
from embank.store import chunks, documents, generations, wording
from embank.store.collections import Row
from embank.store.database import is_full, meaning
from embank.store.index.protocol import Mask, Neighbors
from embank.store.lexical import WRITER_RESIDENT_BYTES, LexicalIndex, Mark, Recipe
from embank.store.lexicalsearch import LexicalSearcher
from embank.store.words import Words
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.sqlite import Readers

_log = get_logger(__name__)

_OS_ERROR = re.compile(r"(?:os error |Os \{ code: )(\d+)")
"""As tantivy tells it: in words, or, of a temporary file, as its own code writes the value."""

_KILLED = "writer was killed"
"""Said by tantivy where a thread of its own met an error, and not which: a full disk as a rule."""

MAX_TAIL_ROWS = 16_384
"""Passages a reading process indexes in memory; the writer leaves far fewer. Beyond it, answers are degraded."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The passages as of `sequence`. Tombstones up to it are the caller's to mask."""

    sequence: int
    searchers: tuple[LexicalSearcher, ...]
    degraded: bool = False

    def search(self, text: str, k: int, *, allowed: Mask | None, below: int) -> Neighbors:
        """The `k` best by BM25. Scores of passages not yet in the index on disk rest on their own statistics."""
        answers = [searcher.search(text, k, allowed=allowed, below=below) for searcher in self.searchers]
        if len(answers) == 1:
            return answers[0]
        slots = np.concatenate([answer.slots for answer in answers])
        scores = np.concatenate([answer.scores for answer in answers])
        order = np.lexsort((slots, -scores))[:k]
        return Neighbors(slots[order], scores[order], answers[0].filtering)

    def terms(self, text: str) -> tuple[list[tuple[str, int]], int]:
        """The words of `text`, each with the number of passages that have it; and the number of all there are."""
        words = [searcher.terms(text) for searcher in self.searchers]
        passages = sum(max(searcher.documents - 1, 0) for searcher in self.searchers)  # one is the marker
        counted = [(same[0][0], sum(count for _, count in same)) for same in zip(*words, strict=True)]
        return counted, passages

    @property
    def words(self) -> Words | None:
        """What texts are cut into words by."""
        return self.searchers[0].words if self.searchers else None

    def frequency(self, word: str) -> int:
        """In how many passages a word stands, in the form that `words` gives it."""
        return sum(searcher.frequency(word) for searcher in self.searchers)


class LexicalView(Protocol):
    """Either side's view."""

    def picture(self, row: Row, connection: sqlite3.Connection) -> Picture:
        """A state that holds at least what `row`, read from `connection`, recorded; it may be of a later sequence.

        Of an earlier one only where the generation of `row` was retired before the view had come so far.
        """
        ...

    def lag_rows(self, row: Row) -> int:
        """Vectors appended since the view was last brought up to date."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ViewPlace:
    """Where a view lies and which truth it is derived from (`name` changes with every generation)."""

    path: Path
    name: str
    collection: int
    generation: int
    collection_name: str


@dataclass(frozen=True, slots=True)
class Opening:
    """How the index at `path`, or one in memory, is opened."""

    path: Path
    writer_bytes: int
    title_boost: float = 1.0

    def open(self, recipe: Recipe | None) -> LexicalIndex:
        """The one on disk; without `recipe` by its own."""
        boost = self.title_boost
        return LexicalIndex(self.path, writer_bytes=self.writer_bytes, recipe=recipe, title_boost=boost)

    def in_memory(self, recipe: Recipe) -> LexicalIndex:
        """An empty one."""
        return LexicalIndex(None, writer_bytes=self.writer_bytes, recipe=recipe, title_boost=self.title_boost)


RecipeOf = Callable[[sqlite3.Connection], Recipe]
"""How the index of a collection is to be made, as recorded in its bank."""


class WriterView:
    """The index on disk, written by this process. Thread-safe; also a memory consumer: the writer's heap."""

    def __init__(
        self,
        place: ViewPlace,
        opening: Opening,
        recipe: RecipeOf,
        readers: Readers,
        *,
        files: Files,
        clock: Clock,
        stream: Stream,
        step_rows: int,
    ) -> None:
        self._place = place
        self._opening = opening
        self._recipe = recipe
        self._readers = readers
        self._files = files
        self._clock = clock
        self._stream = stream
        self._step_rows = step_rows
        self._lock = threading.RLock()
        # The sequence whose removals and titles are applied; ahead of the mark while a catch-up is between two steps.
        self._removed_through = 0
        self._index, self._mark = self._open()

    @property
    def name(self) -> str:
        return f"lexical writer {self._place.collection_name}"

    def used_bytes(self) -> int:
        return WRITER_RESIDENT_BYTES if self._index.writing else 0

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 -- it holds one heap, all or nothing
        # A writer at work is not to be waited for: whoever asks may hold what it waits for.
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            held = self.used_bytes()
            self._index.close_writer()
        finally:
            self._lock.release()
        return held

    def rebuild_cost(self) -> float:
        return 0.0005  # opening a writer takes about 10 ms for its 20 MB

    def lag_rows(self, row: Row) -> int:
        return row.slots - self._mark.slots

    def picture(self, row: Row, connection: sqlite3.Connection) -> Picture:
        with self._lock:
            if self._mark.slots > row.slots and self._mark.sequence < row.sequence:
                self.catch_up()  # it was cut short on its way to a later state
            else:
                self._reach(row, connection)
            return Picture(self._mark.sequence, (self._index.searcher(),))

    def catch_up(self) -> None:
        """Bring the index to the present; that of a retired generation stays as it is."""
        with self._lock, self._readers.read() as connection:
            row = generations.row_of(connection, self._place.collection, self._place.generation)
            if row is not None:
                self._reach(row, connection)

    def close(self) -> None:
        """Close the writer. What the view lags behind is applied when it is next needed."""
        with self._lock:
            self._index.close_writer()

    def _reach(self, row: Row, connection: sqlite3.Connection) -> None:
        """Bring the index to the state of `row` and no further: who writes on must not keep a search waiting.

        Damaged files are thrown away and built again from the truth.
        """
        try:
            self._advance(row, connection)
        except ValueError as error:  # all that tantivy raises
            self._drop_writer()
            self._raise_if_of_the_disk(error)
            _log.warning("lexical view of %r is damaged (%s): rebuilding", self._place.collection_name, error)
            try:
                self._begin_anew(self._recipe(connection))
                self._advance(row, connection)
            except ValueError as again:
                self._drop_writer()
                self._raise_if_of_the_disk(again)
                raise StoreError(
                    f"the lexical view of {self._place.collection_name!r} can't be built ({again}): all documents are "
                    f"safe, and searches by vectors (mode dense) go on",
                    collection=self._place.collection_name,
                ) from again

    def _raise_if_of_the_disk(self, error: ValueError) -> None:
        found = _OS_ERROR.search(str(error))
        number = int(found[1]) if found else None
        if number is None and _KILLED in str(error) and is_full(self._place.path):
            number = errno.ENOSPC
        kept = f"the lexical view of {self._place.collection_name!r} lags behind, all documents are safe"
        meant = meaning(number, error, self._place.path, kept)
        if meant is not None:
            raise meant from error

    def _advance(self, row: Row, connection: sqlite3.Connection) -> None:
        started, rows = self._clock.monotonic(), 0
        if self._mark.sequence < row.sequence and (wanted := self._recipe(connection)) != self._index.recipe:
            _log.info("the words of %r are to be cut by %s: rebuilding", self._place.collection_name, wanted)
            self._drop_writer()
            self._begin_anew(wanted)
        while self._mark.sequence < row.sequence or self._mark.slots < row.slots:
            rows += self._step(connection, row)
        if rows:
            seconds = self._clock.monotonic() - started
            self._stream.publish(
                ViewCaughtUp(
                    collection=self._place.collection_name,
                    view="lexical",
                    sequence=self._mark.sequence,
                    rows=rows,
                    seconds=seconds,
                )
            )

    def _step(self, connection: sqlite3.Connection, row: Row) -> int:
        mark = self._mark
        after = max(mark.sequence, self._removed_through)
        removed = chunks.buried_slots(connection, row, after=after)
        retitled = wording.retitled_slots(connection, row, after=after, below=mark.slots)
        removed = np.concatenate([removed[removed < mark.slots], retitled])
        behind = chunks.slot_behind(connection, row, first_slot=mark.slots, rows=self._step_rows)
        below = row.slots if behind is None else behind
        # Only the last step may claim the sequence: until then some of its passages are missing.
        moved = replace(mark, sequence=row.sequence if behind is None else mark.sequence, slots=below)
        count = 0
        if len(removed) or below > mark.slots:
            titles = self._index.recipe.titles
            again = wording.texts_at(connection, row, retitled, titles)
            added = documents.texts(connection, row, first_slot=mark.slots, below=below, titles=titles)
            count = self._index.apply(removed=removed, added=chain(again, added), mark=moved)
        self._mark = moved
        self._removed_through = row.sequence
        return count + len(removed)

    def _open(self) -> tuple[LexicalIndex, Mark]:
        with self._readers.read() as connection:
            recipe = self._recipe(connection)
        try:
            self._files.make_directory(self._place.path)
            index = self._opening.open(recipe)
            mark = index.mark(self._place.name)
        except ValueError as error:
            _log.warning("lexical view of %r can't be opened (%s): rebuilding", self._place.collection_name, error)
            return self._recreate(recipe)
        of_another_truth = mark.slots == 0 and index.searcher().documents
        if of_another_truth or mark.recipe != recipe:
            return self._recreate(recipe)
        return index, mark

    def _begin_anew(self, recipe: Recipe) -> None:
        self._index, self._mark = self._recreate(recipe)
        self._removed_through = 0

    def _recreate(self, recipe: Recipe) -> tuple[LexicalIndex, Mark]:
        self._files.remove_tree(self._place.path)
        self._files.make_directory(self._place.path)
        try:
            return self._opening.open(recipe), Mark(self._place.name, recipe=recipe)
        except ValueError as error:
            self._raise_if_of_the_disk(error)
            raise

    def _drop_writer(self) -> None:
        try:
            self._index.close_writer()
        except ValueError as error:
            _log.warning("the lexical writer of %r ended badly: %s", self._place.collection_name, error)


@dataclass(frozen=True, slots=True)
class Tail:
    """Passages [first, below) in memory, as they stood at `sequence`."""

    index: LexicalIndex
    first: int
    below: int
    sequence: int


class ReaderView:
    """The index as another process left it, and the passages past its marker in memory. Thread-safe.

    The tail is cut as the index is, whatever the bank says by now: a new language, and new titles of passages that are
    in the index, are seen when the writer has brought it up to date.
    """

    def __init__(self, place: ViewPlace, opening: Opening, recipe: RecipeOf) -> None:
        self._place = place
        self._opening = opening
        self._recipe = recipe
        self._lock = threading.Lock()
        self._base: LexicalIndex | None = None
        self._tail: Tail | None = None

    def lag_rows(self, row: Row) -> int:  # noqa: ARG002 -- nothing for this side to bring up to date
        return 0

    def picture(self, row: Row, connection: sqlite3.Connection) -> Picture:
        with self._lock:
            searchers, mark = self._look()
            if mark.sequence > row.sequence or mark.slots >= row.slots:
                return Picture(max(mark.sequence, row.sequence), searchers)
            tail = self._extended(mark, row, connection)
            degraded = tail.below < row.slots
            # Another thread may have extended the tail from a later state, where rows of this one were gone.
            return Picture(max(row.sequence, tail.sequence), (*searchers, tail.index.searcher()), degraded)

    def close(self) -> None:
        with self._lock:
            self._base, self._tail = None, None

    def _look(self) -> tuple[tuple[LexicalSearcher, ...], Mark]:
        try:
            if self._base is None and LexicalIndex.exists(self._place.path):
                self._base = self._opening.open(None)
            if self._base is None:
                return (), Mark(self._place.name)
            self._base.reload()
            mark = self._base.mark(self._place.name)
        except ValueError as error:  # damaged, or being rebuilt by the writer this moment
            _log.warning("lexical view of %r can't be read: %s", self._place.collection_name, error)
            self._base = None
            return (), Mark(self._place.name)
        return ((self._base.searcher(),) if mark.slots else ()), mark

    def _extended(self, mark: Mark, row: Row, connection: sqlite3.Connection) -> Tail:
        """The tail behind `mark`, with what `row` has more."""
        recipe = mark.recipe if mark.slots else self._recipe(connection)
        tail, first = self._tail, mark.slots
        if tail is None or tail.first != first or tail.below < first or tail.index.recipe != recipe:
            tail = Tail(self._opening.in_memory(recipe), first, first, 0)
        start, stop = tail.below, min(row.slots, first + MAX_TAIL_ROWS)
        if start < stop:
            added = documents.texts(connection, row, first_slot=start, below=stop, titles=recipe.titles)
            tail.index.apply(removed=(), added=added, mark=Mark(self._place.name, row.sequence, stop))
            tail.index.close_writer()
            tail = Tail(tail.index, first, stop, row.sequence)
        self._tail = tail
        return tail
