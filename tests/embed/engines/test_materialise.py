"""Weights put into torch modules that have none, or wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embed.later import later
from tests.embed.tiny_bert import HIDDEN, POSITIONS, encode_safetensors, make_tensors

from embank.embed.engines.materialise import Report, UnmatchedWeights, check_whole, materialise
from embank.errors import ModelFileError

torch = later("torch", extra="torch")
transformers = later("transformers", extra="torch")


def bert_config(**settings: Any) -> Any:
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.BertConfig(
        **{**sizes, "vocab_size": 40, "max_position_embeddings": POSITIONS, "pad_token_id": 0, **settings}
    )


def meta_bert(**settings: Any) -> Any:
    with torch.device("meta"):
        return transformers.BertModel(bert_config(**settings), add_pooling_layer=False).eval()


def write(folder: Path, tensors: dict[str, Any], name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode_safetensors(tensors))
    return folder / name


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write(tmp_path, make_tensors())


@pytest.fixture
def reference(tmp_path: Path) -> Any:
    """The same model, loaded by the library's own way."""
    folder = tmp_path / "reference"
    write(folder, make_tensors())
    (folder / "config.json").write_text(json.dumps(bert_config().to_dict()))
    return transformers.BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()


def answer(model: Any) -> Any:
    with torch.inference_mode():
        ids = torch.tensor([[2, 5, 7, 3], [2, 9, 3, 0]])
        return model(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state


def shared() -> Any:
    """Two layers with one weight, and a buffer that is in no file."""
    module = torch.nn.Module()
    module.first = torch.nn.Linear(4, 4, bias=False)
    module.second = torch.nn.Linear(4, 4, bias=False)
    module.second.weight = module.first.weight
    module.register_buffer("scale", torch.arange(4.0) + 1, persistent=False)
    module.register_buffer("seen", torch.zeros(4))
    return module


def square(value: float = 1.0) -> Any:
    return np.full((4, 4), value, np.float32)


# --- values ---------------------------------------------------------------------------------------------------------


def test_a_model_on_the_meta_device_gets_its_values(weights: Path, reference: Any) -> None:
    model = meta_bert()
    assert all(tensor.is_meta for tensor in model.parameters())
    report = materialise(model, weights)
    assert isinstance(report, Report)
    assert torch.equal(answer(model), answer(reference))
    expected = reference.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert report.held_bytes == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert set(report.recreated) == {"embeddings.position_ids", "embeddings.token_type_ids"}


@pytest.mark.parametrize("poison", [float("nan"), 1e30, 7.0])
def test_whatever_lay_in_emptied_memory_is_overwritten(weights: Path, reference: Any, poison: float) -> None:
    model = meta_bert().to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(poison if tensor.is_floating_point() else 3)
    materialise(model, weights)
    assert torch.equal(answer(model), answer(reference))
    assert torch.equal(model.embeddings.position_ids, torch.arange(POSITIONS)[None])


def test_emptied_memory_that_nobody_filled_is_caught() -> None:
    model = meta_bert()
    with pytest.raises(ModelFileError, match="meta device"):
        check_whole(model)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(1.0)
        model.encoder.layer[1].output.dense.weight[3, 2] = float("nan")
    with pytest.raises(ModelFileError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        check_whole(model)


def test_a_plain_attribute_without_a_value_is_caught(weights: Path) -> None:
    model = meta_bert()
    model.encoder.table = torch.empty(3, device="meta")
    with pytest.raises(ModelFileError, match=r"encoder\.table has no value"):
        materialise(model, weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_floating_tensors_are_cast_and_others_are_not(weights: Path, reference: Any, dtype: str) -> None:
    model = meta_bert()
    materialise(model, weights, dtype=getattr(torch, dtype))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, reference.state_dict()[name].to(getattr(torch, dtype))), name
    assert model.embeddings.position_ids.dtype == torch.int64


def test_rotary_frequencies_are_computed_anew_and_stay_exact(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=40, max_position_embeddings=64)
    original = transformers.Qwen2Model(config).eval()
    original.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.Qwen2Model(config).eval()
    materialise(model, tmp_path / "model.safetensors", dtype=torch.bfloat16)
    assert model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.rotary_emb.inv_freq, original.rotary_emb.inv_freq)
    model.to(torch.float32)
    materialise(model, tmp_path / "model.safetensors", dtype=torch.float32)
    assert torch.equal(answer(model), answer(original))


def test_the_memory_is_the_modules_own(weights: Path, reference: Any) -> None:
    model = meta_bert()
    materialise(model, weights)
    before = answer(model)
    weights.write_bytes(b"\0" * weights.stat().st_size)  # in place, as under a mapping
    assert torch.equal(answer(model), before)


def test_a_second_time_changes_nothing(weights: Path) -> None:
    model = meta_bert()
    materialise(model, weights)
    before = answer(model)
    materialise(model, weights)
    assert torch.equal(answer(model), before)


# --- shared tensors and buffers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [("first",), ("second",), ("first", "second")])
def test_a_shared_weight_stays_one(tmp_path: Path, stored: tuple[str, ...]) -> None:
    tensors = {f"{name}.weight": square(0.5) for name in stored} | {"seen": np.ones(4, np.float32)}
    with torch.device("meta"):
        module = shared()
    report = materialise(module, write(tmp_path, tensors), rebuild=shared)
    assert module.first.weight is module.second.weight
    assert report.tied == (("first.weight", "second.weight"),)
    assert report.tensors == 3
    assert torch.equal(module.scale, torch.tensor([1.0, 2, 3, 4]))
    assert torch.equal(module.seen, torch.ones(4))


def test_a_shared_weight_with_two_values_is_refused(tmp_path: Path) -> None:
    tensors = {"first.weight": square(1), "second.weight": square(2), "seen": np.ones(4, np.float32)}
    with pytest.raises(UnmatchedWeights, match="two that differ"):
        materialise(shared(), write(tmp_path, tensors))


def test_a_buffer_that_nobody_can_compute_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"first.weight": square(), "seen": np.ones(4, np.float32)})
    with torch.device("meta"):
        module = shared()
    with pytest.raises(ModelFileError, match=r"scale.*rebuild"):
        materialise(module, path)
    real = shared()
    materialise(real, path)
    assert torch.equal(real.scale, torch.tensor([1.0, 2, 3, 4]))


