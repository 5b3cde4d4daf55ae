"""What the converting child does for the ONNX engines: from a model's folder to one graph with its weights apart.

A BERT encoder in safetensors becomes a graph; a model that was exported to ONNX is checked and rewritten. Which of the
two a folder holds is decided here, for the child and for its parent: this module imports nothing heavy by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.embed.formats.folder import ONNX_DATA_SUFFIXES, WEIGHTS, is_bert, onnx_file, read_shape
from embank.errors import ModelFileError

if TYPE_CHECKING:
    from embank.embed.formats.onnxfile import Sink
    from embank.embed.formats.onnxlinear import Precision

MODEL_FILE = "model.onnx"


def weight_files(folder: Path) -> tuple[str, ...]:
    """The files with the weights that are taken: safetensors of a BERT encoder before an exported model.

    Raises `ModelFileError` where the folder has neither.
    """
    exported = onnx_file(folder)
    if (folder / WEIGHTS).is_file() and (exported is None or is_bert(folder)):
        return (WEIGHTS,)
    if exported is None:
        raise ModelFileError(f"{folder} has neither {WEIGHTS} nor onnx/{MODEL_FILE} or {MODEL_FILE}", path=str(folder))
    beside = [exported + suffix for suffix in ONNX_DATA_SUFFIXES]
    return (exported, *(name for name in beside if (folder / name).is_file()))


def write_graph(
    source: Path, data: Sink, precision: Precision, *, on_progress: Callable[[float, str], None]
) -> tuple[bytes, dict[str, Any]]:
    """Write the weights to `data`; the graph's file, and of an exported model what its output is.

    Raises `ModelFileError` for a source that is damaged or not understood.
    """
    name = weight_files(source)[0]
    if name == WEIGHTS:
        from embank.embed.formats.onnxgraph import write_bert
        from embank.embed.formats.safetensors import SafetensorsFile

        shape = read_shape(source)
        with SafetensorsFile(source / WEIGHTS) as file:
            return write_bert(data, file, shape, precision, on_progress=on_progress), {}
    from embank.embed.formats.onnxexport import rewrite

    made = rewrite(source / name, data, precision, on_progress=on_progress)
    return made.content, {"dimension": made.dimension, "pooled": made.pooled}
