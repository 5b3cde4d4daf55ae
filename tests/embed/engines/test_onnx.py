"""The ONNX Runtime engine on real weights, on models that others exported, and on what is wrong with such models."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="models are converted with the package onnx")
pytest.importorskip("onnxruntime", reason="the engine is ONNX Runtime")

from tests.embed import exported
from tests.embed.engines.test_ct2 import request_of
from tests.embed.exported import make_exported
from tests.embed.formats.test_converted import Heard, folders
from tests.embed.tiny_bert import make_folder, write_json

from embank.embed.engine import LoadRequest
from embank.embed.engines import ct2
from embank.embed.engines import onnx as onnx_engine
from embank.embed.engines.graph import GraphEngine
from embank.embed.formats.manifest import read_manifest
from embank.embed.formats.onnxfile import DATA_FILE
from embank.embed.formats.verify import read_reference
from embank.embed.loader import Loader
from embank.embed.model import Model
from embank.embed.settings import Settings
from embank.errors import (
    BudgetExceeded,
    DeviceNotFound,
    EmbeddingFailed,
    InvalidInput,
    MissingExtra,
    ModelError,
    ModelFileError,
)
from embank.events.kinds import ModelConverted
from embank.memory.governor import Governor
from embank.testing.models import TEXTS, ModelContract

if TYPE_CHECKING:
    from embank.embed.model import Precision

LEAST: list[tuple[Precision, float]] = [("float32", 0.99999), ("float16", 0.99999), ("int8", 0.99)]


class TestOnnxFloat32(ModelContract):
    @pytest.fixture
    def model(self, loader: Loader, minilm_files: Path) -> Model:
        return loader.get("minilm", precision="float32", engine="onnx")


class TestOnnxFloat16(ModelContract):
    @pytest.fixture
    def model(self, loader: Loader, minilm_files: Path) -> Model:
        return loader.get("minilm", precision="float16", engine="onnx")


class TestOnnxInt8(ModelContract):
    tolerance = 0.998

    @pytest.fixture
    def model(self, loader: Loader, minilm_files: Path) -> Model:
        return loader.get("minilm", precision="int8", engine="onnx")


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def request(folder: Path, models: Path, precision: Precision = "float32", **changes: Any) -> LoadRequest:
    asked = dataclasses.replace(request_of(folder, models), precision=precision)
    return dataclasses.replace(asked, **changes)


def opened(folder: Path, models: Path, precision: Precision = "float32", **changes: Any) -> GraphEngine:
    engine = onnx_engine.load(request(folder, models, precision, **changes))
    assert isinstance(engine, GraphEngine)
    return engine


def vectors(engine: Any, texts: tuple[str, ...] = ("alpha b c", "beta", "a b c d e f g h")) -> Any:
    rows = engine.forward(engine.encode(texts, "passage").rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- the real model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "least"), LEAST)
def test_vectors_agree_with_sentence_transformers(
    loader: Loader, minilm_files: Path, precision: Precision, least: float
) -> None:
    reference = read_reference("minilm")
    assert reference is not None
    texts, stored = reference
    found = loader.get("minilm", precision=precision, engine="onnx").embed(texts)
    assert (found * stored).sum(axis=1).min() >= least


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_text_is_the_same_alone_and_in_any_batch(loader: Loader, minilm_files: Path, precision: Precision) -> None:
    """Many texts of many lengths. Much tighter than the suite's bound for int8."""
    random = np.random.default_rng(3)
    words = " ".join(TEXTS).split()
    texts = [" ".join(random.choice(words, int(length))) for length in random.integers(1, 120, size=80)]
    model = loader.get("minilm", precision=precision, engine="onnx")
    alone = np.concatenate([model.embed([text]) for text in texts])
    assert (model.embed(texts) * alone).sum(axis=1).min() >= 0.9999
    assert (model.embed(texts[::-1])[::-1] * alone).sum(axis=1).min() >= 0.9999


