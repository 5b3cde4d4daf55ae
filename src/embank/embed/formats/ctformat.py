"""CTranslate2's model file, written directly: the variables of a BERT encoder, in the order and form it reads them.

Covers binary version 6 of `TransformerEncoderSpec` (ctranslate2/specs/model_spec.py, `_serialize`, `_quantize` and
`_alias_variables`; ctranslate2/converters/transformers.py, `BertLoader`), without the pooling layer, which sentence
vectors do not use. In float32 the output is byte for byte what those classes write; they hold the whole model, though,
and this holds one block of rows. numpy is the only heavy import.

In int8 the matrices have scales of their own (`quantized_rows`). Processors without VNNI multiply bytes in pairs and
add each pair in 16 bits, which overflow: with CTranslate2's scales MiniLM's least cosine to the original was 0.9897 on
such a processor, and 0.9931 where sums have 32 bits. With these no pair can overflow, whatever the text; what is left
of the range gives 0.9924 and 0.9935, and two matrix libraries differ by no more than with seven bits.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from embank.embed.formats.folder import ACTIVATIONS, BertShape
from embank.embed.formats.safetensors import SafetensorsFile
from embank.errors import ModelFileError

if TYPE_CHECKING:
    import numpy.typing as npt

Precision = Literal["int8", "float32"]
Use = Literal["as it is", "looked up", "multiplied"]
"""What a weight is for: only those whose rows are looked up or multiplied with are quantised."""

BINARY_VERSION = 6
SPECIFICATION = "TransformerEncoderSpec"
REVISION = 1

_TYPE_IDS = {"float32": 0, "int8": 1, "int16": 2}
_MERGE_BY_ADDING = 1
# Rounding may add half to each of a pair: then it is 128 at most, and 255 * 128 < 2**15.
_MOST_PAIR = 127.5
_BLOCK_ROWS = 2048
_BLOCK_BYTES = 2 << 20  # wide rows make blocks of fewer rows, so that every block costs about the same


class Sink(Protocol):
    """Where the model goes: anything that takes bytes in order."""

    def write(self, data: bytes | memoryview, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Weight:
    """A variable made of one or more source tensors, stacked by rows."""

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    use: Use = "as it is"

    @property
    def quantizable(self) -> bool:
        return self.use != "as it is"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A setting that the format keeps as a variable without dimensions."""

    name: str
    dtype: Literal["int8", "int16"]
    value: int


