"""A model that somebody exported to ONNX, in the form that Embank opens: checked, its weights apart, in one precision.

Covers encoders with the inputs `input_ids`, `attention_mask` and, where there is one, `token_type_ids`, and the output
`sentence_embedding`, `last_hidden_state` or `token_embeddings`, else the first with three axes; the others are dropped.
float32 weights can be narrowed to float16 or int8 (see `onnxlinear`); a model exported narrower is taken as it is.
What would compute wrongly is refused by name: unknown inputs, no output to pool, quantisation with one scale a batch,
data outside the model's folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from embank.embed.formats.folder import ONNX_DATA_SUFFIXES, read_json
from embank.embed.formats.onnxfile import Graph
from embank.embed.formats.onnxlinear import Precision, linear, rows
from embank.errors import ModelFileError

if TYPE_CHECKING:
    import numpy.typing as npt
    from onnx import ModelProto, NodeProto, TensorProto

    from embank.embed.formats.onnxfile import Sink

    Floats = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
POOLED_OUTPUT = "sentence_embedding"
_STATES_OUTPUTS = ("last_hidden_state", "token_embeddings")
_LEAST_OPSET = 11
# What is smaller stays in the graph: shapes and the like, which the runtime reads when it loads.
_SMALL_ELEMENTS = 256
_BLOCK_BYTES = 2 << 20
_FLOAT, _UINT8, _INT8, _INT32, _INT64, _FLOAT16 = 1, 2, 3, 6, 7, 10
_STORED: dict[int, Precision] = {_FLOAT: "float32", _FLOAT16: "float16", _INT8: "int8", _UINT8: "int8"}


@dataclass(frozen=True, slots=True)
class Exported:
    """The finished graph's file; what its chosen output is: `pooled` where there is a row a text, of `dimension`."""

    content: bytes
    dimension: int
    pooled: bool


def rewrite(path: Path, data: Sink, precision: Precision, *, on_progress: Callable[[float, str], None]) -> Exported:
    """Write the weights of the model at `path` to `data`. Raises `ModelFileError` for what it does not know."""
    model = _parse(path)
    opset = _check(path, model)
    _check_inputs(path, model)
    dimension, pooled = _choose_output(path, model)
    stored = _stored_precision(path, model)
    if stored not in {precision, "float32"}:
        _refuse(
            path, f"was exported in {stored}, so that it can't be computed in {precision}: set embed.precision to it"
        )
    rewriting = _Rewriting(path, model, Graph(data, opset=opset, prefix="embank."), precision)
    if stored == precision:
        rewriting.keep(on_progress)
    else:
        rewriting.narrow(on_progress)
    return Exported(model.SerializeToString(deterministic=True), dimension, pooled)