def test_minilm_says_what_it_is(loader: Loader, minilm_files: Path) -> None:
    model = loader.get("minilm", precision="int8", engine="onnx")
    assert (model.dimension, model.max_tokens) == (384, 256)
    assert model.fingerprint.startswith("minilm:onnx:int8:384:")
    others = {loader.get("minilm", precision=each, engine="onnx").fingerprint for each in ("float32", "float16")}
    assert len({model.fingerprint, loader.get("minilm", precision="int8").fingerprint} | others) == 4


def test_lanes_at_once_compute_what_one_computes(loader: Loader, minilm_files: Path, models_directory: Path) -> None:
    loader.get("minilm", precision="float32", engine="onnx")
    engine = opened(minilm_files, models_directory, settings=Settings(threads=4), **minilm())
    rows = engine.encode([f"{text} number {number}" for number in range(8) for text in TEXTS], "passage").rows
    batches = [rows[start : start + 6] for start in range(0, len(rows), 6)]
    expected = [engine.forward(batch) for batch in batches]
    with ThreadPoolExecutor(engine.lanes) as pool:
        found = list(pool.map(engine.forward, batches * 2))
    assert engine.lanes == 4
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(found, expected * 2, strict=True))
    engine.close()


def minilm() -> dict[str, Any]:
    from embank.embed.files.catalog import MINILM

    return {"known": MINILM, "name": "minilm"}


# --- models that were exported --------------------------------------------------------------------------------------


@pytest.fixture
def expected(tmp_path: Path) -> Any:
    """Vectors of the tiny model that CTranslate2 computes from its safetensors."""
    return vectors(ct2.load(request_of(make_folder(tmp_path / "plain"), tmp_path / "ct2", "float32")))


@pytest.mark.parametrize("name", ["onnx/model.onnx", "model.onnx"])
@pytest.mark.parametrize("beside", [None, "model.onnx_data", "model.onnx.data"])
def test_an_exported_model_computes_what_its_source_computes(
    tmp_path: Path, models: Path, expected: Any, name: str, beside: str | None
) -> None:
    engine = opened(make_exported(tmp_path / "tiny", name=name, beside=beside), models)
    assert np.allclose(vectors(engine), expected, atol=1e-4)


def test_an_exported_model_is_rewritten_once_and_then_only_opened(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_exported(tmp_path / "tiny", beside="model.onnx_data")
    engine = opened(folder, models, publisher=heard)
    (converted,) = heard.of(ModelConverted)
    assert converted.name == "tiny"
    assert engine.fingerprint.engine == "onnx"
    again = opened(folder, models, publisher=heard)
    assert again.fingerprint == engine.fingerprint
    assert len(heard.of(ModelConverted)) == 1


@pytest.mark.parametrize(
    "change",
    [
        exported.with_token_types,
        exported.with_int32_ids,
        exported.with_pooling,
        exported.with_plain_products,
        exported.renamed_output("token_embeddings"),
        exported.renamed_output("states"),
    ],
)
@pytest.mark.parametrize("wanted", LEAST)
def test_inputs_and_outputs_are_found_by_name(
    tmp_path: Path, models: Path, expected: Any, change: exported.Change, wanted: tuple[Precision, float]
) -> None:
    precision, least = wanted
    engine = opened(make_exported(tmp_path / "tiny", change), models, precision)
    assert (vectors(engine) * expected).sum(axis=1).min() >= least


@pytest.mark.parametrize(("precision", "kind"), [("float16", "float16"), ("int8", "int8")])
def test_an_exported_model_is_made_narrower(tmp_path: Path, models: Path, precision: Precision, kind: str) -> None:
    import onnx

    opened(make_exported(tmp_path / "tiny", exported.with_plain_products), models, precision)
    (made,) = [path for path in models.iterdir() if not path.name.startswith(".")]
    graph = onnx.load(made / "model.onnx", load_external_data=False).graph
    kinds = {
        onnx.TensorProto.DataType.Name(each.data_type).lower() for each in graph.initializer if len(each.dims) == 2
    }
    assert kind in kinds
    operators = {node.op_type for node in graph.node}
    assert ("MatMulInteger" in operators) == (precision == "int8")


def test_int8_of_an_exported_model_is_the_same_in_any_batch(tmp_path: Path, models: Path) -> None:
    engine = opened(make_exported(tmp_path / "tiny"), models, "int8")
    texts = ["alpha", "beta b", "a b", "c d e"]
    rows = engine.encode(texts, "passage").rows
    alone = np.concatenate([engine.forward([row]) for row in rows])
    assert np.array_equal(engine.forward(rows), alone)


def test_a_model_that_pools_by_itself_is_not_pooled_again(tmp_path: Path, models: Path) -> None:
    """The configuration names a pooling that is not known; the graph has done it already."""
    folder = make_exported(tmp_path / "tiny", exported.with_pooling)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "weightedmean"})
    engine = opened(folder, models)
    assert engine.fingerprint.pooling == "graph"
    assert vectors(engine).shape == (3, 16)


