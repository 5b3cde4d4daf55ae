"""The lexical view: a BM25 index over a collection's passages, by tantivy.

A derived view. What it has applied is recorded in a marker document of the same commit, so index and marker can't
disagree; it catches up from the truth and can be thrown away at any time. Any text is a valid query: words are cut by
the same analyzer as the passages and joined with OR; there is no query syntax here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embank.store.index.protocol import Mask, Neighbors

if TYPE_CHECKING:
    import tantivy

SCHEMA_VERSION = 1
MAX_QUERY_WORDS = 256
MAX_QUERY_CHARACTERS = 20_000
WRITER_RESIDENT_BYTES = 20_000_000
"""What a writer with a heap of 15 MB was measured to hold (18-24 MB)."""

RENEWED_AFTER = 32
"""Commits after which an index on disk is opened again: tantivy 0.27 keeps an entry for every file that it ever mapped,
some 1.5 KB a commit, for as long as an index is open. Opening it and its writer takes 4-6 ms."""

_LONGEST_WORD = 64
_PADDED = 1_024
"""What was found is brought to as many as were asked for, up to so many: numpy keeps freed arrays of each length below
a kilobyte for ever, and lengths that are other ones with every search add up to a megabyte within thousands."""
_ANALYZER = "embank_english_1"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a view has applied: all chunks below `slots`, all removals up to `sequence`. `view` names its truth."""

    view: str
    sequence: int = 0
    slots: int = 0


class LexicalIndex:
    """One tantivy index, on disk or in memory. Searching is thread-safe; writing is for one thread at a time."""

    def __init__(self, path: Path | None, *, writer_bytes: int) -> None:
        """Open the index at `path`, or create it; `None` for one in memory. `ValueError` when its files are damaged."""
        import tantivy

        self._tantivy = tantivy
        self._path = path
        self._writer_bytes = writer_bytes
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", stored=False, tokenizer_name=_ANALYZER, index_option="freq")
        # A signed field: deleting by a term of an unsigned one silently deletes nothing (tantivy-py 0.27).
        builder.add_integer_field("slot", stored=False, indexed=True, fast=True)
        builder.add_text_field("kind", stored=False, tokenizer_name="raw", index_option="basic")
        builder.add_text_field("mark", stored=True, tokenizer_name="raw", index_option="basic")
        self._schema = builder.build()
        words = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        for each in (
            tantivy.Filter.remove_long(_LONGEST_WORD),
            tantivy.Filter.lowercase(),
            tantivy.Filter.ascii_fold(),
            tantivy.Filter.stemmer("english"),
        ):
            words = words.filter(each)
        self._analyzer = words.build()
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
    def writing(self) -> bool:
        """Whether the writer, and with it its heap, is held."""
        return self._writer is not None

    def apply(self, *, removed: Iterable[int], added: Iterable[tuple[int, str]], mark: Mark) -> int:
        """Remove and add passages and record `mark`, in one commit; return the number added."""
        self._renew_if_due()
        if self._writer is None:
            self._writer = self._index.writer(self._writer_bytes, 1)
        writer, count = self._writer, 0
        for slot in removed:
            writer.delete_documents_by_term("slot", int(slot))
        for slot, text in added:
            document = self._tantivy.Document()
            document.add_text("text", text)
            document.add_integer("slot", slot)
            writer.add_document(document)
            count += 1
        writer.delete_documents_by_term("kind", "mark")
        document = self._tantivy.Document()
        document.add_text("kind", "mark")
        document.add_text("mark", json.dumps({**asdict(mark), "schema": SCHEMA_VERSION}))
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
        return LexicalSearcher(self._tantivy, self._schema, self._analyzer, self._index.searcher())

    def _open(self) -> None:
        path = None if self._path is None else str(self._path)
        self._index = self._tantivy.Index(self._schema, path, reuse=True)
        self._index.register_tokenizer(_ANALYZER, self._analyzer)
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


class LexicalSearcher:
    """Searches one commit of a lexical index. Thread-safe."""

    def __init__(
        self,
        module: object,
        schema: tantivy.Schema,
        analyzer: tantivy.TextAnalyzer,
        searcher: tantivy.Searcher,
    ) -> None:
        self._tantivy = module
        self._schema = schema
        self._analyzer = analyzer
        self._searcher = searcher

    def mark(self, view: str) -> Mark:
        """The marker of this commit; the empty mark when it belongs to another truth or another schema."""
        import tantivy

        query = tantivy.Query.term_query(self._schema, "kind", "mark")
        hits = self._searcher.search(query, 1).hits
        if not hits:
            return Mark(view)
        fields = json.loads(str(self._searcher.doc(hits[0][1]).get_first("mark")))
        if fields.pop("schema") != SCHEMA_VERSION or fields["view"] != view:
            return Mark(view)
        return Mark(**fields)

    @property
    def documents(self) -> int:
        """Passages and the marker."""
        return self._searcher.num_docs

    def terms(self, text: str) -> list[tuple[str, int]]:
        """Each distinct word of `text`, as the index knows it, and the number of passages that have it (0: none)."""
        words = dict.fromkeys(self._analyzer.analyze(text[:MAX_QUERY_CHARACTERS]))
        return [(word, self._searcher.doc_freq("text", word)) for word in list(words)[:MAX_QUERY_WORDS]]

    def search(self, text: str, k: int, *, allowed: Mask | None, below: int) -> Neighbors:
        """The `k` best passages by BM25 with a slot < `below` for which `allowed` is true; best first."""
        import tantivy

        words = list(dict.fromkeys(self._analyzer.analyze(text[:MAX_QUERY_CHARACTERS])))[:MAX_QUERY_WORDS]
        if not words:
            return _none()
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "text", word)) for word in words]
        )
        limit = k
        while True:
            hits = self._searcher.search(query, limit, count=False).hits
            if not hits or not below:
                return _none()
            unfilled = max(min(limit, _PADDED) - len(hits), 0)
            found = self._searcher.fast_field_values("slot", [address for _, address in hits])
            slots = np.array([*found, *[below] * unfilled], np.int64)
            scores = np.array([*(score for score, _ in hits), *[0.0] * unfilled], np.float32)
            keep = slots < below
            if allowed is not None:
                keep &= allowed[np.where(keep, slots, 0)]
            kept = int(keep.sum())
            if kept >= k or len(hits) < limit:
                order = np.lexsort((slots, -scores, ~keep))[: min(kept, k)]
                return Neighbors(slots[order], scores[order])
            limit *= 4


def _none() -> Neighbors:
    return Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))
