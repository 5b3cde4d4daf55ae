"""Matrices in an ONNX graph, in each precision: how they are kept, and the nodes that compute with them.

float32 is kept as it is; float16 is widened when it is used; int8 has a scale for each output, and each row of the
activations, that is each token, gets a scale of its own while the model runs. ONNX Runtime's own dynamic quantisation
takes one scale for a whole batch, so that a text's vector depends on its neighbours: its operators are never used.
Does not know where a matrix comes from: `Matrix` hands out its values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from embank.errors import ModelFileError

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.embed.formats.onnxfile import Graph

    Floats = npt.NDArray[np.float32]

Precision = Literal["int8", "float32", "float16"]

_LARGEST = np.float32(127)
_ZERO = 128
# Rows of nothing but zeros: any scale does, and this one has an inverse.
_TINY = np.float32(1e-30)


class Matrix(Protocol):
    """A matrix of the source file, finite, read in blocks so that it is never held whole."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[Floats]:
        """Fresh float32 blocks of whole rows, first to last."""
        ...


def linear(
    graph: Graph, states: str, weight: Matrix, bias: str | None, precision: Precision, *, name: str, flat: bool
) -> str:
    """`states @ weight + bias`, of a weight of shape (inputs, outputs).

    `flat` says that `states` has two axes; else it may have more.
    """
    if precision == "int8":
        return _linear_int8(graph, states, weight, bias, name=name)
    kept = dense(graph, weight, precision, name=f"{name}.weight")
    if flat and bias is not None:
        return graph.node("Gemm", states, kept, bias, name=name)
    product = graph.node("MatMul", states, kept, name=f"{name}.product")
    return product if bias is None else graph.node("Add", product, bias, name=name)


def dense(graph: Graph, weight: Matrix, precision: Precision, *, name: str) -> str:
    """The matrix as float32 for the nodes that use it."""
    if precision != "float16":
        return graph.weight(name, np.float32, weight.shape, weight.blocks())
    kept = graph.weight(name, np.float16, weight.shape, map(_halved(weight.name), weight.blocks()))
    return graph.node("Cast", kept, name=f"{name}.wide", to=1)


def rows(graph: Graph, table: Matrix, ids: str, precision: Precision, *, name: str) -> str:
    """Rows of a table, by their numbers: only these become float32."""
    if precision == "float32":
        return graph.node(
            "Gather", graph.weight(f"{name}.table", np.float32, table.shape, table.blocks()), ids, name=name
        )
    if precision == "float16":
        halves = map(_halved(table.name), table.blocks())
        kept = graph.weight(f"{name}.table", np.float16, table.shape, halves)
        return graph.node("Cast", graph.node("Gather", kept, ids, name=f"{name}.rows"), name=name, to=1)
    scales: list[Floats] = []

    def rounded() -> Iterator[npt.NDArray[np.int8]]:
        for block in table.blocks():
            scale = np.maximum(np.abs(block).max(axis=1), _TINY) / _LARGEST
            scales.append(scale)
            yield np.rint(block / scale[:, np.newaxis]).astype(np.int8)

    kept = graph.weight(f"{name}.table", np.int8, table.shape, rounded())
    factors = graph.weight(f"{name}.scales", np.float32, (table.shape[0], 1), [np.concatenate(scales)[:, np.newaxis]])
    wide = graph.node("Cast", graph.node("Gather", kept, ids, name=f"{name}.rows"), name=f"{name}.wide", to=1)
    return graph.node("Mul", wide, graph.node("Gather", factors, ids, name=f"{name}.factors"), name=name)


def _linear_int8(graph: Graph, states: str, weight: Matrix, bias: str | None, *, name: str) -> str:
    """A row's largest magnitude becomes 127; the product is exact in int32 and scaled back by row and by column."""
    scale = _output_scales(weight)
    quantised = (np.rint(block / scale).astype(np.int8) for block in weight.blocks())
    kept = graph.weight(f"{name}.weight", np.int8, weight.shape, quantised)
    scales = graph.weight(f"{name}.scales", np.float32, (weight.shape[1],), [scale])
    magnitudes = graph.node("Abs", states, name=f"{name}.magnitudes")
    tiny = graph.constant(f"{name}.tiny", _TINY, np.float32)
    most = graph.constant(f"{name}.most", _LARGEST, np.float32)
    largest = graph.node(
        "Max", _largest_of_rows(graph, magnitudes, name=f"{name}.largest"), tiny, name=f"{name}.bounded"
    )
    row_scale = graph.node("Div", largest, most, name=f"{name}.row_scale")
    scaled = graph.node("Mul", states, graph.node("Div", most, largest, name=f"{name}.inverse"), name=f"{name}.scaled")
    # Unsigned with a zero in the middle, which processors multiply several times faster than signed with signed. All
    # is positive then, so that cutting off after adding a half rounds.
    half = graph.constant(f"{name}.half", _ZERO + 0.5, np.float32)
    whole = graph.node("Cast", graph.node("Add", scaled, half, name=f"{name}.shifted"), name=f"{name}.whole", to=2)
    zero = graph.constant(f"{name}.zero", _ZERO, np.uint8)
    product = graph.node("MatMulInteger", whole, kept, zero, name=f"{name}.product")
    wide = graph.node("Cast", product, name=f"{name}.wide", to=1)
    by_row = graph.node("Mul", wide, row_scale, name=f"{name}.by_row")
    if bias is None:
        return graph.node("Mul", by_row, scales, name=name)
    return graph.node("Add", graph.node("Mul", by_row, scales, name=f"{name}.by_column"), bias, name=name)


def _largest_of_rows(graph: Graph, magnitudes: str, *, name: str) -> str:
    if graph.opset < 18:
        return graph.node("ReduceMax", magnitudes, name=name, axes=[-1], keepdims=1)
    return graph.node("ReduceMax", magnitudes, graph.constant(f"{name}.axis", [-1], np.int64), name=name, keepdims=1)


def _output_scales(weight: Matrix) -> Floats:
    """float32 (outputs,): what one step of int8 stands for in each column."""
    largest = np.full(weight.shape[1], _TINY, dtype=np.float32)
    for block in weight.blocks():
        np.maximum(largest, np.abs(block).max(axis=0), out=largest)
    return largest / _LARGEST


class _halved:  # noqa: N801 — used as a function that knows a name
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, block: Floats) -> npt.NDArray[np.float16]:
        with np.errstate(over="ignore"):
            halves = block.astype(np.float16)
        if not np.isfinite(halves).all():
            raise ModelFileError(
                f"{self._name} holds values beyond the range of float16: use the precision float32", tensor=self._name
            )
        return halves
