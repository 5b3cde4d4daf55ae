"""Small models as others export them to ONNX, in a folder with their tokenizer and configuration."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.embed.tiny_bert import HIDDEN, make_folder

from embank.embed.formats.folder import WEIGHTS, read_shape
from embank.embed.formats.onnxfile import DATA_FILE
from embank.embed.formats.onnxgraph import write_bert
from embank.embed.formats.safetensors import SafetensorsFile

Change = Callable[[onnx.ModelProto], None]


def tiny_graph(folder: Path) -> onnx.ModelProto:
    """The tiny BERT of a folder as one ONNX model with its weights inside, and with other names than Embank's own."""
    data = io.BytesIO()
    with SafetensorsFile(folder / WEIGHTS) as file:
        content = write_bert(data, file, read_shape(folder), "float32", on_progress=lambda *_: None)
    model = onnx.load_from_string(content)
    raw = data.getvalue()
    for tensor in model.graph.initializer:
        facts = {entry.key: entry.value for entry in tensor.external_data}
        if facts:
            assert facts["location"] == DATA_FILE
            start, size = int(facts["offset"]), int(facts["length"])
            tensor.raw_data = raw[start : start + size]
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return model


def make_exported(
    folder: Path,
    *changes: Change,
    name: str = "onnx/model.onnx",
    beside: str | None = None,
    pooling: str = "mean",
    **config: Any,
) -> Path:
    """A folder with an exported tiny BERT and no safetensors; `beside` names the file that holds its weights.

    `config` overrides entries of config.json, after the graph was made.
    """
    make_folder(folder, pooling=pooling)
    model = tiny_graph(folder)
    for change in changes:
        change(model)
    place = folder / name
    place.parent.mkdir(exist_ok=True)
    if beside is None:
        place.write_bytes(model.SerializeToString())
    else:
        onnx.save(model, place, save_as_external_data=True, location=beside, size_threshold=64)
    (folder / WEIGHTS).unlink()
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **config}))
    return folder


def with_token_types(model: onnx.ModelProto) -> None:
    """Asks for token types, in int32, as many exports do, and adds them to the first layer norm's input times zero."""
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT32, ["texts", "tokens"]))
    summed = next(number for number, node in enumerate(graph.node) if node.output[0] == "summed")
    node = graph.node[summed]
    old = node.input[0]
    node.input[0] = "types.added"
    added = [
        helper.make_node("Cast", ["token_type_ids"], ["types.wide"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["types.wide", "types.axis"], ["types.column"]),
        helper.make_node("Add", [old, "types.column"], ["types.added"]),
    ]
    graph.initializer.append(helper.make_tensor("types.axis", TensorProto.INT64, [1], [2]))
    for offset, each in enumerate(added):
        graph.node.insert(summed + offset, each)


def with_int32_ids(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT32
    # Shape, Gather and Cast take both.


def with_pooling(model: onnx.ModelProto) -> None:
    """The mean over what is text inside the graph, in an output called sentence_embedding, beside the states."""
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["pool.ones"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["pool.ones", "pool.axis"], ["pool.mask"]),
            helper.make_node("Mul", ["last_hidden_state", "pool.mask"], ["pool.kept"]),
            helper.make_node("ReduceSum", ["pool.kept", "pool.middle"], ["pool.sum"], keepdims=0),
            helper.make_node("ReduceSum", ["pool.mask", "pool.middle"], ["pool.count"], keepdims=0),
            helper.make_node("Div", ["pool.sum", "pool.count"], ["sentence_embedding"]),
        ]
    )
    graph.initializer.append(helper.make_tensor("pool.axis", TensorProto.INT64, [1], [2]))
    graph.initializer.append(helper.make_tensor("pool.middle", TensorProto.INT64, [1], [1]))
    graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["texts", HIDDEN]))


def renamed_output(name: str, *, rank: int = 3) -> Change:
    """The states under another name; with another rank the graph says something false of itself."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.node.append(helper.make_node("Identity", ["last_hidden_state"], [name]))
        del graph.output[:]
        sizes = ["texts", "tokens", HIDDEN][:rank]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))

    return change


def added_input(name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]))

    return change


def without_input(name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kept = [value for value in model.graph.input if value.name != name]
        del model.graph.input[:]
        model.graph.input.extend(kept)

    return change


def dynamically_quantised(model: onnx.ModelProto) -> None:
    model.graph.node.append(
        helper.make_node("DynamicQuantizeLinear", ["last_hidden_state"], ["q.values", "q.scale", "q.zero"])
    )


def with_plain_products(model: onnx.ModelProto) -> None:
    """Every Gemm as MatMul and Add, or with its weight turned, as exporters write them."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for number, node in enumerate(graph.node):
        if node.op_type != "Gemm":
            nodes.append(node)
        elif number % 2:
            product = f"{node.output[0]}.before"
            nodes.append(helper.make_node("MatMul", node.input[:2], [product]))
            nodes.append(helper.make_node("Add", [product, node.input[2]], node.output))
        else:
            weight = weights[node.input[1]]
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
            nodes.append(helper.make_node("Gemm", node.input, node.output, transB=1))
    del graph.node[:]
    graph.node.extend(nodes)


def write_sentence_config(folder: Path, **content: Any) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps(content))