def bert_variables(shape: BertShape, file: SafetensorsFile) -> list[Weight | Scalar]:
    """The variables of a BERT encoder in the file's order (sorted by name), their sources found and checked.

    Checkpoints with and without the prefix `bert.`, and with the old names gamma/beta, are understood. Raises
    `ModelFileError` naming every tensor that is missing, or the first of another shape.
    """
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in file else ""
    variables: list[Weight | Scalar] = [
        Scalar("encoder/activation", "int8", ACTIVATIONS[shape.activation]),
        Scalar("encoder/embeddings_merge", "int8", _MERGE_BY_ADDING),
        Scalar("encoder/multi_query_attention", "int8", 0),
        Scalar("encoder/num_heads", "int16", shape.heads),
        Scalar("encoder/pre_norm", "int8", 0),
        Scalar("encoder/scale_embeddings", "int8", 0),
    ]
    weights = [*_embeddings(shape), *(weight for layer in range(shape.layers) for weight in _layer(shape, layer))]
    variables += [_located(weight, prefix, file) for weight in weights]
    missing = [
        source
        for variable in variables
        if isinstance(variable, Weight)
        for source in variable.sources
        if source not in file
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        path = str(file.path)
        raise ModelFileError(f"{path} lacks tensors of a BERT encoder: {shown}", path=path, tensors=missing)
    for variable in variables:
        if isinstance(variable, Weight):
            _check_shape(variable, file)
    return sorted(variables, key=lambda variable: variable.name)


def write_model(
    out: Sink,
    file: SafetensorsFile,
    variables: list[Weight | Scalar],
    precision: Precision,
    *,
    on_progress: Callable[[float, str], None],
) -> None:
    """Write the model; `on_progress(fraction, variable)` is called after each variable."""
    aliases = _find_aliases(file, [variable for variable in variables if isinstance(variable, Weight)])
    written = [variable for variable in variables if variable.name not in aliases]
    scales = sum(isinstance(variable, Weight) and variable.quantizable for variable in written)
    out.write(struct.pack("I", BINARY_VERSION))
    _write_text(out, SPECIFICATION)
    out.write(struct.pack("II", REVISION, len(written) + (scales if precision == "int8" else 0)))
    total, done = sum(map(_elements, written)), 0
    for variable in written:
        if isinstance(variable, Scalar):
            _write_head(out, variable.name, (), variable.dtype)
            out.write(np.dtype(variable.dtype).type(variable.value).tobytes())
        elif variable.quantizable and precision == "int8":
            _write_quantized(out, file, variable)
        else:
            _write_head(out, variable.name, variable.shape, "float32")
            for block in _blocks(file, variable):
                out.write(block.data.cast("B"))
        done += _elements(variable)
        on_progress(done / total, variable.name)
    out.write(struct.pack("I", len(aliases)))
    for alias, name in sorted(aliases.items()):
        _write_text(out, alias)
        _write_text(out, name)


def quantized_rows(
    rows: npt.NDArray[np.float32], *, multiplied: bool
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 rows and the scale of each: `row * scale` rounded, the largest magnitude of a row becoming 127.

    The same arithmetic in the same order as CTranslate2's `_quantize`, on fresh `rows`, which it overwrites. Of rows
    that are `multiplied` the scale is smaller where a pair of neighbours of one sign would come to more than 128: a
    processor's 16 bits hold 255 (the largest input, shifted to be unsigned) times that.
    """
    largest = np.amax(np.absolute(rows), axis=1)
    if multiplied:
        largest = np.maximum(largest, _largest_pair(rows) * np.float32(127 / _MOST_PAIR))
    largest[largest == 0] = 127.0
    # Keep the scale representable in float32 for tiny rows that are not zero.
    largest = np.maximum(largest, np.float32(127) / np.finfo(np.float32).max)
    scale = (127.0 / largest).astype(np.float32, copy=False)
    rows *= scale[:, np.newaxis]
    return np.rint(rows, out=rows).astype(np.int8), scale


def _largest_pair(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The largest sum of what is of one sign in a pair of neighbours (0 and 1, 2 and 3, …), of each row."""
    most = np.zeros(len(rows), dtype=np.float32)
    for part in (np.maximum(rows, 0), np.maximum(-rows, 0)):
        even, odd = part[:, ::2], part[:, 1::2]
        even[:, : odd.shape[1]] += odd
        np.maximum(most, np.amax(even, axis=1), out=most)
    return most


def _embeddings(shape: BertShape) -> Iterator[Weight]:
    hidden = shape.hidden
    words = ("embeddings.word_embeddings.weight",)
    yield Weight("encoder/embeddings_0/weight", words, (shape.vocabulary, hidden), "looked up")
    types = ("embeddings.token_type_embeddings.weight",)
    yield Weight("encoder/embeddings_1/weight", types, (shape.token_types, hidden), "looked up")
    positions = ("embeddings.position_embeddings.weight",)
    yield Weight("encoder/position_encodings/encodings", positions, (shape.positions, hidden))
    yield from _layer_norm("encoder/layernorm_embedding", "embeddings.LayerNorm", hidden)


def _layer(shape: BertShape, number: int) -> Iterator[Weight]:
    target, source, hidden = f"encoder/layer_{number}", f"encoder.layer.{number}", shape.hidden
    attention = f"{source}.attention.self"
    fused = (f"{attention}.query", f"{attention}.key", f"{attention}.value")
    yield from _linear(f"{target}/self_attention/linear_0", fused, 3 * hidden, hidden)
    yield from _linear(f"{target}/self_attention/linear_1", (f"{source}.attention.output.dense",), hidden, hidden)
    yield from _layer_norm(f"{target}/self_attention/layer_norm", f"{source}.attention.output.LayerNorm", hidden)
    yield from _linear(f"{target}/ffn/linear_0", (f"{source}.intermediate.dense",), shape.intermediate, hidden)
    yield from _linear(f"{target}/ffn/linear_1", (f"{source}.output.dense",), hidden, shape.intermediate)
    yield from _layer_norm(f"{target}/ffn/layer_norm", f"{source}.output.LayerNorm", hidden)


def _linear(target: str, sources: tuple[str, ...], rows: int, columns: int) -> Iterator[Weight]:
    yield Weight(f"{target}/weight", tuple(f"{source}.weight" for source in sources), (rows, columns), "multiplied")
    yield Weight(f"{target}/bias", tuple(f"{source}.bias" for source in sources), (rows,))


def _layer_norm(target: str, source: str, size: int) -> Iterator[Weight]:
    yield Weight(f"{target}/gamma", (f"{source}.weight",), (size,))
    yield Weight(f"{target}/beta", (f"{source}.bias",), (size,))


def _located(weight: Weight, prefix: str, file: SafetensorsFile) -> Weight:
    return Weight(
        weight.name,
        tuple(_located_source(prefix + source, file) for source in weight.sources),
        weight.shape,
        weight.use,
    )


def _located_source(source: str, file: SafetensorsFile) -> str:
    """Checkpoints converted from TensorFlow call a layer norm's weight and bias gamma and beta."""
    if source not in file and "LayerNorm" in source:
        old = source.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        if old in file:
            return old
    return source


def _check_shape(weight: Weight, file: SafetensorsFile) -> None:
    wanted = (weight.shape[0] // len(weight.sources), *weight.shape[1:])
    for source in weight.sources:
        found = file.entries[source].shape
        if found != wanted:
            raise ModelFileError(
                f"{file.path}: tensor {source!r} has shape {found}, but config.json asks for {wanted}",
                path=str(file.path),
                tensor=source,
            )
    if math.prod(weight.shape) * 4 >= 1 << 32:
        raise ModelFileError(
            f"{file.path}: {weight.name} takes 4 GiB or more, which CTranslate2's format can't hold",
            path=str(file.path),
        )


def _blocks(file: SafetensorsFile, weight: Weight) -> Iterator[npt.NDArray[np.float32]]:
    row_bytes = 4 * math.prod(weight.shape[1:])
    rows = max(1, min(_BLOCK_ROWS if len(weight.shape) > 1 else _BLOCK_BYTES, _BLOCK_BYTES // row_bytes))
    for source in weight.sources:
        for block in file.blocks(source, rows):
            if not np.isfinite(block).all():
                raise ModelFileError(
                    f"{file.path}: tensor {source!r} holds values that are not finite",
                    path=str(file.path),
                    tensor=source,
                )
            yield block


def _write_quantized(out: Sink, file: SafetensorsFile, weight: Weight) -> None:
    """The scales follow the weight in name order, so that they can be gathered while the rows are written."""
    _write_head(out, weight.name, weight.shape, "int8")
    scales = []
    for block in _blocks(file, weight):
        rows, scale = quantized_rows(block, multiplied=weight.use == "multiplied")
        out.write(rows.data.cast("B"))
        scales.append(scale)
    _write_head(out, f"{weight.name}_scale", weight.shape[:1], "float32")
    out.write(np.concatenate(scales).tobytes())


def _find_aliases(file: SafetensorsFile, weights: list[Weight]) -> dict[str, str]:
    """Weights equal to another, by the name of the first in order: CTranslate2 stores such a weight once.

    Only those that share shape and first element are read and hashed; adding 0.0 makes -0.0 equal to 0.0, as it is for
    CTranslate2's comparison by value.
    """
    alike: dict[tuple[Any, ...], list[Weight]] = {}
    for weight in weights:  # in the order of names
        first = float(next(_blocks(file, Weight(weight.name, weight.sources[:1], weight.shape))).flat[0])
        alike.setdefault((weight.shape, first), []).append(weight)
    aliases: dict[str, str] = {}
    for group in alike.values():
        if len(group) == 1:
            continue
        firsts: dict[bytes, str] = {}
        for weight in group:
            digest = _content_digest(_blocks(file, weight))
            if digest in firsts:
                aliases[weight.name] = firsts[digest]
            else:
                firsts[digest] = weight.name
    return aliases


def _content_digest(blocks: Iterable[npt.NDArray[np.float32]]) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for block in blocks:
        digest.update(np.ascontiguousarray(block + np.float32(0.0)).data)
    return digest.digest()


def _elements(variable: Weight | Scalar) -> int:
    return math.prod(variable.shape) if isinstance(variable, Weight) else 1


def _write_head(out: Sink, name: str, shape: tuple[int, ...], dtype: str) -> None:
    _write_text(out, name)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    out.write(struct.pack("B", len(shape)) + struct.pack(f"{len(shape)}I", *shape))
    out.write(struct.pack("B", _TYPE_IDS[dtype]))
    out.write(struct.pack("I", size))


def _write_text(out: Sink, text: str) -> None:
    encoded = text.encode()
    out.write(struct.pack("H", len(encoded) + 1) + encoded + b"\0")
