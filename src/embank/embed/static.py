"""The static engine: a text's vector is the mean of its tokens' vectors, looked up in a mapped table.

Covers WordLlama's files (Model2Vec tables have the same form). The table stays in the file's pages, which the kernel
takes back when memory is short; of a batch only the distinct tokens' rows become float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embank.embed.catalog import KnownModel
from embank.embed.device import resolve_device
from embank.embed.locate import check_files, not_here
from embank.embed.model import Fingerprint
from embank.embed.safetensors import SafetensorsFile, float32_of_bfloat16
from embank.embed.tokens import Tokens
from embank.errors import EmbeddingFailed, InvalidInput, ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from embank.embed.engine import Encoded, Engine, LoadRequest, TokenIds
    from embank.embed.model import Kind, Vectors

_TENSOR = "embedding.weight"
# A batch costs a gather of its tokens' rows, so that a larger one than a transformer's is still small.
_BATCH_TOKENS = 8192
# Measured on a BPE tokenizer of 32,000 pieces: 11.6 MB for a file of 1.84 MB.
_TOKENIZER_BYTES_A_FILE_BYTE = 7
_LONGEST_GATHER = 4096


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
    check_files(request.known, request.folder)
    request.on_progress(0.5, "opening")
    tokenizer_bytes = (request.folder / request.known.tokenizer).stat().st_size * _TOKENIZER_BYTES_A_FILE_BYTE
    with request.budget.reserve(f"load {request.name}", tokenizer_bytes):
        return StaticEngine(
            request.known, request.folder, dimension=wanted, split=request.settings.long_texts == "split"
        )


class StaticEngine:
    """An opened table. Thread-safe but for `close`."""

    device = "cpu"

    def __init__(self, known: KnownModel, folder: Path, *, dimension: int, split: bool = False) -> None:
        self._file = SafetensorsFile(folder / known.weights)
        self._is_bfloat16 = _TENSOR in self._file and self._file.entries[_TENSOR].dtype == "BF16"
        table = self._file.view(_TENSOR)
        if table.ndim != 2 or table.shape[1] != known.dimension:
            raise ModelFileError(
                f"{self._file.path}: {_TENSOR} has shape {table.shape}, not (tokens, {known.dimension})",
                path=str(self._file.path),
            )
        self._table: npt.NDArray[np.float16 | np.float32 | np.uint16] | None = table[:, :dimension]
        self._dimension = dimension
        self.max_tokens = known.max_tokens
        self.batch_tokens = _BATCH_TOKENS
        self.lanes = 1
        self.length_step: int | None = None
        # WordLlama's own inference adds no special tokens.
        self._tokens: Tokens | None = Tokens(
            folder / known.tokenizer, max_tokens=known.max_tokens, special=False, split=split
        )
        self._tokenizer_bytes = self._tokens.file_bytes * _TOKENIZER_BYTES_A_FILE_BYTE
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
        """At most one float32 row a token, and the same again while a text's rows are gathered."""
        return rows * width * self._dimension * 8

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        table = self._table
        if table is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        # A token outside the table takes its last row, as in WordLlama's own inference.
        ids = np.minimum(np.concatenate(batch), len(table) - 1)
        distinct, positions = np.unique(ids, return_inverse=True)
        raw = table[distinct]
        rows = float32_of_bfloat16(raw.astype(np.uint16)) if self._is_bfloat16 else raw.astype(np.float32)
        vectors = np.empty((len(batch), self._dimension), dtype=np.float32)
        lengths = np.fromiter(map(len, batch), dtype=np.intp, count=len(batch))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        # Texts of one length at a time: a few sums over three axes instead of one a text. (np.add.reduceat over the
        # whole batch is three times slower.)
        for length in np.unique(lengths):
            numbers = np.flatnonzero(lengths == length)
            vectors[numbers] = _sums(rows, positions, starts[numbers], int(length)) / np.float32(length)
        return vectors

    def used_bytes(self) -> int:
        """The tokenizer: the table lies in file pages."""
        return self._tokenizer_bytes if self._table is not None else 0

    def close(self) -> None:
        self._table = None
        self._tokens = None
        self._file.close()

    def _open_tokens(self) -> Tokens:
        if self._tokens is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        return self._tokens


def _sums(rows: Vectors, positions: npt.NDArray[np.intp], starts: npt.NDArray[np.intp], length: int) -> Vectors:
    """The sum of `length` rows for each start, in blocks, so that long texts do not gather all their rows at once."""
    total = np.zeros((len(starts), rows.shape[1]), dtype=np.float32)
    step = max(1, _LONGEST_GATHER // len(starts))
    for first in range(0, length, step):
        offsets = np.arange(first, min(first + step, length))
        total += rows[positions[starts[:, np.newaxis] + offsets]].sum(axis=1)
    return total
