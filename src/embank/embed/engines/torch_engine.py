"""The torch engine: any sentence-transformers model, on a CPU or a CUDA device, in float32, bfloat16 or float16.

For architectures that the lean engines don't know, and for GPUs. The libraries alone take about 300 MB and ten seconds
of import, which stay with the process; ct2, onnx and static are the lean ways. float16 on a CPU is computed only when
asked for: most processors are slow at it.

A text's vector must not depend on its neighbours. float32 differs in the last bits only; of half precision a matrix
of another height is rounded differently, so that there a text is computed at one width, its length rounded up.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed import batching
from embank.embed.device import resolve_device
from embank.embed.engine import Unheard
from embank.embed.engines import placement, sentence_model
from embank.embed.engines.placed import Placed
from embank.embed.engines.weights import weight_files
from embank.embed.files.checksum import sha256_of
from embank.embed.files.inuse import Hold, hold
from embank.embed.files.locate import check_files, not_here
from embank.embed.formats.verify import LEAST_COSINE, check_against_reference
from embank.embed.matryoshka import check_dimensions
from embank.embed.model import Fingerprint
from embank.embed.tokens import Tokens
from embank.errors import EmbankError, EmbeddingFailed, InvalidInput, ModelError, ModelFileError
from embank.events.kinds import ModelMoved
from embank.memory.hygiene import usable_cpus
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import Budget, Encoded, Engine, LoadRequest, Publisher, TokenIds
    from embank.embed.engines.sentence_model import SentenceModel
    from embank.embed.model import Kind, Precision, Vectors

_log = get_logger(__name__)

_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
# Measured: torch 130 MB, transformers 25, sentence-transformers and what it brings 140.
_LIBRARY_BYTES = 300 << 20
_RUNTIME_BYTES = 16 << 20
# Measured on BERT tokenizers of 30,000 words: 7.8 MB for a file of 0.47 MB.
_TOKENIZER_BYTES_A_FILE_BYTE = 17
# A device of thousands of lanes is idle at what keeps two cores busy; its memory is not the process's.
_CUDA_BATCHES = 16
_WAIT_S = 60.0
_REFERENCE_TEXTS = 8
_PROBES = (
    "A short probe.",
    "Memory that is given back, and a text that is long enough to have some padding beside it.",
)
# Between alone and padded; what lies below saw its padding.
_LEAST_ALIKE: dict[Precision, float] = {"float32": 0.9999, "bfloat16": 0.999, "float16": 0.999}


def load(request: LoadRequest) -> Engine:
    """Open the model in the folder of `request`. Nothing is ever downloaded.

    Raises `InvalidInput` for int8 or dimensions that the model was not trained for, `DeviceNotFound`, `MissingExtra`,
    `BudgetExceeded`, `ModelNotFound`, and `ModelFileError` for files that are missing, damaged, altered, of another
    architecture, or that compute something else than the reference vectors say.
    """
    _check_precision(request.precision)
    folder = request.folder
    if folder is None:
        raise not_here(request.known) if request.known else ModelFileError("the model has no folder", name=request.name)
    request.on_progress(0.0, "checking files")
    held = hold(folder, directory=request.models_directory)
    if held is None:
        raise ModelFileError(f"{folder} was removed meanwhile", path=str(folder))
    try:
        return _opened(request, folder, held)
    except BaseException:
        held.close()
        raise


def _opened(request: LoadRequest, folder: Path, held: Hold) -> Engine:
    if request.known is not None:
        check_files(request.known, folder)
    weights = sentence_model.encoder_weights(folder)
    digest = sentence_model.fingerprint_of(folder)
    weight_bytes = sum(file.stat().st_size for file in weight_files(weights))
    import_bytes = 0 if "sentence_transformers" in sys.modules else _LIBRARY_BYTES
    with request.budget.reserve(f"load {request.name}", import_bytes + weight_bytes + _RUNTIME_BYTES, wait_s=_WAIT_S):
        request.on_progress(0.2, "importing torch")
        sentence_model.library()
        device = resolve_device(request.device, engine="torch", cuda_devices=_cuda_devices)
        placement.begin(device, request.budget)
        _bound_threads(request.settings.threads)
        request.on_progress(0.6, "building")
        model = sentence_model.open_model(folder, dtype=_dtype(request.precision))
        check_dimensions(request, model.dimension)
        request.on_progress(0.7, "loading weights")
        with placement.whole_or_nothing(model.modules, device, request.name):
            sentence_model.load_weights(folder, model.modules, device=device, dtype=_dtype(request.precision))
        engine = TorchEngine(
            folder,
            model,
            name=request.name,
            digest=digest,
            device=device,
            precision=request.precision,
            padded_tokens=request.settings.padded_tokens,
            split=request.settings.long_texts == "split",
            budget=request.budget,
            publisher=request.publisher,
            held=held,
        )
    request.on_progress(0.9, "comparing with reference vectors")
    try:
        _check(engine, request)
    except BaseException:
        engine.close()
        raise
    return engine


def _check(engine: TorchEngine, request: LoadRequest) -> None:
    engine.check_padding()
    check_against_reference(
        request.name if request.known is not None else "",
        request.precision,
        lambda texts: batching.embed(engine, texts, "passage", budget=request.budget, publisher=Unheard()),
        # The last of them is longer than the model takes, and its reference vector that of its beginning.
        texts=_REFERENCE_TEXTS - 1 if request.settings.long_texts == "split" else _REFERENCE_TEXTS,
    )


class TorchEngine:
    """An opened model. Thread-safe but for `close`: batches are computed one after the other, each on all threads."""

    lanes = 1

    def __init__(
        self,
        folder: Path,
        model: SentenceModel,
        *,
        name: str,
        digest: str,
        device: str,
        precision: Precision,
        padded_tokens: int,
        split: bool,
        budget: Budget,
        publisher: Publisher,
        held: Hold | None = None,
    ) -> None:
        """`model` has its weights, on `device`. `held` keeps the files from being removed; it is let go in `close`."""
        self._folder = folder
        self._model = model
        self._padded_tokens = padded_tokens
        self._budget = budget
        self._publisher = publisher
        self._held = held
        self.max_tokens = model.max_tokens
        self._tokens: Tokens | None = Tokens(
            model.tokenizer, max_tokens=model.max_tokens, lower_case=model.lower_case, split=split
        )
        self._tokenizer_bytes = self._tokens.file_bytes * _TOKENIZER_BYTES_A_FILE_BYTE
        fingerprint = Fingerprint(
            name=name,
            weights=digest,
            tokenizer=sha256_of(model.tokenizer),
            pooling=model.pooling,
            normalized=True,
            dimension=model.dimension,
            engine="torch",
            precision=precision,
            query_prefix=model.query_prefix,
            passage_prefix=model.passage_prefix,
            long_texts="split" if split else "truncate",
        )
        modules, model.modules = model.modules, None
        self._placed: Placed | None = Placed(
            modules, device, precision, fingerprint, pad_id=model.pad_id, max_tokens=model.max_tokens
        )
        self._last = self._placed
        self._computing = threading.Lock()  # held while a batch is computed, and while the placement is swapped
        self._moving = threading.Lock()

    @property
    def fingerprint(self) -> Fingerprint:
        return self._last.fingerprint

    @property
    def device(self) -> str:
        return self._last.device

    @property
    def precision(self) -> Precision:
        return self._last.precision

    @property
    def batch_tokens(self) -> int:
        """Sixteen times the setting on CUDA; fewer after the device ran out of memory."""
        wanted = self._padded_tokens * (_CUDA_BATCHES if self.device.startswith("cuda") else 1)
        return min(wanted, self._last.most_tokens)

    @property
    def length_step(self) -> int | None:
        return self._last.length_step

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        prefix = self._model.query_prefix if kind == "query" else self._model.passage_prefix
        return self._tokenizer().encode(texts, prefix=prefix)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer().count(texts)

    def batch_bytes(self, rows: int, width: int) -> int:
        """See `Placed.batch_bytes`."""
        return self._last.batch_bytes(rows, width)

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        """See `Engine`. On CUDA, a batch for which there is no memory is computed in halves, down to a row at a time.

        Raises `EmbeddingFailed` when not even one row fits.
        """
        with self._computing:
            placed = self._placed
            if placed is None:
                raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
            return placed.forward(batch)

    def move(self, device: str, *, precision: Precision | None = None) -> None:
        """Compute on another device from now on, or in another precision; whole, or not at all.

        The copy is made and checked beside the old model, which answers meanwhile; they are swapped between two
        batches, and `ModelMoved` is published. In another precision the weights are read from the files anew, so that
        float32 after bfloat16 is exact; and it is another fingerprint: who remembers the old one must not mix them.

        Raises `InvalidInput`, `DeviceNotFound`, `BudgetExceeded`, `ModelFileError` (the files changed), `ModelError`
        when the device has no room or the copy computes something else. After any of these the old one goes on.
        """
        with self._moving:
            placed = self._placed
            if placed is None:
                raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
            wanted = placed.precision if precision is None else precision
            _check_precision(wanted)
            target = resolve_device(device, engine="torch", cuda_devices=_cuda_devices)
            if (target, wanted) == (placed.device, placed.precision):
                return
            started_s = time.perf_counter()
            there = self._moved(placed, target, wanted)
            with self._computing:
                self._placed = self._last = there
            placement.discard(placed.modules)
            placement.release_cached(placed.device)
        seconds = time.perf_counter() - started_s
        name, identity = there.fingerprint.name, str(there.fingerprint)
        self._publisher.publish(ModelMoved(name, identity, placed.device, target, seconds))

    def release_cached(self) -> int:
        """Give memory that torch keeps on the CUDA device for later back to it; the bytes. 0 on a CPU."""
        with self._computing:
            return placement.release_cached(self.device)

    def used_bytes(self) -> int:
        placed = self._placed
        if placed is None:
            return 0
        weights = 0 if placed.device.startswith("cuda") else placement.held_bytes(placed.modules)
        return weights + self._tokenizer_bytes + _RUNTIME_BYTES

    def device_bytes(self) -> int:
        """What the weights take on the CUDA device; 0 on a CPU, where `used_bytes` has them."""
        placed = self._placed
        on_device = placed is not None and placed.device.startswith("cuda")
        return placement.held_bytes(placed.modules) if placed is not None and on_device else 0

    def close(self) -> None:
        """Give the weights back, and CUDA's cached memory. The imported libraries stay."""
        with self._moving, self._computing:
            placed, self._placed, self._tokens = self._placed, None, None
        if placed is not None:
            placement.discard(placed.modules)
            placement.release_cached(placed.device)
        if self._held is not None:
            self._held.close()

    def check_padding(self) -> None:
        """Raise `ModelFileError` where a text's vector depends on the text beside it."""
        rows = self.encode(_PROBES, "passage").rows
        least = _least_cosine(self.forward(rows), np.concatenate([self.forward([row]) for row in rows]))
        if not least >= _LEAST_ALIKE[self.precision]:
            raise ModelFileError(
                f"the model {self.fingerprint.name!r} is refused: beside a longer text its vectors are others than "
                f"alone (cosine {least:.4f}), so that it takes padding for text",
                name=self.fingerprint.name,
                cosine=least,
            )

    def _moved(self, placed: Placed, target: str, precision: Precision) -> Placed:
        """A checked copy; whatever goes wrong leaves nothing of it."""
        name = placed.fingerprint.name
        host_bytes = 0 if target.startswith("cuda") else placement.held_bytes(placed.modules) * 2
        modules: Any = None
        try:
            with self._budget.reserve(f"move {name} to {target}", host_bytes, wait_s=_WAIT_S):
                if precision == placed.precision:
                    modules = placement.copied_to(placed.modules, target)
                else:
                    self._check_unchanged(placed)
                    modules = placement.skeleton_of(placed.modules)
                    sentence_model.load_weights(self._folder, modules, device=target, dtype=_dtype(precision))
            fingerprint = replace(placed.fingerprint, precision=precision)
            there = replace(
                placed,
                modules=modules,
                device=target,
                precision=precision,
                fingerprint=fingerprint,
                most_tokens=sys.maxsize,
            )
            self._check_agreement(there)
        except BaseException as error:
            if modules is not None:
                placement.discard(modules)
            if not isinstance(error, Exception) or isinstance(error, (EmbankError, MemoryError)):
                raise
            # torch raises RuntimeError, its subclass for exhausted memory, and AssertionError where CUDA is missing.
            raise ModelError(
                f"the model {name!r} can't be moved to {target} as {precision}: {error}; it goes on on {placed.device}",
                name=name,
                device=target,
            ) from error
        return there

    def _check_unchanged(self, placed: Placed) -> None:
        if sentence_model.fingerprint_of(self._folder) != placed.fingerprint.weights:
            raise ModelFileError(f"the files in {self._folder} are others than were loaded", path=str(self._folder))

    def _check_agreement(self, there: Placed) -> None:
        """The copy answers a few texts as the model did."""
        rows = self.encode(_PROBES, "passage").rows
        least = _least_cosine(there.forward(rows), self.forward(rows))
        if not least >= min(LEAST_COSINE[there.precision], LEAST_COSINE[self.precision]):
            raise ModelError(
                f"on {there.device} as {there.precision} the model {there.fingerprint.name!r} computes something else: "
                f"cosine {least:.4f} to its vectors on {self.device}; it goes on there",
                name=there.fingerprint.name,
                cosine=least,
            )

    def _tokenizer(self) -> Tokens:
        if self._tokens is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        return self._tokens


def _check_precision(precision: Precision) -> None:
    if precision not in _PRECISIONS:
        raise InvalidInput(
            f"the torch engine computes {', '.join(_PRECISIONS)}, not {precision}: set embed.precision to one of these",
            value=precision,
        )


def _cuda_devices() -> int:
    import torch

    return int(torch.cuda.device_count())


def _dtype(precision: Precision) -> Any:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def _bound_threads(threads: int | None) -> None:
    """Threads of the process's one pool: as set, else no more than may be used. Between operators none are needed."""
    import torch

    wanted = threads or min(usable_cpus(), torch.get_num_threads())
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    if torch.get_num_interop_threads() != 1:
        try:
            torch.set_num_interop_threads(1)
        except RuntimeError as error:  # only before the first of them was started, by whoever
            _log.info("torch keeps %d threads between operators: %s", torch.get_num_interop_threads(), error)


def _least_cosine(some: Vectors, others: Vectors) -> float:
    norms = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return float((np.einsum("ij,ij->i", some, others) / np.maximum(norms, 1e-30)).min())
