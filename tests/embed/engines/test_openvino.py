"""The OpenVINO engine on real weights, and what it refuses."""

from __future__ import annotations

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="models are converted with the package onnx")
pytest.importorskip("openvino", reason="the engine is OpenVINO")

from tests.embed import exported
from tests.embed.engines.test_ct2 import request_of
from tests.embed.exported import make_exported
from tests.embed.formats.test_converted import folders
from tests.embed.tiny_bert import make_folder

from embank.embed.engine import LoadRequest
from embank.embed.engines import ct2, openvino
from embank.embed.engines.graph import GraphEngine
from embank.embed.formats.verify import read_reference
from embank.embed.loader import Loader
from embank.embed.model import Model
from embank.embed.settings import Settings
from embank.errors import BudgetExceeded, DeviceNotFound, EmbeddingFailed, InvalidInput, MissingExtra, ModelFileError
from embank.memory.governor import Governor
from embank.testing.models import TEXTS, ModelContract

if TYPE_CHECKING:
    from embank.embed.model import Precision


class TestOpenVinoFloat32(ModelContract):
    @pytest.fixture
    def model(self, loader: Loader, minilm_files: Path) -> Model:
        return loader.get("minilm", precision="float32", engine="openvino")


@pytest.mark.skipif(not openvino.has_bfloat16(), reason="this processor has no bfloat16")
class TestOpenVinoBfloat16(ModelContract):
    @pytest.fixture
    def model(self, loader: Loader, minilm_files: Path) -> Model:
        return loader.get("minilm", precision="bfloat16", engine="openvino")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def request(folder: Path, models: Path, precision: Precision = "float32", **changes: Any) -> LoadRequest:
    return dataclasses.replace(request_of(folder, models), precision=precision, **changes)


def opened(folder: Path, models: Path, precision: Precision = "float32", **changes: Any) -> GraphEngine:
    engine = openvino.load(request(folder, models, precision, **changes))
    assert isinstance(engine, GraphEngine)
    return engine