def test_a_loader_takes_an_exported_model_by_itself(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_exported(tmp_path / "tiny")
    loader = Loader(Settings(directory=models, threads=1), stream=heard)
    model = loader.get(str(folder))
    assert model.fingerprint.startswith("tiny:onnx:int8:16:")
    assert model.embed(["alpha"]).shape == (1, 16)
    safetensors = make_folder(tmp_path / "both")
    (safetensors / "model.onnx").write_bytes((folder / "onnx" / "model.onnx").read_bytes())
    assert loader.get(str(safetensors)).fingerprint.startswith("both:ct2:int8:16:")
    write_json(safetensors / "config.json", {"model_type": "mpnet", "max_position_embeddings": 66, "pad_token_id": 1})
    loader.close()
    other = Loader(Settings(directory=models, threads=1), stream=heard)
    assert other.get(str(safetensors)).fingerprint.startswith("both:onnx:int8:16:")
    other.close()


def test_pooling_and_prompts_and_length_are_the_folders(tmp_path: Path, models: Path) -> None:
    folder = make_exported(tmp_path / "tiny", pooling="cls")
    prompts = {"prompts": {"query": "alpha ", "passage": ""}}
    write_json(folder / "config_sentence_transformers.json", prompts)
    exported.write_sentence_config(folder, max_seq_length=12)
    engine = opened(folder, models)
    assert engine.max_tokens == 12
    assert engine.fingerprint.pooling == "cls"
    (query,), (passage,) = engine.encode(["b"], "query").rows, engine.encode(["b"], "passage").rows
    assert len(query) == len(passage) + 1
    (long,) = engine.encode(["b " * 40], "passage").rows
    assert len(long) == 12
    assert np.isfinite(engine.forward([long])).all()


def test_positions_of_roberta_begin_behind_the_padding(tmp_path: Path, models: Path) -> None:
    folder = make_exported(tmp_path / "tiny", model_type="xlm-roberta", max_position_embeddings=34, pad_token_id=1)
    (folder / "sentence_bert_config.json").unlink()
    assert opened(folder, models).max_tokens == 32


def test_changed_configuration_makes_another_model(tmp_path: Path, models: Path) -> None:
    folder = make_exported(tmp_path / "tiny")
    mean = opened(folder, models)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    cls = opened(folder, models)
    assert mean.fingerprint != cls.fingerprint
    assert not np.allclose(vectors(mean), vectors(cls), atol=1e-3)


def test_altered_weights_beside_the_model_make_another_model(tmp_path: Path, models: Path) -> None:
    folder = make_exported(tmp_path / "tiny", beside="model.onnx_data")
    before = opened(folder, models).fingerprint
    data = folder / "onnx" / "model.onnx_data"
    content = np.frombuffer(data.read_bytes(), dtype=np.float32).copy()
    content[:64] *= 0.5
    data.write_bytes(content.tobytes())
    assert opened(folder, models).fingerprint != before


# --- what is wrong with a model -------------------------------------------------------------------------------------


WRONG: list[tuple[exported.Change, str]] = [
    (exported.added_input("pixel_values"), r"asks for the input 'pixel_values'; known are input_ids"),
    (exported.without_input("attention_mask"), r"has no input 'attention_mask'; it has input_ids"),
    (exported.without_input("input_ids"), r"has no input 'input_ids'"),
    (exported.renamed_output("logits", rank=2), r"has the outputs logits: none is called sentence_embedding"),
    (exported.renamed_output("sentence_embedding", rank=3), r"output 'sentence_embedding' with 3 axes"),
    (exported.dynamically_quantised, r"quantised dynamically \(DynamicQuantizeLinear\).* depends on its neighbours"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_would_compute_wrongly_is_refused_by_name(
    tmp_path: Path, models: Path, change: exported.Change, message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        opened(make_exported(tmp_path / "tiny", change), models)
    assert folders(models) == []


def test_a_missing_tokenizer_is_named(tmp_path: Path, models: Path) -> None:
    folder = make_exported(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=r"no tokenizer: .*tokenizer\.json is missing"):
        opened(folder, models)
    assert folders(models) == []


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_model_is_refused_by_name(tmp_path: Path, models: Path, part: float) -> None:
    folder = make_exported(tmp_path / "tiny")
    path = folder / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        opened(folder, models)
    assert folders(models) == []


def test_truncated_weights_beside_a_model_are_named(tmp_path: Path, models: Path) -> None:
    folder = make_exported(tmp_path / "tiny", beside="model.onnx_data")
    data = folder / "onnx" / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"model\.onnx_data has \d+ bytes; .* truncated"):
        opened(folder, models)
    data.unlink()
    with pytest.raises(ModelFileError, match=r"model\.onnx_data can't be read"):
        opened(folder, models)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "other.bin"])
def test_weights_are_read_from_nowhere_else(tmp_path: Path, models: Path, place: str) -> None:
    import onnx

    folder = make_exported(tmp_path / "tiny", beside="model.onnx_data")
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"only model\.onnx_data or model\.onnx\.data is read"):
        opened(folder, models)


