from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from embank.embed.formats.safetensors import SafetensorsFile
from embank.embed.loader import Loader
from embank.embed.model import CountsTokens
from embank.errors import InvalidInput
from embank.testing.models import TEXTS

MORE = [*TEXTS, " ", "a", "x  y   z", "<s> special </s>", "\n\n", "word " * 700]


@pytest.fixture
def wordllama_inference(wordllama_files: Path) -> Iterator[Any]:
    """WordLlama's own inference class, imported past its package's __init__, which wants more than numpy."""
    package = types.ModuleType("wordllama")
    package.__path__ = [str(wordllama_files)]
    before = {name for name in sys.modules if name.split(".")[0] == "wordllama"}
    assert not before
    sys.modules["wordllama"] = package
    try:
        module = importlib.import_module("wordllama.inference")
    except ImportError as error:
        pytest.skip(f"wordllama's own code can't be imported here: {error}")
    else:
        with SafetensorsFile(wordllama_files / "weights/l2_supercat_256.safetensors") as file:
            table = np.array(file.view("embedding.weight"))
        tokenizer = Tokenizer.from_file(str(wordllama_files / "tokenizers/l2_supercat_tokenizer_config.json"))
        yield module.WordLlamaInference(table, tokenizer)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "wordllama"]:
            del sys.modules[name]


def test_vectors_are_wordllamas_own(loader: Loader, wordllama_inference: Any) -> None:
    theirs = wordllama_inference.embed(MORE, norm=True)
    ours = loader.get("wordllama").embed(MORE)
    assert (ours * theirs).sum(axis=1).min() >= 0.99999


@pytest.mark.parametrize("dimensions", [128, 64])
def test_cut_vectors_are_the_start_of_the_whole_renormalised(
    loader: Loader, make_loader: Callable[..., Loader], wordllama_files: Path, dimensions: int
) -> None:
    whole = loader.get("wordllama").embed(TEXTS)[:, :dimensions]
    cut = make_loader(dimensions=dimensions).get("wordllama")
    assert cut.dimension == dimensions
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert np.allclose(cut.embed(TEXTS), expected, atol=1e-6)
    assert cut.fingerprint != loader.get("wordllama").fingerprint


def test_other_dimensions_are_refused(make_loader: Callable[..., Loader], wordllama_files: Path) -> None:
    with pytest.raises(InvalidInput, match="256, 128, 64 dimensions, not to 100"):
        make_loader(dimensions=100).get("wordllama")


def test_an_empty_text_is_the_beginning_of_text_token(loader: Loader, wordllama_files: Path) -> None:
    with SafetensorsFile(wordllama_files / "weights/l2_supercat_256.safetensors") as file:
        row = np.array(file.view("embedding.weight")[1], dtype=np.float32)
    (vector,) = loader.get("wordllama").embed([""])
    assert np.allclose(vector, row / np.linalg.norm(row), atol=1e-6)


def test_a_text_of_many_thousand_tokens_is_the_mean_of_all(loader: Loader, wordllama_files: Path) -> None:
    model = loader.get("wordllama")
    assert isinstance(model, CountsTokens)
    text = "alpha beta gamma " * 2000
    assert 4096 < model.count_tokens([text])[0] <= model.max_tokens
    with SafetensorsFile(wordllama_files / "weights/l2_supercat_256.safetensors") as file:
        table = np.array(file.view("embedding.weight"), dtype=np.float64)
    tokenizer = Tokenizer.from_file(str(wordllama_files / "tokenizers/l2_supercat_tokenizer_config.json"))
    mean = table[tokenizer.encode(text, add_special_tokens=False).ids].mean(axis=0)
    assert np.allclose(model.embed([text])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_precision_makes_no_other_model(loader: Loader, wordllama_files: Path) -> None:
    assert loader.get("wordllama", precision="int8") is loader.get("wordllama", precision="float32")
