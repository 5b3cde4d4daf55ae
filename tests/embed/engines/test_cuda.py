"""What only a CUDA device shows; skipped where there is none.

What can be shown without one stands beside each engine's other tests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
from tests.embed.engines.test_ct2 import request_of
from tests.embed.engines.test_torch_engine import cosines, embed, tiny

from embank.embed.engines import ct2, torch_engine
from embank.errors import DeviceNotFound

pytestmark = pytest.mark.skipif(ctranslate2.get_cuda_device_count() == 0, reason="no CUDA device")

TEXTS = [f"alpha {letter} beta" for letter in "abcdefghijklmn"] + ["alpha"]
_HAS_TORCH = (
    importlib.util.find_spec("torch") is not None and importlib.util.find_spec("sentence_transformers") is not None
)
LOADS = [
    pytest.param(ct2.load, id="ct2"),
    pytest.param(
        torch_engine.load, id="torch", marks=pytest.mark.skipif(not _HAS_TORCH, reason="torch is not installed")
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "tiny")


def opened(load: Callable[..., Any], folder: Path, device: str) -> Any:
    try:
        return load(replace(request_of(folder, folder.parent / "models", "float32"), device=device))
    except DeviceNotFound as error:
        if "can't compute on" not in str(error):
            raise
        pytest.skip(f"the device is of no use to this engine: {error}")


@pytest.mark.parametrize("load", LOADS)
def test_the_device_computes_what_the_processor_does(load: Callable[..., Any], folder: Path) -> None:
    here, there = opened(load, folder, "cpu"), opened(load, folder, "cuda")
    assert (here.device, there.device) == ("cpu", "cuda:0")
    assert here.fingerprint == there.fingerprint
    assert cosines(embed(there, TEXTS), embed(here, TEXTS)).min() >= 0.9999
    there.close()


@pytest.mark.parametrize("load", LOADS)
def test_a_device_beyond_those_is_named(load: Callable[..., Any], folder: Path) -> None:
    with pytest.raises(DeviceNotFound, match=r"no device 'cuda:7' .* there is cpu, cuda:0"):
        opened(load, folder, "cuda:7")


@pytest.mark.skipif(not _HAS_TORCH, reason="torch is not installed")
def test_torch_leaves_nothing_on_the_device(folder: Path) -> None:
    import torch

    engine = opened(torch_engine.load, folder, "cuda")
    assert np.isfinite(embed(engine, TEXTS)).all()
    engine.close()
    assert torch.cuda.memory_allocated() == 0
    assert torch.cuda.memory_reserved() == 0