def test_an_unknown_pooling_is_named(tmp_path: Path, models: Path) -> None:
    with pytest.raises(ModelFileError, match="asks for the pooling pooling_mode_max_tokens"):
        opened(make_exported(tmp_path / "tiny", pooling="max"), models)


def test_another_architecture_without_an_exported_model_is_named(tmp_path: Path, models: Path) -> None:
    with pytest.raises(ModelFileError, match="architecture 'mpnet'"):
        opened(make_folder(tmp_path / "tiny", model_type="mpnet"), models)


def test_a_folder_without_weights_says_which_it_lacks(tmp_path: Path, models: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"has neither model\.safetensors nor onnx/model\.onnx or model\.onnx"):
        opened(folder, models)


def test_a_model_without_any_length_is_refused(tmp_path: Path, models: Path) -> None:
    folder = make_exported(tmp_path / "tiny")
    (folder / "sentence_bert_config.json").unlink()
    write_json(folder / "config.json", {"model_type": "other"})
    with pytest.raises(ModelFileError, match="no other file says how long a text may be"):
        opened(folder, models)


def test_a_graph_that_answers_otherwise_than_it_says_is_refused(tmp_path: Path, models: Path) -> None:
    def lies(model: Any) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 8

    with pytest.raises(ModelError, match=r"model\.onnx|of 8 dimensions"):
        opened(make_exported(tmp_path / "tiny", lies), models)
    assert folders(models) == []


