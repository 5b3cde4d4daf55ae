"""A sentence-transformers model out of its own folder: built by the library, its weights put in and checked here.

Covers reading what the folder says through the library (modules, pooling, prompts, length), building it without
network and without anybody's code, and loading each part's weights with `materialise`. What could make a vector depend
on its neighbours, or on what was not in the file, is refused by name. Importing the library takes 300 MB and seconds.

Does not tokenize (`tokens` does, as for every engine) and does not know of devices beyond passing one on.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from embank.embed.engines.materialise import UnmatchedWeights, check_whole, materialise
from embank.embed.engines.placement import discard, skeleton_of
from embank.embed.engines.weights import Weights, weight_files
from embank.embed.files.checksum import sha256_of
from embank.embed.formats.folder import TOKENIZER, WEIGHTS, read_json
from embank.errors import MissingExtra, ModelFileError

INDEX = f"{WEIGHTS}.index.json"
# What may follow the encoder: each computes a text's vector from that text alone.
_KNOWN_MODULES = {"Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"}
# Where neither the model nor its tokenizer says how long a text may be.
_LONGEST = 8192


@dataclass(frozen=True, slots=True)
class Part:
    """One of the model's parts that has weights, where these lie, and whether it is the encoder."""

    module: Any
    weights: Path
    is_encoder: bool


@dataclass(slots=True)
class SentenceModel:
    """The library's modules in the order they run, and what else is needed to run them.

    `max_tokens` counts special tokens, `pad_id` is what fills a row up. `pooling` is `mean`,
    `cls`, …, or several joined by +.
    """

    modules: Any
    tokenizer: Path
    dimension: int
    max_tokens: int
    pad_id: int
    pooling: str
    lower_case: bool
    query_prefix: str
    passage_prefix: str


def library() -> Any:
    """The library, imported. Raises `MissingExtra` where torch or it is not installed."""
    for package, name in (("torch", "torch"), ("sentence-transformers", "sentence_transformers")):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise MissingExtra(package, "torch") from error
    import sentence_transformers

    return sentence_transformers


def fingerprint_of(folder: Path) -> str:
    """A digest of every file with weights, and of the settings of the modules behind the encoder.

    Of a model whose only weights are one file it is that file's SHA-256.
    """
    chain = _chain(folder)
    files = [
        *weight_files(encoder_weights(folder)),
        *(
            file
            for place in chain[1:]
            for file in (place / WEIGHTS, place / "config.json")
            if (place / WEIGHTS).exists()
        ),
    ]
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(files) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def encoder_weights(folder: Path) -> Path:
    """The encoder's safetensors file, or the index of several. Raises `ModelFileError` where there is none."""
    place = _chain(folder)[0]
    if (place / WEIGHTS).is_file():
        return place / WEIGHTS
    if not (place / INDEX).is_file():
        _refuse(place / WEIGHTS, "is missing: the torch engine reads safetensors files only, never pickled ones")
    return place / INDEX


def open_model(folder: Path, *, dtype: Any) -> SentenceModel:
    """Build the folder's model, without values: it is on the meta device until `load_weights` gives it some.

    Nothing is downloaded and no code of the folder's runs. The library loads the weights while it builds, as `dtype`,
    and makes up what it doesn't find: nothing of that is kept. Raises `ModelFileError`, `MissingExtra`.
    """
    _check_files(folder)
    built = _built(folder, dtype)
    children = list(built.children())
    modules = built.eval().requires_grad_(requires_grad=False)
    place = _chain(folder)[0]
    config = children[0].model.config
    query, passage = _prefixes(folder)
    model = SentenceModel(
        modules=modules,
        tokenizer=place / TOKENIZER,
        dimension=_dimension(modules),
        max_tokens=_max_tokens(built, children[0].model),
        pad_id=int(getattr(config, "pad_token_id", None) or 0),
        pooling=_pooling(folder, children),
        lower_case=bool(getattr(children[0], "do_lower_case", False)),
        query_prefix=query,
        passage_prefix=passage,
    )
    children[0].processor = None  # a second tokenizer, of 10 MB and more, which nothing here asks
    model.modules = skeleton_of(modules)
    discard(modules)  # now: the library's objects refer to each other, so that only the collector would see to it
    return model


def load_weights(folder: Path, modules: Any, *, device: str, dtype: Any) -> int:
    """Put every part's weights in from its file, whatever stands there now; the bytes they hold.

    `modules` may be on the meta device, or hold anything.
    """
    import torch

    held_bytes = 0
    for part in _parts(folder, modules):
        if not part.is_encoder:
            held_bytes += materialise(part.module, part.weights, device=device, dtype=torch.float32).held_bytes
            continue
        try:
            report = materialise(part.module, part.weights, device=device, dtype=dtype, without=("pooler.",))
            held_bytes += report.held_bytes
        except UnmatchedWeights as error:
            held_bytes += _load_rearranged(part, device, dtype, error)
    modules.eval()
    check_whole(modules)
    return held_bytes


def _check_files(folder: Path) -> None:
    """What can be told without the library, and better than by it."""
    chain, names = _chain(folder), _module_names(folder)
    if names[0] != "Transformer":
        _refuse(folder / "modules.json", f"begins with {names[0]}; the torch engine needs Transformer there")
    if unknown := [name for name in names[1:] if name not in _KNOWN_MODULES]:
        known = ", ".join(sorted(_KNOWN_MODULES))
        _refuse(folder / "modules.json", f"has the module {unknown[0]!r}; known after the encoder are {known}")
    if names.count("Pooling") != 1:
        _refuse(folder / "modules.json", f"has {names.count('Pooling')} pooling modules; exactly one is expected")
    if not (chain[0] / TOKENIZER).is_file():
        _refuse(chain[0] / TOKENIZER, "is missing: the model has no tokenizer")
    for path in (encoder_weights(folder), *(place / WEIGHTS for place in chain[1:] if (place / WEIGHTS).exists())):
        with Weights(path):
            pass