def test_a_persistent_buffer_must_be_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(UnmatchedWeights, match=r"not in the file.*seen"):
        materialise(shared(), write(tmp_path, {"first.weight": square()}))


# --- names ----------------------------------------------------------------------------------------------------------


def test_old_names_a_prefix_and_a_head_are_known(tmp_path: Path, reference: Any) -> None:
    tensors = make_tensors(prefix="bert.", old_names=True)
    tensors["cls.predictions.bias"] = np.zeros(40, np.float32)
    tensors["bert.embeddings.position_ids"] = np.full((1, POSITIONS), 5, np.int64)
    model = meta_bert()
    report = materialise(model, write(tmp_path, tensors))
    assert report.unused == ("cls.predictions.bias",)
    assert torch.equal(answer(model), answer(reference))


def test_a_module_inside_another_is_found(tmp_path: Path, weights: Path, reference: Any) -> None:
    outer = torch.nn.Module()
    outer.model = meta_bert()
    report = materialise(outer, weights)
    assert "model.embeddings.position_ids" in report.recreated
    assert torch.equal(answer(outer.model), answer(reference))


def test_several_files_with_an_index(tmp_path: Path, reference: Any) -> None:
    tensors = make_tensors()
    names = sorted(tensors)
    halves = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for file, part in halves.items():
        write(tmp_path, {name: tensors[name] for name in part}, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in halves.items() for name in part}}))
    model = meta_bert()
    materialise(model, index)
    assert torch.equal(answer(model), answer(reference))
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"b\.safetensors can't be read"):
        materialise(model, index)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {"a": "../x.safetensors"}}', "no json"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ModelFileError, match="index"):
        materialise(meta_bert(), index)


# --- what is wrong --------------------------------------------------------------------------------------------------


def missing(tensors: dict[str, Any]) -> None:
    del tensors["encoder.layer.1.output.dense.weight"]


def unexpected(tensors: dict[str, Any]) -> None:
    tensors["encoder.layer.2.output.dense.weight"] = square()


def misshapen(tensors: dict[str, Any]) -> None:
    tensors["embeddings.word_embeddings.weight"] = np.zeros((41, HIDDEN), np.float32)


def not_finite(tensors: dict[str, Any]) -> None:
    tensors["encoder.layer.0.output.dense.bias"][3] = np.nan


def infinite(tensors: dict[str, Any]) -> None:
    tensors["embeddings.word_embeddings.weight"][5, 5] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, r"not in the file \(encoder\.layer\.1\.output\.dense\.weight\)"),
        (unexpected, r"not of it \(encoder\.layer\.2\.output\.dense\.weight\)"),
        (misshapen, r"another architecture.*\[41, 16\] where \[40, 16\]"),
        (not_finite, r"layer\.0\.output\.dense\.bias.*not finite"),
        (infinite, r"word_embeddings.*not finite"),
    ],
)
def test_wrong_weights_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    tensors = make_tensors()
    change(tensors)
    with pytest.raises(ModelFileError, match=message):
        materialise(meta_bert(), write(tmp_path, tensors))


def test_a_disagreement_leaves_the_module_as_it_was(tmp_path: Path, reference: Any) -> None:
    before = answer(reference)
    tensors = make_tensors(seed=9)
    missing(tensors)
    with pytest.raises(UnmatchedWeights):
        materialise(reference, write(tmp_path / "other", tensors))
    assert torch.equal(answer(reference), before)


def test_what_overflows_a_narrow_type_is_refused(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.0.output.dense.weight"][0, 0] = 1e6
    path = write(tmp_path, tensors)
    materialise(meta_bert(), path, dtype=torch.bfloat16)
    with pytest.raises(ModelFileError, match=r"not finite in torch\.float16"):
        materialise(meta_bert(), path, dtype=torch.float16)


@pytest.mark.parametrize("kept", [0, 7, 300, -1])
def test_a_truncated_file_is_refused(weights: Path, kept: int) -> None:
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        materialise(meta_bert(), weights)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.safetensors can't be read"):
        materialise(meta_bert(), tmp_path / "gone.safetensors")


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    torch.save({"first.weight": torch.ones(4, 4)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="safetensors"):
        materialise(shared(), tmp_path / "pytorch_model.bin")
