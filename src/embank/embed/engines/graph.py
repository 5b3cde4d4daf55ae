"""What the ONNX engines share: loading a converted graph within the budget, padding a batch, pooling its states.

The runtimes, `onnx` and `openvino`, each bring a `Runtime`: token ids and a mask in, the graph's output out. What a
text's vector could learn of its neighbours is kept out here: ids are padded on the right, the mask says where, and of
states with a row a token only the text's own are pooled. int8 amplifies the last bits in which attention over another
width differs, so that such an engine has texts computed beside those of their own width only (`length_step`), as the
CTranslate2 engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embank.embed import batching
from embank.embed.engine import Unheard
from embank.embed.files.inuse import hold
from embank.embed.formats.converted import ensure_converted, needed_sources
from embank.embed.formats.folder import TOKENIZER, WEIGHTS, BertShape, Description, read_exported_description
from embank.embed.formats.manifest import size_bytes
from embank.embed.formats.onnxconvert import MODEL_FILE, weight_files
from embank.embed.formats.onnxfile import DATA_FILE
from embank.embed.formats.recipe import Recipe, describe_bert
from embank.embed.formats.verify import check_against_reference
from embank.embed.model import Fingerprint
from embank.embed.tokens import Tokens
from embank.errors import EmbeddingFailed, MissingExtra, ModelFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from embank.embed.engine import Encoded, Engine, LoadRequest, TokenIds
    from embank.embed.files.inuse import Hold
    from embank.embed.formats.manifest import Manifest
    from embank.embed.model import Kind, Precision, Vectors

CONVERTER_VERSION = 1
OPERATOR_SET = 20
# Measured: 34 MB anonymous at most, interpreter, numpy and onnx included; an exported file is parsed, and held twice.
_CHILD_BYTES = 48 << 20
_TOKENIZER_BYTES_A_FILE_BYTE = 17
_ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1}
_WAIT_S = 60.0
# Widths of batches are multiples of this where it matters; see the module.
LENGTH_STEP = 16
# A batch within these stays in a core's own cache; see `ct2`, where the same was measured.
_LEAST_BATCH_TOKENS = 256
_MOST_BATCH_TOKENS = 384


class Runtime(Protocol):
    """An opened graph. `run` is called from `lanes` threads at once."""

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The graph's output for padded ids and their mask, both (texts, tokens); (texts[, tokens], dimension)."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How an engine computes on this machine: its name, its device, how many batches at once, and of which widths.

    `batch_tokens` is the most padded tokens a batch has. `loaded_bytes` estimates the anonymous memory of the opened
    model, given the bytes of its weights but for the table of word vectors.
    """

    engine: str
    device: str
    lanes: int
    batch_tokens: int
    length_step: int | None
    loaded_bytes: Callable[[int], int]
    quantization: str = "none"
    stored: Precision | None = None
    """The precision that the file is written in, where it is not the one asked for."""