class _Rewriting:
    """One model being rewritten in place."""

    def __init__(self, path: Path, model: ModelProto, graph: Graph, precision: Precision) -> None:
        self._path = path
        self._model = model
        self._graph = graph
        self._precision = precision
        self._large = {
            tensor.name: tensor for tensor in model.graph.initializer if math.prod(tensor.dims) >= _SMALL_ELEMENTS
        }

    def keep(self, on_progress: Callable[[float, str], None]) -> None:
        """All weights as they are, only apart."""
        self._finish(list(self._model.graph.node), on_progress, after=0.0)

    def narrow(self, on_progress: Callable[[float, str], None]) -> None:
        """Matrices and tables in the precision; whatever else uses one of them keeps its float32."""
        nodes = list(self._model.graph.node)
        replaced = 0
        for number, node in enumerate(nodes):
            if self._replace(node):
                replaced += 1
            else:
                self._graph.nodes.append(node)
            on_progress(0.8 * (number + 1) / len(nodes), node.name or node.op_type)
        if not replaced:
            _refuse(
                self._path, f"has no matrices that could be kept in {self._precision}: set embed.precision to float32"
            )
        self._finish(self._graph.nodes, on_progress, after=0.8)

    def _finish(self, nodes: list[NodeProto], on_progress: Callable[[float, str], None], *, after: float) -> None:
        proto = self._model.graph
        used = set(_names_used(nodes)) | {output.name for output in proto.output}
        kept = [tensor for tensor in proto.initializer if tensor.name in used]
        small = [tensor for tensor in kept if tensor.name not in self._large]
        for number, tensor in enumerate(each for each in kept if each.name in self._large):
            self._graph.external(tensor.name, tensor.data_type, tuple(tensor.dims), self._bytes_of(tensor))
            on_progress(after + (1 - after) * (number + 1) / max(len(kept), 1), tensor.name)
        inlined = [self._inlined(tensor) for tensor in small]
        if nodes is not proto.node:
            copies = [_copy(node) for node in nodes]
            del proto.node[:]
            proto.node.extend(copies)
        del proto.initializer[:]
        proto.initializer.extend([*inlined, *self._graph.tensors])
        # Values between nodes may have types written down that are no longer true.
        del proto.value_info[:]

    def _replace(self, node: NodeProto) -> bool:
        """Append what stands for `node` with a narrow weight; False where it has none that can be."""
        graph, name = self._graph, node.output[0] if node.output else ""
        if node.op_type == "Gather" and self._is_matrix(node.input[0]) and _attribute(node, "axis", 0) == 0:
            made = rows(graph, self._matrix(node.input[0]), node.input[1], self._precision, name=name)
        elif node.op_type == "MatMul" and self._is_matrix(node.input[1]):
            weight = self._matrix(node.input[1])
            made = linear(graph, node.input[0], weight, None, self._precision, name=name, flat=False)
        elif node.op_type == "Gemm" and self._is_matrix(node.input[1]) and _is_plain_gemm(node):
            weight = self._matrix(node.input[1], transposed=bool(_attribute(node, "transB", 0)))
            bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
            made = linear(graph, node.input[0], weight, bias, self._precision, name=name, flat=True)
        else:
            return False
        graph.rename(made, name)
        return True

    def _is_matrix(self, name: str) -> bool:
        tensor = self._large.get(name)
        return tensor is not None and tensor.data_type == _FLOAT and len(tensor.dims) == 2

    def _matrix(self, name: str, *, transposed: bool = False) -> _Stored:
        tensor = self._large[name]
        values = np.frombuffer(self._bytes_of(tensor), dtype="<f4").reshape(tuple(tensor.dims))
        return _Stored(self._path, name, values.T if transposed else values)

    def _inlined(self, tensor: TensorProto) -> TensorProto:
        if not tensor.external_data:
            return tensor
        made = _copy(tensor)
        made.raw_data = bytes(self._bytes_of(tensor))
        made.ClearField("external_data")
        made.ClearField("data_location")
        return made

    def _bytes_of(self, tensor: TensorProto) -> Any:
        """The tensor's bytes: of the mapped data file where they lie there, else of the parsed file."""
        if tensor.external_data:
            return _external(self._path, tensor)
        if tensor.HasField("raw_data"):
            return tensor.raw_data
        from onnx import numpy_helper

        return np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes()


class _Stored:
    """A float32 matrix, mapped or parsed."""

    def __init__(self, path: Path, name: str, values: Floats) -> None:
        self._path = path
        self.name = name
        self._values = values

    @property
    def shape(self) -> tuple[int, int]:
        return (self._values.shape[0], self._values.shape[1])

    def blocks(self) -> Iterator[Floats]:
        step = max(1, _BLOCK_BYTES // (4 * self.shape[1]))
        for start in range(0, self.shape[0], step):
            block = np.array(self._values[start : start + step], order="C")
            if not np.isfinite(block).all():
                _refuse(self._path, f"holds values in {self.name!r} that are not finite")
            yield block


def _parse(path: Path) -> ModelProto:
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        _refuse(path, f"can't be read: {error.strerror or error}", cause=error)
    except Exception as error:  # noqa: BLE001 — protobuf's error class is not public, and its parser has several
        _refuse(path, f"is no ONNX file, or a truncated one: {error}", cause=error)


def _check(path: Path, model: ModelProto) -> int:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not model.graph.node or opset < _LEAST_OPSET:
        _refuse(path, f"is of operator set {opset}; {_LEAST_OPSET} is the first that is known")
    for node in _all_nodes(model.graph.node):
        if node.op_type.startswith("DynamicQuantize"):
            _refuse(
                path,
                f"was quantised dynamically ({node.op_type}): it takes one scale for a whole batch, so that a text's "
                f"vector depends on its neighbours. Take the model in float32; embed.precision = int8 makes it int8",
            )
    return int(opset)


def _check_inputs(path: Path, model: ModelProto) -> None:
    inside = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.input if value.name not in inside}
    for name in INPUTS[:2]:
        if name not in inputs:
            _refuse(path, f"has no input {name!r}; it has {', '.join(inputs) or 'none'}")
    for name, kind in inputs.items():
        if name not in INPUTS:
            _refuse(path, f"asks for the input {name!r}; known are {', '.join(INPUTS)}")
        if kind not in (_INT32, _INT64):
            _refuse(path, f"takes {name!r} neither as int64 nor as int32")


