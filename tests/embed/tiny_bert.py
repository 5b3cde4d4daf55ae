"""Small made-up models on disk, in the layout of real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HIDDEN, INTERMEDIATE, LAYERS, HEADS, WORDS, POSITIONS = 16, 32, 2, 4, 40, 64

Tensors = dict[str, npt.NDArray[Any]]

_NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64"}


def encode_safetensors(tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The file format, written by hand; uint16 arrays stand for the bits of bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        stop = position + tensor.nbytes
        kind = _NAMES[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [position, stop]}
        position = stop
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + b"".join(tensor.tobytes() for tensor in tensors.values())


def make_tensors(*, seed: int = 0, prefix: str = "", old_names: bool = False) -> Tensors:
    """The weights of a BERT encoder of two layers."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}

    def add(name: str, *shape: int) -> None:
        tensors[prefix + name] = random.normal(0, 0.3, shape).astype(np.float32)

    def add_norm(name: str) -> None:
        scale, shift = ("gamma", "beta") if old_names else ("weight", "bias")
        add(f"{name}.{scale}", HIDDEN)
        add(f"{name}.{shift}", HIDDEN)

    add("embeddings.word_embeddings.weight", WORDS, HIDDEN)
    add("embeddings.position_embeddings.weight", POSITIONS, HIDDEN)
    add("embeddings.token_type_embeddings.weight", 2, HIDDEN)
    add_norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        stem = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            add(f"{stem}.attention.self.{part}.weight", HIDDEN, HIDDEN)
            add(f"{stem}.attention.self.{part}.bias", HIDDEN)
        add(f"{stem}.attention.output.dense.weight", HIDDEN, HIDDEN)
        add(f"{stem}.attention.output.dense.bias", HIDDEN)
        add_norm(f"{stem}.attention.output.LayerNorm")
        add(f"{stem}.intermediate.dense.weight", INTERMEDIATE, HIDDEN)
        add(f"{stem}.intermediate.dense.bias", INTERMEDIATE)
        add(f"{stem}.output.dense.weight", HIDDEN, INTERMEDIATE)
        add(f"{stem}.output.dense.bias", HIDDEN)
        add_norm(f"{stem}.output.LayerNorm")
    return tensors


def make_folder(folder: Path, *, tensors: Tensors | None = None, pooling: str = "mean", **config: Any) -> Path:
    """A whole model folder; `config` overrides entries of config.json."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(encode_safetensors(make_tensors() if tensors is None else tensors))
    write_json(
        folder / "config.json",
        {
            "model_type": "bert",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "vocab_size": WORDS,
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            **config,
        },
    )
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    flags = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
    key = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **flags, key[pooling]: True})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_tokenizer(path: Path) -> None:
    """Whole words, the alphabet's letters and the greek ones' names, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(chr(ord("a") + index) for index in range(26)), *["alpha", "beta"]]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