def vectors(engine: Any, texts: tuple[str, ...] = ("alpha b c", "beta", "a b c d e f g h")) -> Any:
    rows = engine.forward(engine.encode(texts, "passage").rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_vectors_agree_with_sentence_transformers(loader: Loader, minilm_files: Path) -> None:
    reference = read_reference("minilm")
    assert reference is not None
    texts, stored = reference
    found = loader.get("minilm", precision="float32", engine="openvino").embed(texts)
    assert (found * stored).sum(axis=1).min() >= 0.99999


def test_minilm_says_what_it_is(loader: Loader, minilm_files: Path) -> None:
    model = loader.get("minilm", precision="float32", engine="openvino")
    assert (model.dimension, model.max_tokens) == (384, 256)
    assert model.fingerprint.startswith("minilm:openvino:float32:384:")


@pytest.mark.parametrize(
    "change", [exported.with_token_types, exported.with_int32_ids, exported.with_pooling, exported.with_plain_products]
)
def test_an_exported_model_computes_what_its_source_computes(
    tmp_path: Path, models: Path, change: exported.Change
) -> None:
    expected = vectors(ct2.load(request_of(make_folder(tmp_path / "plain"), tmp_path / "ct2", "float32")))
    engine = opened(make_exported(tmp_path / "tiny", change), models)
    assert np.allclose(vectors(engine), expected, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_the_folders(tmp_path: Path, models: Path, pooling: str) -> None:
    folder = make_folder(tmp_path / "tiny", pooling=pooling)
    expected = vectors(ct2.load(request_of(folder, tmp_path / "ct2", "float32")))
    assert np.allclose(vectors(opened(folder, models)), expected, atol=1e-4)


def test_more_callers_than_lanes_get_their_own(tmp_path: Path, models: Path) -> None:
    engine = opened(make_folder(tmp_path / "tiny"), models, settings=Settings(threads=2))
    rows = engine.encode([" ".join("abcdefgh"[: 1 + number % 8]) for number in range(48)], "passage").rows
    batches = [rows[start : start + 4] for start in range(0, 48, 4)]
    expected = [engine.forward(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(engine.forward, batches * 4))
    assert engine.lanes == 2
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(found, expected * 4, strict=True))
    engine.close()


def test_bfloat16_is_there_where_every_processor_has_it(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    for lines, expected in (
        (["flags : fpu avx512_bf16", "flags : fpu amx_bf16"], True),
        (["flags : fpu avx512_bf16", "flags : fpu avx512f"], False),
        (["flags : fpu avx512f"], False),
        (["model name : other"], False),
    ):
        info.write_text("\n".join(lines))
        assert openvino.has_bfloat16(cpuinfo=info) is expected
    assert not openvino.has_bfloat16(cpuinfo=tmp_path / "none")


def test_bfloat16_without_it_is_refused_by_name(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: False)
    with pytest.raises(InvalidInput, match=r"has no bfloat16 .*set embed\.precision to float32"):
        opened(make_folder(tmp_path / "tiny"), models, "bfloat16")
    assert not models.exists()


def test_bfloat16_opens_float32_weights_and_is_another_model(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the runtime makes of the hint on a processor without bfloat16 is its own affair; the identity is ours."""
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: True)
    folder = make_folder(tmp_path / "tiny")
    half, whole = opened(folder, models, "bfloat16"), opened(folder, models)
    assert half.fingerprint.precision == "bfloat16"
    assert half.fingerprint != whole.fingerprint
    sizes = {(models / each / "model.onnx.data").stat().st_size for each in folders(models)}
    assert len(folders(models)) == 2
    assert len(sizes) == 1


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_other_precisions_are_refused(tmp_path: Path, models: Path, precision: Precision) -> None:
    with pytest.raises(InvalidInput, match=f"float32 and bfloat16, not {precision}"):
        opened(make_folder(tmp_path / "tiny"), models, precision)


def test_a_device_that_is_not_there_is_named(tmp_path: Path, models: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    with pytest.raises(DeviceNotFound, match=r"no device 'cuda:1' that the openvino engine"):
        opened(folder, models, device="cuda:1")
    assert opened(folder, models, device="auto").device == "cpu"


def test_a_missing_package_is_named(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"'openvino'.*embank\[openvino\]"):
        opened(make_folder(tmp_path / "tiny"), models)


def test_a_file_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"OpenVINO can't open .*model\.onnx"):
        openvino.OpenVinoRuntime(path, lanes=1, hint="f32", runtime=openvino._import_runtime())


def test_a_runtime_without_memory_is_named_and_goes_on(tmp_path: Path, models: Path) -> None:
    engine = opened(make_folder(tmp_path / "tiny"), models)
    runtime = engine._runtime
    assert isinstance(runtime, openvino.OpenVinoRuntime)

    class NoMemory:
        def infer(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("[CPU] could not create a memory object")

    real = runtime._requests.get()
    runtime._requests.put(NoMemory())
    rows = engine.encode(["a b c", "d"], "passage").rows
    with pytest.raises(EmbeddingFailed, match=r"ran out of memory on cpu with a batch of 2 texts"):
        engine.forward(rows)
    runtime._requests.get()
    runtime._requests.put(real)
    assert engine.forward(rows).shape == (2, 16)


def test_a_model_that_does_not_fit_the_budget_is_not_opened(tmp_path: Path, models: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    opened(folder, models)
    with pytest.raises(BudgetExceeded, match="load tiny"):
        opened(folder, models, budget=Governor(1 << 20, baseline_bytes=1 << 40))


def test_a_closed_engine_holds_nothing_and_says_so(tmp_path: Path, models: Path) -> None:
    engine = opened(make_folder(tmp_path / "tiny"), models)
    (ids,) = engine.encode(["alpha"], "passage").rows
    assert engine.used_bytes() > 0
    engine.close()
    engine.close()
    assert engine.used_bytes() == 0
    with pytest.raises(EmbeddingFailed, match="closed"):
        engine.forward([ids])


def test_many_widths_are_computed_by_one_compiled_model(loader: Loader, minilm_files: Path) -> None:
    model = loader.get("minilm", precision="float32", engine="openvino")
    texts = ["word " * length for length in range(1, 200, 3)] + list(TEXTS)
    alone = np.concatenate([model.embed([text]) for text in texts])
    assert (model.embed(texts) * alone).sum(axis=1).min() >= 0.9999
