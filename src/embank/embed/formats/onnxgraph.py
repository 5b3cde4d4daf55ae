"""A BERT encoder as an ONNX graph, from safetensors, without torch.

Inputs `input_ids` and `attention_mask`, int64 (texts, tokens); output `last_hidden_state`, float32 (texts, tokens,
hidden). All texts are of token type 0. Plain operators only, so that every runtime can read it: linear layers work on
all tokens as one long matrix, query, key and value are one product. Masked positions get a weight of exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embank.embed.formats.ctformat import Weight, bert_variables
from embank.embed.formats.onnxfile import Graph
from embank.embed.formats.onnxlinear import Precision, linear, rows
from embank.errors import ModelFileError

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.embed.formats.folder import BertShape
    from embank.embed.formats.onnxfile import Sink
    from embank.embed.formats.safetensors import SafetensorsFile

    Floats = npt.NDArray[np.float32]

OPSET = 20
_BLOCK_BYTES = 2 << 20
# Beside any score, so low that its share of the attention underflows to zero; far from what float32 can't hold.
_MASKED = -1e9


def write_bert(
    data: Sink,
    file: SafetensorsFile,
    shape: BertShape,
    precision: Precision,
    *,
    on_progress: Callable[[float, str], None],
) -> bytes:
    """Write the weights to `data`; the graph's file. Raises `ModelFileError` for tensors missing or misshapen."""
    return _Bert(data, file, shape, precision).write(on_progress)


