"""The CTranslate2 engine: the BERT family on a CPU or a CUDA device, int8 with a scale a row or float32.

Covers opening a converted model (and having it converted), computing one padded batch, pooling.

A text's vector must not depend on its neighbours. The runtime scales each row of the activations for itself, so that
int8 has no scale in common; what is left is padding: attention over another padded width differs in the last bits, and
int8 rounds such a difference up, layer by layer, to a cosine of 0.9987 at worst. So a text is always computed at the
same width, its length rounded up to `_LENGTH_STEP`, beside texts of that width only: then alone and in any batch int8
gives the same bits (measured: 400 of 400 texts), at no loss of speed that could be measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed import batching
from embank.embed.device import resolve_device
from embank.embed.engine import Unheard
from embank.embed.files.inuse import Hold, hold
from embank.embed.formats.converted import ensure_converted, needed_sources
from embank.embed.formats.folder import TOKENIZER, WEIGHTS
from embank.embed.formats.manifest import Manifest, size_bytes
from embank.embed.formats.verify import check_against_reference
from embank.embed.matryoshka import check_dimensions
from embank.embed.model import Fingerprint
from embank.embed.tokens import Tokens
from embank.errors import DeviceNotFound, EmbeddingFailed, InvalidInput, ModelError, ModelFileError
from embank.memory.hygiene import usable_cpus
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import Encoded, Engine, LoadRequest, TokenIds
    from embank.embed.formats.ctformat import Precision
    from embank.embed.model import Kind, Vectors

_log = get_logger(__name__)

# Few widths also keep the runtime's cache of compiled kernels, one a shape, small.
_LENGTH_STEP = 16
# The keys of numpy's `__array_interface__`, through which the runtime takes an array. Held, because numpy interns them
# for each array, and CPython's table of interned names grows by every name that comes and goes.
_ARRAY_INTERFACE = ("data", "descr", "shape", "strides", "typestr", "version")
# On a CPU, `int8` alone leaves the type of the rest to the runtime; a vector must not depend on its choice.
_COMPUTE_TYPES: dict[Precision, str] = {"int8": "int8_float32", "float32": "float32"}
# Measured on BERT tokenizers of 30,000 words: 7.8 MB for a file of 0.47 MB.
_TOKENIZER_BYTES_A_FILE_BYTE = 17
# A batch smaller than this no longer fills a core's vector units; the states of a larger one no longer stay in a core's
# own cache. Measured in the same run: 256 and 384 tokens 5 % above 512, and 20 MB below it.
_LEAST_BATCH_TOKENS = 256
_MOST_BATCH_TOKENS = 384
# On a GPU, one batch at a time: a large one keeps it busy.
_CUDA_BATCH_TOKENS = 8192
# What CUDA takes of the process's own memory, once a process. Measured on an H200: 270 MB.
_CUDA_HOST_BYTES = 280 << 20
# How long a load waits for other work to end.
_WAIT_S = 60.0
# What CUDA and cuBLAS say, through the runtime, when the device is full.
_DEVICE_IS_FULL = re.compile(r"out of memory|ALLOC_FAILED")
# The runtime's own state, threads and work buffers, beside the weights.
_RUNTIME_BYTES = 6 << 20
# float32 packs its weights for the matrix library beside the ones read.
_LOADED_OVER_FILE: dict[Precision, float] = {"int8": 1.1, "float32": 1.25}


def load(request: LoadRequest) -> Engine:
    """Open the model of `request`, converting it first where needed.

    Raises what `ensure_converted` raises, `InvalidInput` for dimensions that the model was not trained for,
    `ModelFileError` when the runtime refuses the files or this processor, `DeviceNotFound` for a CUDA device that is
    not there or that it can't compute on (with `auto` that is the CPU's turn), `ModelError` when the device is full.
    """
    if request.precision not in ("int8", "float32"):
        raise InvalidInput(
            f"the ct2 engine computes int8 and float32, not {request.precision}: set embed.precision to one of these",
            value=request.precision,
        )
    precision: Precision = request.precision
    device = resolve_device(request.device, engine="ct2", cuda_devices=_cuda_devices)
    try:
        return _opened(request, precision, device)
    except DeviceNotFound as error:
        if request.device != "auto":
            raise
        _log.warning("%s; computing on the CPU", error)
        return _opened(request, precision, "cpu")


def _opened(request: LoadRequest, precision: Precision, device: str) -> Ct2Engine:
    threads = (request.settings.threads or usable_cpus()) if device == "cpu" else 1
    # Shared out over the lanes: what is computed at once, and so the memory it takes, is what was set.
    shared = request.settings.padded_tokens // threads
    batch_tokens = min(max(shared, _LEAST_BATCH_TOKENS), _MOST_BATCH_TOKENS)
    if device != "cpu":
        batch_tokens = max(request.settings.padded_tokens, _CUDA_BATCH_TOKENS)

    split = request.settings.long_texts == "split"

    def open_within_budget(folder: Path, manifest: Manifest, *, split: bool, held: Hold | None = None) -> Ct2Engine:
        # Held while it opens: from then on the reading of the process, and `used_bytes`, have it.
        loaded_bytes = _loaded_bytes(manifest, precision) + (0 if device == "cpu" else _CUDA_HOST_BYTES)
        with request.budget.reserve(f"load {request.name}", loaded_bytes, wait_s=_WAIT_S):
            engine = Ct2Engine(
                folder,
                manifest,
                device=device,
                threads=threads,
                batch_tokens=batch_tokens,
                split=split,
                held=held,
            )
            engine.check_device()
            return engine

    def verify(folder: Path, manifest: Manifest) -> None:
        # The reference vectors are of truncated texts, whatever is done with long ones later.
        engine = open_within_budget(folder, manifest, split=False)
        try:
            check_against_reference(
                request.name,
                request.precision,
                lambda texts: batching.embed(engine, texts, "passage", budget=request.budget, publisher=Unheard()),
            )
        finally:
            engine.close()

    while True:
        folder, manifest = ensure_converted(request, verify=verify)
        held = hold(folder, *needed_sources(request), directory=request.models_directory)
        if held is not None:  # None: pruned by another process right after it was checked
            break
    try:
        check_dimensions(request, manifest.description.dimension)
        request.on_progress(0.85, "opening")
        return open_within_budget(folder, manifest, split=split, held=held)
    except BaseException:
        held.close()
        raise


class Ct2Engine:
    """An opened model. Thread-safe: the runtime queues concurrent batches; `close` must not overlap them.

    Each of `threads` computes a batch of its own, with the same weights: measured on two cores and MiniLM in int8,
    batches of 256 to 512 tokens beside each other gave 14-17 k tokens/s, one of 1,024 over both cores 7-9 k (9-13 k
    with AVX-512).
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: str = "cpu",
        threads: int,
        batch_tokens: int,
        split: bool = False,
        held: Hold | None = None,
    ) -> None:
        """`held` keeps the files from being removed; it is let go with the model."""
        description = manifest.description
        self._held = held
        self.device = device
        self._precision: Precision = "int8" if manifest.precision == "int8" else "float32"
        self._manifest = manifest
        self._pooling = description.pooling
        self._prefixes: dict[Kind, str] = {
            "query": description.query_prefix,
            "passage": description.passage_prefix,
        }
        self.max_tokens = description.max_tokens
        self.batch_tokens = batch_tokens
        self.lanes = threads
        self.length_step = _LENGTH_STEP
        self.fingerprint = replace(_fingerprint(manifest), long_texts="split" if split else "truncate")
        self._tokens: Tokens | None = Tokens(
            folder / TOKENIZER,
            max_tokens=description.max_tokens,
            lower_case=description.lower_case,
            split=split,
            vocabulary=manifest.bert_shape.vocabulary,
        )
        self._encoder = _open_encoder(folder, _COMPUTE_TYPES[self._precision], threads, device)

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        return self._tokenizer().encode(texts, prefix=self._prefixes[kind])

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer().count(texts)

    def batch_bytes(self, rows: int, width: int) -> int:
        """Measured on MiniLM: states, the widest layer twice, and attention scores, in float32.

        On CUDA that memory is the device's; of the process a batch takes the ids, and the states as they come back.
        """
        shape = self._manifest.bert_shape
        if self.device != "cpu":
            return rows * width * 4 * (1 + shape.hidden)
        token_bytes = 4 * (6 * shape.hidden + 2 * shape.intermediate) + 8 * shape.heads * width
        return rows * width * token_bytes

    def check_device(self) -> None:
        """Raise `DeviceNotFound` where the runtime opened the model on a CUDA device on which it can't compute.

        It looks for cuBLAS only when it first multiplies: a model would count as ready, and answer nothing.
        """
        if self.device == "cpu":
            return
        try:
            self._computed([np.zeros(1, dtype=np.int32)], 1)
        except RuntimeError as error:
            self.close()
            if _DEVICE_IS_FULL.search(str(error)):
                raise ModelError(f"{self.device} is full: {error}", device=self.device) from error
            raise DeviceNotFound(
                f"CTranslate2 can't compute on {self.device}: {error}; it needs the libraries of the CUDA version that "
                f"it was built for (nvidia-cublas-cu12, its folder in LD_LIBRARY_PATH): install them, or set "
                f"embed.device to cpu",
                device=self.device,
                engine="ct2",
            ) from error

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        """See `Engine`. On CUDA, a batch that fails is computed in halves, down to a row at a time.

        Raises `EmbeddingFailed` when the device has no memory for one row, and what the runtime raises of others.
        """
        width = max(map(len, batch))
        try:
            return self._computed(batch, width)
        except RuntimeError as error:
            if self.device == "cpu":
                raise
            if len(batch) == 1:
                if _DEVICE_IS_FULL.search(str(error)) is None:
                    raise
                raise EmbeddingFailed(
                    f"{self.device} has no memory for one text of {width} tokens beside the model "
                    f"{self.fingerprint.name!r}: end what else uses the device, or set embed.device to cpu ({error})",
                    model=self.fingerprint.name,
                    device=self.device,
                ) from error
            # Whatever it is: a full device is told in many ways, as an invalid one among them.
            _log.warning("%s: %d texts of %d tokens: %s; in halves", self.device, len(batch), width, error)
        half = (len(batch) + 1) // 2
        self.batch_tokens = min(self.batch_tokens, max(half * width, 1))
        return np.concatenate([self.forward(batch[:half]), self.forward(batch[half:])])

    def _computed(self, batch: Sequence[TokenIds], longest: int) -> Vectors:
        from ctranslate2 import Device, StorageView

        lengths = np.fromiter((len(ids) for ids in batch), dtype=np.int32, count=len(batch))
        width = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        padded = np.zeros((len(batch), min(width, self._manifest.bert_shape.positions)), dtype=np.int32)
        for row, ids in zip(padded, batch, strict=True):
            row[: len(ids)] = ids
        encoder = self._encoder
        if encoder is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        output = encoder.forward_batch(StorageView.from_array(padded), StorageView.from_array(lengths))
        hidden = output.last_hidden_state
        if self.device != "cpu":
            hidden = hidden.to_device(Device.cpu)  # numpy can't look into the device's memory
        # A view of the runtime's memory: nothing is copied but the pooled rows.
        states = np.asarray(hidden)
        if states.shape[:2] != padded.shape or states.dtype != np.float32:
            raise EmbeddingFailed(
                f"the runtime answered {states.dtype} of shape {states.shape} for ids of shape {padded.shape}",
                model=self.fingerprint.name,
            )
        if self._pooling == "cls":
            return np.array(states[:, 0])
        vectors = np.empty((len(batch), states.shape[2]), dtype=np.float32)
        for number, length in enumerate(lengths):
            # Only what is text: the states of padding hold anything, and must not so much as be multiplied by zero.
            states[number, :length].mean(axis=0, out=vectors[number])
        return vectors

    def used_bytes(self) -> int:
        """Of this process; on CUDA the weights are in the device's memory."""
        if self._encoder is None:
            return 0
        return _loaded_bytes(self._manifest, self._precision) if self.device == "cpu" else _own_bytes(self._manifest)

    def close(self) -> None:
        """Give the weights back. What the allocator does with them is the governor's affair."""
        encoder, self._encoder, self._tokens = self._encoder, None, None
        if encoder is not None:
            encoder.unload_model()
        if self._held is not None:
            self._held.close()

    def _tokenizer(self) -> Tokens:
        if self._tokens is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        return self._tokens


