"""What a model's own folder says about it: architecture, pooling, length, case, prompts.

Covers the layout that sentence-transformers writes (config.json, tokenizer.json, model.safetensors, modules.json,
1_Pooling/config.json, sentence_bert_config.json, config_sentence_transformers.json) for the BERT architecture and for
models of any architecture that were exported to ONNX, and a plain folder without modules.json, which is pooled by mean
as sentence-transformers does. Reads no weights. What it does not know it refuses by name: a model read half right gives
vectors that look fine and are wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from embank.errors import ModelFileError

Pooling = Literal["mean", "cls"]
"""How token vectors become one: `mean` over all tokens with the special ones, `cls` the first."""

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
ONNX_FILES = ("onnx/model.onnx", "model.onnx")
"""Where an exported model lies in its folder; the first that is there counts."""
ONNX_DATA_SUFFIXES = ("_data", ".data")
"""What follows an exported model's name in that of the file beside it which holds its weights, if one does."""

# The numbers are CTranslate2's enum (include/ctranslate2/ops/activation.h).
ACTIVATIONS = {
    "relu": 0, "gelu_fast": 1, "gelu_new": 1, "gelu_pytorch_tanh": 1,
    "silu": 2, "swish": 2, "gelu": 3, "gelu_python": 3, "quick_gelu": 4,
}  # fmt: skip

# These number a text's positions from the padding token's number onwards.
_POSITIONS_BEHIND_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "data2vec-text"}


@dataclass(frozen=True, slots=True)
class BertShape:
    """The sizes that a BERT encoder's weights must have, and its few scalars."""

    layers: int
    heads: int
    hidden: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    activation: str
    layer_norm_epsilon: float


@dataclass(frozen=True, slots=True)
class Description:
    """How a model turns text into a vector. `max_tokens` counts the special tokens, too.

    Of an exported model: the pooling `graph` is its own, which answers one row a text; `pad_token` stands where there
    is no text; `vocabulary` is how many tokens it knows, None where no file says so.
    """

    dimension: int
    max_tokens: int
    pooling: Pooling | Literal["graph"]
    lower_case: bool = False
    query_prefix: str = ""
    passage_prefix: str = ""
    pad_token: int = 0
    vocabulary: int | None = None


def onnx_file(folder: Path) -> str | None:
    """The exported model in a folder, by its path from there; None where there is none."""
    return next((name for name in ONNX_FILES if (folder / name).is_file()), None)


def is_bert(folder: Path) -> bool:
    """Whether the folder's configuration says that it holds a BERT encoder."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("model_type") == "bert"


def own_engine(folder: Path | None) -> str:
    """The engine that a folder's files are for: onnx where only an exported model can be opened, else ct2."""
    if folder is None or onnx_file(folder) is None:
        return "ct2"
    return "ct2" if (folder / WEIGHTS).is_file() and is_bert(folder) else "onnx"


def read_shape(folder: Path) -> BertShape:
    """The encoder's sizes from config.json. Raises `ModelFileError` for any architecture but BERT."""
    path = folder / "config.json"
    config = read_json(path)
    architecture = config.get("model_type")
    if architecture != "bert":
        _refuse(path, f"is of architecture {architecture!r}; only 'bert' can be converted so far")
    if (position := config.get("position_embedding_type", "absolute")) != "absolute":
        _refuse(path, f"has {position!r} position embeddings; only 'absolute' is known")
    if (activation := config.get("hidden_act", "gelu")) not in ACTIVATIONS:
        _refuse(path, f"has the activation {activation!r}; known are {', '.join(sorted(ACTIVATIONS))}")
    shape = BertShape(
        layers=_size(path, config, "num_hidden_layers"),
        heads=_size(path, config, "num_attention_heads"),
        hidden=_size(path, config, "hidden_size"),
        intermediate=_size(path, config, "intermediate_size"),
        vocabulary=_size(path, config, "vocab_size"),
        positions=_size(path, config, "max_position_embeddings"),
        token_types=_size(path, config, "type_vocab_size"),
        activation=activation,
        layer_norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
    )
    if shape.hidden % shape.heads:
        _refuse(path, f"has {shape.heads} attention heads, which do not divide hidden_size {shape.hidden}")
    return shape


def read_description(folder: Path, shape: BertShape) -> Description:
    """Pooling, length, case and prompts as the folder's configuration files state them."""
    return _describe(folder, shape.hidden, shape.positions, _read_pooling(folder))


