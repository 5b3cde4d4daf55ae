"""The static engine: a text's vector is the mean of its tokens' vectors, looked up in a mapped table.

Covers WordLlama's files (Model2Vec tables have the same form). The table stays in the file's pages, which the kernel
takes back when memory is short; a thousand of its rows at a time become float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embank.embed.device import resolve_device
from embank.embed.engines.table import Table
from embank.embed.files.catalog import KnownModel
from embank.embed.files.inuse import Hold, hold
from embank.embed.files.locate import check_files, not_here
from embank.embed.formats.safetensors import SafetensorsFile
from embank.embed.fragments import TABLE_BYTES
from embank.embed.model import Fingerprint
from embank.embed.tokens import Tokens
from embank.errors import EmbeddingFailed, InvalidInput, ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

    from embank.embed.engine import Encoded, Engine, LoadRequest, TokenIds
    from embank.embed.model import Kind, Vectors

_TENSOR = "embedding.weight"
# A batch costs a gather of its tokens' rows, so that a larger one than a transformer's is still small.
_BATCH_TOKENS = 8192
# Measured on a BPE tokenizer of 32,000 pieces: 11.6 MB for a file of 1.84 MB.
_TOKENIZER_BYTES_A_FILE_BYTE = 7


def load(request: LoadRequest) -> Engine:
    """Open a known static model. Raises `ModelNotFound`, `ModelFileError`, or `InvalidInput` for wrong dimensions."""
    if request.known is None:
        raise ModelFileError(f"{request.folder} holds no model that the static engine knows", name=request.name)
    if request.folder is None:
        raise not_here(request.known)
    wanted = request.settings.dimensions or request.known.dimension
    if wanted not in request.known.dimensions:
        choices = ", ".join(map(str, request.known.dimensions))
        raise InvalidInput(
            f"the model {request.name!r} can be cut to {choices} dimensions, not to {wanted}: set embed.dimensions to "
            f"one of these",
            value=wanted,
        )
    resolve_device(request.device, engine="static", cuda_devices=lambda: 0)
    request.on_progress(0.0, "checking files")
    held = hold(request.folder, directory=request.models_directory)
    if held is None:
        raise not_here(request.known)  # removed meanwhile
    try:
        check_files(request.known, request.folder)
        request.on_progress(0.5, "opening")
        tokenizer_bytes = (request.folder / request.known.tokenizer).stat().st_size * _TOKENIZER_BYTES_A_FILE_BYTE
        with request.budget.reserve(f"load {request.name}", tokenizer_bytes + TABLE_BYTES):
            return StaticEngine(
                request.known,
                request.folder,
                dimension=wanted,
                split=request.settings.long_texts == "split",
                held=held,
            )
    except BaseException:
        held.close()
        raise


class StaticEngine:
    """An opened table. Thread-safe but for `close`."""

    device = "cpu"

    def __init__(
        self, known: KnownModel, folder: Path, *, dimension: int, split: bool = False, held: Hold | None = None
    ) -> None:
        """`held` keeps the files from being removed; it is let go with the model."""
        self._held = held
        self._file = SafetensorsFile(folder / known.weights)
        table = self._file.view(_TENSOR)
        if table.ndim != 2 or table.shape[1] != known.dimension:
            raise ModelFileError(
                f"{self._file.path}: {_TENSOR} has shape {table.shape}, not (tokens, {known.dimension})",
                path=str(self._file.path),
            )
        self._table: Table | None = Table(table, dimension)
        self._dimension = dimension
        self.max_tokens = known.max_tokens
        self.batch_tokens = _BATCH_TOKENS
        self.lanes = 1
        self.length_step: int | None = None
        # WordLlama's own inference adds no special tokens.
        self._tokens: Tokens | None = Tokens(
            folder / known.tokenizer, max_tokens=known.max_tokens, special=False, split=split
        )
        self._tokenizer_bytes = self._tokens.file_bytes * _TOKENIZER_BYTES_A_FILE_BYTE + self._tokens.remembered_bytes
        self.fingerprint = Fingerprint(
            name=known.name,
            weights=known.files[known.weights],
            tokenizer=known.files[known.tokenizer],
            pooling="mean",
            normalized=True,
            dimension=dimension,
            engine="static",
            precision="float32",
            long_texts="split" if split else "truncate",
        )

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:  # noqa: ARG002 — no prefixes
        return self._open_tokens().encode(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._open_tokens().count(texts)

    def batch_bytes(self, rows: int, width: int) -> int:
        """At most one row a token as it stands in the table, and the same as float32: less in a large batch."""
        table = self._table
        return rows * width * ((0 if table is None else table.row_bytes) + self._dimension * 4)

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        table = self._table
        if table is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        return table.means(batch)

    def used_bytes(self) -> int:
        """The tokenizer and what it remembers: the table lies in file pages."""
        return self._tokenizer_bytes if self._table is not None else 0

    def close(self) -> None:
        self._table = None
        self._tokens = None
        self._file.close()
        if self._held is not None:
            self._held.close()

    def _open_tokens(self) -> Tokens:
        if self._tokens is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        return self._tokens