class _Stored:
    """A matrix of the safetensors file, its sources below each other; `transposed` turns the whole."""

    def __init__(self, file: SafetensorsFile, weight: Weight, *, transposed: bool) -> None:
        self._file = file
        self._weight = weight
        self._transposed = transposed
        self.name = weight.sources[0]

    @property
    def shape(self) -> tuple[int, int]:
        first, second = self._weight.shape
        return (second, first) if self._transposed else (first, second)

    def blocks(self) -> Iterator[Floats]:
        step = max(1, _BLOCK_BYTES // (4 * self.shape[1]))
        sources = self._weight.sources
        if self._transposed:
            for start in range(0, self.shape[0], step):
                parts = [
                    _finite(self._file, source, self._file.columns(source, start, start + step)) for source in sources
                ]
                yield np.concatenate([part.T for part in parts], axis=1)
        else:
            for source in sources:
                for block in self._file.blocks(source, step):
                    yield _finite(self._file, source, block)


@dataclass(frozen=True, slots=True)
class _Common:
    """Names of what all layers use: the attention's mask, and the shapes of all tokens in a row and apart by head."""

    mask: str
    flat: str
    split: str


class _Bert:
    """The encoder in the making: each method adds one part to the graph."""

    def __init__(self, data: Sink, file: SafetensorsFile, shape: BertShape, precision: Precision) -> None:
        self._graph = Graph(data, opset=OPSET)
        self._file = file
        self._shape = shape
        self._precision = precision
        # Located, checked and named as for the other engine: both read the same checkpoints.
        self._weights = {each.name: each for each in bert_variables(shape, file) if isinstance(each, Weight)}

    def write(self, on_progress: Callable[[float, str], None]) -> bytes:
        from onnx import TensorProto, helper

        graph, shape = self._graph, self._shape
        sizes = graph.node("Shape", "input_ids", name="sizes")
        states = self._embeddings(sizes)
        on_progress(1 / (shape.layers + 1), "embeddings")
        minus = graph.constant("flat.all", [-1], np.int64)
        width = graph.constant("flat.width", [shape.hidden], np.int64)
        flat = graph.node("Concat", minus, width, name="flat", axis=0)
        heads = graph.constant("heads.sizes", [3, shape.heads, shape.hidden // shape.heads], np.int64)
        split = graph.node("Concat", sizes, heads, name="heads", axis=0)
        common = _Common(self._mask(), flat, split)
        states = graph.node("Reshape", states, flat, name="tokens")
        for number in range(shape.layers):
            states = self._layer(number, states, common)
            on_progress((number + 2) / (shape.layers + 1), f"layer {number}")
        whole = graph.node("Concat", sizes, width, name="whole", axis=0)
        graph.node("Reshape", states, whole, name="last_hidden_state")
        axes = ["texts", "tokens"]
        return graph.model(
            [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, shape.hidden])],
        )

    def _embeddings(self, sizes: str) -> str:
        graph = self._graph
        words = rows(graph, self._matrix("encoder/embeddings_0/weight"), "input_ids", self._precision, name="words")
        table = self._vector("positions.table", "encoder/position_encodings/encodings")
        start = graph.constant("positions.start", [0], np.int64)
        length = graph.node(
            "Gather", sizes, graph.constant("positions.axis", [1], np.int64), name="positions.length", axis=0
        )
        positions = graph.node("Slice", table, start, length, start, name="positions")
        first_type = next(self._matrix("encoder/embeddings_1/weight").blocks())[:1]
        kind = graph.weight("kind", np.float32, first_type.shape, [first_type])
        beside = graph.node("Add", positions, kind, name="beside")
        return self._layer_norm("embedded", graph.node("Add", words, beside, name="summed"), "layernorm_embedding")

    def _mask(self) -> str:
        """float32 (texts, 1, 1, tokens): 0 where there is text, else so low that nothing of it is left."""
        graph = self._graph
        ones = graph.node("Cast", "attention_mask", name="mask.ones", to=1)
        beyond = graph.node("Sub", graph.constant("mask.one", 1.0, np.float32), ones, name="mask.beyond")
        low = graph.node("Mul", beyond, graph.constant("mask.masked", _MASKED, np.float32), name="mask.low")
        return graph.node("Unsqueeze", low, graph.constant("mask.axes", [1, 2], np.int64), name="mask")

    def _layer(self, number: int, states: str, common: _Common) -> str:
        graph, name, source = self._graph, f"layer{number}", f"layer_{number}"
        context = self._attention(f"{name}.attention", f"{source}/self_attention/linear_0", states, common)
        attended = self._linear(f"{name}.attended", f"{source}/self_attention/linear_1", context)
        added = graph.node("Add", attended, states, name=f"{name}.added")
        between = self._layer_norm(f"{name}.between", added, f"{source}/self_attention/layer_norm")
        wide = self._linear(f"{name}.wide", f"{source}/ffn/linear_0", between)
        active = self._activation(f"{name}.active", wide)
        narrow = self._linear(f"{name}.narrow", f"{source}/ffn/linear_1", active)
        joined = graph.node("Add", narrow, between, name=f"{name}.joined")
        return self._layer_norm(name, joined, f"{source}/ffn/layer_norm")

    def _attention(self, name: str, source: str, states: str, common: _Common) -> str:
        graph, shape = self._graph, self._shape
        product = self._linear(f"{name}.joint", source, states)
        apart = graph.node("Reshape", product, common.split, name=f"{name}.apart")
        # (texts, tokens, 3, heads, size) -> three of (texts, heads, tokens, size), the keys turned
        part = [graph.constant(f"{name}.part{number}", number, np.int64) for number in range(3)]
        query, key, value = (
            graph.node("Gather", apart, part[number], name=f"{name}.{what}", axis=2)
            for number, what in enumerate(("query", "key", "value"))
        )
        query = graph.node("Transpose", query, name=f"{name}.query.heads", perm=[0, 2, 1, 3])
        key = graph.node("Transpose", key, name=f"{name}.key.heads", perm=[0, 2, 3, 1])
        value = graph.node("Transpose", value, name=f"{name}.value.heads", perm=[0, 2, 1, 3])
        scale = graph.constant(f"{name}.scale", (shape.hidden // shape.heads) ** -0.5, np.float32)
        likeness = graph.node(
            "Mul", graph.node("MatMul", query, key, name=f"{name}.likeness"), scale, name=f"{name}.scaled"
        )
        masked = graph.node("Add", likeness, common.mask, name=f"{name}.masked")
        share = graph.node("Softmax", masked, name=f"{name}.share", axis=-1)
        mixed = graph.node("MatMul", share, value, name=f"{name}.mixed")
        tokens = graph.node("Transpose", mixed, name=f"{name}.tokens", perm=[0, 2, 1, 3])
        return graph.node("Reshape", tokens, common.flat, name=f"{name}.context")

    def _activation(self, name: str, states: str) -> str:
        graph, kind = self._graph, self._shape.activation
        if kind == "relu":
            return graph.node("Relu", states, name=name)
        if kind in ("gelu", "gelu_python"):
            return graph.node("Gelu", states, name=name, approximate="none")
        if kind in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
            return graph.node("Gelu", states, name=name, approximate="tanh")
        gate = states
        if kind == "quick_gelu":
            gate = graph.node("Mul", states, graph.constant(f"{name}.steep", 1.702, np.float32), name=f"{name}.gate")
        return graph.node("Mul", states, graph.node("Sigmoid", gate, name=f"{name}.share"), name=name)

    def _layer_norm(self, name: str, states: str, source: str) -> str:
        gamma = self._vector(f"{name}.gamma", f"encoder/{source}/gamma")
        beta = self._vector(f"{name}.beta", f"encoder/{source}/beta")
        epsilon = self._shape.layer_norm_epsilon
        return self._graph.node("LayerNormalization", states, gamma, beta, name=name, axis=-1, epsilon=epsilon)

    def _linear(self, name: str, source: str, states: str) -> str:
        bias = self._vector(f"{name}.bias", f"encoder/{source}/bias")
        weight = self._matrix(f"encoder/{source}/weight", transposed=True)
        return linear(self._graph, states, weight, bias, self._precision, name=name, flat=True)

    def _matrix(self, source: str, *, transposed: bool = False) -> _Stored:
        return _Stored(self._file, self._weights[source], transposed=transposed)

    def _vector(self, name: str, source: str) -> str:
        """What stays float32 in every precision: it is small."""
        weight = self._weights[source]
        parts = (
            _finite(self._file, each, block) for each in weight.sources for block in self._file.blocks(each, 1 << 16)
        )
        return self._graph.weight(name, np.float32, weight.shape, parts)


def _finite(file: SafetensorsFile, source: str, block: Floats) -> Floats:
    if not np.isfinite(block).all():
        raise ModelFileError(
            f"{file.path}: tensor {source!r} holds values that are not finite", path=str(file.path), tensor=source
        )
    return block
