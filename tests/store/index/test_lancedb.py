"""LanceDB: the shipped contracts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import pytest

from embank.store.index import lancedb
from embank.store.index.backend import Home
from embank.store.index.lancedb import BACKEND, LanceCodes
from embank.store.index.settings import Settings
from embank.testing.backends import BackendContract
from embank.testing.indexes import DIMENSION, BuildCodes, CodesContract, Float32

pytestmark = pytest.mark.skipif(not lancedb.available(), reason="lancedb is not installed")


class TestLance(BackendContract):
    settings: ClassVar = {"kind": "lancedb"}


class TestLanceCodes(CodesContract):
    @pytest.fixture
    def build(self, tmp_path: Path) -> BuildCodes:
        number = itertools.count()

        def build(vectors: Float32) -> LanceCodes:
            settings = Settings(kind="lancedb")
            home = Home(tmp_path / str(next(number)), "t", settings)
            codes = BACKEND.make(BACKEND.way(settings, "lancedb", DIMENSION, len(vectors)), vectors, home)
            codes.add(vectors)
            return codes

        return build
