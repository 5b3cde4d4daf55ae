"""From rows of token ids back to texts, for callers who send tokens: the tokenizer is opened when it is needed.

The texts are what the tokenizer's own decoder makes of the ids, without special tokens; a tokenizer that lowers letters
or drops accents can't bring those back, which changes no vector, since it would do the same again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embank.embed.files.locate import locate
from embank.errors import InvalidInput, ModelFileError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTES_A_FILE_BYTE = 6
"""What a tokenizer takes in memory for each byte of its file, roughly; it is not held longer than there is room."""


def tokenizer_file(name: str, *, directory: Path) -> Path | None:
    """The tokenizer of a model; `None` where its files are not here. Raises `ModelNotFound` for an unknown name."""
    located = locate(name, directory=directory)
    if located.folder is None:
        return None
    path = located.folder / (located.known.tokenizer if located.known is not None else "tokenizer.json")
    return path if path.is_file() else None


class Detokenizer:
    """Thread-safe. A consumer of the governor: it is let go when memory is wanted, and opened again."""

    name = "detokenizer"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """One text a row. Raises `InvalidInput` for an id that the tokenizer does not have."""
        tokenizer = self._open()
        largest = tokenizer.get_vocab_size() - 1
        for index, row in enumerate(rows):
            if max(row) > largest:
                raise InvalidInput(
                    f"input[{index}] has the token {max(row)}; this model's go up to {largest}: send its own, or texts",
                    index=index,
                )
        return list(tokenizer.decode_batch([list(row) for row in rows]))

    def used_bytes(self) -> int:
        return 0 if self._tokenizer is None else self._path.stat().st_size * _BYTES_A_FILE_BYTE

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 -- it goes as a whole
        held_bytes = self.used_bytes()
        self._tokenizer = None
        return held_bytes

    def rebuild_cost(self) -> float:
        """Seconds a megabyte, measured on tokenizers of 0.5 to 9 MB."""
        return 0.05

    def _open(self) -> Tokenizer:
        from tokenizers import Tokenizer

        with self._lock:
            tokenizer = self._tokenizer
            if tokenizer is None:
                try:
                    tokenizer = Tokenizer.from_file(str(self._path))
                except Exception as error:  # the library raises bare Exception
                    raise ModelFileError(f"{self._path} is no tokenizer: {error}", path=str(self._path)) from error
                self._tokenizer = tokenizer
            return tokenizer
