"""An ONNX file in the making: nodes, small constants, and weights in a data file beside it.

Weights are written as they come, block by block, so that a model of any size costs one block of memory; in a file of
their own the runtimes map them instead of copying them. Knows nothing of what the graph computes. The only heavy
imports are numpy and onnx, and only the converting child makes one of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from onnx import NodeProto, TensorProto, ValueInfoProto

    Array = npt.NDArray[Any]

DATA_FILE = "model.onnx.data"
IR_VERSION = 9
# A mapped tensor begins at a page of its own; small ones share pages.
_PAGE_BYTES = 4096
_ALIGNED_BYTES = 64
_BLOCK_BYTES = 2 << 20


class Sink(Protocol):
    """Where the data goes: anything that takes bytes in order."""

    def write(self, data: bytes | memoryview, /) -> int: ...


class Graph:
    """Nodes in order, with the weights they use. `data` takes the weights' bytes, `prefix` begins every new name."""

    def __init__(self, data: Sink, *, opset: int, prefix: str = "") -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._data = data
        self._position = 0
        self._prefix = prefix
        self._names: set[str] = set()

    def node(self, operator: str, *inputs: str, name: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node; the name of its output, or of the first of them: the others end in `:1`, `:2`."""
        from onnx import helper

        first = self._fresh(name)
        names = [first, *(f"{first}:{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=first, **attributes))
        return first

    def constant(self, name: str, value: Any, dtype: type[np.generic]) -> str:
        """A small constant, kept in the graph itself."""
        from onnx import numpy_helper

        fresh = self._fresh(name)
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), fresh))
        return fresh

    def weight(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...], blocks: Iterable[Array]) -> str:
        """A tensor in the data file: `blocks` are of `dtype`, one behind the other."""
        from onnx import helper

        wanted = np.dtype(dtype)
        start = self._align(math.prod(shape) * wanted.itemsize)
        for block in blocks:
            if block.dtype != wanted:
                raise ValueError(f"a block of {name} is {block.dtype}, not {wanted}")
            self._write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        fresh = self._fresh(name)
        size = self._position - start
        if size != math.prod(shape) * wanted.itemsize:
            raise ValueError(f"{name} has {size} bytes, which are not {shape} of {wanted}")
        self._record(fresh, helper.np_dtype_to_tensor_dtype(wanted), shape, start)
        return fresh

    def external(self, name: str, data_type: int, shape: tuple[int, ...], data: bytes | memoryview) -> None:
        """A tensor of any of the format's types, as its bytes; it keeps its name."""
        start = self._align(len(data))
        for first in range(0, len(data), _BLOCK_BYTES):
            self._write(memoryview(data)[first : first + _BLOCK_BYTES])
        self._record(name, data_type, shape, start)

    def rename(self, made: str, name: str) -> None:
        """Give the last node's output `made` another name, one that nodes made elsewhere use."""
        last = self.nodes[-1]
        if last.output[0] != made:
            raise ValueError(f"{made} is not what the last node gives")
        last.output[0] = name

    def model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> bytes:
        """The finished file, weights apart."""
        from onnx import helper

        graph = helper.make_graph(self.nodes, "embank", inputs, outputs, initializer=self.tensors)
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR_VERSION, producer_name="embank"
        )
        content: bytes = made.SerializeToString(deterministic=True)
        return content

    def _fresh(self, name: str) -> str:
        full = self._prefix + name
        if full in self._names:
            raise ValueError(f"two things in the graph are called {full}")
        self._names.add(full)
        return full

    def _record(self, name: str, data_type: int, shape: tuple[int, ...], start: int) -> None:
        from onnx import TensorProto

        tensor = TensorProto(name=name, data_type=data_type, dims=shape, data_location=TensorProto.EXTERNAL)
        facts = {"location": DATA_FILE, "offset": str(start), "length": str(self._position - start)}
        for key, value in facts.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        self.tensors.append(tensor)

    def _align(self, size: int) -> int:
        """Fill up to where a tensor of `size` bytes may begin; that position."""
        step = _PAGE_BYTES if size >= _PAGE_BYTES else _ALIGNED_BYTES
        self._write(bytes(-self._position % step))
        return self._position

    def _write(self, data: bytes | memoryview) -> None:
        self._data.write(data)
        self._position += len(data)
