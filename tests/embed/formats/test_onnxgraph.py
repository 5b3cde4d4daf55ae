"""The graph of a BERT encoder: valid, lean to make, and computing what another runtime computes of the same weights."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnx", reason="graphs are made with the package onnx")
pytest.importorskip("onnxruntime", reason="graphs are computed by ONNX Runtime")

import onnx
from onnx import checker, numpy_helper, shape_inference
from tests.embed.engines.test_ct2 import request_of
from tests.embed.tiny_bert import HIDDEN, make_folder, make_tensors

from embank.embed.engine import LoadRequest
from embank.embed.engines import ct2
from embank.embed.engines.graph import _CHILD_BYTES
from embank.embed.formats.convert import convert
from embank.embed.formats.folder import WEIGHTS, read_shape
from embank.embed.formats.onnxconvert import MODEL_FILE
from embank.embed.formats.onnxfile import DATA_FILE, Graph
from embank.embed.formats.onnxgraph import write_bert
from embank.embed.formats.safetensors import SafetensorsFile
from embank.errors import ModelFileError
from embank.system.process import run_child

if TYPE_CHECKING:
    from embank.embed.formats.onnxlinear import Precision

PRECISIONS: list[Precision] = ["float32", "float16", "int8"]
IDS = np.array([[2, 4, 5, 6, 3, 0, 0], [2, 7, 3, 0, 0, 0, 0], [2, 8, 9, 10, 11, 12, 3]], dtype=np.int64)
MASK = (IDS > 0).astype(np.int64)


def make(folder: Path, target: Path, precision: Precision) -> Path:
    target.mkdir(exist_ok=True)
    convert(folder, target, precision, form="onnx", on_progress=lambda *_: None)
    return target / MODEL_FILE


def states(model: Path, ids: npt.NDArray[np.int64] = IDS, mask: npt.NDArray[np.int64] = MASK) -> npt.NDArray[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), disabled_optimizers=["MatMulIntegerToFloatFusion"])
    answer: npt.NDArray[Any] = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return answer


def ct2_states(folder: Path, models: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    """What CTranslate2 computes in float32 of one text, pooled by the mean."""
    request: LoadRequest = request_of(folder, models, "float32")
    engine = ct2.load(request)
    try:
        pooled: npt.NDArray[np.float32] = engine.forward([np.array(ids, dtype=np.int32)])
        return np.array(pooled[0])
    finally:
        engine.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_keeps_the_rules_of_the_format(tmp_path: Path, precision: Precision) -> None:
    model = make(make_folder(tmp_path / "tiny"), tmp_path / "made", precision)
    checker.check_model(str(model), full_check=True)
    loaded = onnx.load(model)
    inferred = shape_inference.infer_shapes(loaded, check_type=True, strict_mode=True)
    (output,) = inferred.graph.output
    assert output.type.tensor_type.shape.dim[2].dim_value == HIDDEN
    apart = onnx.load(model, load_external_data=False)
    large = [tensor for tensor in apart.graph.initializer if len(tensor.dims) == 2]
    assert large
    assert all(tensor.external_data[0].value == DATA_FILE for tensor in large)


@pytest.mark.parametrize(
    "activation", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "quick_gelu"]
)
def test_every_activation_computes_what_ctranslate2_computes(tmp_path: Path, activation: str) -> None:
    folder = make_folder(tmp_path / "tiny", hidden_act=activation)
    found = states(make(folder, tmp_path / "made", "float32"))
    for row, mask, text in zip(found, MASK, IDS, strict=True):
        length = int(mask.sum())
        expected = ct2_states(folder, tmp_path / "models", text[:length].tolist())
        # The library's approximations of gelu differ from the definition by a few millionths.
        assert np.allclose(row[:length].mean(axis=0), expected, atol=2e-3)


@pytest.mark.parametrize(("prefix", "old_names"), [("bert.", False), ("", True)])
def test_checkpoints_with_other_names_are_the_same_model(tmp_path: Path, prefix: str, old_names: bool) -> None:  # noqa: FBT001
    plain = make_folder(tmp_path / "plain")
    other = make_folder(tmp_path / "other", tensors=make_tensors(prefix=prefix, old_names=old_names))
    first, second = (make(folder, tmp_path / f"made-{folder.name}", "float32") for folder in (plain, other))
    assert (first.with_name(DATA_FILE)).read_bytes() == (second.with_name(DATA_FILE)).read_bytes()
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.9999), ("int8", 0.99)])
def test_precisions_compute_nearly_the_same(tmp_path: Path, precision: Precision, least: float) -> None:
    folder = make_folder(tmp_path / "tiny")
    exact, found = (states(make(folder, tmp_path / name, name)) for name in ("float32", precision))
    cosines = (exact * found).sum(axis=2) / np.linalg.norm(exact, axis=2) / np.linalg.norm(found, axis=2)
    assert cosines[MASK > 0].min() >= least


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_stands_in_the_padding_is_never_seen(tmp_path: Path, precision: Precision) -> None:
    model = make(make_folder(tmp_path / "tiny"), tmp_path / "made", precision)
    hostile = np.where(MASK > 0, IDS, 31)
    assert np.array_equal(states(model)[MASK > 0], states(model, hostile)[MASK > 0])


def test_int8_scales_each_row_for_itself(tmp_path: Path) -> None:
    """The same text beside one whose states are far larger: exactly the same bits, where one scale a batch fails."""
    tensors = make_tensors()
    tensors["embeddings.word_embeddings.weight"][12:] *= 40
    model = make(make_folder(tmp_path / "tiny", tensors=tensors), tmp_path / "made", "int8")
    text = IDS[:1]
    beside = np.concatenate([text, np.full_like(text, 20)])
    both = states(model, beside, np.concatenate([MASK[:1], np.ones_like(MASK[:1])]))
    assert np.array_equal(both[0, :5], states(model, text, MASK[:1])[0, :5])


def test_int8_has_no_operator_with_one_scale_a_batch(tmp_path: Path) -> None:
    loaded = onnx.load(make(make_folder(tmp_path / "tiny"), tmp_path / "made", "int8"))
    operators = {node.op_type for node in loaded.graph.node}
    assert "MatMulInteger" in operators
    assert not any("Dynamic" in operator or operator == "MatMulIntegerToFloat" for operator in operators)
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    weight, scales = kept["layer0.wide.weight"], kept["layer0.wide.scales"]
    source = make_tensors()["encoder.layer.0.intermediate.dense.weight"].T
    assert weight.dtype == np.int8
    assert np.abs(weight).max(axis=0).tolist() == [127] * weight.shape[1]
    assert np.abs(weight * scales - source).max() <= scales.max() / 2 * 1.001


def test_files_are_as_small_as_their_precision(minilm_files: Path, tmp_path: Path) -> None:
    sizes = {each: make(minilm_files, tmp_path / each, each).with_name(DATA_FILE).stat().st_size for each in PRECISIONS}
    weights = (minilm_files / WEIGHTS).stat().st_size
    assert sizes["float32"] < weights
    assert sizes["float16"] < 0.51 * weights
    assert sizes["int8"] < 0.27 * weights


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.1.output.dense.weight"] = np.zeros((HIDDEN, 3), dtype=np.float32)
    folder = make_folder(tmp_path / "tiny", tensors=tensors)
    with pytest.raises(ModelFileError, match=r"encoder\.layer\.1\.output\.dense\.weight' has shape \(16, 3\)"):
        make(folder, tmp_path / "made", "float32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_that_are_not_finite_are_named(tmp_path: Path, precision: Precision) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.0.intermediate.dense.weight"][3, 3] = np.nan
    with pytest.raises(ModelFileError, match=r"intermediate\.dense\.weight' holds values that are not finite"):
        make(make_folder(tmp_path / "tiny", tensors=tensors), tmp_path / "made", precision)


def test_values_beyond_float16_are_named(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.0.intermediate.dense.weight"][3, 3] = 1e5
    folder = make_folder(tmp_path / "tiny", tensors=tensors)
    with pytest.raises(ModelFileError, match=r"beyond the range of float16: use the precision float32"):
        make(folder, tmp_path / "made", "float16")


def test_a_row_of_zeros_is_no_division_by_zero(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.0.intermediate.dense.weight"][3] = 0
    tensors["embeddings.word_embeddings.weight"][5] = 0
    with np.errstate(all="raise"):
        model = make(make_folder(tmp_path / "tiny", tensors=tensors), tmp_path / "made", "int8")
    assert np.isfinite(states(model)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_child_stays_within_what_is_reserved_for_it(
    minilm_files: Path, tmp_path: Path, precision: Precision
) -> None:
    """Measured from outside, on the real model of 90 MB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("anonymous memory is measured through /proc")
    seen = [0]
    ended = threading.Event()

    def watch(pid: int) -> None:
        while not ended.is_set():
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            except OSError:
                return
            seen.extend(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))
            time.sleep(0.005)

    watcher: list[threading.Thread] = []

    def on_start(pid: int) -> None:
        watcher.append(threading.Thread(target=watch, args=(pid,)))
        watcher[0].start()

    arguments = ["--source", str(minilm_files), "--target", str(tmp_path), "--precision", precision, "--form", "onnx"]
    lines: list[str] = []
    result = run_child(
        "embank.embed.formats.convert",
        arguments,
        on_line=lines.append,
        environ={"OPENBLAS_NUM_THREADS": "1"},
        timeout_s=120,
        on_start=on_start,
    )
    ended.set()
    watcher[0].join()
    assert result.returncode == 0, result.stderr_tail
    assert len(seen) > 5
    assert max(seen) < _CHILD_BYTES
    assert '"done": true' in lines[-1]


def test_two_things_of_one_name_are_a_mistake() -> None:
    graph = Graph(io.BytesIO(), opset=20)
    graph.constant("one", 1, np.int64)
    with pytest.raises(ValueError, match="two things in the graph are called one"):
        graph.constant("one", 1, np.int64)


def test_a_weight_must_be_as_large_as_its_shape() -> None:
    graph = Graph(io.BytesIO(), opset=20)
    with pytest.raises(ValueError, match="has 8 bytes"):
        graph.weight("short", np.float32, (3,), [np.zeros(2, dtype=np.float32)])
    with pytest.raises(ValueError, match="is float64, not float32"):
        graph.weight("other", np.float32, (3,), [np.zeros(3)])


def test_progress_ends_at_one(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    told: list[float] = []
    with SafetensorsFile(folder / WEIGHTS) as file:
        write_bert(io.BytesIO(), file, read_shape(folder), "float32", on_progress=lambda part, _: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1.0