def read_exported_description(folder: Path, *, dimension: int, pooled: bool) -> Description:
    """The same of a model exported to ONNX, whose output has `dimension` and is `pooled` or has a row a token.

    Raises `ModelFileError` where no file says how long a text may be.
    """
    path = folder / "config.json"
    config = read_json(path) if path.exists() else {}
    pad = config.get("pad_token_id")
    pad = pad if type(pad) is int and pad >= 0 else 0
    positions = config.get("max_position_embeddings")
    if positions is not None and (type(positions) is not int or positions < 3):
        _refuse(path, f"has the impossible max_position_embeddings {positions!r}")
    if positions is not None and config.get("model_type") in _POSITIONS_BEHIND_PADDING:
        positions -= pad + 1
    described = _describe(folder, dimension, positions, "graph" if pooled else _read_pooling(folder))
    vocabulary = config.get("vocab_size")
    return replace(described, pad_token=pad, vocabulary=vocabulary if type(vocabulary) is int else None)


def _describe(folder: Path, dimension: int, positions: int | None, pooling: Pooling | Literal["graph"]) -> Description:
    sentence_path = folder / "sentence_bert_config.json"
    sentence = read_json(sentence_path) if sentence_path.exists() else {}
    length = sentence.get("max_seq_length")
    if length is None:
        length = _tokenizer_length(folder)
    if length is not None and (type(length) is not int or length < 3):
        _refuse(sentence_path, f"has the impossible max_seq_length {length!r}")
    limits = [limit for limit in (length, positions) if limit is not None]
    if not limits:
        _refuse(sentence_path, "is missing or has no max_seq_length, and no other file says how long a text may be")
    query, passage = _read_prompts(folder)
    return Description(
        dimension=dimension,
        max_tokens=min(limits),
        pooling=pooling,
        lower_case=bool(sentence.get("do_lower_case", False)),
        query_prefix=query,
        passage_prefix=passage,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the model. Raises `ModelFileError` when it is missing, damaged or no object."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        _refuse(path, f"can't be read: {error.strerror or error}", cause=error)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"is no valid JSON: {error}", cause=error)
    if not isinstance(found, dict):
        _refuse(path, "is no JSON object")
    return found


def _read_pooling(folder: Path) -> Pooling:
    """From modules.json and the pooling module that it names; mean where there is no modules.json."""
    path = folder / "modules.json"
    if not path.exists():
        return "mean"
    try:
        modules = json.loads(path.read_bytes())
        kinds = [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        _refuse(path, f"is no list of modules: {error}", cause=error)
    if unknown := [kind for kind, _ in kinds if kind not in {"Transformer", "Pooling", "Normalize"}]:
        _refuse(path, f"has the module {unknown[0]!r}; known are Transformer, Pooling and Normalize")
    places = [place for kind, place in kinds if kind == "Pooling"]
    if len(places) != 1:
        _refuse(path, f"has {len(places)} pooling modules; exactly one is expected")
    return _pooling_mode(folder / places[0] / "config.json")


def _pooling_mode(path: Path) -> Pooling:
    config = read_json(path)
    if isinstance(config.get("pooling_mode"), str):
        chosen = [config["pooling_mode"]]
    else:
        flags = {
            "pooling_mode_mean_tokens": "mean",
            "pooling_mode_cls_token": "cls",
        }
        chosen = [flags.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on]
    if len(chosen) != 1 or chosen[0] not in get_args(Pooling):
        named = " + ".join(map(str, chosen)) or "none"
        _refuse(path, f"asks for the pooling {named}; known are {', '.join(get_args(Pooling))}")
    if config.get("include_prompt", True) is False:
        _refuse(path, "leaves prompts out of the pooling (include_prompt), which is not known")
    return "mean" if chosen[0] == "mean" else "cls"


def _tokenizer_length(folder: Path) -> int | None:
    path = folder / "tokenizer_config.json"
    length = read_json(path).get("model_max_length") if path.exists() else None
    # transformers writes an astronomically large float for "no limit".
    return length if type(length) is int else None


def _read_prompts(folder: Path) -> tuple[str, str]:
    """Prefixes for queries and passages; the default prompt stands in for one that is not named."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.exists() else {}
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        _refuse(path, "has prompts that are no mapping of names to texts")
    default = str(prompts.get(config.get("default_prompt_name"), ""))
    passage = prompts.get("passage", prompts.get("document", default))
    return str(prompts.get("query", default)), str(passage)


def _size(path: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        _refuse(path, f"has the impossible {key} {value!r}")
    return value


def _refuse(path: Path, problem: str, *, cause: Exception | None = None) -> NoReturn:
    raise ModelFileError(f"{path} {problem}", path=str(path)) from cause