def batch_tokens_of(request: LoadRequest, lanes: int) -> int:
    """Padded tokens a batch: what is set, shared out over the lanes."""
    return min(max(request.settings.padded_tokens // lanes, _LEAST_BATCH_TOKENS), _MOST_BATCH_TOKENS)


def load_graph(request: LoadRequest, plan: Plan, open_runtime: Callable[[Path], Runtime]) -> Engine:
    """Open the model of `request`, converting it first where needed; `open_runtime` is given the graph's file.

    Raises what `ensure_converted` raises, and `MissingExtra` where it must be converted and `onnx` is not installed.
    Cutting vectors to `embed.dimensions` is the loader's affair.
    """

    def open_within_budget(
        folder: Path, manifest: Manifest, *, split: bool = False, held: Hold | None = None
    ) -> GraphEngine:
        with request.budget.reserve(f"load {request.name}", _loaded_bytes(plan, manifest), wait_s=_WAIT_S):
            return GraphEngine(open_runtime, folder, manifest, plan, split=split, held=held)

    def verify(folder: Path, manifest: Manifest) -> None:
        # Never split: the reference vectors are of truncated texts.
        engine = open_within_budget(folder, manifest)
        try:
            # Also where no reference vectors are stored: a graph that can't be run, or answers otherwise than it says,
            # is found before it is put in place.
            batching.embed(engine, ["a"], "passage", budget=request.budget, publisher=Unheard())
            check_against_reference(
                request.name,
                request.precision,
                lambda texts: batching.embed(engine, texts, "passage", budget=request.budget, publisher=Unheard()),
            )
        finally:
            engine.close()

    while True:
        folder, manifest = ensure_converted(request, verify=verify, recipe=_recipe(plan))
        held = hold(folder, *needed_sources(request), directory=request.models_directory)
        if held is not None:  # None: pruned by another process right after it was checked
            break
    try:
        request.on_progress(0.85, "opening")
        return open_within_budget(folder, manifest, split=request.settings.long_texts == "split", held=held)
    except BaseException:
        held.close()
        raise


class GraphEngine:
    """An opened graph. Thread-safe; `close` must not overlap a call."""

    def __init__(
        self,
        open_runtime: Callable[[Path], Runtime],
        folder: Path,
        manifest: Manifest,
        plan: Plan,
        *,
        split: bool = False,
        held: Hold | None = None,
    ) -> None:
        """`held` keeps the files from being removed; it is let go with the model."""
        description = manifest.description
        self.device = plan.device
        self.max_tokens = description.max_tokens
        self.batch_tokens = plan.batch_tokens
        self.lanes = plan.lanes
        self.length_step = plan.length_step
        self.fingerprint = replace(_fingerprint(manifest, plan), long_texts="split" if split else "truncate")
        self._description = description
        self._loaded_bytes = _loaded_bytes(plan, manifest)
        self._token_bytes = _token_bytes(manifest, plan)
        self._prefixes: dict[Kind, str] = {
            "query": description.query_prefix,
            "passage": description.passage_prefix,
        }
        self._tokens: Tokens | None = Tokens(
            folder / TOKENIZER,
            max_tokens=description.max_tokens,
            lower_case=description.lower_case,
            split=split,
            vocabulary=_vocabulary(manifest) or 1 << 31,
        )
        self._runtime: Runtime | None = open_runtime(folder / MODEL_FILE)
        self._held = held

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        return self._tokenizer().encode(texts, prefix=self._prefixes[kind])

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer().count(texts)

    def batch_bytes(self, rows: int, width: int) -> int:
        return rows * width * self._token_bytes(width)

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        runtime = self._runtime
        if runtime is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        ids, mask, lengths = self._padded(batch)
        answer = runtime.run(ids, mask)
        wanted = (len(batch), self.fingerprint.dimension)
        pooled = self._description.pooling == "graph"
        if answer.shape != (wanted if pooled else (wanted[0], ids.shape[1], wanted[1])) or answer.dtype.kind != "f":
            raise EmbeddingFailed(
                f"the runtime answered {answer.dtype} of shape {answer.shape} for ids of shape {ids.shape} and a model "
                f"of {wanted[1]} dimensions",
                model=self.fingerprint.name,
            )
        if pooled:
            return np.array(answer, dtype=np.float32)
        if self._description.pooling == "cls":
            return np.array(answer[:, 0], dtype=np.float32)
        vectors = np.empty(wanted, dtype=np.float32)
        for number, length in enumerate(lengths):
            # Only what is text: the states of padding hold anything.
            answer[number, :length].mean(axis=0, dtype=np.float32, out=vectors[number])
        return vectors

    def used_bytes(self) -> int:
        return self._loaded_bytes if self._runtime is not None else 0

    def close(self) -> None:
        """Give the weights back. What the allocator does with them is the governor's affair."""
        runtime, self._runtime, self._tokens = self._runtime, None, None
        if runtime is not None:
            runtime.close()
        if self._held is not None:
            self._held.close()

    def _padded(self, batch: Sequence[TokenIds]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[int]]:
        lengths = [len(ids) for ids in batch]
        step = self.length_step or 1
        width = min(-(-max(lengths) // step) * step, self.max_tokens)
        ids = np.full((len(batch), width), self._description.pad_token, dtype=np.int64)
        mask = np.zeros((len(batch), width), dtype=np.int64)
        for number, row in enumerate(batch):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return ids, mask, lengths

    def _tokenizer(self) -> Tokens:
        if self._tokens is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        return self._tokens


def ran_out_of_memory(error: Exception, shape: tuple[int, ...], device: str) -> EmbeddingFailed | None:
    """The error to raise where `error` says that the runtime found no memory for a batch; None for other errors."""
    said = str(error)
    if not any(sign in said for sign in _SIGNS_OF_NO_MEMORY) and not isinstance(error, MemoryError):
        return None
    return EmbeddingFailed(
        f"the runtime ran out of memory on {device} with a batch of {shape[0]} texts of {shape[1]} tokens: lower "
        f"embed.padded_tokens (EMBANK_EMBED__PADDED_TOKENS) or embed.threads, or make room there: {said:.200}",
        device=device,
        texts=shape[0],
        tokens=shape[1],
    )


_SIGNS_OF_NO_MEMORY = (
    "Failed to allocate memory",
    "Available memory of",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "OUT_OF_MEMORY",
    "ALLOC_FAILED",
    "could not create a memory object",
)


def _recipe(plan: Plan) -> Recipe:
    def child_bytes(folder: Path) -> int:
        _check_onnx_is_here()
        name = weight_files(folder)[0]
        return _CHILD_BYTES + (0 if name == WEIGHTS else 2 * (folder / name).stat().st_size)

    return Recipe(
        engine=plan.engine,
        form="onnx",
        converter_version=CONVERTER_VERSION,
        binary_version=OPERATOR_SET,
        child_bytes=child_bytes,
        label=f"{plan.engine}-",
        precision=plan.stored,
        weight_files=weight_files,
        describe=_describe,
    )


def _describe(folder: Path, facts: Mapping[str, Any]) -> tuple[BertShape | None, Description]:
    if weight_files(folder) == (WEIGHTS,):
        return describe_bert(folder, facts)
    return None, read_exported_description(folder, dimension=int(facts["dimension"]), pooled=bool(facts["pooled"]))


def _check_onnx_is_here() -> None:
    from importlib.util import find_spec  # the child imports it, not this process

    if find_spec("onnx") is None:
        raise MissingExtra("onnx", "onnx")


def _loaded_bytes(plan: Plan, manifest: Manifest) -> int:
    """The table of word vectors stays in the file's pages; everything else is packed anew for the processor."""
    tokenizer = size_bytes(manifest, TOKENIZER) * _TOKENIZER_BYTES_A_FILE_BYTE
    item_bytes = _ITEM_BYTES[plan.stored or manifest.precision]
    table = (_vocabulary(manifest) or 0) * manifest.description.dimension * item_bytes
    return plan.loaded_bytes(max(size_bytes(manifest, DATA_FILE) - table, 0)) + tokenizer


def _vocabulary(manifest: Manifest) -> int | None:
    return manifest.description.vocabulary if manifest.shape is None else manifest.shape.vocabulary


def _token_bytes(manifest: Manifest, plan: Plan) -> Callable[[int], int]:
    """Bytes that a token takes in a batch of a width: in the widest layer or in the attention, whichever is more.

    Measured on MiniLM, batches of 384 tokens, as anonymous memory with every block mapped by itself: 5.4 MB in float32
    and 7.7 in int8 where 5.9 and 8.3 are said; 9.5 at a width of 192 where 10.6 are.
    """
    shape = manifest.shape
    hidden = manifest.description.dimension
    # Of a model that somebody exported, what nearly all encoders have.
    intermediate, heads = (4 * hidden, max(1, hidden // 32)) if shape is None else (shape.intermediate, shape.heads)
    # Products of int8 are there as they come, and widened, at the same time.
    wide = 4 * ((2 if plan.quantization == "none" else 3) * intermediate + 2 * hidden)
    return lambda width: max(wide, 4 * 6 * hidden + 8 * heads * width)


def _fingerprint(manifest: Manifest, plan: Plan) -> Fingerprint:
    description = manifest.description
    weights = manifest.weights or manifest.sources.get(WEIGHTS)
    if not weights:
        raise ModelFileError(f"the manifest of {manifest.name!r} does not say what its weights are", name=manifest.name)
    return Fingerprint(
        name=manifest.name,
        weights=weights,
        tokenizer=manifest.sources[TOKENIZER],
        pooling=description.pooling,
        normalized=True,
        dimension=description.dimension,
        engine=plan.engine,
        precision=manifest.precision,
        quantization=plan.quantization,
        query_prefix=description.query_prefix,
        passage_prefix=description.passage_prefix,
    )
