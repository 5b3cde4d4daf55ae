"""The lexical view: a BM25 index over a collection's passages and their titles, by tantivy.

A derived view. What it has applied, and how it cuts words, is recorded in a marker document of the same commit, so
index and marker can't disagree; it catches up from the truth and can be thrown away at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.store import words as cutting
from embank.store.lexicalsearch import LexicalSearcher
from embank.store.words import Language, Words

if TYPE_CHECKING:
    import tantivy

SCHEMA_VERSION = 2
WRITER_RESIDENT_BYTES = 20_000_000
"""What a writer with a heap of 15 MB was measured to hold (18-24 MB)."""

RENEWED_AFTER = 32
"""Commits after which an index on disk is opened again: tantivy 0.27 keeps an entry for every file that it ever mapped,
some 1.5 KB a commit, for as long as an index is open. Opening it and its writer takes 4-6 ms."""

_ANALYZER = f"embank_{SCHEMA_VERSION}_{cutting.VERSION}_"
"""Before the language: an index that was written with other words is told by the name of its analyzer."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an index depends on beside the texts: their language, and the keys of metadata that hold titles."""

    language: Language = "english"
    titles: tuple[str, ...] = ("title",)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a view has applied: all chunks below `slots`, all changes up to `sequence`. `view` names its truth."""

    view: str
    sequence: int = 0
    slots: int = 0
    recipe: Recipe = field(default_factory=Recipe)


class LexicalIndex:
    """One tantivy index, on disk or in memory. Searching is thread-safe; writing is for one thread at a time."""

    def __init__(
        self, path: Path | None, *, writer_bytes: int, recipe: Recipe | None = None, title_boost: float = 1.0
    ) -> None:
        """Open the index at `path`, or create it; `None` for one in memory.

        Without `recipe`, one that exists is opened by its own. `ValueError` when its files are damaged, were written by
        another version, or by another recipe.
        """
        import tantivy

        self._tantivy = tantivy
        self._path = path
        self._writer_bytes = writer_bytes
        self._title_boost = title_boost
        recorded = None if path is None else _recorded_language(path)
        if recipe is not None and recorded not in (None, recipe.language):
            raise ValueError(f"its words are cut as {recorded}, not as {recipe.language}")
        self._recipe = recipe or Recipe(recorded or "english")
        self._words = Words(self._recipe.language)
        self._analyzer = _ANALYZER + self._recipe.language
        builder = tantivy.SchemaBuilder()
        for name in ("text", "title"):
            builder.add_text_field(name, stored=False, tokenizer_name=self._analyzer, index_option="position")
        # A signed field: deleting by a term of an unsigned one silently deletes nothing (tantivy-py 0.27).
        builder.add_integer_field("slot", stored=False, indexed=True, fast=True)
        builder.add_text_field("kind", stored=False, tokenizer_name="raw", index_option="basic")
        builder.add_text_field("mark", stored=True, tokenizer_name="raw", index_option="basic")
        self._schema = builder.build()
        self._writer: tantivy.IndexWriter | None = None
        self._commits = 0
        """Seen since the index was opened."""
        self._seen = self._last_commit()
        self._open()

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether there is an index at `path` to open without creating one."""
        import tantivy

        return path.is_dir() and tantivy.Index.exists(str(path))

    @property
    def recipe(self) -> Recipe:
        """What it was created or opened with."""
        return self._recipe

    @property
    def writing(self) -> bool:
        """Whether the writer, and with it its heap, is held."""
        return self._writer is not None

    def apply(self, *, removed: Iterable[int], added: Iterable[tuple[int, str, str]], mark: Mark) -> int:
        """Remove and add passages and record `mark`, in one commit; return the number added.

        Each of `added` is a slot, the passage, and the title of its document or "".
        """
        self._renew_if_due()
        if self._writer is None:
            self._writer = self._index.writer(self._writer_bytes, 1)
        writer, count = self._writer, 0
        for slot in removed:
            writer.delete_documents_by_term("slot", int(slot))
        for slot, text, title in added:
            document = self._tantivy.Document()
            document.add_text("text", self._words.spread(text))
            if title:
                document.add_text("title", self._words.spread(title))
            document.add_integer("slot", slot)
            writer.add_document(document)
            count += 1
        writer.delete_documents_by_term("kind", "mark")
        document = self._tantivy.Document()
        document.add_text("kind", "mark")
        document.add_text("mark", self._encoded(mark))
        writer.add_document(document)
        writer.commit()
        self._index.reload()
        self._commits += 1
        return count

    def close_writer(self) -> None:
        """Give the writer's heap back; waits for merges under way."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.wait_merging_threads()

    def reload(self) -> None:
        """See what another process has committed."""
        seen = self._last_commit()
        if seen is not None and seen != self._seen:
            self._seen = seen
            self._commits += 1
            self._renew_if_due()
        self._index.reload()

    def searcher(self) -> LexicalSearcher:
        """An immutable picture of the last commit seen."""
        return LexicalSearcher(self._schema, self._words, self._index.searcher(), title_boost=self._title_boost)

    def mark(self, view: str) -> Mark:
        """What the last commit seen has applied; the empty mark when it is of another truth or another version."""
        encoded = self.searcher().marker()
        if encoded is None:
            return Mark(view, recipe=self._recipe)
        fields: dict[str, Any] = json.loads(encoded)
        if fields["schema"] != SCHEMA_VERSION or fields["view"] != view:
            return Mark(view, recipe=self._recipe)
        recipe = Recipe(self._recipe.language, tuple(fields["titles"]))
        return Mark(view, fields["sequence"], fields["slots"], recipe)

    def _encoded(self, mark: Mark) -> str:
        titles = list(self._recipe.titles)
        fields = {"view": mark.view, "sequence": mark.sequence, "slots": mark.slots, "titles": titles}
        return json.dumps({**fields, "schema": SCHEMA_VERSION})

    def _open(self) -> None:
        path = None if self._path is None else str(self._path)
        self._index = self._tantivy.Index(self._schema, path, reuse=True)
        self._index.register_tokenizer(self._analyzer, self._words.analyzer)
        self._index.config_reader("manual")
        self._index.reload()
        self._commits = 0

    def _renew_if_due(self) -> None:
        """Open an index on disk again that has seen many commits; searchers handed out go on with what they have."""
        if self._path is not None and self._commits >= RENEWED_AFTER:
            self.close_writer()
            self._open()

    def _last_commit(self) -> tuple[int, int] | None:
        """What tells one commit on disk from the next: each puts a new file in the place of this one."""
        if self._path is None:
            return None
        try:
            found = (self._path / "meta.json").stat()
        except FileNotFoundError:  # opening it would create one; the reload says what is wrong
            return None
        return found.st_ino, found.st_mtime_ns


def _recorded_language(path: Path) -> Language | None:
    """The language of the index at `path`; `None` where there is none. `ValueError` where it can't be told."""
    try:
        fields = json.loads((path / "meta.json").read_bytes())["schema"]
        (name,) = [each["options"]["indexing"]["tokenizer"] for each in fields if each["name"] == "text"]
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise ValueError(f"meta.json can't be understood: {error}") from error
    for language in cutting.LANGUAGES:
        if name == _ANALYZER + language:
            return language
    raise ValueError(f"it was written by another version, which cut words as {name!r}")
