"""Every engine passes the suite that Embank ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embank.embed.adopted import adopt
from embank.embed.loader import Loader
from embank.embed.model import Model
from embank.testing.fakes import HashModel
from embank.testing.models import ModelContract


class TestCt2Int8(ModelContract):
    tolerance = 0.998

    @pytest.fixture
    def model(self, loader: Loader, minilm_files: Path) -> Model:
        return loader.get("minilm", precision="int8")


class TestCt2Float32(ModelContract):
    @pytest.fixture
    def model(self, loader: Loader, minilm_files: Path) -> Model:
        return loader.get("minilm", precision="float32")


class TestStatic(ModelContract):
    @pytest.fixture
    def model(self, loader: Loader, wordllama_files: Path) -> Model:
        return loader.get("wordllama")


class TestStaticCutTo64(ModelContract):
    @pytest.fixture
    def model(self, make_loader: Callable[..., Loader], wordllama_files: Path) -> Model:
        return make_loader(dimensions=64).get("wordllama")


class TestHashModel(ModelContract):
    @pytest.fixture
    def model(self) -> Model:
        return HashModel()


class TestAdopted(ModelContract):
    @pytest.fixture
    def model(self) -> Model:
        return adopt(HashModel(dimension=48, max_tokens=32))
