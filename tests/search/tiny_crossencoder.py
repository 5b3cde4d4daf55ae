"""A real cross-encoder of a few kilobytes: it adds up what the words of the passage weigh, in a graph run by ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "rivers", "carry", "silt", "mountains", "rise", "sea"]
WEIGHTS = [90.0, 80.0, 70.0, 0.0, 1.0, 0.5, 2.0, 8.0, 0.25, 0.125]
"""Of padding and special tokens, too, which would show if one of them were counted."""


def write(folder: Path, *, outputs: int = 1, max_tokens: int = 16) -> Path:
    """A model's folder as transformers has it; `outputs` logits a pair."""
    from onnx import TensorProto, helper, numpy_helper, save
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    (folder / "onnx").mkdir()
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token=WORDS[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": max_tokens}))
    weights = np.array(WEIGHTS, np.float32)
    weights[2] = 0.0  # the one behind the passage counts as part of it
    table = np.repeat(weights[:, None], outputs, axis=1)
    kinds = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in _INPUTS]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["worth"]),
        helper.make_node("Mul", ["attention_mask", "token_type_ids"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["kept_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept_float", "last"], ["kept_wide"]),
        helper.make_node("Mul", ["worth", "kept_wide"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "tokens"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        kinds,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", outputs])],
        initializer=[
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([-1], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "tokens"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, str(folder / "onnx" / "model.onnx"))
    return folder


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