def _built(folder: Path, dtype: Any) -> Any:
    st = library()
    try:
        with _quiet():
            return st.SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
    except (MemoryError, ModelFileError):
        raise
    # What a library of many authors raises for a folder that is not right is anything at all.
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ModelFileError(
            f"sentence-transformers can't build a model out of {folder}: {type(error).__name__}: {first}",
            path=str(folder),
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar on standard error, and none of the library's warnings: what matters is checked afterwards."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _parts(folder: Path, modules: Any) -> Iterator[Part]:
    chain = _chain(folder)
    for number, (place, module) in enumerate(zip(chain, modules.children(), strict=False)):
        if number == 0:
            _drop_pooler(module)
            yield Part(module.model, encoder_weights(folder), is_encoder=True)
        elif next(iter(module.state_dict()), None) is not None:
            if not (place / WEIGHTS).is_file():
                _refuse(place / WEIGHTS, "is missing: the torch engine reads safetensors files only")
            yield Part(module, place / WEIGHTS, is_encoder=False)


def _drop_pooler(module: Any) -> None:
    """The vectors of tokens don't need it, many files lack its weights, and the library then makes some up."""
    output = getattr(module, "modality_config", {}).get("text", {}).get("method_output_name")
    if output == "last_hidden_state" and getattr(module.model, "pooler", None) is not None:
        module.model.pooler = None


def _load_rearranged(part: Part, device: str, dtype: Any, cause: UnmatchedWeights) -> int:
    """An encoder whose weights the library renames, splits or joins: loaded by it, and its own report is checked.

    Raises `cause` where the library knows of nothing to rearrange for this architecture, `ModelFileError` where
    something is missing all the same.
    """
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    model = part.module
    if get_checkpoint_conversion_mapping(model.config.model_type) is None:
        raise cause
    with _quiet():
        loaded, info = type(model).from_pretrained(
            str(part.weights.parent),
            config=model.config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    if getattr(model, "pooler", None) is None and hasattr(loaded, "pooler"):
        loaded.pooler = None
    own = {name for name, _ in model.named_children()}
    problems = [
        *(
            name
            for kind in ("missing_keys", "mismatched_keys")
            for name in map(str, info[kind])
            if "pooler" not in name
        ),
        # Of a head that this model lacks nothing is needed; a layer too many is another architecture.
        *(name for name in map(str, info["unexpected_keys"]) if name.split(".")[0] in own),
        *map(str, info.get("error_msgs") or ()),
    ]
    if problems:
        raise ModelFileError(
            f"{part.weights} does not hold the weights of {type(model).__name__}, rearranged or not: "
            f"{', '.join(problems[:3])}",
            path=str(part.weights),
        ) from cause
    check_whole(loaded)
    loaded.to(device).requires_grad_(requires_grad=False)
    model.__dict__.update(loaded.__dict__)
    return sum(
        tensor.nbytes for tensor in {id(each): each for each in loaded.state_dict(keep_vars=True).values()}.values()
    )


def _module_list(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.exists():
        return [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"}]
    try:
        modules = json.loads(path.read_bytes())
        listed = [{"type": str(each["type"]), "path": str(each["path"])} for each in modules]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path} is no list of modules: {error}", path=str(path)) from error
    if not listed:
        _refuse(path, "lists no modules")
    return listed


def _module_names(folder: Path) -> list[str]:
    return [each["type"].rsplit(".", 1)[-1] for each in _module_list(folder)]


def _chain(folder: Path) -> list[Path]:
    """The folder of each module, in order."""
    return [folder / each["path"] for each in _module_list(folder)]


def _pooling(folder: Path, children: list[Any]) -> str:
    (pooling,) = (child for child in children if type(child).__name__ == "Pooling")
    if not getattr(pooling, "include_prompt", True):
        _refuse(folder / "modules.json", "leaves prompts out of the pooling (include_prompt), which is not known")
    mode = pooling.pooling_mode
    return mode if isinstance(mode, str) else "+".join(mode)


def _dimension(modules: Any) -> int:
    dimension = modules.get_embedding_dimension()
    if not isinstance(dimension, int) or dimension < 1:
        raise ModelFileError(f"the model says that its vectors have {dimension!r} dimensions")
    return dimension


def _max_tokens(built: Any, encoder: Any) -> int:
    """What the tokenizer or the settings say, and never more than there are positions."""
    limits = [_LONGEST]
    said = built.max_seq_length
    if isinstance(said, int) and said >= 3:
        limits = [min(said, 1 << 20)]
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
        # RoBERTa's kin count positions from behind their padding id.
        skipped = getattr(table, "padding_idx", None)
        limits.append(positions - (0 if skipped is None else skipped + 1))
    return min(limits)


def _prefixes(folder: Path) -> tuple[str, str]:
    """Prefixes for queries and passages; the default prompt stands in for one that is not named."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.exists() else {}
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        _refuse(path, "has prompts that are no mapping of names to texts")
    default = str(prompts.get(config.get("default_prompt_name"), ""))
    return str(prompts.get("query", default)), str(prompts.get("passage", prompts.get("document", default)))


def _refuse(path: Path, problem: str) -> NoReturn:
    raise ModelFileError(f"{path} {problem}", path=str(path))
