"""Cutting vectors of models that were trained for it, and refusing the others by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.embed.tiny_bert import HIDDEN, make_folder

from embank.embed.files.catalog import MINILM
from embank.embed.loader import Loader
from embank.embed.matryoshka import trained_dimensions
from embank.embed.model import Model
from embank.embed.settings import Settings
from embank.errors import InvalidInput, ModelFileError
from embank.testing.models import ModelContract

TEXTS = ["alpha beta", "a b c d", "beta", "z y x alpha"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose own configuration lists the lengths that it was trained for."""
    return make_folder(tmp_path_factory.mktemp("trained") / "model", matryoshka_dimensions=[4, HIDDEN, 8])


def loaded(make_loader: Callable[..., Loader], folder: Path, dimensions: int | None) -> Model:
    return make_loader(dimensions=dimensions, precision="float32").get(str(folder))


@pytest.mark.parametrize("dimensions", [8, 4])
def test_cut_vectors_are_the_start_of_the_whole_renormalised(
    make_loader: Callable[..., Loader], trained: Path, dimensions: int
) -> None:
    whole, cut = loaded(make_loader, trained, None), loaded(make_loader, trained, dimensions)
    expected = whole.embed(TEXTS)[:, :dimensions]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(cut.embed(TEXTS), expected, atol=1e-5)
    assert (cut.dimension, cut.max_tokens) == (dimensions, whole.max_tokens)
    assert cut.fingerprint != whole.fingerprint


def test_all_dimensions_are_the_whole_model(make_loader: Callable[..., Loader], trained: Path) -> None:
    whole, named = loaded(make_loader, trained, None), loaded(make_loader, trained, HIDDEN)
    assert named.fingerprint == whole.fingerprint


def test_one_loader_has_both_and_each_once(make_loader: Callable[..., Loader], trained: Path) -> None:
    loader = make_loader(dimensions=8)
    cut, whole = loader.get(str(trained)), loader.get(str(trained), dimensions=0)
    assert (cut.dimension, whole.dimension) == (8, HIDDEN)
    assert loader.get(str(trained), dimensions=8) is cut
    assert loader.get(str(trained), dimensions=0) is whole
    assert loader.dimensions(str(trained)) == (HIDDEN, 8, 4)


class TestCutModel(ModelContract):
    """A cut model is a model: the shipped contract, on MiniLM as if it had been trained for it."""

    @pytest.fixture
    def model(self, models_directory: Path, minilm_files: Path) -> Iterator[Model]:
        assert minilm_files.is_dir()
        settings = Settings(directory=models_directory, threads=2, dimensions=192)
        loader = Loader(settings, known={"minilm": replace(MINILM, dimensions=(384, 192))})
        yield loader.get("minilm")
        loader.close()


def test_a_length_that_was_not_trained_is_refused(make_loader: Callable[..., Loader], trained: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cut to 5 dimensions.*set it to 16, 8, 4") as caught:
        loaded(make_loader, trained, 5)
    assert caught.value.fields["trained"] == [8, 4]
    with pytest.raises(InvalidInput, match="not trained to be cut to 32 dimensions"):
        loaded(make_loader, trained, 32)


def test_a_model_that_was_not_trained_for_it_is_refused_by_name(
    make_loader: Callable[..., Loader], minilm_files: Path
) -> None:
    assert minilm_files.is_dir()
    with pytest.raises(InvalidInput, match=r"the model 'minilm' was not trained to be cut to 128.*embank reduce fit"):
        make_loader(dimensions=128).get("minilm")


@pytest.mark.parametrize("listed", ["8", [0], [8.5], {"8": True}])
def test_an_impossible_list_is_named(tmp_path: Path, listed: object) -> None:
    folder = make_folder(tmp_path / "model", matryoshka_dimensions=listed)
    with pytest.raises(ModelFileError, match="impossible matryoshka_dimensions"):
        trained_dimensions(None, folder)


def test_what_says_nothing_has_none(tmp_path: Path) -> None:
    assert trained_dimensions(None, make_folder(tmp_path / "model")) == ()
    assert trained_dimensions(None, tmp_path) == ()
    assert trained_dimensions(None, None) == ()