def _cuda_devices() -> int:
    import ctranslate2

    return int(ctranslate2.get_cuda_device_count())


def _open_encoder(folder: Path, compute_type: str, threads: int, device: str) -> Any:
    import ctranslate2

    kind, _, index = device.partition(":")
    try:
        return ctranslate2.Encoder(
            str(folder),
            device=kind,
            device_index=int(index or 0),
            compute_type=compute_type,
            inter_threads=threads,
            intra_threads=1,
        )
    except (RuntimeError, ValueError) as error:
        if device != "cpu" and _DEVICE_IS_FULL.search(str(error)):
            raise ModelError(f"there is no memory on {device} to open {folder}: {error}", path=str(folder)) from error
        raise ModelFileError(
            f"CTranslate2 can't open {folder} as {compute_type} on {device}: {error}", path=str(folder)
        ) from error


def _loaded_bytes(manifest: Manifest, precision: Precision) -> int:
    weights = size_bytes(manifest, "model.bin") * _LOADED_OVER_FILE[precision]
    return int(weights) + _own_bytes(manifest)


def _own_bytes(manifest: Manifest) -> int:
    """What is in the process's memory on every device: the tokenizer, and the runtime's own state."""
    return size_bytes(manifest, TOKENIZER) * _TOKENIZER_BYTES_A_FILE_BYTE + _RUNTIME_BYTES


def _fingerprint(manifest: Manifest) -> Fingerprint:
    description = manifest.description
    return Fingerprint(
        name=manifest.name,
        weights=manifest.sources[WEIGHTS],
        tokenizer=manifest.sources[TOKENIZER],
        pooling=description.pooling,
        normalized=True,
        dimension=description.dimension,
        engine="ct2",
        precision=manifest.precision,
        quantization="row-int8-pairs" if manifest.precision == "int8" else "none",
        query_prefix=description.query_prefix,
        passage_prefix=description.passage_prefix,
    )