def test_a_model_exported_in_float16_is_opened_as_that_only(tmp_path: Path, models: Path) -> None:
    def halve(model: Any) -> None:
        """Kept in float16 and widened when used, as slimmed exports are."""
        from onnx import helper, numpy_helper

        for tensor in list(model.graph.initializer):
            if len(tensor.dims) == 2:
                values = numpy_helper.to_array(tensor).astype(np.float16)
                wide = tensor.name
                tensor.CopyFrom(numpy_helper.from_array(values, f"{wide}.half"))
                model.graph.node.insert(0, helper.make_node("Cast", [tensor.name], [wide], to=1))

    folder = make_exported(tmp_path / "tiny", halve)
    with pytest.raises(ModelFileError, match="was exported in float16, so that it can't be computed in float32"):
        opened(folder, models)
    assert vectors(opened(folder, models, "float16")).shape == (3, 16)


# --- damage to the converted copy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DATA_FILE, "model.onnx", "tokenizer.json"])
def test_a_damaged_copy_is_made_again(tmp_path: Path, models: Path, heard: Heard, name: str) -> None:
    folder = make_folder(tmp_path / "tiny")
    first = vectors(opened(folder, models, publisher=heard))
    (made,) = folders(models)
    content = bytearray((models / made / name).read_bytes())
    content[len(content) // 2] ^= 1
    (models / made / name).write_bytes(content)
    assert np.array_equal(vectors(opened(folder, models, publisher=heard)), first)
    assert len(heard.of(ModelConverted)) == 2
    manifest = read_manifest(models / made)
    assert (manifest.engine, manifest.precision) == ("onnx", "float32")


# --- the machine ----------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_named(tmp_path: Path, models: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    if onnx_engine.cuda_devices(onnx_engine.import_runtime()):
        pytest.skip("ONNX Runtime has a CUDA device here")
    with pytest.raises(DeviceNotFound, match=r"no device 'cuda:0' that the onnx engine .* there is cpu"):
        opened(folder, models, device="cuda")
    assert opened(folder, models, device="auto").device == "cpu"


def test_devices_are_counted_where_the_runtime_has_cuda(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    with_cuda = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    without = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    assert onnx_engine.cuda_devices(with_cuda, devices=tmp_path) == 2
    assert onnx_engine.cuda_devices(without, devices=tmp_path) == 0


def test_a_provider_that_did_not_start_is_no_silent_cpu(tmp_path: Path, models: Path) -> None:
    """ONNX Runtime itself drops a provider whose libraries are missing, and computes on the CPU."""
    opened(make_folder(tmp_path / "tiny"), models).close()
    (made,) = folders(models)
    runtime = onnx_engine.import_runtime()

    def dropping(path: str, options: Any, *, providers: list[Any], **more: Any) -> Any:
        return runtime.InferenceSession(path, options, providers=providers[1:], **more)

    stand_in = SimpleNamespace(**{**vars(runtime), "InferenceSession": dropping})
    with pytest.raises(DeviceNotFound, match="its CUDA provider did not start"):
        onnx_engine.OnnxRuntime(models / made / "model.onnx", device="cuda:0", runtime=stand_in)


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx512_vnni", True), ("avx_vnni", True), ("avx2", False)])
def test_int8_is_exact_by_itself_where_every_processor_has_vnni(tmp_path: Path, flags: str, *, expected: bool) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"flags : fpu avx512_vnni\nflags : {flags}\n")
    assert onnx_engine.has_vnni(cpuinfo=info) is expected
    assert not onnx_engine.has_vnni(cpuinfo=tmp_path / "none")


def test_int8_without_vnni_computes_the_same(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "tiny")
    with_it = vectors(opened(folder, models, "int8"))
    monkeypatch.setattr(onnx_engine, "has_vnni", lambda: False)
    assert (vectors(opened(folder, models, "int8")) * with_it).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize(
    "message",
    [
        "Failed to allocate memory for requested buffer of size 1234",
        "CUDA failure 2: out of memory",
        "std::bad_alloc",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_a_runtime_without_memory_is_named(tmp_path: Path, models: Path, message: str) -> None:
    engine = opened(make_folder(tmp_path / "tiny"), models)

    class NoMemory:
        def run(self, *_: Any) -> Any:
            raise RuntimeError(message)

    assert isinstance(engine._runtime, onnx_engine.OnnxRuntime)
    engine._runtime._session = NoMemory()
    with pytest.raises(
        EmbeddingFailed, match=r"ran out of memory on cpu with a batch of 2 texts of 5 tokens"
    ) as caught:
        engine.forward(engine.encode(["a b c", "d"], "passage").rows)
    assert caught.value.fields["texts"] == 2


def test_other_failures_of_the_runtime_are_told_as_they_are(tmp_path: Path, models: Path) -> None:
    engine = opened(make_folder(tmp_path / "tiny"), models)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        engine.forward([np.array([2, 4000, 3], dtype=np.int32)])


def test_a_model_that_does_not_fit_the_budget_is_not_opened(tmp_path: Path, models: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    with pytest.raises(BudgetExceeded, match="convert tiny"):
        opened(folder, models, budget=Governor(1 << 20, baseline_bytes=1 << 40))
    assert not models.exists() or folders(models) == []
    opened(folder, models)
    with pytest.raises(BudgetExceeded, match="load tiny"):
        opened(folder, models, budget=Governor(1 << 20, baseline_bytes=1 << 40))


@pytest.mark.parametrize(("module", "package"), [("onnxruntime", "onnxruntime"), ("onnx", "onnx")])
def test_missing_packages_are_named(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    folder = make_folder(tmp_path / "tiny")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else real(name, *more))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*embank\[onnx\]"):
        opened(folder, models)


def test_bfloat16_is_what_another_engine_has(tmp_path: Path, models: Path) -> None:
    with pytest.raises(InvalidInput, match="float32, float16 and int8, not bfloat16"):
        opened(make_folder(tmp_path / "tiny"), models, "bfloat16")


_MEASURE = """
import sys
from pathlib import Path
from embank.memory import hygiene
hygiene.apply(mmap_threshold_bytes=hygiene.LEAN_THRESHOLD_BYTES)
import numpy, onnxruntime
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.embed.tokens import Tokens
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
before = anonymous()
model = Loader(Settings(directory=sys.argv[1], threads=1)).get("minilm", precision=sys.argv[2], engine="onnx")
print(anonymous() - before, model.used_bytes())
"""


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_loaded_model_takes_about_what_it_says(
    loader: Loader, minilm_files: Path, models_directory: Path, precision: Precision
) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("anonymous memory is measured through /proc")
    loader.get("minilm", precision=precision, engine="onnx")  # so that the child only opens it
    arguments = [sys.executable, "-c", _MEASURE, str(models_directory), precision]
    told = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=120).stdout
    taken_bytes, said_bytes = map(int, told.split())
    assert said_bytes / 2 < taken_bytes < 1.1 * said_bytes


# --- holding and letting go -----------------------------------------------------------------------------------------


def test_bytes_of_a_batch_grow_with_rows_and_width(tmp_path: Path, models: Path) -> None:
    engine = opened(make_folder(tmp_path / "tiny"), models)
    assert engine.batch_bytes(4, 16) == 4 * engine.batch_bytes(1, 16)
    assert engine.batch_bytes(1, 32) > 2 * engine.batch_bytes(1, 16)


def test_a_closed_engine_holds_nothing_and_says_so(tmp_path: Path, models: Path) -> None:
    engine = opened(make_folder(tmp_path / "tiny"), models)
    (ids,) = engine.encode(["alpha"], "passage").rows
    assert engine.used_bytes() > 0
    engine.close()
    engine.close()
    assert engine.used_bytes() == 0
    with pytest.raises(EmbeddingFailed, match="closed"):
        engine.forward([ids])
    with pytest.raises(EmbeddingFailed, match="closed"):
        engine.encode(["alpha"], "passage")


def test_long_texts_are_split_where_asked(make_loader: Callable[..., Loader], minilm_files: Path) -> None:
    text = "memory " * 400 + "budget " * 200
    whole, split = (
        make_loader(long_texts=each).get("minilm", precision="float32", engine="onnx").embed([text])
        for each in ("truncate", "split")
    )
    assert float((whole * split).sum()) < 0.9999
