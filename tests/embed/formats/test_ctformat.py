"""The model file is byte for byte what CTranslate2's own classes write from the same tensors and the same scales."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.embed.later import later
from tests.embed.tiny_bert import HIDDEN, Tensors, make_folder, make_tensors

from embank.embed.formats.ctformat import bert_variables, quantized_rows, write_model
from embank.embed.formats.folder import BertShape, read_shape
from embank.embed.formats.safetensors import SafetensorsFile
from embank.errors import ModelFileError

if TYPE_CHECKING:
    from embank.embed.formats.ctformat import Precision

# These import torch where it is installed.
common_spec = later("ctranslate2.specs.common_spec")
model_spec = later("ctranslate2.specs.model_spec")
transformer_spec = later("ctranslate2.specs.transformer_spec")

PRECISIONS: list[Precision] = ["int8", "float32"]


def serialised_by_ctranslate2(shape: BertShape, tensors: Tensors, precision: Precision, path: Path) -> bytes:
    """As `BertLoader` builds it from a transformers model, without the pooling layer, and with matrices as `paired`."""
    encoder = transformer_spec.TransformerEncoderSpec(
        shape.layers,
        shape.heads,
        pre_norm=False,
        activation=common_spec.Activation.GELU,
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    spec = transformer_spec.TransformerEncoderModelSpec(encoder, pooling_layer=False)
    encoder.scale_embeddings = False

    linears: list[tuple[Any, Any]] = []

    def set_linear(target: Any, *sources: str) -> None:
        target.weight = np.concatenate([tensors[f"{source}.weight"] for source in sources]).astype(np.float32)
        target.bias = np.concatenate([tensors[f"{source}.bias"] for source in sources]).astype(np.float32)
        linears.append((target, target.weight.copy()))  # quantised where it lies, later

    def set_norm(target: Any, source: str) -> None:
        target.gamma = tensors[f"{source}.weight"].astype(np.float32)
        target.beta = tensors[f"{source}.bias"].astype(np.float32)

    encoder.embeddings[0].weight = tensors["embeddings.word_embeddings.weight"].astype(np.float32)
    encoder.embeddings[1].weight = tensors["embeddings.token_type_embeddings.weight"].astype(np.float32)
    encoder.position_encodings.encodings = tensors["embeddings.position_embeddings.weight"].astype(np.float32)
    set_norm(encoder.layernorm_embedding, "embeddings.LayerNorm")
    for number, layer in enumerate(encoder.layer):
        stem = f"encoder.layer.{number}"
        fused = [f"{stem}.attention.self.{part}" for part in ("query", "key", "value")]
        set_linear(layer.self_attention.linear[0], *fused)
        set_linear(layer.self_attention.linear[1], f"{stem}.attention.output.dense")
        set_norm(layer.self_attention.layer_norm, f"{stem}.attention.output.LayerNorm")
        set_linear(layer.ffn.linear_0, f"{stem}.intermediate.dense")
        set_linear(layer.ffn.linear_1, f"{stem}.output.dense")
        set_norm(layer.ffn.layer_norm, f"{stem}.output.LayerNorm")
    spec.register_vocabulary(["[UNK]"] * shape.vocabulary)
    spec.config.unk_token = "[UNK]"  # noqa: S105
    spec.validate()
    spec.optimize(quantization=precision)
    if precision == "int8":
        for linear, rows in linears:
            if not isinstance(linear.weight, str):  # an alias of another
                linear.weight, linear.weight_scale = map(model_spec.NumpyVariable, paired(rows))
    spec._serialize(str(path))
    return path.read_bytes()


def paired(matrix: Any) -> tuple[Any, Any]:
    """The rule in plain words: each row as large as one byte a number, and 128 for a pair of one sign, allow."""
    rows, scales = [], []
    for row in matrix:
        pairs = row.reshape(-1, 2)
        sums = np.where(pairs > 0, pairs, 0).sum(axis=1), np.where(pairs < 0, -pairs, 0).sum(axis=1)
        most = max(np.abs(row).max(), np.max(sums) * np.float32(127 / 127.5))
        scale = np.float32(127) / max(most, np.float32(127) / np.finfo(np.float32).max)
        rows.append(np.rint(row * scale).astype(np.int8))
        scales.append(scale)
    return np.stack(rows), np.array(scales, dtype=np.float32)


def serialised_by_embank(folder: Path, precision: Precision) -> bytes:
    out = io.BytesIO()
    shape = read_shape(folder)
    with SafetensorsFile(folder / "model.safetensors") as file:
        write_model(out, file, bert_variables(shape, file), precision, on_progress=lambda _fraction, _step: None)
    return out.getvalue()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_random_weights(tmp_path: Path, precision: Precision) -> None:
    tensors = make_tensors()
    folder = make_folder(tmp_path / "model", tensors=tensors)
    expected = serialised_by_ctranslate2(read_shape(folder), tensors, precision, tmp_path / "model.bin")
    assert serialised_by_embank(folder, precision) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_weights_become_aliases(tmp_path: Path, precision: Precision) -> None:
    tensors = make_tensors()
    first, second = "encoder.layer.0.", "encoder.layer.1."
    for name in list(tensors):
        if name.startswith(second) and ("intermediate" in name or "LayerNorm" in name):
            tensors[name] = tensors[name.replace(second, first)].copy()
    # Equal by value though not by bits, and equal only in the first element.
    tensors[first + "attention.output.dense.bias"][:] = 0.0
    tensors[second + "attention.output.dense.bias"][:] = -0.0
    tensors[first + "output.dense.bias"][0] = tensors[second + "output.dense.bias"][0] = 0.25
    folder = make_folder(tmp_path / "model", tensors=tensors)
    expected = serialised_by_ctranslate2(read_shape(folder), tensors, precision, tmp_path / "model.bin")
    found = serialised_by_embank(folder, precision)
    assert b"encoder/layer_1/ffn/linear_0/weight\0" in found[-900:]  # the aliases stand at the end
    assert found == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zero_and_tiny_rows(tmp_path: Path, precision: Precision) -> None:
    tensors = make_tensors()
    tensors["embeddings.word_embeddings.weight"][3] = 0
    tensors["embeddings.word_embeddings.weight"][4] = 1e-42
    tensors["encoder.layer.0.output.dense.weight"][1] *= 1e-30
    folder = make_folder(tmp_path / "model", tensors=tensors)
    expected = serialised_by_ctranslate2(read_shape(folder), tensors, precision, tmp_path / "model.bin")
    assert serialised_by_embank(folder, precision) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_half_precision_sources_are_widened(tmp_path: Path, precision: Precision) -> None:
    tensors = {name: tensor.astype(np.float16) for name, tensor in make_tensors().items()}
    folder = make_folder(tmp_path / "model", tensors=tensors)
    expected = serialised_by_ctranslate2(read_shape(folder), tensors, precision, tmp_path / "model.bin")
    assert serialised_by_embank(folder, precision) == expected


def test_prefix_and_old_names_make_the_same_model(tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "plain")
    prefixed = make_folder(tmp_path / "prefixed", tensors=make_tensors(prefix="bert."))
    old = make_folder(tmp_path / "old", tensors=make_tensors(prefix="bert.", old_names=True))
    expected = serialised_by_embank(plain, "int8")
    assert serialised_by_embank(prefixed, "int8") == expected
    assert serialised_by_embank(old, "int8") == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_minilm_itself(minilm_files: Path, tmp_path: Path, precision: Precision) -> None:
    with SafetensorsFile(minilm_files / "model.safetensors") as file:
        names = [name for name, entry in file.entries.items() if entry.dtype == "F32"]
        tensors = {name: np.array(file.view(name)) for name in names}
    expected = serialised_by_ctranslate2(read_shape(minilm_files), tensors, precision, tmp_path / "model.bin")
    assert serialised_by_embank(minilm_files, precision) == expected


def test_quantised_rows_are_within_half_a_step() -> None:
    rows = np.random.default_rng(1).normal(size=(64, 48)).astype(np.float32)
    quantised, scale = quantized_rows(rows.copy(), multiplied=False)
    assert quantised.dtype == np.int8
    assert np.abs(quantised).max(axis=1).tolist() == [127] * 64
    assert np.abs(quantised / scale[:, None] - rows).max() <= 0.5001 / scale.min()


@pytest.mark.parametrize("columns", [48, 47, 1])
def test_no_pair_of_a_multiplied_row_overflows_sixteen_bits(columns: int) -> None:
    chosen = np.random.default_rng(2)
    rows = chosen.normal(size=(512, columns)).astype(np.float32) ** 3
    rows[0] = 1  # every pair at its worst
    rows[1] = -1
    rows[2] = 0
    quantised, scale = quantized_rows(rows.copy(), multiplied=True)
    assert np.abs(quantised / scale[:, None] - rows).max() <= 0.5001 / scale.min()
    even = quantised[:, ::2].astype(int)
    odd = np.zeros_like(even)
    odd[:, : columns // 2] = quantised[:, 1::2]
    one_sign = np.maximum(np.maximum(even, 0) + np.maximum(odd, 0), np.maximum(-even, 0) + np.maximum(-odd, 0))
    assert one_sign.max() * 255 < 1 << 15
    assert (one_sign[3:].max(axis=1) >= 127 if columns > 1 else np.abs(quantised[3:]).max() == 127).all()


def variables_of(tensors: Tensors, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", tensors=tensors)
    with SafetensorsFile(folder / "model.safetensors") as file:
        write_model(
            io.BytesIO(), file, bert_variables(read_shape(folder), file), "int8", on_progress=lambda _f, _s: None
        )


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    tensors = make_tensors()
    del tensors["encoder.layer.1.output.dense.bias"]
    del tensors["embeddings.LayerNorm.weight"]
    with pytest.raises(ModelFileError, match="lacks tensors") as caught:
        variables_of(tensors, tmp_path)
    assert "encoder.layer.1.output.dense.bias" in str(caught.value)
    assert "embeddings.LayerNorm.weight" in str(caught.value)


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"and \d+ more"):
        variables_of({"unrelated": np.zeros(3, dtype=np.float32)}, tmp_path)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.0.attention.self.key.weight"] = np.zeros((HIDDEN, HIDDEN + 1), dtype=np.float32)
    with pytest.raises(ModelFileError, match=r"key\.weight' has shape \(16, 17\), but config.json asks for \(16, 16\)"):
        variables_of(tensors, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.1.intermediate.dense.weight"][5, 5] = value
    with pytest.raises(ModelFileError, match=r"intermediate\.dense\.weight' holds values that are not finite"):
        variables_of(tensors, tmp_path)