def _choose_output(path: Path, model: ModelProto) -> tuple[int, bool]:
    """Leave one output in the graph; its width, and whether it has a row a text."""
    proto = model.graph
    outputs = {value.name: value for value in proto.output}
    known = [outputs[name] for name in (POOLED_OUTPUT, *_STATES_OUTPUTS) if name in outputs]
    known += [value for value in proto.output if len(value.type.tensor_type.shape.dim) == 3]
    if not known:
        _refuse(
            path,
            f"has the outputs {', '.join(outputs)}: none is called {POOLED_OUTPUT} or last_hidden_state, and none has "
            f"three axes",
        )
    chosen = known[0]
    pooled = chosen.name == POOLED_OUTPUT
    sizes = chosen.type.tensor_type.shape.dim
    if sizes and len(sizes) != (2 if pooled else 3):
        _refuse(path, f"has the output {chosen.name!r} with {len(sizes)} axes")
    width = int(sizes[-1].dim_value) if sizes else 0
    width = width or _configured_width(path)
    if width < 1:
        _refuse(path, f"does not say how wide its output {chosen.name!r} is, and no config.json does")
    only = _copy(chosen)
    del proto.output[:]
    proto.output.append(only)
    return width, pooled


def _configured_width(path: Path) -> int:
    places = [folder / "config.json" for folder in (path.parent, path.parent.parent)]
    config = next((read_json(place) for place in places if place.is_file()), {})
    width = config.get("hidden_size", config.get("dim", 0))
    return width if type(width) is int else 0


def _stored_precision(path: Path, model: ModelProto) -> Precision:
    """What most of the weights' bytes are in."""
    sizes: dict[int, int] = {}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) >= _SMALL_ELEMENTS:
            sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + math.prod(tensor.dims)
    sizes.pop(_INT64, None)  # tables of positions
    if not sizes:
        return "float32"
    kind = max(sizes, key=lambda each: sizes[each])
    if kind not in _STORED:
        from onnx import TensorProto

        _refuse(path, f"has weights in {TensorProto.DataType.Name(kind)}; known are float32, float16 and int8")
    return _STORED[kind]


def _external(path: Path, tensor: TensorProto) -> memoryview:
    """A view of the mapped data file, which must lie beside the model under its name."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in {path.name + suffix for suffix in ONNX_DATA_SUFFIXES}:
        names = " or ".join(path.name + suffix for suffix in ONNX_DATA_SUFFIXES)
        _refuse(path, f"keeps the weights {tensor.name!r} in {location!r}; only {names} is read, beside the model")
    place = path.with_name(location)
    try:
        mapped = np.memmap(place, dtype=np.uint8, mode="r")
        start = int(entries.get("offset", 0))
        size = int(entries.get("length", len(mapped) - start))
    except OSError as error:
        _refuse(place, f"can't be read: {error.strerror or error}", cause=error)
    except ValueError as error:
        _refuse(path, f"says of {tensor.name!r} where it lies in {location!r} in no numbers: {error}", cause=error)
    wanted = _size_bytes(path, tensor)
    if start < 0 or size != wanted or start + size > len(mapped):
        _refuse(
            place,
            f"has {len(mapped)} bytes; {tensor.name!r} of {wanted} bytes should lie at {start}, {size} long: truncated",
        )
    return mapped[start : start + size].data


def _size_bytes(path: Path, tensor: TensorProto) -> int:
    from onnx import helper

    try:
        item = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except KeyError as error:
        _refuse(path, f"has the unknown type {tensor.data_type} in {tensor.name!r}", cause=error)
    return int(item * math.prod(tensor.dims))


def _is_plain_gemm(node: NodeProto) -> bool:
    return all(_attribute(node, name, plain) == plain for name, plain in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)))


def _attribute(node: NodeProto, name: str, default: float) -> float:
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def _all_nodes(nodes: Any) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all_nodes(graph.node)


def _names_used(nodes: Any) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _names_used(graph.node)
                yield from (output.name for output in graph.output)


def _copy(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _refuse(path: Path, problem: str, *, cause: Exception | None = None) -> NoReturn:
    raise ModelFileError(f"{path} {problem}", path=str(path)) from cause
